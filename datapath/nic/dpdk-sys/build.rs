//! Finds the installed DPDK, compiles the shim against its headers and generates the bindings.
//!
//! The headers differ between distributions (22.11 to 25.11), so nothing generated is checked in.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

/// The functions that `src/lib.rs` offers; everything else of DPDK stays out of the bindings.
const FUNCTIONS: &[&str] = &[
    "culvert_.*",
    "rte_dev_name",
    "rte_dev_remove",
    "rte_eal_hotplug_add",
    "rte_eal_init",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_info_get",
    "rte_eth_dev_mac_addr_add",
    "rte_eth_dev_mac_addr_remove",
    "rte_eth_dev_rx_intr_ctl_q_get_fd",
    "rte_eth_dev_rx_intr_disable",
    "rte_eth_dev_rx_intr_enable",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_find_next",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_log_cur_msg_loglevel",
    "rte_mempool_avail_count",
    "rte_mempool_calc_obj_size",
    "rte_pktmbuf_pool_create",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_version",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/shim.c");
    println!("cargo::rerun-if-changed=src/shim.h");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG");

    if let Err(error) = pkg_config::Config::new().atleast_version("22.11").probe("libdpdk") {
        fail(&format!(
            "DPDK 22.11 or later was not found: {error}\n\
             Install its development files: `apt-get install libdpdk-dev pkg-config` on Debian and Ubuntu, \
             `dnf install dpdk-devel` on Fedora; for a build of your own set PKG_CONFIG_PATH to the folder of libdpdk.pc."
        ));
    }
    let flags = compiler_flags();

    let mut shim = cc::Build::new();
    shim.file("src/shim.c").warnings(true).flag("-Wno-unused-parameter").flag("-Wno-deprecated-declarations");
    for flag in &flags {
        shim.flag(flag);
    }
    shim.compile("culvert_dpdk_shim");

    let mut bindings = bindgen::Builder::default()
        .header("src/shim.h")
        .clang_args(&flags)
        .use_core()
        .generate_comments(false)
        .layout_tests(true)
        .derive_default(true)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        // An mbuf's layout differs between releases: it is reached through the CULVERT_MBUF_ offsets only.
        .blocklist_type("rte_mbuf")
        .raw_line("#[repr(C)] #[derive(Debug)] pub struct rte_mbuf { _opaque: [u8; 0] }")
        .opaque_type("rte_mempool|rte_device|rte_mempool_objsz")
        .allowlist_var("CULVERT_.*|RTE_ETH_SPEED_NUM_.*|RTE_LOG_.*|RTE_MAX_ETHPORTS")
        .allowlist_type("culvert_.*|rte_eth_conf|rte_eth_dev_info|rte_eth_stats|rte_ether_addr");
    for function in FUNCTIONS {
        bindings = bindings.allowlist_function(function);
    }
    let out =
        PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("OUT_DIR is not set: run this through cargo")));
    match bindings.generate() {
        Ok(bindings) => {
            if let Err(error) = bindings.write_to_file(out.join("bindings.rs")) {
                fail(&format!("cannot write the bindings to {}: {error}", out.display()));
            }
        }
        Err(error) => fail(&format!(
            "bindgen cannot read DPDK's headers: {error}. Is libclang installed (`apt-get install libclang-dev`)?"
        )),
    }
}

/// What `pkg-config --cflags` says, whole: besides include paths there is `-include rte_config.h` and the
/// instruction set that DPDK was built for, which the pkg-config crate does not hand on.
fn compiler_flags() -> Vec<String> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    match Command::new(&program).args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        Ok(output) => {
            fail(&format!("`pkg-config --cflags libdpdk` failed: {}", String::from_utf8_lossy(&output.stderr)))
        }
        Err(error) => fail(&format!("cannot run {}: {error}. Install pkg-config", program.display())),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1)
}

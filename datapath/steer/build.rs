//! Has clang make the program for the kernel of `src/steer.bpf.c`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/steer.bpf.c");
    println!("cargo::rerun-if-env-changed=CLANG");

    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let object = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("steer.bpf.o");
    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", "src/steer.bpf.c", "-o"]).arg(&object);
    // Where Debian and its like have the headers of the processor's family, which clang does not look for with this target.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let headers = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&headers).exists() {
        command.arg(format!("-I{headers}"));
    }
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(_) => fail("clang cannot compile it: its message is above"),
        Err(error) => fail(&format!("{} cannot be started: {error}", clang.display())),
    }
}

fn fail(problem: &str) -> ! {
    eprintln!(
        "src/steer.bpf.c: {problem}\n\
         Install clang and the headers of libbpf: `apt-get install clang libbpf-dev` on Debian and Ubuntu, `dnf install \
         clang libbpf-devel` on Fedora; another clang can be named by the environment variable CLANG."
    );
    exit(1);
}

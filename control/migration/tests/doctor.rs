//! What is said of migration networks, by what is there.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::process::Command;
use std::thread;

use culvert_migration::address::{INTERFACE, Places};
use culvert_migration::doctor::{self, Verdict};
use culvert_migration::rules::Network;
use nix::sched::{CloneFlags, unshare};

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

#[test]
fn virt_handlers_network_is_looked_for_where_it_runs() {
    let proc = tempfile::tempdir().unwrap();
    assert_eq!(doctor::virt_handler(proc.path()), None);
    for (process, name) in [("1", "init\n"), ("4711", "virt-handler\n"), ("self", "virt-handler\n")] {
        fs::create_dir_all(proc.path().join(process).join("ns")).unwrap();
        fs::write(proc.path().join(process).join("comm"), name).unwrap();
    }
    let finding = || doctor::virt_handler(proc.path()).unwrap();
    assert!(finding().verdict == Verdict::Wrong && finding().message.contains("cannot be looked into"));

    // A namespace of its own, by a thread that is in it.
    let path = proc.path().to_owned();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let own = fs::canonicalize("/proc/thread-self").unwrap().join("ns/net");
        std::os::unix::fs::symlink(own, path.join("4711/ns/net")).unwrap();
        let finding = || doctor::virt_handler(&path).unwrap();
        assert_eq!(finding().verdict, Verdict::Absent);
        assert!(finding().remedy.contains("spec.configuration.migrations.network"));
        ip(&format!("link add {INTERFACE} type veth peer name other"));
        assert_eq!(finding().verdict, Verdict::Wrong);
        ip(&format!("addr add 172.21.42.7/24 dev {INTERFACE}"));
        assert_eq!(finding().verdict, Verdict::Good);
        assert_eq!(finding().message, "virt-handler has migration0: migrations take 172.21.42.7");
    })
    .join()
    .unwrap();
}

#[test]
fn the_proxys_networks_are_told_of() {
    let places = Places {
        interface: "culvert-none".to_owned(),
        network_status: None,
        otherwise: Some("203.0.113.9".parse().unwrap()),
    };
    let finding =
        |places| doctor::network(&Network { name: "fast".to_owned(), migrations: vec![], places, rate: None });
    let found = finding(places.clone());
    assert_eq!(found.verdict, Verdict::Absent);
    assert_eq!(
        found.message,
        "migration network fast: there is no interface culvert-none, migrations take 203.0.113.9"
    );
    let found = finding(Places { otherwise: None, ..places.clone() });
    assert_eq!(found.verdict, Verdict::Wrong);
    assert_eq!(found.message, "migration network fast: there is no interface culvert-none on this host");
    assert_eq!(found.remedy, "make it, or write the host's own address as address");
    let found = finding(Places { interface: "lo".to_owned(), ..places });
    assert!(found.verdict == Verdict::Wrong && found.remedy == "give it one", "{found:?}");
}

//! A real guest of several queue pairs behind a translator: TCP on all of them at once, both ways.

use std::fs;

use anyhow::{Result, ensure};
use culvert_system::console::Console;
use culvert_system::place::Place;
use culvert_system::qemu::{GuestOptions, Transport};
use culvert_system::rows::Rows;
use culvert_system::translator::{POD, Pod, WORLD, configure, run_in};

const PAIRS: u16 = 3;

#[test]
fn all_queue_pairs_carry_at_once() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let place = Place { namespace: Some(pod.world().name().to_owned()), ..Place::default() };
    let _server = Console::start_in(&place, "iperf3", "iperf3", &["-s"])?;
    let mut translator =
        pod.translator("vm", Transport::VhostUser, &format!("--queue-pairs {PAIRS} -t 5201 -u 5201"))?;
    let mut guest = GuestOptions { tools: true, queues: PAIRS, ..translator.guest("vm", 1) }.boot()?;
    guest.wait_booted()?;
    println!();
    configure(&mut guest)?;
    let ready = "until busybox netstat -ltn | grep -q :5201; do sleep 0.1; done";
    for (flags, address) in [("-P 6", WORLD[0]), ("-P 6 -R", WORLD[0]), ("-P 6", WORLD[1]), ("-P 6 -R", WORLD[1])] {
        rows.row(&format!("iperf3 {flags}, guest to {address}"), || {
            run_in(pod.world(), ready)?;
            let rate = guest.iperf(address, &format!("-t 2 {flags}"))?;
            ensure!(rate > 0.0, "nothing came; {}", translator.told());
            Ok(())
        });
    }
    guest.serve_iperf()?;
    for flags in ["-P 6", "-P 6 -R"] {
        rows.row(&format!("iperf3 {flags}, world to guest"), || {
            guest.check(ready)?;
            run_in(pod.world(), &format!("iperf3 -t 2 --connect-timeout 5000 -c {} {flags}", POD[0])).map(drop)
        });
    }
    rows.row("every thread had its part", || every_thread_has_worked(&translator.told(), translator.pid()));
    rows.end()
}

fn every_thread_has_worked(told: &str, pid: u32) -> Result<()> {
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // proc_pid_schedstat(5): time on a processor, in nanoseconds.
        let stat = fs::read_to_string(task?.path().join("schedstat"))?;
        let on_processor: u64 = stat.split_whitespace().next().unwrap_or_default().parse()?;
        ensure!(on_processor > 10_000_000, "a thread worked for {on_processor} ns only; {told}");
        threads += 1;
    }
    ensure!(threads == PAIRS, "{threads} threads; {told}");
    Ok(())
}

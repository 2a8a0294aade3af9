//! The demo behind `ci/demo`: culvertd, two Linux guests and an uplink; then a guest on a translator, and the world. One line for each
//! thing that is seen.
//!
//! `ci/demo` builds the programs and runs this in namespaces of its own, so that nothing remains. The configuration, the log and the
//! captures are kept in the folder that is the only argument. With `--migrate` before it, two nodes are shown instead, and a guest that moves.

mod migrate;
mod translator;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::frame::{self, End};
use culvert_system::pcap;
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::veth::Veth;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (folder, shown) = match arguments.as_slice() {
        [folder] => (folder, Node::new().and_then(|node| show(node, folder))),
        [option, folder] if option.as_os_str() == "--migrate" => (folder, migrate::show(folder)),
        _ => {
            eprintln!("usage: culvert-demo [--migrate] FOLDER; ci/demo runs it");
            return ExitCode::from(64);
        }
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!(
                "FAILED\n\n{error:#}\n\nWhat there is of the configuration, log and captures is in {}.",
                folder.display()
            );
            ExitCode::FAILURE
        }
    }
}

/// Shows it all, and keeps the files whatever happens.
fn show(mut node: Node, folder: &Path) -> Result<()> {
    let (input, output) = (node.path("in.pcap"), node.path("out.pcap"));
    let outside = End::new(99);
    pcap::write(&input, [frame::echo_request(outside, End::new(1), QUESTION)?.as_slice()])?;
    let uplink = format!("net_pcap0,rx_iface=uplink,tx_pcap={}", output.display());
    node.add_nic("uplink", &uplink, "");
    let a = GuestOptions::new("vm-a", &node.add_guest("vm-a", Role::Listen, ""), 1);
    let b = GuestOptions {
        role: Role::Connect,
        ..GuestOptions::new("vm-b", &node.add_guest("vm-b", Role::Connect, ""), 2)
    };

    let _wire = Veth::new("uplink", "outside")?;
    let mut daemon = None;
    let mut demo = Demo { start: Instant::now(), seen: Vec::new() };
    let mut translator_log = String::new();
    let shown = converse(&mut demo, &node, &mut daemon, [&a, &b], outside)
        .and_then(|()| translator::converse(&mut demo, &mut translator_log));
    fs::create_dir_all(folder)?;
    fs::write(folder.join("culvert-translator.log"), &translator_log)?;
    let log = daemon.as_mut().map(|daemon| daemon.console().transcript()).unwrap_or_default();
    fs::write(folder.join("culvertd.log"), &log)?;
    for name in ["culvertd.toml", "in.pcap", "out.pcap"] {
        // The output capture is missing when culvertd did not start.
        let _ = fs::copy(node.path(name), folder.join(name));
    }
    let end = |log: &str| -> String {
        let lines: Vec<&str> = log.lines().rev().take(15).collect();
        lines.iter().rev().map(|line| format!("\n    {line}")).collect()
    };
    let logs = format!("culvertd's log ends:{}\nculvert-translator's:{}", end(&log), end(&translator_log));
    shown.with_context(|| format!("{logs}\n\nthe demo has failed"))?;
    demo.summarise();
    Ok(())
}

/// Starts culvertd and the guests, and makes everybody talk.
fn converse(
    demo: &mut Demo,
    node: &Node,
    daemon: &mut Option<Daemon>,
    guests: [&GuestOptions; 2],
    outside: End,
) -> Result<()> {
    demo.step("start culvertd", || {
        *daemon = Some(node.start()?);
        Ok("it answers culvertctl".to_owned())
    })?;
    let daemon = daemon.as_mut().context("culvertd has not started")?;
    let (mut a, mut b) = (guests[0].boot()?, guests[1].boot()?);
    demo.step("boot two Linux guests", || {
        a.wait_ready()?;
        b.wait_ready()?;
        Ok("vm-a connects to culvertd's socket, culvertd connects to vm-b's".to_owned())
    })?;
    demo.step("vm-a pings vm-b", || {
        a.ping(b.address(), 1)?;
        let answered = a.ping(b.address(), 10)?;
        ensure!(answered == 10, "only {answered} of 10 were answered");
        Ok("10 of 10 answered".to_owned())
    })?;
    b.serve_iperf()?;
    for (name, flags) in [("iperf3 from vm-a to vm-b", ""), ("iperf3 from vm-b to vm-a", "-R")] {
        demo.step(name, || Ok(format!("{:.0} Mbit/s, both guests emulated", a.iperf(b.address(), flags)?)))?;
    }
    demo.step("a captured frame is sent to vm-a", || {
        let [m0, m1, m2, m3, m4, m5] = outside.mac;
        let mac = format!("{m0:02x}:{m1:02x}:{m2:02x}:{m3:02x}:{m4:02x}:{m5:02x}");
        a.check(&format!("ip neigh replace {} lladdr {mac} dev eth0", outside.address))?;
        pcap::send(&node.path("in.pcap"), "outside")?;
        wait_in_output(node, |bytes| frame::is_from(bytes, End::new(1).mac) && frame::contains(bytes, QUESTION))?;
        Ok("an echo request from in.pcap; vm-a's answer is in out.pcap".to_owned())
    })?;
    demo.step("vm-a sends a broadcast", || {
        a.run("arping -c 1 -w 1 -I eth0 10.0.0.77")?;
        wait_in_output(node, |bytes| {
            frame::is_broadcast(bytes)
                && frame::is_from(bytes, End::new(1).mac)
                && frame::contains(bytes, &[10, 0, 0, 77])
        })?;
        Ok("its ARP request is in out.pcap".to_owned())
    })?;
    for command in ["status", "port list", "mac list", "stats", "drops"] {
        println!("\n$ culvertctl {command}\n{}", daemon.ctl(command)?.trim_end());
    }
    println!();
    Ok(())
}

/// What has been shown so far.
struct Demo {
    start: Instant,
    seen: Vec<(String, String)>,
}

impl Demo {
    /// Does one thing and prints its name, how long it took and what was seen.
    fn step(&mut self, name: &str, mut action: impl FnMut() -> Result<String>) -> Result<()> {
        print!("  {name:<36} ");
        std::io::stdout().flush()?;
        let start = Instant::now();
        let seen = action().with_context(|| name.to_owned())?;
        println!("{:6.1} s   {seen}", start.elapsed().as_secs_f64());
        self.seen.push((name.to_owned(), seen));
        Ok(())
    }

    /// Says it all again in short.
    fn summarise(&self) {
        println!("\nSeen in {} s, after the build:", self.start.elapsed().as_secs());
        for (name, seen) in &self.seen {
            println!("  {name:<36} {seen}");
        }
    }
}

/// Waits until such a frame is in the output capture.
fn wait_in_output(node: &Node, wanted: impl Fn(&[u8]) -> bool) -> Result<()> {
    let deadline = Instant::now() + CAPTURE_LIMIT;
    while Instant::now() < deadline {
        if pcap::read(&node.path("out.pcap"))?.iter().any(|frame| wanted(frame)) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("the frame did not come to the output capture within {CAPTURE_LIMIT:?}")
}

/// What the captured echo request asks.
const QUESTION: &[u8] = b"Is anybody under the road?";

const CAPTURE_LIMIT: Duration = Duration::from_secs(10);

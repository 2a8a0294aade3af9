//! The translator as a process: how it starts and ends, what it says, the rights that it has, its log and its memory. passt passes all of it
//! but what is marked.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_system::guest::Guest;
use culvert_system::place::Namespace;
use culvert_system::qemu::Transport;
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Host};
use culvert_system::translator::{Pod, Translator, WORLD, configure};
use culvert_system::wait::wait_until;

#[test]
fn words_and_exit_codes() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    println!();
    // What ends at once, with which status, and what it says.
    let taken = pod.pod().listen("0.0.0.0:10001")?;
    let socket = pod.path("vm.sock");
    for (name, options, succeeds, says) in [
        ("--version", "--version", true, ""),
        ("--help", "--help", true, "--vhost-user"),
        ("--print-capabilities", "--print-capabilities", true, "\"type\": \"net\""),
        ("an unknown option", "-f --no-such-option", false, "no-such-option"),
        ("an option without its value", "-f -t", false, ""),
        ("a port that is none", "-f -t 70000", false, "70000"),
        ("a range the wrong way round", "-f -t 20-10", false, "20-10"),
        ("a forwarded port that is taken", "-f -t 10001", false, "10001"),
        ("an address that is none", "-f -a 192.0.2.300", false, "192.0.2.300"),
        ("an interface that is not there", "-f -i eth7", false, "eth7"),
    ] {
        rows.row(name, || {
            let mut console = pod.launch("translator", &format!("{options} -s {}", socket.display()))?;
            let status = console.wait(LIMIT)?;
            let said = console.wait_for_end(LIMIT)?;
            ensure!(status.success() == succeeds, "it ended with {status} and said:\n{said}");
            ensure!(said.replace(' ', "").contains(&says.replace(' ', "")), "it does not say {says} but:\n{said}");
            Ok(())
        });
    }
    rows.row("all ports but some, of which one is taken", || {
        let translator = pod.translator("vm", Transport::Stream, "-t ~1-10000,~10101-65535")?;
        wait_until("a port is forwarded", || Ok(pod.pod().connect("127.0.0.1:10002").is_ok()))?;
        ensure!(translator.stop()?.success(), "it failed");
        Ok(())
    });
    drop(taken);
    rows.row("it returns from starting when its socket accepts, and leaves a process", || {
        let pid_file = pod.path("pid");
        let options = format!("-s {} -P {}", socket.display(), pid_file.display());
        let mut console = pod.launch("translator", &options)?;
        ensure!(console.wait(LIMIT)?.success(), "it failed; {}", console.last_words());
        std::os::unix::net::UnixStream::connect(&socket).context("its socket does not accept")?;
        let pid = fs::read_to_string(&pid_file)?;
        let ended = || Ok(!Path::new("/proc").join(pid.trim()).exists());
        ensure!(!ended()?, "it does not run as {pid}");
        ensure!(Command::new("kill").arg(pid.trim()).status()?.success(), "there is no process {pid}");
        wait_until("the process ends", ended)
    });
    for transport in [Transport::VhostUser, Transport::Stream] {
        rows.row(&format!("--one-off ends with the guest, over {transport:?}"), || {
            let mut translator = pod.translator("vm", transport, "--one-off")?;
            let mut guest = translator.guest("vm", 1).boot()?;
            guest.wait_booted()?;
            drop(guest);
            let status = translator.console().wait(LIMIT)?;
            ensure!(status.success(), "it ended with {status}; {}", translator.last_words());
            Ok(())
        });
    }
    rows.end()
}

/// As libvirt and KubeVirt run it: a user without any capability, in a network namespace that others have made.
#[test]
fn it_needs_no_rights_and_may_be_killed() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let by = ["setpriv", "--reuid=107", "--regid=107", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];
    let start = |name: &str, transport| pod.translator_by(name, &by, transport, "-t 10001 -u 10001");
    println!();
    for transport in [Transport::VhostUser, Transport::Stream] {
        let mut translator = start("vm", transport)?;
        let mut guest = translator.guest("vm", 1).boot()?;
        guest.wait_booted()?;
        configure(&mut guest).with_context(|| translator.last_words())?;
        rows.row(&format!("without rights, {transport:?}"), || {
            let status = |name: &str| translator.status(name);
            ensure!(status("Uid:")?.split_whitespace().all(|id| id == "107"), "it runs as {}", status("Uid:")?);
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                ensure!(status(set)? == "0000000000000000", "{set} {}", status(set)?);
            }
            ensure!(status("NoNewPrivs:")? == "1" && status("Seccomp:")? == "2", "it is not confined");
            exchange(&pod, &mut guest)
        });
        // The guest is not told, and what it has, addresses and routes, is still right.
        rows.row(&format!("killed and started again, {transport:?}"), || {
            translator.console().kill();
            translator = start("vm", transport)?;
            wait_until("the guest is connected again", || Ok(guest.ping(WORLD[0], 1)? == 1))
                .with_context(|| translator.told())?;
            exchange(&pod, &mut guest)
        });
    }
    rows.end()
}

/// Traffic in both directions.
fn exchange(pod: &Pod, guest: &mut Guest) -> Result<()> {
    let mut outside = Host::new(pod.world());
    traffic::tcp(guest, &mut outside, WORLD[0], 10003, BYTES).context("TCP to the world")?;
    traffic::tcp(&mut outside, guest, "2001:db8:1::15", 10001, BYTES).context("TCP to the guest")?;
    traffic::udp(guest, &mut outside, WORLD[1], 10003, BYTES, 1400).context("UDP to the world")?;
    ensure!(guest.ping(WORLD[1], 2)? == 2, "no echo");
    Ok(())
}

/// A log file with a limit, on a disk and on a tmpfs.
#[test]
fn the_log_rotates() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let shared = tempfile::tempdir_in("/dev/shm")?;
    fs::set_permissions(shared.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let logs = [pod.path("log"), shared.path().join("log")];
    let (mut translators, mut guests) = (Vec::new(), Vec::new());
    println!();
    for (number, transport) in [(0, Transport::VhostUser), (1, Transport::Stream)] {
        let log = &logs[number];
        fs::write(log, "what was there before\n")?;
        let options = format!("--trace -l {} --log-size {LOG_LIMIT} -t 1000{number}", log.display());
        let translator = pod.translator(&format!("vm{number}"), transport, &options)?;
        guests.push(translator.guest("vm", 1).boot()?);
        translators.push(translator);
    }
    for (number, guest) in guests.iter_mut().enumerate() {
        guest.wait_booted()?;
        configure(guest).context("the guest gets no addresses")?;
        log_rows(&mut rows, &pod, &translators[number], &logs[number], number)?;
    }
    rows.end()
}

/// The rows for one log, the file number `number`.
fn log_rows(rows: &mut Rows, pod: &Pod, translator: &Translator, log: &PathBuf, number: usize) -> Result<()> {
    let name = |row: &str| format!("LOG-{row}{}", if number == 0 { "" } else { ", LOG-5 on a tmpfs" });
    let header = || -> Result<String> { Ok(fs::read_to_string(log)?.lines().next().unwrap_or_default().to_owned()) };
    let pid = translator.pid().to_string();
    rows.row(&name("1 the file is written"), || {
        ensure!(fs::metadata(log)?.len() > 100, "{} bytes", fs::metadata(log)?.len());
        Ok(())
    });
    rows.row(&name("2 what was there has gone, a header has the process's number"), || {
        ensure!(!fs::read_to_string(log)?.contains("what was there before"), "it has not gone");
        ensure!(header()?.contains(&pid), "{} is not {pid}", header()?);
        Ok(())
    });
    // The guest refuses each, and each is told.
    let mut largest = 0;
    for _ in 0..CONNECTIONS {
        // Refused at once, or when it was made already.
        let _ = pod.pod().connect(&format!("127.0.0.1:1000{number}"));
        largest = largest.max(fs::metadata(log)?.len());
    }
    rows.row(&name("3 its size stays between half of the limit and the limit"), || {
        let size = fs::metadata(log)?.len();
        ensure!(size >= LOG_LIMIT / 2 && largest <= LOG_LIMIT + LINE, "{size} bytes now, {largest} at most");
        ensure!(header()?.contains(&pid), "the header has gone: {}", header()?);
        Ok(())
    });
    rows.row(&name("4 times never go back"), || {
        let text = fs::read_to_string(log)?;
        // Seconds, or dates and times, which are in order as text.
        let times = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let times: Vec<&str> = times.map(|word| word.trim_end_matches(':')).collect();
        ensure!(times.len() > 100, "{} lines have times", times.len());
        let seconds: Result<Vec<f64>, _> = times.iter().map(|word| word.parse::<f64>()).collect();
        ensure!(seconds.map_or_else(|_| times.is_sorted(), |seconds| seconds.is_sorted()), "they do:\n{text}");
        Ok(())
    });
    Ok(())
}

/// What forwarded ports cost, told, not judged: kernels differ.
#[test]
fn memory_of_forwarded_ports() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    println!();
    // All ports take more descriptors than a process has everywhere.
    for (number, what, options) in [
        (1, "4096 ports, TCP and UDP", "-t 10000-14095 -u 10000-14095"),
        (2, "4096 ports, TCP over IPv4", "-4 -t 10000-14095 -u none"),
        (3, "4096 ports, TCP and UDP over IPv4", "-4 -t 10000-14095 -u 10000-14095"),
        (4, "none", ""),
    ] {
        rows.row(&format!("MEM-{number} {what}"), || {
            let before = kernel_memory()?;
            let translator = pod.translator("vm", Transport::Stream, options)?;
            let open = || listening(pod.pod());
            wait_until("all ports are open", || Ok(open()? == if number < 4 { 4096 } else { 0 }))?;
            let kernel = kernel_memory()?.saturating_sub(before);
            let (descriptors, memory) = (translator.descriptors()?, translator.memory()?);
            println!("\n      {descriptors} descriptors, {memory} KiB, and {kernel} KiB in the kernel");
            ensure!(translator.stop()?.success(), "it failed");
            Ok(())
        });
    }
    rows.end()
}

/// Memory that the kernel cannot take back, in KiB.
fn kernel_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("SUnreclaim:")).context("no SUnreclaim in /proc/meminfo")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// How many TCP sockets listen in a namespace.
fn listening(namespace: &Namespace) -> Result<usize> {
    let read = |name: &str| namespace.run(|| Ok(fs::read_to_string(format!("/proc/thread-self/net/{name}"))?));
    let text = read("tcp")? + &read("tcp6")?;
    // proc_pid_net(5): 0A is LISTEN.
    Ok(text.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")).count())
}

const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of a transfer.
const BYTES: u64 = 512 << 10;

/// The limit of the log in bytes, and connections that are more than enough for it.
const LOG_LIMIT: u64 = 100 << 10;
const CONNECTIONS: usize = 1000;

/// passt looks at the size after it has written a line.
const LINE: u64 = 200;

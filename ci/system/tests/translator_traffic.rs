//! Ordinary programs and hard cases through the translator: curl, ssh, iperf3, dig, traceroute; large files; many connections; ends that are
//! slow, or reset; a far end on a bad wire. passt passes all of it but what is marked. With `CULVERT_FULL=1` at full size: 1 GiB, and 10^6
//! connections.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::console::Console;
use culvert_system::dns;
use culvert_system::guest::Guest;
use culvert_system::paths::guest_file;
use culvert_system::place::Place;
use culvert_system::qemu::{GuestOptions, Transport};
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Endpoint, Host};
use culvert_system::translator::{FAR, Far, POD, Pod, Translator, WORLD, configure, full_size, run_in};

#[test]
fn programs_over_vhost_user() -> Result<()> {
    programs(Transport::VhostUser)
}

#[test]
fn programs_over_the_stream_socket() -> Result<()> {
    programs(Transport::Stream)
}

#[test]
fn many_connections_and_hard_ends_over_vhost_user() -> Result<()> {
    hard_cases(Transport::VhostUser)
}

#[test]
fn many_connections_and_hard_ends_over_the_stream_socket() -> Result<()> {
    hard_cases(Transport::Stream)
}

fn programs(transport: Transport) -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let far = Far::new(&pod, Duration::from_millis(10), 100)?;
    let _servers = servers(&pod)?;
    let options = "-t 80,2222:22,5201,10001 -u 5201";
    let mut translator = pod.translator("vm", transport, options)?;
    let mut guest = GuestOptions { tools: true, ..translator.guest("vm", 1) }.boot()?;
    guest.wait_booted()?;
    println!();
    configure(&mut guest).with_context(|| translator.last_words())?;
    for (kind, address) in [("A", WORLD[0]), ("AAAA", WORLD[1])] {
        for flags in ["", "+tcp"] {
            rows.row(&format!("dig {kind} {flags}"), || {
                let printed = guest.check(&format!("dig +short {flags} www.culvert.test {kind}"))?;
                ensure!(printed.trim() == address, "it printed:\n{printed}");
                Ok(())
            });
        }
    }
    for (version, address) in [(4, POD[0]), (6, "[2001:db8:1::15]")] {
        rows.row(&format!("curl -{version}, guest to world, by name"), || {
            let printed = guest.check(&format!("curl -sS -{version} http://www.culvert.test/hello"))?;
            ensure!(printed == HELLO, "it printed:\n{printed}");
            Ok(())
        });
        rows.row(&format!("curl -{version}, world to guest"), || {
            guest.check("mkdir -p /tmp/www; echo from the guest >/tmp/www/hello; pidof httpd || httpd -h /tmp/www")?;
            let printed = run_in(pod.world(), &format!("curl -sS --max-time 20 http://{address}/hello"))?;
            ensure!(printed == "from the guest\n", "it printed:\n{printed}");
            Ok(())
        });
    }
    rows.row("ssh, guest to world", || {
        let printed = guest.check(&format!("ssh {SSH} root@{} 'echo $((6 * 7)); wc -c' </bin/busybox", WORLD[0]))?;
        let size = fs::metadata(which("busybox")?)?.len();
        ensure!(printed.contains(&format!("42\n{size}\n")), "it printed:\n{printed}");
        Ok(())
    });
    rows.row("ssh, world to guest", || {
        guest.check("mkdir -p /dev/pts; dropbear -s -r /etc/dropbear/ssh-host-key")?;
        let key = guest_file("ssh-key")?;
        let command = format!(
            "ssh {SSH} -i {} -p 2222 root@{} 'echo $((6 * 7)); wc -c' <$(which busybox)",
            key.display(),
            POD[0]
        );
        let printed = run_in(pod.world(), &command)?;
        ensure!(printed.starts_with("42\n"), "it printed:\n{printed}");
        Ok(())
    });
    iperf(&mut rows, &pod, &mut guest)?;
    files(&mut rows, &pod, &mut guest)?;
    far_end(&mut rows, &far, &mut guest);
    let told = translator.told();
    translator.stop()?;
    rows.end().with_context(|| format!("the translator tells:\n{told}"))
}

/// iperf3 in all directions.
fn iperf(rows: &mut Rows, pod: &Pod, guest: &mut Guest) -> Result<()> {
    // The server takes its time between two clients.
    let ready = "until busybox netstat -ltn | grep -q :5201; do sleep 0.1; done";
    // For UDP the server answers from the address that is nearest.
    let targets = [("", WORLD[0]), ("-R", WORLD[0]), ("-P 4", WORLD[0]), ("-6", WORLD[1]), (UDP_LOAD, "2001:db8:1::1")];
    for (flags, address) in targets {
        rows.row(&format!("iperf3 {flags}, guest to world"), || {
            run_in(pod.world(), ready)?;
            let rate = guest.iperf(address, &format!("-t 1 {flags}"))?;
            ensure!(rate > 0.0, "nothing came");
            Ok(())
        });
    }
    guest.serve_iperf()?;
    for (flags, address) in [("", POD[0]), ("-R", POD[0]), ("-R", POD[1]), (UDP_LOAD, POD[0])] {
        rows.row(&format!("iperf3 {flags}, world to guest"), || {
            guest.check(ready)?;
            run_in(pod.world(), &format!("iperf3 -t 1 --connect-timeout 5000 -c {address} {flags}")).map(drop)
        });
    }
    Ok(())
}

/// A file down to the guest, and through it up to the world, compared by their sums.
fn files(rows: &mut Rows, pod: &Pod, guest: &mut Guest) -> Result<()> {
    let megabytes = if full_size() { 1024 } else { 32 };
    let file = pod.path("www/file");
    run_in(pod.world(), &format!("head -c {megabytes}M /dev/urandom >{}", file.display()))?;
    let sum = |path: &str| -> Result<String> {
        Ok(run_in(pod.world(), &format!("sha256sum {path}"))?.split(' ').next().unwrap_or_default().to_owned())
    };
    let whole = sum(&file.display().to_string())?;
    rows.row(&format!("{megabytes} MiB down"), || {
        guest.send(&format!("curl -sS http://{}/file | sha256sum", WORLD[0]))?;
        let (printed, status) = guest.finish_within(file_limit())?;
        ensure!(status == 0 && printed.starts_with(&whole), "it printed:\n{printed}");
        Ok(())
    });
    rows.row(&format!("{megabytes} MiB down and up"), || {
        let copy = pod.path("copy");
        let place = Place { namespace: Some(pod.world().name().to_owned()), ..Place::default() };
        let script = format!("busybox nc -l -p 10004 >{}", copy.display());
        let mut taker = Console::start_in(&place, "nc", "sh", &["-c", &script])?;
        run_in(pod.world(), "until busybox netstat -ltn | grep -q :10004; do sleep 0.1; done")?;
        guest.send(&format!("curl -sS http://{0}/file | nc {0} 10004", WORLD[0]))?;
        let (printed, status) = guest.finish_within(file_limit())?;
        ensure!(status == 0, "it printed:\n{printed}");
        taker.wait(LIMIT)?;
        ensure!(sum(&copy.display().to_string())? == whole, "another file came");
        fs::remove_file(copy)?;
        Ok(())
    });
    Ok(())
}

/// A router away, 20 ms, and one frame in a hundred lost.
fn far_end(rows: &mut Rows, far: &Far, guest: &mut Guest) {
    for (version, hops) in [(4, ["192.0.2.1", FAR[0]]), (6, ["2001:db8:1::1", FAR[1]])] {
        rows.row(&format!("traceroute -{version}"), || {
            let printed = guest.check(&format!("traceroute -n -{version} -q 3 -w 2 -m 5 {}", hops[1]))?;
            let hop = |number: &str, address: &str| {
                printed.lines().any(|line| line.trim_start().starts_with(number) && line.contains(address))
            };
            ensure!(hop("1 ", hops[0]) && hop("2 ", hops[1]), "it printed:\n{printed}");
            Ok(())
        });
    }
    let bytes = if full_size() { 32 << 20 } else { 8 << 20 };
    let mut end = Host::new(far.namespace());
    for (version, address, inside) in [("IPv4", FAR[0], POD[0]), ("IPv6", FAR[1], POD[1])] {
        rows.row(&format!("{bytes} bytes to a far end, {version}"), || {
            traffic::tcp(guest, &mut end, address, 10003, bytes).map(drop)
        });
        rows.row(&format!("{bytes} bytes from a far end, {version}"), || {
            traffic::tcp(&mut end, guest, inside, 10001, bytes).map(drop)
        });
    }
    rows.same("the wire has lost frames", far.wire().lost() > 0, true);
}

fn hard_cases(transport: Transport) -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let mut translator = pod.translator("vm", transport, "-t 10001-10002")?;
    let mut guest = translator.guest("vm", 1).boot()?;
    guest.wait_booted()?;
    println!();
    configure(&mut guest).with_context(|| translator.last_words())?;
    let mut outside = Host::new(pod.world());
    for (slow, pauses) in [("reader", [0, PAUSE]), ("writer", [PAUSE, 0])] {
        rows.row(&format!("a slow {slow}, guest to world"), || {
            traffic::slow_tcp(&mut guest, &mut outside, WORLD[0], 10003, SLOW_BYTES, pauses).map(drop)
        });
        rows.row(&format!("a slow {slow}, world to guest"), || {
            traffic::slow_tcp(&mut outside, &mut guest, POD[0], 10001, SLOW_BYTES, pauses).map(drop)
        });
    }
    refusals(&mut rows, &pod, &mut guest);
    connections(&mut rows, &pod, &mut guest, &translator)?;
    let told = translator.told();
    translator.stop()?;
    rows.end().with_context(|| format!("the translator tells:\n{told}"))
}

/// Peers that refuse, and that reset a connection.
fn refusals(rows: &mut Rows, pod: &Pod, guest: &mut Guest) {
    rows.row("a port in the world where nobody listens", || {
        let (printed, status) = guest.run(&format!("guest-traffic send {} 9 1 2>&1", WORLD[0]))?;
        ensure!(status != 0 && printed.contains("refused"), "status {status}:\n{printed}");
        Ok(())
    });
    rows.row("a port of the guest where nobody listens", || {
        // The translator has it accepted before the guest can be asked; then it must end at once.
        let ended = pod.world().connect(&format!("{}:10002", POD[0])).and_then(|mut stream| {
            stream.set_read_timeout(Some(LIMIT))?;
            Ok(stream.read(&mut [0])?)
        });
        match ended {
            Ok(count) => ensure!(count == 0, "bytes came from nowhere"),
            Err(error) => ensure!(is_reset(&error), "{error:#}"),
        }
        Ok(())
    });
    rows.row("the world resets a connection", || {
        let listener = pod.world().listen(&format!("{}:10005", WORLD[0]))?;
        guest.send(&format!("guest-traffic send {} 10005 100000000 2>&1", WORLD[0]))?;
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut [0; 1000])?;
        // There is more to read: closing is a reset (RFC 2525, 2.17).
        drop(stream);
        let (printed, status) = guest.finish()?;
        ensure!(status != 0 && (printed.contains("reset") || printed.contains("pipe")), "status {status}:\n{printed}");
        Ok(())
    });
    rows.row("the guest resets a connection", || {
        // It is killed with more to read.
        guest.send("guest-traffic receive 10001 10000 & traffic=$!; wait_for_it() { sleep 1; kill -KILL $traffic; }; wait_for_it")?;
        guest.wait_listening()?;
        let mut stream = pod.world().connect(&format!("{}:10001", POD[0]))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let error = loop {
            if let Err(error) = stream.write_all(&[0; 1 << 16]) {
                break anyhow::Error::from(error);
            }
        };
        guest.finish()?;
        ensure!(is_reset(&error), "{error:#}");
        Ok(())
    });
}

fn is_reset(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind;
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionRefused))
}

/// Many connections, one after the other and at the same time; when all have gone, nothing of them is left.
fn connections(rows: &mut Rows, pod: &Pod, guest: &mut Guest, translator: &Translator) -> Result<()> {
    let (short, parallel, last) = if full_size() { (10_000, 1000, 1_000_000) } else { (2000, 1000, 0) };
    let limit = file_limit();
    let mut outside = Host::new(pod.world());
    outside.start("serve 10003")?;
    outside.wait_listening()?;
    guest.check("guest-traffic serve 10001 >/tmp/serve & until grep -q READY /tmp/serve; do sleep 0.1; done")?;
    let many = |rows: &mut Rows, guest: &mut Guest, name: &str, count: u32, at_a_time: u32| {
        rows.row(&format!("{count} {name} connections, guest to world"), || {
            let states = "netstat -tan | awk '{print $6}' | sort | uniq -c";
            // A shell beside it tells of connections that it has to give up.
            let command = format!(
                "guest-traffic connect {} 10003 {count} {at_a_time} & traffic=$!; \
                 {{ sleep {}; {states}; kill $traffic; }} & watch=$!; wait $traffic; status=$?; kill $watch; (exit $status)",
                WORLD[0],
                limit.as_secs()
            );
            guest.send(&command)?;
            let (printed, status) = guest.finish_within(limit + LIMIT)?;
            let inside = run_in(pod.pod(), &format!("busybox {states}"))?;
            ensure!(status == 0, "status {status}; connections in the guest:\n{printed}and in the pod:\n{inside}");
            Ok(())
        });
        rows.row(&format!("{count} {name} connections, world to guest"), || {
            let mut client = Host::new(pod.world());
            client.start(&format!("connect {} 10001 {count} {at_a_time}", POD[1]))?;
            client.finish(limit).map(drop)
        });
    };
    many(rows, guest, "parallel", parallel, parallel);
    // What it keeps for so many flows at the same time is there now.
    let (before, memory) = (settled(translator)?, translator.memory()?);
    many(rows, guest, "short", short, 50);
    if last > 0 {
        many(rows, guest, "further", last, 500);
    }
    rows.row("nothing is left of them", || {
        let after = settled(translator)?;
        let grown = translator.memory()?.saturating_sub(memory);
        println!("\n      {before} descriptors before, {after} after; {memory} KiB before, {grown} KiB more after");
        ensure!(after <= before + READY, "{before} descriptors before, {after} after");
        ensure!(grown < MEMORY_LIMIT, "{memory} KiB before, {grown} KiB more after");
        Ok(())
    });
    Ok(())
}

/// How many descriptors it has when that does not become less any more.
fn settled(translator: &Translator) -> Result<usize> {
    let (mut least, mut since) = (translator.descriptors()?, Instant::now());
    while since.elapsed() < Duration::from_secs(3) {
        thread::sleep(Duration::from_millis(100));
        let now = translator.descriptors()?;
        if now < least {
            (least, since) = (now, Instant::now());
        }
    }
    Ok(least)
}

/// Servers in the world: names, pages, ssh, iperf3.
fn servers(pod: &Pod) -> Result<Vec<Console>> {
    for address in ["198.51.100.1:53", "[2001:db8:2::1]:53"] {
        dns::serve(pod.world(), address)?;
    }
    let pages = pod.path("www");
    fs::create_dir(&pages)?;
    fs::write(pages.join("hello"), HELLO)?;
    let place = Place { namespace: Some(pod.world().name().to_owned()), ..Place::default() };
    let start =
        |name: &str, command: &str| Console::start_in(&place, name, "unshare", &["--mount", "sh", "-c", command]);
    let (key, host_key) = (guest_file("ssh-key.pub")?, guest_file("ssh-host-key")?);
    // The keys of whoever runs this are hidden from the server.
    let ssh = format!(
        "mount -t tmpfs -o mode=700 tmpfs /root && mkdir -m 700 /root/.ssh && cp {} /root/.ssh/authorized_keys && \
         cp {} /root/host-key && exec dropbear -F -E -s -p 22 -r /root/host-key",
        key.display(),
        host_key.display()
    );
    Ok(vec![
        start("httpd", &format!("exec busybox httpd -f -p 80 -h {}", pages.display()))?,
        start("dropbear", &ssh)?,
        start("iperf3", "exec iperf3 -s")?,
    ])
}

fn which(program: &str) -> Result<String> {
    let output = Command::new("which").arg(program).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Datagrams at a rate that emulated guests can take.
const UDP_LOAD: &str = "-u -b 20M -l 1400";

/// What a page says.
const HELLO: &str = "from the world\n";

/// Without asking anybody, with the one key that there is.
const SSH: &str = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";

const LIMIT: Duration = Duration::from_secs(30);

/// The longest that a large file or very many connections may take.
fn file_limit() -> Duration {
    Duration::from_secs(if full_size() { 3600 } else { 60 })
}

/// How slow ends are: milliseconds for each 64 KiB, and bytes in all.
const PAUSE: u32 = 20;
const SLOW_BYTES: u64 = 8 << 20;

/// What may be more after many connections: sockets that are kept ready, and KiB.
const READY: usize = 64;
const MEMORY_LIMIT: u64 = 1024;

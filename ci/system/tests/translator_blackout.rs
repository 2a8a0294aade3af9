//! For how long nothing comes while a guest moves between two pods: culvert-translator and passt in turn, with the same guest, the same
//! streams, and passt-repair beside both. It is a measurement, for docs/PERFORMANCE.md, on two cores that have nothing else to do:
//!
//! ```text
//! ci/peers
//! cargo test --config "target.'cfg(unix)'.runner = '$PWD/ci/isolated'" --release --workspace --test translator_blackout -- --ignored --nocapture
//! ```
//!
//! `CULVERT_ROUNDS` says how often each has its turn, 3 times otherwise.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::moving::MovingGuest;
use culvert_system::paths::{peer, program};
use culvert_system::pod_lab::{Help, PodLab};
use culvert_system::traffic::{Endpoint, Host};
use culvert_system::translator::{POD, WORLD};

/// Connections that do nothing meanwhile.
const IDLE: [usize; 3] = [1, 100, 1000];

#[test]
#[ignore = "a measurement, beside passt: needs ci/peers, and cores that have nothing else to do"]
fn beside_passt() -> Result<()> {
    let rounds: usize = std::env::var("CULVERT_ROUNDS").map_or(Ok(3), |count| count.parse())?;
    let repair = peer("passt-repair")?;
    let programs = [("culvert", program("culvert-translator")?), ("passt", peer("passt")?)];
    let mut seen: BTreeMap<(usize, &str), Vec<Blackout>> = BTreeMap::new();
    println!();
    for round in 0..rounds {
        // Who is first changes.
        for turn in 0..programs.len() {
            let (name, program) = &programs[(turn + round) % programs.len()];
            let blackouts = journeys(program, &repair).with_context(|| (*name).to_owned())?;
            for (idle, blackout) in blackouts {
                println!("  {name:8} {idle:5} idle: {blackout:?}");
                seen.entry((idle, name)).or_default().push(blackout);
            }
        }
    }
    println!("  medians, in ms, of {} journeys each:", 2 * rounds);
    println!("  | idle connections | | stands still | no answer | no upload | connections that live |");
    for ((idle, name), blackouts) in seen {
        let median = |value: fn(&Blackout) -> Option<Duration>| {
            let mut values: Vec<Duration> = blackouts.iter().filter_map(value).collect();
            values.sort_unstable();
            values.get(values.len() / 2).map_or("-".to_owned(), |value| value.as_millis().to_string())
        };
        let alive: usize = blackouts.iter().map(|blackout| blackout.alive).sum();
        println!(
            "  | {idle} | {name} | {} | {} | {} | {alive} of {} |",
            median(|blackout| Some(blackout.still)),
            median(|blackout| blackout.echo),
            median(|blackout| blackout.upload),
            blackouts.len() * (idle + 2)
        );
    }
    Ok(())
}

/// What was seen of one journey.
#[derive(Clone, Copy, Debug)]
struct Blackout {
    /// For how long QEMU let the guest stand still.
    still: Duration,
    /// The longest time without an answer on a connection to the guest, if it lives.
    echo: Option<Duration>,
    /// The longest time without a byte on a connection from the guest, if it lives.
    upload: Option<Duration>,
    /// Connections that go on.
    alive: usize,
}

/// One guest, there and back, with each number of idle connections.
fn journeys(program: &Path, repair: &Path) -> Result<Vec<(usize, Blackout)>> {
    let mut lab = PodLab::new()?;
    for at in 0..2 {
        lab.pod(at)?.set_program(program.to_owned());
    }
    lab.translate(0, OPTIONS)?;
    let mut vm = lab.boot()?;
    let mut seen = Vec::new();
    for idle in IDLE {
        for _ in 0..2 {
            // passt has one guest in its life, and passt-repair one journey, as in KubeVirt.
            lab.translate(1 - vm.at(), OPTIONS)?;
            for at in 0..2 {
                lab.help(at, Some(Help::PasstRepair(repair.to_owned())))?;
            }
            seen.push((idle, journey(&mut lab, &mut vm, idle)?));
        }
    }
    Ok(seen)
}

fn journey(lab: &mut PodLab, vm: &mut MovingGuest, idle: usize) -> Result<Blackout> {
    let world = lab.world();
    let mut server = Host::new(world);
    server.start("serve 6000")?;
    server.wait_listening()?;
    let guest = &mut vm.guest;
    guest.check(&format!("guest-traffic connect {} 6000 {idle} {idle} wait >/tmp/many 2>&1 & many=$!", WORLD[0]))?;
    guest.check("until grep -q READY /tmp/many; do sleep 0.1; done")?;
    guest.check(&format!(
        "nc -l -p {PORT} -e cat & echo=$!; until netstat -ltn | grep -q :{PORT}; do sleep 0.1; done"
    ))?;
    let echo = Echo::start(world.connect(&format!("{}:{PORT}", POD[0]))?)?;
    let listener = world.listen(&format!("{}:6001", WORLD[0]))?;
    guest.check(&format!("guest-traffic exchange {} 6001 0 1 >/tmp/up 2>&1 & up=$!", WORLD[0]))?;
    let upload = Gap::start(listener.accept()?.0)?;
    thread::sleep(GOING_ON);

    let journey = lab.move_over(vm)?;
    thread::sleep(GOING_ON);
    let guest = &mut vm.guest;
    let echo = echo.end()?;
    // Those that do not live may not come to an end.
    guest.run("{ sleep 8; kill -KILL $up $echo $many; } >/dev/null 2>&1 & watch=$!")?;
    guest.run("kill -TERM $up; wait $up; kill $echo; wait $echo")?;
    let upload = upload.end()?;
    let (_, answers) = guest.run("kill -TERM $many; wait $many; code=$?; kill $watch; (exit $code)")?;
    let idle_alive = if answers == 0 { idle } else { 0 };
    Ok(Blackout {
        still: journey.standstill(),
        echo,
        upload,
        alive: idle_alive + usize::from(echo.is_some()) + usize::from(upload.is_some()),
    })
}

/// Takes all that comes, and looks how long nothing came.
struct Gap(JoinHandle<Option<Duration>>);

impl Gap {
    fn start(mut stream: TcpStream) -> Result<Self> {
        // Where nothing comes for ever.
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self(thread::spawn(move || {
            let (mut last, mut longest, mut bytes) = (Instant::now(), Duration::ZERO, vec![0; 1 << 16]);
            loop {
                match stream.read(&mut bytes) {
                    Ok(0) => return Some(longest),
                    Ok(_) => {
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                    Err(_) => return None,
                }
            }
        })))
    }

    /// `None`: the connection was over before.
    fn end(self) -> Result<Option<Duration>> {
        self.0.join().ok().context("a thread panicked")
    }
}

/// Sends a byte each millisecond to who sends it back.
struct Echo(TcpStream, Gap, JoinHandle<bool>);

impl Echo {
    fn start(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let (mut sender, receiver) = (stream.try_clone()?, stream.try_clone()?);
        let sending = thread::spawn(move || {
            loop {
                match sender.write(&[1]) {
                    Ok(_) => thread::sleep(Duration::from_millis(1)),
                    // We have ended it.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return true,
                    Err(_) => return false,
                }
            }
        });
        Ok(Self(stream, Gap::start(receiver)?, sending))
    }

    fn end(self) -> Result<Option<Duration>> {
        let Self(stream, gap, sending) = self;
        // It fails where the connection is over.
        let _ = stream.shutdown(Shutdown::Write);
        ensure!(sending.join().is_ok(), "a thread panicked");
        gap.end()
    }
}

const OPTIONS: &str = "-t 7200";
const PORT: u16 = 7200;
const GOING_ON: Duration = Duration::from_secs(2);

//! Two pairs of guests that send as fast as they can, and what those who look on take of it: the rate while somebody captures or measures a port of the
//! first pair, or reads all metrics each second, against the rate without, in the same switch, by turns.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::paths::program;

use crate::load::{Frames, LoadGuest, drive};
use crate::options::Options;
use crate::pair::{MILLIONS, under_load};
use crate::peer::{Peer, Setup, Switch};
use crate::scenario::{Case, Figure};

/// Who looks on.
#[derive(Clone, Copy)]
enum Onlooker {
    /// `culvertctl` with this command.
    Command(&'static [&'static str]),
    /// Who reads all metrics each second.
    Scraper,
}

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |name: &str, onlooker: Onlooker| {
        let options = options.clone();
        Case::new(name, move |peer| measure(&options, peer, onlooker))
    };
    Ok(vec![
        case("capture", Onlooker::Command(&["capture", "vm-0", "--snaplen", "64", "--write", "/dev/null"])),
        case("latency", Onlooker::Command(&["latency", "vm-0", "--seconds", "3600"])),
        case("metrics", Onlooker::Scraper),
    ])
}

fn measure(options: &Options, peer: Peer, onlooker: Onlooker) -> Result<Vec<Figure>> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let metrics = matches!(onlooker, Onlooker::Scraper).then_some(address);
    let setup = Setup { guests: 4, metrics, ..Setup::pair(options.switch_core(), FRAME_BYTES) };
    under_load(peer, &setup, options.load_core(), |switch| {
        let mut guests = Vec::new();
        for (socket, (from, to)) in switch.sockets.iter().zip([(1, 2), (2, 1), (3, 4), (4, 3)]) {
            guests.push(LoadGuest::connect(socket, options.rings(), Frames::plain(from, to, FRAME_BYTES))?);
        }
        drive(&mut guests, Duration::from_millis(300))?;
        // By turns, so that what others do on the machine meets both.
        let (mut without, mut with) = ([0.0; 2], [0.0; 2]);
        for _ in 0..TURNS {
            let time = options.time() / (2 * TURNS);
            add(&mut without, rates(&mut guests, time)?);
            let looking = Looking::start(switch, onlooker, address)?;
            drive(&mut guests, SETTLE)?;
            add(&mut with, rates(&mut guests, time)?);
            looking.end()?;
            drive(&mut guests, SETTLE)?;
        }
        guests.iter().try_for_each(LoadGuest::check)?;
        let [looked_at, others] = [0, 1].map(|pair: usize| 100.0 * with[pair] / without[pair]);
        Ok(vec![
            Figure::gain("others", MILLIONS, with[1] / f64::from(TURNS)),
            Figure::gain("of the others' rate without", "%", others),
            Figure::gain("of the pair's own rate without", "%", looked_at),
        ])
    })
}

fn add(sum: &mut [f64; 2], rates: [f64; 2]) {
    sum.iter_mut().zip(rates).for_each(|(sum, rate)| *sum += rate);
}

/// Frames that the guests of each pair get, in millions a second.
fn rates(guests: &mut [LoadGuest], time: Duration) -> Result<[f64; 2]> {
    let count = |guests: &[LoadGuest]| -> [u64; 2] {
        let of = |pair: usize| guests.iter().skip(2 * pair).take(2).map(LoadGuest::received).sum();
        [of(0), of(1)]
    };
    let (before, start) = (count(guests), Instant::now());
    drive(guests, time)?;
    let (after, seconds) = (count(guests), start.elapsed().as_secs_f64());
    let rates = [0, 1].map(|pair: usize| (after[pair] - before[pair]) as f64 / seconds / 1e6);
    ensure!(rates.iter().all(|rate| *rate > 0.0), "no frame arrived");
    Ok(rates)
}

/// Somebody who looks on now.
enum Looking {
    Command(Child),
    Scraper(std::sync::mpsc::Sender<()>, thread::JoinHandle<Result<()>>),
}

impl Looking {
    fn start(switch: &Switch, onlooker: Onlooker, address: SocketAddr) -> Result<Self> {
        match onlooker {
            Onlooker::Command(words) => {
                let folder = switch.sockets.first().and_then(|socket| socket.parent()).context("a folder")?;
                let mut command = Command::new("nice");
                command
                    .args(["-n", "19"])
                    .arg(program("culvertctl")?)
                    .arg("--socket")
                    .arg(folder.join("culvertd.sock"));
                let child = command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
                Ok(Self::Command(child))
            }
            Onlooker::Scraper => {
                let (end, ended) = std::sync::mpsc::channel();
                let scraper = thread::spawn(move || {
                    loop {
                        scrape(address)?;
                        if ended.recv_timeout(Duration::from_secs(1)) != Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                        {
                            return Ok(());
                        }
                    }
                });
                Ok(Self::Scraper(end, scraper))
            }
        }
    }

    /// Ends it; it must have looked on until now.
    fn end(self) -> Result<()> {
        match self {
            Self::Command(mut child) => {
                let ended = child.try_wait()?;
                ensure!(ended.is_none(), "culvertctl has ended by itself: {ended:?}");
                child.kill()?;
                child.wait()?;
            }
            Self::Scraper(end, scraper) => {
                drop(end);
                scraper.join().map_err(|_| anyhow::anyhow!("the scraper panicked"))??;
            }
        }
        Ok(())
    }
}

fn scrape(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.contains("\nculvert_up 1\n"), "there are no metrics: {text}");
    Ok(())
}

const FRAME_BYTES: u32 = 64;
/// How often is measured without and with.
const TURNS: u32 = 4;
/// Until who looks on does so, and until nobody does any more.
const SETTLE: Duration = Duration::from_millis(300);

//! All ports of the pod forwarded to the guest (`-t all -u all`): whether a translator starts, how long that takes, and what it holds then.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::place::Namespace;
use culvert_system::qemu::Transport;
use culvert_system::translator::{POD, Pod};
use rustix::process::Resource;

use super::packet::{ACK, SYN, Segment};
use super::running::{pod, resident, slab};
use super::station::{Room, Station};
use crate::options::Options;
use crate::peer::Peer;
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |(name, limit): (&str, Option<u64>)| {
        let options = options.clone();
        // Those that this program may have, which a machine limits as well.
        let limit = limit.or(rustix::process::getrlimit(Resource::Nofile).maximum);
        let limit = limit.map_or("--nofile=unlimited".to_owned(), |limit| format!("--nofile={limit}:{limit}"));
        Case::new(name, move |peer| measure(&options, peer, &limit))
    };
    Ok([("1,024 descriptors", Some(1024)), ("as many descriptors as there may be", None)].map(case).into())
}

fn measure(options: &Options, peer: Peer, limit: &str) -> Result<Vec<Figure>> {
    let pod = pod(options, peer, Some(options.switch_core()))?;
    let mut figures = Vec::new();
    let (plain, _) = start(options, &pod, limit, "")?;
    let (all, figures_of_all) = start(options, &pod, limit, "-t all -u all")?;
    figures.extend(figures_of_all);
    let names = ["start", "resident memory", "the kernel's slabs", "descriptors"];
    let units = ["ms", "KiB", "KiB", ""];
    for ((name, unit), (all, plain)) in names.into_iter().zip(units).zip(all.into_iter().zip(plain)) {
        // The kernel's slabs are all of the machine's: the difference to a start without ports tells.
        let value = if name == "the kernel's slabs" { all - plain } else { all };
        figures.push(Figure::cost(name, unit, value));
    }
    Ok(figures)
}

/// Starts one, and returns what it took, and whether ports lead to the guest.
fn start(options: &Options, pod: &Pod, limit: &str, flags: &str) -> Result<([f64; 4], Vec<Figure>)> {
    let before = slab()?;
    let begin = Instant::now();
    let translator = pod.translator_by("vm", &["prlimit", limit], Transport::VhostUser, flags)?;
    let mut station = Station::connect(translator.socket(), options.ring, Room::FRAMES)?;
    let time = 1e3 * begin.elapsed().as_secs_f64();
    thread::sleep(Duration::from_millis(500));
    let slabs = slab()? - before;
    let taken = [time, resident(translator.pid())?, slabs, translator.descriptors()? as f64];
    if flags.is_empty() {
        return Ok((taken, Vec::new()));
    }
    // So that it knows the guest.
    let hello = Segment { from: 9, to: 9, flags: SYN, window: 512, ..Segment::default() };
    let (header, head, length) = hello.frame(super::packet::Leaves { checksums: false, segments: false });
    station.lay(&header, &head, length);
    station.send()?;
    let open = PORTS.iter().filter(|&&port| leads(&mut station, pod.world(), port).unwrap_or(false)).count();
    ensure!(open > 0, "no port leads to the guest");
    Ok((taken, vec![Figure::gain("of some ports lead to the guest", "%", 100.0 * open as f64 / PORTS.len() as f64)]))
}

/// Whether a connection from the world to a port of the pod comes to the guest.
fn leads(station: &mut Station, world: &Namespace, port: u16) -> Result<bool> {
    let address = format!("{}:{port}", POD[0]).parse()?;
    let connection = world.run(|| {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
        match connect(&socket, &std::net::SocketAddr::V4(address)) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error).context("connect"),
        }
    })?;
    let (mut came, begin) = (false, Instant::now());
    while !came && begin.elapsed() < Duration::from_millis(300) {
        station.take(|frame| {
            came |=
                Segment::parse(frame).is_some_and(|segment| segment.to == port && segment.flags & (SYN | ACK) == SYN);
        })?;
    }
    drop(connection);
    Ok(came)
}

/// Of ports, some.
const PORTS: [u16; 5] = [80, 443, 5432, 12_345, 30_000];

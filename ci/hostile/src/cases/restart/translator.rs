//! A translator is killed with a connection of its guest's: the peer sees the end, the guest is told at its next segment, and new
//! connections work. Whoever started the translator starts it again (culvert-hook, the systemd unit, libvirt); here the case does.

use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::translator::WORLD;

use crate::cases::frames::packets::{Segment, flag};
use crate::field::Field;

/// Killed with an open connection.
pub fn killed(field: &mut Field) -> Result<()> {
    let translators = field.translators()?;
    let mut first = translators.victim("")?;
    let [world, _] = WORLD;
    let listener = first.world().run(|| Ok(TcpListener::bind((world, SERVER))?))?;
    let connection = first.open(GUEST, SERVER)?;
    let (mut peer, _) = listener.accept()?;
    peer.set_read_timeout(Some(LIMIT))?;

    first.translator().console().kill();
    // An end or a reset, as the kernel has it; anything but silence.
    if let Err(error) = peer.read(&mut [0; 16]) {
        ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "the peer is told nothing: {error}");
    }
    drop(first);

    let mut second = translators.victim("")?;
    let start = Instant::now();
    let segment = Segment { payload: b"more", flags: flag::ACK | flag::PSH, ..connection.segment() };
    second.send(&segment.frame())?;
    second.wait_for_segment(GUEST, "a reset of its connection", |segment| segment.flags & flag::RST != 0)?;
    println!("translator killed: the guest's connection is reset {:.1?} after its next segment", start.elapsed());
    second.open(GUEST + 1, SERVER).context("a new connection")?;
    listener.accept()?;
    second.end()
}

const GUEST: u16 = 40_000;
const SERVER: u16 = 7004;
const LIMIT: Duration = Duration::from_secs(10);

//! A port with a rate whose guest takes no notice of it (N17): it floods, its rate is changed under it, and it breaks its ring while it has to
//! wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use serde_json::Value;

use super::switching::{VICTIM, echoes, frame};
use crate::case::Expect;
use crate::field::Field;
use crate::guest::{Guest, TRANSMIT};
use crate::neighbours::ADDRESSES;

/// Frames a second, and how many at once.
const RATE: u64 = 1000;
const BURST: u64 = 64;

/// A guest whose ring is full all the time sends what its rate permits, and no more; what is in the ring when the rate goes is sent.
pub fn a_flood_over_its_rate(field: &mut Field) -> Result<()> {
    let lasting = Duration::from_secs(if field.is_full() { 20 } else { 2 });
    for packed in [false, true] {
        let mut guest = field.connect_victim(Shape { queue_size: 1024, packed, ..Shape::default() }, 0)?;
        echoes(&mut guest)?;
        let victim = field.victim();
        let before = count(field, "rx_frames")?;
        let began = Instant::now();
        field.daemon().ctl(&format!("port set {victim} --rx-frame-rate {RATE} --rx-frame-burst {BURST}"))?;
        // To a neighbour, who hears as much as its rate lets pass; before the rate holds, to nobody.
        let flood = frame(ADDRESSES[0], VICTIM, 0x88b7, &[0; 1400]);
        let mut sent = 0_u64;
        while began.elapsed() < lasting {
            sent += fill(&mut guest, &flood)?;
        }
        let came = count(field, "rx_frames")? - before;
        let most = BURST + 1 + RATE * u64::try_from(began.elapsed().as_millis())? / 1000;
        println!("    {sent} frames were offered, {came} came in, of {most} at most");
        ensure!(came <= most, "{came} frames came in, of {most} at most");
        ensure!(came > BURST, "its ring stands still: {came} frames came in");
        ensure!(count(field, "rx_held")? > 0 && count(field, "rx_dropped")? == 0, "its frames were not held");
        field.daemon().check_counters()?;
        field.neighbours().settle()?;
        field.daemon().ctl(&format!("port set {victim} --rx-frame-rate 10000 --unset rx_frame_burst"))?;
        guest.wait_used(TRANSMIT)?;
        ensure!(count(field, "rx_frames")? - before == sent, "not all of its frames came in");
        field.daemon().ctl(&format!("port set {victim} --unset rx_frame_rate"))?;
        echoes(&mut guest)?;
    }
    Ok(())
}

/// Rates of all kinds come and go while a guest floods, at its port and at the port of one that listens.
pub fn rates_that_change_under_a_flood(field: &mut Field) -> Result<()> {
    let changes = if field.is_full() { 200 } else { 24 };
    let listener = format!("{}-listens", field.victim());
    let socket = field.add_port(&listener, "")?;
    let shape = Shape { queue_size: 1024, ..Shape::default() };
    let (mut guest, mut listens) = (field.connect_victim(shape, 0)?, Guest::connect(&socket, shape, 0)?);
    echoes(&mut guest)?;
    // Flooded, so that there is room for what the neighbours tell each other.
    let floods = [[0xff; 6], [6; 6]].map(|to| frame(to, VICTIM, 0x88b7, &[0; 1400]));
    let rates = [
        "--rx-rate 100mbit --tx-rate 1mbit",
        "--rx-frame-rate 10 --rx-frame-burst 1 --tx-frame-rate 1 --tx-frame-burst 1",
        "--rx-burst 20000 --tx-burst 20000",
        "--unset rx_rate,rx_burst,tx_rate,tx_burst",
        "--rx-frame-rate 1000000 --tx-frame-rate 1000000",
        "--unset rx_frame_rate,rx_frame_burst,tx_frame_rate,tx_frame_burst",
    ];
    let mut sent = 0;
    for (number, rate) in (0..changes).zip(rates.iter().cycle()) {
        for port in [field.victim(), listener.clone()] {
            field.daemon().ctl(&format!("port set {port} {rate}"))?;
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(20) {
            sent += fill(&mut guest, &floods[number % 2])?;
            listens.drain();
            guest.drain();
        }
    }
    // The last change has taken all rates away: what waited comes in, each frame once.
    guest.wait_used(TRANSMIT)?;
    let stats = field.daemon().stats(&listener)?;
    println!("    {sent} frames under {changes} changes; at the listener {stats}");
    field.daemon().check_counters()?;
    ensure!(count(field, "rx_dropped")? == 0, "a guest's frames were dropped for its own rate");
    field.expect_overflows(std::slice::from_ref(&listener));
    field.expect(Expect::Drop { port: listener, reason: "tx-rate", frames: 1 });
    // What comes back to the one that floods.
    field.expect(Expect::Log { port: field.victim(), sentence: "for the reason tx-rate", lines: 0..=1 });
    field.expect_overflow();
    echoes(&mut guest)
}

/// A guest breaks its ring while it has to wait for its rate: its port is quarantined, and its rate can be changed.
pub fn a_ring_that_breaks_while_it_is_held(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(Shape::default(), 0)?;
    echoes(&mut guest)?;
    let victim = field.victim();
    field.daemon().ctl(&format!("port set {victim} --rx-frame-rate 1 --rx-frame-burst 1"))?;
    let flood = frame(ADDRESSES[0], VICTIM, 0x88b7, &[0; 60]);
    fill(&mut guest, &flood)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(field, "rx_held")? == 0 {
        ensure!(Instant::now() < deadline, "its frames are not held");
    }
    guest.interface.transmit.set_available_index(40_000);
    guest.kick(TRANSMIT)?;
    // Whoever waits is looked at again in its time, or because something has changed.
    field.daemon().ctl(&format!("port set {victim} --rx-frame-rate 1000000"))?;
    guest.wait_closed()?;
    for rate in ["--rx-rate 1mbit", "--tx-frame-rate 5", "--unset rx_rate,rx_frame_rate,rx_frame_burst,tx_frame_rate"] {
        field.daemon().ctl(&format!("port set {victim} {rate}"))?;
    }
    field.expect_quarantine("available index 40000");
    Ok(())
}

/// Offers a frame as often as there is room in the ring, and kicks; returns how often.
fn fill(guest: &mut Guest, frame: &[u8]) -> Result<u64> {
    let mut sent = 0;
    while guest.interface.send(frame) {
        sent += 1;
    }
    guest.kick(TRANSMIT)?;
    Ok(sent)
}

/// A counter of the victim's port.
fn count(field: &mut Field, name: &str) -> Result<u64> {
    let victim = field.victim();
    let stats = field.daemon().stats(&victim)?;
    stats.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} in {stats}"))
}

//! Panics and endless loops in workers. culvertd-inject has them in store; a guest's frame chooses the moment.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::frontend::FrontendGuest;
use serde_json::Value;

use crate::case::{Expect, Part};
use crate::field::{Field, NEIGHBOURS, SOON};
use crate::guest::TRANSMIT;

/// A frame that brings a fault about.
pub fn fault(name: &str) -> Vec<u8> {
    let mut frame = [[0xff; 6], [2, 0, 0, 0, 0, 0x99]].concat();
    frame.extend(b"\x88\xb7inject ");
    frame.extend(name.as_bytes());
    frame.resize(60, 0);
    frame
}

/// Starts a culvertd that offers faults in the place of the field's.
pub fn offer_faults(field: &mut Field) -> Result<()> {
    field.exempt(Part::Resources, "another process runs than before the case");
    field.exempt(Part::Process, "another process runs than before the case, and its bug is the case");
    field.node().inject("frames");
    field.restart_with(|_| {})
}

/// Declares that culvertd ends during the case, and starts again.
fn the_process_ends(field: &mut Field) {
    field.exempt(Part::Neighbours, "nobody counts what they lose while there is no process");
    field.exempt(Part::Victim, "there are no neighbours that answer");
    field.exempt(Part::Log, "the end of a process has many lines");
}

/// Declares a line of the log about no port.
pub fn expect_of_daemon(field: &mut Field, sentence: &'static str) {
    field.expect(Expect::Log { port: String::new(), sentence, lines: 1..=1 });
}

/// What culvertd says of itself.
pub fn status(field: &mut Field, key: &str) -> Result<Value> {
    let status = field.daemon().ask("status")?;
    status.get(key).cloned().with_context(|| format!("culvertctl status has no {key}"))
}

/// Waits until something is so.
pub fn wait(what: &str, mut until: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + 2 * SOON;
    while !until()? {
        ensure!(Instant::now() < deadline, "{what}: not within {:?}", 2 * SOON);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(super) fn panic_in_a_turn(field: &mut Field) -> Result<()> {
    one_panic(field, "panic")
}

pub(super) fn panic_holding(field: &mut Field) -> Result<()> {
    one_panic(field, "panic-holding")
}

fn one_panic(field: &mut Field, name: &str) -> Result<()> {
    offer_faults(field)?;
    let pid = field.daemon().pid();
    field.expect_quarantine("mistake in culvertd");
    expect_of_daemon(field, "worker-0 failed at");
    let mut victim = field.connect_victim(Shape::default(), 0)?;
    victim.send(&fault(name))?;
    victim.wait_closed()?;
    victim.wait_used(TRANSMIT).context("its buffer was not given back")?;
    for port in NEIGHBOURS {
        let state = field.daemon().port(port)?;
        ensure!(state.get("state").and_then(Value::as_str) == Some("up"), "{port} is blamed: {state}");
    }
    ensure!(status(field, "bugs")? == 1, "it is not counted as a bug");
    ensure!(field.daemon().pid() == pid, "culvertd has started again");
    Ok(())
}

pub(super) fn panic_of_a_worker(field: &mut Field) -> Result<()> {
    offer_faults(field)?;
    let pid = field.daemon().pid();
    expect_of_daemon(field, "worker-0 failed at");
    expect_of_daemon(field, "has put its queues in order");
    let mut victim = field.connect_victim(Shape::default(), 0)?;
    victim.send(&fault("panic-worker"))?;
    wait("the bug is counted", || Ok(status(field, "bugs")? == 1))?;
    // It is served as before.
    victim.send(&[0xff; 60])?;
    victim.wait_used(TRANSMIT)?;
    ensure!(field.daemon().pid() == pid, "culvertd has started again");
    Ok(())
}

pub(super) fn panic_of_a_worker_twice(field: &mut Field) -> Result<()> {
    offer_faults(field)?;
    let pid = field.daemon().pid();
    the_process_ends(field);
    let mut victim = field.connect_victim(Shape::default(), 0)?;
    victim.send(&fault("panic-worker"))?;
    wait("the bug is counted", || Ok(status(field, "bugs")? == 1))?;
    victim.send(&fault("panic-worker"))?;
    let start = Instant::now();
    wait_for_another(field, pid)?;
    println!("     culvertd serves again {:?} after the second failure", start.elapsed());
    drop(victim);
    frames_pass(field)
}

pub(super) fn worker_without_end(field: &mut Field) -> Result<()> {
    offer_faults(field)?;
    let pid = field.daemon().pid();
    the_process_ends(field);
    let mut victim = field.connect_victim(Shape::default(), 0)?;
    victim.send(&fault("stuck"))?;
    let start = Instant::now();
    wait_for_another(field, pid)?;
    println!("     culvertd serves again {:?} after the worker was stuck", start.elapsed());
    drop(victim);
    frames_pass(field)?;
    // The same process may not come back; neither may it after another end of culvertd.
    for _ in 0..2 {
        let name = field.victim();
        let port = field.daemon().port(&name)?;
        ensure!(port.get("state").and_then(Value::as_str) == Some("quarantined"), "{port}");
        let reason = port.get("reason").and_then(Value::as_str).unwrap_or_default();
        ensure!(reason.contains("comes to no end over this port"), "{port}");
        ensure!(field.connect_victim(Shape::default(), 0).is_err(), "the guest came back");
        let pid = field.daemon().pid();
        field.daemon().crash()?;
        wait_for_another(field, pid)?;
    }
    // A person wishes it to.
    let name = field.victim();
    field.daemon().ctl(&format!("port set {name} --description again"))?;
    wait("the guest may come back", || Ok(field.connect_victim(Shape::default(), 0).is_ok()))
}

/// Waits until another culvertd answers.
fn wait_for_another(field: &mut Field, pid: u32) -> Result<()> {
    wait("another culvertd answers", || {
        let daemon = field.daemon();
        Ok(daemon.pid() != pid && daemon.ask("status").is_ok())
    })
}

/// Two new guests in the place of the neighbours exchange a frame.
fn frames_pass(field: &mut Field) -> Result<()> {
    field.end_neighbours();
    let connect = |port: &str| FrontendGuest::connect(&field.socket(port), Shape::default());
    let [left, right] = NEIGHBOURS.map(connect);
    let (mut left, mut right) = (left?, right?);
    let frame = [[0xff; 6].as_slice(), &[2, 0, 0, 0, 0, 1], &[0x88, 0xb6], &[7; 46]].concat();
    ensure!(left.send(&frame)?, "the ring is full");
    ensure!(right.receive()? == frame, "another frame came");
    Ok(())
}

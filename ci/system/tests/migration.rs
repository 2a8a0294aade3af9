//! A running guest moves between two nodes, and back, while it is pinged, has connections open, and changes its memory.
//!
//! `CULVERT_MIGRATIONS` says how often it moves, 4 times otherwise; `ci/test --full` has it move 50 times.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use culvert_system::activity::Activity;
use culvert_system::lab::{Lab, MIGRATION, PORT, UPLINK};
use culvert_system::moving::{Journey, MovingGuest};
use culvert_system::pings::Answers;
use culvert_system::qemu::Start;
use serde_json::json;

#[test]
fn a_guest_moves_there_and_back() -> Result<()> {
    move_often(Lab::start()?, migrations()?)
}

#[test]
fn its_memory_arrives_whole() -> Result<()> {
    let mut lab = Lab::start()?;
    lab.guest.properties = MANY_BUFFERS.to_owned();
    memory_arrives(lab, migrations()?)
}

#[test]
fn so_does_that_of_packed_rings() -> Result<()> {
    let mut lab = Lab::start()?;
    lab.guest.properties = format!("packed=on,{MANY_BUFFERS}");
    memory_arrives(lab, 2)
}

#[test]
fn so_does_that_of_several_queues() -> Result<()> {
    let mut lab = Lab::start_with(|_, _| "queues = 2")?;
    lab.guest.queues = 2;
    memory_arrives(lab, 2)
}

fn memory_arrives(lab: Lab, count: usize) -> Result<()> {
    let mut vm = lab.boot()?;
    let mut activity = Activity::start(&lab, &mut vm.guest)?;
    let mut journeys = Vec::new();
    for number in 1..=count {
        let (journey, differ) = move_comparing(&lab, &mut vm)?;
        ensure!(differ.is_empty(), "journey {number}: {} pages differ: {differ:x?}", differ.len());
        journeys.push(journey);
    }
    println!("  {count} journeys, no page differs");
    vm.end_source();
    println!("  {}", activity.end(&mut vm.guest, &journeys, 0)?);
    lab.stop()
}

/// What culvertd has written to the guest's memory is not told to QEMU: the tests would see that.
#[test]
fn memory_that_is_missing_is_seen() -> Result<()> {
    let mut lab = Lab::start_with(|_, node| {
        node.inject("no-dirty-log");
        ""
    })?;
    lab.guest.properties = MANY_BUFFERS.to_owned();
    let mut vm = lab.boot()?;
    let mut activity = Activity::start(&lab, &mut vm.guest)?;
    let (journey, differ) = move_comparing(&lab, &mut vm)?;
    println!("  {} pages differ", differ.len());
    ensure!(!differ.is_empty(), "no page differs");
    vm.end_source();
    // The guest mostly sees it as well, if it runs at all: wrong bytes in the connection, frames that have never come. Not always: TCP
    // sends again what came as something else.
    let seen = activity.end(&mut vm.guest, &[journey], 0);
    println!("  the guest: {}", seen.as_ref().err().map_or("all is well".to_owned(), ToString::to_string));
    Ok(())
}

/// Moves the guest, and returns how, and the pages of its memory that were not the same at both nodes while it stood still.
fn move_comparing(lab: &Lab, vm: &mut MovingGuest) -> Result<(Journey, Vec<u64>)> {
    vm.end_source();
    let mut arrival = lab.prepare(1 - vm.at(), Start::ArrivePaused)?;
    let before = vm.pages_that_differ(&arrival)?;
    ensure!(before.len() > 10_000, "the guest is not there yet, and only {} pages differ", before.len());
    // So slowly that much is received into pages that were sent before, and so that little is left to be sent while it stands still: else
    // that might be all of them.
    vm.monitor.run("migrate-set-parameters", json!({ "max-bandwidth": 64 << 20, "downtime-limit": 50 }))?;
    let began = vm.depart(&arrival)?;
    let left = vm.wait_left()?;
    arrival.wait_complete()?;
    let differ = vm.pages_that_differ(&arrival)?;
    arrival.monitor.run("cont", json!({}))?;
    let journey = vm.arrive(arrival, began, &left)?;
    thread::sleep(SETTLING);
    Ok((journey, differ))
}

#[test]
fn its_address_moves_with_it() -> Result<()> {
    // Whether the guest's driver says where it is, or QEMU asks the backend to.
    for announces in ["guest_announce=on", "guest_announce=off"] {
        let mut lab = Lab::start()?;
        lab.guest.properties = announces.to_owned();
        let mut vm = lab.boot()?;
        for _ in 0..2 {
            let (from, to) = (vm.at(), 1 - vm.at());
            ensure!(lab.knows_guest_at(from)?.as_deref() == Some(PORT), "the source does not know it");
            vm.end_source();
            let mut arrival = lab.prepare(to, Start::ArrivePaused)?;
            let began = vm.depart(&arrival)?;
            let left = vm.wait_left()?;
            // It runs nowhere, and the source sends it nothing any more.
            ensure!(lab.knows_guest_at(from)?.is_none(), "the source has not forgotten it\n{}", lab.shown());
            arrival.monitor.run("cont", json!({}))?;
            let journey = vm.arrive(arrival, began, &left)?;
            // The guest says nothing by itself, and nobody asks for it.
            let deadline = Instant::now() + ADDRESS_LIMIT;
            while [lab.knows_guest_at(to)?.as_deref(), lab.knows_guest_at(from)?.as_deref()]
                != [Some(PORT), Some(UPLINK)]
            {
                ensure!(Instant::now() < deadline, "{announces}: it is not known where the guest is\n{}", lab.shown());
                thread::sleep(Duration::from_millis(5));
            }
            println!("  {announces}: known {} ms after it goes on", journey.resumed.elapsed()?.as_millis());
        }
        vm.end_source();
        lab.stop()?;
    }
    Ok(())
}

#[test]
fn a_move_that_is_cancelled_or_fails_is_nothing_to_the_guest() -> Result<()> {
    let mut lab = Lab::start()?;
    let mut vm = lab.boot()?;
    let mut activity = Activity::start(&lab, &mut vm.guest)?;
    // So slow that it takes until it is cancelled.
    let slowly = |vm: &mut MovingGuest| vm.monitor.run("migrate-set-parameters", json!({ "max-bandwidth": 8 << 20 }));
    slowly(&mut vm)?;
    for again in 0..2 {
        let (began, before) = (SystemTime::now(), lab.happened(0)?.len());
        let arrival = lab.prepare(1, Start::Arrive)?;
        vm.depart(&arrival)?;
        vm.wait_until("active")?;
        thread::sleep(SETTLING);
        if again == 0 {
            vm.monitor.run("migrate_cancel", json!({}))?;
            vm.wait_until("cancelled")?;
        } else {
            // The target's QEMU ends.
            drop(arrival);
            let failed = vm.wait_until("failed")?;
            println!("  QEMU tells: {}", failed.get("error-desc").unwrap_or_default());
        }
        thread::sleep(SETTLING);
        let answers = activity.went_on(began).with_context(|| lab.shown())?;
        let Answers { sent, lost, silence } = answers;
        println!("  {lost} of {sent} pings lost, {} ms without an answer", silence.as_millis());
        // The port has noticed no more: its frontend stayed, and frames passed.
        let happened = lab.happened(0)?.split_off(before);
        ensure!(happened == ["migrating", "migration-ended"], "{happened:?}");
    }
    // A node without the port: QEMU there ends, and says why.
    let (began, before) = (SystemTime::now(), lab.happened(0)?.len());
    lab.guest.socket.set_file_name("other.sock");
    lab.guest.reconnect = false;
    let error = lab.prepare(1, Start::Arrive).err().context("QEMU runs without a port")?;
    println!("  without a port: {}", error.to_string().lines().last().unwrap_or_default().trim());
    ensure!(error.to_string().contains("other.sock"), "{error:#}");
    lab.guest.socket.set_file_name(format!("{PORT}.sock"));
    lab.guest.reconnect = true;
    activity.went_on(began).with_context(|| lab.shown())?;
    ensure!(lab.happened(0)?.len() == before, "{:?}", lab.happened(0)?);
    // And then it moves.
    vm.monitor.run("migrate-set-parameters", json!({ "max-bandwidth": 1 << 30 }))?;
    let journey = vm.move_over(&lab)?;
    thread::sleep(SETTLING);
    println!("  {}", activity.check(&journey)?);
    vm.end_source();
    println!("  {}", activity.end(&mut vm.guest, &[journey], 0)?);
    lab.stop()
}

fn move_often(lab: Lab, count: usize) -> Result<()> {
    let mut vm = lab.boot()?;
    let mut activity = Activity::start(&lab, &mut vm.guest)?;
    let mut journeys = Vec::new();
    for number in 1..=count {
        let bytes = [MIGRATION, "eth0"].map(|name| lab.received(1 - vm.at(), name));
        let journey = vm.move_over(&lab)?;
        thread::sleep(SETTLING);
        let seen = activity.check(&journey).with_context(|| format!("journey {number}\n{}", lab.shown()))?;
        println!("  {seen}");
        // It came by the network that is there for it.
        let [migration, pods] = bytes;
        ensure!(lab.received(vm.at(), MIGRATION)? - migration? >= journey.transferred, "it came another way");
        ensure!(lab.received(vm.at(), "eth0")? - pods? < 10_000, "it came by the pods' network");
        journeys.push(journey);
    }
    vm.end_source();
    println!("  {}", activity.end(&mut vm.guest, &journeys, 0).with_context(|| lab.shown())?);
    lab.stop()
}

fn migrations() -> Result<usize> {
    std::env::var("CULVERT_MIGRATIONS").map_or(Ok(4), |count| Ok(count.parse()?))
}

/// Receive buffers lie long in the ring, empty, before they are filled: they are sent meanwhile, and have to be sent again.
const MANY_BUFFERS: &str = "rx_queue_size=1024";

/// How long a guest is watched at the node where it has arrived.
const SETTLING: Duration = Duration::from_secs(1);

/// How long it may take, on a busy machine, until all know where the guest is.
const ADDRESS_LIMIT: Duration = Duration::from_secs(5);

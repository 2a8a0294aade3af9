//! A running guest moves between two pods on two nodes, with all that it has going through culvert-translator: passt's migration tests
//! (named `MIG-n` as its own are counted), and moves that fail. Each byte is checked at both ends.
//!
//! With `--ignored` how long nothing comes while it moves, for culvert-translator and passt in turn: docs/PERFORMANCE.md.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::moving::MovingGuest;
use culvert_system::paths::peer;
use culvert_system::pod_lab::{Help, PodLab};
use culvert_system::qemu::Start;
use culvert_system::rows::Rows;
use culvert_system::streams::{Kind, Streams};
use culvert_system::traffic::{self, Endpoint, Host};
use culvert_system::translator::{POD, Translator, WORLD, is_ours, lease, translator_program};
use culvert_system::wait::wait_until;
use serde_json::{Value, json};

/// passt's twelve, thousand idle connections, UDP flows and forwarded ports, there and back and there again; the guest's memory arrives
/// whole; and each place that it leaves is as if it had never been there.
#[test]
fn all_that_a_guest_has_goes_on() -> Result<()> {
    let start = Instant::now();
    let (mut lab, mut rows) = (PodLab::new()?, Rows::default());
    for at in 0..2 {
        lab.translate(at, OPTIONS)?;
        lab.help(at, Some(Help::Culvertd))?;
    }
    let idle = [lab.translator(0)?.descriptors()?, lab.translator(1)?.descriptors()?];
    let mut vm = lab.boot()?;
    println!("  the guest has booted after {:.1} s", start.elapsed().as_secs_f32());
    // Nobody else in that pod knows of this one.
    lab.translator(0)?.ask(&format!("forward add tcp {ADDED}"))?;
    let result = (|| {
        small_streams(&mut lab, &mut vm, &mut rows)?;
        left_clean(&mut lab, &vm, &mut rows, idle);
        floods(&mut lab, &mut vm, &mut rows)?;
        left_clean(&mut lab, &vm, &mut rows, idle);
        ramps(&mut lab, &mut vm, &mut rows)?;
        left_clean(&mut lab, &vm, &mut rows, idle);
        anyhow::Ok(())
    })();
    result.with_context(|| lab.told())?;
    let told = lab.told();
    lab.stop()?;
    rows.end().with_context(|| told)
}

/// Moves that are cancelled, or fail for one reason after the other, cost the guest nothing; then it moves, by the help of who does as
/// passt-repair does.
#[test]
fn a_move_that_fails_is_nothing_to_the_guest() -> Result<()> {
    let (mut lab, mut rows) = (PodLab::new()?, Rows::default());
    let strict = "--migrate-strict";
    for at in 0..2 {
        lab.translate(at, strict)?;
    }
    let mut vm = lab.boot()?;
    println!();
    let mut streams = Streams::new(GUEST_CALLS);
    streams.start(lab.world(), &mut vm.guest, &WORLD.map(both_ways))?;
    let result = (|| {
        let mut fails = |lab: &mut PodLab, vm: &mut MovingGuest, name: &str, at: usize, told: &[&str]| {
            rows.row(name, || {
                let why = failed(lab, vm)?;
                for words in told {
                    let what = format!("the translator tells of {words:?}, where QEMU tells: {why}");
                    wait_until(&what, || Ok(lab.translator(at)?.console().transcript().contains(words))).with_context(
                        || lab.translator(at).map_or_else(|error| error.to_string(), Translator::last_words),
                    )?;
                }
                go_on(vm)
            });
        };
        fails(&mut lab, &mut vm, "nobody helps here", 0, &["cannot be handed over", "--migrate-strict"]);
        lab.help(0, Some(Help::Test))?;
        fails(&mut lab, &mut vm, "nobody helps there", 1, &["the guest's move fails", "--migrate-strict"]);
        lab.translate(1, &format!("{strict} -M 02:00:00:00:00:77"))?;
        lab.help(1, Some(Help::Test))?;
        fails(&mut lab, &mut vm, "another MAC address there", 1, &["the guest's move fails", "MAC address"]);
        // One flow: 256 descriptors are no flow's.
        lab.translate_by(1, &["prlimit", "--nofile=257"], strict)?;
        lab.help(1, Some(Help::Test))?;
        fails(&mut lab, &mut vm, "no room there", 1, &["the guest's move fails", "--migrate-strict"]);
        // What ci/peers fetches, if it was run: whose state is another one.
        if let (Ok(passt), true) = (peer("passt"), is_ours()) {
            lab.pod(1)?.set_program(passt);
            lab.translate(1, "")?;
            fails(&mut lab, &mut vm, "passt is there", 1, &[]);
            lab.pod(1)?.set_program(translator_program()?);
        }
        lab.translate(1, strict)?;
        lab.help(1, Some(Help::Test))?;
        anyhow::Ok(())
    })();
    result.with_context(|| lab.told())?;
    let empty = lab.translator(1)?.descriptors()?;
    rows.row("cancelled", || {
        for _ in 0..3 {
            vm.monitor.run("migrate-set-parameters", json!({ "max-bandwidth": 8 << 20 }))?;
            let arrival = lab.prepare(1, Start::Arrive)?;
            vm.depart(&arrival)?;
            vm.wait_until("active")?;
            thread::sleep(Duration::from_millis(300));
            vm.monitor.run("migrate_cancel", json!({}))?;
            vm.wait_until("cancelled")?;
        }
        go_on(&mut vm)
    });
    rows.row("the other QEMU ends in the middle", || {
        let arrival = lab.prepare(1, Start::Arrive)?;
        vm.depart(&arrival)?;
        vm.wait_until("active")?;
        drop(arrival);
        vm.wait_until("failed")?;
        go_on(&mut vm)
    });
    vm.monitor.run("migrate-set-parameters", json!({ "max-bandwidth": 1 << 30 }))?;
    rows.row("the other QEMU ends when all has come: three times", || {
        for _ in 0..3 {
            let mut arrival = lab.prepare(1, Start::ArrivePaused)?;
            vm.depart(&arrival)?;
            vm.wait_left()?;
            arrival.wait_complete()?;
            drop(arrival);
            vm.monitor.run("cont", json!({}))?;
            go_on(&mut vm)?;
        }
        Ok(())
    });
    left_clean(&mut lab, &vm, &mut rows, [empty; 2]);
    for name in ["then it moves", "and back"] {
        rows.row(name, || lab.move_over(&mut vm).map(drop));
        rows.row("with both connections", || go_on(&mut vm));
    }
    rows.row("which have brought each byte once", || shown(streams.end(&mut vm.guest)?));
    let told = lab.told();
    lab.stop()?;
    rows.end().with_context(|| told)
}

/// Where the pod has other addresses the guest keeps its own; connections of before are reset at once, also those for which nobody helps,
/// and new ones begin.
#[test]
fn connections_that_cannot_move_are_reset() -> Result<()> {
    let (mut lab, mut rows) = (PodLab::with_addresses(OTHER)?, Rows::default());
    for at in 0..2 {
        lab.translate(at, "-t 7200")?;
        lab.help(at, Some(Help::Culvertd))?;
    }
    let mut vm = lab.boot()?;
    println!();
    for (port, name, counted_at, reason) in
        [(0, "the pod has other addresses", 1, "address"), (100, "nobody helps", 1, "no_helper")]
    {
        let mut streams = Streams::new(GUEST_CALLS + port);
        streams.start(lab.world(), &mut vm.guest, &WORLD.map(both_ways))?;
        go_on(&mut vm)?;
        let (count, counter) = (streams.count() as u64, format!("migration_lost_{reason}"));
        let before = stat(&mut lab, counted_at, &counter)?;
        rows.row(name, || {
            lab.move_over(&mut vm)?;
            let took = streams.reset(&mut vm.guest)?;
            print!("after {} ms ", took.as_millis());
            ensure!(took < Duration::from_secs(5), "only after {took:?}");
            Ok(())
        });
        rows.same(&counter, stat(&mut lab, counted_at, &counter)? - before, count);
        let world = &mut Host::new(lab.world());
        for (family, address) in WORLD.into_iter().enumerate() {
            rows.row(&format!("a new connection to {address}"), || {
                traffic::tcp(&mut vm.guest, world, address, 6000, 1 << 20).map(drop)
            });
            rows.row(&format!("datagrams to {address}"), || {
                traffic::udp(&mut vm.guest, world, address, 6000, 1 << 18, 1000).map(drop)
            });
            let pod = if vm.at() == 0 { POD } else { OTHER }[family];
            rows.row(&format!("port {WORLD_CALLS} leads to the guest at {pod}"), || {
                traffic::tcp(world, &mut vm.guest, pod, WORLD_CALLS, 1 << 20).map(drop)
            });
        }
        let lease = lease(&mut vm.guest, 4)?;
        rows.same("its address, when it asks again", lease.value("ip_address"), POD[0]);
        lab.help(vm.at(), None)?;
    }
    let told = lab.told();
    lab.stop()?;
    rows.end().with_context(|| told)
}

/// MIG-1 to 4: streams of one direction, and of both, half of them closed before; idle connections; UDP both ways; of both families.
fn small_streams(lab: &mut PodLab, vm: &mut MovingGuest, rows: &mut Rows) -> Result<()> {
    let mut server = Host::new(lab.world());
    server.start("serve 6000")?;
    server.wait_listening()?;
    vm.guest.check(&format!("guest-traffic connect {} 6000 {IDLE} {IDLE} wait >/tmp/many 2>&1 & many=$!", WORLD[0]))?;
    vm.guest.check("until grep -q READY /tmp/many; do sleep 0.1; done")?;
    let kinds =
        WORLD.map(both_ways).map(|both| [Kind { world_sends: None, ..both }, Kind { guest_sends: None, ..both }, both]);
    let mut streams = Streams::new(GUEST_CALLS);
    streams.start(lab.world(), &mut vm.guest, kinds.as_flattened())?;
    let mut inward = Streams::new(WORLD_CALLS);
    let kinds = kinds
        .iter()
        .zip(POD)
        .flat_map(|(kinds, address)| kinds.map(|kind| Kind { address, guest_calls: false, ..kind }));
    inward.start(lab.world(), &mut vm.guest, &kinds.collect::<Vec<_>>())?;
    let mut takers = [Host::new(lab.world()), Host::new(lab.world())];
    for (family, taker) in takers.iter_mut().enumerate() {
        let (port, number) = (6001 + family, family);
        taker.start(&format!("receive-udp {port}"))?;
        taker.wait_listening()?;
        let send = format!("guest-traffic send-udp {} {port} 0 1000 20", WORLD[family]);
        vm.guest.check(&format!("{send} >/tmp/u{number} 2>&1 & u{number}=$!"))?;
    }
    let mut sender = Host::new(lab.world());
    vm.guest.check(&format!("guest-traffic receive-udp {UDP_IN} >/tmp/ui 2>&1 & ui=$!"))?;
    vm.guest.check("until grep -q READY /tmp/ui; do sleep 0.1; done")?;
    sender.start(&format!("send-udp {} {UDP_IN} 0 1000 20", POD[0]))?;
    vm.guest.check(&format!("ping -q -i 0.1 {} >/tmp/ping 2>&1 & ping=$!", WORLD[0]))?;
    let connections = IDLE + streams.count() + inward.count();
    moved(lab, vm, rows, "MIG-1 to 4: streams, half of them closed; idle; UDP", connections)?;
    thread::sleep(GOING_ON);
    rows.row("what the guest has begun arrives whole", || shown(streams.end(&mut vm.guest)?));
    rows.row("what came by forwarded ports arrives whole", || shown(inward.end(&mut vm.guest)?));
    rows.row(&format!("{IDLE} idle connections answer"), || {
        let printed = vm.guest.check("kill -TERM $many; wait $many; code=$?; cat /tmp/many; (exit $code)")?;
        ensure!(printed.ends_with(&format!("\n{IDLE}\n")), "it printed {printed}");
        Ok(())
    });
    for (number, taker) in takers.iter_mut().enumerate() {
        rows.row(&format!("the UDP flow to {}", WORLD[number]), || {
            let wait = format!("kill -TERM $u{number}; wait $u{number}; code=$?; cat /tmp/u{number}; (exit $code)");
            let sent = vm.guest.check(&wait)?;
            let came = taker.finish(LIMIT)?;
            ensure!(sent.trim() == came.trim() && sent.trim() != "0", "{came} of {sent} bytes came");
            Ok(())
        });
    }
    rows.row("the UDP flow to the guest", || {
        sender.tell_to_end()?;
        let sent = sender.finish(LIMIT)?;
        let came = vm.guest.check("wait $ui; code=$?; grep -v READY /tmp/ui; (exit $code)")?;
        ensure!(sent.trim() == came.trim() && sent.trim() != "0", "{came} of {sent} bytes came");
        Ok(())
    });
    rows.row("its pings are answered", || {
        let printed = vm.guest.check("kill -INT $ping; wait $ping; tail -n 2 /tmp/ping")?;
        let numbers: Vec<u64> = printed.split(' ').filter_map(|word| word.parse().ok()).collect();
        // Those of the moment in which it left are lost, and the last one is still on its way.
        let most_are_answered = matches!(numbers[..], [pings, answers, ..] if answers + 15 >= pings && answers > 20);
        ensure!(most_are_answered, "ping printed {printed}");
        Ok(())
    });
    let flows = stat(lab, vm.at(), "migration_loaded_echo")?;
    rows.same("flows of echo that came", flows, 1);
    let world = &mut Host::new(lab.world());
    for (family, port) in [(0, WORLD_CALLS), (1, WORLD_CALLS), (0, ADDED), (1, ADDED)] {
        rows.row(&format!("port {port} leads to the guest at {}", POD[family]), || {
            traffic::tcp(world, &mut vm.guest, POD[family], port, 1 << 20).map(drop)
        });
    }
    Ok(())
}

/// MIG-5 to 10: as much as goes, in and out, with 16 connections more, and both ways on others.
fn floods(lab: &mut PodLab, vm: &mut MovingGuest, rows: &mut Rows) -> Result<()> {
    let mut streams = Streams::new(GUEST_CALLS + 100);
    let kinds = WORLD.map(|address| Kind { pause: 0, ..both_ways(address) });
    let out = kinds.map(|kind| Kind { world_sends: None, ..kind });
    let mut all = kinds.map(|kind| Kind { guest_sends: None, ..kind }).to_vec();
    all.extend(out);
    all.extend([out[1]; MANY]);
    all.extend([kinds[1]; MANY / 2]);
    streams.start(lab.world(), &mut vm.guest, &all)?;
    moved(lab, vm, rows, "MIG-5 to 10: as much as goes, on many connections", streams.count())?;
    thread::sleep(GOING_ON);
    rows.row("all of it arrives whole", || shown(streams.end(&mut vm.guest)?));
    Ok(())
}

/// MIG-11 and 12: the length of six million patterns in and out, of both families; and the guest's memory is compared.
fn ramps(lab: &mut PodLab, vm: &mut MovingGuest, rows: &mut Rows) -> Result<()> {
    let mut streams = Streams::new(GUEST_CALLS + 200);
    let kinds = WORLD.map(|address| Kind { pause: 5, ..both_ways(address) });
    let out = kinds.map(|kind| Kind { guest_sends: Some(RAMP), world_sends: None, ..kind });
    let into = kinds.map(|kind| Kind { guest_sends: None, world_sends: Some(RAMP), ..kind });
    streams.start(lab.world(), &mut vm.guest, [out, into].as_flattened())?;
    let before = all_begun(lab, vm, streams.count())?;
    rows.row("P16: no page of the guest's memory differs", || {
        lab.move_over_with(vm, |vm, arrival| {
            let differ = vm.pages_that_differ(arrival)?;
            ensure!(differ.is_empty(), "{} pages differ: {differ:x?}", differ.len());
            Ok(())
        })?;
        Ok(())
    });
    let came = stat(lab, vm.at(), "migration_loaded_tcp")? - before;
    rows.same("connections that came", came, streams.count() as u64);
    thread::sleep(GOING_ON);
    rows.row("MIG-11, 12: ramps in and out arrive whole", || shown(streams.end(&mut vm.guest)?));
    Ok(())
}

/// A connection of the guest's on which both send, slowly.
fn both_ways(address: &'static str) -> Kind {
    Kind { address, guest_calls: true, guest_sends: Some(0), world_sends: Some(0), pause: SLOW }
}

/// The guest moves; so many connections must come with it.
fn moved(lab: &mut PodLab, vm: &mut MovingGuest, rows: &mut Rows, name: &str, connections: usize) -> Result<()> {
    let before = all_begun(lab, vm, connections)?;
    let journey = lab.move_over(vm)?;
    println!("  the guest stood still for {} ms", journey.standstill().as_millis());
    rows.same(name, stat(lab, vm.at(), "migration_loaded_tcp")? - before, connections as u64);
    Ok(())
}

/// Waits until the guest has so many connections, and they do something. Returns how many have come to the other place so far.
fn all_begun(lab: &mut PodLab, vm: &MovingGuest, connections: usize) -> Result<u64> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let flows = stat(lab, vm.at(), "tcp_flows")?;
        if flows == connections as u64 {
            break;
        }
        ensure!(Instant::now() < deadline, "the guest has {flows} connections, and should have {connections}");
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(GOING_ON);
    stat(lab, 1 - vm.at(), "migration_loaded_tcp")
}

/// A move that must fail: why, as QEMU tells.
fn failed(lab: &mut PodLab, vm: &mut MovingGuest) -> Result<String> {
    let arrival = lab.prepare(1, Start::ArrivePaused)?;
    vm.depart(&arrival)?;
    let progress = vm.wait_until("failed")?;
    Ok(progress.get("error-desc").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Much comes to the guest.
fn go_on(vm: &mut MovingGuest) -> Result<()> {
    // What QEMU says of a move that has failed may come before it.
    let mut came = || -> Result<u64> {
        let printed = vm.guest.check("cat /sys/class/net/eth0/statistics/rx_bytes")?;
        Ok(printed.lines().last().unwrap_or_default().parse()?)
    };
    let before = came()?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let bytes = came()?;
        if bytes > before + 1_000_000 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{} bytes came to the guest", bytes - before);
        thread::sleep(Duration::from_millis(50));
    }
}

/// P16: nothing of the guest is left where it was, no port is taken twice.
fn left_clean(lab: &mut PodLab, vm: &MovingGuest, rows: &mut Rows, idle: [usize; 2]) {
    let left = 1 - vm.at();
    rows.row("P16: the place that it has left is clean", || {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let translator = lab.translator(left)?;
            let (flows, descriptors) = (translator.ask("flows")?, translator.descriptors()?);
            // The control socket's clients, and ports that were added, may be among them.
            if flows.trim() == "ok" && descriptors <= idle[left] + 3 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{descriptors} descriptors, {} before; {flows}", idle[left]);
            thread::sleep(Duration::from_millis(50));
        }
    });
}

fn stat(lab: &mut PodLab, at: usize, name: &str) -> Result<u64> {
    let stats = lab.translator(at)?.ask("stats")?;
    let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.with_context(|| format!("no {name} in {stats}"))?.parse().context("a number")
}

fn shown([to_world, to_guest]: [u64; 2]) -> Result<()> {
    print!("{} MB to the world, {} MB to the guest ", to_world / 1_000_000, to_guest / 1_000_000);
    ensure!(to_world > 0 || to_guest > 0, "nothing came");
    Ok(())
}

const OPTIONS: &str = "--migrate-strict -t 7200-7220 -u 7300";
/// Ports of the world, on which connections of the guest begin.
const GUEST_CALLS: u16 = 8000;
/// The guest's ports, which are forwarded.
const WORLD_CALLS: u16 = 7200;
const UDP_IN: u16 = 7300;
/// One that is forwarded later.
const ADDED: u16 = 7400;

/// What the pod at the other place has, where it has others.
const OTHER: [&str; 2] = ["192.0.2.16", "2001:db8:1::16"];

const IDLE: usize = 1000;
const MANY: usize = 16;
/// Bytes of 6,000,000 patterns of 8.
const RAMP: u64 = 48_000_000;

/// Pauses in milliseconds after each 64 KiB, so that an emulated guest has time left.
const SLOW: u32 = 40;

/// How long streams go on before and after a move.
const GOING_ON: Duration = Duration::from_secs(1);

/// The longest that the end of a stream may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

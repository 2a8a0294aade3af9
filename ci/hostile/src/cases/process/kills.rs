//! P2: killed while the journal is written, while a plan takes the place of another, while guests share their memory.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::Node;
use culvert_system::frontend::FrontendGuest;

use crate::client::{Client, guest_port};
use crate::field::Field;

pub(super) fn in_the_middle(field: &mut Field) -> Result<()> {
    let kills: u32 = if field.is_full() { 1000 } else { 50 };
    // A culvertd of its own: the neighbours' must live.
    let node = Node::new()?;
    let control = node.path("culvertd.sock");
    let socket = |number: u32| node.path(&format!("p{number}.sock"));
    let mut kept: BTreeSet<u32> = (0..4).collect();
    let mut daemon = node.start()?;
    for number in &kept {
        Client::connect(&control)?.add_port(&format!("p{number}"), guest_port(&socket(*number)))?;
    }
    let mut unanswered = 0;
    for round in 0..kills {
        // One who changes, one who connects and shares memory again and again, and the killer.
        let end = AtomicBool::new(false);
        let (answered, open) = thread::scope(|scope| -> Result<_> {
            let frontends = scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    // It may be killed at any moment.
                    let _ = FrontendGuest::connect(&socket(0), Shape::default());
                }
            });
            let changes = scope.spawn(|| change(&control, &kept, &socket));
            thread::sleep(Duration::from_micros(u64::from(3000 + round * 7919 % 40_000)));
            daemon.kill();
            end.store(true, Ordering::Relaxed);
            frontends.join().map_err(|_| anyhow::anyhow!("the frontend panicked"))?;
            changes.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
        })?;
        daemon = node.start().with_context(|| format!("after kill {round}"))?;
        let found: BTreeSet<u32> = Client::connect(&control)?
            .ports()?
            .iter()
            .filter_map(|name| name.strip_prefix('p')?.parse().ok())
            .collect();
        // All that was answered, and of what was not yet answered all or nothing.
        let mut after = answered.clone();
        if let Some(number) = open {
            unanswered += 1;
            if !after.remove(&number) {
                after.insert(number);
            }
        }
        ensure!(found == answered || found == after, "kill {round}: {found:?} instead of {answered:?} or {after:?}");
        kept = found;
        // The first port's guest comes back.
        drop(FrontendGuest::connect(&socket(0), Shape::default()).with_context(|| format!("after kill {round}"))?);
    }
    ensure!(unanswered > 0, "no change was under way at any kill");
    daemon.stop()
}

/// Adds and removes ports until culvertd is killed. The ports after the last answer, and the one whose change has none.
fn change(
    control: &std::path::Path,
    kept: &BTreeSet<u32>,
    socket: &impl Fn(u32) -> std::path::PathBuf,
) -> Result<(BTreeSet<u32>, Option<u32>)> {
    let mut ports = kept.clone();
    let mut client = Client::connect(control)?;
    for number in (10..20).cycle() {
        let name = format!("p{number}");
        let answer = if ports.contains(&number) {
            client.remove_port(&name)
        } else {
            client.add_port(&name, guest_port(&socket(number)))
        };
        if answer.is_err() {
            return Ok((ports, Some(number)));
        }
        if !ports.remove(&number) {
            ports.insert(number);
        }
    }
    Ok((ports, None))
}

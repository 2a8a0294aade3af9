//! Frontends that come, go and are killed. V16, V18.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{ANSWER, greeted, passes, quiet};
use crate::case::{Case, case};
use crate::field::Field;
use crate::guest::{Guest, TRANSMIT, region};
use crate::raw_frontend::{RawFrontend, VERSION, memory_table, message, request};

pub const SECOND: Case = case(
    "V16",
    "second-frontends",
    "A second frontend, and fifty more that say nothing, are closed; the first one goes on.",
    second,
);

pub const THOUSAND: Case = case(
    "V16",
    "a-thousand-connections",
    "1,000 connections that are closed at once, and some that say nothing: accepted at a bounded rate, nothing adds up.",
    thousand,
);

pub const KILLED: Case = case(
    "V18",
    "frontends-killed-anywhere",
    "A frontend vanishes inside of a message, of SET_MEM_TABLE and of a burst: the next one, 10 ms later, is served.",
    killed,
);

fn second(field: &mut Field) -> Result<()> {
    field.may_tell("a second frontend");
    let mut guest = field.connect_victim(Default::default(), 0)?;
    for _ in 0..50 {
        RawFrontend::connect(&field.victim_socket())?.wait_closed(ANSWER)?;
    }
    passes(&mut guest)
}

fn thousand(field: &mut Field) -> Result<()> {
    field.may_tell("a second frontend");
    let start = Instant::now();
    for _ in 0..1000 {
        drop(UnixStream::connect(field.victim_socket())?);
    }
    println!("     1,000 connections were taken in {:.1} s", start.elapsed().as_secs_f64());
    // They stay in the socket's queue, or are closed as second ones.
    let silent: Vec<_> = (0..30).map(|_| UnixStream::connect(field.victim_socket())).collect::<Result<_, _>>()?;
    std::thread::sleep(Duration::from_millis(300));
    drop(silent);
    Ok(())
}

fn killed(field: &mut Field) -> Result<()> {
    field.may_tell("connection closed");
    let mut longest = Duration::ZERO;
    for round in 0..24 {
        match round % 6 {
            0 => drop(greeted(field)?.send_bytes(&[1], &[])?),
            1 => {
                let frontend = greeted(field)?;
                let whole = message(request::SET_FEATURES, VERSION, &[0; 8]);
                frontend.send_bytes(whole.get(..15).unwrap_or_default(), &[])?;
            }
            2 => {
                let guest = Guest::connect(&field.victim_socket(), Default::default(), 0)?;
                let table = message(request::SET_MEM_TABLE, VERSION, &memory_table(1, &[region(&guest.interface)]));
                guest.frontend.send_bytes(table.get(..20).unwrap_or_default(), &[guest.interface.ram().file()])?;
            }
            3 => {
                // The table is being mapped, the rings are being changed.
                let guest = Guest::connect(&field.victim_socket(), Default::default(), 0)?;
                let table = memory_table(1, &[region(&guest.interface)]);
                for _ in 0..4 {
                    guest.frontend.send(request::SET_MEM_TABLE, VERSION, &table, &[guest.interface.ram().file()])?;
                }
            }
            _ => {
                let mut guest = Guest::connect(&field.victim_socket(), Default::default(), 0)?;
                let frame = quiet(1400);
                while guest.interface.send(&frame) {}
                guest.kick(TRANSMIT)?;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
        let start = Instant::now();
        let mut next = Guest::connect(&field.victim_socket(), Default::default(), 0)
            .with_context(|| format!("the next frontend in round {round}"))?;
        passes(&mut next)?;
        longest = longest.max(start.elapsed());
        drop(next);
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("     the next frontend's first frame was taken after {} ms at most", longest.as_millis());
    ensure!(!field.is_full() || longest <= Duration::from_secs(1), "{longest:?} until the next frontend is served");
    Ok(())
}

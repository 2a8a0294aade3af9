//! Cases of hostile or faulty vhost-user frontends.
//!
//! - `messages`: bytes that are no message, and messages that are no request; `descriptors`: what is handed over with them;
//! - `regions`: memory tables that cannot be; `setup`: rings and features that cannot be, and requests in any order;
//! - `connections`: frontends that come, go and are killed;
//! - `log`: dirty logs;
//! - `lingering`: descriptors that keep whoever closes them waiting;
//! - `faults`: memory that vanishes under traffic, of `memory_file`s of all kinds, `faults_apart` ring by ring and copy by copy;
//!   `flood`: the traffic.

mod connections;
mod descriptors;
mod faults;
mod faults_apart;
mod flood;
mod lingering;
mod log;
mod memory_file;
mod messages;
mod regions;
mod setup;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Expect};
use crate::field::Field;
use crate::guest::{Guest, TRANSMIT, greet};
use crate::neighbours::{ADDRESSES, ECHO};
use crate::raw_frontend::{RawFrontend, request};

/// The cases of this folder.
pub const CASES: &[Case] = &[
    messages::PIECES,
    messages::STALLED,
    messages::SIZES,
    messages::HEADERS,
    messages::CHANNEL,
    descriptors::COUNTS,
    descriptors::MANY,
    descriptors::VERY_MANY,
    descriptors::NONE,
    descriptors::KINDS,
    lingering::CLOSING,
    lingering::BLOCKING,
    log::BAD,
    log::CHURN,
    log::TAKEN,
    regions::TABLES,
    regions::SAME_FILE,
    regions::IN_USE,
    setup::ADDRESSES,
    setup::NUMBERS,
    setup::ORDER,
    setup::FEATURES,
    setup::INFLIGHT,
    connections::SECOND,
    connections::THOUSAND,
    connections::KILLED,
    faults::TRUNCATED,
    faults::PUNCHED,
    faults::POOL_EMPTY,
    faults::TWO,
    faults::AGAIN,
    faults::HUNDRED,
    faults_apart::RING_PAGES,
    faults_apart::TRANSMIT_PAYLOAD,
    faults_apart::RECEIVE_PAYLOAD,
    faults_apart::REMOVED,
];

/// A frontend that has taken the session, at the case's port.
fn greeted(field: &Field) -> Result<RawFrontend> {
    let frontend = RawFrontend::connect(&field.victim_socket())?;
    greet(&frontend, VERSION_1)?;
    Ok(frontend)
}

/// Waits until the frontend's last message has had its end: an answer, or the end of the connection. `true` when it still stands.
fn settled(frontend: &RawFrontend) -> Result<bool> {
    // Replies to what came before may come first.
    if frontend.send(request::GET_FEATURES, crate::raw_frontend::VERSION, &[], &[]).is_err() {
        return Ok(false);
    }
    loop {
        match frontend.read_reply(ANSWER) {
            Ok(reply) if reply.request == request::GET_FEATURES => return Ok(true),
            Ok(_) => {}
            Err(_) => {
                ensure!(frontend.is_closed(), "the last message had neither an answer nor an end");
                return Ok(false);
            }
        }
    }
}

/// Sends a message that must be refused, by an answer or by the end of the connection. `true` when it was by an answer.
fn refused(
    frontend: &RawFrontend,
    what: &str,
    request: u32,
    body: &[u8],
    descriptors: &[std::os::fd::BorrowedFd<'_>],
) -> Result<bool> {
    match frontend.ask(request, body, descriptors) {
        Ok(answer) => {
            ensure!(answer != 0, "{what}: request {request} succeeded");
            Ok(true)
        }
        Err(_) => {
            frontend.wait_closed(ANSWER).with_context(|| format!("{what}: request {request} had no end"))?;
            Ok(false)
        }
    }
}

/// A frame of so many bytes behind its header that culvertd takes and hands to nobody: it is for a group that bridges keep.
fn quiet(bytes: usize) -> Vec<u8> {
    [[1, 0x80, 0xc2, 0, 0, 0x0e].as_slice(), &[2, 0, 0, 0, 0, 0x77], &OWN, &vec![0; bytes]].concat()
}

/// Sends a frame and waits until it was taken.
fn passes(guest: &mut Guest) -> Result<()> {
    guest.send(&quiet(46))?;
    guest.wait_used(TRANSMIT)
}

/// Has culvertd learn that an address is the guest's.
fn teach(guest: &mut Guest, address: [u8; 6]) -> Result<()> {
    guest.send(&[ADDRESSES[0].as_slice(), &address, &ECHO, &[0; 46]].concat())?;
    guest.wait_used(TRANSMIT)
}

/// Declares that frames may be refused at any port, and which are is told: a flood finds its guest without buffers, or gone.
fn may_refuse(field: &mut Field) {
    field.expect(Expect::Log { port: String::new(), sentence: "frames are refused", lines: 0..=20 });
}

/// The EtherType of frames that are nobody else's.
const OWN: [u8; 2] = [0x88, 0xb7];

/// The longest that culvertd may take for one message.
const ANSWER: Duration = Duration::from_secs(10);

/// Modern virtio (virtio 1.3, section 6).
const VERSION_1: u64 = 1 << 32;

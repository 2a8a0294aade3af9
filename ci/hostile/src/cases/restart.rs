//! Process faults, table (v), rows P1, P3, P4 and P6: culvertd, a translator or a frontend is killed, and what it served comes back.

mod addresses;
pub mod crowd;
pub mod dice;
mod frontends;
pub mod group;
mod kills;
pub mod ledger;
pub mod member;
mod objects;
mod takeover;
mod translator;

use crate::case::{Case, case, long_case};

/// The cases.
pub const CASES: &[Case] = &[
    case(
        "P1",
        "killed-at-work",
        "kill -9 of culvertd under load: every buffer comes back once, nothing is lost, one burst at most comes twice.",
        kills::at_work,
    ),
    case(
        "P1",
        "killed-while-it-starts",
        "kill -9 at any moment of its start, while frontends connect: every buffer comes back once.",
        kills::at_start,
    ),
    long_case(
        "P1",
        "killed-a-thousand-times",
        "kill -9 at 1,000 random moments: every buffer comes back once.",
        kills::a_thousand,
    ),
    case(
        "P1",
        "killed-with-objects-of-clients",
        "kill -9 right after each change of a client: networks, ports, mirrors and pods are as they were told.",
        objects::come_back,
    ),
    case(
        "P1",
        "killed-with-learned-addresses",
        "kill -9 of the daemon, twice in a row as well: frames to known addresses reach their ports alone.",
        addresses::stay_known,
    ),
    case(
        "P3",
        "taken-over-under-load",
        "Another build of culvertd takes over under load: no guest is hung up, no frame is lost, none comes twice.",
        takeover::under_load,
    ),
    case(
        "P4",
        "translator-killed-with-a-connection",
        "kill -9 of a translator with a connection: the peer sees its end, the guest gets a reset, new ones work.",
        translator::killed,
    ),
    case(
        "P6",
        "frontends-killed-and-guests-rebooted",
        "frontends die at any step, guests reboot in loops: the next one works, and nothing of them stays.",
        frontends::few,
    ),
    long_case(
        "P6",
        "frontends-killed-a-thousand-times",
        "a thousand frontends die at any step: the next one works, and nothing of them stays.",
        frontends::many,
    ),
];

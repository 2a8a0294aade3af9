//! Process faults, table (v), rows P1, P4 and P6: culvertd, a translator or a frontend is killed, and what it served comes back.

pub mod crowd;
pub mod dice;
mod frontends;
pub mod group;
mod kills;
pub mod ledger;
pub mod member;
mod objects;
mod translator;

use crate::case::Case;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        row: "P1",
        name: "killed-at-work",
        what: "kill -9 of culvertd under load: every buffer comes back once, nothing is lost, one burst at most comes twice.",
        full: false,
        run: kills::at_work,
    },
    Case {
        row: "P1",
        name: "killed-while-it-starts",
        what: "kill -9 at any moment of its start, while frontends connect: every buffer comes back once.",
        full: true,
        run: kills::at_start,
    },
    Case {
        row: "P1",
        name: "killed-a-thousand-times",
        what: "kill -9 at 1,000 random moments: every buffer comes back once.",
        full: true,
        run: kills::a_thousand,
    },
    Case {
        row: "P1",
        name: "killed-with-objects-of-clients",
        what: "kill -9 right after each change of a client: networks, ports, mirrors and pods are as they were told.",
        full: false,
        run: objects::come_back,
    },
    Case {
        row: "P4",
        name: "translator-killed-with-a-connection",
        what: "kill -9 of a translator with a connection: the peer sees its end, the guest gets a reset, new ones work.",
        full: false,
        run: translator::killed,
    },
    Case {
        row: "P6",
        name: "frontends-killed-and-guests-rebooted",
        what: "frontends die at any step, guests reboot in loops: the next one works, and nothing of them stays.",
        full: false,
        run: frontends::few,
    },
    Case {
        row: "P6",
        name: "frontends-killed-a-thousand-times",
        what: "a thousand frontends die at any step: the next one works, and nothing of them stays.",
        full: true,
        run: frontends::many,
    },
];

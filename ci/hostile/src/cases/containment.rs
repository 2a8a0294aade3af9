//! Cases of faults of culvertd's own, and guests that take more than their share.
//!
//! - [`failures`]: panics and endless loops in workers, brought about by a guest's frame in a culvertd that offers faults;
//! - [`stalls`]: the process or its threads of control get no CPU;
//! - [`shares`]: guests whose frames cost as much as a frame can.

mod failures;
mod shares;
mod stalls;

use crate::case::Case;

/// The cases of this folder.
pub const CASES: &[Case] = &[
    Case {
        row: "P5",
        name: "panic-in-the-turn-of-a-port",
        what: "culvertd fails over a frame: its port is quarantined, it is counted as a bug, and nobody else notices",
        full: false,
        run: failures::panic_in_a_turn,
    },
    Case {
        row: "P5",
        name: "panic-with-the-neighbours-queues-held",
        what: "the same while the worker holds the neighbours' receive queues: they go on, and are not blamed",
        full: false,
        run: failures::panic_holding,
    },
    Case {
        row: "P5",
        name: "panic-of-a-worker",
        what: "a worker fails outside of any port's turn: it puts its queues in order and goes on",
        full: false,
        run: failures::panic_of_a_worker,
    },
    Case {
        row: "P5",
        name: "panic-of-a-worker-twice",
        what: "a worker fails twice within a minute: culvertd starts again, and serves all ports",
        full: false,
        run: failures::panic_of_a_worker_twice,
    },
    Case {
        row: "P5",
        name: "worker-without-end",
        what: "a worker comes to no end over a frame: culvertd starts again without the frame's port, until a person sets the port",
        full: false,
        run: failures::worker_without_end,
    },
    Case {
        row: "P12",
        name: "process-stopped",
        what: "the process is stopped for two seconds: nobody is blamed, the gap is counted, frames pass again at once",
        full: false,
        run: stalls::process_stopped,
    },
    Case {
        row: "P12",
        name: "worker-without-a-core",
        what: "a worker gets no CPU for three seconds: as before",
        full: false,
        run: stalls::worker_without_a_core,
    },
    Case {
        row: "P14",
        name: "control-stopped",
        what: "every thread but the workers is stopped for three seconds: frames pass as if nothing were",
        full: false,
        run: stalls::control_stopped,
    },
    Case {
        row: "P8",
        name: "frame-pool-empty",
        what: "no packet buffer is left: frames to a device are dropped and counted, guests' frames pass, and it ends by itself",
        full: false,
        run: stalls::frame_pool_empty,
    },
    Case {
        row: "Q17",
        name: "flood-of-the-largest-frames",
        what: "a guest floods frames of 64 KiB that must be cut for each of eight receivers: the neighbours lose nothing",
        full: false,
        run: shares::largest_frames,
    },
    Case {
        row: "Q17",
        name: "flood-of-the-longest-chains",
        what: "a guest floods frames in as many descriptors as its ring has, most of them empty: the neighbours lose nothing",
        full: false,
        run: shares::longest_chains,
    },
];

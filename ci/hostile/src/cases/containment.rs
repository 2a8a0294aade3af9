//! Cases of faults of culvertd's own, and guests that take more than their share.
//!
//! - [`failures`]: panics and endless loops in workers, brought about by a guest's frame in a culvertd that offers faults;
//! - [`stalls`]: the process or its threads of control get no CPU;
//! - [`shares`]: guests whose frames cost as much as a frame can.

mod failures;
mod shares;
mod stalls;

use crate::case::{Case, case};

/// The cases of this folder.
pub const CASES: &[Case] = &[
    case(
        "P5",
        "panic-in-the-turn-of-a-port",
        "culvertd fails over a frame: its port is quarantined, it is counted as a bug, and nobody else notices",
        failures::panic_in_a_turn,
    ),
    case(
        "P5",
        "panic-with-the-neighbours-queues-held",
        "the same while the worker holds the neighbours' receive queues: they go on, and are not blamed",
        failures::panic_holding,
    ),
    case(
        "P5",
        "panic-of-a-worker",
        "a worker fails outside of any port's turn: it puts its queues in order and goes on",
        failures::panic_of_a_worker,
    ),
    case(
        "P5",
        "panic-of-a-worker-twice",
        "a worker fails twice within a minute: culvertd starts again, and serves all ports",
        failures::panic_of_a_worker_twice,
    ),
    case(
        "P5",
        "worker-without-end",
        "a worker comes to no end over a frame: culvertd starts again without the frame's port, until a person sets the port",
        failures::worker_without_end,
    ),
    case(
        "P12",
        "process-stopped",
        "the process is stopped for two seconds: nobody is blamed, the gap is counted, frames pass again at once",
        stalls::process_stopped,
    ),
    case(
        "P12",
        "worker-without-a-core-at-the-start",
        "workers get no CPU for the first two seconds after a start: all ports are opened",
        stalls::late_at_start,
    ),
    case(
        "P12",
        "worker-without-a-core",
        "a worker gets no CPU for three seconds: as before",
        stalls::worker_without_a_core,
    ),
    case(
        "P14",
        "control-stopped",
        "every thread but the workers is stopped for three seconds: frames pass as if nothing were",
        stalls::control_stopped,
    ),
    case(
        "P8",
        "frame-pool-empty",
        "no packet buffer is left: frames to a device are dropped and counted, guests' frames pass, and it ends by itself",
        stalls::frame_pool_empty,
    ),
    case(
        "Q17",
        "flood-of-the-largest-frames",
        "a guest floods frames of 64 KiB that must be cut for each of eight receivers: the neighbours lose nothing",
        shares::largest_frames,
    ),
    case(
        "Q17",
        "flood-of-the-longest-chains",
        "a guest floods frames in as many descriptors as its ring has, most of them empty: the neighbours lose nothing",
        shares::longest_chains,
    ),
];

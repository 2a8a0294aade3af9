//! Polling threads: what runs the switch, and how control changes what runs.
//!
//! - [`datapath`]: control's handle: workers, networks, ports, rings; every change becomes a new plan;
//! - `state`: what is wanted, and how it becomes a plan;
//! - [`plan`]: what workers run until the next one: a topology and each worker's inputs;
//! - [`handover`]: how plans, acknowledgements and queues change hands, and its atomics ([`sync`]);
//! - `inject`: faults for tests, in no released program;
//! - [`input`]: what one worker polls: a guest's transmit queue or a NIC's receive queue;
//! - [`poll_loop`]: the loop itself, and when it sleeps; what it tells control is in [`shared`] and `reports`;
//! - [`shares`]: what each guest may take of a worker;
//! - [`load`]: what each input takes of its worker; [`balance`]: which worker should have it;
//! - [`watch`]: how control sees that a worker goes round;
//! - `snoop_queue`: what workers tell control about multicast groups;
//! - [`announce`]: frames that Culvert sends in a guest's name.
//!
//! Counters are in the switch's `counters`, captures in its `tap`: both are filled where a frame's fate is known.
#![forbid(unsafe_code)]

pub mod announce;
pub mod balance;
pub mod datapath;
pub mod handover;
#[cfg(feature = "inject")]
pub mod inject;
pub mod input;
pub mod load;
pub mod plan;
pub mod poll_loop;
mod reports;
pub mod shared;
pub mod shares;
mod snoop_queue;
mod state;
pub mod sync;
pub mod watch;

pub use datapath::{
    Datapath, DatapathConfig, DatapathError, LearnedAddress, Moved, NetworkSettings, NicQueues, Proposal, Stuck,
};
pub use load::InputTotals;
pub use shared::{Event, WorkerTotals};
pub use state::Mirror;

//! The vhost-user dialogue: how a frontend (QEMU, user-mode Linux, DPDK's virtio-user) hands the rings of a guest to us.
//!
//! From the inside out:
//! - [`message`]: headers and bodies, parsed; [`event`]: the descriptors that kick and interrupt, checked;
//! - [`session`]: the dialogue with one frontend as a pure state machine;
//! - [`socket`]: bytes and descriptors of one connection; [`listen`], [`connect`]: the two ways to get one, [`folder`]: the
//!   folder that it is in;
//! - `port`: one port's socket over time, [`place`]: where it is; [`server`]: all of them in one thread; `helper`: the thread that may wait
//!   for workers, `aside`: those that may wait for a frontend;
//! - [`single`]: one port in its caller's own loop, without threads: the translator's way;
//! - [`keep`]: connections that outlive the process, [`transcript`]: what a session is told by to be where it was;
//! - [`backend`]: what the rest of the daemon provides; `rate`, [`log_limit`]: bounds on what a frontend can cause.
#![forbid(unsafe_code)]

mod aside;
pub mod backend;
pub mod connect;
pub mod event;
pub mod folder;
mod helper;
pub mod keep;
pub mod listen;
pub mod log_limit;
pub mod message;
pub mod place;
mod port;
mod rate;
pub mod server;
pub mod session;
pub mod single;
pub mod socket;
pub mod transcript;

pub use backend::{Backend, Bar, Connection, Peer, PortKey, SocketState};
pub use keep::Keeper;
pub use listen::Listener;
pub use place::{Owner, Place};
pub use port::{HandedListener, PortSocket, RETRY, Role, Standstill};
pub use server::{AddError, Server, Still};
pub use session::{Session, SessionStatus};
pub use single::SinglePort;

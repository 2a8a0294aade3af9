//! TCP with the guest, between a guest's segments and a kernel socket: the core, without I/O.
//!
//! One [`Connection`] per flow speaks TCP with the guest. At its other side is a kernel socket, which is the buffer in both
//! directions: what the far end sent stays in the socket's receive queue, where it is only peeked at, until the guest has
//! acknowledged it; what the guest sent is written to the socket at once, or not taken and not acknowledged.
//!
//! The caller hands in events (`on_...`), then calls [`Connection::poll`] until it is `None` and does what it says.

mod action;
mod config;
mod connection;
pub mod flows;
mod options;
mod receiver;
mod rtt;
mod scoreboard;
mod segment;
mod sender;
mod seq;

pub use action::{Action, Failure, Payload, SocketInfo, Transmit};
pub use config::Config;
pub use connection::Connection;
pub use options::{Options, SackBlocks, Timestamps};
pub use segment::{Flags, Malformed, Segment, refusal};
pub use seq::Seq;

#[cfg(test)]
mod tests;

//! TCP with the guest, between a guest's segments and a kernel socket; the core is without I/O.
//!
//! # Theory of operation
//! One [`Connection`] per flow speaks TCP with the guest. At its other side is a kernel socket, **which is the buffer
//! in both directions**: what the far end sent stays in the socket's receive queue, where it is only peeked at, until
//! the guest has acknowledged it (`sender`); what the guest sent is written to the socket at once and in order, or not
//! taken and not acknowledged (`receiver`). So a flow costs no memory but its numbers, whatever either end does.
//!
//! The caller ([`flows`]) hands in events (`on_...`), then calls [`Connection::poll`] until it is `None` and does what
//! it says. A [`Action::Transmit`] is a proposal: it counts once [`Connection::on_transmitted`] says that it went out.
//! With a full ring nothing has happened, in whatever state the connection is, and the same is proposed again later.
//! Likewise the end of the far end's data is known only from a peek that had room and found nothing.
//!
//! ```text
//!        guest's SYN                      accepted socket
//!             |                                  |
//!             v                                  v
//!        CONNECTING                          SYN-SENT ----- SYN from the guest ----+
//!             | socket is connected              |                                 |
//!             v                                  | SYN and ACK                     |
//!        SYN-RECEIVED <--------------------------|---------------------------------+
//!             | ACK                              |
//!             +---------------> OPEN <-----------+
//!                                |
//!       each direction closes by itself: the guest's FIN, once everything before it is written (ShutdownWrite);
//!       the far end's, once everything before it was peeked at (FIN to the guest)
//!                                |
//!             both FINs acknowledged; the far end's was first or at the same time     the guest's was first
//!                                |                                                         |
//!                                v                                                         v
//!                            TIME-WAIT (CloseSocket) ------- a second -------------------> Close
//!
//!       a RST of the guest: Reset           a failed socket: REFUSING (RST to the guest), Close
//!       no answer, no progress: REFUSING (RST to the guest), Reset
//! ```
//!
//! Every state has a way out by time: the handshake's retries, retransmission's, probes of a guest that says nothing
//! for two hours (for a minute, once it has closed), two hours with data that does not move, TIME-WAIT's second.
//! CONNECTING ends with the socket.
//!
//! What differs from a TCP between two hosts: there is no congestion on a ring and no segment lives for long on it, so
//! there is no congestion window before something was lost, and TIME-WAIT is short; data that comes too early is not
//! kept (a guest's ring keeps the order), so SACK is understood, but never sent.

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
pub use connection::{Connection, SavedConnection, Stage};
pub use options::{Options, SackBlocks, Timestamps};
pub use segment::{Flags, Malformed, Segment, refusal};
pub use seq::Seq;

#[cfg(test)]
mod tests;

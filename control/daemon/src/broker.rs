//! What the daemon asks its supervisor for: typed requests over a socket pair, few and small.
//!
//! - [`message`]: the requests and replies, and how they look on the socket;
//! - [`Broker`]: the daemon's end;
//! - [`Desk`]: the supervisor's end, see [`crate::supervisor`]; [`Turn`]: its part in takeovers.
//!
//! The daemon is not trusted here: a guest may have taken it over. The supervisor does nothing for it that is not in
//! [`message::Request`].

mod client;
mod closing;
mod desk;
pub mod message;
mod turn;

pub use client::Broker;
pub use desk::{CONNECTION, Desk};
pub use turn::Turn;

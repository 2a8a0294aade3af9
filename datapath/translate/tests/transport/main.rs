//! The transports, each with a guest played by this process: frames go through an event loop that sends all of them
//! back.
//!
//! "hostile V1" and so on are rows of the project's list of hostile input: V is vhost-user, Q a guest's rings.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::panic,
    unsafe_code,
    reason = "tests"
)]

mod dialogue;
mod echo;
mod frontend;
mod packet_socket;
mod packets;
mod qemu_stream;
mod vhost_user;

//! Connections in simulated time, between a guest's TCP and a kernel socket that exist for these tests alone.

mod closing;
mod guest;
mod handshake;
mod hostile;
mod kernel;
mod pair;
mod recovery;
mod time;
mod transfer;

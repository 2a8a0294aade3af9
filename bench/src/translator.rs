//! culvert-translator beside passt, with the same guests and the same far end.
//!
//! A real guest shows what a guest gets ([`linux`]); it takes so much time itself that a played one ([`station`]) is what the others
//! measure with. Programs without a guest, and guests without a translator, show what cannot be had.

mod all_ports;
mod datagrams;
mod far;
mod flows;
mod goodput;
mod linux;
mod many;
mod packet;
mod requests;
mod rest;
mod running;
mod station;
mod streams;

pub use all_ports::cases as cases_of_all_ports;
pub use datagrams::cases as cases_of_datagrams;
pub use goodput::cases as cases_of_goodput;
pub use linux::cases;
pub use many::cases as cases_of_many;
pub use requests::cases as cases_of_requests;
pub use rest::cases as cases_of_rest;
pub use streams::{cases as cases_of_streams, cases_of_guests};

/// Names of figures that several scenarios have.
pub const THERE: &str = "guest to world";
pub const BACK: &str = "world to guest";
pub const THERE_CPU: &str = "guest to world, processor";
pub const BACK_CPU: &str = "world to guest, processor";
const CPU_UNIT: &str = "s/GB";

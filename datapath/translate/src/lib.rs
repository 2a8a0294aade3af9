//! The translator: a guest's frames become ordinary sockets of the pod, and back.
//!
//! A guest on the primary network has no interface of its own outside: what it sends is taken apart here, and what it
//! meant is done with sockets, as any unprivileged program would. Protocols are cores without I/O: they take the time,
//! a packet or what a socket told, and say what to send and what to do.
//!
//! - [`settings`]: what the guest is told of its network, and which addresses mean what;
//! - [`link`]: the way to the guest;
//! - [`guest`]: what was learned of the guest;
//! - [`arp`], [`ndp`], [`dhcp`], [`dhcpv6`]: how the guest gets its addresses; [`dns`]: where its questions go.

pub mod arp;
pub mod dhcp;
pub mod dhcpv6;
pub mod dns;
pub mod guest;
pub mod link;
pub mod ndp;
pub mod settings;

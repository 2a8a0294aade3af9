//! The translator: a guest's frames become ordinary sockets of the pod, and back.
//!
//! A guest on the primary network has no interface of its own outside: what it sends is taken apart here, and what it
//! meant is done with sockets, as any unprivileged program would. Protocols are cores without I/O: they take the time,
//! a packet or what a socket told, and say what to send and what to do.
//!
//! - [`settings`]: what the guest is told of its network, and which addresses mean what;
//! - [`packet`]: what a frame from the guest says, checked; [`head`]: the headers of frames to it;
//! - [`link`]: the way to the guest; [`sockets`]: the way to the kernel; [`context`]: both, as protocol cores get them;
//! - [`transport`]: the ways to the guest that there are;
//! - [`guest`]: what was learned of the guest; [`mapping`]: which addresses mean what on the host's side;
//! - [`forward`]: which ports of the pod lead to it; [`request`]: what can be asked and changed while it runs;
//! - [`lane`]: several threads for a guest of several queue pairs;
//! - [`limits`]: how much one guest may use; [`refusal`]: what is refused, and counted;
//! - [`arp`], [`ndp`], [`dhcp`], [`dhcpv6`]: how the guest gets its addresses; [`dns`]: where its questions go;
//!   [`resolv_conf`]: which resolvers and domains the pod has; [`domain_name`]: names as they travel;
//! - [`tcp`]: connections, between a guest's segments and a socket;
//! - [`udp`], [`icmp`]: flows of datagrams, and echo; [`icmp_error`]: what went wrong with what the guest sent;
//!   [`fragment`]: fragments of the guest's, and those made for it; [`multicast`]: groups that the guest listens to.

pub mod arp;
pub mod context;
pub mod dhcp;
pub mod dhcpv6;
pub mod dns;
pub mod domain_name;
mod failure;
pub mod flow;
mod flow_table;
pub mod forward;
pub mod fragment;
pub mod guest;
pub mod head;
pub mod icmp;
pub mod icmp_error;
pub mod lane;
pub mod limits;
pub mod link;
pub mod mapping;
pub mod migration;
pub mod multicast;
pub mod ndp;
mod opening;
pub mod packet;
mod recency;
pub mod refusal;
mod reply;
pub mod request;
pub mod resolv_conf;
#[cfg(test)]
mod samples;
pub mod settings;
pub mod socket;
pub mod sockets;
pub mod tcp;
pub mod time;
mod timer_wheel;
pub mod translator;
pub mod transport;
pub mod udp;
#[cfg(test)]
mod world;

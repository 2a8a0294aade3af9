//! Why a flow could not be opened: for the counters, and for the guest. Used by [`crate::udp`] and [`crate::icmp`]; TCP
//! ([`crate::tcp::flows`]) tells its guest by other means, and asks only whether descriptors were missing.

use std::io;

use crate::context::Context;
use crate::icmp_error;
use crate::link::GuestLink;
use crate::packet::IpPacket;
use crate::refusal::Refusal;

/// Why a flow could not be opened.
#[derive(Debug)]
pub(crate) enum Failure {
    /// We refused it.
    Refused(Refusal),
    /// The kernel refused it.
    Socket(io::Error),
}

impl Failure {
    /// Tells the guest, whose packet it was; returns what is to be counted.
    pub(crate) fn tell<S, L: GuestLink>(self, ctx: &mut Context<'_, S, L>, ip: &IpPacket<'_>) -> Refusal {
        match &self {
            Self::Socket(failure) if !is_out_of_descriptors(failure) => icmp_error::about_failure(ctx, ip, failure),
            _ => {}
        }
        let refusal = Refusal::from(self);
        icmp_error::about_refused(ctx, ip, refusal);
        refusal
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Failure {
    fn from(failure: io::Error) -> Self {
        Self::Socket(failure)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Socket(failure) if is_out_of_descriptors(&failure) => Self::NoDescriptor,
            Failure::Socket(_) => Self::SocketError,
        }
    }
}

/// Whether this process, or the machine, has no descriptors left, or no memory for another socket (socket(2)).
pub(crate) fn is_out_of_descriptors(failure: &io::Error) -> bool {
    matches!(failure.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

//! What every protocol core is handed with a packet or an event: the time, the settings, and the ways out.

use std::io;
use std::net::SocketAddr;

use culvert_frame::{MacAddress, Offload};

use crate::flow::FlowEnds;
use crate::forward::Protocol;
use crate::guest::Guest;
use crate::icmp_error::Budget;
use crate::lane::Lane;
use crate::limits::Limits;
use crate::link::{Full, GuestLink};
use crate::mapping;
use crate::refusal::{Counters, Refusal};
use crate::settings::Settings;
use crate::sockets::Host;
use crate::time::Instant;

/// Lent to a core for one call.
#[derive(Debug)]
pub struct Context<'a, S, L> {
    /// The time, read once for a burst.
    pub now: Instant,
    /// What was configured.
    pub settings: &'a Settings,
    /// What was learned of the guest.
    pub guest: &'a Guest,
    /// The way to the kernel.
    pub sockets: &'a mut S,
    /// The way to the guest.
    pub link: &'a mut L,
    /// How many flows there may be.
    pub limits: &'a mut Limits,
    /// How many ICMP errors the guest may be sent.
    pub errors: &'a mut Budget,
    /// The thread among those that serve the guest, where there are several.
    pub lane: Option<&'a mut Lane>,
    /// What is counted.
    pub counters: &'a mut Counters,
    /// Room for what is read from a socket: [`SCRATCH_BYTES`].
    pub scratch: &'a mut [u8],
}

/// The largest datagram, or as much of a stream as is read at once, in bytes.
pub const SCRATCH_BYTES: usize = 65_536;

impl<S: Host, L> Context<'_, S, L> {
    /// Where a packet of the guest's to `destination` leads on the host's side.
    ///
    /// # Errors
    /// [`Refusal::BadDestination`], [`Refusal::DestinationNotAllowed`].
    pub fn towards_host(&mut self, destination: SocketAddr) -> Result<SocketAddr, Refusal> {
        let to = mapping::towards_host(self.settings, destination)?;
        if mapping::must_be_elsewhere(self.settings, destination, to) && self.sockets.has_address(to) {
            return Err(Refusal::DestinationNotAllowed);
        }
        Ok(to)
    }
}

impl<S, L: GuestLink> Context<'_, S, L> {
    /// Sends a frame to the guest and counts it.
    ///
    /// # Errors
    /// [`Full`].
    #[inline]
    pub fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        self.link.put(offload, head, payload)?;
        self.counters.tx_frame(head.len() + payload.len());
        Ok(())
    }

    /// Of frames to the guest: our address, and the guest's.
    pub fn macs(&self) -> (MacAddress, MacAddress) {
        (self.settings.mac, self.guest.mac_or_broadcast())
    }

    /// Notes it when `error` says that memory which the guest shared with us is gone.
    pub fn note_memory_fault(&mut self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::EFAULT) {
            self.counters.memory_faults += 1;
        }
    }

    /// Counts a refusal.
    pub fn refuse(&mut self, reason: Refusal) {
        self.counters.refuse(reason);
    }
}

impl<S, L> Context<'_, S, L> {
    /// Whether a flow that is not known here is perhaps another thread's.
    ///
    /// # Errors
    /// [`Refusal::OtherLane`].
    pub fn is_free(&mut self, protocol: Protocol, ends: &FlowEnds) -> Result<(), Refusal> {
        self.lane.as_mut().map_or(Ok(()), |lane| lane.is_free(protocol, ends))
    }

    /// A flow begins here, and nowhere else until [`Self::release`].
    ///
    /// # Errors
    /// [`Refusal::OtherLane`].
    pub fn claim(&mut self, protocol: Protocol, ends: &FlowEnds) -> Result<(), Refusal> {
        self.lane.as_mut().map_or(Ok(()), |lane| lane.claim(protocol, ends))
    }

    /// A flow of ours has ended.
    pub fn release(&mut self, protocol: Protocol, ends: &FlowEnds) {
        if let Some(lane) = &mut self.lane {
            lane.release(protocol, ends);
        }
    }

    /// A socket for datagrams is to have this port and to be connected to this peer. False: another thread's is.
    pub fn take_port(&mut self, port: u16, peer: SocketAddr) -> bool {
        self.lane.as_mut().is_none_or(|lane| lane.take_port(port, peer))
    }

    /// No socket has this port and is connected to this peer any more.
    pub fn leave_port(&mut self, port: u16, peer: SocketAddr) {
        if let Some(lane) = &mut self.lane {
            lane.leave_port(port, peer);
        }
    }

    /// Whether one more ICMP error may be sent to the guest.
    pub fn may_tell_of_error(&mut self) -> bool {
        match &mut self.lane {
            Some(lane) => lane.may_tell_of_error(self.now),
            None => self.errors.take(self.now),
        }
    }
}

//! The ends that workers poll.
//!
//! A queue is one thread's at a time: it moves between threads, has no copy, and polling it needs it exclusively. It
//! keeps its port open: the device is stopped and closed when the port and all its queues are gone, by whoever drops
//! the last of them. That takes milliseconds, so a worker gives its queues back instead of dropping them.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use dpdk_sys as ffi;

use crate::attach::OpenDevice;
use crate::batch::Batch;
use crate::offload::NicOffloads;

/// Frames towards us.
#[derive(Debug)]
pub struct RxQueue {
    device: Arc<OpenDevice>,
    queue: u16,
    interrupt: Option<Interrupt>,
}

/// The descriptor by which a driver tells of frames.
#[derive(Clone, Copy, Debug)]
struct Interrupt {
    descriptor: RawFd,
    /// An eventfd stays readable until it is read. Others (net_tap's) are readable while there are frames, and
    /// reading them would take one.
    is_eventfd: bool,
}

impl RxQueue {
    pub(crate) fn new(device: Arc<OpenDevice>, queue: u16, interrupts: bool) -> RxQueue {
        let interrupt = if interrupts { interrupt(device.id(), queue) } else { None };
        RxQueue { device, queue, interrupt }
    }

    /// Receives frames into the free places of `frames`, by one call of the driver. Returns how many.
    #[inline]
    pub fn receive(&mut self, frames: &mut Batch) -> usize {
        let (port, queue) = (self.device.id(), self.queue);
        // SAFETY: a started device and a queue of its that is this value's alone; the room is as told. The driver
        // puts that many frames at the front.
        unsafe { frames.fill(|places, room| ffi::culvert_rx_burst(port, queue, places, room)) }
    }

    /// A descriptor for epoll (level-triggered) that becomes readable when frames arrive after [`RxQueue::arm`].
    /// None where the driver has none and the queue has to be polled. Valid as long as the queue.
    #[must_use]
    pub fn interrupt_descriptor(&self) -> Option<RawFd> {
        self.interrupt.map(|interrupt| interrupt.descriptor)
    }

    /// Has the driver signal the descriptor. Frames that came before may go unsignalled: receive once more after
    /// this, before going to sleep.
    ///
    /// # Errors
    /// The driver's, or `Unsupported` where there is no descriptor.
    pub fn arm(&mut self) -> io::Result<()> {
        self.interrupt.ok_or(io::ErrorKind::Unsupported)?;
        // SAFETY: a started device and a queue of its.
        accept_unsupported(unsafe { ffi::rte_eth_dev_rx_intr_enable(self.device.id(), self.queue) })
    }

    /// Ends the signalling and clears the descriptor: to be called on waking.
    ///
    /// # Errors
    /// As for [`RxQueue::arm`].
    pub fn disarm(&mut self) -> io::Result<()> {
        let interrupt = self.interrupt.ok_or(io::ErrorKind::Unsupported)?;
        // SAFETY: a started device and a queue of its.
        accept_unsupported(unsafe { ffi::rte_eth_dev_rx_intr_disable(self.device.id(), self.queue) })?;
        if interrupt.is_eventfd {
            // SAFETY: the descriptor is the driver's, open as long as the device, which this value keeps open.
            let descriptor = unsafe { BorrowedFd::borrow_raw(interrupt.descriptor) };
            match rustix::io::read(descriptor, &mut [0_u8; 8]) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Frames away from us.
#[derive(Debug)]
pub struct TxQueue {
    device: Arc<OpenDevice>,
    queue: u16,
    offloads: NicOffloads,
    /// The driver sends frames of more than one segment.
    chains: bool,
}

impl TxQueue {
    pub(crate) fn new(device: Arc<OpenDevice>, queue: u16, offloads: NicOffloads, chains: bool) -> TxQueue {
        TxQueue { device, queue, offloads, chains }
    }

    /// What may be asked for by [`Mbuf::request_offload`](crate::Mbuf::request_offload) of frames sent here. The same
    /// for all queues of a port, and as long as it is open.
    #[must_use]
    pub fn offloads(&self) -> NicOffloads {
        self.offloads
    }

    /// Whether frames of more than one segment can be sent.
    #[must_use]
    pub fn sends_chains(&self) -> bool {
        self.chains
    }

    /// Hands frames to the driver, from the front, by one call. Returns how many it took; the others stay in
    /// `frames` without gaps.
    ///
    /// Those that stay are first the ones for which there was no room, in order, then those that cannot be sent at
    /// all: a request that the driver refuses, or a chain where it sends none. So a caller that drops what is left
    /// loses nothing that it should keep; one that tries again does so a limited number of times. Trying again with
    /// the same frames does no harm: the checksum fields that a driver needs prepared are computed afresh.
    #[inline]
    pub fn send(&mut self, frames: &mut Batch) -> usize {
        let (port, queue, chains) = (self.device.id(), self.queue, self.chains);
        let send = |places, count| {
            if count == 0 {
                return 0;
            }
            // SAFETY: a started device and a queue of its that is this value's alone; the frames are owned ones. The
            // driver takes over as many as it says, from the front; the shim may have changed their order before.
            unsafe { ffi::culvert_tx_burst(port, queue, places, count, chains) }
        };
        // SAFETY: as many frames as the shim says, from the front, are the driver's.
        unsafe { frames.drain(send) }
    }
}

fn interrupt(port: u16, queue: u16) -> Option<Interrupt> {
    // SAFETY: a started device and a queue of its.
    let descriptor = unsafe { ffi::rte_eth_dev_rx_intr_ctl_q_get_fd(port, queue) };
    if descriptor < 0 {
        return None;
    }
    // Only an eventfd that does not block can be cleared without a risk: make it one.
    let target = std::fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    let is_eventfd = target.to_str() == Some("anon_inode:[eventfd]");
    if is_eventfd {
        // SAFETY: the driver's descriptor, open as long as the device.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let flags = rustix::fs::fcntl_getfl(descriptor).ok()?;
        rustix::fs::fcntl_setfl(descriptor, flags | rustix::fs::OFlags::NONBLOCK).ok()?;
    }
    Some(Interrupt { descriptor, is_eventfd })
}

/// Drivers whose descriptor needs no arming have no function for it.
fn accept_unsupported(result: i32) -> io::Result<()> {
    match -result {
        0 | libc::ENOTSUP => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

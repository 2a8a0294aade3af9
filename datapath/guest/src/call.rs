//! A guest's interrupt: the descriptor from SET_VRING_CALL, which may change or vanish while the ring runs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// Where to tell the guest that a ring has used buffers. Shared between the ring and its session.
#[derive(Debug, Default)]
pub struct Call {
    descriptor: ArcSwapOption<OwnedFd>,
}

impl Call {
    /// A call to `descriptor`, which must be non-blocking; `None` for a guest that polls.
    pub fn new(descriptor: Option<OwnedFd>) -> Self {
        Self { descriptor: ArcSwapOption::from(descriptor.map(Arc::new)) }
    }

    /// Replaces the descriptor; the old one is closed once a signal in progress is done.
    pub fn set(&self, descriptor: Option<OwnedFd>) {
        self.descriptor.store(descriptor.map(Arc::new));
    }

    /// Interrupts the guest. A full counter means that an interrupt is pending already; a closed or broken
    /// descriptor is the guest's own loss. Neither is an error.
    pub fn signal(&self) {
        if let Some(descriptor) = &*self.descriptor.load() {
            let _ = rustix::io::write(descriptor, &1_u64.to_ne_bytes());
        }
    }
}

//! The way to the guest, with what passes there recorded: for `--pcap` and `--trace`, without which it does nothing.
//! The event loop puts it before the transport's own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use culvert_frame::{Offload, Offloads};
use culvert_guest::Packet;
use culvert_translate::link::{Full, GuestLink};
use culvert_translate::packet::Payload;
use culvert_translate::transport::{Link, Reservation};

use crate::pcap::Pcap;

/// The way to the guest, with what goes there recorded.
pub struct Recorded<'a> {
    /// The way itself.
    pub link: Link<'a>,
    /// Where it is recorded, if anywhere.
    pub pcap: Option<&'a Mutex<Pcap>>,
}

impl Recorded<'_> {
    /// Records a frame that came from the guest.
    #[inline]
    pub fn record_from_guest(&mut self, frame: &Packet<'_>) {
        trace_frame("from the guest", frame.head, frame.length as usize);
        if let Some(pcap) = self.pcap {
            let mut bytes = vec![0; frame.length as usize];
            Payload::of_frame(frame).copy_to(&mut bytes);
            locked(pcap).record(SystemTime::now(), [bytes.as_slice()], bytes.len());
        }
    }
}

impl GuestLink for Recorded<'_> {
    fn takes(&self) -> Offloads {
        self.link.takes()
    }

    #[inline]
    fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        self.link.put(offload, head, payload)?;
        trace_frame("to the guest", head, head.len() + payload.len());
        if let Some(pcap) = self.pcap {
            locked(pcap).record(SystemTime::now(), [head, payload], head.len() + payload.len());
        }
        Ok(())
    }

    #[inline]
    fn reserve(&mut self, offload: Offload, head: &[u8], payload_bytes: u32) -> Result<Option<Reservation<'_>>, Full> {
        // What goes straight into the guest's memory cannot be recorded.
        if self.pcap.is_some() || tracing::enabled!(tracing::Level::TRACE) {
            return Ok(None);
        }
        self.link.reserve(offload, head, payload_bytes)
    }

    fn is_full(&self) -> bool {
        self.link.is_full()
    }

    fn is_there(&self) -> bool {
        self.link.is_there()
    }

    fn flush(&mut self) {
        self.link.flush();
    }
}

fn locked(pcap: &Mutex<Pcap>) -> MutexGuard<'_, Pcap> {
    pcap.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For `--trace`.
#[inline]
fn trace_frame(way: &str, head: &[u8], length: usize) {
    if tracing::enabled!(tracing::Level::TRACE)
        && let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1, ..] = head
    {
        tracing::trace!(
            "{way}: {length} bytes, type {t0:02x}{t1:02x}, {s0:02x}:{s1:02x}:{s2:02x}:{s3:02x}:{s4:02x}:{s5:02x} to \
             {d0:02x}:{d1:02x}:{d2:02x}:{d3:02x}:{d4:02x}:{d5:02x}"
        );
    }
}

//! The mbuf pool: all buffers that frames are received into and that guests' frames are copied to.
//!
//! A pool is never freed: frames out of it may be anywhere, a device's rings included. Usually there is one.

use std::ffi::CString;
use std::ptr::{NonNull, null_mut};

use dpdk_sys::{self as ffi, rte_mempool};

use crate::batch::Batch;
use crate::eal::{Eal, EalError, errno, strerror};
use crate::hugepages::HugepageUse;
use crate::mbuf::Mbuf;

/// What a pool is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Unique in the process, at most 25 bytes.
    pub name: String,
    /// The largest MTU of the ports, in bytes: their frames fit one buffer.
    pub largest_mtu: u16,
    /// Number of buffers. None: as many as three quarters of EAL's memory hold; the rest is for queues.
    pub buffers: Option<u32>,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig { name: "frames".to_owned(), largest_mtu: 1500, buffers: None }
    }
}

/// A pool of buffers; copies of the value are the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    pool: NonNull<rte_mempool>,
    buffers: u32,
    room: u16,
}

// SAFETY: mempools are made for several threads, and this one is never freed.
unsafe impl Send for Pool {}
// SAFETY: likewise.
unsafe impl Sync for Pool {}

impl Pool {
    /// Makes a pool from EAL's memory.
    pub fn create(eal: &Eal, config: &PoolConfig) -> Result<Pool, EalError> {
        let failed = |reason: String| EalError::Pool { name: config.name.clone(), reason, memory_mb: eal.memory_mb() };
        let name =
            CString::new(config.name.as_str()).map_err(|_| failed("its name contains a zero byte".to_owned()))?;
        let room = frame_room(config.largest_mtu);
        let data_room = room.saturating_add(ffi::CULVERT_HEADROOM);
        // Hardware reads a buffer by its bus address: it must not cross from one page to another, unrelated one.
        let whole_pages = small_pages(eal) && eal.pci();
        let across_pages = small_pages(eal) && !eal.pci();
        let most = buffers_in(eal.memory_mb(), data_room, whole_pages);
        let buffers = config.buffers.unwrap_or(most);
        if buffers < FEWEST_BUFFERS {
            return Err(failed(format!(
                "the memory holds {buffers} buffers of {room} bytes, at least {FEWEST_BUFFERS} are needed"
            )));
        }
        // SAFETY: EAL is started; the name is copied; -1 is SOCKET_ID_ANY.
        let pool = unsafe {
            if across_pages {
                ffi::culvert_pool_across_pages(name.as_ptr(), buffers, THREAD_CACHE, data_room)
            } else {
                ffi::rte_pktmbuf_pool_create(name.as_ptr(), buffers, THREAD_CACHE, 0, data_room, -1)
            }
        };
        let pool = NonNull::new(pool)
            .ok_or_else(|| failed(format!("{buffers} buffers of {room} bytes cannot be had: {}", strerror(errno()))))?;
        Ok(Pool { pool, buffers, room })
    }

    /// Number of buffers, in use and free.
    #[must_use]
    pub fn buffers(&self) -> u32 {
        self.buffers
    }

    /// Number of free buffers. Walks the caches of all threads: for statistics and tests, not for the hot path.
    #[must_use]
    pub fn free_buffers(&self) -> u32 {
        // SAFETY: a live pool.
        unsafe { ffi::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    /// The longest frame in bytes that is one segment.
    #[must_use]
    pub fn frame_room(&self) -> u16 {
        self.room
    }

    /// A frame of this length in bytes, None when the pool is empty. What is in it is left from an earlier frame:
    /// the caller writes every byte.
    #[must_use]
    pub fn allocate(&self, length: u32) -> Option<Mbuf> {
        let mut frame = null_mut();
        // SAFETY: a live pool, one length and room for one frame.
        match unsafe { ffi::culvert_allocate(self.pool.as_ptr(), &raw const length, 1, &raw mut frame) } {
            0 => None,
            // SAFETY: the frame is the caller's from here on.
            _ => NonNull::new(frame).map(|frame| unsafe { Mbuf::from_raw(frame) }),
        }
    }

    /// Frames of these lengths, by one call, added to `frames` in their order; see [`Pool::allocate`]. Returns how
    /// many there were: fewer than asked for where the pool or the room in `frames` ends.
    pub fn allocate_burst(&self, lengths: &[u32], frames: &mut Batch) -> usize {
        let allocate = |places, room: u16| {
            let count = u16::try_from(lengths.len()).unwrap_or(u16::MAX).min(room);
            // SAFETY: a live pool, `count` lengths, and room for `count` frames.
            unsafe { ffi::culvert_allocate(self.pool.as_ptr(), lengths.as_ptr(), count, places) }
        };
        // SAFETY: the shim returns the number of frames that it put at the front, and has freed any other.
        unsafe { frames.fill(allocate) }
    }

    /// So many frames of one buffer each, without bytes, added to `frames`. `false`, with nothing done, where the pool has not as many, or
    /// `frames` no room for them. [`Mbuf::resize`] gives them a length.
    #[must_use]
    #[inline]
    pub fn allocate_empty(&self, count: usize, frames: &mut Batch) -> bool {
        let allocate = |places, room: u16| match u16::try_from(count) {
            // SAFETY: a live pool, and room for `count` frames.
            Ok(count) if count <= room && unsafe { ffi::culvert_allocate_empty(self.pool.as_ptr(), places, count) } => {
                count
            }
            _ => 0,
        };
        // SAFETY: the shim has put all of them at the front, or none.
        unsafe { frames.fill(allocate) == count }
    }

    pub(crate) fn raw(&self) -> *mut rte_mempool {
        self.pool.as_ptr()
    }
}

/// What an Ethernet frame has besides its MTU: header, two VLAN tags, frame check sequence.
pub(crate) const FRAME_OVERHEAD: u16 = 14 + 2 * 4 + 4;

/// Buffers that a thread keeps to itself, at most.
const THREAD_CACHE: u32 = 256;

/// Below, the threads' caches alone could hold all.
const FEWEST_BUFFERS: u32 = 1024;

/// Room for a frame of this MTU, in the steps of 1 KiB that NICs count in, and 2 KiB at least.
fn frame_room(mtu: u16) -> u16 {
    let frame = u32::from(mtu) + u32::from(FRAME_OVERHEAD);
    u16::try_from(frame.next_multiple_of(1024).max(2048)).unwrap_or(LARGEST_ROOM).min(LARGEST_ROOM)
}

/// A buffer's length is 16 bits wide.
const LARGEST_ROOM: u16 = u16::MAX - ffi::CULVERT_HEADROOM;

fn small_pages(eal: &Eal) -> bool {
    matches!(eal.hugepages(), HugepageUse::NotUsed { .. })
}

/// How many buffers three quarters of the memory hold, each by itself in pages of 4 KiB if told so.
fn buffers_in(memory_mb: u32, data_room: u16, whole_pages: bool) -> u32 {
    let element = ffi::CULVERT_MBUF_SIZE + u32::from(data_room);
    // SAFETY: computes from its arguments; the third, for details, may be null.
    let size = unsafe { ffi::rte_mempool_calc_obj_size(element, 0, null_mut()) };
    let size = if whole_pages { size.next_multiple_of(4096) } else { size };
    let bytes = (u64::from(memory_mb) << 20) / 4 * 3;
    u32::try_from(bytes / u64::from(size.max(1))).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_a_tagged_frame_of_the_mtu() {
        assert_eq!(frame_room(68), 2048);
        assert_eq!(frame_room(1500), 2048);
        assert_eq!(frame_room(2022), 2048);
        assert_eq!(frame_room(2023), 3072);
        assert_eq!(frame_room(9000), 9216);
        assert_eq!(frame_room(u16::MAX), u16::MAX - 128);
    }

    #[test]
    fn three_quarters_of_the_memory_are_buffers() {
        let buffers = buffers_in(256, 2048 + 128, false);
        let bytes = u64::from(buffers) * (2048 + 128 + 128);
        assert!(bytes <= 192 << 20, "{bytes}");
        assert!(bytes > 180 << 20, "{bytes}");
        assert_eq!(buffers_in(256, 2048 + 128, true), (192 << 20) / 4096);
        assert_eq!(buffers_in(0, 2176, false), 0);
    }
}

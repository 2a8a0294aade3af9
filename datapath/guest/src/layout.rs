//! Where a ring lies in a frontend's memory, and whether that is a place where a ring can be (virtio 1.3, section 2.7 for split
//! rings, 2.8 for packed ones, whose areas go by the same three addresses).

use crate::features;
use crate::memory::Memory;

/// Largest ring that is accepted, in entries: what QEMU offers at most for virtio-net.
pub const MAX_QUEUE_SIZE: u16 = 1024;

/// Size and user addresses of a ring, from SET_VRING_NUM and SET_VRING_ADDR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingLayout {
    /// Entries; a power of two, at most [`MAX_QUEUE_SIZE`].
    pub size: u16,
    /// User address of the descriptor table: 16 bytes an entry, 16-byte aligned.
    pub descriptors: u64,
    /// User address of the available ring: 6 bytes and 2 an entry, 2-byte aligned; of a packed ring's driver event area: 4 bytes,
    /// 4-byte aligned.
    pub available: u64,
    /// User address of the used ring: 6 bytes and 8 an entry, 4-byte aligned; of a packed ring's device event area: 4 bytes, 4-byte
    /// aligned.
    pub used: u64,
}

/// Why a ring cannot be where its frontend says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Not a power of two, zero, or above [`MAX_QUEUE_SIZE`].
    #[error("ring size {0} is not a power of two from 1 to {MAX_QUEUE_SIZE}")]
    Size(u16),
    /// An area does not have the alignment that virtio demands.
    #[error("the {area} of the ring at {address:#x} is not aligned")]
    Misaligned {
        /// Which of the three areas.
        area: &'static str,
        /// Its user address.
        address: u64,
    },
    /// An area is not wholly inside of one memory region.
    #[error("the {area} of the ring at {address:#x} is not inside of a memory region")]
    Outside {
        /// Which of the three areas.
        area: &'static str,
        /// Its user address.
        address: u64,
    },
}

/// The three areas of a ring as host pointers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingPointers {
    pub(crate) descriptors: *mut u8,
    pub(crate) available: *mut u8,
    pub(crate) used: *mut u8,
}

impl RingLayout {
    /// Checks size, alignment and place of a ring with these features.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check(&self, memory: &Memory, features: u64) -> Result<(), RingError> {
        let is_packed = features & features::RING_PACKED != 0;
        if is_packed { self.resolve_packed(memory) } else { self.resolve(memory) }.map(drop)
    }

    /// Checks a ring's size alone.
    ///
    /// # Errors
    /// [`RingError::Size`].
    pub fn check_size(size: u16) -> Result<(), RingError> {
        if size.is_power_of_two() && size <= MAX_QUEUE_SIZE { Ok(()) } else { Err(RingError::Size(size)) }
    }

    pub(crate) fn resolve(&self, memory: &Memory) -> Result<RingPointers, RingError> {
        Self::check_size(self.size)?;
        let size = u64::from(self.size);
        Ok(RingPointers {
            descriptors: find(memory, "descriptor table", self.descriptors, 16, 16 * size)?,
            // With EVENT_IDX each ring has two bytes more at its end.
            available: find(memory, "available ring", self.available, 2, 6 + 2 * size)?,
            used: find(memory, "used ring", self.used, 4, 6 + 8 * size)?,
        })
    }

    pub(crate) fn resolve_packed(&self, memory: &Memory) -> Result<RingPointers, RingError> {
        Self::check_size(self.size)?;
        Ok(RingPointers {
            descriptors: find(memory, "descriptor ring", self.descriptors, 16, 16 * u64::from(self.size))?,
            available: find(memory, "driver event area", self.available, 4, 4)?,
            used: find(memory, "device event area", self.used, 4, 4)?,
        })
    }
}

/// One area of a ring.
fn find(memory: &Memory, area: &'static str, address: u64, align: u64, length: u64) -> Result<*mut u8, RingError> {
    if !address.is_multiple_of(align) {
        return Err(RingError::Misaligned { area, address });
    }
    let pointer = memory.user_pointer(address, length).ok_or(RingError::Outside { area, address })?;
    // The region itself may be mapped at an odd place of its file.
    if pointer.addr() % usize::try_from(align).unwrap_or(1) != 0 {
        return Err(RingError::Misaligned { area, address });
    }
    Ok(pointer)
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;
    use rustix::fs::MemfdFlags;

    fn memory() -> Memory {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 0x1_0000).unwrap();
        Memory::map(vec![(Region { guest_address: 0, size: 0x1_0000, user_address: 0x1000, mmap_offset: 0 }, file)])
            .unwrap()
    }

    #[test]
    fn sizes() {
        for size in [0, 3, 255, 2048, 32768, 65535] {
            assert_eq!(RingLayout::check_size(size), Err(RingError::Size(size)));
        }
        for size in [1, 2, 256, 1024] {
            assert_eq!(RingLayout::check_size(size), Ok(()));
        }
    }

    #[test]
    fn places() {
        let memory = memory();
        let good = RingLayout { size: 256, descriptors: 0x1000, available: 0x2000, used: 0x3000 };
        assert_eq!(good.check(&memory, 0), Ok(()));
        for (bad, area) in [
            (RingLayout { descriptors: 0x1008, ..good }, "descriptor table"),
            (RingLayout { available: 0x2001, ..good }, "available ring"),
            (RingLayout { used: 0x3002, ..good }, "used ring"),
        ] {
            assert!(matches!(bad.check(&memory, 0), Err(RingError::Misaligned { area: a, .. }) if a == area));
        }
        for (bad, area) in [
            (RingLayout { descriptors: 0x1_0010, ..good }, "descriptor table"),
            (RingLayout { available: 0xff0, ..good }, "available ring"),
            (RingLayout { used: 0x1_1000 - 6 - 8 * 256 + 2 + 4, ..good }, "used ring"),
            (RingLayout { used: u64::MAX - 3, ..good }, "used ring"),
        ] {
            assert!(matches!(bad.check(&memory, 0), Err(RingError::Outside { area: a, .. }) if a == area), "{bad:?}");
        }
    }

    #[test]
    fn places_of_packed_rings() {
        let memory = memory();
        let check = |layout: RingLayout| layout.check(&memory, features::RING_PACKED);
        let good = RingLayout { size: 256, descriptors: 0x1000, available: 0x1_0ff8, used: 0x1_0ffc };
        assert_eq!(check(good), Ok(()));
        for (bad, area) in [
            (RingLayout { descriptors: 0x1008, ..good }, "descriptor ring"),
            (RingLayout { available: 0x2002, ..good }, "driver event area"),
            (RingLayout { used: 0x3002, ..good }, "device event area"),
        ] {
            assert!(matches!(check(bad), Err(RingError::Misaligned { area: a, .. }) if a == area));
        }
        for (bad, area) in [
            (RingLayout { descriptors: 0x1_0010, ..good }, "descriptor ring"),
            (RingLayout { available: 0x1_1000, ..good }, "driver event area"),
            (RingLayout { used: u64::MAX - 3, ..good }, "device event area"),
        ] {
            assert!(matches!(check(bad), Err(RingError::Outside { area: a, .. }) if a == area), "{bad:?}");
        }
        assert_eq!(check(RingLayout { size: 100, ..good }), Err(RingError::Size(100)));
    }
}

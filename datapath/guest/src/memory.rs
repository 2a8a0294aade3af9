//! The memory that a frontend shares with us: a table of regions, mapped, and translation of addresses into it.
//!
//! A table never changes. Adding or removing a region makes a new table that shares the other mappings, so a session can
//! map first and swap afterwards, and a bad request leaves the old table in force. Addresses come in two kinds: a
//! descriptor holds *guest* addresses, a ring is placed by *user* addresses (the frontend's own; vhost-user spec,
//! "Memory region description").

#![expect(unsafe_code, reason = "unmapping order: the guard goes before the mapping")]

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::FileType;
use vm_memory::{FileOffset, MmapRegion};

use crate::bus_fault;

/// How many regions one table may have. QEMU sends one for each block of RAM and each hot-plugged DIMM.
pub const MAX_REGIONS: usize = 128;

/// How many bytes the regions of one table may have in all: more than any guest has, so that a sparse file of absurd size
/// does not take our address space.
pub const MAX_BYTES: u64 = 4 << 40;

/// One region as the frontend describes it (vhost-user spec, "Single memory region description").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First guest-physical address.
    pub guest_address: u64,
    /// Length in bytes.
    pub size: u64,
    /// First address in the frontend's own address space.
    pub user_address: u64,
    /// Where the region starts in its file, in bytes.
    pub mmap_offset: u64,
}

/// Why a region or a table was refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The region has no bytes.
    #[error("memory region at guest address {0:#x} is empty")]
    Empty(u64),
    /// An address or offset plus the size exceeds 64 bits.
    #[error("memory region at guest address {0:#x}: address or offset plus size overflows")]
    Overflow(u64),
    /// Two regions share addresses.
    #[error("memory region at guest address {0:#x} overlaps another region")]
    Overlap(u64),
    /// More than [`MAX_REGIONS`].
    #[error("more than {MAX_REGIONS} memory regions")]
    TooMany,
    /// More than [`MAX_BYTES`].
    #[error("memory regions of more than {} TiB in all", MAX_BYTES >> 40)]
    TooLarge,
    /// No region has these bounds.
    #[error("no memory region has guest address {0:#x} and that size")]
    Unknown(u64),
    /// The descriptor is not a regular file (memfd, hugetlbfs and plain files are).
    #[error("memory region at guest address {0:#x}: its descriptor is not a file of memory")]
    NotAFile(u64),
    /// The file is on a file system that can keep us waiting for its bytes.
    #[error(
        "memory region at guest address {0:#x}: its file is on a network or FUSE file system; share memory by memfd or hugetlbfs"
    )]
    SlowFile(u64),
    /// The file ends before the region does.
    #[error(
        "memory region at guest address {guest_address:#x}: needs {needed} bytes of its file, which has {available}"
    )]
    ShortFile {
        /// First guest-physical address.
        guest_address: u64,
        /// Offset plus size.
        needed: u64,
        /// The file's length.
        available: u64,
    },
    /// The kernel refused to map the file, or to tell about it.
    #[error("memory region at guest address {guest_address:#x} cannot be mapped: {reason}")]
    Map {
        /// First guest-physical address.
        guest_address: u64,
        /// The kernel's reason.
        reason: String,
    },
    /// Too many regions of all guests together.
    #[error(
        "the guests of all ports together have too many memory regions; a table of at most {} is always taken",
        bus_fault::ORDINARY_REGIONS
    )]
    NoGuard,
}

/// An immutable table of mapped regions.
#[derive(Debug)]
pub struct Memory {
    /// By guest address.
    mappings: Box<[Arc<Mapping>]>,
    /// The same order, what translation needs only.
    by_guest: Box<[Span]>,
    by_user: Box<[Span]>,
}

impl Memory {
    /// Maps a whole table.
    ///
    /// # Errors
    /// Any [`MemoryError`]; nothing stays mapped then.
    pub fn map(regions: Vec<(Region, OwnedFd)>) -> Result<Self, MemoryError> {
        if regions.len() > MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        check_total(regions.iter().map(|(region, _)| region.size))?;
        let count = regions.len();
        let mappings = regions.into_iter().map(|(region, file)| Mapping::new(region, file, count).map(Arc::new));
        Self::from_mappings(mappings.collect::<Result<_, _>>()?)
    }

    /// A table with one region more, sharing all mappings of this one.
    ///
    /// # Errors
    /// Any [`MemoryError`].
    pub fn with_region(&self, region: Region, file: OwnedFd) -> Result<Self, MemoryError> {
        if self.mappings.len() >= MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        check_total(self.regions().map(|region| region.size).chain([region.size]))?;
        let mut mappings = self.mappings.to_vec();
        mappings.push(Arc::new(Mapping::new(region, file, self.mappings.len() + 1)?));
        Self::from_mappings(mappings)
    }

    /// A table without the region of the same guest address, user address and size.
    ///
    /// # Errors
    /// [`MemoryError::Unknown`] when there is none.
    pub fn without_region(&self, region: Region) -> Result<Self, MemoryError> {
        let same = |other: &Region| {
            (other.guest_address, other.user_address, other.size)
                == (region.guest_address, region.user_address, region.size)
        };
        let mappings: Vec<_> = self.mappings.iter().filter(|mapping| !same(&mapping.region)).cloned().collect();
        if mappings.len() == self.mappings.len() {
            return Err(MemoryError::Unknown(region.guest_address));
        }
        Self::from_mappings(mappings)
    }

    /// The regions, by guest address.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = Region> + '_ {
        self.mappings.iter().map(|mapping| mapping.region)
    }

    /// The regions with the files that they are in, by guest address.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (Region, Option<BorrowedFd<'_>>)> {
        self.mappings.iter().map(|mapping| (mapping.region, mapping.file().map(|file| file.as_fd())))
    }

    /// The first guest address behind all regions; 0 without any.
    pub fn end(&self) -> u64 {
        // A region ends below 2^64.
        self.by_guest.last().map_or(0, |span| span.last.saturating_add(1))
    }

    /// The guest address of a byte that a pointer leads to.
    pub(crate) fn guest_address(&self, pointer: *const u8) -> Option<u64> {
        self.by_guest.iter().find_map(|span| {
            let offset = u64::try_from(pointer.addr().wrapping_sub(span.host.addr())).ok()?;
            (offset <= span.last - span.first).then_some(span.first.wrapping_add(offset))
        })
    }

    /// Whether a region was lost because its file was truncated. Its bytes are anonymous memory now.
    pub fn faulted(&self) -> bool {
        self.mappings.iter().any(|mapping| mapping.faulted())
    }

    /// Where `length` bytes at a guest address are, if all of them lie in one region. `hint` is the region to try
    /// first, and is set to the one found.
    #[inline]
    pub(crate) fn guest_pointer(&self, address: u64, length: u32, hint: &mut usize) -> Option<*mut u8> {
        if let Some(pointer) = self.by_guest.get(*hint).and_then(|span| span.pointer(address, u64::from(length))) {
            return Some(pointer);
        }
        let (index, pointer) = find(&self.by_guest, address, u64::from(length))?;
        *hint = index;
        Some(pointer)
    }

    /// The region of that number, or one without bytes.
    #[inline]
    pub(crate) fn window(&self, number: usize) -> Window {
        let none = Window { first: 0, bytes: 0, host: std::ptr::null_mut() };
        self.by_guest.get(number).map_or(none, |span| Window {
            first: span.first,
            // A region ends below 2^64.
            bytes: span.last.wrapping_sub(span.first).wrapping_add(1),
            host: span.host,
        })
    }

    /// Where `length` bytes at a user address are, if all of them lie in one region.
    pub(crate) fn user_pointer(&self, address: u64, length: u64) -> Option<*mut u8> {
        find(&self.by_user, address, length).map(|(_, pointer)| pointer)
    }

    fn from_mappings(mut mappings: Vec<Arc<Mapping>>) -> Result<Self, MemoryError> {
        mappings.sort_by_key(|mapping| mapping.region.guest_address);
        let mut by_user: Vec<_> = mappings.iter().map(|mapping| mapping.span(mapping.region.user_address)).collect();
        by_user.sort_by_key(|span| span.first);
        let by_guest: Vec<_> = mappings.iter().map(|mapping| mapping.span(mapping.region.guest_address)).collect();
        if let Some(span) = overlap(&by_guest) {
            return Err(MemoryError::Overlap(span.first));
        }
        if let Some(span) = overlap(&by_user) {
            let same = |mapping: &&Arc<Mapping>| mapping.region.user_address == span.first;
            let guest = mappings.iter().find(same).map_or(span.first, |mapping| mapping.region.guest_address);
            return Err(MemoryError::Overlap(guest));
        }
        Ok(Self { mappings: mappings.into(), by_guest: by_guest.into(), by_user: by_user.into() })
    }
}

/// One region, mapped for as long as a table has it.
#[derive(Debug)]
pub(crate) struct Mapping {
    region: Region,
    /// First byte of the region, which may lie behind the first byte of the mapping.
    host: *mut u8,
    guard: ManuallyDrop<bus_fault::Guard>,
    mapped: ManuallyDrop<MmapRegion>,
}

// SAFETY: `host` points into `mapped`, which is owned; all access to the bytes is volatile or copying, bounds checked.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing in a mapping changes after `new`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// One of `count` regions of a table.
    pub(crate) fn new(region: Region, file: OwnedFd, count: usize) -> Result<Self, MemoryError> {
        let at = region.guest_address;
        if region.size == 0 {
            return Err(MemoryError::Empty(at));
        }
        let end = |start: u64| start.checked_add(region.size).ok_or(MemoryError::Overflow(at));
        end(region.guest_address)?;
        end(region.user_address)?;
        let needed = end(region.mmap_offset)?;

        let refused = |reason: String| MemoryError::Map { guest_address: at, reason };
        let status = rustix::fs::fstat(file.as_fd()).map_err(|error| refused(error.to_string()))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(MemoryError::NotAFile(at));
        }
        let system = rustix::fs::fstatfs(file.as_fd()).map_err(|error| refused(error.to_string()))?;
        if SLOW_FILE_SYSTEMS.contains(&system.f_type) {
            return Err(MemoryError::SlowFile(at));
        }
        let available = u64::try_from(status.st_size).unwrap_or(0);
        if needed > available {
            return Err(MemoryError::ShortFile { guest_address: at, needed, available });
        }
        // A huge-page file is mapped in whole pages, and its block size is the page size.
        let page = u64::try_from(status.st_blksize).unwrap_or(0).next_power_of_two().max(4096);
        let lead = region.mmap_offset % page;
        let length = (region.size + lead).checked_next_multiple_of(page).ok_or(MemoryError::Overflow(at))?;
        let length = usize::try_from(length).map_err(|_| MemoryError::Overflow(at))?;
        let lead_bytes = usize::try_from(lead).map_err(|_| MemoryError::Overflow(at))?;

        let mapped = MmapRegion::build(
            Some(FileOffset::new(File::from(file), region.mmap_offset - lead)),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        )
        .map_err(|error| refused(error.to_string()))?;
        let guard = bus_fault::Guard::new(mapped.as_ptr() as usize, length, count).ok_or(MemoryError::NoGuard)?;
        let host = mapped.as_ptr().wrapping_add(lead_bytes);
        Ok(Self { region, host, guard: ManuallyDrop::new(guard), mapped: ManuallyDrop::new(mapped) })
    }

    /// Its first byte.
    pub(crate) const fn host(&self) -> *mut u8 {
        self.host
    }

    /// The file that it is in.
    pub(crate) fn file(&self) -> Option<&File> {
        self.mapped.file_offset().map(|at| at.file())
    }

    /// Whether it was lost because its file was truncated.
    pub(crate) fn faulted(&self) -> bool {
        self.guard.hit()
    }

    fn span(&self, first: u64) -> Span {
        // `new` checked that the sum does not overflow.
        Span { first, last: first.wrapping_add(self.region.size - 1), host: self.host }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: each is dropped once, here; the guard first, so that the handler never sees an unmapped range.
        unsafe {
            ManuallyDrop::drop(&mut self.guard);
            ManuallyDrop::drop(&mut self.mapped);
        }
    }
}

/// A range of addresses and where its first byte is.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    last: u64,
    host: *mut u8,
}

// SAFETY: a plain address; the table that holds it owns the mapping.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Span {
    #[inline]
    fn pointer(&self, address: u64, length: u64) -> Option<*mut u8> {
        // An address before the first one is an offset behind the last one: the span ends below 2^64.
        let (offset, last) = (address.wrapping_sub(self.first), self.last.wrapping_sub(self.first));
        if offset > last || length > (last - offset).saturating_add(1) {
            return None;
        }
        Some(self.host.wrapping_add(usize::try_from(offset).ok()?))
    }
}

/// One region, to look for many addresses of which most lie in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    first: u64,
    bytes: u64,
    host: *mut u8,
}

impl Window {
    /// Where `length` bytes at a guest address are, if all of them lie in this region.
    #[inline(always)]
    pub(crate) fn pointer(&self, address: u64, length: u32) -> Option<*mut u8> {
        // An address before the first one is an offset far behind the end.
        let offset = address.wrapping_sub(self.first);
        if offset.checked_add(u64::from(length))? > self.bytes {
            return None;
        }
        Some(self.host.wrapping_add(usize::try_from(offset).ok()?))
    }
}

/// FUSE, NFS, CIFS, SMB2, 9P, Ceph (statfs(2)): whoever serves them decides when a page arrives.
const SLOW_FILE_SYSTEMS: [i64; 6] = [0x6573_5546, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400];

fn check_total(sizes: impl Iterator<Item = u64>) -> Result<(), MemoryError> {
    let total = sizes.fold(0_u64, u64::saturating_add);
    if total > MAX_BYTES { Err(MemoryError::TooLarge) } else { Ok(()) }
}

/// A span that has addresses of another one, of spans in the order of their first addresses.
fn overlap(spans: &[Span]) -> Option<&Span> {
    spans.windows(2).find_map(|pair| match pair {
        [one, next] if one.last >= next.first => Some(next),
        _ => None,
    })
}

fn find(spans: &[Span], address: u64, length: u64) -> Option<(usize, *mut u8)> {
    let index = spans.partition_point(|span| span.last < address);
    Some((index, spans.get(index)?.pointer(address, length)?))
}

#[cfg(test)]
pub(crate) mod proofs;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;

    fn memfd(size: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, size).unwrap();
        file
    }

    fn region(guest_address: u64, size: u64, user_address: u64) -> Region {
        Region { guest_address, size, user_address, mmap_offset: 0 }
    }

    fn map(regions: &[Region]) -> Result<Memory, MemoryError> {
        Memory::map(regions.iter().map(|&region| (region, memfd(region.mmap_offset + region.size))).collect())
    }

    #[test]
    fn addresses_are_found_only_inside_of_one_region() {
        let memory = map(&[region(0x10_0000, 0x2000, 0x7000_0000), region(0x10_2000, 0x1000, 0x6000_0000)]).unwrap();
        let mut hint = 0;
        for (address, length, found) in [
            (0x10_0000, 0x2000, true),
            (0x10_0000, 0x2001, false), // crosses into the next region
            (0x10_1fff, 1, true),
            (0x10_2000, 0x1000, true),
            (0x10_2fff, 2, false),
            (0x10_3000, 0, false),
            (0x0f_ffff, 1, false),
            (u64::MAX, 1, false),
            (u64::MAX - 1, u32::MAX, false),
        ] {
            assert_eq!(memory.guest_pointer(address, length, &mut hint).is_some(), found, "{address:#x}+{length:#x}");
        }
        assert!(memory.user_pointer(0x6000_0fff, 1).is_some());
        assert!(memory.user_pointer(0x6000_1000, 1).is_none());
    }

    #[test]
    fn bad_regions_are_refused() {
        assert!(matches!(map(&[region(0, 0, 0)]), Err(MemoryError::Empty(0))));
        assert!(matches!(map(&[region(u64::MAX, 0x1000, 0)]), Err(MemoryError::Overflow(_))));
        assert!(matches!(map(&[region(0, 0x1000, u64::MAX - 5)]), Err(MemoryError::Overflow(_))));
        let offset = Region { mmap_offset: u64::MAX, ..region(0, 0x1000, 0) };
        assert!(matches!(Memory::map(vec![(offset, memfd(0x1000))]), Err(MemoryError::Overflow(_))));
        assert!(matches!(
            map(&[region(0, 0x2000, 0), region(0x1000, 0x1000, 0x9000)]),
            Err(MemoryError::Overlap(0x1000))
        ));
        assert!(matches!(
            map(&[region(0, 0x2000, 0), region(0x9000, 0x1000, 0x1000)]),
            Err(MemoryError::Overlap(0x9000))
        ));
        assert!(matches!(Memory::map(vec![(region(0, 0x2000, 0), memfd(0x1000))]), Err(MemoryError::ShortFile { .. })));
        let sparse = map(&[region(0, MAX_BYTES, 0), region(MAX_BYTES, 0x1000, MAX_BYTES)]);
        assert!(matches!(sparse, Err(MemoryError::TooLarge)));
        let many: Vec<_> = (0..=MAX_REGIONS as u64).map(|i| region(i << 12, 0x1000, i << 12)).collect();
        assert!(matches!(map(&many), Err(MemoryError::TooMany)));
    }

    #[test]
    fn descriptors_that_are_not_files_are_refused() {
        for path in ["/dev/zero", "/tmp"] {
            let file = OwnedFd::from(File::open(path).unwrap());
            assert!(matches!(Memory::map(vec![(region(0, 0x1000, 0), file)]), Err(MemoryError::NotAFile(0))), "{path}");
        }
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().set_len(0x1000).unwrap();
        let read_only = OwnedFd::from(File::open(path.path()).unwrap());
        assert!(matches!(Memory::map(vec![(region(0, 0x1000, 0), read_only)]), Err(MemoryError::Map { .. })));
    }

    #[test]
    fn regions_come_and_go_and_others_stay_mapped() {
        let (one, two) = (region(0, 0x1000, 0x1000), region(0x10_0000, 0x1000, 0x9000));
        let table = map(&[one]).unwrap();
        let both = table.with_region(two, memfd(0x1000)).unwrap();
        assert_eq!(both.guest_pointer(0, 1, &mut 0), table.guest_pointer(0, 1, &mut 0));
        assert!(matches!(both.with_region(two, memfd(0x1000)), Err(MemoryError::Overlap(_))));
        let rest = both.without_region(one).unwrap();
        assert_eq!(rest.regions().collect::<Vec<_>>(), [two]);
        assert!(matches!(rest.without_region(one), Err(MemoryError::Unknown(0))));
    }

    #[test]
    fn an_unaligned_offset_is_mapped_where_it_is() {
        let file = memfd(0x3000);
        rustix::io::pwrite(&file, b"here", 0x1234).unwrap();
        let memory =
            Memory::map(vec![(Region { mmap_offset: 0x1234, ..region(0x5000, 0x100, 0x9000) }, file)]).unwrap();
        let mut bytes = [0; 4];
        crate::piece::Piece::in_guest(&memory, 0x5000, 4).unwrap().copy_to(0, &mut bytes);
        assert_eq!(&bytes, b"here");
    }

    #[test]
    fn a_truncated_file_marks_its_region_and_does_not_end_us() {
        let file = memfd(0x4000);
        let again = file.try_clone().unwrap();
        let memory = Memory::map(vec![(region(0, 0x4000, 0), file)]).unwrap();
        assert!(!memory.faulted());
        rustix::fs::ftruncate(&again, 0).unwrap();
        let before = bus_fault::count();
        let mut bytes = [7; 16];
        crate::piece::Piece::in_guest(&memory, 0x2000, 16).unwrap().copy_to(0, &mut bytes);
        assert_eq!(bytes, [0; 16]);
        assert!(memory.faulted());
        assert!(bus_fault::count() > before);
    }
}

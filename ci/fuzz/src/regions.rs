//! Tables of memory regions: made, extended, shortened, with files of all kinds, and addresses looked up in them, compared
//! with a list that is searched from its start.

use std::os::fd::{AsFd, OwnedFd};

use arbitrary::{Arbitrary, Unstructured};
use culvert_guest::{Memory, MemoryError, Region, RingLayout};

use crate::descriptor::{self, COMMON_BYTES, Kind};

#[derive(Arbitrary, Debug)]
enum Operation {
    /// A whole new table.
    Map(Vec<Wish>),
    Add(Wish),
    /// The region at a place in the table, perhaps with other bounds.
    Remove {
        which: u8,
        change: Option<Numbers>,
    },
    /// A ring that begins there.
    Ring {
        size: u8,
        at: [Number; 3],
    },
}

#[derive(Arbitrary, Debug)]
struct Wish {
    numbers: Numbers,
    kind: Option<Kind>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Numbers {
    guest: Number,
    size: Number,
    user: Number,
    offset: Number,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Page(u8),
    Bytes(u16),
    /// So far from 2^64.
    Top(u16),
    Any(u64),
}

impl Number {
    fn value(self) -> u64 {
        match self {
            Self::Page(page) => u64::from(page) * 0x1000,
            Self::Bytes(bytes) => bytes.into(),
            Self::Top(below) => u64::MAX - u64::from(below),
            Self::Any(value) => value,
        }
    }
}

impl Numbers {
    fn region(self) -> Region {
        Region {
            guest_address: self.guest.value(),
            size: self.size.value(),
            user_address: self.user.value(),
            mmap_offset: self.offset.value(),
        }
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(operations) = Vec::<Operation>::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let file = descriptor::common();
    let free = descriptor::lowest_free();
    let mut table: Option<Memory> = None;
    for operation in operations.iter().take(12) {
        match operation {
            Operation::Map(wishes) => {
                let wishes = || wishes.iter().take(8);
                let regions = wishes().map(|wish| (wish.numbers.region(), open(wish, file))).collect();
                let expected = wishes().map(|wish| wish.numbers.region()).collect::<Vec<_>>();
                let usable = wishes().all(is_memory);
                table = judge(Memory::map(regions), expected, usable).or(table);
            }
            Operation::Add(wish) => {
                let Some(before) = &table else { continue };
                let region = wish.numbers.region();
                let expected = before.regions().chain([region]).collect();
                table = judge(before.with_region(region, open(wish, file)), expected, is_memory(wish)).or(table);
            }
            Operation::Remove { which, change } => {
                let Some(before) = &table else { continue };
                let regions: Vec<_> = before.regions().collect();
                let found = regions.get(usize::from(*which) % regions.len().max(1)).copied();
                let region = change.map(Numbers::region).or(found).unwrap_or(ANY);
                let bounds = |region: &Region| (region.guest_address, region.size, region.user_address);
                let left: Vec<_> = regions.iter().filter(|other| bounds(other) != bounds(&region)).copied().collect();
                match before.without_region(region) {
                    Ok(after) => {
                        assert_eq!(after.regions().collect::<Vec<_>>(), left);
                        table = Some(after);
                    }
                    Err(error) => {
                        assert!(matches!(error, MemoryError::Unknown(_)) && left.len() == regions.len(), "{error}");
                    }
                }
            }
            Operation::Ring { size, at } => {
                let Some(memory) = &table else { continue };
                let [descriptors, available, used] = at.map(Number::value);
                let layout = RingLayout { size: u16::from(*size), descriptors, available, used };
                let entries = u64::from(*size);
                let areas =
                    [(descriptors, 16 * entries, 16), (available, 6 + 2 * entries, 2), (used, 6 + 8 * entries, 4)];
                let inside = |&(at, length, align): &(u64, u64, u64)| {
                    let holds = |region: Region| {
                        at >= region.user_address
                            && at.checked_add(length).is_some_and(|end| end <= region.user_address + region.size)
                    };
                    at.is_multiple_of(align) && memory.regions().any(holds)
                };
                if layout.check(memory, 0).is_ok() {
                    assert!(size.is_power_of_two() && areas.iter().all(inside), "{layout:?}");
                }
            }
        }
    }
    drop(table);
    assert_eq!(descriptor::lowest_free(), free, "a descriptor stays open");
}

/// What became of a table that was asked for: all regions, or a reason.
fn judge(result: Result<Memory, MemoryError>, mut expected: Vec<Region>, usable: bool) -> Option<Memory> {
    let good = usable && expected.iter().all(fits) && !overlap(&expected);
    match result {
        Ok(memory) => {
            assert!(good, "a bad table was mapped: {expected:?}");
            expected.sort_by_key(|region| region.guest_address);
            assert_eq!(memory.regions().collect::<Vec<_>>(), expected);
            assert!(!memory.faulted());
            Some(memory)
        }
        Err(error) => {
            assert!(!good, "a good table was refused: {error}");
            None
        }
    }
}

fn fits(region: &Region) -> bool {
    let end = |start: u64| start.checked_add(region.size);
    region.size > 0
        && end(region.guest_address).is_some()
        && end(region.user_address).is_some()
        && end(region.mmap_offset).is_some_and(|end| end <= COMMON_BYTES)
}

fn overlap(regions: &[Region]) -> bool {
    let meet = |one: u64, other: u64, sizes: [u64; 2]| {
        let (one_end, other_end) = (u128::from(one) + u128::from(sizes[0]), u128::from(other) + u128::from(sizes[1]));
        u128::from(one) < other_end && u128::from(other) < one_end
    };
    regions.iter().enumerate().any(|(at, one)| {
        regions[at + 1..].iter().any(|other| {
            let sizes = [one.size, other.size];
            meet(one.guest_address, other.guest_address, sizes) || meet(one.user_address, other.user_address, sizes)
        })
    })
}

/// Whether the file can be mapped as far as the region goes.
fn is_memory(wish: &Wish) -> bool {
    let region = wish.numbers.region();
    match wish.kind {
        None | Some(Kind::Memory) => true,
        Some(Kind::ShortFile) => region.mmap_offset.checked_add(region.size).is_some_and(|end| end <= 100),
        Some(_) => false,
    }
}

fn open(wish: &Wish, file: &OwnedFd) -> OwnedFd {
    match wish.kind {
        None => file.as_fd().try_clone_to_owned().expect("another descriptor"),
        Some(kind) => descriptor::open(kind, file),
    }
}

const ANY: Region = Region { guest_address: 0, size: 1, user_address: 0, mmap_offset: 0 };

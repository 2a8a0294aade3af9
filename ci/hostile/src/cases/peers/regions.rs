//! Memory tables that cannot be, and tables that change under traffic. V7, V9.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use rustix::fs::MemfdFlags;

use super::flood::Flood;
use super::{may_refuse, passes, refused, teach};
use crate::case::{Case, case};
use crate::field::Field;
use crate::guest::{region, share_memory};
use crate::raw_frontend::{RawRegion, memory_table, numbers, request};

pub const TABLES: Case = case(
    "V7",
    "memory-tables-that-cannot-be",
    "Regions that are none, too many, empty, overlap or overflow, or outgrow their file: refused, the old table stays.",
    tables,
);

pub const SAME_FILE: Case = case(
    "V9",
    "the-same-file-512-times",
    "One file as region 512 times, added and removed in loops: slots are bounded, nothing adds up.",
    same_file,
);

pub const IN_USE: Case = case(
    "V9",
    "regions-removed-in-use",
    "The region of rings and buffers is removed and shared again under traffic: nothing is used that is gone.",
    in_use,
);

fn memory(size: u64) -> Result<OwnedFd> {
    let file = rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, size)?;
    Ok(file)
}

fn at(guest_address: u64, size: u64, user_address: u64, offset: u64) -> RawRegion {
    RawRegion { guest_address, size, user_address, offset }
}

fn tables(field: &mut Field) -> Result<()> {
    field.may_tell("refused");
    let mut guest = field.connect_victim(Default::default(), 0)?;
    let file = memory(0x10_0000)?;
    let (page, size, user, most) = (0x1000, 0x10_0000, 1 << 40, u64::MAX);
    let nine: Vec<_> = (0..9).map(|index| at(index * page, page, user + index * page, 0)).collect();
    let bad: [(&str, Vec<RawRegion>); 15] = [
        ("no region", vec![]),
        ("nine regions", nine),
        ("no bytes", vec![at(0, 0, user, 0)]),
        ("the guest's address overflows", vec![at(most - 5, size, user, 0)]),
        ("the guest's address overflows by one", vec![at(most - size + 1, size, user, 0)]),
        ("the user's address overflows", vec![at(0, size, most - 5, 0)]),
        ("the offset overflows", vec![at(0, size, user, most - 5)]),
        ("the offset overflows a signed number", vec![at(0, size, user, (1 << 63) - 1)]),
        ("the size overflows when it is rounded up", vec![at(0, most, 0, 0)]),
        ("a size of half of everything", vec![at(0, 1 << 63, 0, 0)]),
        ("guest addresses overlap", vec![at(0, size, user, 0), at(size - 1, page, 0, 0)]),
        ("user addresses overlap", vec![at(0, size, user, 0), at(size, page, user + 5, 0)]),
        ("one region twice", vec![at(0, size, user, 0), at(0, size, user, 0)]),
        ("behind the end of the file", vec![at(0, size, user, 1)]),
        ("wholly behind the end of the file", vec![at(0, page, user, 2 * size)]),
    ];
    for (what, regions) in &bad {
        let count = u32::try_from(regions.len())?;
        let files: Vec<BorrowedFd> = regions.iter().map(|_| file.as_fd()).collect();
        let table = memory_table(count, regions);
        // More than eight descriptors are no message of the protocol.
        if files.len() <= 8 {
            ensure!(refused(&guest.frontend, what, request::SET_MEM_TABLE, &table, &files)?, "{what}: closed");
        }
        for region in regions {
            let body = [numbers(&[0]), region.body()].concat();
            if !matches!(
                *what,
                "nine regions" | "guest addresses overlap" | "user addresses overlap" | "one region twice"
            ) {
                refused(&guest.frontend, what, request::ADD_MEM_REG, &body, &[file.as_fd()])?;
            }
        }
        passes(&mut guest).with_context(|| format!("after {what}"))?;
    }
    for count in [0, 2, 8, u32::MAX] {
        let table = memory_table(count, &[at(0, size, user, 0)]);
        ensure!(refused(&guest.frontend, "a count that lies", request::SET_MEM_TABLE, &table, &[file.as_fd()])?);
    }
    passes(&mut guest)
}

fn same_file(field: &mut Field) -> Result<()> {
    for sentence in ["refused", "too many messages"] {
        field.may_tell(sentence);
    }
    let mut guest = field.connect_victim(Default::default(), 0)?;
    let file = memory(0x1000)?;
    let body = |index: u64| [numbers(&[0]), at(index << 12, 0x1000, (1 << 40) + (index << 12), 0).body()].concat();
    let mut taken = 0;
    for index in 0..512 {
        taken += u64::from(guest.frontend.ask(request::ADD_MEM_REG, &body(index), &[file.as_fd()])? == 0);
    }
    ensure!((1..=509).contains(&taken), "{taken} of 512 regions were taken");
    for index in 0..taken {
        guest.frontend.must(request::REM_MEM_REG, &body(index), &[])?;
    }
    for _ in 0..50 {
        guest.frontend.must(request::ADD_MEM_REG, &body(0), &[file.as_fd()])?;
        guest.frontend.must(request::REM_MEM_REG, &body(0), &[file.as_fd()])?;
        ensure!(refused(&guest.frontend, "removed twice", request::REM_MEM_REG, &body(0), &[])?);
    }
    passes(&mut guest)
}

fn in_use(field: &mut Field) -> Result<()> {
    may_refuse(field);
    field.may_tell("too many messages");
    let mut guest = field.connect_victim(Default::default(), 0)?;
    // Another guest sends to it meanwhile: culvertd is in the victim's receive buffers.
    let other = field.add_port("floods-the-removed", "")?;
    teach(&mut guest, [2, 0, 0, 0, 0, 0x77])?;
    let flood = Flood::start(&other, [2, 0, 0, 0, 0, 0x77])?;
    let body = [numbers(&[0]), region(&guest.interface).body()].concat();
    for _ in 0..100 {
        guest.frontend.must(request::REM_MEM_REG, &body, &[])?;
        guest.frontend.must(request::ADD_MEM_REG, &body, &[guest.interface.ram().file()])?;
        share_memory(&guest.frontend, &guest.interface)?;
    }
    flood.end()?;
    passes(&mut guest)
}

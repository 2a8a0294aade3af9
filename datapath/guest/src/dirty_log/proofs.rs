//! Which pages are marked.

use culvert_proofs::{Choices, proofs};
use rustix::fs::MemfdFlags;

use super::*;

proofs! {
    the_pages_that_a_range_touches_are_marked_and_no_others: 2_300,
}

thread_local! {
    /// A log of 24 pages and its file.
    static LOG: (DirtyLog, OwnedFd) = {
        let file = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 0x1000).unwrap();
        (DirtyLog::map(file.try_clone().unwrap(), 3, 0).unwrap(), file)
    };
}

/// A page is marked where the range has a byte of it, and the log reaches it: a log of 24 pages, ranges from three places in each of 27 and
/// at the far end, lengths around a page, a byte of marks, and all there is. (It asks the kernel for a file.)
fn the_pages_that_a_range_touches_are_marked_and_no_others(choices: &mut Choices) {
    let page = choices.of(&[0, 1, 2, 6, 7, 8, 9, 14, 15, 16, 17, 22, 23, 24, 26, u64::MAX / PAGE_BYTES]);
    let address = page * PAGE_BYTES + choices.of(&[0, 1, PAGE_BYTES - 1]);
    let pages = choices.of(&[0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 24, u64::MAX / PAGE_BYTES]);
    let length = (pages * PAGE_BYTES).saturating_add(choices.of(&[0, 1, 2, PAGE_BYTES - 1]));
    let mut marks = [0; 4];
    LOG.with(|(log, file)| {
        rustix::io::pwrite(file, &[0; 3], 0).unwrap();
        log.mark(address, length);
        rustix::io::pread(file, &mut marks, 0).unwrap();
    });
    let end = u128::from(address) + u128::from(length);
    for page in 0..32 {
        let (first, behind) = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
        let is_touched = length > 0 && address < behind && u128::from(first) < end && page < 24;
        let index = usize::try_from(page).unwrap();
        assert_eq!(marks[index / 8] >> (index % 8) & 1 == 1, is_touched, "page {page} of {address:#x}+{length:#x}");
    }
}

//! Whether DPDK's memory comes from hugepages.
//!
//! EAL can be started once, so a start that fails for want of pages cannot be tried again without them: the
//! decision falls before. The kernel's counts do not tell of a container's limit, so the pages are taken for a
//! moment and given back.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

/// The `hugepages` setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Where enough free ones can be had.
    #[default]
    Auto,
    /// Or not at all: starting fails without them.
    Always,
    /// Ordinary memory, always.
    Never,
}

/// What was decided, and why. `Display` gives a sentence for status and log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HugepageUse {
    /// Memory is in hugepages of this size in KiB.
    Used {
        /// Page size in KiB.
        page_kb: u64,
    },
    /// Memory is in ordinary pages, for this reason.
    NotUsed {
        /// Why, as a clause: "the setting is never".
        reason: String,
    },
}

impl fmt::Display for HugepageUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HugepageUse::Used { page_kb } => write!(f, "hugepages of {page_kb} KiB"),
            HugepageUse::NotUsed { reason } => write!(f, "ordinary pages: {reason}"),
        }
    }
}

/// One size of hugepages that the kernel has, and how many of them are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageSize {
    kb: u64,
    free: u64,
}

/// Decides for `bytes` of memory. The error is a sentence that tells what is missing and how to get it.
pub(crate) fn decide(policy: Hugepages, bytes: u64) -> Result<HugepageUse, String> {
    decide_among(policy, bytes, &page_sizes(Path::new("/sys/kernel/mm/hugepages")), try_out)
}

fn decide_among(
    policy: Hugepages,
    bytes: u64,
    sizes: &[PageSize],
    try_out: impl Fn(u64, u64) -> io::Result<()>,
) -> Result<HugepageUse, String> {
    if policy == Hugepages::Never {
        return Ok(HugepageUse::NotUsed { reason: "the setting is never".to_owned() });
    }
    let mut missing = Vec::new();
    for size in sizes {
        let needed = bytes.div_ceil(size.kb * 1024);
        if size.free < needed {
            missing.push(format!("{needed} pages of {} KiB are needed and {} are free", size.kb, size.free));
        } else if let Err(error) = try_out(size.kb, needed * size.kb * 1024) {
            missing.push(format!("{needed} free pages of {} KiB cannot be taken: {error}", size.kb));
        } else {
            return Ok(HugepageUse::Used { page_kb: size.kb });
        }
    }
    let reason = if missing.is_empty() { "this kernel has no hugepages".to_owned() } else { missing.join(", ") };
    match (policy, sizes.first()) {
        (Hugepages::Always, Some(size)) => Err(format!(
            "{reason}; reserve them with `sysctl vm.nr_hugepages={}` (in a container: a hugepages limit), or set hugepages to auto",
            bytes.div_ceil(size.kb * 1024)
        )),
        (Hugepages::Always, None) => Err(format!("{reason}; set hugepages to auto")),
        _ => Ok(HugepageUse::NotUsed { reason }),
    }
}

/// All sizes, the smallest first.
fn page_sizes(folder: &Path) -> Vec<PageSize> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut sizes: Vec<PageSize> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let kb = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let free = fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
            Some(PageSize { kb, free })
        })
        .filter(|size| size.kb > 0)
        .collect();
    sizes.sort_unstable_by_key(|size| size.kb);
    sizes
}

/// Takes `bytes` in pages of this size, as EAL will, and gives them back.
fn try_out(page_kb: u64, bytes: u64) -> io::Result<()> {
    let shift = (page_kb * 1024).trailing_zeros();
    // memfd_create takes the base-2 logarithm of the page size in the flags from bit 26 (MFD_HUGE_SHIFT) on.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(shift << 26);
    let file = memfd_create("culvert-hugepages", flags)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SMALL: PageSize = PageSize { kb: 2048, free: 128 };
    const LARGE: PageSize = PageSize { kb: 1 << 20, free: 1 };

    fn usable(_: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    #[test]
    fn the_smallest_size_that_suffices_is_taken() {
        let decided = decide_among(Hugepages::Auto, 256 * MIB, &[SMALL, LARGE], usable);
        assert_eq!(decided, Ok(HugepageUse::Used { page_kb: 2048 }));
        let decided = decide_among(Hugepages::Always, 257 * MIB, &[SMALL, LARGE], usable);
        assert_eq!(decided, Ok(HugepageUse::Used { page_kb: 1 << 20 }));
    }

    #[test]
    fn never_means_never() {
        let decided = decide_among(Hugepages::Never, MIB, &[SMALL], usable).unwrap();
        assert_eq!(decided.to_string(), "ordinary pages: the setting is never");
    }

    #[test]
    fn auto_does_without_and_tells_the_number() {
        let decided = decide_among(Hugepages::Auto, 300 * MIB, &[SMALL], usable).unwrap();
        assert_eq!(decided.to_string(), "ordinary pages: 150 pages of 2048 KiB are needed and 128 are free");
    }

    #[test]
    fn always_fails_and_tells_the_number_and_the_remedy() {
        let error = decide_among(Hugepages::Always, 300 * MIB, &[SMALL], usable).unwrap_err();
        assert!(error.starts_with("150 pages of 2048 KiB are needed and 128 are free"), "{error}");
        assert!(error.contains("sysctl vm.nr_hugepages=150"), "{error}");
        assert!(decide_among(Hugepages::Always, MIB, &[], usable).is_err());
    }

    #[test]
    fn pages_that_a_limit_withholds_are_not_counted_on() {
        let refuse = |_, _| Err(io::Error::from_raw_os_error(libc::ENOSPC));
        let decided = decide_among(Hugepages::Auto, MIB, &[SMALL], refuse).unwrap();
        assert!(decided.to_string().contains("1 free pages of 2048 KiB cannot be taken: No space left"), "{decided}");
    }

    #[test]
    fn the_sizes_are_read_from_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for (name, free) in [("hugepages-1048576kB", "1\n"), ("hugepages-2048kB", "128\n"), ("hugepages-4kB", "junk")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("free_hugepages"), free).unwrap();
        }
        assert_eq!(page_sizes(folder.path()), [SMALL, LARGE]);
        assert_eq!(page_sizes(&folder.path().join("absent")), []);
    }
}

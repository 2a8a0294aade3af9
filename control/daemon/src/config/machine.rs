//! What a configuration is checked against: the cores and the memory that this process may use.

use std::collections::BTreeSet;
use std::io;

/// The part of the machine that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Core numbers, as Linux counts them.
    pub cores: BTreeSet<usize>,
    /// Memory in MiB.
    pub memory_mb: u32,
}

impl Machine {
    /// Asks the kernel: the affinity mask of the calling thread (sched_getaffinity(2)) and `MemTotal`.
    ///
    /// # Errors
    /// The kernel's, or an unreadable `/proc/meminfo`.
    pub fn read() -> io::Result<Self> {
        let mask = rustix::thread::sched_getaffinity(None)?;
        let cores = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| mask.is_set(*core)).collect();
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let memory_mb = total_mb(&meminfo).ok_or_else(|| io::Error::other("/proc/meminfo has no line MemTotal"))?;
        Ok(Self { cores, memory_mb })
    }

    /// The cores as a person writes them: `0-3, 8`.
    pub fn core_list(&self) -> String {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for &core in &self.cores {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == core => *last = core,
                _ => runs.push((core, core)),
            }
        }
        let texts: Vec<_> = runs
            .iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        texts.join(", ")
    }
}

/// The `MemTotal` line (proc_meminfo(5)), which is in KiB, as MiB.
fn total_mb(meminfo: &str) -> Option<u32> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(u32::try_from(kib / 1024).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_core_and_memory() {
        let machine = Machine::read().unwrap();
        assert!(!machine.cores.is_empty());
        assert!(machine.memory_mb > 0);
    }

    #[test]
    fn cores_are_listed_in_runs() {
        let list = |cores: &[usize]| Machine { cores: cores.iter().copied().collect(), memory_mb: 1 }.core_list();
        assert_eq!(list(&[0]), "0");
        assert_eq!(list(&[0, 1, 2, 3, 8]), "0-3, 8");
        assert_eq!(list(&[1, 3, 4]), "1, 3-4");
    }

    #[test]
    fn memory_is_read_in_mib() {
        assert_eq!(total_mb("MemTotal:       24685012 kB\nMemFree: 1 kB\n"), Some(24_106));
        assert_eq!(total_mb("MemFree: 1 kB\n"), None);
        assert_eq!(total_mb("MemTotal: many\n"), None);
    }
}

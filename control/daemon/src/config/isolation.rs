//! The keys of `[daemon]` that say what the daemon gives up; [`isolation`](crate::isolation) obeys them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::section::{Report, Section};
use super::value::{self, set};
use crate::isolation::devices::Family;

/// What the daemon gives up, and where it may still go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// How strictly; `full` by default.
    pub mode: Mode,
    /// Folders, besides those that other keys name, in which ports and pods that clients add may have their sockets. None by default.
    pub folders: Vec<PathBuf>,
    /// Kinds of devices that clients may add besides those of the configuration file's ports. None by default.
    pub kinds: BTreeSet<Family>,
}

/// How strictly the daemon is isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// What is not needed is refused.
    #[default]
    Full,
    /// As [`Self::Full`], and a system call that is not needed ends the daemon: for tests.
    Kill,
    /// As [`Self::Full`], but system calls that are not needed are done, and written to the kernel's log.
    Log,
    /// Nothing is given up.
    Off,
}

/// The values of `isolation`.
const MODES: [(&str, Mode); 4] = [("full", Mode::Full), ("kill", Mode::Kill), ("log", Mode::Log), ("off", Mode::Off)];

impl Isolation {
    /// Reads its keys from the `[daemon]` section.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Self {
        let mut isolation = Self::default();
        set(&mut isolation.mode, section.optional(report, "isolation", |value| value::choice(value, &MODES)));
        let example = "[\"/srv/machines\"]";
        let folders =
            section.list(report, "folders", example, |value| value::absolute_path(value, "\"/srv/machines\""));
        isolation.folders = folders.into_iter().flat_map(|found| found.value).map(|found| found.value).collect();
        let kinds = Family::ALL.map(|family| (family.name(), family));
        let found = section.list(report, "device_kinds", "[\"net_tap\"]", |value| value::choice(value, &kinds));
        isolation.kinds = found.into_iter().flat_map(|found| found.value).map(|found| found.value).collect();
        isolation
    }

    /// The keys whose values differ.
    pub(super) fn differences(&self, other: &Self) -> [(&'static str, bool); 3] {
        [
            ("daemon.isolation", self.mode != other.mode),
            ("daemon.folders", self.folders != other.folders),
            ("daemon.device_kinds", self.kinds != other.kinds),
        ]
    }
}

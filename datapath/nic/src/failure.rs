//! Why a device cannot be opened: what DPDK returned, or what we know to be wrong.

use crate::device::Diagnosis;

/// What stopped an opening.
pub(crate) enum Failure {
    /// DPDK gave an error number (positive) while `doing` this.
    Driver { doing: &'static str, code: i32 },
    /// The cause is known.
    Explained(Diagnosis),
}

impl From<Diagnosis> for Failure {
    fn from(diagnosis: Diagnosis) -> Failure {
        Failure::Explained(diagnosis)
    }
}

/// For DPDK's results: negative error numbers.
pub(crate) fn check(doing: &'static str, result: i32) -> Result<(), Failure> {
    if result < 0 { Err(Failure::Driver { doing, code: result.saturating_neg() }) } else { Ok(()) }
}

/// As [`check`], where a driver may do without.
pub(crate) fn check_unless_unsupported(doing: &'static str, result: i32) -> Result<(), Failure> {
    if result == -libc::ENOTSUP { Ok(()) } else { check(doing, result) }
}

/// The step in which DPDK looks for a driver.
pub(crate) const ADDING: &str = "being added";

/// The step in which net_af_xdp makes its sockets.
pub(crate) const QUEUES: &str = "getting its receive queues";

/// The step in which a bond gives its address to its members.
pub(crate) const STARTING: &str = "being started";

//! DPDK's log as tracing events of the target `dpdk`.
//!
//! DPDK writes to a stream of ours, one write per message, in the thread that logs. While a device is opened the
//! messages of weight are kept besides, because the return values of most drivers say only "-1".

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use dpdk_sys as ffi;

/// The warnings and errors since [`collect`] began; None while nobody collects.
static COLLECTED: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// Directs DPDK's log here. To be called before EAL starts.
pub(crate) fn redirect() {
    // SAFETY: `sink` is a function for the life of the process, and is called with text of the given length.
    let result = unsafe { ffi::culvert_log_to(Some(sink)) };
    if result != 0 {
        tracing::warn!(target: "dpdk", "DPDK's log stays on standard error: {}", std::io::Error::from_raw_os_error(-result));
    }
}

/// Runs `work` and gives what DPDK complained of meanwhile (in any thread), a message per string.
/// Callers take turns: [`crate::eal::control`] is held.
pub(crate) fn collect<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    *COLLECTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    let result = work();
    let complaints = COLLECTED.lock().unwrap_or_else(PoisonError::into_inner).take();
    (result, complaints.unwrap_or_default())
}

extern "C" fn sink(text: *const c_char, length: usize) {
    // SAFETY: the shim passes on what stdio gave it: `length` readable bytes, unchanged during the call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    // SAFETY: reads a variable of this thread.
    let level = u32::try_from(unsafe { ffi::rte_log_cur_msg_loglevel() }).unwrap_or(ffi::RTE_LOG_WARNING);
    let message = String::from_utf8_lossy(bytes);
    let message = message.trim();
    if message.is_empty() {
        return;
    }
    match level {
        // An error of DPDK's concerns one device or is a guess; whoever asked for the device reports the failure.
        ..=ffi::RTE_LOG_WARNING => tracing::warn!(target: "dpdk", "{message}"),
        ffi::RTE_LOG_NOTICE => tracing::info!(target: "dpdk", "{message}"),
        ffi::RTE_LOG_INFO => tracing::debug!(target: "dpdk", "{message}"),
        _ => tracing::trace!(target: "dpdk", "{message}"),
    }
    if level <= ffi::RTE_LOG_WARNING
        && let Some(complaints) = COLLECTED.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
    {
        complaints.push(message.to_owned());
    }
}

//! A device in DPDK: added to it, with the members of a bond before the bond, found there, and taken out again.
//!
//! What is done with it in between, configuring and polling, is elsewhere.

use std::ffi::{CStr, CString};
use std::fmt;
use std::ptr::NonNull;

use dpdk_sys::{self as ffi, rte_device, rte_eth_conf, rte_eth_dev_info};

use crate::batch::Batch;
use crate::device::{Bus, Device, Diagnosis};
use crate::eal::Eal;
use crate::failure::{ADDING, Failure, check};

/// A device that DPDK has probed, closed when this is dropped. Ports and their queues share it.
pub(crate) struct OpenDevice {
    id: u16,
    device: NonNull<rte_device>,
    name: String,
    /// Receive queues whose frames would be lost to the pool on closing: net_ring's, which frees its rings only.
    drain: u16,
    /// What it bonds: closed after it.
    members: Vec<OpenDevice>,
}

// SAFETY: DPDK's control functions may be called by any thread, by one at a time, which `control` sees to.
unsafe impl Send for OpenDevice {}
// SAFETY: likewise; the hot functions are called through the queues, each by its owner.
unsafe impl Sync for OpenDevice {}

impl OpenDevice {
    /// As DPDK names it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a bond.
    pub(crate) fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// DPDK's number of the port.
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Notes that it, or its members, have frames in rings, of this many queues.
    pub(crate) fn drain_rings(&mut self, queues: u16) {
        if self.name.starts_with("net_ring") {
            self.drain = queues;
        }
        for member in &mut self.members {
            member.drain_rings(queues);
        }
    }
}

impl fmt::Debug for OpenDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenDevice({}, {})", self.id, self.name)
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        for queue in 0..self.drain {
            let mut frames = Batch::new();
            let id = self.id;
            // SAFETY: as in RxQueue::receive; all queues are gone, this is the only user.
            while unsafe { frames.fill(|places, room| ffi::culvert_rx_burst(id, queue, places, room)) } > 0 {
                frames.clear();
            }
        }
        let device = self.device.as_ptr();
        // SAFETY: an open device that nobody else refers to. It is stopped, closed and removed, in DPDK's order.
        let results =
            unsafe { [ffi::rte_eth_dev_stop(self.id), ffi::rte_eth_dev_close(self.id), ffi::rte_dev_remove(device)] };
        if results.iter().any(|result| *result < 0) {
            tracing::warn!(device = self.name, ?results, "DPDK could not stop, close and remove a device");
        }
    }
}

/// Refuses what is hopeless or harmful to open.
pub(crate) fn refuse(eal: &Eal, device: &Device) -> Result<(), Diagnosis> {
    if device.bus == Bus::Pci && !eal.pci() {
        let remedy = "restart the daemon with the port in its configuration";
        return Err(Diagnosis::new("DPDK was started without PCI devices", remedy));
    }
    device.refuse().map_or(Ok(()), Err)
}

/// A bond looks for its members when it is first configured, and tells what they can do from then on.
pub(crate) fn take_up_members(id: u16) -> Result<(), Failure> {
    let conf = rte_eth_conf::default();
    // SAFETY: an open device that is not running; the configuration is copied.
    check("taking up its members", unsafe { ffi::rte_eth_dev_configure(id, 1, 1, &raw const conf) })
}

/// As [`probe`], for a member of a bond. net_tap promises to tell of its link and does not: the bond is to look for it.
fn probe_member(device: &Device) -> Result<OpenDevice, Failure> {
    let member = probe(device)?;
    if device.is("net_tap") {
        // SAFETY: an open device, by its number, which the function checks.
        check("being asked for its abilities", unsafe { ffi::culvert_poll_link(member.id) })?;
    }
    Ok(member)
}

/// Adds the device to DPDK, its members before it, and finds the port that it became.
pub(crate) fn probe(device: &Device) -> Result<OpenDevice, Failure> {
    let members = device.members.iter().map(probe_member).collect::<Result<Vec<OpenDevice>, Failure>>()?;
    let text =
        |text: &str| CString::new(text).map_err(|_| Failure::Driver { doing: "being named", code: libc::EINVAL });
    let (name, arguments) = (text(&device.name)?, text(&device.arguments)?);
    if find(&name).is_some() {
        let reason = format!("{} is in use by another port", device.name);
        return Err(Failure::Explained(Diagnosis::new(
            reason,
            "give each port a device, or a device number, of its own",
        )));
    }
    // SAFETY: EAL is started; the strings are terminated and are copied.
    check(ADDING, unsafe { ffi::rte_eal_hotplug_add(device.bus.name().as_ptr(), name.as_ptr(), arguments.as_ptr()) })?;
    match find(&name) {
        Some((id, found)) => Ok(OpenDevice { id, device: found, name: device.name.clone(), drain: 0, members }),
        None => {
            let reason = format!("DPDK has added {} but it is no Ethernet device", device.name);
            Err(Failure::Explained(Diagnosis::new(reason, "name a device of DPDK's net class")))
        }
    }
}

/// The port of a device, by the device's name.
fn find(name: &CStr) -> Option<(u16, NonNull<rte_device>)> {
    let mut id = 0;
    loop {
        // SAFETY: EAL is started. Gives RTE_MAX_ETHPORTS after the last port.
        id = unsafe { ffi::rte_eth_find_next(id) };
        if u32::from(id) >= ffi::RTE_MAX_ETHPORTS {
            return None;
        }
        if let Some(device) = info(id).ok().and_then(|info| NonNull::new(info.device)) {
            // SAFETY: a device that DPDK lists, whose name is a terminated string.
            if unsafe { CStr::from_ptr(ffi::rte_dev_name(device.as_ptr())) } == name {
                return Some((id, device));
            }
        }
        id = id.checked_add(1)?;
    }
}

pub(crate) fn info(id: u16) -> Result<rte_eth_dev_info, Failure> {
    let mut info = rte_eth_dev_info::default();
    // SAFETY: the function checks the number and fills the structure.
    check("being asked for its abilities", unsafe { ffi::rte_eth_dev_info_get(id, &raw mut info) })?;
    Ok(info)
}

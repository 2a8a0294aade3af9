//! Which destination addresses a port that is not promiscuous lets in.
//!
//! A device has its own address and room for some more; groups are let in all together. Ports keep what they have set,
//! so that a new list costs the difference only.

use dpdk_sys::{self as ffi, rte_ether_addr};

use crate::eal::strerror;

/// Why a device's addresses could not be set. Those that were set before are set still.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// There is room for fewer.
    #[error(
        "port {port}: its NIC {device} lets in {room} addresses besides its own, {wanted} are wanted; make the port promiscuous"
    )]
    TooMany {
        /// The port's name.
        port: String,
        /// The device.
        device: String,
        /// How many addresses it has room for.
        room: u32,
        /// How many were given.
        wanted: usize,
    },
    /// The driver did not take one.
    #[error("port {port}: its NIC {device} does not let in the address {address}: {reason}; make the port promiscuous")]
    Refused {
        /// The port's name.
        port: String,
        /// The device.
        device: String,
        /// The address, as `02:00:00:00:00:01`.
        address: String,
        /// What the driver says.
        reason: String,
    },
}

/// The addresses that a device lets in besides its own.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    addresses: Vec<[u8; 6]>,
}

impl Filter {
    /// Makes the device let in `wanted` and no others; the device's own, `own`, may be among them. On failure undoes
    /// what it did and gives the address and the driver's words.
    pub(crate) fn set(&mut self, port: u16, own: [u8; 6], wanted: &[[u8; 6]]) -> Result<(), ([u8; 6], String)> {
        self.change(own, wanted, |address| add(port, address), |address| remove(port, address))
    }

    fn change(
        &mut self,
        own: [u8; 6],
        wanted: &[[u8; 6]],
        add: impl Fn([u8; 6]) -> Result<(), String>,
        remove: impl Fn([u8; 6]),
    ) -> Result<(), ([u8; 6], String)> {
        let mut next: Vec<[u8; 6]> = wanted.iter().copied().filter(|address| *address != own).collect();
        next.sort_unstable();
        next.dedup();
        let new: Vec<[u8; 6]> = next.iter().copied().filter(|address| !self.addresses.contains(address)).collect();
        let old: Vec<[u8; 6]> = self.addresses.iter().copied().filter(|address| !next.contains(address)).collect();
        // Those that go make room for those that come.
        old.iter().for_each(|address| remove(*address));
        for (done, address) in new.iter().enumerate() {
            if let Err(reason) = add(*address) {
                new.iter().take(done).for_each(|undo| remove(*undo));
                // They were there a moment ago.
                let lost: Vec<[u8; 6]> = old.into_iter().filter(|address| add(*address).is_err()).collect();
                self.addresses.retain(|address| !lost.contains(address));
                return Err((*address, reason));
            }
        }
        self.addresses = next;
        Ok(())
    }
}

fn add(port: u16, address: [u8; 6]) -> Result<(), String> {
    let mut address = rte_ether_addr { addr_bytes: address };
    // SAFETY: an open device, by its number, which the function checks; the address is copied. Pool 0 is the one
    // that there is without virtualisation.
    match unsafe { ffi::rte_eth_dev_mac_addr_add(port, &raw mut address, 0) } {
        0 => Ok(()),
        // Not a matter of rights: what drivers return for any refusal.
        -1 => Err("its driver cannot".to_owned()),
        error => Err(strerror(error.saturating_neg())),
    }
}

fn remove(port: u16, address: [u8; 6]) {
    let mut address = rte_ether_addr { addr_bytes: address };
    // SAFETY: as above. An address that is not there is no error.
    let result = unsafe { ffi::rte_eth_dev_mac_addr_remove(port, &raw mut address) };
    if result != 0 {
        tracing::warn!(port, "DPDK could not remove an address: {}", strerror(result.saturating_neg()));
    }
}

/// An address in the usual notation.
pub(crate) fn show(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;

    /// A device with room for three addresses that counts what it is asked.
    #[derive(Default)]
    struct Device {
        addresses: RefCell<BTreeSet<u8>>,
        requests: RefCell<usize>,
    }

    const OWN: u8 = 99;

    fn address(number: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, number]
    }

    fn set(filter: &mut Filter, device: &Device, wanted: &[u8]) -> Result<(), ([u8; 6], String)> {
        let wanted: Vec<[u8; 6]> = wanted.iter().copied().map(address).collect();
        let add = |address: [u8; 6]| {
            *device.requests.borrow_mut() += 1;
            let mut addresses = device.addresses.borrow_mut();
            if addresses.len() == 3 || address[5] == 66 {
                return Err("no".to_owned());
            }
            assert!(addresses.insert(address[5]), "twice");
            Ok(())
        };
        let remove = |address: [u8; 6]| {
            *device.requests.borrow_mut() += 1;
            assert!(device.addresses.borrow_mut().remove(&address[5]), "what is not there");
        };
        filter.change(address(OWN), &wanted, add, remove)
    }

    #[test]
    fn a_new_list_costs_the_difference() {
        let (mut filter, device) = (Filter::default(), Device::default());
        let has = |expected: &[u8]| assert_eq!(*device.addresses.borrow(), expected.iter().copied().collect());
        set(&mut filter, &device, &[1, 2, OWN, 2]).unwrap();
        has(&[1, 2]);
        assert_eq!(*device.requests.borrow(), 2);
        set(&mut filter, &device, &[2, 1]).unwrap();
        assert_eq!(*device.requests.borrow(), 2);
        set(&mut filter, &device, &[2, 3, 4]).unwrap();
        has(&[2, 3, 4]);
        assert_eq!(*device.requests.borrow(), 5);
        set(&mut filter, &device, &[]).unwrap();
        has(&[]);
    }

    #[test]
    fn a_refused_list_leaves_the_one_before() {
        let (mut filter, device) = (Filter::default(), Device::default());
        let has = |expected: &[u8]| assert_eq!(*device.addresses.borrow(), expected.iter().copied().collect());
        set(&mut filter, &device, &[1, 2]).unwrap();
        assert_eq!(set(&mut filter, &device, &[2, 3, 66]), Err((address(66), "no".to_owned())));
        has(&[1, 2]);
        assert_eq!(set(&mut filter, &device, &[1, 2, 3, 4]), Err((address(4), "no".to_owned())));
        has(&[1, 2]);
        set(&mut filter, &device, &[2, 3, 4]).unwrap();
        has(&[2, 3, 4]);
    }
}

//! What MTU a device carries, and giving it that MTU.
//!
//! DPDK and its drivers know part of it only. net_af_packet of 22.11 says "1518 bytes" and passes on whatever fits its
//! slots; then DPDK is told the most that it accepts and the kernel interface gets the MTU from us.

use std::io;

use dpdk_sys::{self as ffi, rte_eth_dev_info};

use crate::device::{Device, Diagnosis, interface_mtu, raise_interface_mtu};
use crate::failure::{Failure, check_unless_unsupported};
use crate::pool::{FRAME_OVERHEAD, Pool};

/// The MTU of a port, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mtu {
    /// What the port has.
    pub(crate) port: u16,
    /// What DPDK is told, at most that.
    pub(crate) told: u16,
}

/// Refuses an MTU that the driver, the kernel interface below it, or a buffer of the pool cannot carry.
pub(crate) fn decide(
    device: &Device,
    driver: &str,
    info: &rte_eth_dev_info,
    pool: &Pool,
    mtu: u16,
) -> Result<Mtu, Diagnosis> {
    // Where max_mtu is not told, 18 bytes of a frame are header and check sequence.
    let by_length = u16::try_from(info.max_rx_pktlen.saturating_sub(18)).unwrap_or(u16::MAX);
    let told = if info.max_mtu == u16::MAX { by_length } else { info.max_mtu };
    let slots = af_packet_slot(device, pool)?;
    let most = match slots {
        Some(slot) => told.max(slot.saturating_sub(SLOT_HEADER + HEADER_AND_TAGS)),
        None => told,
    };
    if mtu > most || mtu < info.min_mtu {
        let reason = format!("the driver {driver} carries an MTU of {} to {most}, not {mtu}", info.min_mtu);
        let remedy = match slots {
            Some(_) => "lower the port's mtu, or give the device longer slots (framesz=9216,blocksz=36864 for 9000)",
            None => "set the port's mtu accordingly",
        };
        return Err(Diagnosis::new(reason, remedy));
    }
    let room = pool.frame_room();
    let one_buffer = u32::from(mtu) + u32::from(FRAME_OVERHEAD) <= u32::from(room);
    let several = info.rx_offload_capa & ffi::CULVERT_RX_SCATTER != 0 || SILENT_ABOUT_CHAINS.contains(&driver);
    if !one_buffer && !several {
        return Err(Diagnosis::new(
            format!("frames of MTU {mtu} do not fit the pool's buffers of {room} bytes"),
            "lower the port's mtu, or restart the daemon with the port in its configuration",
        ));
    }
    // net_pcap cannot change the interface that it sends to.
    let sends_to = device.argument("iface").or_else(|| device.argument("tx_iface")).filter(|_| device.is("net_pcap"));
    if let Some((interface, has)) = sends_to.and_then(|name| Some((name, interface_mtu(name)?)))
        && has < u32::from(mtu)
    {
        let reason = format!("the network interface {interface} has an MTU of {has}, less than the port's {mtu}");
        return Err(Diagnosis::new(
            reason,
            format!("raise it (`ip link set {interface} mtu {mtu}`) or lower the port's mtu"),
        ));
    }
    Ok(Mtu { port: mtu, told: mtu.min(told) })
}

/// Sets the MTU where the driver can; [`decide`] has looked at the others.
pub(crate) fn set(id: u16, device: &Device, mtu: Mtu) -> Result<(), Failure> {
    let interface = device.argument("iface");
    // net_af_packet would change the kernel interface for everybody: only to raise it.
    let below = interface.filter(|_| device.is("net_af_packet")).and_then(interface_mtu);
    if below.is_some_and(|has| has >= u32::from(mtu.port)) {
        return Ok(());
    }
    if let Some(interface) = interface.filter(|_| mtu.told < mtu.port) {
        return raise_interface_mtu(interface, mtu.port).map_err(|error: io::Error| {
            let reason = format!("the network interface {interface} does not take an MTU of {}: {error}", mtu.port);
            Diagnosis::new(reason, "lower the port's mtu").into()
        });
    }
    // SAFETY: a configured device.
    check_unless_unsupported("getting its MTU", unsafe { ffi::rte_eth_dev_set_mtu(id, mtu.told) })
}

/// Length in bytes of the slots that net_af_packet shares with the kernel, None of other drivers. The driver copies
/// what is in a slot to a buffer without looking whether it fits.
fn af_packet_slot(device: &Device, pool: &Pool) -> Result<Option<u16>, Diagnosis> {
    if !device.is("net_af_packet") {
        return Ok(None);
    }
    let Some(text) = device.argument("framesz") else { return Ok(Some(2048)) };
    let most = u32::from(pool.frame_room()) + u32::from(SLOT_HEADER);
    match text.parse::<u16>() {
        Ok(slot) if u32::from(slot) <= most => Ok(Some(slot)),
        Ok(_) | Err(_) => Err(Diagnosis::new(
            format!("its slots (framesz={text}) are longer than the pool's buffers, which hold {most} bytes of one"),
            "lower framesz, or raise the largest mtu that the daemon is started with",
        )),
    }
}

/// What the kernel puts before a frame in a slot (TPACKET_V2).
const SLOT_HEADER: u16 = 66;

/// Drivers that receive to several buffers and do not say so.
const SILENT_ABOUT_CHAINS: [&str; 2] = ["net_pcap", "net_vhost"];

/// An Ethernet header and two VLAN tags.
const HEADER_AND_TAGS: u16 = 22;

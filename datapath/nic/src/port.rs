//! A port: a device that is open, configured and running.
//!
//! Opening adds the device to DPDK, sets its MTU and queues and starts it; any failure undoes that and is this
//! port's alone. The daemon opens and closes ports; workers get the queues.

use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError};

use dpdk_sys as ffi;

use crate::attach::{OpenDevice, info, probe, refuse, take_up_members};
use crate::device::{Bus, Device, Diagnosis, interface_is_running};
use crate::eal::{Eal, control, errno, strerror, with_complaints, without_signals};
use crate::failure::{ADDING, Failure, QUEUES, STARTING, check};
use crate::filter::{self, Filter, FilterError};
use crate::hugepages::HugepageUse;
use crate::log;
use crate::mtu;
use crate::offload::NicOffloads;
use crate::pool::Pool;
use crate::queue::{RxQueue, TxQueue};
use crate::setup::{Setup, set_promiscuous};

/// What to open, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Ours, for messages.
    pub name: String,
    /// A virtual device of DPDK with its arguments, or a PCI address.
    pub device: String,
    /// Receive queues wanted; there are fewer where the driver cannot have as many, at least 1.
    pub rx_queues: u16,
    /// Transmit queues wanted, likewise.
    pub tx_queues: u16,
    /// In bytes, without the Ethernet header.
    pub mtu: u16,
    /// Descriptors per queue wanted; the driver may round or limit them.
    pub descriptors: u16,
    /// Receive frames to any address. Otherwise only those to the device's own, to the groups, and to those of
    /// [`Port::set_mac_filter`], as far as the driver tells them apart.
    pub promiscuous: bool,
    /// Let the device compute and check checksums and segment, as far as it can: what [`TxQueue::offloads`] and
    /// [`Mbuf::rx_checksum`](crate::Mbuf::rx_checksum) tell of. Off, it does nothing of the kind.
    pub offloads: bool,
    /// Let the device join received TCP segments to frames of up to 64 KiB, of which
    /// [`Mbuf::rx_segment_size`](crate::Mbuf::rx_segment_size) tells.
    pub lro: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        PortConfig {
            name: String::new(),
            device: String::new(),
            rx_queues: 1,
            tx_queues: 1,
            mtu: 1500,
            descriptors: 1024,
            promiscuous: true,
            offloads: true,
            lro: false,
        }
    }
}

/// Why a port could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("port {port}: cannot open {device}: {reason}; {remedy}")]
pub struct PortError {
    /// The port's name.
    pub port: String,
    /// The device as configured.
    pub device: String,
    /// What is wrong, as a clause.
    pub reason: String,
    /// What to do about it, as a clause.
    pub remedy: String,
}

/// Whether a cable (or what stands for it) is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Frames can pass.
    pub up: bool,
    /// In Mbit/s, None where the driver does not know.
    pub speed_mbps: Option<u32>,
}

/// What the driver counted since the port was opened. rx is towards us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames that were lost because the receive queues were full (imissed).
    pub rx_missed: u64,
    /// Frames received in error (ierrors).
    pub rx_errors: u64,
    /// Buffers that were wanted for receiving and were not in the pool (rx_nombuf).
    pub rx_no_buffer: u64,
    /// Frames that failed to be sent (oerrors).
    pub tx_errors: u64,
}

/// An open port. Its device is closed when it and all its queues are dropped.
#[derive(Debug)]
pub struct Port {
    device: Arc<OpenDevice>,
    name: String,
    driver: String,
    /// The kernel interface that stands for the cable.
    interface: Option<String>,
    mac: [u8; 6],
    mtu: u16,
    setup: Setup,
    filter: Mutex<Filter>,
    /// How many addresses the device lets in besides its own.
    filter_room: u32,
    queues: Option<(Vec<RxQueue>, Vec<TxQueue>)>,
}

impl Port {
    /// Opens and starts the device, which receives into buffers of `pool` from now on.
    ///
    /// # Errors
    /// Names the port, the device, the cause as far as it can be found, and a remedy. Nothing of the device is left
    /// open then.
    pub fn open(eal: &Eal, pool: &Pool, config: &PortConfig) -> Result<Port, PortError> {
        let _control = control();
        let (result, complaints) = log::collect(|| without_signals(|| open(eal, pool, config)));
        result.map_err(|failure| {
            let Diagnosis { reason, remedy } = match failure {
                Failure::Explained(diagnosis) => diagnosis,
                Failure::Driver { doing, code } => explain(eal, config, doing, code, &complaints),
            };
            PortError { port: config.name.clone(), device: config.device.clone(), reason, remedy }
        })
    }

    /// The name it was opened under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver, as `net_pcap`.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The device's own Ethernet address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// MTU in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Number of receive queues that there are.
    #[must_use]
    pub fn rx_queues(&self) -> u16 {
        self.setup.rx_queues
    }

    /// Number of transmit queues that there are.
    #[must_use]
    pub fn tx_queues(&self) -> u16 {
        self.setup.tx_queues
    }

    /// What the device does for frames that are sent.
    #[must_use]
    pub fn offloads(&self) -> NicOffloads {
        self.setup.offloads()
    }

    /// The state of the link as the driver knows it, without waiting; that of the kernel interface where the driver
    /// does not look at the interface that it is for (net_af_packet, net_af_xdp, net_pcap). To be asked now and then:
    /// nothing tells of changes.
    #[must_use]
    pub fn link(&self) -> Link {
        let (mut up, mut speed) = (false, 0);
        // SAFETY: an open device; the results are written to the two variables.
        let result = unsafe { ffi::culvert_link(self.device.id(), &raw mut up, &raw mut speed) };
        let up = up && self.interface.as_deref().is_none_or(interface_is_running);
        let known = result == 0 && speed != ffi::RTE_ETH_SPEED_NUM_NONE && speed != ffi::RTE_ETH_SPEED_NUM_UNKNOWN;
        Link { up: result == 0 && up, speed_mbps: known.then_some(speed) }
    }

    /// The driver's counters; zeros where it has none.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut counted = ffi::rte_eth_stats::default();
        // SAFETY: an open device; the counters are written to the structure.
        if unsafe { ffi::rte_eth_stats_get(self.device.id(), &raw mut counted) } != 0 {
            return Statistics::default();
        }
        Statistics {
            rx_frames: counted.ipackets,
            tx_frames: counted.opackets,
            rx_bytes: counted.ibytes,
            tx_bytes: counted.obytes,
            rx_missed: counted.imissed,
            rx_errors: counted.ierrors,
            rx_no_buffer: counted.rx_nombuf,
            tx_errors: counted.oerrors,
        }
    }

    /// Has the device let in frames to these addresses besides its own, in place of all that were set before. For a
    /// port that is not promiscuous.
    ///
    /// # Errors
    /// The device takes fewer addresses, or the driver refuses one. Those set before stay then.
    pub fn set_mac_filter(&self, addresses: &[[u8; 6]]) -> Result<(), FilterError> {
        let _control = control();
        let mut filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        let others = addresses.iter().filter(|address| **address != self.mac).count();
        if u32::try_from(others).unwrap_or(u32::MAX) > self.filter_room {
            let (room, wanted) = (self.filter_room, others);
            let (port, device) = (self.name.clone(), self.device.name().to_owned());
            return Err(FilterError::TooMany { port, device, room, wanted });
        }
        filter.set(self.device.id(), self.mac, addresses).map_err(|(address, reason)| FilterError::Refused {
            port: self.name.clone(),
            device: self.device.name().to_owned(),
            address: filter::show(address),
            reason,
        })
    }

    /// All queues, the first time; none later on.
    #[must_use]
    pub fn take_queues(&mut self) -> (Vec<RxQueue>, Vec<TxQueue>) {
        self.queues.take().unwrap_or_default()
    }
}

fn open(eal: &Eal, pool: &Pool, config: &PortConfig) -> Result<Port, Failure> {
    let device = Device::parse(&config.device)?;
    refuse(eal, &device)?;
    for member in &device.members {
        refuse(eal, member)?;
    }

    let mut open = probe(&device)?;
    if open.has_members() {
        take_up_members(open.id())?;
    }
    let info = info(open.id())?;
    // SAFETY: the driver's name, a static string of the driver's.
    let driver = unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned();
    let mtu = mtu::decide(&device, &driver, &info, pool, config.mtu)?;

    let setup = Setup::wanted(&device, &driver, &info, pool, config, mtu).start(open.id(), pool, &device, &info)?;
    open.drain_rings(setup.rx_queues);

    set_promiscuous(open.id(), config.promiscuous)?;
    let mut mac = ffi::rte_ether_addr::default();
    // SAFETY: an open device; the address is written to the variable.
    check("being asked for its address", unsafe { ffi::rte_eth_macaddr_get(open.id(), &raw mut mac) })?;

    let open = Arc::new(open);
    let rx = (0..setup.rx_queues).map(|queue| RxQueue::new(Arc::clone(&open), queue, setup.interrupts)).collect();
    let tx = (0..setup.tx_queues)
        .map(|queue| TxQueue::new(Arc::clone(&open), queue, setup.offloads(), setup.chains))
        .collect();
    Ok(Port {
        device: open,
        name: config.name.clone(),
        driver,
        interface: device.interface().map(str::to_owned),
        mac: mac.addr_bytes,
        mtu: config.mtu,
        setup,
        filter: Mutex::default(),
        filter_room: info.max_mac_addrs.saturating_sub(1),
        queues: Some((rx, tx)),
    })
}

/// The cause of a driver's error, found by looking at what the device needs; failing that, in DPDK's own words.
fn explain(eal: &Eal, config: &PortConfig, doing: &'static str, code: i32, complaints: &[String]) -> Diagnosis {
    let device = match Device::parse(&config.device) {
        Ok(device) => device,
        Err(diagnosis) => return diagnosis,
    };
    if let Some(diagnosis) = device.diagnose() {
        return diagnosis;
    }
    // Most drivers return -1 for whatever went wrong, which reads as EPERM.
    let code = if code == libc::EPERM { errno() } else { code };
    let unknown = [libc::EFAULT, libc::ENODEV, libc::ENOENT].contains(&code);
    if doing == ADDING && device.bus == Bus::Virtual && unknown {
        return Diagnosis::new(
            format!("no driver knows a device of the name {}", device.name),
            "check the name, and that the package with its DPDK driver is installed",
        );
    }
    let reason = match code {
        0 | libc::EPERM => format!("its driver failed while {doing}"),
        code => format!("its driver failed while {doing}: {}", strerror(code)),
    };
    if device.is("net_af_xdp") && doing == QUEUES {
        let remedy = "look whether another program has its XDP program there (`ip link` shows it); an interface that net_af_xdp \
                      has closed can be opened by it again only after a restart of the daemon";
        return Diagnosis::new(with_complaints(reason, complaints), remedy);
    }
    if !device.members.is_empty() && doing == STARTING && code == libc::ENOTSUP {
        return Diagnosis::new(
            "a member cannot be given the address of the bond",
            "bond devices whose driver can change it: not net_ring, net_memif, net_virtio_user or net_vhost",
        );
    }
    let remedy = match (device.bus, eal.hugepages()) {
        (Bus::Pci, HugepageUse::NotUsed { .. }) => {
            "most PCI devices need hugepages: reserve some and restart the daemon"
        }
        _ => "look at DPDK's messages and at the driver's chapter in DPDK's guide",
    };
    Diagnosis::new(with_complaints(reason, complaints), remedy)
}

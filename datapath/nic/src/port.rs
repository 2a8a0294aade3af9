//! A port: a device that is open, configured and running.
//!
//! Opening adds the device to DPDK, sets its MTU and queues and starts it; any failure undoes that and is this
//! port's alone. The daemon opens and closes ports; workers get the queues.

use std::ffi::{CStr, CString};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use dpdk_sys::{self as ffi, rte_device, rte_eth_conf, rte_eth_dev_info};

use crate::batch::Batch;
use crate::device::{Bus, Device, Diagnosis, interface_is_running};
use crate::eal::{Eal, control, errno, strerror, with_complaints, without_signals};
use crate::failure::{Failure, check, check_unless_unsupported};
use crate::filter::{self, Filter, FilterError};
use crate::hugepages::HugepageUse;
use crate::log;
use crate::mtu::{self, Mtu};
use crate::offload::{self, NicOffloads};
use crate::pool::{FRAME_OVERHEAD, Pool};
use crate::queue::{RxQueue, TxQueue};

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
        let result = unsafe { ffi::culvert_link(self.device.id, &raw mut up, &raw mut speed) };
        let up = up && self.interface.as_deref().is_none_or(interface_is_running);
        let known = result == 0 && speed != ffi::RTE_ETH_SPEED_NUM_NONE && speed != ffi::RTE_ETH_SPEED_NUM_UNKNOWN;
        Link { up: result == 0 && up, speed_mbps: known.then_some(speed) }
    }

    /// The driver's counters; zeros where it has none.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut counted = ffi::rte_eth_stats::default();
        // SAFETY: an open device; the counters are written to the structure.
        if unsafe { ffi::rte_eth_stats_get(self.device.id, &raw mut counted) } != 0 {
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
            let (port, device) = (self.name.clone(), self.device.name.clone());
            return Err(FilterError::TooMany { port, device, room, wanted });
        }
        filter.set(self.device.id, self.mac, addresses).map_err(|(address, reason)| FilterError::Refused {
            port: self.name.clone(),
            device: self.device.name.clone(),
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
    /// DPDK's number of the port.
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// Notes that it, or its members, have frames in rings, of this many queues.
    fn drain_rings(&mut self, queues: u16) {
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

/// How much of what was wished for is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setup {
    rx_queues: u16,
    tx_queues: u16,
    descriptors: u16,
    mtu: Mtu,
    /// Interrupts of the receive queues.
    interrupts: bool,
    may_interrupt: bool,
    /// Spread over the receive queues by hash; the functions that the driver has. 0: no spreading asked for.
    hash: u64,
    /// DPDK's masks of offloads.
    rx_offloads: u64,
    tx_offloads: u64,
}

impl Setup {
    fn offloads(self) -> NicOffloads {
        NicOffloads::of(self.tx_offloads)
    }

    /// The next lesser wish. Drivers do not tell beforehand whether they have interrupts, can spread frames, must
    /// have as many queues in as out (net_tap), or whether the other side agrees to an offload (net_virtio_user).
    fn lesser(self) -> Option<Setup> {
        let fewest = self.rx_queues.min(self.tx_queues);
        if self.interrupts {
            Some(Setup { interrupts: false, ..self })
        } else if self.hash != 0 {
            Some(Setup { hash: 0, ..self })
        } else if self.rx_queues != self.tx_queues {
            Some(Setup { rx_queues: fewest, tx_queues: fewest, interrupts: self.may_interrupt, ..self })
        } else if self.rx_offloads != 0 {
            Some(Setup { rx_offloads: 0, interrupts: self.may_interrupt, ..self })
        } else {
            None
        }
    }
}

fn open(eal: &Eal, pool: &Pool, config: &PortConfig) -> Result<Port, Failure> {
    let device = Device::parse(&config.device)?;
    refuse(eal, &device)?;
    for member in &device.members {
        refuse(eal, member)?;
    }

    let mut open = probe(&device)?;
    if !open.members.is_empty() {
        take_up_members(open.id)?;
    }
    let info = info(open.id)?;
    // SAFETY: the driver's name, a static string of the driver's.
    let driver = unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned();
    let mtu = mtu::decide(&device, &driver, &info, pool, config.mtu)?;

    let rx_queues = config.rx_queues.clamp(1, info.max_rx_queues.max(1));
    let mut setup = Setup {
        rx_queues,
        tx_queues: config.tx_queues.clamp(1, info.max_tx_queues.max(1)),
        descriptors: config.descriptors,
        mtu,
        interrupts: !without_interrupts(&driver),
        may_interrupt: !without_interrupts(&driver),
        hash: if rx_queues > 1 { ffi::CULVERT_HASH_IP & info.flow_type_rss_offloads } else { 0 },
        rx_offloads: rx_offloads(&driver, &info, pool, config),
        tx_offloads: tx_offloads(&device, &info, config),
    };
    while let Err(failure) = start(open.id, pool, &device, &info, setup) {
        match setup.lesser() {
            Some(lesser) => setup = lesser,
            None => return Err(failure),
        }
    }
    open.drain_rings(setup.rx_queues);

    set_promiscuous(open.id, config.promiscuous)?;
    let mut mac = ffi::rte_ether_addr::default();
    // SAFETY: an open device; the address is written to the variable.
    check("being asked for its address", unsafe { ffi::rte_eth_macaddr_get(open.id, &raw mut mac) })?;

    // Two drivers send chains and do not say so.
    let chains =
        setup.tx_offloads & ffi::CULVERT_TX_MULTI_SEGMENT != 0 || ["net_pcap", "net_null"].contains(&driver.as_str());
    let open = Arc::new(open);
    let rx = (0..setup.rx_queues).map(|queue| RxQueue::new(Arc::clone(&open), queue, setup.interrupts)).collect();
    let tx =
        (0..setup.tx_queues).map(|queue| TxQueue::new(Arc::clone(&open), queue, setup.offloads(), chains)).collect();
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

/// Drivers that must be polled. Closing a net_virtio_user with interrupts races with DPDK's interrupt thread, which now
/// and then uses the closed device or ends the process (seen with 22.11). A bond has none, and finds that out when its
/// members have been started.
fn without_interrupts(driver: &str) -> bool {
    ["net_virtio_user", "net_bonding"].contains(&driver)
}

/// What is asked of the device on receiving.
fn rx_offloads(driver: &str, info: &rte_eth_dev_info, pool: &Pool, config: &PortConfig) -> u64 {
    let mut wanted = 0;
    // net_tap would compute checksums by software, on the worker's time: the guests can do that as well.
    if config.offloads && driver != "net_tap" {
        wanted |= ffi::CULVERT_RX_CHECKSUM;
    }
    if config.lro {
        wanted |= ffi::CULVERT_RX_LRO;
    }
    wanted &= info.rx_offload_capa;
    let longest = u32::from(config.mtu) + u32::from(FRAME_OVERHEAD);
    if longest > u32::from(pool.frame_room()) || wanted & ffi::CULVERT_RX_LRO != 0 {
        wanted |= ffi::CULVERT_RX_SCATTER & info.rx_offload_capa;
    }
    wanted
}

/// What the device may be asked for on sending.
fn tx_offloads(device: &Device, info: &rte_eth_dev_info, config: &PortConfig) -> u64 {
    let mut wanted = ffi::CULVERT_TX_MULTI_SEGMENT;
    if config.offloads {
        wanted |= offload::WANTED_TX;
    }
    // net_tap segments by software, TCP over IPv4 only, and sends that over IPv6 in one piece.
    if device.is("net_tap") || device.members.iter().any(|member| member.is("net_tap")) {
        wanted &= !ffi::CULVERT_TX_TCP_SEGMENTATION;
    }
    wanted & info.tx_offload_capa
}

/// Has the device receive everything, or what is for it and all groups. Drivers that cannot choose receive everything.
fn set_promiscuous(id: u16, promiscuous: bool) -> Result<(), Failure> {
    if promiscuous {
        // SAFETY: a started device.
        check_unless_unsupported("being made promiscuous", unsafe { ffi::rte_eth_promiscuous_enable(id) })
    } else {
        // SAFETY: a started device.
        check_unless_unsupported("being made less than promiscuous", unsafe { ffi::rte_eth_promiscuous_disable(id) })?;
        // SAFETY: likewise.
        check_unless_unsupported("being told to receive groups", unsafe { ffi::rte_eth_allmulticast_enable(id) })
    }
}

/// Refuses what is hopeless or harmful to open.
fn refuse(eal: &Eal, device: &Device) -> Result<(), Diagnosis> {
    if device.bus == Bus::Pci && !eal.pci() {
        let remedy = "restart the daemon with the port in its configuration";
        return Err(Diagnosis::new("DPDK was started without PCI devices", remedy));
    }
    device.refuse().map_or(Ok(()), Err)
}

/// A bond looks for its members when it is first configured, and tells what they can do from then on.
fn take_up_members(id: u16) -> Result<(), Failure> {
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
fn probe(device: &Device) -> Result<OpenDevice, Failure> {
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

fn info(id: u16) -> Result<rte_eth_dev_info, Failure> {
    let mut info = rte_eth_dev_info::default();
    // SAFETY: the function checks the number and fills the structure.
    check("being asked for its abilities", unsafe { ffi::rte_eth_dev_info_get(id, &raw mut info) })?;
    Ok(info)
}

/// Configures and starts the device. May be tried again with another setup.
fn start(id: u16, pool: &Pool, device: &Device, info: &rte_eth_dev_info, setup: Setup) -> Result<(), Failure> {
    let mut conf = rte_eth_conf::default();
    conf.rxmode.mtu = setup.mtu.told.into();
    conf.rxmode.offloads = setup.rx_offloads;
    if setup.rx_offloads & ffi::CULVERT_RX_LRO != 0 {
        conf.rxmode.max_lro_pkt_size = info.max_lro_pkt_size;
    }
    conf.txmode.offloads = setup.tx_offloads;
    conf.intr_conf.set_rxq(setup.interrupts.into());
    if setup.hash != 0 {
        conf.rxmode.mq_mode = ffi::RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = setup.hash;
    }
    // SAFETY: an open device that is not running; the configuration is copied.
    let result = unsafe { ffi::rte_eth_dev_configure(id, setup.rx_queues, setup.tx_queues, &raw const conf) };
    check("being configured", result)?;
    mtu::set(id, device, setup.mtu)?;

    let (mut rx_descriptors, mut tx_descriptors) = (setup.descriptors, setup.descriptors);
    // SAFETY: an open device; the function changes the two numbers.
    let result = unsafe { ffi::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx_descriptors, &raw mut tx_descriptors) };
    check("being asked for its queue lengths", result)?;
    // SAFETY: an open device. A negative node (SOCKET_ID_ANY) is a valid argument below, as the unsigned number.
    let node = unsafe { ffi::rte_eth_dev_socket_id(id) }.cast_unsigned();
    for queue in 0..setup.rx_queues {
        // SAFETY: a configured device and a queue of its; no configuration means the driver's own; the pool lives
        // for ever.
        let result =
            unsafe { ffi::rte_eth_rx_queue_setup(id, queue, rx_descriptors, node, std::ptr::null(), pool.raw()) };
        check(QUEUES, result)?;
    }
    for queue in 0..setup.tx_queues {
        // SAFETY: likewise.
        let result = unsafe { ffi::rte_eth_tx_queue_setup(id, queue, tx_descriptors, node, std::ptr::null()) };
        check("getting its transmit queues", result)?;
    }
    // SAFETY: a device that is configured and has its queues.
    check(STARTING, unsafe { ffi::rte_eth_dev_start(id) })
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

/// The step in which a bond gives its address to its members.
const STARTING: &str = "being started";

/// The step in which net_af_xdp makes its sockets.
const QUEUES: &str = "getting its receive queues";

/// The step in which DPDK looks for a driver.
const ADDING: &str = "being added";

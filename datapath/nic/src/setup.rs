//! How a device is configured and started: queues, interrupts, offloads, spreading.
//!
//! Drivers say only in part what they can do. What they refuse is tried again with less.

use dpdk_sys::{self as ffi, rte_eth_conf, rte_eth_dev_info};

use crate::device::Device;
use crate::failure::{Failure, QUEUES, STARTING, check, check_unless_unsupported};
use crate::mtu::{self, Mtu};
use crate::offload::{self, NicOffloads};
use crate::pool::{FRAME_OVERHEAD, Pool};
use crate::port::PortConfig;

/// How much of what was wished for is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) rx_queues: u16,
    pub(crate) tx_queues: u16,
    descriptors: u16,
    mtu: Mtu,
    /// Interrupts of the receive queues.
    pub(crate) interrupts: bool,
    may_interrupt: bool,
    /// The driver sends frames of several buffers.
    pub(crate) chains: bool,
    /// Spread over the receive queues by hash; the functions that the driver has. 0: no spreading asked for.
    hash: u64,
    /// DPDK's masks of offloads.
    rx_offloads: u64,
    tx_offloads: u64,
}

impl Setup {
    /// What is wished for.
    pub(crate) fn wanted(
        device: &Device,
        driver: &str,
        info: &rte_eth_dev_info,
        pool: &Pool,
        config: &PortConfig,
        mtu: Mtu,
    ) -> Setup {
        let rx_queues = config.rx_queues.clamp(1, info.max_rx_queues.max(1));
        let tx_offloads = tx_offloads(device, info, config);
        // Two drivers send chains and do not say so.
        let chains = tx_offloads & ffi::CULVERT_TX_MULTI_SEGMENT != 0 || ["net_pcap", "net_null"].contains(&driver);
        Setup {
            rx_queues,
            tx_queues: config.tx_queues.clamp(1, info.max_tx_queues.max(1)),
            descriptors: config.descriptors,
            mtu,
            interrupts: !without_interrupts(driver),
            may_interrupt: !without_interrupts(driver),
            chains,
            hash: if rx_queues > 1 { ffi::CULVERT_HASH_IP & info.flow_type_rss_offloads } else { 0 },
            rx_offloads: rx_offloads(driver, info, pool, config),
            tx_offloads,
        }
    }

    /// Configures and starts the device, with less where it refuses. Gives what it was started with.
    pub(crate) fn start(
        mut self,
        id: u16,
        pool: &Pool,
        device: &Device,
        info: &rte_eth_dev_info,
    ) -> Result<Setup, Failure> {
        while let Err(failure) = start(id, pool, device, info, self) {
            match self.lesser() {
                Some(lesser) => self = lesser,
                None => return Err(failure),
            }
        }
        Ok(self)
    }

    pub(crate) fn offloads(self) -> NicOffloads {
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
pub(crate) fn set_promiscuous(id: u16, promiscuous: bool) -> Result<(), Failure> {
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

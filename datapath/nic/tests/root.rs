//! What needs root: kernel interfaces, in a network namespace of the test's own, hugepages and PCI.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test program"
)]

mod kernel;
mod process;

use std::fs;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use culvert_nic::{BURST, Batch, Eal, EalConfig, HugepageUse, Hugepages, Pool, PoolConfig, Port};
use kernel::{both_ways, ip, mtu, quiet, receive, veth_pair};
use process::{Kind, broadcast, config, content, frame, is_own, open, own, pool, start};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

#[test]
fn af_packet_passes_frames_through_kernel_interfaces() {
    if own("af_packet_passes_frames_through_kernel_interfaces", Kind::OwnNetwork) {
        let (eal, pool) = veth_pair(1500);
        let mut a = open(&eal, &pool, "net_af_packet0,iface=veth-a");
        let mut b = open(&eal, &pool, "net_af_packet1,iface=veth-b");
        assert_eq!(a.driver(), "net_af_packet");
        let shown = fs::read_to_string("/proc/net/dev").unwrap();
        assert!(shown.contains("veth-a"), "{shown}");
        assert_ne!(a.mac(), b.mac());
        both_ways(&pool, &mut a, &mut b, 1514);
        assert!(a.statistics().tx_frames >= 100 && b.statistics().rx_frames >= 100);
    }
}

#[test]
fn pcap_passes_frames_through_kernel_interfaces() {
    if own("pcap_passes_frames_through_kernel_interfaces", Kind::OwnNetwork) {
        let (eal, pool) = veth_pair(1500);
        let mut a = open(&eal, &pool, "net_pcap0,iface=veth-a");
        let mut b = open(&eal, &pool, "net_pcap1,rx_iface_in=veth-b,tx_iface=veth-b");
        both_ways(&pool, &mut a, &mut b, 1514);
    }
}

#[test]
fn tap_is_a_kernel_interface_with_interrupts() {
    if own("tap_is_a_kernel_interface_with_interrupts", Kind::OwnNetwork) {
        quiet();
        let eal = start();
        let pool = pool(&eal);
        let mut tap = open(&eal, &pool, "net_tap0,iface=culvert-tap");
        let mut kernel = open(&eal, &pool, "net_af_packet0,iface=culvert-tap");
        assert_eq!(tap.driver(), "net_tap");
        both_ways(&pool, &mut tap, &mut kernel, 1514);

        let mut tap = open(&eal, &pool, "net_tap1,iface=culvert-tap1");
        let mut kernel = open(&eal, &pool, "net_af_packet1,iface=culvert-tap1");
        let (mut rx, _tx) = tap.take_queues();
        let (_kernel_rx, mut kernel_tx) = kernel.take_queues();
        let queue = &mut rx[0];
        let descriptor = queue.interrupt_descriptor().unwrap();
        let readable = |timeout| {
            // SAFETY: the queue, which keeps it open, lives on.
            let mut wait = [PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(descriptor) }, PollFlags::IN)];
            poll(&mut wait, timeout).unwrap() == 1
        };
        let mut frames = Batch::new();
        for number in 0..3 {
            queue.arm().unwrap();
            assert_eq!(queue.receive(&mut frames), 0);
            assert!(!readable(Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })), "nothing has come");
            frames.push(frame(&pool, &broadcast(number, 60))).unwrap();
            assert_eq!(kernel_tx[0].send(&mut frames), 1);
            assert!(readable(None));
            queue.disarm().unwrap();
            let received = receive(queue, 1);
            assert_eq!(received, [broadcast(number, 60)]);
        }
    }
}

#[test]
fn tap_has_as_many_queues_in_as_out() {
    if own("tap_has_as_many_queues_in_as_out", Kind::OwnNetwork) {
        let eal = start();
        let pool = pool(&eal);
        let mut wanted = config("net_tap0,iface=culvert-tap");
        (wanted.rx_queues, wanted.tx_queues) = (1, 3);
        let port = Port::open(&eal, &pool, &wanted).unwrap();
        assert_eq!((port.rx_queues(), port.tx_queues()), (1, 1));
        drop(port);
        wanted.rx_queues = 3;
        let mut port = Port::open(&eal, &pool, &wanted).unwrap();
        assert_eq!((port.rx_queues(), port.tx_queues()), (3, 3));
        assert!(port.take_queues().0.iter().all(|queue| queue.interrupt_descriptor().is_some()));
    }
}

#[test]
fn a_closed_tap_is_gone() {
    if own("a_closed_tap_is_gone", Kind::OwnNetwork) {
        let eal = start();
        let pool = pool(&eal);
        let exists = || fs::read_to_string("/proc/net/dev").unwrap().contains("culvert-tap");
        for _ in 0..3 {
            let port = open(&eal, &pool, "net_tap0,iface=culvert-tap");
            assert!(exists());
            drop(port);
            assert!(!exists());
        }
        assert_eq!(pool.free_buffers(), pool.buffers());
    }
}

#[test]
fn the_mtu_of_kernel_interfaces_is_minded() {
    if own("the_mtu_of_kernel_interfaces_is_minded", Kind::OwnNetwork) {
        let (eal, pool) = veth_pair(1400);
        let error = Port::open(&eal, &pool, &config("net_pcap0,iface=veth-a")).unwrap_err().to_string();
        assert!(error.contains("veth-a has an MTU of 1400, less than the port's 1500"), "{error}");
        assert!(error.contains("ip link set veth-a mtu 1500"), "{error}");
        drop(open(&eal, &pool, "net_pcap0,rx_iface=veth-a"));
        let port = open(&eal, &pool, "net_af_packet0,iface=veth-a");
        assert_eq!(mtu("veth-a"), "1500", "raised by the driver");
        drop(port);
        ip("link set veth-a mtu 1450");
        let mut small = config("net_af_packet0,iface=veth-a");
        small.mtu = 1300;
        let port = Port::open(&eal, &pool, &small).unwrap();
        assert_eq!((mtu("veth-a").as_str(), port.mtu()), ("1450", 1300), "not lowered under others' feet");
        drop(port);
        let mut tap = config("net_tap0,iface=culvert-tap");
        tap.mtu = 1450;
        let _tap = Port::open(&eal, &pool, &tap).unwrap();
        assert_eq!(mtu("culvert-tap"), "1450");
    }
}

#[test]
fn missing_capabilities_are_named() {
    if own("missing_capabilities_are_named", Kind::OwnNetwork) {
        let (eal, pool) = veth_pair(1500);
        let mut b = open(&eal, &pool, "net_pcap1,iface=veth-b");
        let all = capabilities(None).unwrap();
        let with = |effective: CapabilitySet| set_capabilities(None, CapabilitySets { effective, ..all }).unwrap();
        let af_packet = config("net_af_packet0,iface=veth-a");

        with(CapabilitySet::NET_RAW);
        let error = Port::open(&eal, &pool, &af_packet).unwrap_err().to_string();
        assert!(error.contains("this process does not have CAP_NET_ADMIN"), "{error}");
        // net_pcap needs no other.
        let mut a = open(&eal, &pool, "net_pcap0,iface=veth-a");
        both_ways(&pool, &mut a, &mut b, 1514);
        drop(a);
        with(CapabilitySet::NET_ADMIN);
        let error = Port::open(&eal, &pool, &af_packet).unwrap_err().to_string();
        assert!(error.contains("this process does not have CAP_NET_RAW"), "{error}");
        let error = Port::open(&eal, &pool, &config("net_pcap0,iface=veth-a")).unwrap_err().to_string();
        assert!(error.contains("this process does not have CAP_NET_RAW"), "{error}");
        drop(open(&eal, &pool, "net_tap0"));
        with(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
        drop(open(&eal, &pool, "net_af_packet0,iface=veth-a"));
    }
}

#[test]
fn interfaces_that_are_down_or_gone_are_named() {
    if own("interfaces_that_are_down_or_gone_are_named", Kind::OwnNetwork) {
        let (eal, pool) = veth_pair(1500);
        ip("link set veth-a down");
        let error = Port::open(&eal, &pool, &config("net_pcap0,iface=veth-a")).unwrap_err().to_string();
        assert!(error.contains("veth-a is down") && error.contains("ip link set veth-a up"), "{error}");
        ip("link set veth-a up");
        let mut port = open(&eal, &pool, "net_pcap0,iface=veth-a");
        // The interface goes away under the port: no frames, no crash.
        ip("link del veth-a");
        let (mut rx, mut tx) = port.take_queues();
        let mut frames = Batch::new();
        assert_eq!(rx[0].receive(&mut frames), 0);
        frames.push(frame(&pool, &broadcast(1, 60))).unwrap();
        tx[0].send(&mut frames);
        drop((port, rx, tx));
        let error = Port::open(&eal, &pool, &config("net_pcap0,iface=veth-a")).unwrap_err().to_string();
        assert!(error.contains("there is no network interface veth-a"), "{error}");
    }
}

#[test]
fn hugepages_are_used_where_they_are() {
    let _pages = (!is_own()).then(|| Reserved::pages(40));
    if own("hugepages_are_used_where_they_are", Kind::Same) {
        in_hugepages();
    }
}

#[test]
fn hugepages_are_used_by_ordinary_users() {
    let _pages = (!is_own()).then(|| Reserved::pages(40));
    if own("hugepages_are_used_by_ordinary_users", Kind::OrdinaryUser) {
        assert!(!rustix::process::getuid().is_root());
        in_hugepages();
    }
}

/// Starts with 64 MiB in hugepages of 2 MiB and passes frames.
fn in_hugepages() {
    let eal = Eal::start(&EalConfig { memory_mb: 64, ..EalConfig::default() }).unwrap();
    assert_eq!(eal.hugepages(), &HugepageUse::Used { page_kb: 2048 });
    let pool = Pool::create(&eal, &PoolConfig::default()).unwrap();
    assert!(pool.buffers() > 20_000);
    let mut port = open(&eal, &pool, "net_ring0");
    let (mut rx, mut tx) = port.take_queues();
    let mut frames = Batch::new();
    for number in 0..BURST as u8 {
        frames.push(frame(&pool, &broadcast(number, 1514))).unwrap();
    }
    assert_eq!(tx[0].send(&mut frames), BURST);
    assert_eq!(rx[0].receive(&mut frames), BURST);
    for number in 0..BURST as u8 {
        assert_eq!(content(frames.get(usize::from(number)).unwrap()), broadcast(number, 1514));
    }
}

#[test]
fn pci_devices_are_opened_one_by_one_or_refused() {
    if own("pci_devices_are_opened_one_by_one_or_refused", Kind::Same) {
        let config_with_pci =
            EalConfig { memory_mb: 64, pci: true, hugepages: Hugepages::Never, ..EalConfig::default() };
        let eal = Eal::start(&config_with_pci).unwrap();
        let pool = pool(&eal);
        let error = Port::open(&eal, &pool, &config("0000:ff:1f.7")).unwrap_err().to_string();
        assert!(error.contains("there is no PCI device of this address"), "{error}");
        // Devices that the kernel drives, this machine's network among them, are not touched.
        for entry in fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten() {
            let Ok(driver) = fs::read_link(entry.path().join("driver")) else { continue };
            let driver = driver.file_name().unwrap().to_str().unwrap().to_owned();
            if driver.contains("vfio") || driver.contains("uio") || driver.starts_with("mlx") {
                continue;
            }
            let error = Port::open(&eal, &pool, &config(entry.file_name().to_str().unwrap())).unwrap_err().to_string();
            assert!(error.contains(&format!("held by the kernel driver {driver}")), "{error}");
            assert!(error.contains("dpdk-devbind.py -b vfio-pci"), "{error}");
        }
        open(&eal, &pool, "net_ring0");
    }
}

/// Hugepages of 2 MiB that are there while this lives.
struct Reserved {
    count: u32,
    _turn: MutexGuard<'static, ()>,
}

const HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

impl Reserved {
    fn pages(count: u32) -> Reserved {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Self::count();
        fs::write(HUGEPAGES, (before + count).to_string()).unwrap();
        let reserved = Reserved { count, _turn: turn };
        assert!(Self::count() >= before + count, "this machine has no memory for {count} hugepages");
        reserved
    }

    fn count() -> u32 {
        fs::read_to_string(HUGEPAGES).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = fs::write(HUGEPAGES, Self::count().saturating_sub(self.count).to_string());
    }
}

//! Devices of many kinds: their links, MTUs, queues, bonds, and opening them again and again.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test program"
)]

mod kernel;
mod process;

use culvert_nic::{BURST, Batch, Eal, FilterError, NicOffloads, Pool, PoolConfig, Port, PortConfig, RxQueue, TxQueue};
use kernel::{both_ways, ip, mtu, one_way, quiet, receive, veth_pair};
use process::{Kind, broadcast, config, contents, frame, open, own, pool, start};

#[test]
fn the_link_of_a_kernel_interface_is_the_ports() {
    if own("the_link_of_a_kernel_interface_is_the_ports", Kind::OwnNetwork) {
        let (eal, pool) = veth_pair(1500);
        for device in ["net_af_packet0,iface=veth-a", "net_pcap0,iface=veth-a", "net_af_xdp0,iface=veth-a"] {
            let port = open(&eal, &pool, device);
            assert!(port.link().up, "{device}");
            for _ in 0..3 {
                ip("link set veth-b down");
                wait_for_link(&port, false);
                ip("link set veth-b up");
                wait_for_link(&port, true);
            }
        }
        let port = open(&eal, &pool, "net_af_packet0,iface=veth-a");
        ip("link del veth-a");
        wait_for_link(&port, false);
        let tap = open(&eal, &pool, "net_tap0,iface=culvert-tap");
        wait_for_link(&tap, true);
        ip("link set culvert-tap down");
        wait_for_link(&tap, false);
        ip("link set culvert-tap up");
        wait_for_link(&tap, true);
    }
}

#[test]
fn the_link_of_a_virtio_nic_is_its_peer() {
    if own("the_link_of_a_virtio_nic_is_its_peer", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        for _ in 0..3 {
            let vhost = open(&eal, &pool, "net_vhost0,iface=vhost.sock");
            let mut virtio = open(&eal, &pool, "net_virtio_user0,path=vhost.sock");
            wait_for_link(&virtio, true);
            wait_for_link(&vhost, true);
            drop(vhost);
            wait_for_link(&virtio, false);
            // Asking again, sending and receiving do no harm.
            let (mut rx, mut tx) = virtio.take_queues();
            for number in 0..100 {
                assert!(!virtio.link().up);
                let mut frames = Batch::new();
                frames.push(frame(&pool, &broadcast(number, 60))).unwrap();
                tx[0].send(&mut frames);
                frames.clear();
                assert_eq!(rx[0].receive(&mut frames), 0);
            }
        }
        assert_eq!(pool.free_buffers(), pool.buffers());
    }
}

#[test]
fn jumbo_frames_pass_through_kernel_interfaces() {
    if own("jumbo_frames_pass_through_kernel_interfaces", Kind::OwnNetwork) {
        let (eal, small) = veth_pair(1500);
        let pool = jumbo_pool(&eal);
        let slots = "framesz=9216,blocksz=36864,framecnt=64";
        let mut a = jumbo(&eal, &pool, &format!("net_af_packet0,iface=veth-a,{slots}"));
        let mut b = jumbo(&eal, &pool, &format!("net_af_packet1,iface=veth-b,{slots}"));
        assert_eq!((mtu("veth-a").as_str(), mtu("veth-b").as_str()), ("9000", "9000"));
        both_ways(&pool, &mut a, &mut b, 9014);
        drop((a, b));

        let mut a = jumbo(&eal, &pool, "net_pcap0,iface=veth-a");
        let mut b = jumbo(&eal, &pool, "net_pcap1,iface=veth-b");
        both_ways(&pool, &mut a, &mut b, 9014);
        drop((a, b));

        // Slots of the usual size have a little room to spare.
        let longer = |device: &str| Port::open(&eal, &pool, &PortConfig { mtu: 1960, ..config(device) }).unwrap();
        let mut a = longer("net_af_packet0,iface=veth-a");
        let mut b = longer("net_af_packet1,iface=veth-b");
        both_ways(&pool, &mut a, &mut b, 1974 + 8);
        drop((a, b));

        // What would not fit is refused before it can overrun anything.
        let mut wanted = config("net_af_packet0,iface=veth-a");
        wanted.mtu = 9000;
        let error = Port::open(&eal, &pool, &wanted).unwrap_err().to_string();
        assert!(error.contains("carries an MTU of") && error.contains("framesz=9216,blocksz=36864"), "{error}");
        wanted.device = format!("net_af_packet0,iface=veth-a,{slots}");
        wanted.mtu = 1500;
        let error = Port::open(&eal, &small, &wanted).unwrap_err().to_string();
        assert!(error.contains("slots (framesz=9216) are longer than the pool's buffers"), "{error}");
        wanted.mtu = 9000;
        wanted.device = "net_tap0,iface=culvert-tap".to_owned();
        let error = Port::open(&eal, &pool, &wanted).unwrap_err().to_string();
        assert!(error.contains("the driver net_tap carries an MTU of"), "{error}");
        wanted.device = "net_af_xdp0,iface=veth-a".to_owned();
        let error = Port::open(&eal, &pool, &wanted).unwrap_err().to_string();
        assert!(error.contains("the driver net_af_xdp carries an MTU of"), "{error}");
    }
}

#[test]
fn jumbo_frames_pass_a_virtio_nic_in_one_buffer_or_in_several() {
    if own("jumbo_frames_pass_a_virtio_nic_in_one_buffer_or_in_several", Kind::OrdinaryUser) {
        let eal = start();
        let several = pool(&eal);
        let one = jumbo_pool(&eal);
        for pool in [one, several] {
            let mut vhost = jumbo(&eal, &pool, "net_vhost0,iface=vhost.sock");
            let mut virtio = jumbo(&eal, &pool, "net_virtio_user0,path=vhost.sock,queue_size=512");
            wait_for_link(&virtio, true);
            wait_for_link(&vhost, true);
            both_ways(&pool, &mut vhost, &mut virtio, 9014);
        }
    }
}

#[test]
fn af_xdp_passes_frames_through_kernel_interfaces() {
    if own("af_xdp_passes_frames_through_kernel_interfaces", Kind::OwnNetwork) {
        let (eal, _) = veth_pair(1500);
        // The driver takes 2048 or more for each queue.
        let many = PoolConfig { name: "many".to_owned(), buffers: Some(16_384), ..PoolConfig::default() };
        let pool = Pool::create(&eal, &many).unwrap();
        let mut a = open(&eal, &pool, "net_af_xdp0,iface=veth-a");
        let mut b = open(&eal, &pool, "net_af_xdp1,iface=veth-b");
        assert_eq!((a.driver(), a.offloads()), ("net_af_xdp", NicOffloads::default()));
        let (mut a_rx, mut a_tx) = a.take_queues();
        let (mut b_rx, mut b_tx) = b.take_queues();
        for _ in 0..20 {
            one_way(&pool, &mut a_tx[0], &mut b_rx[0], 1514);
            one_way(&pool, &mut b_tx[0], &mut a_rx[0], 1514);
        }
        // The driver would read beyond the end of a chain's first buffer.
        let mut frames = Batch::new();
        for length in [100, 5000, 200] {
            frames.push(frame(&pool, &broadcast(1, length))).unwrap();
        }
        assert!(!a_tx[0].sends_chains());
        assert_eq!(a_tx[0].send(&mut frames), 2);
        assert_eq!(contents(&mut frames), [broadcast(1, 5000)]);
        assert_eq!(receive(&mut b_rx[0], 2), [broadcast(1, 100), broadcast(1, 200)]);
    }
}

#[test]
fn queues_of_a_virtio_nic_are_pairs() {
    if own("queues_of_a_virtio_nic_are_pairs", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let with_two = |device: &str| {
            let wanted = PortConfig { rx_queues: 2, tx_queues: 2, ..config(device) };
            Port::open(&eal, &pool, &wanted).unwrap()
        };
        let mut vhost = with_two("net_vhost0,iface=vhost.sock,queues=2");
        let mut virtio = with_two("net_virtio_user0,path=vhost.sock,queues=2");
        assert_eq!((virtio.rx_queues(), virtio.tx_queues()), (2, 2));
        wait_for_link(&virtio, true);
        wait_for_link(&vhost, true);
        let (mut vhost_rx, mut vhost_tx) = vhost.take_queues();
        let (mut virtio_rx, mut virtio_tx) = virtio.take_queues();
        for queue in 0..2 {
            one_way(&pool, &mut virtio_tx[queue], &mut vhost_rx[queue], 1514);
            one_way(&pool, &mut vhost_tx[queue], &mut virtio_rx[queue], 1514);
        }
    }
}

#[test]
fn flows_are_spread_over_queues() {
    if own("flows_are_spread_over_queues", Kind::OwnNetwork) {
        let (eal, pool) = veth_pair(1500);
        let with_two = |device: &str| {
            let wanted = PortConfig { rx_queues: 2, tx_queues: 2, ..config(device) };
            Port::open(&eal, &pool, &wanted).unwrap()
        };
        let mut tap = with_two("net_tap0,iface=culvert-tap");
        let mut kernel = open(&eal, &pool, "net_af_packet0,iface=culvert-tap");
        spread(&pool, &mut kernel, &mut tap);
        // A socket for each queue, among which the kernel spreads (PACKET_FANOUT_HASH).
        let mut a = open(&eal, &pool, "net_af_packet1,iface=veth-a");
        let mut b = with_two("net_af_packet2,iface=veth-b,qpairs=2");
        spread(&pool, &mut a, &mut b);
    }
}

/// Sends some frames of each of 64 UDP flows, and expects all of a flow in one queue, and some flows in each.
fn spread(pool: &Pool, from: &mut Port, to: &mut Port) {
    let (_rx, mut tx) = from.take_queues();
    let (mut rx, _tx) = to.take_queues();
    assert_eq!(rx.len(), 2, "{to:?}");
    let mut queue_of = [None; 64];
    for _ in 0..3 {
        for flow in 0..64 {
            let mut frames = Batch::new();
            frames.push(frame(pool, &udp(flow))).unwrap();
            while !frames.is_empty() {
                tx[0].send(&mut frames);
            }
            let queue = (0..).map(|turn| turn % 2).find(|queue| {
                std::thread::yield_now();
                rx[*queue].receive(&mut frames);
                contents(&mut frames).iter().any(|bytes| *bytes == udp(flow))
            });
            let before = queue_of[usize::from(flow)].replace(queue);
            assert!(before.is_none_or(|before| before == queue), "flow {flow}");
        }
    }
    assert!((0..2).all(|queue| queue_of.contains(&Some(Some(queue)))), "{queue_of:?}");
}

/// A UDP datagram of that flow, without payload and checksum.
fn udp(flow: u8) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, 1, 0x08, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    bytes.extend([10, 0, 0, 1, 10, 0, 0, 2, 0x30, flow, 0, 9, 0, 8, 0, 0]);
    let sum: u32 = bytes[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[test]
fn a_bond_goes_on_with_its_other_member() {
    if own("a_bond_goes_on_with_its_other_member", Kind::OwnNetwork) {
        quiet();
        let eal = start();
        let pool = pool(&eal);
        let device = "net_bonding0,mode=1,member=(net_tap0,iface=tap-a),member=(net_tap1,iface=tap-b),primary=net_tap0";
        let mut bond = open(&eal, &pool, device);
        assert_eq!(bond.driver(), "net_bonding");
        let mut kernel = ["tap-a", "tap-b"].map(|tap| kernel_end(&eal, &pool, tap));
        wait_for_link(&bond, true);
        let (mut rx, mut tx) = bond.take_queues();
        one_way(&pool, &mut tx[0], &mut kernel[0].rx, 1514);
        one_way(&pool, &mut kernel[0].tx, &mut rx[0], 1514);

        ip("link set tap-a down");
        // DPDK looks for links every 10 ms or so: frames are lost until then.
        send_until_seen(&pool, &mut tx[0], &mut kernel[1].rx);
        one_way(&pool, &mut kernel[1].tx, &mut rx[0], 1514);
        assert!(bond.link().up);

        ip("link set tap-b down");
        wait_for_link(&bond, false);
        ip("link set tap-a up");
        wait_for_link(&bond, true);
        send_until_seen(&pool, &mut tx[0], &mut kernel[0].rx);
        drop((bond, rx, tx));
        drop(kernel);
        assert_eq!(pool.free_buffers(), pool.buffers());
        drop(open(&eal, &pool, device));
    }
}

#[test]
fn a_bond_spreads_flows_over_its_members() {
    if own("a_bond_spreads_flows_over_its_members", Kind::OwnNetwork) {
        quiet();
        let eal = start();
        let pool = pool(&eal);
        let device = "net_bonding0,mode=2,xmit_policy=l2,member=(net_tap0,iface=tap-a),member=(net_tap1,iface=tap-b)";
        let mut bond = open(&eal, &pool, device);
        let mut kernel = ["tap-a", "tap-b"].map(|tap| kernel_end(&eal, &pool, tap));
        wait_for_link(&bond, true);
        let (mut rx, mut tx) = bond.take_queues();
        for end in &mut kernel {
            // Both are in use as soon as DPDK has seen their links.
            send_until_seen(&pool, &mut tx[0], &mut end.rx);
            one_way(&pool, &mut end.tx, &mut rx[0], 1514);
        }
        let mut frames = Batch::new();
        for number in 0..BURST as u8 {
            frames.push(frame(&pool, &broadcast(number, 77))).unwrap();
        }
        assert_eq!(tx[0].send(&mut frames), BURST);
        let mut seen = [Vec::new(), Vec::new()];
        while seen.iter().flatten().count() < BURST {
            for (end, sources) in kernel.iter_mut().zip(&mut seen) {
                end.rx.receive(&mut frames);
                sources.extend(contents(&mut frames).iter().filter(|bytes| bytes.len() == 77).map(|bytes| bytes[11]));
            }
        }
        let [even, odd]: [Vec<u8>; 2] =
            std::array::from_fn(|rest| (0..32).filter(|number| number % 2 == rest as u8).collect());
        seen.sort();
        assert_eq!(seen, [even, odd], "by the source address");
    }
}

#[test]
fn a_bond_of_kernel_interfaces_passes_frames() {
    if own("a_bond_of_kernel_interfaces_passes_frames", Kind::OwnNetwork) {
        let (eal, pool) = veth_pair(1500);
        ip("link add veth-c type veth peer name veth-d");
        ip("link set veth-c up");
        ip("link set veth-d up");
        let members = "member=(net_af_packet0,iface=veth-a),member=(net_af_packet1,iface=veth-c)";
        let mut bond = open(&eal, &pool, &format!("net_bonding0,mode=1,{members},primary=net_af_packet0"));
        wait_for_link(&bond, true);
        let mut other = open(&eal, &pool, "net_af_packet2,iface=veth-b");
        both_ways(&pool, &mut bond, &mut other, 1514);
    }
}

#[test]
fn a_bond_with_a_member_that_cannot_be_opened_says_which() {
    if own("a_bond_with_a_member_that_cannot_be_opened_says_which", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let null = "member=net_null0";
        for (member, expected) in [
            ("(net_af_packet0,iface=nowhere0)", "there is no network interface nowhere0"),
            ("0000:00:00.0", "without PCI devices"),
            ("(net_ring1", "parentheses"),
        ] {
            let device = format!("net_bonding0,mode=1,{null},member={member}");
            let error = Port::open(&eal, &pool, &config(&device)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let rings = "net_bonding0,mode=1,member=net_ring0,member=net_ring1";
        let error = Port::open(&eal, &pool, &config(rings)).unwrap_err().to_string();
        assert!(error.contains("a member cannot be given the address of the bond; bond devices"), "{error}");
        // The first member was not left open.
        let mut bond = open(&eal, &pool, "net_bonding0,mode=1,member=net_null0,member=net_null1");
        wait_for_link(&bond, true);
        let (mut rx, _tx) = bond.take_queues();
        assert!(rx[0].receive(&mut Batch::new()) > 0);
        let refused = Port::open(&eal, &pool, &config("net_null0")).unwrap_err().to_string();
        assert!(refused.contains("net_null0 is in use by another port"), "{refused}");
    }
}

#[test]
fn addresses_beyond_the_room_of_a_nic_are_refused() {
    if own("addresses_beyond_the_room_of_a_nic_are_refused", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let address = |number| [2, 0, 0, 0, 1, number];
        let few = PortConfig { promiscuous: false, ..config("net_ring0") };
        let port = Port::open(&eal, &pool, &few).unwrap();
        port.set_mac_filter(&[port.mac()]).unwrap();
        let error = port.set_mac_filter(&[address(1)]).unwrap_err();
        assert!(matches!(error, FilterError::TooMany { room: 0, wanted: 1, .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("port uplink0: its NIC net_ring0") && text.contains("make the port promiscuous"),
            "{text}"
        );
    }
}

#[test]
fn an_address_that_a_driver_refuses_is_named() {
    if own("an_address_that_a_driver_refuses_is_named", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let _vhost = open(&eal, &pool, "net_vhost0,iface=vhost.sock");
        let device = "net_virtio_user0,path=vhost.sock".to_owned();
        let few = PortConfig { promiscuous: false, device, ..config("") };
        let port = Port::open(&eal, &pool, &few).unwrap();
        for _ in 0..2 {
            let error = port.set_mac_filter(&[[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]]).unwrap_err();
            assert!(matches!(error, FilterError::Refused { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("does not let in the address 02:00:00:00:01:01: its driver cannot"), "{text}");
        }
    }
}

#[test]
fn ports_of_every_kind_come_and_go_without_a_trace() {
    if own("ports_of_every_kind_come_and_go_without_a_trace", Kind::OwnNetwork) {
        let (eal, pool) = veth_pair(1500);
        let pairs = [
            ("net_af_packet0,iface=veth-a", "net_af_packet1,iface=veth-b"),
            ("net_pcap0,iface=veth-a", "net_pcap1,iface=veth-b"),
            ("net_tap0,iface=culvert-tap", "net_af_packet1,iface=culvert-tap"),
        ];
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        for (first, second) in pairs {
            let mut before = None;
            for _ in 0..50 {
                let mut a = open(&eal, &pool, first);
                let mut b = open(&eal, &pool, second);
                wait_for_link(&a, true);
                let (mut a_rx, mut a_tx) = a.take_queues();
                let (mut b_rx, mut b_tx) = b.take_queues();
                pass_one(&pool, &mut a_tx[0], &mut b_rx[0]);
                pass_one(&pool, &mut b_tx[0], &mut a_rx[0]);
                drop((a, a_rx, a_tx, b, b_rx, b_tx));
                assert_eq!(pool.free_buffers(), pool.buffers(), "{first}");
                // After the first round, which may open something for good.
                assert_eq!(*before.get_or_insert_with(descriptors), descriptors(), "{first}");
            }
        }
    }
}

#[test]
fn virtio_nics_come_and_go_without_a_trace() {
    if own("virtio_nics_come_and_go_without_a_trace", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut vhost = open(&eal, &pool, "net_vhost0,iface=vhost.sock");
        let (mut vhost_rx, mut vhost_tx) = vhost.take_queues();
        for _ in 0..50 {
            let mut virtio = open(&eal, &pool, "net_virtio_user0,path=vhost.sock");
            let (mut rx, mut tx) = virtio.take_queues();
            wait_for_link(&vhost, true);
            pass_one(&pool, &mut tx[0], &mut vhost_rx[0]);
            pass_one(&pool, &mut vhost_tx[0], &mut rx[0]);
            drop((virtio, rx, tx));
            wait_for_link(&vhost, false);
            assert_eq!(pool.free_buffers(), pool.buffers());
        }
    }
}

/// The kernel's end of an interface that DPDK has made.
struct KernelEnd {
    _port: Port,
    rx: RxQueue,
    tx: TxQueue,
}

fn kernel_end(eal: &Eal, pool: &Pool, interface: &str) -> KernelEnd {
    let number = if interface.ends_with('a') { 0 } else { 1 };
    let mut port = open(eal, pool, &format!("net_af_packet{number},iface={interface}"));
    let (mut rx, mut tx) = port.take_queues();
    KernelEnd { rx: rx.remove(0), tx: tx.remove(0), _port: port }
}

/// Sends frames, odd and even, until one arrives, and takes those that are on their way.
fn send_until_seen(pool: &Pool, tx: &mut TxQueue, rx: &mut RxQueue) {
    let mut received = Batch::new();
    for number in (0..100).cycle() {
        let mut frames = Batch::new();
        frames.push(frame(pool, &broadcast(number, 60))).unwrap();
        tx.send(&mut frames);
        std::thread::sleep(std::time::Duration::from_millis(5));
        if rx.receive(&mut received) > 0 {
            return;
        }
    }
}

fn pass_one(pool: &Pool, tx: &mut TxQueue, rx: &mut RxQueue) {
    let mut frames = Batch::new();
    frames.push(frame(pool, &broadcast(1, 100))).unwrap();
    while !frames.is_empty() {
        tx.send(&mut frames);
    }
    assert_eq!(receive(rx, 1), [broadcast(1, 100)]);
}

fn wait_for_link(port: &Port, up: bool) {
    while port.link().up != up {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A pool whose buffers hold frames of MTU 9000.
fn jumbo_pool(eal: &Eal) -> Pool {
    let config = PoolConfig { name: "jumbo".to_owned(), largest_mtu: 9000, buffers: Some(2048) };
    Pool::create(eal, &config).unwrap()
}

fn jumbo(eal: &Eal, pool: &Pool, device: &str) -> Port {
    Port::open(eal, pool, &PortConfig { mtu: 9000, descriptors: 256, ..config(device) }).unwrap()
}

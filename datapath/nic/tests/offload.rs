//! What a NIC does to frames for us, and the ends of an mbuf. The NIC is DPDK's own virtio driver, facing DPDK's own
//! vhost device in the same process: both have checksums and TCP segmentation, and neither needs a right.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test program"
)]

mod kernel;
mod process;

use culvert_nic::{Batch, Eal, Mbuf, NicOffloads, Pool, Port, PortConfig, RxChecksum, RxQueue, TxOffload, TxQueue};
use kernel::quiet;
use process::{Kind, broadcast, config, content, contents, frame, open, own, pool, start};

#[test]
fn the_front_of_a_frame_can_be_moved() {
    if own("the_front_of_a_frame_can_be_moved", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        for length in [60, 2048, 5000] {
            let plain = broadcast(3, length);
            let mut mbuf = frame(&pool, &plain);
            let tag = [0x81, 0x00, 0x20, 0x05];
            assert!(mbuf.insert(12, &tag));
            let tagged = [&plain[..12], &tag, &plain[12..]].concat();
            assert_eq!(content(&mbuf), tagged);
            mbuf.head_mut()[15] = 9;
            assert_eq!(mbuf.head()[12..16], [0x81, 0x00, 0x20, 9]);
            assert!(mbuf.remove(12, 4));
            assert_eq!(content(&mbuf), plain);

            assert!(mbuf.prepend(b"front") && mbuf.trim_front(3));
            assert_eq!(content(&mbuf), [b"nt", plain.as_slice()].concat());
            assert!(mbuf.trim_front(2));
            assert!(mbuf.prepend(&[7; 128]), "as much as a fresh frame has room for");
            assert!(!mbuf.prepend(&[8]) && !mbuf.insert(0, &[8]), "and no more");
            assert_eq!(content(&mbuf), [&[7; 128], plain.as_slice()].concat());
        }
    }
}

#[test]
fn what_a_frame_does_not_have_cannot_be_taken() {
    if own("what_a_frame_does_not_have_cannot_be_taken", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let plain = broadcast(3, 60);
        let mut mbuf = frame(&pool, &plain);
        assert!(!mbuf.trim_front(60) && !mbuf.trim_front(u16::MAX));
        assert!(!mbuf.insert(61, &[1]) && !mbuf.insert(usize::MAX, &[1]));
        assert!(!mbuf.remove(56, 4) && !mbuf.remove(usize::MAX, 4));
        assert!(!mbuf.prepend(&vec![0; 70_000]));
        assert_eq!(content(&mbuf), plain);
        assert!(mbuf.insert(60, &[1, 2]) && mbuf.trim_front(59));
        assert_eq!(content(&mbuf), [plain[59], 1, 2]);

        // The headers of a request have to lie in the first segment and within DPDK's limits.
        let mut mbuf = frame(&pool, &plain);
        let tcp = TxOffload { l2: 14, l3: 20, l4: 20, checksum: true, ..TxOffload::default() };
        assert!(mbuf.request_offload(&tcp));
        assert!(!mbuf.request_offload(&TxOffload { l4: 27, ..tcp }));
        assert!(!mbuf.request_offload(&TxOffload { l2: u16::MAX, l3: u16::MAX, l4: u16::MAX, ..tcp }));
        assert!(!mbuf.request_offload(&TxOffload { udp: true, segment_size: 100, ..tcp }));
        let mut long = frame(&pool, &broadcast(3, 2000));
        assert!(long.request_offload(&TxOffload { l2: 127, l3: 511, l4: 255, ..tcp }));
        assert!(!long.request_offload(&TxOffload { l2: 128, ..tcp }));
        assert!(!long.request_offload(&TxOffload { l3: 512, ..tcp }));
        assert!(!long.request_offload(&TxOffload { l4: 256, ..tcp }));
        assert_eq!((mbuf.rx_checksum(), mbuf.rx_segment_size()), (RxChecksum::Unknown, None));
    }
}

#[test]
fn what_a_driver_refuses_stays_in_the_batch_behind_the_rest() {
    if own("what_a_driver_refuses_stays_in_the_batch_behind_the_rest", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut pair = Pair::open(&eal, &pool, |_| ());
        let request = TxOffload { l2: 14, l3: 20, l4: 20, checksum: true, ..TxOffload::default() };
        let mut frames = Batch::new();
        for number in 0..5 {
            let mut mbuf = frame(&pool, &broadcast(number, 60));
            assert!(mbuf.request_offload(&request));
            // Two frames lose a part of the headers after the request.
            assert!(number % 2 == 0 || mbuf.trim_front(20));
            frames.push(mbuf).unwrap();
        }
        assert_eq!(pair.virtio_tx.send(&mut frames), 3);
        let left: Vec<Vec<u8>> = frames.iter().map(content).collect();
        assert_eq!(left, [&broadcast(1, 60)[20..], &broadcast(3, 60)[20..]]);
        assert_eq!(pair.virtio_tx.send(&mut frames), 0);
        frames.clear();
        while frames.len() < 3 {
            pair.vhost_rx.receive(&mut frames);
        }
        let sources: Vec<u8> = frames.iter().map(|mbuf| mbuf.head()[11]).collect();
        assert_eq!(sources, [0, 2, 4]);
    }
}

#[test]
fn tcp_is_segmented_by_the_peer_of_a_virtio_nic() {
    if own("tcp_is_segmented_by_the_peer_of_a_virtio_nic", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut pair = Pair::open(&eal, &pool, |_| ());
        assert_eq!(
            pair.virtio_tx.offloads(),
            NicOffloads { ipv4_checksum: false, tcp_checksum: true, udp_checksum: true, tso: true }
        );
        for ipv6 in [false, true] {
            let sent = tcp(ipv6, 32 * 1024);
            let mut mbuf = frame(&pool, &sent);
            let l3 = if ipv6 { 40 } else { 20 };
            let request = TxOffload { l2: 14, l3, l4: 20, ipv6, udp: false, checksum: true, segment_size: 1400 };
            assert!(mbuf.request_offload(&request));
            let received = pair.send_to_vhost(mbuf);
            assert_eq!(received.length() as usize, sent.len(), "in one piece");
            assert_eq!(received.rx_checksum(), RxChecksum::Partial);
            assert_eq!(received.rx_segment_size(), Some(1400));
            assert_eq!(content(&received), with_partial_sum(sent, ipv6));
        }
    }
}

#[test]
fn checksums_are_left_to_the_peer_of_a_virtio_nic() {
    if own("checksums_are_left_to_the_peer_of_a_virtio_nic", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut pair = Pair::open(&eal, &pool, |_| ());
        for ipv6 in [false, true] {
            let sent = tcp(ipv6, 1000);
            let mut mbuf = frame(&pool, &sent);
            let l3 = if ipv6 { 40 } else { 20 };
            assert!(mbuf.request_offload(&TxOffload {
                l2: 14,
                l3,
                l4: 20,
                ipv6,
                checksum: true,
                ..Default::default()
            }));
            let received = pair.send_to_vhost(mbuf);
            assert_eq!((received.rx_checksum(), received.rx_segment_size()), (RxChecksum::Partial, None));
            assert_eq!(content(&received), with_partial_sum(sent, ipv6));
        }
        // And the other way round: what the device gets is not filled in either.
        let sent = tcp(false, 1000);
        let mut mbuf = frame(&pool, &sent);
        assert!(mbuf.request_offload(&TxOffload { l2: 14, l3: 20, l4: 20, checksum: true, ..Default::default() }));
        let received = pair.send_to_virtio(mbuf);
        assert_eq!(received.rx_checksum(), RxChecksum::Partial);
        // Without a request nothing is told.
        let received = pair.send_to_vhost(frame(&pool, &sent));
        assert_eq!(received.rx_checksum(), RxChecksum::Unknown);
        assert_eq!(content(&received), sent);
    }
}

#[test]
fn joined_tcp_segments_are_taken_where_asked_for() {
    if own("joined_tcp_segments_are_taken_where_asked_for", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut pair = Pair::open(&eal, &pool, |virtio| virtio.lro = true);
        let sent = tcp(false, 32 * 1024);
        let mut mbuf = frame(&pool, &sent);
        let request = TxOffload { l2: 14, l3: 20, l4: 20, checksum: true, segment_size: 1400, ..Default::default() };
        assert!(mbuf.request_offload(&request));
        let received = pair.send_to_virtio(mbuf);
        assert_eq!(received.length() as usize, sent.len());
        assert_eq!((received.rx_checksum(), received.rx_segment_size()), (RxChecksum::Partial, Some(1400)));
        assert_eq!(content(&received)[54..], sent[54..]);
    }
}

#[test]
fn a_nic_told_to_compute_nothing_is_handed_whole_frames() {
    if own("a_nic_told_to_compute_nothing_is_handed_whole_frames", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut pair = Pair::open(&eal, &pool, |virtio| virtio.offloads = false);
        assert_eq!(pair.virtio_tx.offloads(), NicOffloads::default());
        let sent = tcp(false, 1000);
        let mut mbuf = frame(&pool, &sent);
        assert!(mbuf.request_offload(&TxOffload { l2: 14, l3: 20, l4: 20, checksum: true, ..Default::default() }));
        let received = pair.send_to_virtio(mbuf);
        assert_eq!(received.rx_checksum(), RxChecksum::Unknown);
    }
}

#[test]
fn a_tap_computes_checksums() {
    if own("a_tap_computes_checksums", Kind::OwnNetwork) {
        quiet();
        let eal = start();
        let pool = pool(&eal);
        let mut tap = open(&eal, &pool, "net_tap0,iface=culvert-tap");
        let sums = NicOffloads { ipv4_checksum: true, tcp_checksum: true, udp_checksum: true, tso: false };
        assert_eq!(tap.offloads(), sums);
        let mut kernel = open(&eal, &pool, "net_af_packet0,iface=culvert-tap");
        assert_eq!(kernel.offloads(), NicOffloads::default());
        let (_rx, mut tx) = tap.take_queues();
        let (mut rx, _tx) = kernel.take_queues();
        for ipv6 in [false, true] {
            let sent = tcp(ipv6, 1000);
            let mut mbuf = frame(&pool, &sent);
            let l3 = if ipv6 { 40 } else { 20 };
            assert!(mbuf.request_offload(&TxOffload {
                l2: 14,
                l3,
                l4: 20,
                ipv6,
                checksum: true,
                ..Default::default()
            }));
            let mut frames = Batch::new();
            frames.push(mbuf).unwrap();
            while tx[0].send(&mut frames) == 0 {
                std::thread::yield_now();
            }
            while rx[0].receive(&mut frames) == 0 {
                std::thread::yield_now();
            }
            let received = contents(&mut frames).remove(0);
            let (tcp, field) = (14 + usize::from(l3), 14 + usize::from(l3) + 16);
            let pseudo = with_partial_sum(sent.clone(), ipv6);
            // The sum over the pseudo-header and all the rest comes to all ones (RFC 1071).
            assert_eq!(sum(&[&pseudo[field..field + 2], &received[tcp..]].concat()), 0xffff);
            assert_eq!((&received[..field], &received[field + 2..]), (&sent[..field], &sent[field + 2..]));
        }
    }
}

#[test]
fn a_bond_does_what_all_its_members_do() {
    if own("a_bond_does_what_all_its_members_do", Kind::OwnNetwork) {
        quiet();
        let eal = start();
        let pool = pool(&eal);
        let taps = open(&eal, &pool, "net_bonding0,mode=1,member=(net_tap0,iface=a),member=(net_tap1,iface=b)");
        let sums = NicOffloads { ipv4_checksum: true, tcp_checksum: true, udp_checksum: true, tso: false };
        assert_eq!(taps.offloads(), sums);
        drop(taps);
        let mixed = open(&eal, &pool, "net_bonding0,mode=1,member=(net_tap0,iface=a),member=net_null0");
        assert_eq!(mixed.offloads(), NicOffloads::default());
    }
}

/// A virtio driver (ours) and the vhost device that it is plugged into (also ours), both open.
struct Pair {
    _ports: [Port; 2],
    virtio_rx: RxQueue,
    virtio_tx: TxQueue,
    vhost_rx: RxQueue,
    vhost_tx: TxQueue,
}

impl Pair {
    fn open(eal: &Eal, pool: &Pool, change: impl FnOnce(&mut PortConfig)) -> Pair {
        let mut vhost = open(eal, pool, "net_vhost0,iface=vhost.sock,tso=1");
        let mut wanted = config("net_virtio_user0,path=vhost.sock,queue_size=1024");
        change(&mut wanted);
        let mut virtio = Port::open(eal, pool, &wanted).unwrap();
        let (mut vhost_rx, mut vhost_tx) = vhost.take_queues();
        let (mut virtio_rx, mut virtio_tx) = virtio.take_queues();
        let pair = Pair {
            virtio_rx: virtio_rx.remove(0),
            virtio_tx: virtio_tx.remove(0),
            vhost_rx: vhost_rx.remove(0),
            vhost_tx: vhost_tx.remove(0),
            _ports: [virtio, vhost],
        };
        while !pair._ports.iter().all(|port| port.link().up) {
            std::thread::yield_now();
        }
        pair
    }

    fn send_to_vhost(&mut self, mbuf: Mbuf) -> Mbuf {
        pass(mbuf, &mut self.virtio_tx, &mut self.vhost_rx)
    }

    fn send_to_virtio(&mut self, mbuf: Mbuf) -> Mbuf {
        pass(mbuf, &mut self.vhost_tx, &mut self.virtio_rx)
    }
}

/// Sends one frame and waits for what comes of it.
fn pass(mbuf: Mbuf, tx: &mut TxQueue, rx: &mut RxQueue) -> Mbuf {
    let mut frames = Batch::new();
    frames.push(mbuf).unwrap();
    while tx.send(&mut frames) == 0 {
        std::thread::yield_now();
    }
    while rx.receive(&mut frames) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(frames.len(), 1);
    frames.take(0).unwrap()
}

/// A TCP segment with `payload` bytes, a correct IPv4 header checksum, and nonsense in the TCP checksum.
fn tcp(ipv6: bool, payload: usize) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let length = u16::try_from(20 + payload).unwrap();
    if ipv6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([6, 64]);
        bytes.extend([0xfd; 16]);
        bytes.extend([0xfe; 16]);
    } else {
        bytes.extend([0x08, 0x00, 0x45, 0]);
        bytes.extend((length + 20).to_be_bytes());
        bytes.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = !sum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    bytes.extend([0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0xab, 0xcd, 0, 0]);
    bytes.extend((0..payload).map(|index| u8::try_from(index % 251).unwrap()));
    bytes
}

/// The frame with the sum over the pseudo-header in the TCP checksum field (virtio 1.3, 5.1.6.2).
fn with_partial_sum(mut bytes: Vec<u8>, ipv6: bool) -> Vec<u8> {
    let (addresses, l4) = if ipv6 { (22..54, 54) } else { (26..34, 34) };
    let length = u16::try_from(bytes.len() - l4).unwrap();
    let pseudo = [&bytes[addresses], &[0, 6], &length.to_be_bytes()].concat();
    bytes[l4 + 16..l4 + 18].copy_from_slice(&sum(&pseudo).to_be_bytes());
    bytes
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

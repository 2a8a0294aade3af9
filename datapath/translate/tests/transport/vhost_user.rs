//! Over vhost-user: frames in all shapes and with all offloads, rings that are full, broken and stopped, frontends that
//! go.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;

use culvert_driver::{Buffer, Kind, OffloadBits, Ram, Ring, Shape, Side, Stream};
use culvert_frame::{DropReason, Offload};
use culvert_guest::device::DeviceConfig;
use culvert_translate::transport::{Transport, VhostUser};
use culvert_vhost::{PortKey, PortSocket, Role};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

use crate::dialogue::MQ;
use crate::echo::{Echo, wait_until};
use crate::frontend::{self, Guest, MRG_RXBUF};

fn socket(path: &Path, role: Role, queue_pairs: u16) -> PortSocket {
    let device = DeviceConfig { queue_pairs, mtu: 65_520, mac: None, offloads: true, migrates: false };
    PortSocket { port: PortKey(0), name: "guest".to_owned(), place: path.into(), role, device, records: None }
}

fn listening(path: &Path, queue_pairs: u16) -> Echo {
    let socket = socket(path, Role::Listen, queue_pairs);
    Echo::start(|registry, first| {
        Transport::VhostUser(Box::new(VhostUser::new(socket, None, registry, first).unwrap()))
    })
}

struct Setup {
    folder: tempfile::TempDir,
    echo: Echo,
}

impl Setup {
    fn new(queue_pairs: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let echo = listening(&folder.path().join("guest.sock"), queue_pairs);
        Self { folder, echo }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("guest.sock")).unwrap()
    }
}

fn frame(length: usize) -> Vec<u8> {
    let mut frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5].to_vec();
    frame.extend((14..length).map(|at| (at * 7 + length) as u8));
    frame
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for mergeable in [false, true] {
        for event_idx in [false, true] {
            for queue_size in [16, 256] {
                // Without mergeable buffers, as Linux does: large ones.
                let receive_bytes = if mergeable { 1526 } else { 66_000 };
                // The largest frame takes 44 buffers.
                if queue_size > 16 || !mergeable {
                    shapes.push(Shape { queue_size, mergeable, event_idx, receive_bytes, ..Shape::default() });
                }
            }
        }
    }
    shapes
}

#[test]
fn frames_come_back_one_by_one_and_the_loop_sleeps() {
    for shape in shapes() {
        let setup = Setup::new(1);
        let mut guest = Guest::attach(setup.connect(), shape, 0);
        setup.echo.wait_for("the guest", |news| news.came);
        for length in [14, 60, 1514, 1515, 9000, 65_549] {
            let sent = frame(length);
            guest.send(&[0; 12], &sent, &[]);
            let (header, received) = guest.receive();
            assert_eq!((header[0], header[1], received == sent), (0, 0, true), "{shape:?} {length}");
            setup.echo.wait_until_idle();
        }
    }
}

#[test]
fn a_loop_that_looks_needs_no_kick_and_sleeps_again_afterwards() {
    for shape in shapes() {
        let setup = Setup::new(1);
        let mut guest = Guest::attach(setup.connect(), shape, 0);
        setup.echo.wait_for("the guest", |news| news.came);
        setup.echo.wait_until_idle();
        setup.echo.look(true);
        for length in 60..90 {
            // The first one ends the sleep.
            if length == 60 {
                guest.send(&[0; 12], &frame(60), &[])
            } else {
                guest.send_silently(&[0; 12], &frame(length))
            }
            assert_eq!(guest.receive().1, frame(length), "{shape:?}");
        }
        setup.echo.look(false);
        setup.echo.wait_until_idle();
        guest.send(&[0; 12], &frame(100), &[]);
        assert_eq!(guest.receive().1, frame(100), "{shape:?}");
        setup.echo.wait_until_idle();
    }
}

#[test]
fn frames_that_find_no_room_wait_for_it() {
    for shape in shapes() {
        let setup = Setup::new(1);
        let mut guest = Guest::attach(setup.connect(), shape, 0);
        // More than the receive ring holds; the guest takes none back meanwhile.
        let count = 2 * usize::from(shape.queue_size);
        for number in 0..count {
            guest.send(&[0; 12], &frame(100 + number), &[]);
        }
        wait_until("all frames", || setup.echo.frames() == count as u64);
        setup.echo.wait_until_idle();
        for number in 0..count {
            assert_eq!(guest.receive().1, frame(100 + number), "{shape:?}");
        }
        assert!(setup.echo.reserved() >= count as u64 / 2);
        assert_eq!(setup.echo.totals().tx_refused, 0);
    }
}

/// What a guest leaves undone comes back undone where it takes that, and finished where it does not: nothing, each alone, all.
#[test]
fn offloads_are_passed_or_finished() {
    let all = OffloadBits { checksum: true, tso4: true, tso6: true, ecn: true, uso4: true, uso6: true };
    let none = OffloadBits::default();
    let checksum = OffloadBits { checksum: true, ..none };
    let tso4 = OffloadBits { tso4: true, ..checksum };
    let (tso6, ecn) = (OffloadBits { tso6: true, ..checksum }, OffloadBits { ecn: true, ..tso4 });
    let (uso4, uso6) = (OffloadBits { uso4: true, ..checksum }, OffloadBits { uso6: true, ..checksum });
    let sides = [none, checksum, tso4, tso6, ecn, uso4, uso6, all];
    let shapes = [(true, 256, 1526), (false, 64, 66_000), (false, 16, 1600)];
    let (mut whole, mut cut, mut reserved) = (0, 0, 0);
    for (number, (sender, receiver)) in sides.iter().flat_map(|&one| sides.map(|other| (one, other))).enumerate() {
        // Those that matter most with all shapes, the others with one each.
        let is_extreme = [sender, receiver].iter().all(|&side| side == all || side == none || side == checksum);
        let shapes = if is_extreme { &shapes[..] } else { &shapes[number % 3..][..1] };
        for kind in Kind::ALL {
            for &(mergeable, queue_size, receive_bytes) in shapes {
                let shape = Shape { mergeable, queue_size, receive_bytes, event_idx: true, ..Shape::default() };
                let setup = Setup::new(1);
                let features = sender.features(Side::Sender) | receiver.features(Side::Receiver);
                let mut guest = Guest::attach(setup.connect(), shape, features);
                let mut stream = Stream::new(kind, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], sender, receiver);
                // One by one, and many at once: then the ring is full in the middle of a frame.
                for round in [1, 1, 1, 8] {
                    for _ in 0..round {
                        let (header, frame, cuts) = stream.frame(60_000);
                        guest.send(&header, &frame, &cuts);
                    }
                    while !stream.is_complete() {
                        let (header, frame) = guest.receive();
                        stream.accept(&header, &frame).unwrap();
                    }
                }
                assert_eq!(setup.echo.refused(), []);
                assert_eq!(setup.echo.totals().tx_refused, 0, "{kind:?} {sender:?} {receiver:?} {shape:?}");
                let seen = stream.seen();
                (whole, cut) = (whole + seen.0, cut + seen.1);
                reserved += setup.echo.reserved();
            }
        }
    }
    assert!(whole > 50 && cut > 500 && reserved > 50, "{whole} passed whole, {cut} segments, {reserved} by the kernel");
}

#[test]
fn a_single_segment_needs_no_cutting() {
    let setup = Setup::new(1);
    let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
    setup.echo.wait_for("the guest", |news| news.came);
    let sender = OffloadBits { checksum: true, tso4: true, ..OffloadBits::default() };
    let kind = Kind { tcp: true, v6: false };
    let mut stream = Stream::new(kind, [2; 6], [4; 6], sender, OffloadBits::default()).untagged();
    let (header, frame, _) = stream.frame(100);
    let header = culvert_guest::NetHeader::parse(&header).unwrap();
    let Offload::Checksum(partial) =
        Offload::check(header.request(), culvert_frame::Offloads::ALL, &frame, frame.len() as u32).unwrap()
    else {
        panic!("a frame of one segment");
    };
    let segmentation = culvert_frame::Segmentation {
        kind: culvert_frame::SegmentKind::Tcp4,
        ecn: false,
        size: 1460,
        network: 14,
        transport: partial.start,
        header_bytes: partial.start + u16::from(frame[usize::from(partial.start) + 12] >> 4) * 4,
    };
    setup.echo.send(vec![(Offload::Segment(segmentation), frame)]);
    let (header, frame) = guest.receive();
    stream.accept(&header, &frame).unwrap();
    assert_eq!(setup.echo.totals().tx_segmented, 0);
}

#[test]
fn a_buffer_that_is_too_small_costs_its_frame_only() {
    let setup = Setup::new(1);
    let shape = Shape { mergeable: false, receive_bytes: 1526, ..Shape::default() };
    let mut guest = Guest::attach(setup.connect(), shape, 0);
    for length in [1000, 5000, 1001] {
        guest.send(&[0; 12], &frame(length), &[]);
    }
    assert_eq!(guest.receive().1, frame(1000));
    assert_eq!(guest.receive().1, frame(1001));
    assert_eq!(setup.echo.totals().tx_refused, 1);
}

#[test]
fn what_is_no_frame_is_told() {
    let setup = Setup::new(1);
    let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
    guest.send(&[0; 12][..4], &[], &[]);
    guest.send(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame(60), &[]);
    guest.send(&[0; 12], &frame(61), &[]);
    assert_eq!(guest.receive().1, frame(61));
    assert_eq!(setup.echo.refused(), [DropReason::ShortHeader, DropReason::BadOffload]);
}

/// Frames of all queue pairs come in; frames of one flow go to one queue, and flows spread.
#[test]
fn several_queue_pairs() {
    const PAIRS: usize = 4;
    let setup = Setup::new(PAIRS as u16);
    let ram = Rc::new(Ram::new(8 << 20, false));
    let rings: Vec<_> = (0..2 * PAIRS).map(|_| Ring::new(Rc::clone(&ram), 64, true)).collect();
    let mut frontend = frontend::begin(setup.connect(), &ram, MQ | MRG_RXBUF | frontend::EVENT_IDX, 2 * PAIRS as u64);
    let mut rings: Vec<_> = rings
        .into_iter()
        .enumerate()
        .map(|(index, ring)| {
            let events = frontend::start_ring(&mut frontend, index, &ring);
            (ring, events)
        })
        .collect();
    let place = |length| ram.allocate(length, 64);
    for (ring, events) in rings.iter_mut().step_by(2) {
        while ring.free() > 0 {
            ring.offer(&[Buffer { address: place(2048), length: 2048, writable: true }]);
        }
        ring.publish();
        events.kick.write(1).unwrap();
    }
    // 64 flows, two frames each, by all transmit queues.
    let udp = |flow: u16, number: u8| {
        let mut frame = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        builder.udp(flow, 53).write(&mut frame, &[number; 100]).unwrap();
        frame
    };
    for number in 0..2 {
        for flow in 0..64 {
            let (ring, events) = &mut rings[1 + 2 * ((usize::from(flow) + number) % PAIRS)];
            let bytes = [vec![0; 12], udp(flow, number as u8)].concat();
            let address = place(bytes.len() as u64);
            ram.write(address, &bytes);
            ring.offer(&[Buffer { address, length: bytes.len() as u32, writable: false }]).unwrap();
            if ring.publish() {
                events.kick.write(1).unwrap();
            }
        }
    }
    wait_until("all frames", || setup.echo.frames() == 128);
    setup.echo.wait_until_idle();
    let used: Vec<_> = rings.iter().step_by(2).map(|(ring, _)| u32::from(ring.used_index())).collect();
    assert_eq!(used.iter().sum::<u32>(), 128);
    assert!(used.iter().all(|&count| count > 0 && count % 2 == 0), "{used:?}");
}

/// Both sides sleep whenever they may: a kick that is not asked for, or an interrupt that is not sent, ends the
/// traffic.
#[test]
fn a_driver_that_kicks_only_when_asked_never_stalls() {
    for (event_idx, size, in_pieces) in [(true, 16, false), (true, 128, true), (false, 16, true), (false, 128, false)] {
        let setup = Setup::new(1);
        let ram = Rc::new(Ram::new(8 << 20, false));
        let mut rings = [0, 1].map(|_| Ring::new(Rc::clone(&ram), size, event_idx));
        let features = MRG_RXBUF | if event_idx { frontend::EVENT_IDX } else { 0 };
        let mut frontend = frontend::begin(setup.connect(), &ram, features, 2);
        let events = [0, 1].map(|index| frontend::start_ring(&mut frontend, index, &rings[index]));
        // Small buffers, so that frames take several; by their heads.
        let room = ram.allocate(u64::from(size) * 512, 64);
        let slots = ram.allocate(u64::from(size) * 2048, 64);
        let offer = |ring: &mut Ring| {
            let mut offered = false;
            while ring.free() > 0 {
                let address = room + 512 * u64::from(ring.next_head());
                ring.offer(&[Buffer { address, length: 512, writable: true }]);
                offered = true;
            }
            if offered && ring.publish() {
                events[0].kick.write(1).unwrap();
            }
        };
        offer(&mut rings[0]);
        let (mut sent, mut received, mut bytes) = (0_usize, 0_usize, Vec::new());
        let length = |number: usize| 14 + number * 97 % 1900;
        let mut left = 0;
        while received < 3000 {
            let [receive, transmit] = &mut rings;
            while transmit.take_used().is_some() {}
            // In bursts of different lengths, as far as the ring goes.
            for _ in 0..1 + sent % 40 {
                if sent == 3000 || transmit.free() < 2 {
                    break;
                }
                let at = slots + 2048 * u64::from(transmit.next_head());
                let frame = [vec![0; 12], frame(length(sent))].concat();
                ram.write(at, &frame);
                let (first, second) = (12, frame.len() as u32 - 12);
                let whole = Buffer { address: at, length: first + second, writable: false };
                let parts = [
                    Buffer { length: first, ..whole },
                    Buffer { address: at + u64::from(first), length: second, ..whole },
                ];
                if in_pieces { transmit.offer(&parts) } else { transmit.offer(&[whole]) }.unwrap();
                sent += 1;
            }
            if transmit.publish() {
                events[1].kick.write(1).unwrap();
            }
            // Takes what there is; when there is nothing, waits for the interrupt.
            let mut took = 0;
            while let Some((head, count)) = receive.take_used() {
                let mut part = vec![0; count as usize];
                ram.read(room + 512 * u64::from(head), &mut part);
                if left == 0 {
                    left = u16::from_le_bytes([part[10], part[11]]);
                    part.drain(..12);
                }
                bytes.extend(part);
                left -= 1;
                if left == 0 {
                    assert!(bytes == frame(length(received)), "frame {received}");
                    bytes.clear();
                    received += 1;
                }
                took += 1;
                // Gives buffers back in small and in large numbers.
                if took % (1 + received % 11) == 0 {
                    offer(receive);
                }
            }
            offer(receive);
            if took == 0 && received < 3000 {
                receive.want_interrupt(true);
                transmit.want_interrupt(true);
                let idle = receive.pending() == receive.size() && (sent == 3000 || transmit.free() < 2);
                if idle {
                    wait_until("an interrupt", || {
                        events.iter().any(|events| events.call.read().is_ok()) || receive.pending() < receive.size()
                    });
                }
                receive.want_interrupt(false);
                transmit.want_interrupt(false);
            }
        }
        setup.echo.wait_until_idle();
        assert_eq!(setup.echo.totals().tx_refused, 0);
    }
}

#[test]
fn a_disabled_ring_is_emptied_and_a_stopped_one_left_alone() {
    let setup = Setup::new(1);
    let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
    guest.frontend.set_vring_enable(1, false).unwrap();
    for _ in 0..10 {
        guest.send(&[0; 12], &frame(60), &[]);
    }
    wait_until("frames thrown away", || setup.echo.totals().rx_disabled == 10);
    guest.frontend.set_vring_enable(1, true).unwrap();
    guest.send(&[0; 12], &frame(61), &[]);
    assert_eq!(guest.receive().1, frame(61));
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 11);
    guest.send(&[0; 12], &frame(62), &[]);
    // Answered means that the ring is not looked at any more.
    assert_eq!(guest.frontend.get_vring_base(0).unwrap(), 1);
    setup.echo.wait_until_idle();
    assert_eq!(setup.echo.frames(), 1);
    guest.receive = frontend::start_ring(&mut guest.frontend, 0, &guest.interface.receive);
    guest.transmit = frontend::start_ring(&mut guest.frontend, 1, &guest.interface.transmit);
    // It goes on where it stopped.
    assert_eq!(guest.receive().1, frame(62));
}

/// hostile Q3, Q4: the connection ends, the process goes on, the guest may come again.
#[test]
fn broken_rings_end_the_connection() {
    let setup = Setup::new(1);
    for round in 0..3_u64 {
        for receive in [false, true] {
            let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
            guest.send(&[0; 12], &frame(60), &[]);
            assert_eq!(guest.receive().1, frame(60));
            let ring = if receive { &guest.interface.receive } else { &guest.interface.transmit };
            ring.set_available_index(ring.available_index().wrapping_add(1000));
            guest.transmit.kick.write(1).unwrap();
            if receive {
                // Found when a frame is to be put.
                setup.echo.send(vec![(Offload::None, frame(60)); 300]);
            }
            guest.wait_closed();
            setup.echo.wait_for("the end", |news| news.left);
            assert_eq!(setup.echo.totals().quarantined, 2 * round + 1 + u64::from(receive));
        }
    }
    setup.echo.wait_until_idle();
}

/// hostile V8: the guest's memory file is truncated.
#[test]
fn lost_memory_ends_the_connection() {
    let setup = Setup::new(1);
    let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
    guest.send(&[0; 12], &frame(60), &[]);
    assert_eq!(guest.receive().1, frame(60));
    let file = guest.interface.ram().file();
    let length = u64::try_from(rustix::fs::fstat(file).unwrap().st_size).unwrap();
    rustix::fs::ftruncate(file, 0).unwrap();
    guest.transmit.kick.write(1).unwrap();
    guest.wait_closed();
    setup.echo.wait_for("the end", |news| news.left);
    // The driver's own mapping was gone, too.
    rustix::fs::ftruncate(guest.interface.ram().file(), length).unwrap();
    drop(guest);
    let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
    guest.send(&[0; 12], &frame(61), &[]);
    assert_eq!(guest.receive().1, frame(61));
}

#[test]
fn quarantine_by_the_owner_ends_the_connection() {
    let setup = Setup::new(1);
    let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
    setup.echo.wait_for("the guest", |news| news.came);
    setup.echo.quarantine();
    guest.wait_closed();
    setup.echo.wait_for("the end", |news| news.left);
}

/// hostile V18: a frontend that is killed, with frames in both directions.
#[test]
fn frontends_come_again() {
    let setup = Setup::new(1);
    for round in 0..20 {
        let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
        setup.echo.wait_for("the guest", |news| news.came);
        for number in 0..300 {
            let _ = guest.interface.send(&frame(60 + number + round));
        }
        guest.transmit.kick.write(1).unwrap();
        if round % 2 == 0 {
            assert_eq!(guest.receive().1, frame(60 + round));
        }
        drop(guest);
        setup.echo.wait_for("the end", |news| news.left);
    }
    assert_eq!(setup.echo.totals().connections, 20);
    setup.echo.wait_until_idle();
}

/// One after the other without a pause: each one's end is told.
#[test]
fn frontends_that_follow_each_other_are_told_apart() {
    let setup = Setup::new(1);
    for round in 0..20 {
        let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
        guest.send(&[0; 12], &frame(60 + round), &[]);
        assert_eq!(guest.receive().1, frame(60 + round));
    }
    let ends = std::cell::Cell::new(0);
    setup.echo.wait_for("twenty ends", |news| {
        ends.set(ends.get() + u32::from(news.left));
        ends.get() == 20
    });
    assert_eq!(setup.echo.totals().connections, 20);
}

/// hostile V1: a message that stops half-way is waited for, but not for ever; V3, V4: what is no message.
#[test]
fn frontends_that_talk_nonsense_are_closed() {
    let setup = Setup::new(1);
    let header = [1_u32, 1, 0].map(u32::to_ne_bytes).concat();
    let nonsense = [header[..7].to_vec(), vec![0xff; 12], [77_u32, 1, 0].map(u32::to_ne_bytes).concat()];
    for bytes in nonsense {
        let mut stream = setup.connect();
        std::io::Write::write_all(&mut stream, &bytes).unwrap();
        // The end, not bytes.
        assert_eq!(std::io::Read::read(&mut stream, &mut [0; 64]).unwrap_or(0), 0);
    }
    let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
    guest.send(&[0; 12], &frame(60), &[]);
    assert_eq!(guest.receive().1, frame(60));
    drop(guest);
    setup.echo.wait_until_idle();
}

/// hostile V16
#[test]
fn a_second_frontend_is_refused() {
    let setup = Setup::new(1);
    let mut guest = Guest::attach(setup.connect(), Shape::default(), 0);
    let mut second = setup.connect();
    assert_eq!(std::io::Read::read(&mut second, &mut [0]).unwrap(), 0);
    guest.send(&[0; 12], &frame(60), &[]);
    assert_eq!(guest.receive().1, frame(60));
}

#[test]
fn we_connect_where_the_frontend_listens_and_again_when_it_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.sock");
    let socket = socket(&path, Role::Connect, 1);
    let echo = Echo::start(|registry, first| {
        Transport::VhostUser(Box::new(VhostUser::new(socket, None, registry, first).unwrap()))
    });
    for length in [60, 61] {
        let listener = UnixListener::bind(&path).unwrap();
        let mut guest = Guest::attach(listener.accept().unwrap().0, Shape::default(), 0);
        guest.send(&[0; 12], &frame(length), &[]);
        assert_eq!(guest.receive().1, frame(length));
        drop((guest, listener));
        echo.wait_for("the end", |news| news.left);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn an_inherited_connection_is_the_only_one() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let socket = socket(Path::new("inherited"), Role::Connect, 1);
    let echo = Echo::start(|registry, first| {
        Transport::VhostUser(Box::new(VhostUser::new(socket, Some(ours), registry, first).unwrap()))
    });
    let mut guest = Guest::attach(theirs, Shape::default(), 0);
    guest.send(&[0; 12], &frame(60), &[]);
    assert_eq!(guest.receive().1, frame(60));
    drop(guest);
    echo.wait_for("the end", |news| news.left);
    echo.wait_until_idle();
}

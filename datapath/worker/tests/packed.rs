//! Guests with packed rings at the ports of real workers: in pairs with guests whose rings are split, with mergeable buffers, indirect tables and
//! segments; stopped and started where they stand, and taken up by the next process.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use culvert_driver::{Kind, OffloadBits, Shape, Side, Stream};
use culvert_guest::device::{RingChange, RingSetup};
use culvert_guest::packed::{FIRST_POSITION, PackedStart};
use culvert_guest::record::Records;
use culvert_switch::Rules;
use culvert_worker::Datapath;
use rustix::event::{EventfdFlags, eventfd};

mod setup;
use setup::{Guest, datapath, wait};

/// Bytes of the payload of a frame that is to be segmented.
const PAYLOAD: usize = 8000;

/// Starts a guest's two rings with further features and, from a number on, the records of where they stand.
fn start(datapath: &Datapath, guest: &Guest, features: u64, records: Option<(&Records, u16)>) {
    let rings = [&guest.driver.receive, &guest.driver.transmit];
    let changes = (0..).zip(rings).map(|(number, ring)| {
        let setup = guest.setup(ring);
        let record = records.and_then(|(records, from)| records.ring(from + number));
        let packed = record.map(|record| PackedStart { record, told: Some(FIRST_POSITION) });
        RingChange::Start { ring: number, setup: RingSetup { features: setup.features | features, packed, ..setup } }
    });
    assert_eq!(datapath.change_rings(guest.port, changes.collect()).unwrap(), []);
}

/// Passes a stream on in bursts, and waits until all of it has come.
fn pass(from: &mut Guest, to: &mut Guest, stream: &mut Stream, frames: usize) {
    for number in 0..frames {
        let (header, frame, cuts) = stream.frame(PAYLOAD);
        wait(|| from.driver.send_with(&header, &frame, &cuts));
        if number % 7 == 6 || number + 1 == frames {
            rustix::io::write(&from.kick, &1_u64.to_ne_bytes()).unwrap();
            wait(|| {
                while let Some((header, frame)) = to.driver.receive() {
                    stream.accept(&header, &frame).unwrap();
                }
                stream.is_complete()
            });
        }
    }
}

fn shape(packed: bool, event_idx: bool, indirect: bool) -> Shape {
    Shape { queue_size: 128, packed, event_idx, indirect, receive_bytes: 2000, ..Shape::default() }
}

#[test]
fn packed_and_split_rings_meet_with_all_offloads() {
    let all = OffloadBits { checksum: true, tso4: true, tso6: true, ecn: true, uso4: true, uso6: true };
    for (packed, event_idx, indirect) in
        [([true, false], false, true), ([false, true], true, false), ([true; 2], true, true)]
    {
        // Who takes frames whole, and who needs them finished.
        for receiver in [all, OffloadBits::default()] {
            let (datapath, network) = datapath(1, Some(Duration::from_micros(200)));
            let [mut a, mut b] =
                [0, 1].map(|at| Guest::new(&datapath, network, at as u8 + 1, shape(packed[at], event_idx, indirect)));
            start(&datapath, &a, all.features(Side::Sender) | all.features(Side::Receiver), None);
            start(&datapath, &b, all.features(Side::Sender) | receiver.features(Side::Receiver), None);
            for kind in Kind::ALL {
                let (there, back) = ((a.mac.0, b.mac.0), (b.mac.0, a.mac.0));
                let mut stream = Stream::new(kind, there.0, there.1, all, receiver).untagged();
                pass(&mut a, &mut b, &mut stream, 50);
                let mut stream = Stream::new(kind, back.0, back.1, all, all).untagged();
                pass(&mut b, &mut a, &mut stream, 50);
                // Longer than `idle_sleep`.
                std::thread::sleep(Duration::from_millis(1));
            }
            for port in [a.port, b.port] {
                assert_eq!(datapath.totals(port).unwrap().drops, []);
            }
        }
    }
}

#[test]
fn packed_rings_stop_and_go_on_in_other_workers() {
    let (datapath, network) = datapath(2, Some(Duration::ZERO));
    let mut a = Guest::new(&datapath, network, 1, shape(true, false, false));
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    let records = Records::new(None, 2);
    b.start(&datapath);
    let mut sent = 0_u32;
    for round in 0..100 {
        start(&datapath, &a, 0, Some((&records, 0)));
        for _ in 0..1 + round % 13 {
            let (there, back) = (a.frame(b.mac, sent), b.frame(a.mac, sent));
            a.send(&there);
            assert_eq!(b.receive(), there);
            b.send(&back);
            assert_eq!(a.receive(), back);
            sent += 1;
        }
        wait(|| a.driver.transmit.used_index() == a.driver.transmit.available_index());
        let stops = vec![RingChange::Stop { ring: 0 }, RingChange::Stop { ring: 1 }];
        let mut stopped = datapath.change_rings(a.port, stops).unwrap();
        stopped.sort_by_key(|ring| ring.ring);
        let size = u32::from(a.shape.queue_size);
        let position = (sent % size) as u16 | if (sent / size).is_multiple_of(2) { FIRST_POSITION } else { 0 };
        assert_eq!(stopped.iter().map(|ring| ring.position).collect::<Vec<_>>(), [position; 2], "{sent} frames");
    }
}

/// The next process has nothing but the file: guests' memory, and what the frontend tells, which is where the rings began.
#[test]
fn packed_rings_go_on_in_the_next_process() {
    let file = rustix::fs::memfd_create("records", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut guests = None;
    for life in 0..30_u32 {
        let (datapath, network) = datapath(1, Some(Duration::from_micros(200)));
        let records = Records::new(Some(path.clone().into()), 4);
        let (mut a, mut b): (Guest, Guest) = guests.take().unwrap_or_else(|| {
            [1, 2].map(|number| Guest::new(&datapath, network, number, shape(true, true, true))).into()
        });
        for (guest, from) in [(&mut a, 0), (&mut b, 2)] {
            // The ports are new with each process.
            guest.port = datapath.add_guest_port(network, Rules::default()).unwrap();
            guest.kick = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
            start(&datapath, guest, 0, Some((&records, from)));
        }
        assert!(records.failure().is_none());
        for number in 0..1 + life * 7 % 23 {
            let there = a.frame(b.mac, number);
            a.send(&there);
            assert_eq!(b.receive(), there);
        }
        drop(datapath);
        guests = Some((a, b));
    }
}

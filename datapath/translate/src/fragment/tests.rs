//! Fragments against a plain model, and hostile ones.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::world::with_packet;

/// A fragment of IPv4 or IPv6 in a frame. `part` of the packet `identification`.
fn frame(v4: bool, identification: u32, offset: u16, more: bool, part: &[u8]) -> Vec<u8> {
    let ip =
        |v4: &str, v6: &str, is_v4: bool| -> IpAddr { if is_v4 { v4.parse().unwrap() } else { v6.parse().unwrap() } };
    let ends = Ends {
        source_mac: crate::samples::GUEST_MAC,
        destination_mac: crate::settings::DEFAULT_MAC,
        source: ip("192.0.2.2", "2001:db8::2", v4),
        destination: ip("198.51.100.7", "2001:db8:1::7", v4),
        hop_limit: 64,
        traffic_class: 0,
    };
    let bytes = u16::try_from(part.len()).unwrap();
    [&fragment_head(&ends, 17, bytes, identification, offset, more)[..], part].concat()
}

impl Reassembler {
    fn add_frame(&mut self, now: Instant, frame: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let whole = with_packet(frame, |ip| self.add(now, ip))?;
        assert_eq!(self.bytes, self.packets.iter().map(|(_, partial)| partial.bytes.len()).sum::<usize>());
        assert!(self.bytes <= MAX_BYTES && self.packets.len() <= MAX_PACKETS);
        Ok(whole.map(|whole| whole.packet().payload.first_bytes().to_vec()))
    }
}

const BAD: Result<Option<Vec<u8>>, Refusal> = Err(Refusal::BadFragment);

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

#[test]
fn parts_in_any_order_make_the_packet() {
    let (now, payload) = (Instant::now(), noise(100));
    let parts = [(0, 40), (40, 80), (80, 100)];
    for v4 in [true, false] {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut reassembler = Reassembler::default();
            for (count, index) in order.into_iter().enumerate() {
                let (from, to) = parts[index];
                let part = frame(v4, 9, u16::try_from(from).unwrap(), to != 100, &payload[from..to]);
                let expected = (count == 2).then(|| payload.clone());
                assert_eq!(reassembler.add_frame(now, &part), Ok(expected));
            }
            assert!(reassembler.is_empty());
        }
    }
}

#[test]
fn the_whole_packet_looks_as_if_it_had_never_been_cut() {
    let now = Instant::now();
    for v4 in [true, false] {
        let mut reassembler = Reassembler::default();
        reassembler.add_frame(now, &frame(v4, 9, 8, false, b"12345678")).unwrap();
        let whole = with_packet(&frame(v4, 9, 0, true, b"abcdefgh"), |ip| reassembler.add(now, ip)).unwrap().unwrap();
        let packet = whole.packet();
        assert_eq!((packet.fragment, packet.protocol, packet.hop_limit), (None, 17, 64));
        assert_eq!(packet.header.len(), if v4 { 20 } else { 40 });
        assert_eq!(packet.header.get(6).copied(), Some(if v4 { 0x20 } else { 17 }));
        assert_eq!(packet.payload.first_bytes(), b"abcdefgh12345678");
        packet.check_ends().unwrap();
    }
}

#[test]
fn packets_are_told_apart() {
    let now = Instant::now();
    let mut reassembler = Reassembler::default();
    for identification in [1, 2] {
        for v4 in [true, false] {
            assert_eq!(reassembler.add_frame(now, &frame(v4, identification, 0, true, &[0; 8])), Ok(None));
        }
    }
    assert_eq!(reassembler.len(), 4);
    assert_eq!(reassembler.add_frame(now, &frame(true, 1, 8, false, b"x")).unwrap().unwrap().len(), 9);
    assert_eq!(reassembler.len(), 3);
}

/// N3: overlaps and teardrops are given up whole; exact repetitions are not.
#[test]
fn overlaps_spoil_the_packet() {
    let (now, payload) = (Instant::now(), noise(64));
    let overlaps = [(8, 24, true), (0, 8, true), (16, 24, false), (24, 40, true), (8, 48, true), (31, 32, false)];
    for (from, to, more) in overlaps {
        let mut reassembler = Reassembler::default();
        assert_eq!(reassembler.add_frame(now, &frame(true, 1, 8, true, &payload[8..32])), Ok(None));
        let again = frame(true, 1, 8, true, &payload[8..32]);
        assert_eq!(reassembler.add_frame(now, &again), Ok(None), "a repetition");
        let mut part = payload[from..to].to_vec();
        part[0] ^= 1;
        let from = u16::try_from(from & !7).unwrap();
        let overlap = frame(true, 1, from, more, &part);
        let is_overlap = from != 0;
        assert_eq!(reassembler.add_frame(now, &overlap).is_err(), is_overlap);
        if is_overlap {
            // Nothing of it is taken any more, and nothing is kept of it but that.
            for (from, more) in [(0, true), (32, false), (48, false)] {
                let rest = frame(true, 1, from, more, &[0; 8]);
                assert_eq!(reassembler.add_frame(now, &rest), BAD);
            }
            assert_eq!((reassembler.len(), reassembler.bytes), (1, 0));
            reassembler.expire(now + TIMEOUT_V4);
            assert!(reassembler.is_empty());
        }
    }
}

/// N3: what contradicts itself.
#[test]
fn ends_that_do_not_fit_spoil_the_packet() {
    let now = Instant::now();
    let cases: [[(u16, bool, usize); 2]; 4] = [
        // Another end, behind it, before it, and a last part before what there is.
        [(16, false, 8), (32, false, 8)],
        [(16, false, 8), (32, true, 8)],
        [(16, false, 8), (8, false, 8)],
        [(32, true, 8), (8, false, 8)],
    ];
    for [first, second] in cases {
        let mut reassembler = Reassembler::default();
        let part = |(offset, more, bytes): (u16, bool, usize)| frame(true, 1, offset, more, &vec![0; bytes]);
        assert_eq!(reassembler.add_frame(now, &part(first)), Ok(None));
        assert_eq!(reassembler.add_frame(now, &part(second)), BAD);
    }
    let mut reassembler = Reassembler::default();
    // Empty, not of eights, too long with its header.
    assert_eq!(reassembler.add_frame(now, &frame(true, 1, 8, false, &[])), BAD);
    assert_eq!(reassembler.add_frame(now, &frame(true, 1, 0, true, &[0; 9])), BAD);
    assert_eq!(reassembler.add_frame(now, &frame(true, 1, 65_528, false, &[0; 8])), BAD);
    assert_eq!(reassembler.add_frame(now, &frame(true, 1, 65_512, false, &[0; 4])), BAD);
    assert!(reassembler.is_empty());
    assert_eq!(reassembler.add_frame(now, &frame(true, 1, 65_512, false, &[0; 3])), Ok(None));
}

/// N3: 10^5 first fragments, and parts far apart: never more than the bounds.
#[test]
fn what_waits_is_bounded() {
    let (now, mut reassembler) = (Instant::now(), Reassembler::default());
    for identification in 0..100_000 {
        assert_eq!(reassembler.add_frame(now, &frame(false, identification, 0, true, &[0; 8])), Ok(None));
    }
    assert_eq!(reassembler.len(), MAX_PACKETS);
    let mut reassembler = Reassembler::default();
    for identification in 0..1000 {
        assert_eq!(reassembler.add_frame(now, &frame(false, identification, 65_504, true, &[0; 8])), Ok(None));
    }
    assert_eq!(reassembler.len(), MAX_BYTES / 65_512);
    // The one that was touched last is still there.
    assert_eq!(reassembler.add_frame(now, &frame(false, 999, 65_504, true, &[0; 8])), Ok(None));
    // Parts that do not touch each other.
    let mut reassembler = Reassembler::default();
    for part in 0..32 {
        assert_eq!(reassembler.add_frame(now, &frame(true, 1, part * 16, true, &[0; 8])), Ok(None));
    }
    assert_eq!(reassembler.add_frame(now, &frame(true, 1, 1024, true, &[0; 8])), BAD);
}

#[test]
fn what_does_not_become_whole_in_time_is_given_up() {
    let (now, mut reassembler) = (Instant::now(), Reassembler::default());
    assert_eq!(reassembler.deadline(), None);
    reassembler.add_frame(now, &frame(false, 1, 0, true, &[0; 8])).unwrap();
    assert_eq!(reassembler.deadline(), Some(now + TIMEOUT_V6));
    let later = now + Duration::from_secs(10);
    reassembler.add_frame(later, &frame(true, 1, 0, true, &[0; 8])).unwrap();
    assert_eq!(reassembler.deadline(), Some(later + TIMEOUT_V4));
    // More of it does not give it more time.
    reassembler.add_frame(later + Duration::from_secs(29), &frame(true, 1, 8, true, &[0; 8])).unwrap();
    reassembler.expire(later + TIMEOUT_V4);
    assert_eq!(reassembler.len(), 1);
    let rest = frame(false, 1, 8, false, &[0; 8]);
    assert_eq!(reassembler.add_frame(now + TIMEOUT_V6, &rest), Ok(None), "the first part is gone");
}

/// What a receiver without limits makes of fragments of one packet: a byte each.
#[derive(Default)]
struct Model {
    bytes: Vec<Option<u8>>,
    end: Option<usize>,
    is_bad: bool,
}

impl Model {
    fn add(&mut self, offset: usize, more: bool, part: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let end = offset + part.len();
        self.bytes.resize(self.bytes.len().max(end), None);
        let there = &self.bytes[offset..end];
        let is_repeated = there.iter().zip(part).all(|(there, byte)| *there == Some(*byte));
        let is_overlap = there.iter().any(Option::is_some) && !is_repeated;
        let highest = self.bytes.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let contradicts = match self.end {
            Some(known) => {
                if more {
                    end >= known
                } else {
                    end != known
                }
            }
            None => !more && end < highest,
        };
        self.is_bad |= is_overlap || contradicts;
        if self.is_bad {
            return Err(Refusal::BadFragment);
        }
        if is_repeated {
            return Ok(None);
        }
        for (there, byte) in self.bytes[offset..].iter_mut().zip(part) {
            *there = Some(*byte);
        }
        if !more {
            self.end = Some(end);
        }
        let length = self.end.unwrap_or(usize::MAX);
        Ok(self.bytes.get(..length).and_then(|bytes| bytes.iter().copied().collect()))
    }
}

proptest! {
    /// Whatever comes, the result is the model's.
    #[test]
    fn like_a_plain_model(
        v4 in any::<bool>(),
        parts in proptest::collection::vec((0_u16..12, 1_usize..5, any::<bool>(), 0_usize..20), 1..20),
    ) {
        let (now, payload, mut model, mut reassembler) =
            (Instant::now(), noise(200), Model::default(), Reassembler::default());
        // One part that is all is no fragment.
        let parts = parts.into_iter().filter(|&(place, _, more, _)| place > 0 || more);
        for (place, eights, more, spoiled) in parts {
            let (offset, length) = (usize::from(place) * 8, eights * 8 - usize::from(!more) * 3);
            let mut part = payload[offset..offset + length].to_vec();
            // Once in a while other bytes than last time.
            if spoiled == 0 {
                part[0] ^= 0x80;
            }
            let result = reassembler.add_frame(now, &frame(v4, 5, place * 8, more, &part));
            prop_assert_eq!(&result, &model.add(offset, more, &part));
            if matches!(result, Ok(Some(_))) {
                prop_assert!(reassembler.is_empty());
                model = Model::default();
            }
        }
    }

    /// What is cut for the guest is put together again by our own hand, at any size.
    #[test]
    fn what_was_cut_becomes_whole(v4 in any::<bool>(), bytes in 0_usize..4000, mtu in 68_u16..2000) {
        let mut world = crate::world::World::new();
        world.settings.mtu = Some(mtu);
        let payload = noise(bytes);
        let ends = Ends {
            source_mac: crate::settings::DEFAULT_MAC,
            destination_mac: crate::samples::GUEST_MAC,
            source: if v4 { IpAddr::from([198, 51, 100, 7]) } else { "2001:db8:1::7".parse().unwrap() },
            destination: if v4 { IpAddr::from([192, 0, 2, 2]) } else { "2001:db8::2".parse().unwrap() },
            hop_limit: 64,
            traffic_class: 0,
        };
        put(&mut world.context(), &ends, 200, (Offload::None, b"transport", &payload), 77).unwrap();
        let expected = [&b"transport"[..], &payload].concat();
        let mut reassembler = Reassembler::default();
        let mut whole = None;
        for (_, frame) in &world.link.frames {
            prop_assert!(frame.len() - 14 <= usize::from(mtu_of(&world.settings, &world.guest, v4)));
            prop_assert!(whole.is_none());
            whole = with_packet(frame, |ip| match ip.fragment {
                None => Some(ip.payload.pieces().flat_map(|piece| {
                    let mut bytes = vec![0; piece.length() as usize];
                    piece.copy_to(0, &mut bytes);
                    bytes
                }).collect()),
                Some(_) => reassembler.add(world.now, ip).unwrap().map(|whole| whole.packet().payload.first_bytes().to_vec()),
            });
        }
        prop_assert_eq!(whole, Some(expected));
    }
}

//! Frames of a guest, right ones and hostile ones: rows N1, N2 and N4.

use culvert_guest::NetHeader;
use proptest::prelude::*;

use super::*;
use crate::head::{ICMPV6, UDP};
use crate::world::ip_frame;

/// What a frame says, by `check`.
fn parsed<T>(frame: &[u8], check: impl FnOnce(IpPacket<'_>) -> T) -> Result<T, Refusal> {
    match parse(&Packet::of_bytes(NetHeader::default(), frame))? {
        Content::Ip(ip) => Ok(check(ip)),
        Content::Arp => panic!("ARP"),
    }
}

fn refusal(frame: &[u8]) -> Option<Refusal> {
    parsed(frame, |ip| ip.check_ends()).and_then(|checked| checked).err()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4(payload: &[u8]) -> Vec<u8> {
    ip_frame(ip("192.0.2.2"), ip("198.51.100.7"), UDP, payload)
}

/// The frame with bytes of its IPv4 header changed, and its checksum right again.
fn changed(payload: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = v4(payload);
    for &(at, byte) in changes {
        frame[14 + at] = byte;
    }
    let header_bytes = usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let end = (14 + header_bytes).min(frame.len());
    let sum = internet_checksum(&frame[14..end]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// An IPv6 packet with extension headers: the first one's number, then all bytes behind the fixed header.
fn v6(next: u8, bytes: &[u8]) -> Vec<u8> {
    ip_frame(ip("2001:db8::2"), ip("2001:db8:1::7"), next, bytes)
}

/// An extension header of `units` times eight bytes after the first eight.
fn extension(next: u8, units: u8) -> Vec<u8> {
    let mut bytes = vec![0; 8 * (usize::from(units) + 1)];
    (bytes[0], bytes[1]) = (next, units);
    bytes
}

#[test]
fn what_a_packet_says() {
    // Behind its end there may be padding, with options the payload begins later.
    for padding in [&[][..], &[0; 20]] {
        let frame = [&v4(b"payload")[..], padding].concat();
        parsed(&frame, |packet| {
            assert_eq!((packet.source, packet.destination), (ip("192.0.2.2"), ip("198.51.100.7")));
            assert_eq!((packet.protocol, packet.hop_limit, packet.traffic_class), (UDP, 61, 40));
            assert_eq!((packet.fragment, packet.payload.first_bytes()), (None, &b"payload"[..]));
            assert_eq!(packet.header, &frame[14..34]);
        })
        .unwrap();
    }
    parsed(&changed(b"opt.payload", &[(0, 0x46)]), |packet| {
        assert_eq!((packet.header.len(), packet.payload.first_bytes()), (24, &b"payload"[..]));
    })
    .unwrap();
    parsed(&changed(b"x", &[(4, 1), (5, 2), (6, 0x20), (7, 3)]), |packet| {
        assert_eq!(packet.fragment, Some(Fragment { identification: 0x0102, offset: 24, more: true }));
    })
    .unwrap();
    parsed(&v6(UDP, b"payload"), |packet| {
        assert_eq!((packet.source, packet.destination), (ip("2001:db8::2"), ip("2001:db8:1::7")));
        assert_eq!((packet.protocol, packet.hop_limit, packet.traffic_class), (UDP, 61, 40));
        assert_eq!((packet.header.len(), packet.payload.first_bytes()), (40, &b"payload"[..]));
    })
    .unwrap();
}

/// N1.
#[test]
fn frames_that_are_no_packets_are_refused() {
    let frame = v4(b"payload");
    for length in 0..14 {
        assert_eq!(refusal(&frame[..length]), Some(Refusal::Truncated));
    }
    for kind in [[0x81, 0x00], [0x88, 0xa8], [0x88, 0x47], [0x00, 0x2e], [0xff, 0xff]] {
        let mut other = frame.clone();
        other[12..14].copy_from_slice(&kind);
        assert_eq!(refusal(&other), Some(Refusal::OtherProtocol));
    }
    let mut from_group = frame.clone();
    from_group[6] |= 1;
    assert_eq!(refusal(&from_group), Some(Refusal::BadSource));
    for length in 14..frame.len() {
        assert_eq!(refusal(&frame[..length]), Some(Refusal::Truncated));
    }
    let frame = v6(UDP, b"payload");
    for length in 14..frame.len() {
        assert_eq!(refusal(&frame[..length]), Some(Refusal::Truncated));
    }
}

/// N2.
#[test]
fn ipv4_headers_that_contradict_themselves_are_refused() {
    for words in 0..5 {
        assert_eq!(refusal(&changed(b"x", &[(0, 0x40 | words)])), Some(Refusal::Malformed));
    }
    // Longer than the packet, longer than the frame.
    assert_eq!(refusal(&changed(b"x", &[(0, 0x4f)])), Some(Refusal::Malformed));
    for version in [0, 5, 6, 15] {
        assert_eq!(refusal(&changed(b"x", &[(0, version << 4 | 5)])), Some(Refusal::Malformed));
    }
    assert_eq!(refusal(&changed(b"x", &[(2, 0), (3, 19)])), Some(Refusal::Malformed));
    assert_eq!(refusal(&changed(b"x", &[(2, 0), (3, 22)])), Some(Refusal::Truncated));
    assert_eq!(refusal(&changed(b"x", &[(2, 0xff), (3, 0xff)])), Some(Refusal::Truncated));
    assert_eq!(refusal(&changed(b"x", &[(8, 0)])), Some(Refusal::Malformed), "no hops left");
    let mut frame = v4(b"x");
    frame[24] ^= 1;
    assert_eq!(refusal(&frame), Some(Refusal::Malformed));
    assert_eq!(refusal(&changed(&[0; 80], &[(0, 0x4f)])), None, "options are not looked at");
}

/// N2.
#[test]
fn sources_that_no_guest_has_are_refused() {
    let sources = ["127.0.0.1", "0.1.2.3", "224.0.0.1", "240.0.0.1", "255.255.255.255"];
    for source in sources {
        let frame = ip_frame(ip(source), ip("198.51.100.7"), UDP, &[0; 8]);
        assert_eq!(refusal(&frame), Some(Refusal::BadSource), "{source}");
    }
    for source in ["::1", "ff02::1", "::ffff:192.0.2.2"] {
        let frame = ip_frame(ip(source), ip("2001:db8::7"), UDP, &[0; 8]);
        assert_eq!(refusal(&frame), Some(Refusal::BadSource), "{source}");
    }
    // Of DHCP and of duplicate address detection; other protocols refuse it themselves.
    assert_eq!(refusal(&ip_frame(ip("0.0.0.0"), ip("255.255.255.255"), UDP, &[0; 8])), None);
    assert_eq!(refusal(&ip_frame(ip("::"), ip("ff02::1"), ICMPV6, &[0; 8])), None);
}

/// N4.
#[test]
fn extension_headers_are_walked_as_far_as_the_first_bytes_go() {
    let behind = |bytes: &[u8]| parsed(bytes, |packet| (packet.protocol, packet.payload.first_bytes().to_vec()));
    let found = Ok((UDP, b"payload".to_vec()));
    for first in [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING] {
        let bytes = [&extension(DESTINATION_OPTIONS, 1)[..], &extension(UDP, 0), b"payload"].concat();
        assert_eq!(behind(&v6(first, &bytes)), found);
    }
    // Routing through others first (RFC 5095) is not looked behind.
    let mut routing = extension(UDP, 0);
    routing[3] = 1;
    assert_eq!(behind(&v6(ROUTING, &[&routing[..], b"payload"].concat())).unwrap().0, ROUTING);
    // A hundred of them, or one that is longer than all.
    let many = extension(DESTINATION_OPTIONS, 0).repeat(100);
    assert_eq!(refusal(&v6(DESTINATION_OPTIONS, &[&many[..], b"payload"].concat())), Some(Refusal::Truncated));
    assert_eq!(refusal(&v6(DESTINATION_OPTIONS, &extension(UDP, 255))), Some(Refusal::Truncated));
    // Cut off within a header, and one that says it is longer than the packet.
    for length in 0..8 {
        assert_eq!(refusal(&v6(HOP_BY_HOP, &extension(UDP, 0)[..length])), Some(Refusal::Truncated));
    }
    let mut long = extension(UDP, 0);
    long[1] = 1;
    assert_eq!(refusal(&[&v6(HOP_BY_HOP, &long)[..], &[0; 40]].concat()), Some(Refusal::Malformed));
    // A jumbogram (RFC 2675) has no length.
    let mut jumbo = v6(HOP_BY_HOP, &[UDP, 0, 0xc2, 4, 0, 1, 0, 0, 1, 2, 3, 4]);
    jumbo[18..20].fill(0);
    assert_eq!(refusal(&jumbo), Some(Refusal::Malformed));
    assert_eq!(behind(&v6(59, b"nothing")).unwrap().0, 59);
}

/// N4, RFC 6946.
#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let fragment = |offset: [u8; 2]| {
        let header = [&[DESTINATION_OPTIONS, 0][..], &offset, &[0, 0, 0, 9]].concat();
        let bytes = [&header[..], &extension(UDP, 0), b"payload"].concat();
        parsed(&v6(FRAGMENT, &bytes), |packet| (packet.fragment, packet.protocol, packet.payload.length())).unwrap()
    };
    assert_eq!(fragment([0, 0]), (None, UDP, 7));
    // Of a part, nothing behind is looked at.
    let part = |offset, more| Some(Fragment { identification: 9, offset, more });
    assert_eq!(fragment([0, 1]), (part(0, true), DESTINATION_OPTIONS, 15));
    assert_eq!(fragment([0, 16]), (part(16, false), DESTINATION_OPTIONS, 15));
    // A fragment within a fragment is none.
    let twice = [&[FRAGMENT, 0, 0, 0, 0, 0, 0, 1][..], &[UDP, 0, 0, 1, 0, 0, 0, 1]].concat();
    assert_eq!(parsed(&v6(FRAGMENT, &twice), |packet| (packet.protocol, packet.fragment)).unwrap(), (FRAGMENT, None));
}

proptest! {
    /// Whatever is in a frame, what is handed on lies within it.
    #[test]
    fn nothing_lies_beyond_the_frame(
        is_v4 in any::<bool>(),
        version in 0_u8..16,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let kind = if is_v4 { [8, 0] } else { [0x86, 0xdd] };
        let mut frame = [&[2; 12][..], &kind, &bytes].concat();
        if let Some(first) = frame.get_mut(14) {
            *first = if version < 12 { if is_v4 { 0x45 } else { 0x60 } } else { version << 4 | *first & 15 };
        }
        let _ = parsed(&frame, |packet| {
            let all = packet.header.len() + packet.payload.length() as usize;
            assert!(14 + all <= frame.len() && packet.header.len() >= if is_v4 { 20 } else { 40 });
            let mut copy = vec![0; packet.payload.length() as usize];
            assert_eq!(packet.payload.copy_to(&mut copy), copy.len());
            let start = 14 + packet.header.len();
            assert_eq!(copy, &frame[start..start + packet.payload.length() as usize]);
        });
    }

    /// Bytes skipped and taken, against a slice, wherever the head ends.
    #[test]
    fn payloads_are_like_slices(length in 0_usize..300, cuts in proptest::collection::vec((any::<bool>(), 0_u32..200), 0..6)) {
        let frame: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let packet = Packet::of_bytes(NetHeader::default(), &frame);
        let (mut payload, mut slice) = (Payload::of_frame(&packet), &frame[..]);
        for (skip, bytes) in cuts {
            let at = slice.len().min(bytes as usize);
            (payload, slice) = if skip { (payload.skip(bytes), &slice[at..]) } else { (payload.take(bytes), &slice[..at]) };
        }
        let mut copy = vec![0; 400];
        let copied = payload.copy_to(&mut copy);
        prop_assert_eq!(&copy[..copied], slice);
        prop_assert_eq!(payload.length() as usize, slice.len());
        prop_assert!(slice.starts_with(payload.first_bytes()));
        prop_assert_eq!(payload.pieces().map(|piece| piece.length() as usize).sum::<usize>(), slice.len());
    }
}

//! Fragments of some packets in any order, doubled and overlapping: what becomes whole has each byte where its packet has
//! it, and everything has gone when time is up.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use culvert_guest::{NetHeader, Packet};
use culvert_translate::fragment::Reassembler;
use culvert_translate::packet::{self, Content};
use culvert_translate::refusal::Refusal;
use culvert_translate::time::Instant;

use crate::network::{GUEST_MAC, ip_frame, mend_v4};

#[derive(Arbitrary, Debug)]
enum Operation {
    /// A part of a packet: which, where (in eight bytes), how long, and whether more follows.
    Part { v6: bool, packet: u8, place: u16, bytes: u16, more: bool },
    /// Any bytes behind an Ethernet header.
    Frame { v6: bool, bytes: Vec<u8> },
    /// Some seconds.
    Wait(u8),
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(operations) = Vec::<Operation>::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let (mut now, mut reassembler) = (Instant::now(), Reassembler::default());
    // Frames of any bytes may be parts of the packets whose bytes are known.
    let mut others = Reassembler::default();
    for operation in operations.iter().take(300) {
        match operation {
            Operation::Part { v6, packet, place, bytes, more } => {
                let (packet, offset, more) = (packet % 16, place & 0x1fff, *more);
                let length = usize::from(bytes % 3000);
                let part: Vec<u8> = bytes_of(packet, usize::from(offset) * 8).take(length).collect();
                let frame = fragment(*v6, packet, offset, more, &part);
                if let Some(whole) = add(&mut reassembler, now, &frame) {
                    assert!(whole.iter().copied().eq(bytes_of(packet, 0).take(whole.len())));
                    assert!(whole.len() <= 65_535);
                }
            }
            Operation::Frame { v6, bytes } => {
                let kind = if *v6 { [0x86, 0xdd] } else { [8, 0] };
                add(&mut others, now, &[&[2; 6][..], &GUEST_MAC.0, &kind, bytes].concat());
            }
            Operation::Wait(seconds) => {
                now += Duration::from_secs((*seconds).into());
                reassembler.expire(now);
                others.expire(now);
            }
        }
        for reassembler in [&reassembler, &others] {
            assert!(reassembler.len() <= 64);
            assert_eq!(reassembler.deadline().is_none(), reassembler.is_empty());
        }
    }
    for mut reassembler in [reassembler, others] {
        reassembler.expire(now + Duration::from_secs(60));
        assert!(reassembler.is_empty());
    }
}

/// What is in a packet from a place on.
fn bytes_of(packet: u8, from: usize) -> impl Iterator<Item = u8> {
    BYTES[from..].iter().map(move |byte| byte.wrapping_add(packet.wrapping_mul(31)))
}

/// What the first packet has: nothing like it 8, 256 or 2,048 bytes on.
static BYTES: [u8; 0x1_2000] = {
    let mut bytes = [0; 0x1_2000];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at * 7 + at / 256) as u8;
        at += 1;
    }
    bytes
};

fn fragment(v6: bool, packet: u8, place: u16, more: bool, part: &[u8]) -> Vec<u8> {
    if v6 {
        let header = [&[17, 0][..], &((place * 8) | u16::from(more)).to_be_bytes(), &[0, 0, 0, packet]].concat();
        return ip_frame(true, 44, [1, 1], &[&header[..], part].concat());
    }
    let mut frame = ip_frame(false, 17, [1, 1], part);
    frame[18..20].copy_from_slice(&u16::from(packet).to_be_bytes());
    frame[20..22].copy_from_slice(&(place | if more { 0x2000 } else { 0 }).to_be_bytes());
    mend_v4(&mut frame);
    frame
}

fn add(reassembler: &mut Reassembler, now: Instant, frame: &[u8]) -> Option<Vec<u8>> {
    let packet = Packet::of_bytes(NetHeader::default(), frame);
    let Ok(Content::Ip(ip)) = packet::parse(&packet) else { return None };
    let result = reassembler.add(now, &ip);
    if ip.fragment.is_none() {
        assert_eq!(result.err(), Some(Refusal::BadFragment));
        return None;
    }
    let whole = result.ok()??;
    let packet = whole.packet();
    assert!(packet.fragment.is_none());
    assert_eq!((packet.source, packet.destination), (ip.source, ip.destination));
    assert_eq!(packet.payload.first_bytes().len(), packet.payload.length() as usize);
    Some(packet.payload.first_bytes().to_vec())
}

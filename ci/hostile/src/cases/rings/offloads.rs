//! Q13, Q14, Q15: what a virtio-net header can ask for, and receive buffers in which no frame fits.

use anyhow::{Result, ensure};
use culvert_driver::Shape;

use super::attack::{
    HEADER, SMALL, VICTIM, WRITE, answer, ask_for_frames, buffer, check_served, echo, offer_receive, scratch, wait_for,
};
use crate::case::{Case, Expect, case};
use crate::field::Field;
use crate::guest::{Guest, OFFLOADS, RECEIVE, TRANSMIT};
use crate::neighbours::ADDRESSES;

/// The cases of this file.
pub const CASES: &[Case] = &[
    case(
        "Q13",
        "checksum-beyond-the-frame",
        "csum_start and csum_offset are inside of the frame, their sum is not: dropped.",
        beyond,
    ),
    case("Q13", "checksum-wraps-16-bits", "csum_start plus csum_offset exceeds 16 bits: dropped.", wraps),
    case("Q13", "checksum-at-odd-places", "An odd csum_start or csum_offset: dropped.", odd),
    case(
        "Q13",
        "checksum-inside-headers",
        "A checksum in the Ethernet or IP header, which were looked at: dropped.",
        inside_headers,
    ),
    case(
        "Q13",
        "checksum-at-the-last-byte",
        "One byte of the checksum is behind the end of the frame: dropped.",
        last_byte,
    ),
    case("Q14", "segment-size-0", "Segmentation into segments of no bytes: dropped.", size_0),
    case("Q14", "segment-size-1", "A frame of 64 KiB into segments of one byte: dropped, no 65,000 frames.", size_1),
    case(
        "Q14",
        "segment-size-above-the-frame",
        "Segments longer than the frame: as one frame, or dropped.",
        size_above,
    ),
    case(
        "Q14",
        "header-length-lies",
        "hdr_len of any value, which nobody needs: the segments are the same.",
        hdr_len_lies,
    ),
    case("Q14", "segmentation-without-checksum", "Segmentation without a checksum to complete: dropped.", no_checksum),
    case("Q14", "ecn-bit-alone", "The ECN bit without any segmentation: dropped.", ecn_alone),
    case(
        "Q14",
        "segmentation-not-negotiated",
        "UFO, USO and unknown kinds, none of them negotiated: dropped.",
        not_negotiated,
    ),
    case(
        "Q14",
        "segmentation-of-another-protocol",
        "TCP segmentation asked for frames of UDP and IPv6: dropped.",
        other_protocol,
    ),
    case(
        "Q14",
        "offloads-not-negotiated",
        "A checksum request of a guest that negotiated none: dropped.",
        none_negotiated,
    ),
    case(
        "Q14",
        "segments-in-masses",
        "Bursts of frames that make 1,000 segments each: neighbours lose nothing.",
        masses,
    ),
    case(
        "Q15",
        "num-buffers-set-by-the-guest",
        "num_buffers on transmit, which is the device's: ignored.",
        num_buffers,
    ),
    case("Q15", "receive-chains-of-one-byte", "Receive buffers of one byte: dropped, and the ring goes on.", one_byte),
    case(
        "Q15",
        "receive-buffers-within-the-header",
        "Receive buffers of 11 bytes: dropped, and the ring goes on.",
        no_room_for_header,
    ),
    case(
        "Q15",
        "receive-buffers-too-small",
        "Buffers below the frame without MRG_RXBUF: dropped, and the ring goes on.",
        too_small,
    ),
];

/// Flag of the virtio-net header: complete the checksum.
const NEEDS_CSUM: u8 = 1;

/// A virtio-net header.
#[derive(Clone, Copy, Default)]
struct Header {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    num_buffers: u16,
}

impl Header {
    fn bytes(self) -> Vec<u8> {
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        [&[self.flags, self.gso_type], words.map(u16::to_le_bytes).concat().as_slice()].concat()
    }
}

/// A frame of TCP (6) or UDP (17) over IPv4 to the left neighbour, whose checksum is to be completed.
fn datagram(protocol: u8, length: usize) -> Vec<u8> {
    let [left, _] = ADDRESSES;
    let mut frame = [left.as_slice(), &VICTIM, &[8, 0]].concat();
    let total = u16::try_from(length - 14).unwrap_or(u16::MAX).to_be_bytes();
    frame.extend([0x45, 0]);
    frame.extend(total);
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 0x42, 10, 0, 0, 1]);
    // Ports, then the sequence numbers of TCP, or length and sum of UDP; a TCP header of 20 bytes with ACK.
    frame.extend([0x30, 0x39, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
    frame.resize(length, 0x5a);
    frame
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where TCP starts, and its checksum from there.
const TCP_CHECKSUM: Header =
    Header { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, gso_type: 0, hdr_len: 0, gso_size: 0, num_buffers: 0 };

/// Sends frames with these headers, all of which must be refused for `reason`.
fn refused(field: &mut Field, features: u64, sent: &[(Header, Vec<u8>)], reason: &'static str) -> Result<()> {
    let mut guest = field.connect_victim(LARGE, features)?;
    for (header, frame) in sent {
        send(&mut guest, header.bytes(), frame)?;
    }
    field.expect_drops(reason, sent.len() as u64);
    let victim = field.victim();
    let frames = field.daemon().stats(&victim)?;
    let forwarded = frames.get("rx_forwarded").and_then(serde_json::Value::as_u64);
    ensure!(forwarded == Some(0), "a frame passed: {frames}");
    Ok(())
}

/// Sends a frame of any length from the scratch memory, in one buffer, and waits until it was taken.
fn send(guest: &mut Guest, header: Vec<u8>, frame: &[u8]) -> Result<()> {
    let at = scratch(guest);
    guest.interface.ram().write(at, &header);
    guest.interface.ram().write(at + u64::from(HEADER), frame);
    let whole = buffer(guest, HEADER + u32::try_from(frame.len())?, 0, 0);
    super::attack::transmit(guest, &[whole], &[0])?;
    guest.wait_used(TRANSMIT)
}

/// Rings whose receive side takes what a neighbour may answer.
const LARGE: Shape = SMALL;

pub(super) fn beyond(field: &mut Field) -> Result<()> {
    let sums = [(34, 26), (58, 2), (40, 30), (34, 0x7fff)];
    let of = |(csum_start, csum_offset)| (Header { csum_start, csum_offset, ..TCP_CHECKSUM }, datagram(253, 60));
    refused(field, OFFLOADS, &sums.map(of), "bad-offload")
}

pub(super) fn wraps(field: &mut Field) -> Result<()> {
    let sums = [(0xffff, 1), (0xfffe, 0x32), (0xff00, 0x132), (34, 0xffff)];
    let of = |(csum_start, csum_offset)| (Header { csum_start, csum_offset, ..TCP_CHECKSUM }, datagram(TCP, 60));
    refused(field, OFFLOADS, &sums.map(of), "bad-offload")
}

pub(super) fn odd(field: &mut Field) -> Result<()> {
    let sums = [(35, 16), (34, 15), (35, 15)];
    let of = |(csum_start, csum_offset)| (Header { csum_start, csum_offset, ..TCP_CHECKSUM }, datagram(253, 60));
    refused(field, OFFLOADS, &sums.map(of), "bad-offload")
}

pub(super) fn inside_headers(field: &mut Field) -> Result<()> {
    // Over the destination address, the source, the EtherType; over the protocol and the addresses of IP.
    let sums = [(0, 0), (0, 6), (0, 12), (14, 8), (14, 12), (14, 16), (26, 0), (30, 2)];
    let of = |(csum_start, csum_offset)| (Header { csum_start, csum_offset, ..TCP_CHECKSUM }, datagram(TCP, 60));
    refused(field, OFFLOADS, &sums.map(of), "bad-offload")
}

pub(super) fn last_byte(field: &mut Field) -> Result<()> {
    let header = Header { csum_start: 34, csum_offset: 26, ..TCP_CHECKSUM };
    refused(field, OFFLOADS, &[(header, datagram(253, 61))], "bad-offload")
}

pub(super) fn size_0(field: &mut Field) -> Result<()> {
    let header = Header { gso_type: 1, gso_size: 0, hdr_len: 54, ..TCP_CHECKSUM };
    refused(field, OFFLOADS, &[(header, datagram(TCP, 9000)), (header, datagram(TCP, 54))], "bad-offload")
}

pub(super) fn size_1(field: &mut Field) -> Result<()> {
    let header = Header { gso_type: 1, gso_size: 1, hdr_len: 54, ..TCP_CHECKSUM };
    refused(field, OFFLOADS, &[(header, datagram(TCP, 65_000)), (header, datagram(TCP, 54 + 1025))], "bad-offload")
}

pub(super) fn size_above(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(LARGE, OFFLOADS)?;
    for gso_size in [60, 1400, 0xffff] {
        let header = Header { gso_type: 1, gso_size, hdr_len: 54, ..TCP_CHECKSUM };
        send(&mut guest, header.bytes(), &datagram(TCP, 100))?;
    }
    // They leave as they are, and nothing longer does.
    check_accounted(field, 3, 3)
}

pub(super) fn hdr_len_lies(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(LARGE, OFFLOADS)?;
    for hdr_len in [0, 1, 53, 55, 9000, 0xffff] {
        let header = Header { gso_type: 1, gso_size: 1000, hdr_len, ..TCP_CHECKSUM };
        send(&mut guest, header.bytes(), &datagram(TCP, 54 + 4000))?;
    }
    check_accounted(field, 6, 6)
}

/// So many frames came from the victim, and of them so many were forwarded.
fn check_accounted(field: &mut Field, sent: u64, forwarded: u64) -> Result<()> {
    let victim = field.victim();
    let stats = field.daemon().stats(&victim)?;
    let count = |key: &str| stats.get(key).and_then(serde_json::Value::as_u64);
    let counted = (count("rx_frames"), count("rx_forwarded"));
    ensure!(counted == (Some(sent), Some(forwarded)), "{sent} frames were sent, {forwarded} should pass: {stats}");
    Ok(())
}

pub(super) fn no_checksum(field: &mut Field) -> Result<()> {
    let header = Header { flags: 0, gso_type: 1, gso_size: 1000, hdr_len: 54, ..TCP_CHECKSUM };
    refused(field, OFFLOADS, &[(header, datagram(TCP, 4000))], "bad-offload")
}

pub(super) fn ecn_alone(field: &mut Field) -> Result<()> {
    let ecn = 1 << 13 | 1 << 9;
    let header = Header { gso_type: 0x80, gso_size: 1000, hdr_len: 54, ..TCP_CHECKSUM };
    refused(field, OFFLOADS | ecn, &[(header, datagram(TCP, 4000))], "bad-offload")
}

pub(super) fn not_negotiated(field: &mut Field) -> Result<()> {
    let of = |gso_type| {
        (Header { gso_type, gso_size: 1000, hdr_len: 42, csum_offset: 6, ..TCP_CHECKSUM }, datagram(UDP, 4000))
    };
    let mut guest = field.connect_victim(LARGE, OFFLOADS)?;
    let kinds = [2, 3, 5, 6, 0x7f, 0x83, 0x85];
    for (header, frame) in kinds.map(of) {
        send(&mut guest, header.bytes(), &frame)?;
    }
    // UDP over IPv4 is known, and was not negotiated; the others are nothing.
    field.expect_drops("offload-not-negotiated", 2);
    field.expect_drops("bad-offload", 5);
    check_accounted(field, 7, 0)
}

pub(super) fn other_protocol(field: &mut Field) -> Result<()> {
    let of = |gso_type, protocol| {
        (Header { gso_type, gso_size: 1000, hdr_len: 54, ..TCP_CHECKSUM }, datagram(protocol, 4000))
    };
    refused(field, OFFLOADS, &[of(1, UDP), of(4, TCP), of(4, UDP), of(1, 253)], "bad-offload")
}

pub(super) fn none_negotiated(field: &mut Field) -> Result<()> {
    refused(field, 0, &[(TCP_CHECKSUM, datagram(TCP, 60))], "offload-not-negotiated")
}

pub(super) fn masses(field: &mut Field) -> Result<()> {
    // They go to a guest that takes none of them.
    let socket = field.add_port(SINK, "")?;
    let mut sink = Guest::connect(&socket, SMALL, 0)?;
    sink.send(&[VICTIM.as_slice(), &SINK_ADDRESS, &[0x88, 0xb7], &[0; 46]].concat())?;
    sink.wait_used(TRANSMIT)?;
    let mut guest = field.connect_victim(LARGE, OFFLOADS)?;
    let header = Header { gso_type: 1, gso_size: 64, hdr_len: 54, ..TCP_CHECKSUM };
    let at = scratch(&guest);
    let mut frame = datagram(TCP, 64_000);
    frame.splice(..6, SINK_ADDRESS);
    guest.interface.ram().write(at, &header.bytes());
    guest.interface.ram().write(at + u64::from(HEADER), &frame);
    let whole = buffer(&guest, HEADER + 64_000, 0, 0);
    for _ in 0..50 {
        super::attack::transmit(&mut guest, &[whole], &[0; 16])?;
        guest.wait_used(TRANSMIT)?;
    }
    // Each burst makes so many segments and no more, and there is no room for any.
    field.expect(Expect::Drop { port: SINK.to_owned(), reason: "no-buffer", frames: 50 });
    field.expect(Expect::Drop { port: SINK.to_owned(), reason: "segment-limit", frames: 50 });
    check_accounted(field, 800, 800)
}

/// A port next to the victim.
const SINK: &str = "sink";
const SINK_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

pub(super) fn num_buffers(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(SMALL, 0)?;
    for (number, num_buffers) in [(1, 0), (2, 1), (3, 2), (4, 0xffff)] {
        send(&mut guest, Header { num_buffers, ..Header::default() }.bytes(), &echo(number, 60))?;
        wait_for(&mut guest, &answer(number, 60))?;
    }
    Ok(())
}

/// Offers receive buffers of `length` bytes, all of which fail, and then good ones.
fn small_buffers(field: &mut Field, shape: Shape, length: u32, reason: &'static str) -> Result<()> {
    let small = |guest: &Guest| (0..16).map(|_| buffer(guest, length, WRITE, 0)).collect();
    let mut guest = offer_receive(field, shape, 0, small, 0..8)?;
    ask_for_frames(&mut guest, 8)?;
    field.expect_drops(reason, 1);
    let victim = field.victim();
    field.daemon().wait_for_counter(&victim, "tx_dropped", 1)?;
    // Those in which no header fits come back empty; those that are only too small stay the guest's offer.
    ensure!(length >= HEADER || guest.interface.receive.used_index() > 0, "the receive ring stands still");
    guest.stop_ring(RECEIVE)?;
    guest.interface.receive.reset();
    guest.interface.refill();
    guest.start_ring(RECEIVE)?;
    check_served(&mut guest, 99)
}

pub(super) fn one_byte(field: &mut Field) -> Result<()> {
    small_buffers(field, SMALL, 1, "small-buffer")
}

pub(super) fn no_room_for_header(field: &mut Field) -> Result<()> {
    small_buffers(field, SMALL, HEADER - 1, "small-buffer")
}

pub(super) fn too_small(field: &mut Field) -> Result<()> {
    small_buffers(field, Shape { mergeable: false, ..SMALL }, 40, "small-buffer")
}

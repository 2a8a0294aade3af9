//! Segmentation of well-formed TCP and UDP frames of every kind: headers with options and extensions, any segment size.
//!
//! Checked: each segment is a packet that a receiver takes, has the whole's addresses and ports, and together they have
//! each byte of the payload once; what a frame asks for is done or refused, whatever was changed in it.

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::{Offload, OffloadRequest, Offloads};
use culvert_guest::transmit::HEAD_BYTES;

use crate::offload;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    v6: bool,
    udp: bool,
    ecn: bool,
    tags: u8,
    /// Of IPv4 in words; of IPv6 as one destination options header in units of eight bytes.
    options: u8,
    tcp_options: u8,
    size: u16,
    payload: u16,
    ports: [u8; 4],
    sequence: u32,
    flags: u8,
    identification: u16,
    /// Bytes of the headers that are changed.
    changes: &'a [u8],
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let (mut frame, network, transport) = frame(&input);
    let gso_type = match (input.udp, input.v6) {
        (true, _) => 5,
        (false, false) => 1,
        (false, true) => 4,
    };
    let request = OffloadRequest {
        needs_checksum: true,
        gso_type: gso_type | if input.ecn { 0x80 } else { 0 },
        gso_size: input.size,
        checksum_start: transport,
        checksum_offset: if input.udp { 6 } else { 16 },
    };
    let untouched = input.changes.len() < 2;
    for change in input.changes.chunks_exact(2).take(8) {
        let at = usize::from(network) + usize::from(change[0]) % (frame.len() - usize::from(network));
        frame[at] = change[1];
    }
    let length = u32::try_from(frame.len()).expect("a frame's length");
    let head = &frame[..frame.len().min(HEAD_BYTES)];
    match Offload::check(request, Offloads::ALL, head, length) {
        Ok(offload) => offload::carry_out(offload, frame),
        Err(reason) => {
            let many = input.size == 0 || u32::from(input.payload) / u32::from(input.size.max(1)) >= 1000;
            let mixed = input.udp && input.ecn;
            assert!(!untouched || many || mixed || input.payload == 0, "{reason:?} for a good frame: {input:?}");
        }
    }
}

/// The frame, and where its IP header and what follows start. All headers are within the first 128 bytes.
fn frame(input: &Input<'_>) -> (Vec<u8>, u16, u16) {
    // Long ones take their time, and find little more.
    let longest = if input.ports[3].is_multiple_of(16) { 9000 } else { 1200 };
    let payload = usize::from(input.payload % longest);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for _ in 0..input.tags % 3 {
        frame.extend([0x81, 0, 0, 5]);
    }
    frame.extend(if input.v6 { [0x86, 0xdd] } else { [8, 0] });
    let network = frame.len();
    let protocol = if input.udp { 17 } else { 6 };
    let tcp_words = 5 + usize::from(input.tcp_options % 5);
    let above = payload + if input.udp { 8 } else { 4 * tcp_words };
    if input.v6 {
        let options = usize::from(input.options % 2) * 8;
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(u16::try_from(above + options).expect("a short frame").to_be_bytes());
        frame.extend([if options > 0 { 60 } else { protocol }, 64]);
        frame.extend([1; 16]);
        frame.extend([2; 16]);
        if options > 0 {
            frame.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
        }
    } else {
        let words = 5 + input.options % 4;
        let total = usize::from(words) * 4 + above;
        frame.extend([0x40 | words, 0]);
        frame.extend(u16::try_from(total).expect("a short frame").to_be_bytes());
        frame.extend(input.identification.to_be_bytes());
        frame.extend([0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(std::iter::repeat_n(1, usize::from(words - 5) * 4));
    }
    let transport = frame.len();
    frame.extend(input.ports);
    if input.udp {
        frame.extend(u16::try_from(above).expect("a short frame").to_be_bytes());
        frame.extend([0, 0]);
    } else {
        frame.extend(input.sequence.to_be_bytes());
        frame.extend([0, 0, 0, 9, u8::try_from(tcp_words).expect("few words") << 4, input.flags, 1, 0, 0, 0, 0, 0]);
        frame.extend(std::iter::repeat_n(1, (tcp_words - 5) * 4));
    }
    frame.extend((0..payload).map(|at| (at % 251) as u8));
    (frame, network as u16, transport as u16)
}

//! Frames to send into a network, and what to look for in those that come out.

use std::net::Ipv4Addr;

use anyhow::Result;
use etherparse::PacketBuilder;

/// One end of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its IPv4 address.
    pub address: Ipv4Addr,
}

impl End {
    /// The end that a test guest of this number has: 02:00:00:00:00:N and 10.0.0.N.
    pub fn new(number: u8) -> Self {
        Self { mac: [2, 0, 0, 0, 0, number], address: Ipv4Addr::new(10, 0, 0, number) }
    }
}

/// An ICMP echo request, padded to the 60 bytes that Ethernet asks for.
///
/// # Errors
/// The payload is too long for a frame.
pub fn echo_request(from: End, to: End, payload: &[u8]) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv4(from.address.octets(), to.address.octets(), 64)
        .icmpv4_echo_request(1, 1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload)?;
    frame.resize(frame.len().max(60), 0);
    Ok(frame)
}

/// Whether `frame` goes to everybody.
pub fn is_broadcast(frame: &[u8]) -> bool {
    frame.starts_with(&[0xff; 6])
}

/// Whether `frame` is from this source address.
pub fn is_from(frame: &[u8], mac: [u8; 6]) -> bool {
    frame.get(6..12) == Some(&mac[..])
}

/// Whether `frame` contains these bytes.
pub fn contains(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}

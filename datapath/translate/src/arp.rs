//! ARP (RFC 826): we are every IPv4 host but the guest.
//!
//! Requests of the guest's are answered with our own MAC address, whatever the address asked for: all hosts are behind
//! us. Three are not answered: announcements, questions for the guest's own address, and probes (RFC 5227, section 1.1)
//! for any address that is not ours, with which a guest finds out whether it may have that address. Replies are read by
//! [`Guest::learn`] alone, and change nothing for others. Called by the translator with each ARP frame.

use std::net::Ipv4Addr;

use culvert_frame::MacAddress;
use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacket, NetSlice, PacketBuilder};

use crate::guest::Guest;
use crate::reply;
use crate::settings::Settings;

/// The reply to a frame of the guest's, both from the Ethernet header on; `None` where there is none.
pub fn answer(settings: &Settings, guest: &Guest, frame: &[u8]) -> Option<Vec<u8>> {
    let v4 = settings.v4.as_ref()?;
    let (source, packet) = reply::read(frame)?;
    let Some(NetSlice::Arp(arp)) = packet.net else { return None };
    let question = arp.to_packet().try_eth_ipv4().ok()?;
    let (asker, wanted) = (question.sender_ipv4_addr(), question.target_ipv4_addr());
    let is_ours = wanted == v4.ours || wanted == v4.gateway;
    if question.operation != ArpOperation::REQUEST
        || MacAddress(question.sender_mac).is_group()
        || wanted == asker
        || no_host(wanted)
        || wanted == v4.address.addr()
        || (wanted == guest.v4 && !is_ours)
        || (asker.is_unspecified() && !is_ours)
    {
        return None;
    }
    write(
        source,
        ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: settings.mac.0,
            sender_ipv4: question.target_ipv4,
            target_mac: question.sender_mac,
            target_ipv4: question.sender_ipv4,
        },
    )
}

/// The question that is asked when a guest connects, a whole frame: who has the address that it uses or was assigned? Its
/// answer shows its MAC address. `None` where there is no IPv4.
pub fn request(settings: &Settings, guest: &Guest) -> Option<Vec<u8>> {
    let v4 = settings.v4.as_ref()?;
    write(
        guest.mac_or_broadcast(),
        ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: settings.mac.0,
            sender_ipv4: v4.ours.octets(),
            target_mac: [0; 6],
            target_ipv4: guest.v4.octets(),
        },
    )
}

fn write(destination: MacAddress, packet: ArpEthIpv4Packet) -> Option<Vec<u8>> {
    let packet = PacketBuilder::ethernet2(packet.sender_mac, destination.0).arp(ArpPacket::from(packet));
    let mut frame = Vec::with_capacity(packet.size());
    packet.write_to_vec(&mut frame).ok()?;
    Some(frame)
}

/// Addresses that no single host has (RFC 1122, section 3.2.1.3).
fn no_host(address: Ipv4Addr) -> bool {
    address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast()
}

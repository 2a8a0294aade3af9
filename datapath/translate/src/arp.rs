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

/// The question that is asked when a guest connects, a whole frame: who has the address that it uses or was assigned?
/// Its answer shows its MAC address. `None` where there is no IPv4.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    /// A frame of the guest's: who has `target`? asks `sender`.
    fn question(operation: ArpOperation, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let packet = ArpEthIpv4Packet {
            operation,
            sender_mac: samples::GUEST_MAC.0,
            sender_ipv4: sender,
            target_mac: [0; 6],
            target_ipv4: target,
        };
        write(MacAddress::BROADCAST, packet).unwrap()
    }

    /// Whether a question is answered.
    fn is_answered(sender: [u8; 4], target: [u8; 4]) -> bool {
        let settings = samples::settings();
        answer(&settings, &Guest::new(&settings), &question(ArpOperation::REQUEST, sender, target)).is_some()
    }

    const GUEST: [u8; 4] = [192, 0, 2, 2];
    const GATEWAY: [u8; 4] = [192, 0, 2, 1];

    #[test]
    fn the_gateway_is_at_our_address() {
        let settings = samples::settings();
        let frame =
            answer(&settings, &Guest::new(&settings), &question(ArpOperation::REQUEST, GUEST, GATEWAY)).unwrap();
        let expected = [
            &[2, 0, 0, 0, 0, 0x0a, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 8, 6][..],
            &[0, 1, 8, 0, 6, 4, 0, 2],
            &[0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55, 192, 0, 2, 1],
            &[2, 0, 0, 0, 0, 0x0a, 192, 0, 2, 2],
        ]
        .concat();
        assert_eq!(frame, expected);
    }

    #[test]
    fn all_other_hosts_are_behind_us() {
        assert!(is_answered(GUEST, [192, 0, 2, 77]));
        assert!(is_answered(GUEST, [8, 8, 8, 8]));
        assert!(is_answered([169, 254, 7, 7], [169, 254, 1, 1]));
    }

    #[test]
    fn the_guest_may_have_any_address_but_ours() {
        let nobody = [0; 4];
        assert!(!is_answered(nobody, GUEST));
        assert!(!is_answered(nobody, [192, 0, 2, 77]));
        assert!(is_answered(nobody, GATEWAY));
        // Announcements.
        assert!(!is_answered(GUEST, GUEST));
        assert!(!is_answered([192, 0, 2, 77], [192, 0, 2, 77]));
        // Its own address, asked for from another of its own.
        assert!(!is_answered([192, 0, 2, 77], GUEST));
        let settings = samples::settings();
        let guest = Guest { v4: [192, 0, 2, 77].into(), ..Guest::new(&settings) };
        assert_eq!(answer(&settings, &guest, &question(ArpOperation::REQUEST, GUEST, [192, 0, 2, 77])), None);
    }

    #[test]
    fn no_host_has_these() {
        for target in [[0; 4], [255; 4], [127, 0, 0, 1], [224, 0, 0, 1]] {
            assert!(!is_answered(GUEST, target), "{target:?}");
        }
    }

    #[test]
    fn what_is_no_question_of_the_guests_is_not_answered() {
        let settings = samples::settings();
        let guest = Guest::new(&settings);
        assert_eq!(answer(&settings, &guest, &question(ArpOperation::REPLY, GUEST, GATEWAY)), None);
        let whole = question(ArpOperation::REQUEST, GUEST, GATEWAY);
        for length in 0..whole.len() {
            assert_eq!(answer(&settings, &guest, &whole[..length]), None, "{length} bytes");
        }
        // Frames are filled up to 60 bytes.
        assert!(answer(&settings, &guest, &[&whole[..], &[0; 18]].concat()).is_some());
        // A group as the source; hardware, protocol, their lengths and the operation changed; a group as the sender.
        for (offset, value) in [(6, 1), (13, 0), (15, 6), (16, 9), (18, 8), (18, 255), (19, 16), (21, 3), (22, 1)] {
            let mut frame = whole.clone();
            frame[offset] = value;
            assert_eq!(answer(&settings, &guest, &frame), None, "byte {offset} is {value}");
        }
        let no_v4 = Settings { v4: None, ..settings };
        assert_eq!(answer(&no_v4, &guest, &whole), None);
        assert_eq!(request(&no_v4, &guest), None);
    }

    #[test]
    fn a_new_guest_is_asked_for() {
        let settings = samples::settings();
        let mut guest = Guest::new(&settings);
        let frame = request(&settings, &guest).unwrap();
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[20..], [&[0, 1][..], &settings.mac.0, &GATEWAY, &[0; 6], &GUEST].concat());
        // What it answers is learned of.
        guest.learn(&settings, &question(ArpOperation::REPLY, [192, 0, 2, 9], GATEWAY));
        assert_eq!((guest.mac, guest.v4), (Some(samples::GUEST_MAC), [192, 0, 2, 9].into()));
        assert_eq!(request(&settings, &guest).unwrap()[..6], samples::GUEST_MAC.0);
    }
}

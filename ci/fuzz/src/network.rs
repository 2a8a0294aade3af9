//! A guest's network for the targets of address configuration, and what every answer must be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_frame::MacAddress;
use culvert_frame::checksum::Sum;
use culvert_translate::guest::Guest;
use culvert_translate::settings::{DEFAULT_MAC, Ipv4, Ipv6, Mapping, Services, Settings};
use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

/// The guest's MAC address.
pub const GUEST_MAC: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0x0a]);

/// The guest's link-local address.
pub const GUEST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0x0a);

/// Each bit of `choice` makes one thing other than usual.
pub fn settings(choice: u8) -> Settings {
    let is = |bit: u8| choice & (1 << bit) != 0;
    let gateway = if is(0) { Ipv4Addr::new(169, 254, 1, 1) } else { Ipv4Addr::new(192, 0, 2, 1) };
    let many = if is(1) { 40 } else { 2 };
    Settings {
        mac: DEFAULT_MAC,
        mtu: Some(1500).filter(|_| !is(2)),
        v4: Some(Ipv4 {
            address: "192.0.2.2/24".parse().expect("a network"),
            gateway,
            ours: gateway,
            resolvers: vec![Ipv4Addr::new(192, 0, 2, 53); many],
            mapping: Mapping { host_loopback: Some(gateway), ..Mapping::default() },
        }),
        v6: Some(Ipv6 {
            address: if is(3) { Ipv6Addr::UNSPECIFIED } else { "2001:db8::2".parse().expect("an address") },
            gateway: "fe80::1".parse().expect("an address"),
            link_local: "fe80::1".parse().expect("an address"),
            interface_index: 2,
            resolvers: vec!["2001:db8::53".parse().expect("an address"); many],
            mapping: Mapping { host_loopback: Some("fe80::1".parse().expect("an address")), ..Mapping::default() },
        }),
        search: (0..many).map(|n| format!("label-{n}.example.org")).collect(),
        hostname: Some("guest".to_owned()).filter(|_| !is(4)),
        fqdn: Some("guest.example.org".to_owned()).filter(|_| !is(5)),
        services: Services { dhcp_dns: !is(6), dhcp_search: !is(7), ..Services::default() },
    }
}

/// Asks twice: nothing may be left behind by the first time. Judges the frame that is answered, and learns of the
/// guest's.
pub fn ask(
    settings: &Settings,
    frame: &[u8],
    answer: impl Fn(&Settings, &Guest, &[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut guest = Guest::new(settings);
    let answered = answer(settings, &guest, frame);
    assert_eq!(answered, answer(settings, &guest, frame));
    if let Some(answered) = &answered {
        judge(answered);
        let to = MacAddress(answered[..6].try_into().expect("six bytes"));
        assert!(to.is_group() || to.0 == frame[6..12]);
    }
    guest.learn(settings, frame);
    assert!(
        !guest.v4.is_multicast() && !guest.v4.is_broadcast() && !guest.v4.is_loopback() && !guest.v4.is_unspecified()
    );
    assert!(!guest.v6.is_multicast() && !guest.v6.is_loopback());
    assert!(guest.mac.is_none_or(|mac| !mac.is_group() && mac != settings.mac));
    let ours = settings.v4.as_ref().map(|v4| v4.ours);
    assert_ne!(Some(guest.v4), ours);
    answered
}

/// A whole frame of ours, short enough for every link, with right checksums.
fn judge(frame: &[u8]) {
    assert_eq!(frame[6..12], DEFAULT_MAC.0);
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame that can be read");
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Arp(_)), None) => {}
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => {
            assert!(frame.len() <= 14 + 1500);
            let header = ip.header();
            assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
            let expected = udp.to_header().calc_checksum_ipv4_raw(header.source(), header.destination(), udp.payload());
            assert_eq!(Ok(udp.checksum()), expected);
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
            assert!(frame.len() <= 14 + 1280);
            let header = ip.header();
            let expected = udp.to_header().calc_checksum_ipv6_raw(header.source(), header.destination(), udp.payload());
            assert_eq!(Ok(udp.checksum()), expected);
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(message))) => {
            assert!(frame.len() <= 14 + 1280);
            assert!(message.is_checksum_valid(ip.header().source(), ip.header().destination()));
        }
        other => panic!("neither ARP nor UDP nor ICMPv6: {other:?}"),
    }
}

/// The payload of a UDP datagram of ours.
pub fn payload(frame: &[u8]) -> &[u8] {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame that can be read");
    match packet.transport {
        Some(TransportSlice::Udp(udp)) => udp.payload(),
        other => panic!("not UDP: {other:?}"),
    }
}

/// A packet of the guest's with right headers, in a frame. `ends`: which of a few sources and destinations.
pub fn ip_frame(v6: bool, protocol: u8, ends: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (address(v6, SOURCES, ends[0]), address(v6, DESTINATIONS, ends[1]));
    let builder = PacketBuilder::ethernet2(GUEST_MAC.0, DEFAULT_MAC.0);
    let mut frame = Vec::new();
    let builder = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => builder.ipv4(source.octets(), destination.octets(), 9),
        (IpAddr::V6(source), IpAddr::V6(destination)) => builder.ipv6(source.octets(), destination.octets(), 9),
        _ => panic!("two families"),
    };
    // The builder knows what must follow some protocols' numbers: tell it of another.
    let any = IpNumber::EXPERIMENTAL_AND_TESTING_0;
    builder.write(&mut frame, any, payload).expect("a packet that is not too long");
    if v6 {
        frame[20] = protocol;
    } else {
        frame[23] = protocol;
        mend_v4(&mut frame);
    }
    frame
}

/// Puts a right checksum into the IPv4 header of a frame, of one without options.
pub fn mend_v4(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let mut sum = Sum::default();
    sum.add(&frame[14..34]);
    let checksum = sum.checksum().to_be_bytes();
    frame[24..26].copy_from_slice(&checksum);
}

/// One of some addresses of a family.
pub fn address(v6: bool, of: [[&str; 6]; 2], choice: u8) -> IpAddr {
    of[usize::from(v6)][usize::from(choice) % 6].parse().expect("an address")
}

/// What a guest may say that it is.
pub const SOURCES: [[&str; 6]; 2] = [
    ["192.0.2.2", "192.0.2.2", "192.0.2.9", "0.0.0.0", "198.51.100.7", "255.255.255.255"],
    ["2001:db8::2", "2001:db8::2", "fe80::ff:fe00:a", "::", "2001:db8:1::7", "ff02::1"],
];

/// Whom it may speak to, and who may speak to it.
pub const DESTINATIONS: [[&str; 6]; 2] = [
    ["198.51.100.7", "198.51.100.8", "192.0.2.1", "127.0.0.1", "239.1.2.3", "255.255.255.255"],
    ["2001:db8:1::7", "2001:db8:1::8", "fe80::1", "::1", "ff05::3", "ff02::fb"],
];

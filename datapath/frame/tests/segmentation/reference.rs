//! A plain segmenter: headers into etherparse's types, one set for each segment, written out again.

use etherparse::{EtherType, Ethernet2Header, IpHeaders, IpNumber, SingleVlanHeader, TcpHeader, UdpHeader};

/// Cuts a frame into segments of `size` bytes of payload.
pub fn cut(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (ethernet, mut rest) = Ethernet2Header::from_slice(frame).unwrap();
    let mut tags = Vec::new();
    let mut ether_type = ethernet.ether_type;
    while matches!(ether_type, EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING) {
        let (tag, behind) = SingleVlanHeader::from_slice(rest).unwrap();
        ether_type = tag.ether_type;
        rest = behind;
        tags.push(tag);
    }
    let (ip, packet) = IpHeaders::from_slice(rest).unwrap();
    let is_tcp = packet.ip_number == IpNumber::TCP;
    let (tcp, udp, payload) = if is_tcp {
        let (header, payload) = TcpHeader::from_slice(packet.payload).unwrap();
        (Some(header), None, payload)
    } else {
        let (header, payload) = UdpHeader::from_slice(packet.payload).unwrap();
        (None, Some(header), payload)
    };

    let count = payload.len().div_ceil(size);
    let mut segments = Vec::new();
    for (index, part) in payload.chunks(size).enumerate() {
        let (mut ip, mut transport) = (ip.clone(), Vec::new());
        let header_len = tcp.as_ref().map_or(8, TcpHeader::header_len);
        ip.set_payload_len(header_len + part.len()).unwrap();
        if let IpHeaders::Ipv4(header, _) = &mut ip {
            header.identification = header.identification.wrapping_add(u16::try_from(index).unwrap());
        }
        if let Some(mut tcp) = tcp.clone() {
            tcp.sequence_number = tcp.sequence_number.wrapping_add(u32::try_from(index * size).unwrap());
            tcp.cwr &= index == 0;
            tcp.fin &= index == count - 1;
            tcp.psh &= index == count - 1;
            tcp.checksum = match &ip {
                IpHeaders::Ipv4(header, _) => tcp.calc_checksum_ipv4(header, part).unwrap(),
                IpHeaders::Ipv6(header, _) => tcp.calc_checksum_ipv6(header, part).unwrap(),
            };
            tcp.write(&mut transport).unwrap();
        }
        if let Some(mut udp) = udp.clone() {
            udp.length = u16::try_from(8 + part.len()).unwrap();
            udp.checksum = match &ip {
                IpHeaders::Ipv4(header, _) => udp.calc_checksum_ipv4(header, part).unwrap(),
                IpHeaders::Ipv6(header, _) => udp.calc_checksum_ipv6(header, part).unwrap(),
            };
            udp.write(&mut transport).unwrap();
        }

        let mut segment = Vec::new();
        ethernet.write(&mut segment).unwrap();
        for tag in &tags {
            tag.write(&mut segment).unwrap();
        }
        ip.write(&mut segment).unwrap();
        segment.extend_from_slice(&transport);
        segment.extend_from_slice(part);
        segments.push(segment);
    }
    segments
}

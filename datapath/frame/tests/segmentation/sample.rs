//! Frames to be segmented, as Linux hands them to its device: lengths of the whole, a pseudo header's sum in the
//! checksum.

use culvert_frame::{OffloadRequest, checksum, layers};
use etherparse::{
    EtherType, Ethernet2Header, IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader,
    Ipv6RoutingExtensions, SingleVlanHeader, TcpHeader, UdpHeader,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// A frame and how it is to be cut.
#[derive(Clone, Debug)]
pub struct Sample {
    /// VLANs, outermost first: up to two.
    pub tags: Vec<u16>,
    pub ip: Ip,
    pub transport: Transport,
    pub payload_bytes: usize,
    /// Makes flows and payloads differ.
    pub seed: u8,
    /// Payload bytes a segment.
    pub size: u16,
}

#[derive(Clone, Debug)]
pub enum Ip {
    /// Identification, and words of options.
    V4 { id: u16, options: u8 },
    /// Extension headers: hop-by-hop, routing, destination options.
    V6 { hop_by_hop: bool, routing: bool, destination: bool },
}

#[derive(Clone, Debug)]
pub enum Transport {
    /// Sequence number, flags (of [`FLAGS`]), words of options.
    Tcp {
        sequence: u32,
        flags: u8,
        options: u8,
    },
    Udp,
}

/// CWR, ECE, URG, ACK, PSH, FIN: those of segments with payload.
const FLAGS: u8 = 0b1111_1001;

impl Sample {
    /// Any frame whose headers end within 128 bytes.
    pub fn any() -> impl Strategy<Value = Self> {
        let ip = prop_oneof![
            (any::<u16>(), 0..=10_u8).prop_map(|(id, options)| Ip::V4 { id, options }),
            any::<(bool, bool, bool)>().prop_map(|(hop_by_hop, routing, destination)| Ip::V6 {
                hop_by_hop,
                routing,
                destination
            }),
        ];
        let transport = prop_oneof![
            (any::<u32>(), any::<u8>(), 0..=10_u8).prop_map(|(sequence, flags, options)| Transport::Tcp {
                sequence,
                flags: flags & FLAGS,
                options
            }),
            Just(Transport::Udp),
        ];
        // Mostly a few segments, sometimes many, of odd sizes as well.
        let lengths =
            prop_oneof![(1..4000_usize, 1..1500_u16), (1..500_usize, 1..9_u16), (60_000..65_000_usize, 500..9000_u16)];
        (vec(0..4095_u16, 0..=2), ip, transport, lengths, any::<u8>())
            .prop_map(|(tags, ip, transport, (payload_bytes, size), seed)| Self {
                tags,
                ip,
                transport,
                payload_bytes,
                seed,
                size,
            })
            .prop_filter("headers beyond 128 bytes", |sample| sample.frame().len() - sample.payload_bytes <= 128)
            .prop_filter("too many segments", |sample| sample.payload_bytes <= usize::from(sample.size) * 1024)
    }

    /// The frame, with the checksum that its sender leaves open.
    pub fn frame(&self) -> Vec<u8> {
        let mut ip = self.ip.headers();
        let protocol = match self.transport {
            Transport::Tcp { .. } => IpNumber::TCP,
            Transport::Udp => IpNumber::UDP,
        };
        let transport = self.transport.header(40_000 + u16::from(self.seed), self.payload_bytes);
        ip.set_next_headers(protocol);
        ip.set_payload_len(transport.len() + self.payload_bytes).unwrap();
        let mut frame = Vec::new();
        let ip_type = match ip {
            IpHeaders::Ipv4(..) => EtherType::IPV4,
            IpHeaders::Ipv6(..) => EtherType::IPV6,
        };
        let tag_type = |inner: bool| if inner { EtherType::VLAN_TAGGED_FRAME } else { EtherType::PROVIDER_BRIDGING };
        let first = match self.tags.len() {
            0 => ip_type,
            1 => tag_type(true),
            _ => tag_type(false),
        };
        Ethernet2Header { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2], ether_type: first }
            .write(&mut frame)
            .unwrap();
        for (index, tag) in self.tags.iter().enumerate() {
            let ether_type = if index + 1 == self.tags.len() { ip_type } else { tag_type(true) };
            let vlan_id = (*tag).try_into().unwrap();
            SingleVlanHeader { vlan_id, ether_type, ..SingleVlanHeader::default() }.write(&mut frame).unwrap();
        }
        ip.write(&mut frame).unwrap();
        let at = frame.len();
        frame.extend_from_slice(&transport);
        frame.extend_from_slice(&self.payload());
        let sum = pseudo_sum(&ip, protocol.0, frame.len() - at);
        let field = at + usize::from(self.checksum_offset());
        frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    /// Bytes that differ from place to place.
    pub fn payload(&self) -> Vec<u8> {
        (0..self.payload_bytes).map(|at| ((at * 7 + at / 251) % 256).to_le_bytes()[0] ^ self.seed).collect()
    }

    /// What the sender asks for.
    pub fn request(&self) -> OffloadRequest {
        let gso_type = match (&self.transport, &self.ip) {
            (Transport::Tcp { flags, .. }, Ip::V4 { .. }) => 1 | (flags & 0x80),
            (Transport::Tcp { flags, .. }, Ip::V6 { .. }) => 4 | (flags & 0x80),
            (Transport::Udp, _) => 5,
        };
        OffloadRequest {
            needs_checksum: true,
            gso_type,
            gso_size: self.size,
            checksum_start: u16::try_from(self.transport()).unwrap(),
            checksum_offset: self.checksum_offset(),
        }
    }

    /// Where the IP header starts.
    pub fn network(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the TCP or UDP header starts.
    pub fn transport(&self) -> usize {
        self.network() + self.ip.headers().header_len()
    }

    const fn checksum_offset(&self) -> u16 {
        match self.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp => 6,
        }
    }
}

impl Ip {
    fn headers(&self) -> IpHeaders {
        match self {
            Self::V4 { id, options } => {
                let mut header = Ipv4Header::new(0, 64, IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
                header.identification = *id;
                // Router alerts (RFC 2113), four bytes each.
                header.options = [0x94, 4, 0, 0].repeat(usize::from(*options))[..].try_into().unwrap();
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            Self::V6 { hop_by_hop, routing, destination } => {
                let mut header = Ipv6Header { hop_limit: 64, ..Ipv6Header::default() };
                header.source[0..2].copy_from_slice(&[0xfd, 1]);
                header.destination[0..2].copy_from_slice(&[0xfd, 2]);
                // PadN, once eight and once sixteen bytes in all, and a route that ends here.
                let options = |bytes: &[u8]| Ipv6RawExtHeader::new_raw(IpNumber::TCP, bytes).unwrap();
                let end_options = || options(&[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                let extensions = Ipv6Extensions {
                    hop_by_hop_options: hop_by_hop.then(|| options(&[1, 4, 0, 0, 0, 0])),
                    destination_options: (*destination && !*routing).then(end_options),
                    routing: routing.then(|| Ipv6RoutingExtensions {
                        routing: options(&[253, 0, 0, 0, 0, 0]),
                        final_destination_options: destination.then(end_options),
                    }),
                    fragment: None,
                    auth: None,
                };
                IpHeaders::Ipv6(header, extensions)
            }
        }
    }
}

impl Transport {
    /// The header without its checksum.
    fn header(&self, source_port: u16, payload_bytes: usize) -> Vec<u8> {
        match self {
            Self::Tcp { sequence, flags, options } => {
                let mut header = TcpHeader::new(source_port, 40_001, *sequence, 1000);
                header.acknowledgment_number = 77;
                // Options for experiments (RFC 6994), four bytes each.
                header.set_options_raw(&[253, 4, 0x10, 0x10].repeat(usize::from(*options))).unwrap();
                let mut bytes = header.to_bytes().to_vec();
                bytes[13] = *flags;
                bytes
            }
            Self::Udp => {
                let length = u16::try_from(payload_bytes + 8).unwrap();
                let header = UdpHeader { source_port, destination_port: 40_001, length, checksum: 0 };
                header.to_bytes().to_vec()
            }
        }
    }
}

fn pseudo_sum(ip: &IpHeaders, protocol: u8, bytes: usize) -> u16 {
    let (version, header) = match ip {
        IpHeaders::Ipv4(header, _) => (layers::IpVersion::V4, header.to_bytes().to_vec()),
        IpHeaders::Ipv6(header, _) => (layers::IpVersion::V6, header.to_bytes().to_vec()),
    };
    checksum::Sum::of_pseudo_header(version, &header, protocol, u32::try_from(bytes).unwrap()).unwrap().partial()
}

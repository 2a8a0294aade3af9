//! Frames at ports as a pcapng file, to be looked at with any analyser: an interface is a port, a packet's time is the
//! simulated time. Whole seconds are what the switch is told; the microseconds number the bursts, so that packets with
//! one time and one interface are one burst. A virtio-net header that says something stands in the packet's comment.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use culvert_guest::NetHeader;
use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgReader, PcapNgWriter};

use super::packet::Packet;

/// Frames that are at one port at one time, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Burst {
    pub(super) time: Duration,
    pub(super) port: u16,
    pub(super) packets: Vec<Packet>,
}

/// The file's bytes; always the same for the same bursts.
pub(super) fn write(ports: u16, bursts: &[Burst]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    for port in 0..ports {
        let options = vec![
            InterfaceDescriptionOption::IfName(Cow::Owned(format!("port{port}"))),
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        let interface = InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options };
        writer.write_block(&interface.into_block()).unwrap();
    }
    for burst in bursts {
        for Packet { header, frame } in &burst.packets {
            let packet = EnhancedPacketBlock {
                interface_id: u32::from(burst.port),
                timestamp: burst.time,
                original_len: u32::try_from(frame.len()).unwrap(),
                data: Cow::Borrowed(frame),
                options: comment(header).map(|text| EnhancedPacketOption::Comment(text.into())).into_iter().collect(),
            };
            writer.write_block(&packet.into_block()).unwrap();
        }
    }
    writer.into_inner()
}

/// What [`write`] wrote.
pub(super) fn read(path: &Path) -> Vec<Burst> {
    let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = PcapNgReader::new(file.as_slice()).unwrap();
    let mut bursts: Vec<Burst> = Vec::new();
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block.unwrap() else { continue };
        let (time, port) = (packet.timestamp, u16::try_from(packet.interface_id).unwrap());
        let comment = packet.options.iter().find_map(|option| match option {
            EnhancedPacketOption::Comment(text) => Some(text.as_ref()),
            _ => None,
        });
        let packet = Packet { header: comment.map(header).unwrap_or_default(), frame: packet.data.into_owned() };
        match bursts.last_mut() {
            Some(last) if (last.time, last.port) == (time, port) => last.packets.push(packet),
            _ => bursts.push(Burst { time, port, packets: vec![packet] }),
        }
    }
    bursts
}

/// The fields of a header, unless all are 0.
fn comment(header: &NetHeader) -> Option<String> {
    let NetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset } = *header;
    (*header != NetHeader::default()).then(|| {
        format!(
            "virtio-net: flags={flags} gso_type={gso_type} hdr_len={hdr_len} gso_size={gso_size} csum_start={csum_start} \
             csum_offset={csum_offset}"
        )
    })
}

/// What [`comment`] wrote.
fn header(comment: &str) -> NetHeader {
    let field = |name: &str| {
        let value = comment.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("{name} in {comment}")).parse::<u16>().unwrap()
    };
    NetHeader {
        flags: u8::try_from(field("flags")).unwrap(),
        gso_type: u8::try_from(field("gso_type")).unwrap(),
        hdr_len: field("hdr_len"),
        gso_size: field("gso_size"),
        csum_start: field("csum_start"),
        csum_offset: field("csum_offset"),
    }
}

//! Frames at ports as a pcapng file, to be looked at with any analyser: an interface is a port, a packet's time is the
//! simulated time. Whole seconds are what the switch is told; the microseconds number the bursts, so that packets with
//! one time and one interface are one burst.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgReader, PcapNgWriter};

/// Frames that are at one port at one time, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Burst {
    pub(super) time: Duration,
    pub(super) port: u16,
    pub(super) frames: Vec<Vec<u8>>,
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
        for frame in &burst.frames {
            let packet = EnhancedPacketBlock {
                interface_id: u32::from(burst.port),
                timestamp: burst.time,
                original_len: u32::try_from(frame.len()).unwrap(),
                data: Cow::Borrowed(frame),
                options: Vec::new(),
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
        let frame = packet.data.into_owned();
        match bursts.last_mut() {
            Some(last) if (last.time, last.port) == (time, port) => last.frames.push(frame),
            _ => bursts.push(Burst { time, port, frames: vec![frame] }),
        }
    }
    bursts
}

//! Captured frames as pcapng (draft-ietf-opsawg-pcapng): one section, an interface for each port, named
//! like it, and one enhanced packet block for each frame, with its direction and the number of frames lost before it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, anyhow};
use culvert_api::v1;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::{DataLink, PcapError};

/// A pcapng file while it is written.
pub struct Writer<W: Write> {
    writer: PcapNgWriter<W>,
    snap_length: u32,
    /// The number of each port's interface.
    interfaces: BTreeMap<String, u32>,
}

impl<W: Write> Writer<W> {
    /// Writes the head of the file, with what `port` is. `snap_length` is 0 for whole frames.
    ///
    /// # Errors
    /// When `output` cannot be written.
    pub fn new(output: W, snap_length: u32, port: Option<&str>) -> Result<Self> {
        let writer = PcapNgWriter::new(output).map_err(io_error)?;
        let mut writer = Self { writer, snap_length, interfaces: BTreeMap::new() };
        if let Some(port) = port {
            writer.interface(port)?;
        }
        Ok(writer)
    }

    /// What it writes to.
    pub fn output(&self) -> &W {
        self.writer.get_ref()
    }

    /// The number of the interface of a port, which is described before its first frame.
    fn interface(&mut self, port: &str) -> Result<u32> {
        if let Some(number) = self.interfaces.get(port) {
            return Ok(*number);
        }
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snap_length,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(port)),
                InterfaceDescriptionOption::IfDescription(Cow::Owned(format!("port {port} of culvertd"))),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.writer.write_block(&interface.into_block()).map_err(io_error)?;
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(port.to_owned(), number);
        Ok(number)
    }

    /// Writes one frame, before which `lost` frames were lost.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn write(&mut self, frame: &v1::CapturedFrame, lost: u64) -> Result<()> {
        let interface_id = self.interface(&frame.port)?;
        let mut options = match frame.direction() {
            v1::Direction::Rx => vec![EnhancedPacketOption::Flags(INBOUND), comment("rx: from", &frame.port)],
            v1::Direction::Tx => vec![EnhancedPacketOption::Flags(OUTBOUND), comment("tx: to", &frame.port)],
            v1::Direction::Unspecified => Vec::new(),
        };
        if lost > 0 {
            options.push(EnhancedPacketOption::DropCount(lost));
        }
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(frame.time_ns),
            original_len: frame.length,
            data: Cow::Borrowed(&frame.data),
            options,
        };
        self.writer.write_block(&block.into_block()).map_err(io_error)?;
        Ok(())
    }

    /// Hands everything written so far to the operating system.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        Ok(self.writer.get_mut().flush()?)
    }
}

/// Which way a frame went, for people.
fn comment(way: &str, port: &str) -> EnhancedPacketOption<'static> {
    EnhancedPacketOption::Comment(Cow::Owned(format!("{way} {port}")))
}

/// An output error as it is, so that the end of a pipe is recognised.
fn io_error(error: PcapError) -> anyhow::Error {
    match error {
        PcapError::IoError(error) => error.into(),
        other => anyhow!("the capture cannot be written: {other}"),
    }
}

/// if_tsresol: a negative power of ten.
const NANOSECONDS: u8 = 9;
/// epb_flags, bits 0 and 1: from the guest or NIC, or to it.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

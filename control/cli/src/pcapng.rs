//! Captured frames as pcapng (draft-ietf-opsawg-pcapng): one section, one interface named like the port, and one
//! enhanced packet block for each frame, with its direction and the number of frames lost before it.

use std::borrow::Cow;
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
}

impl<W: Write> Writer<W> {
    /// Writes the head of the file. `snap_length` is 0 for whole frames.
    ///
    /// # Errors
    /// When `output` cannot be written.
    pub fn new(output: W, port: &str, snap_length: u32) -> Result<Self> {
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: snap_length,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(port)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        let mut writer = PcapNgWriter::new(output).map_err(io_error)?;
        writer.write_block(&interface.into_block()).map_err(io_error)?;
        Ok(Self { writer })
    }

    /// Writes one frame, before which `lost` frames were lost.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn write(&mut self, frame: &v1::CapturedFrame, lost: u64) -> Result<()> {
        let mut options = match frame.direction() {
            v1::Direction::Rx => vec![EnhancedPacketOption::Flags(INBOUND)],
            v1::Direction::Tx => vec![EnhancedPacketOption::Flags(OUTBOUND)],
            v1::Direction::Unspecified => Vec::new(),
        };
        if lost > 0 {
            options.push(EnhancedPacketOption::DropCount(lost));
        }
        let block = EnhancedPacketBlock {
            interface_id: 0,
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

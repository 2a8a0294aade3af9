//! The Ethernet frames of a pcap or pcapng file, whoever wrote it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};

/// One frame of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes; those that the capture left out are zeros.
    pub data: Vec<u8>,
    /// How many those are.
    pub missing: usize,
}

/// The frames of a file, in its order. After an error there is nothing more.
pub struct Frames {
    source: Option<Source>,
}

enum Source {
    Pcap(PcapReader<BufReader<File>>),
    Pcapng(PcapNgReader<BufReader<File>>),
}

impl Frames {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read, or is in neither format.
    pub fn open(path: &Path) -> Result<Self> {
        let name = || format!("{} cannot be read", path.display());
        let mut first = [0; 4];
        File::open(path).and_then(|mut file| file.read_exact(&mut first)).with_context(name)?;
        let file = BufReader::new(File::open(path).with_context(name)?);
        let neither = |error| anyhow!("{} is neither pcap nor pcapng: {error}", path.display());
        let source = if first == SECTION_HEADER {
            Source::Pcapng(PcapNgReader::new(file).map_err(neither)?)
        } else {
            let reader = PcapReader::new(file).map_err(neither)?;
            if reader.header().datalink != DataLink::ETHERNET {
                bail!("{} holds no Ethernet frames", path.display());
            }
            Source::Pcap(reader)
        };
        Ok(Self { source: Some(source) })
    }
}

impl Iterator for Frames {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        let next = match self.source.as_mut()? {
            Source::Pcap(reader) => next_of_pcap(reader),
            Source::Pcapng(reader) => next_of_pcapng(reader),
        };
        if !matches!(next, Some(Ok(_))) {
            self.source = None;
        }
        next
    }
}

fn next_of_pcap(reader: &mut PcapReader<BufReader<File>>) -> Option<Result<Frame>> {
    let packet = reader.next_packet()?;
    Some(packet.map_err(anyhow::Error::from).and_then(|packet| frame(&packet.data, packet.orig_len)))
}

fn next_of_pcapng(reader: &mut PcapNgReader<BufReader<File>>) -> Option<Result<Frame>> {
    loop {
        let (interface, found) = match reader.next_block()? {
            Err(error) => return Some(Err(error.into())),
            Ok(Block::EnhancedPacket(packet)) => (packet.interface_id, frame(&packet.data, packet.original_len)),
            Ok(Block::SimplePacket(packet)) => (0, frame(&packet.data, packet.original_len)),
            Ok(Block::Packet(packet)) => (u32::from(packet.interface_id), frame(&packet.data, packet.original_len)),
            Ok(_) => continue,
        };
        let interfaces = reader.interfaces();
        let interface = usize::try_from(interface).ok().and_then(|interface| interfaces.get(interface));
        if interface.map(|interface| interface.linktype) != Some(DataLink::ETHERNET) {
            return Some(Err(anyhow!("it is no Ethernet frame")));
        }
        return Some(found);
    }
}

fn frame(data: &[u8], original_length: u32) -> Result<Frame> {
    let length = usize::try_from(original_length)?.max(data.len());
    if length > MAX_BYTES {
        bail!("it has {length} bytes; at most {MAX_BYTES} can be traced");
    }
    let mut whole = data.to_vec();
    whole.resize(length, 0);
    Ok(Frame { missing: length.saturating_sub(data.len()), data: whole })
}

/// The block type of a section header, with which each pcapng file starts (draft-ietf-opsawg-pcapng, 4.1).
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// The longest frame that fits into a request.
const MAX_BYTES: usize = culvert_api::MAX_REQUEST_BYTES - 512;

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use std::time::Duration;

    fn written(datalink: DataLink, packets: &[(&[u8], u32)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let header = PcapHeader { datalink, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(file.reopen().unwrap(), header).unwrap();
        for (data, length) in packets {
            writer.write_packet(&PcapPacket::new(Duration::ZERO, *length, data)).unwrap();
        }
        file
    }

    fn all(path: &Path) -> Result<Vec<Frame>> {
        Frames::open(path)?.collect()
    }

    #[test]
    fn frames_of_a_pcap_file() {
        let file = written(DataLink::ETHERNET, &[(b"abc", 3), (b"abc", 5)]);
        let whole = Frame { data: b"abc".into(), missing: 0 };
        let cut = Frame { data: b"abc\0\0".into(), missing: 2 };
        assert_eq!(all(file.path()).unwrap(), [whole, cut]);
    }

    #[test]
    fn files_that_are_something_else() {
        let error = |path: &Path| format!("{:#}", all(path).unwrap_err());
        assert!(error(Path::new("/no/such/file")).starts_with("/no/such/file cannot be read: No such file"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(error(file.path()).contains("cannot be read"));
        std::fs::write(file.path(), "something else that is long enough").unwrap();
        assert!(error(file.path()).contains("is neither pcap nor pcapng"));
        std::fs::write(file.path(), SECTION_HEADER).unwrap();
        assert!(error(file.path()).contains("is neither pcap nor pcapng"));
        let file = written(DataLink::RAW, &[(b"abc", 3)]);
        assert!(error(file.path()).ends_with("holds no Ethernet frames"));
        let file = written(DataLink::ETHERNET, &[(b"abc", 65_500)]);
        assert!(error(file.path()).contains("at most 65024 can be traced"));
        let file = written(DataLink::ETHERNET, &[(b"abc", 3)]);
        let whole = std::fs::read(file.path()).unwrap();
        std::fs::write(file.path(), &whole[..whole.len() - 1]).unwrap();
        assert!(all(file.path()).is_err());
    }
}

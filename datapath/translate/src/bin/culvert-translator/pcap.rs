//! The frames of the guest's side, in a pcap file (`--pcap`).
//!
//! The event loop calls [`Pcap::record`] for each frame in either direction. What cannot be written is not recorded: a
//! full disk must not stop a guest. It is told once.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use byteorder_slice::NativeEndian;
use culvert_frame::MAX_FRAME_BYTES;
use pcap_file::pcap::{PcapHeader, PcapPacket};
use pcap_file::{DataLink, Endianness, TsResolution};

/// A pcap file that is written.
#[derive(Debug)]
pub struct Pcap {
    file: File,
    frame: Vec<u8>,
    /// Written at once, so that the file can be read at any time.
    record: Vec<u8>,
    failed: bool,
}

impl Pcap {
    /// Makes or empties the file at `path`; only its owner may read it.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let header = PcapHeader {
            snaplen: MAX_FRAME_BYTES,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::MicroSecond,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        header.write_to(&mut file).map_err(io::Error::other)?;
        Ok(Self { file, frame: Vec::new(), record: Vec::new(), failed: false })
    }

    /// Records a frame that passed at `time`. Its bytes from the Ethernet header on are those of `pieces`; `length` is
    /// how many it has in all, which may be more.
    pub fn record<'a>(&mut self, time: SystemTime, pieces: impl IntoIterator<Item = &'a [u8]>, length: usize) {
        if self.failed {
            return;
        }
        self.frame.clear();
        for piece in pieces {
            self.frame.extend_from_slice(piece);
        }
        let length = u32::try_from(length.max(self.frame.len())).unwrap_or(u32::MAX).min(MAX_FRAME_BYTES);
        self.frame.truncate(usize::try_from(MAX_FRAME_BYTES).unwrap_or(usize::MAX));
        let packet = PcapPacket {
            timestamp: time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
            orig_len: length,
            data: Cow::Borrowed(&self.frame),
        };
        self.record.clear();
        let made = packet.write_to::<_, NativeEndian>(&mut self.record, TsResolution::MicroSecond, MAX_FRAME_BYTES);
        let written = made.map_err(io::Error::other).and_then(|_| self.file.write_all(&self.record));
        if let Err(error) = written {
            self.failed = true;
            tracing::error!(%error, "the pcap file cannot be written; no more frames are recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::PcapReader;

    #[test]
    fn frames_can_be_read_while_more_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest.pcap");
        let mut pcap = Pcap::create(&path).unwrap();
        let time = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        pcap.record(time, [&[1u8, 2][..], &[3]], 3);
        pcap.record(time, [&[4u8][..]], 1500);
        pcap.record(time, [&vec![5; 200_000][..]], 0);
        let mut reader = PcapReader::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.header().datalink, DataLink::ETHERNET);
        let first = reader.next_packet().unwrap().unwrap();
        assert_eq!((first.orig_len, &first.data[..]), (3, &[1, 2, 3][..]));
        assert_eq!(first.timestamp, Duration::new(1_000_000_000, 123_456_000));
        assert_eq!(reader.next_packet().unwrap().unwrap().orig_len, 1500);
        let long = reader.next_packet().unwrap().unwrap();
        assert_eq!((long.orig_len, long.data.len()), (MAX_FRAME_BYTES, MAX_FRAME_BYTES as usize));
        assert!(reader.next_packet().is_none());
    }

    #[test]
    fn a_full_disk_ends_the_recording_only() {
        assert!(Pcap::create(Path::new("/dev/full")).is_err());
        let mut pcap = Pcap::create(Path::new("/dev/null")).unwrap();
        pcap.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        pcap.record(UNIX_EPOCH, [&[1u8][..]], 1);
        assert!(pcap.failed);
        pcap.record(UNIX_EPOCH, [&[1u8][..]], 1);
    }
}

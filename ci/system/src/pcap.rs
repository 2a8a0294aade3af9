//! Captures in pcap files, and sending them.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

/// Writes `frames` to a new file.
///
/// # Errors
/// The file cannot be written.
pub fn write<'a>(path: &Path, frames: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    let mut writer = PcapWriter::new(BufWriter::new(File::create(path)?))?;
    for frame in frames {
        let length = u32::try_from(frame.len())?;
        writer.write_packet(&PcapPacket::new(Duration::ZERO, length, frame))?;
    }
    Ok(())
}

/// The frames of a file. What the writer has not finished yet is left out; before its first frame that is the whole file.
///
/// # Errors
/// It cannot be read, or is no capture.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut frames = Vec::new();
    if file.metadata()?.len() == 0 {
        return Ok(frames);
    }
    let mut reader = PcapReader::new(file).with_context(|| path.display().to_string())?;
    while let Some(Ok(packet)) = reader.next_packet() {
        frames.push(packet.data.into_owned());
    }
    Ok(frames)
}

/// Sends all frames of a file through a network interface.
///
/// # Errors
/// There is no such interface, or a frame is too long for it.
pub fn send(path: &Path, interface: &str) -> Result<()> {
    let mut command = Command::new("tcpreplay");
    let output = command.args(["-q", "-t", "-i", interface]).arg(path).output().context("tcpreplay: run ci/setup")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && !said.contains("Failed"), "tcpreplay on {interface}: {said}");
    Ok(())
}

//! `culvertctl capture`: frames as lines of text, as lines of JSON, or as pcapng.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use culvert_api::v1;
use serde::Serialize;
use tonic::Streaming;

use crate::arguments::{CaptureWish, Direction, Format};
use crate::client::{Client, refusal};
use crate::frame_text::{direction, hexadecimal, summary};
use crate::output::Data;
use crate::pcapng::Writer;

#[derive(Serialize)]
struct Frame {
    time_ns: u64,
    port: String,
    direction: &'static str,
    length: u32,
    data: String,
}

/// Captures until the wished number of frames, Ctrl-C or the end of the port, then tells how many there were.
pub async fn run(client: &mut Client, wish: CaptureWish, format: Format) -> Result<()> {
    let mut sink = Sink::open(&wish, format)?;
    let towards = match (wish.direction, &wish.network) {
        // A frame that passes from one port to another one of its network is to be there once.
        (Some(Direction::Rx), _) | (None, Some(_)) => v1::Direction::Rx,
        (Some(Direction::Tx), _) => v1::Direction::Tx,
        (Some(Direction::Both) | None, _) => v1::Direction::Unspecified,
    };
    let request = v1::CaptureRequest {
        port: wish.port.unwrap_or_default(),
        snap_length: wish.snaplen.unwrap_or(0),
        count: wish.count.unwrap_or(0),
        network: wish.network.unwrap_or_default(),
        filter: wish.filter,
        direction: towards.into(),
    };
    let frames = client.capture(request).await.map_err(|status| refusal(&status))?.into_inner();
    let (count, lost) = copy(frames, &mut sink).await?;
    writeln!(io::stderr(), "{count} frames captured, {lost} lost because they were not read in time")?;
    Ok(())
}

/// Copies frames to `sink`; returns how many there were and how many were lost.
async fn copy(mut frames: Streaming<v1::CaptureResponse>, sink: &mut Sink) -> Result<(u64, u64)> {
    let (mut count, mut all_lost) = (0_u64, 0_u64);
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let message = tokio::select! {
            biased;
            interrupted = &mut interrupt => {
                interrupted?;
                break;
            }
            message = frames.message() => message.map_err(|status| refusal(&status))?,
        };
        let Some(v1::CaptureResponse { frames, lost }) = message else { break };
        let mut lost_before = lost;
        for frame in &frames {
            sink.write(frame, lost_before)?;
            lost_before = 0;
            count = count.saturating_add(1);
        }
        all_lost = all_lost.saturating_add(lost);
        sink.flush()?;
    }
    Ok((count, all_lost))
}

/// Where the frames go.
enum Sink {
    /// With ports' names if there are several.
    Text(io::Stdout, bool),
    Data(Data, io::Stdout),
    Pcapng(Writer<Box<dyn Write>>),
    Ring(Ring),
}

impl Sink {
    fn open(wish: &CaptureWish, format: Format) -> Result<Self> {
        if let (Some(path), Some(files), Some(size)) = (&wish.write, wish.files, wish.size) {
            return Ok(Self::Ring(Ring::open(path, files, size.saturating_mul(1_000_000), wish.snaplen.unwrap_or(0))?));
        }
        let output: Box<dyn Write> = match (&wish.write, format.data()) {
            (None, None) => return Ok(Self::Text(io::stdout(), wish.network.is_some())),
            (None, Some(data)) => return Ok(Self::Data(data, io::stdout())),
            (Some(path), _) if path == Path::new("-") => {
                if io::stdout().is_terminal() {
                    bail!("pcapng is not for a terminal; use -w FILE, or pipe it: | wireshark -k -i -");
                }
                Box::new(BufWriter::new(io::stdout()))
            }
            (Some(path), _) => {
                let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
                Box::new(BufWriter::new(file))
            }
        };
        Ok(Self::Pcapng(Writer::new(output, wish.snaplen.unwrap_or(0), wish.port.as_deref())?))
    }

    fn write(&mut self, frame: &v1::CapturedFrame, lost_before: u64) -> Result<()> {
        let side = direction(frame.direction());
        match self {
            Self::Text(stdout, names) => {
                if lost_before > 0 {
                    writeln!(stdout, "({lost_before} frames lost)")?;
                }
                let port = if *names { format!("{} ", frame.port) } else { String::new() };
                writeln!(stdout, "{} {port}{side} {}", time_of_day(frame.time_ns), summary(&frame.data, frame.length))?;
            }
            Self::Data(form, stdout) => {
                let data = hexadecimal(&frame.data);
                let (time_ns, length, port) = (frame.time_ns, frame.length, frame.port.clone());
                let frame = Frame { time_ns, port, direction: side, length, data };
                stdout.write_all(form.line(&frame)?.as_bytes())?;
            }
            Self::Pcapng(writer) => writer.write(frame, lost_before)?,
            Self::Ring(ring) => ring.write(frame, lost_before)?,
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Text(stdout, _) | Self::Data(_, stdout) => Ok(stdout.flush()?),
            Self::Pcapng(writer) => writer.flush(),
            Self::Ring(ring) => ring.writer.flush(),
        }
    }
}

/// Files of bounded number and size: when the last one is full, the first one is written anew.
struct Ring {
    path: PathBuf,
    files: u32,
    size: u64,
    snap_length: u32,
    /// The number of the one that is written, among all.
    number: u32,
    writer: Writer<Counted>,
}

/// A file, and how much was written to it.
struct Counted {
    file: BufWriter<File>,
    bytes: u64,
}

impl Ring {
    fn open(path: &Path, files: u32, size: u64, snap_length: u32) -> Result<Self> {
        let writer = Writer::new(Counted::create(&name(path, 0))?, snap_length, None)?;
        Ok(Self { path: path.to_owned(), files, size, snap_length, number: 0, writer })
    }

    fn write(&mut self, frame: &v1::CapturedFrame, lost_before: u64) -> Result<()> {
        if self.writer.output().bytes >= self.size {
            self.writer.flush()?;
            self.number = self.number.saturating_add(1) % self.files;
            self.writer = Writer::new(Counted::create(&name(&self.path, self.number))?, self.snap_length, None)?;
        }
        self.writer.write(frame, lost_before)
    }
}

/// The name of one of the files.
fn name(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

impl Counted {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { file: BufWriter::new(file), bytes: 0 })
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes = self.bytes.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The time of day in UTC with microseconds: `12:34:56.789012`.
fn time_of_day(time_ns: u64) -> String {
    let (seconds, microseconds) = (time_ns / 1_000_000_000, time_ns % 1_000_000_000 / 1_000);
    format!("{:02}:{:02}:{:02}.{microseconds:06}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_of_files_keeps_the_last_frames() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pcapng");
        let mut ring = Ring::open(&path, 3, 1000, 0).unwrap();
        for number in 0..50 {
            let (port, data) = (format!("vm-{}", number % 2), vec![number; 100]);
            let frame = v1::CapturedFrame { length: 100, data, port, ..v1::CapturedFrame::default() };
            ring.write(&frame, 0).unwrap();
        }
        ring.writer.flush().unwrap();
        let of = |number| {
            let frames = crate::pcap_file::Frames::open(&name(&path, number)).unwrap();
            frames.map(|frame| frame.unwrap().data[0]).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = (0..3).flat_map(of).collect();
        all.sort_unstable();
        // Without a gap, up to the last one.
        assert!((10..50).contains(&all.len()), "{all:?}");
        let first = 50 - u8::try_from(all.len()).unwrap();
        assert_eq!(all, (first..50).collect::<Vec<_>>());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn the_time_of_day_is_in_utc() {
        assert_eq!(time_of_day(0), "00:00:00.000000");
        assert_eq!(time_of_day(1_700_000_000_123_456_789), "22:13:20.123456");
    }
}

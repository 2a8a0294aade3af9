//! `culvertctl capture`: frames as lines of text, as lines of JSON, or as pcapng.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use culvert_api::v1;
use serde::Serialize;
use tonic::Streaming;

use crate::arguments::{CaptureWish, Format};
use crate::client::{Client, refusal};
use crate::frame_text::{direction, hexadecimal, summary};
use crate::pcapng::Writer;

#[derive(Serialize)]
struct Frame {
    time_ns: u64,
    direction: &'static str,
    length: u32,
    data: String,
}

/// Captures until the wished number of frames, Ctrl-C or the end of the port, then tells how many there were.
pub async fn run(client: &mut Client, wish: CaptureWish, format: Format) -> Result<()> {
    let mut sink = Sink::open(&wish, format)?;
    let request =
        v1::CaptureRequest { port: wish.port, snap_length: wish.snaplen.unwrap_or(0), count: wish.count.unwrap_or(0) };
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
    Text(io::Stdout),
    Json(io::Stdout),
    Pcapng(Writer<Box<dyn Write>>),
}

impl Sink {
    fn open(wish: &CaptureWish, format: Format) -> Result<Self> {
        let output: Box<dyn Write> = match (&wish.write, format) {
            (None, Format::Table) => return Ok(Self::Text(io::stdout())),
            (None, Format::Json) => return Ok(Self::Json(io::stdout())),
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
        Ok(Self::Pcapng(Writer::new(output, &wish.port, wish.snaplen.unwrap_or(0))?))
    }

    fn write(&mut self, frame: &v1::CapturedFrame, lost_before: u64) -> Result<()> {
        let side = direction(frame.direction());
        match self {
            Self::Text(stdout) => {
                if lost_before > 0 {
                    writeln!(stdout, "({lost_before} frames lost)")?;
                }
                writeln!(stdout, "{} {side} {}", time_of_day(frame.time_ns), summary(&frame.data, frame.length))?;
            }
            Self::Json(stdout) => {
                let data = hexadecimal(&frame.data);
                let frame = Frame { time_ns: frame.time_ns, direction: side, length: frame.length, data };
                writeln!(stdout, "{}", serde_json::to_string(&frame)?)?;
            }
            Self::Pcapng(writer) => writer.write(frame, lost_before)?,
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Text(stdout) | Self::Json(stdout) => Ok(stdout.flush()?),
            Self::Pcapng(writer) => writer.flush(),
        }
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
    fn the_time_of_day_is_in_utc() {
        assert_eq!(time_of_day(0), "00:00:00.000000");
        assert_eq!(time_of_day(1_700_000_000_123_456_789), "22:13:20.123456");
    }
}

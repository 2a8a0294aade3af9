//! `culvertctl trace`: what the switch would do with frames, and why.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::{Format, TraceWish};
use crate::client::{Client, refusal};
use crate::frame_text::summary;
use crate::output::present;
use crate::pcap_file::{Frame, Frames};

#[derive(Serialize)]
struct Trace {
    frame: u64,
    length: usize,
    steps: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    fates: Vec<Fate>,
}

#[derive(Serialize)]
struct Step {
    what: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
}

#[derive(Serialize)]
struct Fate {
    port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<String>,
    copy: bool,
}

/// Traces one frame, or all of a file: a block of text for each, or a line of JSON.
pub async fn run(client: &mut Client, wish: TraceWish, format: Format) -> Result<()> {
    let mut number = 0;
    match (wish.frame, wish.from_pcap) {
        (_, Some(path)) => {
            for frame in Frames::open(&path)? {
                number += 1;
                let context = || format!("frame {number} of {}", path.display());
                trace(client, &wish.port, number, frame.with_context(context)?, format).await?;
            }
            if number == 0 {
                bail!("{} holds no frame", path.display());
            }
        }
        (Some(text), None) => {
            let data = bytes(&text)?;
            trace(client, &wish.port, 1, Frame { data, missing: 0 }, format).await?;
        }
        (None, None) => bail!("there is no frame: give it in hexadecimal, or name a file with --from-pcap"),
    }
    Ok(())
}

async fn trace(client: &mut Client, port: &str, number: u64, frame: Frame, format: Format) -> Result<()> {
    let Frame { data, missing } = frame;
    let (length, head) = (data.len(), summary(&data, u32::try_from(data.len()).unwrap_or(u32::MAX)));
    let answer = client.trace(v1::TraceRequest { port: port.to_owned(), frame: data }).await;
    let v1::TraceResponse { steps, fates, refused } = answer.map_err(|status| refusal(&status))?.into_inner();
    let steps: Vec<_> = steps.into_iter().map(|step| Step { what: step.what, why: step.why }).collect();
    let fates: Vec<_> = fates
        .into_iter()
        .map(|fate| Fate { port: fate.port, dropped: present(fate.dropped), copy: fate.copy })
        .collect();
    let mut stdout = io::stdout().lock();
    if let Some(data) = format.data() {
        let trace = Trace { frame: number, length, steps, refused: present(refused), fates };
        stdout.write_all(data.line(&trace)?.as_bytes())?;
        return Ok(());
    }
    if number > 1 {
        writeln!(stdout)?;
    }
    writeln!(stdout, "frame {number} from {port}: {head}")?;
    if missing > 0 {
        writeln!(stdout, "  (its last {missing} bytes are not in the file and taken as zeros)")?;
    }
    // What becomes of it is among the steps as well.
    for Step { what, why } in steps {
        if why.is_empty() {
            writeln!(stdout, "  {what}")?;
        } else {
            writeln!(stdout, "  {what}: {why}")?;
        }
    }
    Ok(())
}

/// The bytes of a text of hexadecimal digits.
fn bytes(text: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|character| !character.is_whitespace() && *character != ':')
        .map(|character| character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.context("the frame is not in hexadecimal; write two digits for each byte")?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        bail!("the frame has half a byte too much; write two digits for each byte");
    }
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_from_hexadecimal() {
        assert_eq!(bytes("02:00 ffA0").unwrap(), [2, 0, 0xff, 0xa0]);
        assert_eq!(bytes("").unwrap(), [0; 0]);
        assert!(bytes("0").unwrap_err().to_string().contains("half a byte"));
        assert!(bytes("0g").unwrap_err().to_string().contains("hexadecimal"));
        assert!(bytes("\u{0664}0").is_err());
    }
}

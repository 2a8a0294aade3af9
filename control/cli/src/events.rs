//! `culvertctl events`: what happened on the node, and what happens.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use culvert_api::v1;
use jiff::Timestamp;
use serde::Serialize;
use tonic::Streaming;

use crate::arguments::Format;
use crate::client::{Client, refusal};
use crate::colour::{self, Colour};
use crate::output::or_dash;

#[derive(Serialize)]
struct Event {
    number: u64,
    time: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    text: String,
}

/// Those that were, as one text.
///
/// # Errors
/// culvertd refuses.
pub async fn past(client: &mut Client, port: Option<String>, past: u32, format: Format) -> Result<String> {
    let mut events = ask(client, port, past, false).await?;
    let mut all = String::new();
    while let Some(message) = events.message().await.map_err(|status| refusal(&status))? {
        for event in message.events {
            all.push_str(&text(event, format)?);
        }
    }
    Ok(all)
}

/// Prints events as they come, until there are no more or Ctrl-C.
///
/// # Errors
/// culvertd refuses, or the output cannot be written.
pub async fn run(client: &mut Client, port: Option<String>, past: u32, follow: bool, format: Format) -> Result<()> {
    let mut events = ask(client, port, past, follow).await?;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let message = tokio::select! {
            biased;
            interrupted = &mut interrupt => return Ok(interrupted?),
            message = events.message() => message.map_err(|status| refusal(&status))?,
        };
        let Some(v1::WatchEventsResponse { events, lost }) = message else { return Ok(()) };
        let mut stdout = io::stdout().lock();
        if lost > 0 {
            writeln!(io::stderr(), "culvertctl: {lost} events are missing here: they were not read in time")?;
        }
        for event in events {
            stdout.write_all(text(event, format)?.as_bytes())?;
        }
        stdout.flush()?;
    }
}

async fn ask(
    client: &mut Client,
    port: Option<String>,
    past: u32,
    follow: bool,
) -> Result<Streaming<v1::WatchEventsResponse>> {
    let request = v1::WatchEventsRequest { port: port.unwrap_or_default(), past, follow };
    Ok(client.watch_events(request).await.map_err(|status| refusal(&status))?.into_inner())
}

fn text(event: v1::Event, format: Format) -> Result<String> {
    let (kind, time) = (event.kind(), time(event.time_ns));
    let (word, colour) = word(kind);
    if let Some(data) = format.data() {
        let port = (!event.port.is_empty()).then_some(event.port);
        return data.line(&Event { number: event.number, time, kind: word, port, text: event.text });
    }
    let word = colour::paint(&format!("{word:<15}"), colour);
    Ok(format!("{time}  {word}  {:<15}  {}\n", or_dash(&event.port), event.text))
}

/// A time as RFC 3339 has it, in UTC with milliseconds.
fn time(time_ns: u64) -> String {
    let time = Timestamp::from_nanosecond(time_ns.into()).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The time now, in the same form.
pub fn time_now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// What a kind is called, and its colour.
fn word(kind: v1::EventKind) -> (&'static str, Colour) {
    use v1::EventKind as Kind;
    match kind {
        Kind::Unspecified => ("unknown", Colour::Plain),
        Kind::Started => ("started", Colour::Plain),
        Kind::Added => ("added", Colour::Plain),
        Kind::Removed => ("removed", Colour::Plain),
        Kind::Changed => ("changed", Colour::Plain),
        Kind::Failed => ("failed", Colour::Red),
        Kind::Opened => ("opened", Colour::Green),
        Kind::Connected => ("connected", Colour::Plain),
        Kind::Gone => ("gone", Colour::Plain),
        Kind::Up => ("up", Colour::Green),
        Kind::Down => ("down", Colour::Yellow),
        Kind::Quarantined => ("quarantined", Colour::Red),
        Kind::Moved => ("moved", Colour::Plain),
        Kind::Worker => ("worker", Colour::Red),
        Kind::Reloaded => ("reloaded", Colour::Plain),
        Kind::ReloadRefused => ("reload-refused", Colour::Red),
        Kind::Migrating => ("migrating", Colour::Yellow),
        Kind::MigrationEnded => ("migration-ended", Colour::Plain),
        Kind::LogLevel => ("log-level", Colour::Plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123Z");
    }
}

//! C2: clients that ask for events without end and read none.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_api::v1;

use super::http2::Watch;
use crate::client::Client;
use crate::field::Field;
use crate::http2::{Http2, PREFACE, SETTINGS};

/// More than culvertd keeps for those who are behind.
const EVENTS: usize = 1200;

pub(super) fn that_read_nothing(field: &mut Field) -> Result<()> {
    super::twice(field, once)
}

fn once(field: &mut Field) -> Result<()> {
    let socket = field.control_socket();
    let others = Watch::start(&socket);
    // All that was and all that will be, as often as a connection may ask.
    let wish = [&[2 << 3, 0x80, 0x08][..], &[3 << 3, 1]].concat();
    let (mut streams, mut readers) = (Vec::new(), Vec::new());
    for has_window in [false, true, false, true] {
        let mut watcher = Http2::silent(&socket)?;
        watcher.send(PREFACE)?;
        // Without a window nothing comes; with one what fits into it, and what nobody gives back.
        watcher.frame(SETTINGS, 0, 0, if has_window { &[] } else { &[0, 4, 0, 0, 0, 0] })?;
        for number in 0..16 {
            watcher.request(2 * number + 1, "WatchEvents", &wish)?;
        }
        streams.push(watcher.stream().try_clone()?);
        // It is there and answers pings, so that it is not taken for dead.
        readers.push(thread::spawn(move || watcher.wait(u32::MAX >> 1)));
    }
    let mut client = Client::connect(&socket)?;
    let filter = client.ask(async |client| client.get_log_level(v1::GetLogLevelRequest {}).await)?.into_inner().filter;
    for number in 0..EVENTS {
        let request = v1::SetLogLevelRequest { filter: filter.clone() };
        client.ask(async |client| client.set_log_level(request).await).with_context(|| format!("event {number}"))?;
    }
    // Somebody who reads gets the last ones.
    let request = v1::WatchEventsRequest { past: 10, ..v1::WatchEventsRequest::default() };
    let events = client.ask(async |client| client.watch_events(request).await?.into_inner().message().await)?;
    let events = events.context("there are no events")?.events;
    let kinds = events.iter().filter(|event| event.kind() == v1::EventKind::LogLevel).count();
    ensure!(events.len() == 10 && kinds == 10, "the last events are {events:?}");
    others.end()?;
    for stream in streams {
        // It may have been closed for what it did not read.
        let _ = stream.shutdown(Shutdown::Both);
    }
    for reader in readers {
        // Whatever it saw: that it reads nothing of events is all that it was there for.
        drop(reader.join().map_err(|_| anyhow::anyhow!("a watcher panicked"))?);
    }
    // Their connections are gone before others look at what is left.
    thread::sleep(Duration::from_millis(200));
    Ok(())
}

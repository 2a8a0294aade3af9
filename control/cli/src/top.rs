//! `culvertctl top`: a live screen of ports and workers.
//!
//! [`figures`] makes rates of two answers, [`screen`] draws them and knows the keys; neither knows a terminal. Here are the terminal and the
//! questions.

mod figures;
mod screen;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use crossterm::event::{self, Event, KeyEventKind};
use culvert_api::v1;
use ratatui::DefaultTerminal;

use crate::client::{Client, refusal};
use figures::{Figures, Sample};
use screen::Screen;

/// Shows the screen until somebody leaves it.
///
/// # Errors
/// There is no terminal, or culvertd does not answer any more.
pub async fn run(client: &mut Client, interval: Duration) -> Result<()> {
    if !io::stdout().is_terminal() {
        bail!("top needs a terminal; for programs there is `culvertctl stats --watch -o json`");
    }
    let mut terminal = ratatui::init();
    let result = show(client, interval, &mut terminal).await;
    ratatui::restore();
    result
}

async fn show(client: &mut Client, interval: Duration, terminal: &mut DefaultTerminal) -> Result<()> {
    let mut screen = Screen::default();
    let mut before = sample(client).await?;
    let mut figures = Figures::between(&before, &before);
    let mut next = Instant::now() + FIRST;
    loop {
        terminal.draw(|frame| screen.draw(frame, &figures))?;
        // Keys are looked for now and then: an answer takes a moment at most.
        let patience = next.saturating_duration_since(Instant::now()).min(KEYS);
        let key = tokio::task::spawn_blocking(move || -> io::Result<Option<Event>> {
            if event::poll(patience)? { event::read().map(Some) } else { Ok(None) }
        });
        if let Some(Event::Key(key)) = key.await??
            && key.kind == KeyEventKind::Press
            && screen.key(key, &figures)
        {
            return Ok(());
        }
        if Instant::now() >= next {
            next = Instant::now() + interval;
            if !screen.is_paused() {
                let now = sample(client).await?;
                figures = Figures::between(&before, &now);
                before = now;
            }
        }
    }
}

async fn sample(client: &mut Client) -> Result<Sample> {
    let refused = |status| refusal(&status);
    let ports = client.list_ports(v1::ListPortsRequest::default()).await.map_err(refused)?.into_inner().ports;
    let stats = client.get_stats(v1::GetStatsRequest::default()).await.map_err(refused)?.into_inner().ports;
    let workers = client.list_workers(v1::ListWorkersRequest {}).await.map_err(refused)?.into_inner().workers;
    Ok(Sample { time: Instant::now(), ports, stats, workers })
}

/// Until the first rates are there.
const FIRST: Duration = Duration::from_millis(500);
/// How long keys are waited for at a time.
const KEYS: Duration = Duration::from_millis(100);

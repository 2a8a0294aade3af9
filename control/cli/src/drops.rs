//! `culvertctl drops`.

use std::fmt::Write;

use anyhow::Result;
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::Format;
use crate::client::{Client, refusal};
use crate::frame_text::{direction, hexadecimal, summary};
use crate::output::Align::{Left, Right};
use crate::output::{present, table};

#[derive(Serialize)]
struct Drop {
    port: String,
    direction: &'static str,
    reason: String,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_frame: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_header: Option<String>,
    remedy: String,
}

/// The refused frames of one port, or of all: a table, then the last header and the remedy for each of its rows.
pub async fn show(client: &mut Client, port: Option<String>, format: Format) -> Result<String> {
    let request = v1::ListDropsRequest { port: port.unwrap_or_default() };
    let answer = client.list_drops(request).await.map_err(|status| refusal(&status))?.into_inner();
    let drops: Vec<Drop> = answer.drops.into_iter().map(Drop::from).collect();
    if let Some(data) = format.data() {
        return data.text(&drops);
    }
    if drops.is_empty() {
        return Ok("No frame was refused.\n".to_owned());
    }
    let columns = [("PORT", Left), ("SIDE", Left), ("REASON", Left), ("COUNT", Right), ("LAST FRAME", Left)];
    let rows = drops.iter().map(|drop| {
        let last_frame = drop.last_frame.as_deref().unwrap_or("-").to_owned();
        vec![drop.port.clone(), drop.direction.to_owned(), drop.reason.clone(), drop.count.to_string(), last_frame]
    });
    let mut text = table(&columns, rows);
    for drop in &drops {
        writeln!(text, "\n{} {} {}: {}", drop.port, drop.direction, drop.reason, drop.remedy)?;
        if let Some(header) = &drop.last_header {
            writeln!(text, "  last header: {header}")?;
        }
    }
    Ok(text)
}

impl From<v1::PortDrop> for Drop {
    fn from(drop: v1::PortDrop) -> Self {
        let last_frame = (!drop.last_header.is_empty()).then(|| summary(&drop.last_header, drop.last_length));
        Self {
            direction: direction(drop.direction()),
            last_header: present(hexadecimal(&drop.last_header)),
            last_frame,
            port: drop.port,
            reason: drop.reason,
            count: drop.count,
            remedy: drop.remedy,
        }
    }
}

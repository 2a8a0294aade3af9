//! `culvertctl log-level`.

use anyhow::Result;
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::Format;
use crate::client::{Client, refusal};

#[derive(Serialize)]
struct LogLevel {
    filter: String,
    at_start: String,
}

/// What the log has; changed before, if that is wished.
pub async fn run(client: &mut Client, filter: Option<String>, reset: bool, format: Format) -> Result<String> {
    let filter = if reset { Some(String::new()) } else { filter };
    let answer = match filter {
        Some(filter) => client.set_log_level(v1::SetLogLevelRequest { filter }).await,
        None => client.get_log_level(v1::GetLogLevelRequest {}).await,
    };
    let v1::LogLevelResponse { filter, at_start } = answer.map_err(|status| refusal(&status))?.into_inner();
    if let Some(data) = format.data() {
        return data.text(&LogLevel { filter, at_start });
    }
    let before = if filter == at_start { String::new() } else { format!(" (started with {at_start})") };
    Ok(format!("{filter}{before}\n"))
}

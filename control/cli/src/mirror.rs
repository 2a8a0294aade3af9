//! `culvertctl mirror list`, `show`, `add` and `del`.

use anyhow::{Result, anyhow};
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::{Format, MirrorCommand};
use crate::change::outcome;
use crate::client::{Client, refusal};
use crate::output::Align::Left;
use crate::output::{origin, pairs, table};

#[derive(Serialize)]
struct Mirror {
    name: String,
    from: Vec<String>,
    to: String,
    direction: &'static str,
    active: bool,
    origin: &'static str,
}

/// Does what the command says.
pub async fn run(client: &mut Client, command: MirrorCommand, format: Format) -> Result<String> {
    match command {
        MirrorCommand::List => list(client, format).await,
        MirrorCommand::Show { mirror } => show(client, &mirror, format).await,
        MirrorCommand::Add { mirror, from, to, direction } => {
            let spec = v1::MirrorSpec { from, to, direction };
            let request = v1::AddMirrorRequest { name: mirror.clone(), mirror: Some(spec) };
            outcome(client.add_mirror(request).await, &format!("mirror {mirror} added"), format)
        }
        MirrorCommand::Del { mirror } => {
            let request = v1::RemoveRequest { name: mirror.clone() };
            outcome(client.remove_mirror(request).await, &format!("mirror {mirror} removed"), format)
        }
    }
}

async fn list(client: &mut Client, format: Format) -> Result<String> {
    let mirrors = ask(client).await?;
    if let Some(data) = format.data() {
        return data.text(&mirrors);
    }
    let columns =
        [("MIRROR", Left), ("FROM", Left), ("TO", Left), ("DIRECTION", Left), ("STATE", Left), ("ORIGIN", Left)];
    let rows = mirrors.into_iter().map(|mirror| {
        let state = mirror.state().to_owned();
        vec![mirror.name, mirror.from.join(", "), mirror.to, mirror.direction.into(), state, mirror.origin.into()]
    });
    Ok(table(&columns, rows))
}

async fn show(client: &mut Client, name: &str, format: Format) -> Result<String> {
    let mirror = ask(client).await?.into_iter().find(|mirror| mirror.name == name).ok_or_else(|| {
        anyhow!("there is no mirror {}; `culvertctl mirror list` shows the mirrors", name.escape_debug())
    })?;
    if let Some(data) = format.data() {
        return data.text(&mirror);
    }
    let state = mirror.state().to_owned();
    Ok(pairs([
        ("name", mirror.name),
        ("from", mirror.from.join(", ")),
        ("to", mirror.to),
        ("direction", mirror.direction.to_owned()),
        ("state", state),
        ("origin", mirror.origin.to_owned()),
    ]))
}

async fn ask(client: &mut Client) -> Result<Vec<Mirror>> {
    let answer = client.list_mirrors(v1::ListMirrorsRequest {}).await.map_err(|status| refusal(&status))?;
    Ok(answer.into_inner().mirrors.into_iter().map(Mirror::from).collect())
}

impl Mirror {
    fn state(&self) -> &'static str {
        if self.active { "active" } else { "waits for a port" }
    }
}

impl From<v1::Mirror> for Mirror {
    fn from(mirror: v1::Mirror) -> Self {
        let origin = origin(mirror.origin());
        let v1::Mirror { name, from, to, rx, tx, active, .. } = mirror;
        let direction = match (rx, tx) {
            (true, false) => "rx",
            (false, true) => "tx",
            (true, true) => "both",
            (false, false) => "unknown",
        };
        Self { name, from, to, direction, active, origin }
    }
}

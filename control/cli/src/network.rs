//! `culvertctl network list` and `culvertctl network show`.

use anyhow::{Result, anyhow};
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::Format;
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{json, or_dash, pairs, table};

#[derive(Serialize)]
struct Network {
    name: String,
    mac_age_seconds: u64,
    macs: u32,
    ports: Vec<String>,
}

/// All networks.
pub async fn list(client: &mut Client, format: Format) -> Result<String> {
    let networks = ask(client).await?;
    if format == Format::Json {
        return json(&networks);
    }
    let columns = [("NETWORK", Left), ("PORTS", Right), ("MACS", Right), ("MAC AGE", Right)];
    let rows = networks.into_iter().map(|network| {
        let age = format!("{}s", network.mac_age_seconds);
        vec![network.name, network.ports.len().to_string(), network.macs.to_string(), age]
    });
    Ok(table(&columns, rows))
}

/// One network.
pub async fn show(client: &mut Client, name: &str, format: Format) -> Result<String> {
    let network = ask(client).await?.into_iter().find(|network| network.name == name).ok_or_else(|| {
        anyhow!("there is no network {}; `culvertctl network list` shows the networks", name.escape_debug())
    })?;
    match format {
        Format::Json => json(&network),
        Format::Table => Ok(pairs([
            ("name", network.name),
            ("mac age", format!("{}s", network.mac_age_seconds)),
            ("macs", network.macs.to_string()),
            ("ports", or_dash(&network.ports.join(", "))),
        ])),
    }
}

async fn ask(client: &mut Client) -> Result<Vec<Network>> {
    let answer = client.list_networks(v1::ListNetworksRequest {}).await.map_err(|status| refusal(&status))?;
    Ok(answer.into_inner().networks.into_iter().map(Network::from).collect())
}

impl From<v1::Network> for Network {
    fn from(network: v1::Network) -> Self {
        let v1::Network { name, mac_age_seconds, ports, macs } = network;
        Self { name, mac_age_seconds, macs, ports }
    }
}

//! `culvertctl network list`, `show`, `add`, `set` and `del`.

use anyhow::{Result, anyhow};
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::{Format, NetworkCommand, Unset};
use crate::change::{self, outcome};
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{or_dash, origin, pairs, table, yes_or_no};

#[derive(Serialize)]
struct Network {
    name: String,
    mac_age_seconds: u64,
    macs: u32,
    ports: Vec<String>,
    snooping: bool,
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_ports: Option<u32>,
}

/// Does what the command says.
pub async fn run(client: &mut Client, command: NetworkCommand, format: Format) -> Result<String> {
    match command {
        NetworkCommand::List => list(client, format).await,
        NetworkCommand::Show { network } => show(client, &network, format).await,
        NetworkCommand::Add { network, keys } => {
            let request = v1::AddNetworkRequest { name: network.clone(), network: Some(change::network(keys)) };
            outcome(client.add_network(request).await, &format!("network {network} added"), format)
        }
        NetworkCommand::Set { network, keys, unset: Unset { unset } } => {
            let keys = Some(change::network(keys));
            let request = v1::SetNetworkRequest { name: network.clone(), network: keys, unset };
            outcome(client.set_network(request).await, &format!("network {network} changed"), format)
        }
        NetworkCommand::Del { network } => {
            let request = v1::RemoveRequest { name: network.clone() };
            outcome(client.remove_network(request).await, &format!("network {network} removed"), format)
        }
    }
}

async fn list(client: &mut Client, format: Format) -> Result<String> {
    let networks = ask(client).await?;
    if let Some(data) = format.data() {
        return data.text(&networks);
    }
    let columns = [("NETWORK", Left), ("PORTS", Right), ("MACS", Right), ("MAC AGE", Right), ("ORIGIN", Left)];
    let rows = networks.into_iter().map(|network| {
        let age = format!("{}s", network.mac_age_seconds);
        vec![network.name, network.ports.len().to_string(), network.macs.to_string(), age, network.origin.into()]
    });
    Ok(table(&columns, rows))
}

async fn show(client: &mut Client, name: &str, format: Format) -> Result<String> {
    let network = ask(client).await?.into_iter().find(|network| network.name == name).ok_or_else(|| {
        anyhow!("there is no network {}; `culvertctl network list` shows the networks", name.escape_debug())
    })?;
    match format.data() {
        Some(data) => data.text(&network),
        None => Ok(pairs([
            ("name", network.name),
            ("mac age", format!("{}s", network.mac_age_seconds)),
            ("macs", network.macs.to_string()),
            ("snooping", yes_or_no(network.snooping)),
            ("guest ports", network.guest_ports.map_or_else(|| "-".to_owned(), |ports| ports.to_string())),
            ("origin", network.origin.to_owned()),
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
        let origin = origin(network.origin());
        let v1::Network { name, mac_age_seconds, ports, macs, snooping, guest_ports, .. } = network;
        Self { name, mac_age_seconds, macs, ports, snooping, origin, guest_ports }
    }
}

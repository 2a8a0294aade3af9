//! `add`, `set` and `del` of networks, ports and mirrors, and `reload`: requests that change something, and what came of
//! them.

use anyhow::Result;
use culvert_api::v1;
use serde::Serialize;
use tonic::{Response, Status};

use crate::arguments::{Format, NetworkKeys, PortKeys};
use crate::client::{Client, refusal};
use crate::output::present;

#[derive(Serialize)]
struct Change {
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Serialize)]
struct Reload {
    actions: Vec<String>,
    needs_restart: Vec<String>,
}

/// What came of a change; `done` is what to say when something has changed, such as `port vm-a added`.
pub fn outcome(answer: Result<Response<v1::ChangeResponse>, Status>, done: &str, format: Format) -> Result<String> {
    let v1::ChangeResponse { changed, note } = answer.map_err(|status| refusal(&status))?.into_inner();
    if let Some(data) = format.data() {
        return data.text(&Change { changed, note: present(note) });
    }
    Ok(match (changed, note.as_str()) {
        (true, "") => format!("{done}\n"),
        (true, note) => format!("{done}\n{note}\n"),
        (false, "") => "nothing to do\n".to_owned(),
        (false, note) => format!("nothing to do: {note}\n"),
    })
}

/// Makes culvertd read its configuration again.
pub async fn reload(client: &mut Client, format: Format) -> Result<String> {
    let answer = client.reload(v1::ReloadRequest {}).await.map_err(|status| refusal(&status))?;
    let v1::ReloadResponse { actions, waiting } = answer.into_inner();
    if let Some(data) = format.data() {
        return data.text(&Reload { actions, needs_restart: waiting });
    }
    let mut lines = if actions.is_empty() { vec!["nothing to do".to_owned()] } else { actions };
    lines.extend(waiting.into_iter().map(|key| format!("{key}: waits for a restart of culvertd")));
    Ok(lines.join("\n") + "\n")
}

/// A network's keys as a request has them.
pub fn network(keys: NetworkKeys) -> v1::NetworkSpec {
    let NetworkKeys { mac_age, snooping, guest_ports } = keys;
    v1::NetworkSpec { mac_age, snooping, guest_ports }
}

/// A port's keys as a request has them.
pub fn port(keys: PortKeys) -> v1::PortSpec {
    let PortKeys { network, socket, role, device, mac, queues, mtu, mac_limit, vlan, qinq, trunk, native, .. } = keys;
    let PortKeys { addresses, broadcast_limit, unknown_limit, isolated, offloads, promiscuous, follow_link, .. } = keys;
    let PortKeys { rx_rate, rx_burst, rx_frame_rate, rx_frame_burst, .. } = keys;
    let PortKeys { tx_rate, tx_burst, tx_frame_rate, tx_frame_burst, .. } = keys;
    let PortKeys { socket_root, owner, label, description, .. } = keys;
    v1::PortSpec {
        network,
        socket,
        role,
        device,
        mac,
        queues,
        mtu,
        mac_limit,
        vlan,
        qinq,
        trunk,
        native,
        addresses,
        broadcast_limit,
        unknown_limit,
        isolated,
        offloads,
        promiscuous,
        follow_link,
        socket_root,
        owner,
        label,
        description,
        rx_rate,
        rx_burst,
        rx_frame_rate,
        rx_frame_burst,
        tx_rate,
        tx_burst,
        tx_frame_rate,
        tx_frame_burst,
    }
}

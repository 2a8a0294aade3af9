//! `culvertctl mac list`.

use anyhow::Result;
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::Format;
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{duration, table};

#[derive(Serialize)]
struct Mac {
    network: String,
    /// 0 for none.
    vlan: u32,
    mac: String,
    port: String,
    /// `None` for the address that a port is bound to.
    age_seconds: Option<u64>,
}

/// The learned addresses of a network and a port, each empty for all; sorted.
pub async fn list(client: &mut Client, network: String, port: String, format: Format) -> Result<String> {
    let request = v1::ListMacsRequest { network, port };
    let answer = client.list_macs(request).await.map_err(|status| refusal(&status))?.into_inner();
    let mut macs: Vec<Mac> = answer.macs.into_iter().map(Mac::from).collect();
    macs.sort_by(|one, other| (&one.network, one.vlan, &one.mac).cmp(&(&other.network, other.vlan, &other.mac)));
    if let Some(data) = format.data() {
        return data.text(&macs);
    }
    let columns = [("NETWORK", Left), ("VLAN", Right), ("MAC", Left), ("PORT", Left), ("AGE", Right)];
    Ok(table(
        &columns,
        macs.into_iter().map(|mac| {
            let age = mac.age_seconds.map_or_else(|| "bound".to_owned(), duration);
            let vlan = if mac.vlan == 0 { "-".to_owned() } else { mac.vlan.to_string() };
            vec![mac.network, vlan, mac.mac, mac.port, age]
        }),
    ))
}

impl From<v1::Mac> for Mac {
    fn from(mac: v1::Mac) -> Self {
        let v1::Mac { network, mac, port, age_seconds, vlan } = mac;
        Self { network, vlan, mac, port, age_seconds }
    }
}

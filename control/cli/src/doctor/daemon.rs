//! culvertd, if it runs: what it says about itself.

use std::path::Path;

use culvert_api::v1;

use super::Finding;
use crate::client;

const CHECK: &str = "culvertd";

/// Whether it runs, its warnings, and ports that are not well.
pub async fn look(control_socket: &Path) -> Vec<Finding> {
    let mut client = match client::connect(control_socket).await {
        Ok(client) => client,
        Err(error) => return vec![Finding::warning(CHECK, error.to_string(), "the rest was looked at without it")],
    };
    let status = match client.get_status(v1::GetStatusRequest {}).await {
        Ok(status) => status.into_inner(),
        Err(status) => {
            let found = format!("it does not answer: {}", client::refusal(&status));
            return vec![Finding::error(CHECK, found, "see its log")];
        }
    };
    let mut findings = vec![Finding::ok(CHECK, format!("version {} runs as process {}", status.version, status.pid))];
    let version = env!("CARGO_PKG_VERSION");
    if status.version != version {
        let found = format!("culvertctl is version {version}, culvertd {}", status.version);
        findings.push(Finding::warning(CHECK, found, "install both from the same release"));
    }
    if status.bugs > 0 {
        let found = format!("{} mistakes in culvertd since it started", status.bugs);
        findings.push(Finding::warning(CHECK, found, "report them with the log, or with `culvertctl support-bundle`"));
    }
    for warning in status.warnings {
        findings.push(Finding::warning(CHECK, warning, "see there"));
    }
    if let Ok(ports) = client.list_ports(v1::ListPortsRequest::default()).await {
        for port in ports.into_inner().ports {
            if matches!(port.state(), v1::PortState::Failed | v1::PortState::Quarantined) {
                let found = format!("port {} does not work: {}", port.name, port.reason);
                findings.push(Finding::error("ports", found, format!("`culvertctl port show {}`", port.name)));
            }
        }
    }
    findings
}

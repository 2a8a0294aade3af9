//! The ports of an interface as options of the translator, by the rules that KubeVirt has for passt.
//!
//! Ports that are listed are forwarded, for the protocols that are listed only; when none is, all of both are. With
//! Istio, the ports of its proxy are left out of TCP, and no longer is anything forwarded that is not listed or TCP.

use std::collections::BTreeSet;

use crate::error::InterfaceFault;
use crate::vmi::Port;

/// The options, and sentences about ports that are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwards {
    /// `--tcp-ports SPEC --udp-ports SPEC`, one of them or both.
    pub options: Vec<String>,
    /// For the log.
    pub notices: Vec<String>,
}

/// What is forwarded for these ports.
///
/// # Errors
/// A port is out of range.
pub fn forwards(ports: &[Port], istio: bool) -> Result<Forwards, InterfaceFault> {
    let mut tcp: Vec<String> = Vec::new();
    if istio {
        tcp.extend(ISTIO_PORTS.iter().map(|port| format!("~{port}")));
    }
    let mut udp = Vec::new();
    let mut notices = Vec::new();
    let mut seen = BTreeSet::new();
    for port in ports {
        let protocol = port.protocol.to_ascii_uppercase();
        let list = match protocol.as_str() {
            "" | "TCP" => &mut tcp,
            "UDP" => &mut udp,
            _ => {
                notices.push(format!(
                    "port {} is of protocol {:?}; only TCP and UDP are forwarded",
                    port.port, port.protocol
                ));
                continue;
            }
        };
        if port.port < 0 {
            notices.push(format!("port {} is negative; it is not forwarded", port.port));
            continue;
        }
        if !(1..=65_535).contains(&port.port) {
            return Err(InterfaceFault::Port(port.port));
        }
        // The translator refuses a port that is forwarded twice.
        if seen.insert((protocol == "UDP", port.port)) {
            list.push(port.port.to_string());
        }
    }
    if tcp.is_empty() && udp.is_empty() {
        notices.push(ALL_NOTICE.to_owned());
        tcp.push("all".to_owned());
        udp.push("all".to_owned());
    }
    let options = [("--tcp-ports", tcp), ("--udp-ports", udp)]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .flat_map(|(option, list)| [option.to_owned(), list.join(",")])
        .collect();
    Ok(Forwards { options, notices })
}

/// Where each forwarded port is a socket: measured with 37,000 of each protocol, those that are not ephemeral.
const ALL_NOTICE: &str = "no port is listed, so that all are forwarded: by two sockets where culvertd steers them, else by one each, as far as descriptors reach, up to 75,000 and some 200 MiB of the pod's memory; list the ports that the VM serves";

/// The ports of Istio's proxy.
pub const ISTIO_PORTS: [u16; 10] = [15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090];

#[cfg(test)]
mod tests {
    use super::*;

    fn options(ports: &[(i64, &str)], istio: bool) -> String {
        let port = |(port, protocol): &(i64, &str)| Port { port: *port, protocol: (*protocol).to_owned() };
        forwards(&ports.iter().map(port).collect::<Vec<_>>(), istio).unwrap().options.join(" ")
    }

    const WITHOUT_ISTIO: &str = "--tcp-ports ~15000,~15001,~15004,~15006,~15008,~15009,~15020,~15021,~15053,~15090";

    #[test]
    fn ports_become_options_as_they_do_for_passt() {
        assert_eq!(options(&[], false), "--tcp-ports all --udp-ports all");
        assert_eq!(options(&[(80, "")], false), "--tcp-ports 80");
        assert_eq!(options(&[(80, "tcp"), (443, "TCP"), (53, "Udp")], false), "--tcp-ports 80,443 --udp-ports 53");
        assert_eq!(options(&[(53, "UDP")], false), "--udp-ports 53");
        assert_eq!(options(&[], true), WITHOUT_ISTIO);
        assert_eq!(options(&[(53, "UDP")], true), format!("{WITHOUT_ISTIO} --udp-ports 53"));
        assert_eq!(options(&[(8443, "TCP"), (53, "udp")], true), format!("{WITHOUT_ISTIO},8443 --udp-ports 53"));
        // What is passed over does not count as listed.
        assert_eq!(options(&[(7, "SCTP"), (-1, "TCP")], false), "--tcp-ports all --udp-ports all");
        assert_eq!(options(&[(80, "TCP"), (80, ""), (80, "UDP")], false), "--tcp-ports 80 --udp-ports 80");
    }

    #[test]
    fn that_all_are_forwarded_is_said() {
        assert_eq!(forwards(&[], false).unwrap().notices, [ALL_NOTICE]);
        assert_eq!(forwards(&[], true).unwrap().notices, [""; 0]);
    }

    #[test]
    fn what_is_passed_over_is_said_and_what_is_out_of_range_refused() {
        let port = |port, protocol: &str| Port { port, protocol: protocol.to_owned() };
        let notices = forwards(&[port(7, "SCTP"), port(-1, "")], false).unwrap().notices;
        assert!(notices[0].contains("SCTP") && notices[1].contains("negative"), "{notices:?}");
        assert_eq!(forwards(&[port(0, "TCP")], false), Err(InterfaceFault::Port(0)));
        assert_eq!(forwards(&[port(65_536, "UDP")], false), Err(InterfaceFault::Port(65_536)));
    }
}

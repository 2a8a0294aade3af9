//! What culvert-cni reads: the variables of a call and a network configuration, with the results of other plugins in it. The first three
//! lines are container, interface and CNI_ARGS, the rest is standard input.

use culvert_cni::config::Input;
use culvert_cni::config::settings::{Places, Settings};
use culvert_cni::environment::Variables;
use culvert_cni::name::{self, Mac};
use culvert_cni::result::{CniResult, Interface};
use culvert_cni::version::Version;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let mut line = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (container, interface, arguments) = (line(), line(), line());
    let rest = parts.next().unwrap_or_default();
    let variables =
        [("CNI_CONTAINERID", container.as_str()), ("CNI_IFNAME", interface.as_str()), ("CNI_ARGS", arguments.as_str())];
    let variables = Variables::new(variables);
    if let Ok(id) = variables.attachment() {
        let port = name::port(&id);
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(!port.is_empty() && port.len() <= 63 && port.bytes().all(allowed), "{port:?}");
        assert_eq!(Mac::parse(&Mac::of(&id).to_string()), Some(Mac::of(&id)));
    }
    let pod = variables.pod().unwrap_or_default();
    if let Some(uid) = &pod.uid {
        assert!(!uid.is_empty() && !uid.contains('/') && !uid.starts_with('.'), "{uid:?}");
    }
    let Ok(input) = Input::read(&mut &*rest) else { return };
    let whole = input.config();
    let lenient = input.lenient();
    assert!(whole.is_err() || lenient.is_ok(), "what can be read strictly can be read leniently");
    let Ok(config) = lenient else { return };
    if let Ok(places) = Places::of(&config) {
        assert!(places.state_dir.is_absolute() && places.control_socket.is_absolute());
    }
    if let Ok(Settings::Vhostuser(settings)) = Settings::of(&config, &pod) {
        let network = &settings.port.network;
        assert!(!network.is_empty() && !network.contains(['/', '.']), "{network:?}");
        assert!(!settings.volume.contains(['/', '.']), "{:?}", settings.volume);
        assert!(settings.mount_path.is_absolute());
        let socket = settings.socket_file.as_deref().unwrap_or("x.sock");
        assert!(!socket.is_empty() && !socket.contains('/') && socket != "..", "{socket:?}");
    }
    if let Some(previous) = config.prev_result
        && let Ok(previous) = CniResult::parse("prevResult", previous)
    {
        passes_through(previous);
    }
}

/// What others made is in our result as it was, and ours can be read again.
fn passes_through(previous: CniResult) {
    let ours = Interface { name: "ours".to_owned(), mtu: Some(1500), ..Interface::default() };
    for version in Version::ALL {
        let merged = previous.clone().with(version, vec![ours.clone()], Some(previous.clone()));
        assert!(merged.interfaces.starts_with(&previous.interfaces) && merged.ips.starts_with(&previous.ips));
        let number = Some(previous.interfaces.len());
        assert!(merged.ips.iter().skip(previous.ips.len()).all(|ip| ip.interface == number));
        let json = merged.to_json(version);
        assert_eq!(json.get("cniVersion").and_then(|it| it.as_str()), Some(version.as_str()));
        let again = CniResult::parse("ours", json.clone()).map(|result| result.to_json(version));
        assert_eq!(again.ok(), Some(json));
    }
}

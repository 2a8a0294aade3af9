//! Folders of sockets and of state: whether they are there, and whose they are.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Finding;
use super::node::Node;
use super::settings::Settings;

const CHECK: &str = "folders";

/// The control socket's folder, the state folder, and those of ports' sockets.
pub fn look(node: &Node, settings: &Settings, control_socket: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let own = [control_socket.parent().unwrap_or(Path::new("/")), settings.state_dir.as_path()];
    for folder in own {
        findings.push(trusted(node, folder));
    }
    let mut seen = BTreeSet::new();
    for (port, socket) in &settings.sockets {
        let folder = socket.parent().unwrap_or(Path::new("/"));
        if !seen.insert(folder) {
            continue;
        }
        findings.extend(reachable(node, port, folder));
    }
    findings
}

/// A folder of culvertd's own.
fn trusted(node: &Node, folder: &Path) -> Finding {
    let name = folder.display();
    match fs::metadata(node.path(folder)) {
        Err(_) => Finding::ok(CHECK, format!("{name} is not there; culvertd makes it")),
        Ok(found) if !found.is_dir() => {
            Finding::error(CHECK, format!("{name} is no folder"), "remove it, or name another one in [daemon]")
        }
        Ok(found) if found.mode() & 0o002 != 0 => {
            let sentence = format!("everyone may write to {name}, and culvertd does not use it so");
            Finding::error(CHECK, sentence, format!("`chmod o-w {name}`"))
        }
        Ok(_) => Finding::ok(CHECK, format!("{name} is there, and not everyone's")),
    }
}

/// A folder that guests' frontends reach, too.
fn reachable(node: &Node, port: &str, folder: &Path) -> Option<Finding> {
    let name = folder.display();
    match fs::metadata(node.path(folder)) {
        // culvertd makes it, and its mode is right.
        Err(_) => None,
        Ok(found) if !found.is_dir() => {
            let sentence = format!("port {port}: {name} is no folder");
            Some(Finding::error(CHECK, sentence, "remove it, or name another socket"))
        }
        Ok(found) if found.mode() & 0o011 == 0 => {
            let sentence =
                format!("port {port}: only its owner reaches what is in {name}; QEMU mostly is another user");
            Some(Finding::warning(CHECK, sentence, format!("`chmod go+x {name}`")))
        }
        Ok(_) => Some(Finding::ok(CHECK, format!("port {port}: {name} can be reached"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::doctor::node::tests::machine;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    #[test]
    fn folders_are_there_and_not_everyones() {
        let (_folder, node) = machine(&[("/run/culvert/x", ""), ("/var/lib/culvert/x", ""), ("/run/vm/x", "")]);
        let mode = |path: &str, mode| fs::set_permissions(node.path(path), fs::Permissions::from_mode(mode)).unwrap();
        let settings =
            Settings { sockets: vec![("vm-a".to_owned(), PathBuf::from("/run/vm/a.sock"))], ..Settings::default() };
        let levels = || {
            let findings = look(&node, &settings, Path::new("/run/culvert/culvertd.sock"));
            findings.iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        for path in ["/run/culvert", "/var/lib/culvert", "/run/vm"] {
            mode(path, 0o755);
        }
        assert_eq!(levels(), [Level::Ok; 3]);
        mode("/var/lib/culvert", 0o777);
        mode("/run/vm", 0o700);
        assert_eq!(levels(), [Level::Ok, Level::Error, Level::Warning]);
    }
}

//! What clients have added comes back after a kill, and what the file says as well.

use anyhow::{Result, ensure};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::qemu::Role;
use serde_json::Value;

use crate::field::Field;

/// After each change culvertd is killed, now its daemon, now all of it.
pub fn come_back(_: &mut Field) -> Result<()> {
    let mut node = Node::new()?;
    node.add_guest("of-the-file", Role::Connect, "");
    let mut daemon = node.start()?;
    let path = |name: &str| node.path(name).display().to_string();
    let changes = [
        "network add green --mac-age 60s".to_owned(),
        format!("port add a --network green --socket {} --role listen", path("a.sock")),
        format!("port add b --network green --socket {} --role connect", path("b.sock")),
        "mirror add watch --from a --to b".to_owned(),
        "port set a --mtu 1400".to_owned(),
        "mirror del watch".to_owned(),
        "port del a".to_owned(),
    ];
    for (count, change) in changes.iter().enumerate() {
        daemon.ctl(change)?;
        let before = objects(&daemon)?;
        if count % 2 == 0 {
            daemon.kill();
            daemon = node.start()?;
        } else {
            let pid = daemon.pid();
            daemon.crash()?;
            daemon.wait_for_next(pid)?;
        }
        let after = objects(&daemon)?;
        ensure!(before == after, "after \"{change}\" and a kill\n{after:?}\nis there, not\n{before:?}");
    }
    daemon.stop()
}

/// What there is, without what changes by itself.
fn objects(daemon: &Daemon) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for kind in ["network list", "port list", "mirror list"] {
        let mut list = daemon.ask(kind)?;
        for object in list.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            object.retain(|key, _| {
                ["name", "network", "role", "socket", "mtu", "origin", "from", "to"].contains(&&**key)
            });
        }
        all.push(list);
    }
    Ok(all)
}

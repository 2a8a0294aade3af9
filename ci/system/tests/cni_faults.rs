//! culvert-cni when things go wrong: many calls at once, calls that are killed at any moment, no culvertd, a pod that swaps names in
//! its own folder. Whatever happens, DEL or GC leaves nothing, and nothing outside of the pod's folder is touched. It needs root.
#![allow(clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::cni::with_result;
use serde_json::{Value, json};

#[path = "cni/runner.rs"]
#[allow(dead_code, reason = "two tests use it")]
mod runner;

use runner::{CONTAINER, Call, Field, INTERFACE};

#[test]
fn fifty_at_once() -> Result<()> {
    let field = Field::new()?;
    let daemon = field.node.start()?;
    let config = field.config("1.0.0", &json!({"ipam": field.host_local()}));
    let ids: Vec<_> = (0..50).map(|number| (format!("{number:012x}cafe"), format!("net{number}"))).collect();
    let at_once = |verb: &str, results: &[Value]| -> Result<Vec<Value>> {
        thread::scope(|scope| {
            let start = |(number, (container, ifname)): (usize, &(String, String))| {
                let call = field.call_for(verb, container, ifname);
                let config = results.get(number).map_or_else(|| config.clone(), |result| with_result(&config, result));
                scope.spawn(move || call.succeed(&config))
            };
            let calls: Vec<_> = ids.iter().enumerate().map(start).collect();
            let ends = calls.into_iter().map(|call| call.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")));
            ends.collect()
        })
    };
    let results = at_once("ADD", &[])?;
    let addresses: BTreeSet<_> = results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
    ensure!(addresses.len() == 50, "{addresses:?}");
    let macs: BTreeSet<_> = results.iter().map(|result| result["interfaces"][0]["mac"].to_string()).collect();
    ensure!(macs.len() == 50, "{macs:?}");
    ensure!(daemon.ask("port list")?.as_array().map(Vec::len) == Some(50), "{}", daemon.ask("port list")?);
    at_once("CHECK", &results)?;
    at_once("DEL", &results)?;
    field.check_clean(&daemon)?;
    daemon.stop()
}

/// An IPAM plugin that is slow, so that there is time to be killed in, and keeps a lease as a file.
const SLOW_IPAM: &str = r#"cat > /dev/null
lease=$(dirname "$0")/../ipam/198.51.100.$CNI_CONTAINERID.$CNI_IFNAME
sleep 0.01
case $CNI_COMMAND in
ADD) mkdir -p "${lease%/*}"; : > "$lease"; echo '{"cniVersion":"1.1.0","ips":[{"address":"198.51.100.5/26"}]}';;
DEL) rm -f "$lease";;
esac"#;

#[test]
fn killed_at_any_moment() -> Result<()> {
    let field = Field::new()?;
    field.plugin("slow", SLOW_IPAM)?;
    let daemon = field.node.start()?;
    let info = field.node.path("devinfo/file").display().to_string();
    let keys = json!({
        "ipam": {"type": "slow"}, "mode": null, "network": null,
        "host": {"bridge": {"bridgeName": "sw0"}}, "container": {}, "runtimeConfig": {"CNIDeviceInfoFile": info},
    });
    let config = field.config("1.1.0", &keys);
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    // How long a call takes here.
    let begin = Instant::now();
    field.call("ADD").succeed(&config)?;
    let usual = begin.elapsed();
    field.call("DEL").succeed(&config)?;
    let mut unfinished = 0;
    for round in 0..ROUNDS {
        let share = f64::from(round) / f64::from(ROUNDS);
        let add = field.call("ADD");
        if round % 4 == 3 {
            // DEL is the one that is killed.
            add.succeed(&config)?;
            kill_after(&field.call("DEL"), &config, usual.mul_f64(share))?;
        } else if !kill_after(&add, &config, usual.mul_f64(share))? {
            unfinished += 1;
        }
        match round % 4 {
            0 | 3 => drop(field.call("DEL").succeed(&config)?),
            1 => drop(field.call("GC").succeed(&gc)?),
            _ => {
                // The runtime tries again. What was finished must be removed first.
                let outcome = add.run(&config)?;
                ensure!(outcome.success || outcome.answer["code"] == 100, "{outcome:?}");
                field.call("DEL").succeed(&config)?;
            }
        }
        field.check_clean(&daemon).with_context(|| format!("round {round}, after {share:.2} of {usual:?}"))?;
        let left = runner::files(&field.node.path("devinfo"))?;
        ensure!(left.is_empty(), "round {round}: {left:?} is left");
        let networks = daemon.ask("network list")?.to_string();
        ensure!(!networks.contains("sw0"), "round {round}: {networks}");
    }
    println!("{unfinished} of {} calls of ADD were killed before they ended", ROUNDS / 4 * 3);
    ensure!(unfinished > 0, "none was killed in time");
    daemon.stop()
}

/// Kills a call. Returns whether it had ended before.
fn kill_after(call: &Call, config: &Value, delay: Duration) -> Result<bool> {
    let mut child = call.start(config.to_string().as_bytes())?;
    thread::sleep(delay);
    child.kill()?;
    // A delegated plugin has the other end of the outputs, too: they end with it.
    let output = child.wait_with_output()?;
    Ok(output.status.success())
}

#[test]
fn culvertd_goes_and_comes_back() -> Result<()> {
    let field = Field::new()?;
    let config = field.config("1.0.0", &json!({"ipam": field.host_local()}));
    let translator = field.config("1.0.0", &json!({"name": "pod-net", "mode": "translator", "network": null}));
    let daemon = field.node.start()?;
    let result = field.call("ADD").succeed(&config)?;
    let known = with_result(&config, &result);
    // Killed: the port comes back with it.
    drop(daemon);
    field.call("CHECK").fail(&known, 11)?;
    field.call_for("ADD", CONTAINER, "net2").fail(&config, 11)?;
    let daemon = field.node.start()?;
    field.call("CHECK").succeed(&known)?;
    field.call("DEL").succeed(&known)?;
    field.check_clean(&daemon)?;
    // Removed while there is none: the socket at once, the port when it is back.
    let result = field.call("ADD").succeed(&config)?;
    field.call_for("ADD", CONTAINER, "eth0").succeed(&translator)?;
    drop(daemon);
    for _ in 0..2 {
        field.call("DEL").succeed(&with_result(&config, &result))?;
        field.call_for("DEL", CONTAINER, "eth0").succeed(&translator)?;
    }
    let left = runner::files(&field.volume)?;
    ensure!(left.is_empty(), "left in the pod's volume: {left:?}");
    let daemon = field.node.start()?;
    ensure!(daemon.ask("pod list")? == json!([]), "{}", daemon.ask("pod list")?);
    field.check_clean(&daemon)?;
    // What is added right after is not removed by what was left before.
    field.call("ADD").succeed(&config)?;
    field.call("CHECK").succeed(&with_result(&config, &result))?;
    field.call("DEL").succeed(&config)?;
    field.check_clean(&daemon)?;
    daemon.stop()
}

/// A file of the node's that a pod wants to reach.
struct Victim {
    path: PathBuf,
    inode: u64,
}

impl Victim {
    fn new(field: &Field) -> Result<Self> {
        let path = field.node.path("victim");
        fs::write(&path, "untouched")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let inode = fs::metadata(&path)?.ino();
        Ok(Self { path, inode })
    }

    fn check(&self) -> Result<()> {
        let metadata = fs::symlink_metadata(&self.path)?;
        let owner = (metadata.uid(), metadata.gid());
        let same = metadata.ino() == self.inode && owner == (0, 0) && metadata.mode() & 0o7777 == 0o600;
        ensure!(same && fs::read(&self.path)? == b"untouched", "the node's file was touched: {metadata:?}");
        Ok(())
    }
}

/// What a pod may put in the place of a name: makes it at the path.
type Swap = fn(&Path, &Victim) -> Result<()>;

const SWAPS: [(&str, Swap); 6] = [
    ("a link to a file", |path, victim| Ok(symlink(&victim.path, path)?)),
    ("a link to nothing", |path, _| Ok(symlink("/nonexistent/x", path)?)),
    ("a hard link", |path, victim| Ok(fs::hard_link(&victim.path, path)?)),
    ("a folder", |path, _| Ok(fs::create_dir(path)?)),
    ("a file", |path, _| Ok(fs::write(path, "the pod's")?)),
    ("a socket that somebody listens on", |path, _| {
        // Made where the path is short enough; it listens for as long as the test runs.
        let short = std::env::temp_dir().join(format!("culvert-pod-{}", std::process::id()));
        std::mem::forget(UnixListener::bind(&short)?);
        Ok(fs::rename(short, path)?)
    }),
];

fn clear(path: &Path) {
    // Whichever it is.
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir(path);
}

#[test]
fn a_pod_swaps_names_in_its_folder() -> Result<()> {
    let field = Field::new()?;
    let victim = Victim::new(&field)?;
    let daemon = field.node.start()?;
    let keys = json!({"mode": null, "network": null, "host": {"bridge": {"bridgeName": "blue"}}, "container": {}});
    let config = field.config("1.0.0", &keys);
    let socket = field.volume.join(format!("{INTERFACE}.sock"));
    let data = field.volume.join(format!("configData-0f1e2d3c4b5a-{INTERFACE}.json"));
    for (what, swap) in SWAPS {
        // Before ADD: refused, and what the pod has put there stays.
        swap(&socket, &victim)?;
        let outcome = field.call("ADD").run(&config)?;
        ensure!(!outcome.success && outcome.answer["code"] == 5, "{what}: {outcome:?}");
        ensure!(fs::symlink_metadata(&socket).is_ok(), "{what} was removed");
        ensure!(daemon.ask("port list")? == json!([]), "{what}: {}", daemon.ask("port list")?);
        clear(&socket);
        // In the place of the application's file: replaced, or refused.
        swap(&data, &victim)?;
        let outcome = field.call("ADD").run(&config)?;
        ensure!(outcome.success || what == "a folder", "{what}: {outcome:?}");
        field.call("DEL").succeed(&config)?;
        clear(&data);
        field.check_clean(&daemon).context(what)?;
        // Between ADD and DEL.
        field.call("ADD").succeed(&config)?;
        for path in [&socket, &data] {
            clear(path);
            swap(path, &victim)?;
        }
        field.call("DEL").succeed(&config)?;
        for path in [&socket, &data] {
            clear(path);
        }
        field.check_clean(&daemon).context(what)?;
        victim.check().context(what)?;
    }
    // The folder itself goes.
    field.call("ADD").succeed(&config)?;
    fs::remove_dir_all(&field.volume)?;
    field.call("DEL").succeed(&config)?;
    field.check_clean(&daemon)?;
    // It was never kubelet's.
    symlink("/tmp", &field.volume)?;
    field.call("ADD").fail(&config, 5)?;
    field.call("DEL").succeed(&config)?;
    daemon.stop()
}

#[test]
fn a_pod_swaps_names_all_the_time() -> Result<()> {
    let field = Field::new()?;
    let victim = Victim::new(&field)?;
    let daemon = field.node.start()?;
    let keys = json!({"mode": null, "network": null, "host": {"bridge": {"bridgeName": "blue"}}, "container": {}});
    let config = field.config("1.0.0", &keys);
    let names = [format!("{INTERFACE}.sock"), format!("configData-0f1e2d3c4b5a-{INTERFACE}.json")];
    let end = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            let (volume, end, victim) = (&field.volume, &end, &victim);
            while !end.load(Ordering::Relaxed) {
                for name in &names {
                    let path = volume.join(name);
                    clear(&path);
                    let _ = symlink(&victim.path, &path);
                    // Others have work to do, too.
                    thread::sleep(Duration::from_micros(200));
                    clear(&path);
                }
            }
        });
        let calls = || -> Result<()> {
            for _ in 0..20 {
                // Whichever it finds.
                let _ = field.call("ADD").run(&config)?;
                field.call("DEL").succeed(&config)?;
                victim.check()?;
            }
            Ok(())
        };
        let outcome = calls();
        end.store(true, Ordering::Relaxed);
        outcome
    })?;
    for name in &names {
        clear(&field.volume.join(name));
    }
    field.check_clean(&daemon)?;
    victim.check()?;
    daemon.stop()
}

#[test]
fn a_folder_that_cannot_be_written() -> Result<()> {
    let field = Field::new()?;
    let daemon = field.node.start()?;
    let config = field.config("1.0.0", &json!({"ipam": field.host_local()}));
    let mount = |options: &str| -> Result<()> {
        let volume = field.volume.display().to_string();
        let words: Vec<_> = options.split(' ').chain([volume.as_str()]).collect();
        let status = std::process::Command::new("mount").args(&words).status()?;
        ensure!(status.success(), "mount {words:?}");
        Ok(())
    };
    mount("-t tmpfs none")?;
    mount("-o remount,ro")?;
    let said = field.call("ADD").fail(&config, 5)?;
    ensure!(said.contains("Read-only"), "{said}");
    field.check_clean(&daemon)?;
    mount("-o remount,rw")?;
    field.call("ADD").succeed(&config)?;
    mount("-o remount,ro")?;
    // Kubelet removes the rest with the volume.
    field.call("DEL").succeed(&config)?;
    ensure!(daemon.ask("port list")? == json!([]), "{}", daemon.ask("port list")?);
    let status = std::process::Command::new("umount").arg(&field.volume).status()?;
    ensure!(status.success(), "umount");
    field.check_clean(&daemon)?;
    daemon.stop()
}

/// Each a call that is killed after another share of its time.
const ROUNDS: u32 = 60;

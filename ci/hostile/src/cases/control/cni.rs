//! C9: culvert-cni called in orders that nobody should call it in, at once, and killed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::cni::{Attachment, culvert, start, with, with_result};
use culvert_system::kube_pod::KubeletRoot;
use culvert_system::paths::program;
use culvert_system::place::Namespace;
use serde_json::json;

use crate::case::Part;
use crate::field::Field;
use crate::process::Resources;

pub(super) fn out_of_order(field: &mut Field) -> Result<()> {
    let kubelet = KubeletRoot::new()?;
    let pod = kubelet.pod("virt-launcher-fw", 1)?;
    let volume = pod.add_volume("shared-dir")?;
    let namespace = Namespace::new("cni")?;
    let plugins = field.node().path("plugins");
    fs::create_dir(&plugins)?;
    symlink(program("culvert-cni")?.canonicalize()?, plugins.join("culvert-cni"))?;
    // As for a runtime that made its own folder.
    fs::set_permissions(&plugins, Permissions::from_mode(0o755))?;
    let netns = format!("/run/netns/{}", namespace.name());
    let keys = json!({"cniVersion": "1.0.0", "name": "lab-net", "kubeletRoot": kubelet.path()});
    let config = with(culvert(field.node(), "vhostuser"), &keys);
    let at = |sandbox: &str, interface: &str| Attachment::of_pod(&pod, sandbox, &netns, interface, &plugins);
    let usual = at("0f1e2d3c4b5a69788796a5b4c3d2e1f0", "net1");
    let before = field.daemon().ask("port list")?;

    // DEL first, and twice; ADD twice; CHECK of what is not there.
    usual.delete(&config, None)?;
    usual.delete(&config, None)?;
    ensure!(usual.call("CHECK", &with_result(&config, &json!({}))).is_err(), "CHECK found what is not there");
    let result = usual.add(&config)?;
    match usual.call("ADD", &config) {
        Ok(again) => ensure!(again == result, "the second ADD has another result: {again}, {result}"),
        Err(error) => ensure!(error.to_string().contains("\"code\":"), "{error}"),
    }
    usual.call("CHECK", &with_result(&config, &result)).context("after a second ADD")?;
    usual.delete(&config, Some(&result))?;
    usual.delete(&config, Some(&result))?;
    ensure!(usual.call("CHECK", &with_result(&config, &result)).is_err(), "CHECK found what was removed");

    // Killed at any moment, then removed.
    let begin = Instant::now();
    usual.call("ADD", &config)?;
    let time = begin.elapsed();
    usual.delete(&config, None)?;
    let rounds = if field.is_full() { 100 } else { 10 };
    for round in 0..rounds {
        let environment = [
            ("CNI_COMMAND", if round % 3 == 2 { "DEL" } else { "ADD" }.to_owned()),
            ("CNI_CONTAINERID", usual.container.clone()),
            ("CNI_NETNS", usual.netns.clone()),
            ("CNI_IFNAME", usual.interface.clone()),
            ("CNI_ARGS", usual.arguments.clone()),
            ("CNI_PATH", plugins.display().to_string()),
        ];
        if round % 3 == 2 {
            usual.call("ADD", &config)?;
        }
        let mut child =
            start(Command::new(plugins.join("culvert-cni")).envs(environment), config.to_string().as_bytes())?;
        thread::sleep(time.mul_f64(f64::from(round) / f64::from(rounds)));
        child.kill()?;
        child.wait()?;
        usual.delete(&config, None).with_context(|| format!("round {round}"))?;
    }

    // Twenty at once, each with an interface of its own, and all of them removed twice at once.
    let many: Vec<Attachment> =
        (0..20).map(|number| at(&format!("{number:012x}cafe"), &format!("net{number}"))).collect();
    let at_once = |verb: &str| -> Result<()> {
        thread::scope(|scope| {
            let calls: Vec<_> = many.iter().map(|one| scope.spawn(|| one.call(verb, &config))).collect();
            calls
                .into_iter()
                .try_for_each(|call| call.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")).map(drop))
        })
    };
    field.exempt(Part::Resources, "the case looks itself, after a first round in which the heap may grow");
    at_once("ADD")?;
    at_once("DEL")?;
    thread::sleep(Duration::from_millis(1500));
    let resources = Resources::of(field.daemon().pid())?;
    at_once("ADD")?;
    let there = field.daemon().ask("port list")?.as_array().map_or(0, Vec::len);
    ensure!(there == before.as_array().map_or(0, Vec::len) + 20, "there are {there} ports");
    at_once("DEL")?;
    at_once("DEL")?;

    thread::sleep(Duration::from_millis(1500));
    let found = Resources::of(field.daemon().pid())?.differences(&resources);
    ensure!(found.is_empty(), "{}", found.join("; "));

    // No orphan of any of them.
    let after = field.daemon().ask("port list")?;
    ensure!(after == before, "ports are left: {after}");
    ensure!(fs::read_dir(&volume)?.next().is_none(), "something is left in the pod's volume");
    for folder in ["cni", "state/removals"] {
        let left: Vec<_> = files(&field.node().path(folder))?;
        ensure!(left.is_empty(), "left in {folder}: {left:?}");
    }
    Ok(())
}

/// The files below a folder, if there is one; folders of networks may stay.
fn files(folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.file_name().is_some_and(|name| name != "lock") {
            found.push(path);
        }
    }
    Ok(found)
}

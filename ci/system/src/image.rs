//! A container image made here: busybox, whose only program sleeps, and the folders of a Debian to mount. Pods have it as their pause
//! image, containers as their root. No registry is asked.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

/// The image's name. A registry of that name is never asked: the image is there.
pub const IMAGE: &str = "culvert.test/busybox:1";

/// Makes the image in a folder, as an archive of `docker save`'s form, which `ctr images import` and `podman load` read.
///
/// # Errors
/// busybox is missing.
pub fn archive(folder: &Path) -> Result<PathBuf> {
    let work = folder.join("image");
    let root = work.join("root");
    for name in ["dev", "etc", "opt", "proc", "run", "sys", "tmp", "usr/bin", "var/lib"] {
        fs::create_dir_all(root.join(name))?;
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    symlink("../run", root.join("var/run"))?;
    for name in ["run", "tmp"] {
        fs::set_permissions(root.join(name), Permissions::from_mode(0o1777))?;
    }
    // Debian's is static.
    let busybox = run(Command::new("sh").args(["-c", "command -v busybox"])).context("no busybox: run ci/setup")?;
    fs::copy(busybox.trim(), root.join("bin/busybox"))?;
    for name in ["sh", "sleep", "ls", "stat", "id", "wget"] {
        symlink("busybox", root.join("bin").join(name))?;
    }
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(work.join("layer.tar")).arg("."))?;
    let sum = run(Command::new("sha256sum").arg(work.join("layer.tar")))?;
    let sum = sum.split(' ').next().unwrap_or_default();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
    });
    fs::write(work.join("config.json"), config.to_string())?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(work.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("image.tar");
    let members = ["manifest.json", "config.json", "layer.tar"];
    run(Command::new("tar").arg("-C").arg(&work).arg("-cf").arg(&archive).args(members))?;
    fs::remove_dir_all(work)?;
    Ok(archive)
}

/// Runs a command, which must succeed, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run: run ci/setup"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

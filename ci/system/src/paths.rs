//! Where the programs under test and the guest's kernel are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A program of this workspace, by name: beside the running one, or in the folder that `CULVERT_BIN` names.
///
/// # Errors
/// It has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("CULVERT_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe()?;
            let folder = own.parent().context("this program has no folder")?;
            // A test is target/debug/deps/NAME-HASH.
            if folder.ends_with("deps") { folder.join("..") } else { folder.to_owned() }
        }
    };
    let path = folder.join(name);
    ensure!(path.exists(), "{} is missing: run cargo build --bins, or set CULVERT_BIN to its folder", path.display());
    Ok(path)
}

/// A file that ci/guest-image has made, by name, such as `vmlinuz`.
///
/// # Errors
/// The image has not been made.
pub fn guest_file(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest").join(name);
    ensure!(path.exists(), "{} is missing: run ci/setup", path.display());
    Ok(path)
}

/// A file that ci/peers has made, by name, such as `passt`.
///
/// # Errors
/// It has not been made.
pub fn peer(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers").join(name);
    ensure!(path.exists(), "{} is missing: run ci/peers", path.display());
    Ok(path)
}

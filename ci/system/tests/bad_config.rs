//! A configuration with mistakes: each is named with file, line, key and remedy, and culvertd ends with status 64.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_system::daemon::Node;

#[test]
fn every_mistake_is_named() -> Result<()> {
    let mut node = Node::new()?;
    node.add("[[port]]\nname = \"vm-a\"\nnetwork = \"bleu\"\nsocket = \"/run/x/vm-a.sock\"\nmtuu = 1500");
    let file = node.path("culvertd.toml").display().to_string();
    let mut daemon = node.launch()?;
    let status = daemon.console().wait(LIMIT)?;
    ensure!(status.code() == Some(64), "culvertd ended with {status}");
    let said = daemon.console().wait_for_end(LIMIT)?;
    let first = node.config().lines().position(|line| line.contains("bleu")).unwrap_or_default() + 1;
    for (line, key, remedy) in [(first, "network", "blue"), (first + 2, "mtuu", "mtu")] {
        let place = format!("{file}:{line}: ");
        let found = said.lines().find(|text| text.contains(&place));
        ensure!(
            found.is_some_and(|text| text.contains(key) && text.contains(remedy)),
            "no sentence about {place}{key} with a remedy in:\n{said}"
        );
    }
    Ok(())
}

#[test]
fn a_missing_file_is_named() -> Result<()> {
    let node = Node::new()?;
    let mut daemon = node.launch()?;
    std::fs::remove_file(node.path("culvertd.toml"))?;
    daemon.kill();
    let file = node.path("missing.toml");
    let mut daemon = node.launch_with(&file)?;
    let status = daemon.console().wait(LIMIT)?;
    ensure!(status.code() == Some(64), "culvertd ended with {status}");
    let said = daemon.console().wait_for_end(LIMIT)?;
    ensure!(said.contains(&file.display().to_string()) && said.contains("--config"), "it said:\n{said}");
    Ok(())
}

const LIMIT: Duration = Duration::from_secs(20);

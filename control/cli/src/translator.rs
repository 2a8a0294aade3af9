//! `culvertctl translator`: asks a translator by its own control socket; culvertd need not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use culvert_api::translator;
use serde::Serialize;

use crate::arguments::{Format, Forward, ForwardCommand, Protocol, TranslatorArguments, TranslatorCommand};
use crate::output::Align::Left;
use crate::output::{pairs, table};

#[derive(Serialize)]
struct Found {
    socket: String,
}

/// Asks, and shows the reply.
pub fn run(wish: TranslatorArguments, format: Format) -> Result<String> {
    run_in(wish, format, Path::new(translator::FOLDER))
}

/// `folder` is where translators are looked for.
fn run_in(wish: TranslatorArguments, format: Format, folder: &Path) -> Result<String> {
    let request = match &wish.command {
        TranslatorCommand::List => return list(&find(folder)?, format),
        TranslatorCommand::Forward(ForwardCommand::List) => "forward list".to_owned(),
        TranslatorCommand::Forward(ForwardCommand::Add(forward)) => edit("add", forward),
        TranslatorCommand::Forward(ForwardCommand::Remove(forward)) => edit("remove", forward),
        TranslatorCommand::Flows => "flows".to_owned(),
        TranslatorCommand::Stats => "stats".to_owned(),
    };
    let socket = match &wish.socket {
        Some(path) => translator::control_socket(path),
        None => only(find(folder)?, folder)?,
    };
    let lines = translator::ask(&socket, &request, PATIENCE)?;
    match (wish.command, format.data()) {
        (TranslatorCommand::Stats, _) => statistics(&lines, format),
        (_, Some(data)) => data.text(&lines),
        (_, None) => Ok(lines.into_iter().map(|line| line + "\n").collect()),
    }
}

fn find(folder: &Path) -> Result<Vec<PathBuf>> {
    translator::find(folder).with_context(|| format!("translators cannot be looked for in {}", folder.display()))
}

/// The one that must be meant where none was named.
fn only(mut found: Vec<PathBuf>, folder: &Path) -> Result<PathBuf> {
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => bail!("there is no translator in {}; name its socket with --socket PATH", folder.display()),
        (Some(_), others) => {
            bail!("there are {} translators in {}; name a socket with --socket PATH", others + 1, folder.display())
        }
    }
}

fn edit(verb: &str, Forward { protocol, spec }: &Forward) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("forward {verb} {protocol} {spec}")
}

fn list(found: &[PathBuf], format: Format) -> Result<String> {
    let guest = |path: &PathBuf| {
        let path = path.to_string_lossy();
        path.strip_suffix(translator::SUFFIX).unwrap_or(&path).to_owned()
    };
    let found: Vec<Found> = found.iter().map(|path| Found { socket: guest(path) }).collect();
    match format.data() {
        Some(data) => data.text(&found),
        None => Ok(table(&[("TRANSLATOR", Left)], found.into_iter().map(|found| vec![found.socket]))),
    }
}

/// Names and numbers, as they come; in JSON by name.
fn statistics(lines: &[String], format: Format) -> Result<String> {
    let numbers = || lines.iter().filter_map(|line| line.split_once(' '));
    match format.data() {
        Some(data) => {
            let numbers = numbers().filter_map(|(name, value)| Some((name, value.parse::<u64>().ok()?)));
            data.text(&numbers.collect::<BTreeMap<_, _>>())
        }
        None => Ok(pairs(numbers().map(|(name, value)| (name, value.to_owned())))),
    }
}

/// How long a translator may take for one step.
const PATIENCE: Duration = Duration::from_secs(5);

//! `--watch`: the same question again and again.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::arguments::{
    Arguments, Command, DaemonCommand, ForwardCommand, MigrationCommand, MirrorCommand, NetworkCommand, PodCommand,
    PortCommand, TranslatorCommand, WorkerCommand,
};

/// Ends the program, with the exit code of a wrong command line, if the command is none that only shows something.
pub fn check(command: &Command) {
    if !only_shows(command) {
        let mistake = "--watch is for commands that show something, and for events";
        Arguments::command().error(ErrorKind::ArgumentConflict, mistake).exit();
    }
}

fn only_shows(command: &Command) -> bool {
    use DaemonCommand as Daemon;
    match command {
        Command::Daemon(command) => matches!(
            command,
            Daemon::Status
                | Daemon::Network(NetworkCommand::List | NetworkCommand::Show { .. })
                | Daemon::Port(PortCommand::List | PortCommand::Show { .. })
                | Daemon::Worker(WorkerCommand::List | WorkerCommand::Rebalance { dry_run: true, .. })
                | Daemon::Mirror(MirrorCommand::List | MirrorCommand::Show { .. })
                | Daemon::Pod(PodCommand::List | PodCommand::Show { .. })
                | Daemon::Mac(_)
                | Daemon::Stats { .. }
                | Daemon::Drops { .. }
                | Daemon::Latency(_)
                | Daemon::Events { .. }
                | Daemon::LogLevel { filter: None, reset: false }
        ),
        Command::Migration(command) => matches!(command, MigrationCommand::List | MigrationCommand::Show { .. }),
        Command::Translator(wish) => matches!(
            wish.command,
            TranslatorCommand::List
                | TranslatorCommand::Flows
                | TranslatorCommand::Stats
                | TranslatorCommand::Forward(ForwardCommand::List)
        ),
        Command::Convert(_)
        | Command::Doctor { .. }
        | Command::SupportBundle { .. }
        | Command::Completion { .. }
        | Command::Man { .. } => false,
    }
}

/// Prints an answer once, or again and again until Ctrl-C. On a terminal the new one takes the place of the old one.
///
/// # Errors
/// What `ask` says, or the output cannot be written.
pub async fn show(interval: Option<Duration>, ask: impl AsyncFn() -> Result<String>) -> Result<()> {
    let Some(interval) = interval else {
        return crate::print(&ask().await?);
    };
    let in_place = io::stdout().is_terminal();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let text = ask().await?;
        let mut stdout = io::stdout().lock();
        if in_place {
            stdout.write_all(CLEAR.as_bytes())?;
        }
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        drop(stdout);
        tokio::select! {
            biased;
            interrupted = &mut interrupt => return Ok(interrupted?),
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// Takes the cursor to the top left corner and clears what is behind it (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn what_changes_something_is_not_watched() {
        let shows = |line: &str| {
            only_shows(
                &Arguments::try_parse_from(std::iter::once("culvertctl").chain(line.split(' '))).unwrap().command,
            )
        };
        for line in ["status", "port list --watch", "mac list --watch=0.5", "worker rebalance --dry-run", "log-level"] {
            assert!(shows(line), "{line}");
        }
        for line in ["port del a", "worker rebalance", "log-level debug", "log-level --reset", "reload", "capture a"] {
            assert!(!shows(line), "{line}");
        }
    }
}

//! culvertctl, the command of the person at the node: a thin client of culvertd's control socket, and of translators'.
//!
//! Each file beside this one is a noun of the command line and knows its question, its table and its JSON; [`change`] is
//! what those that change something have in common. [`client`] connects, [`output`] draws tables, [`frame_text`] and
//! [`pcapng`] write frames, [`pcap_file`] reads them.
#![forbid(unsafe_code)]

mod arguments;
mod capture;
mod change;
mod client;
mod drops;
mod frame_text;
mod mac;
mod mirror;
mod network;
mod output;
mod pcap_file;
mod pcapng;
mod pod;
mod port;
mod stats;
mod status;
mod trace;
mod translator;
mod worker;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use culvert_api::translator::AskError;

use arguments::{Arguments, Command, DaemonCommand, MacCommand};
use client::Unreachable;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Err(error) = run(Arguments::parse()).await else { return ExitCode::SUCCESS };
    if is_broken_pipe(&error) {
        // Whoever read our output (`head`, say) has what it wanted.
        return ExitCode::SUCCESS;
    }
    // A refusal may have many lines, one for each mistake.
    for line in format!("{error:#}").lines() {
        // There is nobody left to tell when this fails too.
        let _ = writeln!(std::io::stderr(), "culvertctl: {line}");
    }
    let unreachable = error.is::<Unreachable>() || matches!(error.downcast_ref(), Some(AskError::Unreachable { .. }));
    ExitCode::from(if unreachable { arguments::EXIT_UNREACHABLE } else { arguments::EXIT_FAILED })
}

async fn run(Arguments { control_socket, output, command }: Arguments) -> Result<()> {
    let command = match command {
        Command::Daemon(command) => command,
        // Asked by sockets of their own, whether culvertd runs or not.
        Command::Translator(wish) => return print(&translator::run(wish, output)?),
    };
    let mut client = client::connect(&control_socket).await?;
    let text = match command {
        DaemonCommand::Status => status::show(&mut client, output).await?,
        DaemonCommand::Network(command) => network::run(&mut client, command, output).await?,
        DaemonCommand::Port(command) => port::run(&mut client, command, output).await?,
        DaemonCommand::Worker(command) => worker::run(&mut client, command, output).await?,
        DaemonCommand::Mirror(command) => mirror::run(&mut client, command, output).await?,
        DaemonCommand::Pod(command) => pod::run(&mut client, command, output).await?,
        DaemonCommand::Mac(MacCommand::List { network, port }) => mac::list(&mut client, network, port, output).await?,
        DaemonCommand::Stats { worker: true, .. } => stats::show_workers(&mut client, output).await?,
        DaemonCommand::Stats { port, .. } => stats::show(&mut client, port, output).await?,
        DaemonCommand::Drops { port } => drops::show(&mut client, port, output).await?,
        DaemonCommand::Capture(wish) => return capture::run(&mut client, wish, output).await,
        DaemonCommand::Trace(wish) => return trace::run(&mut client, wish, output).await,
        DaemonCommand::Reload => change::reload(&mut client, output).await?,
    };
    print(&text)
}

fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

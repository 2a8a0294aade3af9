//! culvertctl, the command of the person at the node: a thin client of culvertd's control socket, and of translators'.
//!
//! Each file beside this one is a noun of the command line and knows its question, its table and its JSON; [`change`] is
//! what those that change something have in common. [`client`] connects, [`output`] draws tables, [`frame_text`] and
//! [`pcapng`] write frames, [`pcap_file`] reads them; [`watch`] asks again and again, [`manual`] is the command line for shells and man.
#![forbid(unsafe_code)]

mod arguments;
mod bundle;
mod capture;
mod change;
mod client;
mod colour;
mod convert;
mod doctor;
mod drops;
mod events;
mod frame_text;
mod latency;
mod log_level;
mod mac;
mod manual;
mod migration;
mod mirror;
mod network;
mod output;
mod pcap_file;
mod pcapng;
mod pod;
mod port;
mod redact;
mod stats;
mod status;
mod top;
mod trace;
mod translator;
mod watch;
mod worker;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use culvert_api::translator::AskError;

use arguments::{Arguments, Command, DaemonCommand, Format, MacCommand};
use client::{Client, Unreachable};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let error = match run(Arguments::parse()).await {
        Ok(code) => return code,
        Err(error) => error,
    };
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

async fn run(Arguments { control_socket, output, watch, command }: Arguments) -> Result<ExitCode> {
    if watch.is_some() {
        watch::check(&command);
    }
    let command = match command {
        Command::Daemon(command) => command,
        Command::Completion { shell } => return done(print(&manual::completion(shell))),
        Command::Man { folder } => return done(manual::write(&folder)),
        Command::Migration(command) => {
            let client = client::connect_to_migration(&control_socket).await?;
            let ask = async || migration::run(&mut client.clone(), command.clone(), output).await;
            return done(watch::show(watch, ask).await);
        }
        // Asked by sockets of their own, whether culvertd runs or not.
        Command::Translator(wish) => {
            return done(watch::show(watch, async || translator::run(wish.clone(), output)).await);
        }
        Command::Doctor { config } => {
            let (text, failed) = doctor::run(&config, &control_socket, output).await?;
            print(&text)?;
            return Ok(if failed { ExitCode::from(arguments::EXIT_FAILED) } else { ExitCode::SUCCESS });
        }
        Command::SupportBundle { file, config } => {
            return done(print(&bundle::run(file, &config, &control_socket).await?));
        }
        Command::Convert(wish) => return convert::run(&wish, output),
    };
    let mut client = client::connect(&control_socket).await?;
    match command {
        DaemonCommand::Capture(wish) => done(capture::run(&mut client, wish, output).await),
        DaemonCommand::Trace(wish) => done(trace::run(&mut client, wish, output).await),
        DaemonCommand::Top { interval } => done(top::run(&mut client, interval).await),
        DaemonCommand::Events { port, past } => {
            done(events::run(&mut client, port, past, watch.is_some(), output).await)
        }
        command => {
            let ask = async || answer(&mut client.clone(), command.clone(), output).await;
            done(watch::show(watch, ask).await)
        }
    }
}

/// The whole answer to a question that has one.
async fn answer(client: &mut Client, command: DaemonCommand, output: Format) -> Result<String> {
    match command {
        DaemonCommand::Status => status::show(client, output).await,
        DaemonCommand::Network(command) => network::run(client, command, output).await,
        DaemonCommand::Port(command) => port::run(client, command, output).await,
        DaemonCommand::Worker(command) => worker::run(client, command, output).await,
        DaemonCommand::Mirror(command) => mirror::run(client, command, output).await,
        DaemonCommand::Pod(command) => pod::run(client, command, output).await,
        DaemonCommand::Mac(MacCommand::List { network, port }) => mac::list(client, network, port, output).await,
        DaemonCommand::Stats { worker: true, .. } => stats::show_workers(client, output).await,
        DaemonCommand::Stats { port, .. } => stats::show(client, port, output).await,
        DaemonCommand::Drops { port } => drops::show(client, port, output).await,
        DaemonCommand::Latency(wish) => latency::show(client, wish, output).await,
        DaemonCommand::Reload => change::reload(client, output).await,
        DaemonCommand::LogLevel { filter, reset } => log_level::run(client, filter, reset, output).await,
        DaemonCommand::Events { port, past } => events::past(client, port, past, output).await,
        // Their answers come piece by piece: see `run`.
        DaemonCommand::Capture(_) | DaemonCommand::Trace(_) | DaemonCommand::Top { .. } => Ok(String::new()),
    }
}

fn done(result: Result<()>) -> Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
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

//! culvertctl, the command of the person at the node: a thin client of culvertd's control socket.
//!
//! Each file beside this one is a noun of the command line and knows its question, its table and its JSON;
//! [`client`] connects, [`output`] draws tables, [`frame_text`] and [`pcapng`] write frames.
#![forbid(unsafe_code)]

mod arguments;
mod capture;
mod client;
mod drops;
mod frame_text;
mod mac;
mod network;
mod output;
mod pcapng;
mod port;
mod stats;
mod status;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use arguments::{Arguments, Command, MacCommand, NetworkCommand, PortCommand};
use client::Unreachable;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Err(error) = run(Arguments::parse()).await else { return ExitCode::SUCCESS };
    if is_broken_pipe(&error) {
        // Whoever read our output (`head`, say) has what it wanted.
        return ExitCode::SUCCESS;
    }
    // There is nobody left to tell when this fails too.
    let _ = writeln!(std::io::stderr(), "culvertctl: {error:#}");
    ExitCode::from(if error.is::<Unreachable>() { arguments::EXIT_UNREACHABLE } else { arguments::EXIT_FAILED })
}

async fn run(Arguments { socket, output, command }: Arguments) -> Result<()> {
    let mut client = client::connect(&socket).await?;
    let text = match command {
        Command::Status => status::show(&mut client, output).await?,
        Command::Network(NetworkCommand::List) => network::list(&mut client, output).await?,
        Command::Network(NetworkCommand::Show { network }) => network::show(&mut client, &network, output).await?,
        Command::Port(PortCommand::List) => port::list(&mut client, output).await?,
        Command::Port(PortCommand::Show { port }) => port::show(&mut client, port, output).await?,
        Command::Mac(MacCommand::List { network, port }) => mac::list(&mut client, network, port, output).await?,
        Command::Stats { port } => stats::show(&mut client, port, output).await?,
        Command::Drops { port } => drops::show(&mut client, port, output).await?,
        Command::Capture(wish) => return capture::run(&mut client, wish, output).await,
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

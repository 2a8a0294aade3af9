//! culvert-webhook, the program: options, certificate, server; until a signal ends it.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use culvert_webhook::admission::Webhook;
use culvert_webhook::arguments::{Arguments, EXIT_FAILED};
use culvert_webhook::certificate;
use culvert_webhook::cluster::{Address, Cluster};
use culvert_webhook::server;
use culvert_webhook::sidecar::Sidecars;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-webhook: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let level = &arguments.log_level;
    let filter = EnvFilter::try_new(level)
        .with_context(|| format!("--log-level {level} cannot be read; write error, warn, info, debug or trace"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();

    let policy = arguments.policy();
    let certificate = certificate::read(arguments.certificate, arguments.key)?;
    let address = Address { host: arguments.api_host.trim_matches(['[', ']']).to_owned(), port: arguments.api_port };
    let webhook = Webhook {
        sidecars: Sidecars { bindings: arguments.binding, images: arguments.sidecar_image },
        cluster: Arc::new(Cluster::new(address, arguments.service_account)),
        policy,
    };
    let listener =
        TcpListener::bind(arguments.listen).await.with_context(|| format!("--listen {} fails", arguments.listen))?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?;
    tracing::info!(listen = %listener.local_addr()?, "culvert-webhook is ready");
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server::serve(listener, certificate, webhook, stop).await;
    Ok(())
}

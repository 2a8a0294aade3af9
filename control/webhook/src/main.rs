//! culvert-webhook, the program: options, certificate, server; until a signal ends it.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use culvert_webhook::admission::Webhook;
use culvert_webhook::certificate::Certificate;
use culvert_webhook::cluster::{Address, Cluster};
use culvert_webhook::server;
use culvert_webhook::sidecar::Sidecars;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Gives virt-launcher pods the volumes that Culvert's bindings need.
#[derive(Debug, Parser)]
#[command(name = "culvert-webhook", version, about, after_help = EXIT_CODES)]
struct Arguments {
    /// The address and port to serve HTTPS on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:8443")]
    listen: SocketAddr,

    /// The certificate, with those of its issuers, in PEM; read again when it changes
    #[arg(long, value_name = "FILE", default_value = "/etc/culvert-webhook/tls.crt")]
    certificate: PathBuf,

    /// The certificate's key in PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/culvert-webhook/tls.key")]
    key: PathBuf,

    /// The names of our bindings in KubeVirt's configuration
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "culvert,culvert-translator")]
    binding: Vec<String>,

    /// Images that are culvert-hook, for KubeVirt before 1.9, which does not tell a sidecar its binding; without a
    /// tag: all of its versions
    #[arg(long, value_name = "IMAGE,...", value_delimiter = ',')]
    sidecar_image: Vec<String>,

    /// The API server's name or address
    #[arg(long, value_name = "HOST", env = "KUBERNETES_SERVICE_HOST")]
    api_host: String,

    /// The API server's port
    #[arg(long, value_name = "PORT", env = "KUBERNETES_SERVICE_PORT", default_value_t = 443)]
    api_port: u16,

    /// The folder with the service account's token and ca.crt
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    service_account: PathBuf,

    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

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

    let certificate = Certificate::read(arguments.certificate, arguments.key)?;
    let address = Address { host: arguments.api_host.trim_matches(['[', ']']).to_owned(), port: arguments.api_port };
    let webhook = Webhook {
        sidecars: Sidecars { bindings: arguments.binding, images: arguments.sidecar_image },
        cluster: Arc::new(Cluster::new(address, arguments.service_account)),
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

const EXIT_FAILED: u8 = 1;

const EXIT_CODES: &str = "Exit codes:
   0  stopped by SIGTERM or SIGINT
   1  a file, an address or an option is wrong; the sentence tells
   2  the command line is wrong";

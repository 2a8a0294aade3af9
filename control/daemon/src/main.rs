//! culvertd, the node daemon. The process that is started reads arguments and configuration, and supervises another one, which is
//! the daemon. The daemon's life on one page: log, control socket, DPDK and workers and ports, control server; then it waits
//! for a signal and ends all that in the reverse order.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use culvert_nic::EalError;
use culvertd::arguments::{Arguments, EXIT_CONFIG, EXIT_FAILED};
use culvertd::broker::Broker;
use culvertd::config::{Config, Machine, Mistake, Objects, kept};
use culvertd::isolation::Kind;
use culvertd::listening_socket::{BindError, ListeningSocket, Purpose};
use culvertd::node::Node;
use culvertd::node::live::{LiveNode, Started};
use culvertd::{bugs, isolation, log, process, server, supervisor};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let machine = match Machine::read() {
        Ok(machine) => machine,
        Err(error) => return fail(&anyhow::Error::new(error).context("the kernel does not tell this machine's cores")),
    };
    let broker = match arguments.supervised.then(Broker::from_stdin).transpose() {
        Ok(broker) => broker.map(Arc::new),
        Err(error) => return fail(&anyhow::Error::new(error).context("there is no supervisor")),
    };
    let Loaded { config, stale } = match load(&arguments.config, &machine, broker.as_deref()) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| log::say(&mistake.to_string()));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if arguments.check {
        let Objects { networks, ports, mirrors, pods } = &config.objects;
        let (networks, ports, mirrors, pods) = (networks.len(), ports.len(), mirrors.len(), pods.len());
        println!(
            "{}: no mistakes; networks: {networks}, ports: {ports}, mirrors: {mirrors}, pods: {pods}",
            arguments.config.display()
        );
        return ExitCode::SUCCESS;
    }
    let ended = match broker {
        Some(broker) => run(&arguments, config, stale, machine, broker).map(|()| ExitCode::SUCCESS),
        None => supervise(&arguments, &config),
    };
    ended.unwrap_or_else(|error| fail(&error))
}

/// A configuration without mistakes.
struct Loaded {
    config: Config,
    /// That it is not what the file says now.
    stale: Option<String>,
}

/// Reads the file. A daemon that was started again goes on with what held before, if the file has got mistakes meanwhile.
fn load(path: &Path, machine: &Machine, broker: Option<&Broker>) -> Result<Loaded, Vec<Mistake>> {
    let file = path.display();
    let mistakes = match Config::load_text(path, machine, &Objects::default()) {
        Ok((config, text)) => {
            let kept = broker.map(|broker| kept::keep(broker, &text));
            let stale = kept.and_then(Result::err).map(|error| format!("the text of {file} cannot be kept: {error}"));
            return Ok(Loaded { config, stale });
        }
        Err(mistakes) => mistakes,
    };
    let kept = broker.and_then(|broker| kept::take(broker).ok().flatten());
    let before = kept.and_then(|text| Config::parse(&text, &file.to_string(), machine, &Objects::default()).ok());
    let Some(config) = before else { return Err(mistakes) };
    let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
    let stale =
        format!("{file} has mistakes, what it said before holds: {first}; correct that, then `culvertctl reload`");
    Ok(Loaded { config, stale: Some(stale) })
}

fn supervise(arguments: &Arguments, config: &Config) -> Result<ExitCode> {
    // Before there is another thread.
    isolation::limit_supervisor(config)?;
    let _log = log::start(&arguments.log_level)?;
    // It keeps descriptors for the daemon, which inherits the limit.
    process::raise_file_limit();
    supervisor::run()
}

fn run(
    arguments: &Arguments,
    config: Config,
    stale: Option<String>,
    machine: Machine,
    broker: Arc<Broker>,
) -> Result<()> {
    process::set_name();
    // Before there is another thread, so that all have what follows.
    let isolation = Arc::new(isolation::begin(&config, &arguments.config)?);
    let main_core = process::leave_cores_to_workers(&machine, &config.datapath.worker_cores)?;
    let _log = isolation.confined(Kind::Log, || log::start(&arguments.log_level))??;
    bugs::watch();
    isolation.warnings().for_each(|warning| tracing::warn!("{warning}"));
    if config.datapath.worker_cores.contains(&main_core) {
        tracing::warn!("all cores are worker cores: control takes time from the workers; leave it one core");
    }
    let socket_path = config.daemon.control_socket.clone();
    // The daemon of a supervisor that was killed may be about to end.
    let is_taken = |error: &BindError| error.is_taken();
    let socket = process::patiently(|| ListeningSocket::bind(&socket_path, Purpose::Control), is_taken)?;
    let limits = Arc::clone(&isolation);
    let control =
        server::runtime(move || limits.narrow_here(Kind::Control)).context("the control server cannot start")?;
    // From here on a signal leads to an orderly end, also while ports are still being opened.
    let stop = control.block_on(async { stop_signal() })?;
    let reload = control.block_on(async { signal(SignalKind::hangup()) }).context("SIGHUP cannot be waited for")?;
    broker.ready().context("the supervisor does not answer")?;

    #[cfg(feature = "inject")]
    isolation::probe::run(&isolation);
    let Started { node, threads } = LiveNode::start(config, &arguments.config, machine, main_core, broker, isolation)?;
    if let Some(sentence) = &stale {
        tracing::error!("{sentence}");
    }
    node.set_stale_file(stale);
    let (ports, failed) = node.port_counts();
    tracing::info!(ports, failed, control_socket = %socket_path.display(), "culvertd is ready");

    control.spawn(reload_at(reload, Arc::clone(&node)));
    let served = control.block_on(server::serve(&socket, Arc::clone(&node) as _, server::Limits::default(), stop));
    tracing::info!("culvertd stops");
    // Ends the captures, which know the node.
    drop(control);
    drop(node);
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the node failed; see the log"))?;
    }
    served.context("the control server failed")
}

/// Resolves when culvertd is told to stop.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Reads the configuration file again at each SIGHUP.
async fn reload_at(mut hangup: Signal, node: Arc<LiveNode>) {
    while hangup.recv().await.is_some() {
        let node = Arc::clone(&node);
        match tokio::task::spawn_blocking(move || node.reload()).await {
            Ok(Ok(_)) => tracing::info!("the configuration file was read again"),
            Ok(Err(error)) => error.sentences().iter().for_each(|sentence| tracing::error!("{sentence}")),
            Err(error) => tracing::error!("the configuration file was not read again: {error}"),
        }
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    log::say(&format!("culvertd: {error:#}"));
    // What the configuration asks for and the machine does not have.
    let is_config = matches!(error.downcast_ref(), Some(EalError::Hugepages { .. } | EalError::Pool { .. }));
    ExitCode::from(if is_config { EXIT_CONFIG } else { EXIT_FAILED })
}

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
use culvertd::listening_socket::{ListeningSocket, Purpose};
use culvertd::node::Node;
use culvertd::node::live::{LiveNode, Start, Started};
use culvertd::node::standstill;
use culvertd::server::Access;
use culvertd::{bugs, heartbeat, isolation, log, metrics, migration, process, server, supervisor};
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
    if arguments.migration {
        let Some(wanted) = config.migration.clone() else {
            return fail(&anyhow::anyhow!("the configuration has no section [migration] any more"));
        };
        let ended = migration::run(&config, wanted, &arguments);
        return ended.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS);
    }
    if arguments.metrics {
        let Some(address) = config.daemon.metrics_address else {
            return fail(&anyhow::anyhow!("the configuration has no daemon.metrics_address any more"));
        };
        return metrics::run(&config, address, &arguments).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS);
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
    let _log = log::start(arguments)?;
    // It keeps descriptors for the daemon, which inherits the limit.
    process::raise_file_limit();
    supervisor::run(config, arguments.takeover)
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
    let _log = isolation.confined(Kind::Log, || log::start(arguments))??;
    bugs::watch();
    isolation.warnings().for_each(|warning| tracing::warn!("{warning}"));
    if config.datapath.worker_cores.contains(&main_core) {
        tracing::warn!("all cores are worker cores: control takes time from the workers; leave it one core");
    }
    let socket_path = config.daemon.control_socket.clone();
    let clients = config.daemon.clients.clone();
    // Before the thread may not ask who it is.
    let access = Access::new(&clients);
    let bind = || ListeningSocket::bind_patiently(&socket_path, Purpose::Control, clients.socket_group);
    // One that takes over is handed it.
    let socket = (!arguments.successor).then(bind).transpose()?;
    let limits = Arc::clone(&isolation);
    let control =
        server::runtime(move || limits.narrow_here(Kind::Control)).context("the control server cannot start")?;
    // From here on a signal leads to an orderly end, also while ports are still being opened.
    let stop = control.block_on(async { process::stop_signal() })?;
    let reload = control.block_on(async { signal(SignalKind::hangup()) }).context("SIGHUP cannot be waited for")?;
    let asked =
        control.block_on(async { signal(SignalKind::user_defined1()) }).context("SIGUSR1 cannot be waited for")?;
    broker.ready().context("the supervisor does not answer")?;

    #[cfg(feature = "inject")]
    isolation::probe::run(&isolation);
    let start = match arguments.successor {
        true => Start::TakeOver { hugepages: arguments.hugepages },
        false => Start::Anew,
    };
    let Started { node, threads, control_socket } =
        LiveNode::start(config, &arguments.config, machine, main_core, broker, isolation, start)?;
    let socket = Arc::new(socket.or(control_socket).context("there is no control socket")?);
    if let Some(sentence) = &stale {
        tracing::error!("{sentence}");
    }
    node.set_stale_file(stale);
    let (ports, failed) = node.port_counts();
    tracing::info!(ports, failed, control_socket = %socket_path.display(), "culvertd is ready");

    if let Some(interval) = heartbeat::interval() {
        control.spawn(heartbeat::run(interval, Arc::clone(&node)));
    }
    control.spawn(reload_at(reload, Arc::clone(&node)));
    control.spawn(standstill::attend(asked, Arc::clone(&node), Arc::clone(&socket)));
    let limits = server::Limits::default();
    let served = control.block_on(server::serve(&socket, Arc::clone(&node) as _, limits, access, stop));
    tracing::info!("culvertd stops");
    // Ends the captures, which know the node.
    drop(control);
    drop(node);
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the node failed; see the log"))?;
    }
    served.context("the control server failed")
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

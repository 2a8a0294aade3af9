//! culvert-hook, KubeVirt's binding sidecar. Its life on one page: arguments, sockets that nobody sees yet, servers, the
//! sockets' names; then it waits for virt-launcher's Shutdown or a signal, and ends servers and translators.
#![forbid(unsafe_code)]

mod arguments;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use culvert_hook::hook_socket::{self, HookSocket, Published};
use culvert_hook::mount;
use culvert_hook::pod::Pod;
use culvert_hook::proto::info::info_server::InfoServer;
use culvert_hook::proto::plugins::domain_hook_service_server::DomainHookServiceServer;
use culvert_hook::proto::v1alpha3::callbacks_server::CallbacksServer;
use culvert_hook::service::{Hook, Service};
use culvert_hook::translators::Translators;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.context("the server cannot start").and_then(|runtime| runtime.block_on(run(arguments)));
    if let Err(error) = result {
        eprintln!("culvert-hook: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

async fn run(arguments: Arguments) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log_level)
        .with_context(|| format!("--log-level {:?} is none; say error, warn, info or debug", arguments.log_level))?;
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    log.with_writer(std::io::stderr).with_ansi(colours).init();
    let mut signals = Signals::listen()?;

    let folder = arguments.hook_folder.clone();
    let container = arguments.container_name.clone().filter(|name| !name.is_empty());
    let subfolder = folder.join(SUBFOLDER);
    let hook =
        Arc::new(Hook::new(pod(&arguments, container.as_deref(), &subfolder), Translators::new(arguments.translator)));

    let mut servers = Servers::new();
    let service = Service(Arc::clone(&hook));
    if arguments.plugin_socket.is_none() || folder.is_dir() {
        let path = folder.join(hook_socket::name(&folder, container.as_deref())?);
        let router = Server::builder()
            .add_service(InfoServer::new(service.clone()))
            .add_service(CallbacksServer::new(service.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES));
        servers.start(&path, &subfolder, router)?;
    }
    if let Some(path) = arguments.plugin_socket {
        let subfolder = path.parent().unwrap_or(Path::new("/")).join(SUBFOLDER);
        let service = DomainHookServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        servers.start(&path, &subfolder, Server::builder().add_service(service))?;
    }

    tokio::select! {
        () = hook.ended() => {}
        () = signals.say_to_end(&hook) => tracing::info!("a signal says to end"),
    }
    servers.end().await;
    hook.translators().end().await;
    Ok(())
}

/// What this container is told of its pod.
fn pod(arguments: &Arguments, container: Option<&str>, subfolder: &Path) -> Pod {
    let given = |word: &Option<String>| word.clone().filter(|word| !word.is_empty());
    let in_compute = Path::new(HOOK_FOLDER_IN_COMPUTE);
    // Since KubeVirt 1.6 compute sees each sidecar's folder below its own; before, all have one.
    let below = container.filter(|container| mount::is_own_folder(&arguments.hook_folder, container));
    let in_compute = below.map_or_else(|| in_compute.to_owned(), |container| in_compute.join(container));
    Pod {
        binding_name: given(&arguments.binding_name),
        binding: arguments.binding.map(Into::into),
        pod_interface: given(&arguments.pod_interface),
        declared: given(&arguments.interfaces),
        network_info: arguments.network_info.clone(),
        annotations: arguments.annotations.clone(),
        translator_volume: arguments.translator_folder.clone(),
        hook_subfolder: subfolder.to_owned(),
        hook_subfolder_in_compute: in_compute.join(SUBFOLDER),
    }
}

/// Servers that run, with their sockets' names.
struct Servers {
    stop: watch::Sender<bool>,
    running: Vec<Running>,
}

/// One of them.
struct Running {
    name: Published,
    path: PathBuf,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Servers {
    fn new() -> Self {
        Self { stop: watch::Sender::new(false), running: Vec::new() }
    }

    /// Serves at `path`, which appears once this can be answered.
    fn start(&mut self, path: &Path, subfolder: &Path, router: tonic::transport::server::Router) -> Result<()> {
        let socket = HookSocket::bind(path, subfolder)?;
        let incoming = UnixListenerStream::new(socket.listener()?);
        let mut stop = self.stop.subscribe();
        let stopped = async move {
            // Without a sender there is nobody to serve for.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let server = tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped));
        self.running.push(Running { name: socket.publish()?, path: path.to_owned(), server });
        tracing::info!("serving {}", path.display());
        Ok(())
    }

    /// Answers what was asked, and ends.
    async fn end(self) {
        self.stop.send_replace(true);
        for Running { name, path, server } in self.running {
            match tokio::time::timeout(END_PATIENCE, server).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => tracing::error!("serving {} failed: {error}", path.display()),
                Ok(Err(error)) => tracing::error!("serving {} failed: {error}", path.display()),
                Err(_) => tracing::warn!("a client of {} stayed connected", path.display()),
            }
            drop(name);
        }
    }
}

/// The signals that say to end.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    others: [tokio::signal::unix::Signal; 3],
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be waited for");
        let others = [listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?, listen(SignalKind::quit())?];
        Ok(Self { terminate: listen(SignalKind::terminate())?, others })
    }

    /// Resolves when they do. The kubelet sends SIGTERM to all containers at once, while the guest may still take minutes to
    /// shut down: as long as a translator has a guest, virt-launcher's Shutdown is waited for, or a second SIGTERM.
    async fn say_to_end(&mut self, hook: &Hook) {
        let [interrupt, hangup, quit] = &mut self.others;
        let mut terminated = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = hangup.recv() => return,
                _ = quit.recv() => return,
                _ = self.terminate.recv() => {
                    if terminated || !hook.translators().serve_a_guest().await {
                        return;
                    }
                    tracing::info!("SIGTERM: the translators go on until their guests have ended");
                    terminated = true;
                }
                () = tokio::time::sleep(GUEST_POLL), if terminated => {
                    if !hook.translators().serve_a_guest().await {
                        return;
                    }
                }
            }
        }
    }
}

/// Where the compute container has the hook folder.
const HOOK_FOLDER_IN_COMPUTE: &str = "/var/run/kubevirt-hooks";

/// Our folder below the hook folder: virt-launcher passes over folders.
const SUBFOLDER: &str = "culvert";

/// Longest message that is read, in bytes; a domain and a VMI have limits of their own.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// How long a client may stay connected when all is answered.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether guests have ended.
const GUEST_POLL: Duration = Duration::from_secs(1);

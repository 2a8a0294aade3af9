//! One resource: its socket in kubelet's folder, and its registration with kubelet.
//!
//! Kubelet removes all sockets in its folder and makes its own anew when it starts. So nothing is remembered that could be
//! looked up: each turn compares what is there with what should be, and does what is missing. When nobody has asked for the
//! devices for some time, the resource is registered again, too.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use culvert_api::MAX_REQUEST_BYTES;
use culvert_api::kubelet::RegisterRequest;
use culvert_api::kubelet::device_plugin_server::DevicePluginServer;
use culvert_api::kubelet::registration_client::RegistrationClient;
use rustix::fs::FileType;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use super::folders::Folders;
use super::service::{Service, options};
use super::{Offer, Problems, Times, limits};
use crate::listening_socket::{ListeningSocket, Purpose};
use crate::server::{Access, Connections, builder};

/// A resource that is to be offered.
pub(super) struct Resource {
    kubelet: PathBuf,
    offer: watch::Receiver<Offer>,
    folders: Arc<Folders>,
    problems: Problems,
    times: Times,
    watchers: Arc<AtomicUsize>,
    serving: Option<Serving>,
    registered: Option<Registered>,
    /// How many folders are there.
    prepared: u32,
}

/// A socket that is served. Dropping it removes its name and closes its connections.
struct Serving {
    socket: ListeningSocket,
    server: AbortHandle,
}

/// A registration that kubelet has accepted.
struct Registered {
    with: Identity,
    /// When it was last known to have an effect.
    confirmed: Instant,
}

/// What tells one socket of kubelet's from the next one: device, inode, and when it was made.
type Identity = (u64, u64, i64, u64);

impl Resource {
    pub(super) fn new(
        kubelet: &Path,
        offer: watch::Receiver<Offer>,
        folders: Arc<Folders>,
        problems: Problems,
        times: Times,
    ) -> Self {
        let (watchers, kubelet) = (Arc::default(), kubelet.to_owned());
        Self { kubelet, offer, folders, problems, times, watchers, serving: None, registered: None, prepared: 0 }
    }

    /// Keeps the resource offered until this is dropped. `look` tells of changes in kubelet's folder.
    pub(super) async fn keep(mut self, mut look: watch::Receiver<()>) {
        let network = self.offer.borrow().network.clone();
        let mut failures = 0;
        loop {
            look.mark_unchanged();
            self.offer.mark_unchanged();
            let outcome = self.turn().await;
            let (failed, mut pause) = (outcome.is_err(), self.times.look);
            self.problems.set(network.as_str(), outcome.err());
            if failed {
                // What has failed may have changed the folder itself, and is not repeated for that alone.
                tokio::time::sleep(self.times.retry).await;
                pause = pause.min(self.times.retry.saturating_mul(1 << failures));
                failures = (failures + 1_u32).min(MAX_DOUBLINGS);
            } else {
                failures = 0;
            }
            tokio::select! {
                _ = look.changed() => {}
                _ = self.offer.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does what is missing.
    async fn turn(&mut self) -> Result<(), String> {
        let offer = self.offer.borrow().clone();
        let resource = offer.resource();
        if self.prepared != offer.ports {
            let prepared = self.folders.prepare(&offer.network, offer.ports);
            prepared.map_err(|error| format!("{resource} cannot be offered to kubelet: {error}"))?;
            self.prepared = offer.ports;
        }
        if self.serving.as_ref().is_some_and(|serving| !serving.socket.is_in_place()) {
            // Kubelet has started anew.
            (self.serving, self.registered) = (None, None);
        }
        let kubelet_socket = self.kubelet.join(KUBELET_SOCKET);
        let Some(kubelet) = identity(&kubelet_socket) else {
            (self.serving, self.registered) = (None, None);
            let path = kubelet_socket.display();
            return Err(format!("there is no kubelet: {path} is missing; {resource} is offered once it is there"));
        };
        let file_name = format!("culvert-{}.sock", offer.network);
        if self.serving.is_none() {
            self.serving = Some(self.serve(&file_name)?);
        }
        let watched = self.watchers.load(Ordering::Relaxed) > 0;
        match &mut self.registered {
            Some(registered) if registered.with == kubelet && watched => registered.confirmed = Instant::now(),
            Some(registered) if registered.with == kubelet && registered.confirmed.elapsed() < self.times.interest => {}
            before => {
                let news = !matches!(before, Some(before) if before.with == kubelet);
                register(&kubelet_socket, &file_name, &resource, self.times.patience).await.map_err(|reason| {
                    format!("kubelet does not register {resource}: {reason}; see kubelet's log. It is tried again")
                })?;
                if news {
                    tracing::info!(resource, "registered with kubelet");
                }
                self.registered = Some(Registered { with: kubelet, confirmed: Instant::now() });
            }
        }
        Ok(())
    }

    /// Makes the resource's socket and serves it.
    fn serve(&self, file_name: &str) -> Result<Serving, String> {
        let path = self.kubelet.join(file_name);
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let path = path.display();
            return Err(format!(
                "kubelet cannot connect to {path}: it is longer than {MAX_SOCKET_PATH} bytes; shorten the network's name"
            ));
        }
        let socket = ListeningSocket::bind(&path, Purpose::DevicePlugin, None).map_err(|error| error.to_string())?;
        let service = Service {
            offer: self.offer.clone(),
            folders: Arc::clone(&self.folders),
            watchers: Arc::clone(&self.watchers),
        };
        let connections = Connections::new(&socket, limits(self.times), Access::of_everybody());
        let connections = connections.map_err(|error| format!("{} cannot be served: {error}", path.display()))?;
        let service = DevicePluginServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
        let server = builder(limits(self.times)).add_service(service).serve_with_incoming(connections);
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!("a device plugin socket is not served any more: {error}");
            }
        });
        Ok(Serving { socket, server: server.abort_handle() })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Tells kubelet of the resource, which is served already.
async fn register(socket: &Path, endpoint: &str, resource: &str, patience: Duration) -> Result<(), String> {
    let request = RegisterRequest {
        version: "v1beta1".to_owned(),
        endpoint: endpoint.to_owned(),
        resource_name: resource.to_owned(),
        options: Some(options()),
    };
    let call = async {
        let kubelet =
            Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(|error| error.to_string())?;
        let channel = kubelet.connect().await.map_err(|error| with_causes(&error))?;
        let mut client = RegistrationClient::new(channel).max_decoding_message_size(MAX_REQUEST_BYTES);
        client.register(request).await.map_err(|status| shortened(status.message()))
    };
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Err(format!("it does not answer within {} s", patience.as_secs())),
    }
}

/// An error with what lies beneath it: tonic's own words are "transport error".
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    shortened(&text)
}

/// What another program says, fit for the log.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect()
}

fn identity(path: &Path) -> Option<Identity> {
    let stat = rustix::fs::lstat(path).ok()?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    is_socket.then_some((stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec))
}

/// The name of kubelet's own socket.
const KUBELET_SOCKET: &str = "kubelet.sock";
/// Longest path that an address of a Unix socket holds: kubelet connects by the path.
const MAX_SOCKET_PATH: usize = 107;
/// After so many failures the pauses are at their longest.
const MAX_DOUBLINGS: u32 = 10;
/// How much of what kubelet says is repeated, in characters.
const MAX_SHOWN: usize = 200;

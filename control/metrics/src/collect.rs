//! Asks culvertd how it goes, for all clients together: whoever comes soon after another one gets the same answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use culvert_api::MAX_ANSWER_BYTES;
use culvert_api::socket_address::SocketAddress;
use culvert_api::v1;
use culvert_api::v1::culvert_client::CulvertClient;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::snapshot::{Histogram, Node, Own, Snapshot};
use crate::{exposition, view};

/// Who asks.
#[derive(Debug)]
pub struct Collector {
    socket: Socket,
    state: Mutex<State>,
    /// Connections that clients of ours made, and those that were cut off.
    pub(crate) connections: AtomicU64,
    pub(crate) cut_off: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    last: Option<(Instant, Arc<Moment>)>,
    client: Option<CulvertClient<Channel>>,
    collect: Histogram,
    failures: u64,
}

/// One moment, in the forms in which it is asked for.
#[derive(Debug)]
pub struct Moment {
    /// What culvertd said.
    pub snapshot: Snapshot,
    text: OnceLock<Bytes>,
    json: OnceLock<Bytes>,
}

impl Moment {
    /// As OpenMetrics.
    pub fn text(&self) -> Bytes {
        self.text.get_or_init(|| exposition::text(self.snapshot.clone()).into()).clone()
    }

    /// For the status page.
    pub fn json(&self) -> Bytes {
        self.json.get_or_init(|| view::json(&self.snapshot).into()).clone()
    }
}

impl Collector {
    /// Asks the culvertd whose control socket is at `socket`, which need not be there yet.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: Socket::new(socket),
            state: Mutex::default(),
            connections: AtomicU64::new(0),
            cut_off: AtomicU64::new(0),
        }
    }

    /// How it goes now, or went less than [`FRESH`] ago.
    pub async fn current(&self) -> Arc<Moment> {
        let mut state = self.state.lock().await;
        if let Some((at, moment)) = &state.last
            && at.elapsed() < FRESH
        {
            return Arc::clone(moment);
        }
        let start = Instant::now();
        let answer = timeout(PATIENCE, self.ask(&mut state)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(format!("culvertd did not answer within {PATIENCE:?}; see its log")));
        let (node, problem) = match answer {
            Ok(node) => {
                state.collect.add(start.elapsed().as_secs_f64());
                (Some(node.bounded()), String::new())
            }
            Err(problem) => {
                // The next one begins with a connection of its own.
                state.client = None;
                state.failures = state.failures.saturating_add(1);
                (None, problem)
            }
        };
        let own = Own {
            collect: state.collect.clone(),
            failures: state.failures,
            connections: self.connections.load(Ordering::Relaxed),
            cut_off: self.cut_off.load(Ordering::Relaxed),
        };
        let snapshot = Snapshot { node, problem, own };
        let moment = Arc::new(Moment { snapshot, text: OnceLock::new(), json: OnceLock::new() });
        state.last = Some((Instant::now(), Arc::clone(&moment)));
        moment
    }

    async fn ask(&self, state: &mut State) -> Result<Node, String> {
        let mut client = match state.client.take() {
            Some(client) => client,
            None => self.socket.connect().await?,
        };
        let node = questions(&mut client).await.map_err(|status| {
            format!("culvertd does not answer at {}: {}; see its log", self.socket.path.display(), status.message())
        })?;
        state.client = Some(client);
        Ok(node)
    }
}

async fn questions(client: &mut CulvertClient<Channel>) -> Result<Node, Status> {
    let status = client.get_status(v1::GetStatusRequest {}).await?.into_inner();
    let networks = client.list_networks(v1::ListNetworksRequest {}).await?.into_inner().networks;
    let ports = client.list_ports(v1::ListPortsRequest::default()).await?.into_inner().ports;
    let stats = client.get_stats(v1::GetStatsRequest::default()).await?.into_inner().ports;
    let drops = client.list_drops(v1::ListDropsRequest::default()).await?.into_inner().drops;
    let workers = client.list_workers(v1::ListWorkersRequest {}).await?.into_inner().workers;
    let pods = client.list_pods(v1::ListPodsRequest {}).await?.into_inner().pods;
    Ok(Node { status, networks, ports, stats, drops, workers, pods, ..Node::default() })
}

/// culvertd's control socket.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    /// None: its folder could not be opened.
    address: Option<SocketAddress>,
}

impl Socket {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), address: SocketAddress::new(path).ok() }
    }

    async fn connect(&self) -> Result<CulvertClient<Channel>, String> {
        let path = self.address.as_ref().map_or(&*self.path, SocketAddress::path).to_owned();
        let connect = move |_| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        };
        let endpoint = Endpoint::from_static("http://culvertd").timeout(PATIENCE);
        let channel = endpoint.connect_with_connector(tower::service_fn(connect)).await;
        let channel = channel.map_err(|_| {
            format!("nobody answers at {}: culvertd starts, has ended, or hangs; see its log", self.path.display())
        })?;
        Ok(CulvertClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }
}

/// How old an answer may be.
pub const FRESH: Duration = Duration::from_millis(500);
/// How long culvertd may take for all questions: translators alone may take 2 s of it.
const PATIENCE: Duration = Duration::from_secs(4);

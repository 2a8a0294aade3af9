//! The methods of `culvert.v1`: each checks its request, asks the [`Node`] and answers. Nothing is kept here.
//!
//! The node is asked on a thread that may wait: a worker that does not answer holds up those who ask, not the server.
//! Changes may take long. They wait for each other before they take such a thread, so that questions find one.

use std::ops::RangeInclusive;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use culvert_api::v1;
use culvert_api::v1::culvert_server::Culvert;
use culvert_frame::MAX_FRAME_BYTES;
use tokio::sync::{Semaphore, broadcast};
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream, errors::BroadcastStreamRecvError};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::change::Refusal;
use crate::config::Kind;
use crate::log;
use crate::name::Name;
use crate::node::{CaptureError, ChangeError, MeasureError, Node};
use crate::request;
use crate::server::{Role, refusal as not_permitted};
use crate::translators::Asker;

/// The service on one node.
pub struct Service {
    node: Arc<dyn Node>,
    /// Held by the change that is under way.
    changing: Arc<Semaphore>,
    translators: Asker,
}

impl Service {
    /// Serves what `node` knows.
    pub fn new(node: Arc<dyn Node>) -> Self {
        Self { node, changing: Arc::new(Semaphore::new(1)), translators: Asker::default() }
    }

    /// Asks the node on a thread of its own.
    async fn ask<T, Q>(&self, question: Q) -> Result<T, Status>
    where
        T: Send + 'static,
        Q: FnOnce(&dyn Node) -> Result<T, Status> + Send + 'static,
    {
        let node = Arc::clone(&self.node);
        let answer = tokio::task::spawn_blocking(move || question(node.as_ref())).await;
        answer.unwrap_or_else(|_| Err(Status::internal("culvertd failed over this question; see its log")))
    }

    /// Asks the node for a change. It goes on when the client has gone.
    async fn change<T, Q>(&self, change: Q) -> Result<Response<T>, Status>
    where
        T: Send + 'static,
        Q: FnOnce(&dyn Node) -> Result<T, ChangeError> + Send + 'static,
    {
        let turn = Arc::clone(&self.changing).acquire_owned().await;
        self.ask(move |node| {
            let _turn = turn;
            change(node).map(Response::new).map_err(|error| refusal(&error))
        })
        .await
    }
}

fn refusal(error: &ChangeError) -> Status {
    let code = match error {
        ChangeError::Refused(Refusal::Mistakes(_)) => Code::InvalidArgument,
        ChangeError::Refused(Refusal::Exists(_)) => Code::AlreadyExists,
        ChangeError::Refused(Refusal::Missing(_)) => Code::NotFound,
        ChangeError::Refused(Refusal::NotNow(_)) => Code::FailedPrecondition,
        ChangeError::Refused(Refusal::TooMany(_)) => Code::ResourceExhausted,
        ChangeError::NotKept(_) | ChangeError::NotDone(_) => Code::Unavailable,
    };
    // The message travels in an HTTP header, whose size is limited.
    let mut sentences = error.sentences();
    let more = sentences.len().saturating_sub(MAX_SENTENCES);
    sentences.truncate(MAX_SENTENCES);
    if more > 0 {
        sentences.push(format!("and {more} more; `culvertd --check --config FILE` tells all mistakes in a file"));
    }
    let message = sentences.join("\n");
    match error {
        ChangeError::Refused(Refusal::Mistakes(mistakes)) => {
            let fields = mistakes.iter().filter(|mistake| !mistake.key.is_empty()).take(MAX_FIELDS).map(|mistake| {
                let description = format!("{}; {}", mistake.problem, mistake.remedy);
                FieldViolation::new(mistake.key.as_str(), description)
            });
            Status::with_error_details(code, message, ErrorDetails::with_bad_request(fields.collect::<Vec<_>>()))
        }
        _ => Status::new(code, message),
    }
}

/// Checks a request's `port`: empty, or the name of a port that exists.
fn check_port(node: &dyn Node, port: &str) -> Result<(), Status> {
    if port.is_empty() {
        return Ok(());
    }
    Name::parse(port).map_err(|problem| Status::invalid_argument(format!("port {port:?} is {problem}")))?;
    if node.ports().iter().any(|known| known.name == port) {
        return Ok(());
    }
    Err(Status::not_found(format!("there is no port {port}; `culvertctl port list` shows the ports")))
}

/// Checks a request's `network`: empty, or the name of a network that exists.
fn check_network(node: &dyn Node, network: &str) -> Result<(), Status> {
    if network.is_empty() {
        return Ok(());
    }
    Name::parse(network).map_err(|problem| Status::invalid_argument(format!("network {network:?} is {problem}")))?;
    if node.networks().iter().any(|known| known.name == network) {
        return Ok(());
    }
    Err(Status::not_found(format!("there is no network {network}; `culvertctl network list` shows the networks")))
}

/// Whether `value` is meant by a request's filter, which is empty for all.
fn is_meant(filter: &str, value: &str) -> bool {
    filter.is_empty() || filter == value
}

#[tonic::async_trait]
impl Culvert for Service {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let translators = self.translators.clone();
        self.ask(move |node| {
            let translators = translators.read(Path::new(culvert_api::translator::FOLDER), &node.pods());
            Ok(Response::new(v1::GetStatusResponse { translators, ..node.status() }))
        })
        .await
    }

    async fn list_networks(
        &self,
        _: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        self.ask(|node| Ok(Response::new(v1::ListNetworksResponse { networks: node.networks() }))).await
    }

    async fn list_ports(
        &self,
        request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsResponse>, Status> {
        let port = request.into_inner().port;
        self.ask(move |node| {
            check_port(node, &port)?;
            let mut ports = node.ports();
            ports.retain(|known| is_meant(&port, &known.name));
            Ok(Response::new(v1::ListPortsResponse { ports }))
        })
        .await
    }

    async fn list_macs(&self, request: Request<v1::ListMacsRequest>) -> Result<Response<v1::ListMacsResponse>, Status> {
        let v1::ListMacsRequest { network, port } = request.into_inner();
        self.ask(move |node| {
            check_network(node, &network)?;
            check_port(node, &port)?;
            let mut macs = node.macs();
            macs.retain(|mac| is_meant(&network, &mac.network) && is_meant(&port, &mac.port));
            Ok(Response::new(v1::ListMacsResponse { macs }))
        })
        .await
    }

    async fn get_stats(&self, request: Request<v1::GetStatsRequest>) -> Result<Response<v1::GetStatsResponse>, Status> {
        let port = request.into_inner().port;
        self.ask(move |node| {
            check_port(node, &port)?;
            let mut ports = node.stats();
            ports.retain(|stats| is_meant(&port, &stats.port));
            Ok(Response::new(v1::GetStatsResponse { ports }))
        })
        .await
    }

    async fn list_drops(
        &self,
        request: Request<v1::ListDropsRequest>,
    ) -> Result<Response<v1::ListDropsResponse>, Status> {
        let port = request.into_inner().port;
        self.ask(move |node| {
            check_port(node, &port)?;
            let mut drops = node.drops();
            drops.retain(|drop| is_meant(&port, &drop.port));
            Ok(Response::new(v1::ListDropsResponse { drops }))
        })
        .await
    }

    type CaptureStream = Pin<Box<dyn Stream<Item = Result<v1::CaptureResponse, Status>> + Send>>;

    async fn capture(&self, request: Request<v1::CaptureRequest>) -> Result<Response<Self::CaptureStream>, Status> {
        let request = request.into_inner();
        let what = match (request.port.as_str(), request.network.as_str()) {
            ("", "") => return Err(Status::invalid_argument("port is empty; name the port or network to capture")),
            (port, "") => format!("port {port}"),
            ("", network) => format!("network {network}"),
            _ => return Err(Status::invalid_argument("port and network are both named; name one of them")),
        };
        let frames = self.ask(move |node| {
            check_port(node, &request.port)?;
            check_network(node, &request.network)?;
            node.capture(&request).map_err(|error| {
                let message = format!("{what} cannot be captured: {error}");
                match error {
                    CaptureError::Filter(problem) => Status::invalid_argument(format!("filter {problem}")),
                    CaptureError::PortNotOpen | CaptureError::Datapath(_) => Status::unavailable(message),
                    CaptureError::TooMany { .. } => Status::resource_exhausted(message),
                }
            })
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames.await?).map(Ok))))
    }

    type MeasureLatencyStream = Pin<Box<dyn Stream<Item = Result<v1::MeasureLatencyResponse, Status>> + Send>>;

    async fn measure_latency(
        &self,
        request: Request<v1::MeasureLatencyRequest>,
    ) -> Result<Response<Self::MeasureLatencyStream>, Status> {
        let v1::MeasureLatencyRequest { port, interval_ms } = request.into_inner();
        if port.is_empty() {
            return Err(Status::invalid_argument("port is empty; name the port to measure"));
        }
        let interval_ms = if interval_ms == 0 { 1000 } else { interval_ms };
        if !INTERVALS_MS.contains(&interval_ms) {
            return Err(Status::invalid_argument("interval_ms is out of range; it may be 100 to 60000, or 0 for 1000"));
        }
        let times = self.ask(move |node| {
            check_port(node, &port)?;
            node.measure_latency(&port, Duration::from_millis(interval_ms.into())).map_err(|error| {
                let message = format!("port {port} cannot be measured: {error}");
                match error {
                    MeasureError::PortNotOpen | MeasureError::Datapath(_) => Status::unavailable(message),
                    MeasureError::TooMany { .. } => Status::resource_exhausted(message),
                }
            })
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(times.await?).map(Ok))))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        self.ask(|node| Ok(Response::new(v1::ListWorkersResponse { workers: node.workers() }))).await
    }

    async fn rebalance(
        &self,
        request: Request<v1::RebalanceRequest>,
    ) -> Result<Response<v1::RebalanceResponse>, Status> {
        let role = request.extensions().get::<Role>().copied();
        let v1::RebalanceRequest { dry_run, least_improvement } = request.into_inner();
        let least = least_improvement.map(|percent| {
            let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
            percent.ok_or_else(|| {
                Status::invalid_argument("least_improvement is out of range; it may be 0 to 100 percent")
            })
        });
        let least = least.transpose()?;
        if dry_run {
            let answer = move |node: &dyn Node| node.rebalance(least, true).map_err(|error| refusal(&error));
            return self.ask(answer).await.map(Response::new);
        }
        if role != Some(Role::Admin) {
            return Err(not_permitted("Rebalance without dry_run"));
        }
        self.change(move |node| node.rebalance(least, false)).await
    }

    async fn list_mirrors(
        &self,
        _: Request<v1::ListMirrorsRequest>,
    ) -> Result<Response<v1::ListMirrorsResponse>, Status> {
        self.ask(|node| Ok(Response::new(v1::ListMirrorsResponse { mirrors: node.mirrors() }))).await
    }

    async fn add_network(
        &self,
        request: Request<v1::AddNetworkRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let v1::AddNetworkRequest { name, network } = request.into_inner();
        let change = request::add(Kind::Network, name, request::network(network));
        self.change(move |node| node.change(&change)).await
    }

    async fn set_network(
        &self,
        request: Request<v1::SetNetworkRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let v1::SetNetworkRequest { name, network, unset } = request.into_inner();
        let change = request::set(Kind::Network, name, request::network(network), unset);
        self.change(move |node| node.change(&change)).await
    }

    async fn remove_network(
        &self,
        request: Request<v1::RemoveRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let change = request::remove(Kind::Network, request.into_inner());
        self.change(move |node| node.change(&change)).await
    }

    async fn add_port(&self, request: Request<v1::AddPortRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let v1::AddPortRequest { name, port } = request.into_inner();
        let change = request::add(Kind::Port, name, request::port(port));
        self.change(move |node| node.change(&change)).await
    }

    async fn set_port(&self, request: Request<v1::SetPortRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let v1::SetPortRequest { name, port, unset } = request.into_inner();
        let change = request::set(Kind::Port, name, request::port(port), unset);
        self.change(move |node| node.change(&change)).await
    }

    async fn remove_port(&self, request: Request<v1::RemoveRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let change = request::remove(Kind::Port, request.into_inner());
        self.change(move |node| node.change(&change)).await
    }

    async fn add_mirror(&self, request: Request<v1::AddMirrorRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let v1::AddMirrorRequest { name, mirror } = request.into_inner();
        let change = request::add(Kind::Mirror, name, request::mirror(mirror));
        self.change(move |node| node.change(&change)).await
    }

    async fn remove_mirror(&self, request: Request<v1::RemoveRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let change = request::remove(Kind::Mirror, request.into_inner());
        self.change(move |node| node.change(&change)).await
    }

    async fn list_pods(&self, _: Request<v1::ListPodsRequest>) -> Result<Response<v1::ListPodsResponse>, Status> {
        self.ask(|node| Ok(Response::new(v1::ListPodsResponse { pods: node.pods() }))).await
    }

    async fn add_pod(&self, request: Request<v1::AddPodRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let v1::AddPodRequest { name, pod } = request.into_inner();
        let change = request::add(Kind::Pod, name, request::pod(pod));
        self.change(move |node| node.change(&change)).await
    }

    async fn remove_pod(&self, request: Request<v1::RemoveRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let change = request::remove(Kind::Pod, request.into_inner());
        self.change(move |node| node.change(&change)).await
    }

    async fn reload(&self, _: Request<v1::ReloadRequest>) -> Result<Response<v1::ReloadResponse>, Status> {
        self.change(|node| node.reload()).await
    }

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<v1::TraceResponse>, Status> {
        let request = request.into_inner();
        if request.port.is_empty() {
            return Err(Status::invalid_argument("port is empty; name the port that the frame comes from"));
        }
        let most = usize::try_from(MAX_FRAME_BYTES).unwrap_or(usize::MAX);
        if request.frame.len() > most {
            let length = request.frame.len();
            return Err(Status::invalid_argument(format!("the frame has {length} bytes; at most {most} can pass")));
        }
        self.ask(move |node| {
            check_port(node, &request.port)?;
            let closed = || {
                let state = "it is not open; see the reason in `culvertctl port show`";
                Status::unavailable(format!("port {} cannot be traced: {state}", request.port))
            };
            node.trace(&request).map(Response::new).ok_or_else(closed)
        })
        .await
    }

    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEventsResponse, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let v1::WatchEventsRequest { port, past, follow } = request.into_inner();
        if !port.is_empty() {
            Name::parse(&port).map_err(|problem| Status::invalid_argument(format!("port {port:?} is {problem}")))?;
        }
        let past = usize::try_from(past).unwrap_or(usize::MAX);
        let (events, following) = self.node.events().watch(&port, past);
        let past = tokio_stream::iter((!events.is_empty()).then_some(Ok(v1::WatchEventsResponse { events, lost: 0 })));
        if follow {
            Ok(Response::new(Box::pin(past.chain(follow_events(port, following)))))
        } else {
            Ok(Response::new(Box::pin(past)))
        }
    }

    async fn get_log_level(
        &self,
        _: Request<v1::GetLogLevelRequest>,
    ) -> Result<Response<v1::LogLevelResponse>, Status> {
        let (filter, at_start) = log::level().ok_or_else(|| Status::unavailable("this culvertd has no log"))?;
        Ok(Response::new(v1::LogLevelResponse { filter, at_start }))
    }

    async fn set_log_level(
        &self,
        request: Request<v1::SetLogLevelRequest>,
    ) -> Result<Response<v1::LogLevelResponse>, Status> {
        let filter = log::set_level(&request.into_inner().filter)
            .map_err(|problem| Status::invalid_argument(format!("filter {problem}")))?;
        tracing::info!("the log has {filter} from here on");
        self.node.events().tell(v1::EventKind::LogLevel, "", format!("the log has {filter} from here on"));
        let at_start = log::level().map(|(_, at_start)| at_start).unwrap_or_default();
        Ok(Response::new(v1::LogLevelResponse { filter, at_start }))
    }
}

/// New events of a port, or of all if it is empty, as messages.
fn follow_events(
    port: String,
    events: broadcast::Receiver<v1::Event>,
) -> impl Stream<Item = Result<v1::WatchEventsResponse, Status>> {
    BroadcastStream::new(events).filter_map(move |event| match event {
        Ok(event) if is_meant(&port, &event.port) => Some(Ok(v1::WatchEventsResponse { events: vec![event], lost: 0 })),
        Ok(_) => None,
        Err(BroadcastStreamRecvError::Lagged(lost)) => Some(Ok(v1::WatchEventsResponse { events: Vec::new(), lost })),
    })
}

/// From one answer about latency to the next.
const INTERVALS_MS: RangeInclusive<u32> = 100..=60_000;
/// Mistakes that one answer tells at most.
const MAX_SENTENCES: usize = 32;
/// Fields in its details: they travel in a header, as the message does.
const MAX_FIELDS: usize = 8;

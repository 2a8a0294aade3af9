//! HTTP/1.1 on the metrics address. Whoever reaches it may look, and nothing more; and may be anybody.
//!
//! | what a client does | what happens |
//! |---|---|
//! | connects and sends nothing, or a head piece by piece | closed after [`Limits::head`] |
//! | sends a head of more than 16 KiB or 64 lines | refused |
//! | asks with another method than GET and HEAD, or for something else | refused; what it sends besides is not read |
//! | does not read what it asked for, or keeps its connection | closed after [`Limits::connection`] |
//! | comes when [`Limits::connections`] are open | the one that has been open longest is closed for it |
//! | asks again and again | answered from one answer of culvertd's for half a second |

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_api::v1;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::collect::Collector;
use crate::exposition;
use crate::page::{self, Page};
use crate::snapshot::Snapshot;

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// How long a request's head may take, and a connection may be idle.
    pub head: Duration,
    /// How long a connection may last. What is being answered then gets as long again as a head may take.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, head: Duration::from_secs(5), connection: Duration::from_secs(20) }
    }
}

/// Serves what `collector` knows until `stop` resolves.
pub async fn serve(listener: TcpListener, collector: Collector, limits: Limits, stop: impl Future<Output = ()>) {
    let shared = Arc::new(Shared { collector, page: Page::new() });
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    let mut tasks = JoinSet::new();
    let mut stop = pin!(stop);
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            Some(_) = tasks.join_next() => {
                open.retain(|task| !task.is_finished());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !is_failing {
                    tracing::warn!("connections for metrics cannot be accepted: {error}; it is tried again");
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        is_failing = false;
        shared.collector.connections.fetch_add(1, Ordering::Relaxed);
        if open.len() >= limits.connections
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            shared.collector.cut_off.fetch_add(1, Ordering::Relaxed);
        }
        open.push_back(tasks.spawn(connection(stream, Arc::clone(&shared), limits)));
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    collector: Collector,
    page: Page,
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, limits: Limits) {
    // Answers are written at once.
    let _ = stream.set_nodelay(true);
    let answering = Arc::clone(&shared);
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&answering);
        async move { Ok::<_, Infallible>(shared.answer(&request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEAD_LINES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    if timeout(limits.connection, served.as_mut()).await.is_ok() {
        return;
    }
    served.as_mut().graceful_shutdown();
    if timeout(limits.head, served).await.is_err() {
        shared.collector.cut_off.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match request.uri().path() {
            "/metrics" => with(self.collector.current().await.text(), exposition::CONTENT_TYPE),
            "/healthz" => health(&self.collector.current().await.snapshot),
            "/readyz" => readiness(&self.collector.current().await.snapshot),
            "/api/node.json" => with(self.collector.current().await.json(), "application/json"),
            "/" => self.page(),
            _ => text(StatusCode::NOT_FOUND, "there are /, /metrics, /healthz, /readyz and /api/node.json\n"),
        }
    }

    fn page(&self) -> Response<Full<Bytes>> {
        let mut response = with(page::html(), "text/html; charset=utf-8");
        if let Ok(policy) = HeaderValue::from_str(self.page.policy()) {
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
}

/// Whether the daemon answers.
fn health(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    match &snapshot.node {
        Some(_) => text(StatusCode::OK, "ok\n"),
        None => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", snapshot.problem)),
    }
}

/// Whether all ports were opened, or shown to be impossible to open.
fn readiness(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    let Some(node) = &snapshot.node else { return health(snapshot) };
    let is_opening = |port: &&v1::Port| port.state() == v1::PortState::Down && port.reason == OPENING;
    match node.ports.iter().find(is_opening) {
        None => text(StatusCode::OK, "ok\n"),
        Some(port) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}: {OPENING}; wait\n", port.name)),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = with(body.into(), "text/plain; charset=utf-8");
    *response.status_mut() = status;
    response
}

fn with(body: Bytes, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Listens at an address.
///
/// # Errors
/// The kernel's.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// What culvertd says of a port that is being opened.
const OPENING: &str = "the port is being opened";
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEAD_LINES: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

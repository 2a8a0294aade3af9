//! The gRPC server on the control socket, and the limits that keep one bad client from harming others.
//!
//! | what a client does | what happens |
//! |---|---|
//! | connects and sends nothing, or part of the HTTP/2 preface | closed after [`Limits::patience`] |
//! | stops in the middle, never reads | its pings go unanswered: closed after twice [`Limits::patience`] |
//! | sends a request piece by piece | the request ends after [`Limits::patience`] |
//! | sends more than 64 KiB | refused with its size |
//! | sends many requests at once | [`REQUESTS_PER_CONNECTION`] are served, the others wait |
//! | may only ask, and wants more | refused: [`Access`] |
//! | connects too often | the connections beyond [`Limits::connections`] are closed at once, and those of one process beyond [`Limits::of_one_process`] |
//!
//! What the node lacks is not made worse: where no descriptor is left, a reserve lets one client in who may change that
//! (`reserve`), and the threads that answer questions are there from the start ([`runtime`]).

mod access;
mod places;
mod reserve;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use culvert_api::MAX_REQUEST_BYTES;
use culvert_api::v1::culvert_server::CulvertServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::{Connected, Router, Server};

use crate::listening_socket::ListeningSocket;
use crate::node::Node;
use crate::service::Service;
pub use access::Access;
pub(crate) use access::{Guarded, Role, refusal};
use places::{Place, Places};
use reserve::Reserve;

/// What clients may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a client may take for one step: to say hello, to send a request, to answer a ping.
    pub patience: Duration,
    /// Connections at a time.
    pub connections: usize,
    /// Connections of one process at a time, so that none keeps the others away.
    pub of_one_process: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { patience: Duration::from_secs(5), connections: 128, of_one_process: 32 }
    }
}

/// Requests that one connection may have under way.
pub const REQUESTS_PER_CONNECTION: u32 = 16;

/// How long clients may take to finish when culvertd stops.
const FAREWELL: Duration = Duration::from_millis(500);

/// The runtime of the control server. The threads on which questions are answered are started here and stay: a question must not
/// depend on the kernel's having a thread to give.
/// Each begins with `on_start`.
///
/// # Errors
/// The kernel's.
pub fn runtime(on_start: impl Fn() + Send + Sync + 'static) -> io::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_QUESTIONS)
        .thread_keep_alive(FOR_EVER)
        .on_thread_start(on_start)
        .build()?;
    // Each waits for the others, so that none of them takes two of the questions.
    let started = Arc::new((Mutex::new(0_usize), Condvar::new()));
    for _ in 0..MAX_QUESTIONS {
        let started = Arc::clone(&started);
        runtime.spawn_blocking(move || {
            let (count, changed) = &*started;
            let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
            *count = count.saturating_add(1);
            changed.notify_all();
            drop(changed.wait_timeout_while(count, START, |count| *count < MAX_QUESTIONS));
        });
    }
    Ok(runtime)
}

/// Serves `node` on `socket` until `stop` resolves. Must be called within a tokio runtime.
///
/// # Errors
/// The kernel's, when the socket cannot be used.
pub async fn serve(
    socket: &ListeningSocket,
    node: Arc<dyn Node>,
    limits: Limits,
    access: Access,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let service = CulvertServer::new(Service::new(node)).max_decoding_message_size(MAX_REQUEST_BYTES);
    serve_router(socket, builder(limits).add_service(Guarded(service)), limits, access, stop).await
}

/// Serves what `router` has, which [`builder`] made.
///
/// # Errors
/// As [`serve`].
pub(crate) async fn serve_router(
    socket: &ListeningSocket,
    router: Router,
    limits: Limits,
    access: Access,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let connections = Connections::new(socket, limits, access)?;
    let (stopped, stopping) = tokio::sync::oneshot::channel::<()>();
    let serving = router.serve_with_incoming_shutdown(connections, async {
        // An error means that `stopped` is gone: the same thing.
        let _ = stopping.await;
    });
    let mut serving = Box::pin(serving);
    tokio::select! {
        result = &mut serving => return result.map_err(io::Error::other),
        () = stop => drop(stopped),
    }
    // Captures may never end by themselves.
    match tokio::time::timeout(FAREWELL, serving).await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

/// A server that keeps the limits; its services are still to be added.
pub(crate) fn builder(limits: Limits) -> Server {
    Server::builder()
        .timeout(limits.patience)
        .http2_keepalive_interval(Some(limits.patience))
        .http2_keepalive_timeout(Some(limits.patience))
        .max_concurrent_streams(REQUESTS_PER_CONNECTION)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
}

/// The connections that come in on a socket, within the limits.
pub(crate) struct Connections {
    listener: UnixListener,
    places: Arc<Places>,
    reserve: Reserve,
    patience: Duration,
    access: Access,
    /// Runs after a failed accept, so that it is not repeated without a pause.
    retry: Option<Pin<Box<Sleep>>>,
    /// Whether the last accept failed: the log has that once.
    failing: bool,
}

impl Connections {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel's, when the socket cannot be used.
    pub(crate) fn new(socket: &ListeningSocket, limits: Limits, access: Access) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::from_std(socket.listener()?)?,
            places: Arc::new(Places::new(limits)),
            reserve: Reserve::new()?,
            patience: limits.patience,
            access,
            retry: None,
            failing: false,
        })
    }

    /// Whether to try again at once, after an accept has failed.
    fn failed(&mut self, error: &io::Error) -> bool {
        if !self.failing {
            tracing::warn!("connections cannot be accepted: {error}; it is tried again, see `ulimit -n`");
            self.failing = true;
        }
        self.reserve.give_up(error)
    }
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(retry) = &mut self.retry {
                ready!(retry.as_mut().poll(context));
                self.retry = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => {
                    // Others may have got what was given up, and may have given back more.
                    self.failing &= !self.reserve.refill();
                    // Without a place the stream is dropped here: the client sees the end at once and need not wait.
                    if let Some(place) = self.places.take(&stream) {
                        let role = self.access.role(&stream);
                        return Poll::Ready(Some(Ok(Connection::new(stream, place, role, self.patience))));
                    }
                }
                Err(error) => {
                    if !self.failed(&error) {
                        self.retry = Some(Box::pin(tokio::time::sleep(ACCEPT_RETRY)));
                    }
                }
            }
        }
    }
}

/// One client's connection. It must start with the HTTP/2 preface (RFC 9113, 3.4) within a time; what comes after
/// that is watched by pings.
pub(crate) struct Connection {
    stream: UnixStream,
    _place: Place,
    role: Role,
    /// Until when the preface must be here; `None` once it is.
    deadline: Option<Pin<Box<Sleep>>>,
    received: usize,
}

impl Connection {
    fn new(stream: UnixStream, place: Place, role: Role, patience: Duration) -> Self {
        Self { stream, _place: place, role, deadline: Some(Box::pin(tokio::time::sleep(patience))), received: 0 }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.received = self.received.saturating_add(buffer.filled().len().saturating_sub(before));
        if self.received >= PREFACE_BYTES {
            self.deadline = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = Role;

    fn connect_info(&self) -> Role {
        self.role
    }
}

const PREFACE_BYTES: usize = 24;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Questions of clients that are answered at a time.
const MAX_QUESTIONS: usize = 8;
/// How long the threads for them may take to start.
const START: Duration = Duration::from_secs(1);
/// A year.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

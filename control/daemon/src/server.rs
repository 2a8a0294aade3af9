//! The gRPC server on the control socket, and the limits that keep one bad client from harming others.
//!
//! | what a client does | what happens |
//! |---|---|
//! | connects and sends nothing, or part of the HTTP/2 preface | closed after [`Limits::patience`] |
//! | stops in the middle, never reads | its pings go unanswered: closed after twice [`Limits::patience`] |
//! | sends a request piece by piece | the request ends after [`Limits::patience`] |
//! | sends more than 64 KiB | refused with its size |
//! | sends many requests at once | [`REQUESTS_PER_CONNECTION`] are served, the others wait |
//! | connects too often | the connections beyond [`Limits::connections`] are closed at once |

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use culvert_api::MAX_REQUEST_BYTES;
use culvert_api::v1::culvert_server::CulvertServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::{Connected, Server, UdsConnectInfo};

use crate::listening_socket::ListeningSocket;
use crate::node::Node;
use crate::service::Service;

/// What clients may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a client may take for one step: to say hello, to send a request, to answer a ping.
    pub patience: Duration,
    /// Connections at a time.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { patience: Duration::from_secs(5), connections: 128 }
    }
}

/// Requests that one connection may have under way.
pub const REQUESTS_PER_CONNECTION: u32 = 16;

/// How long clients may take to finish when culvertd stops.
const FAREWELL: Duration = Duration::from_millis(500);

/// Serves `node` on `socket` until `stop` resolves. Must be called within a tokio runtime.
///
/// # Errors
/// The kernel's, when the socket cannot be used.
pub async fn serve(
    socket: &ListeningSocket,
    node: Arc<dyn Node>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let service = CulvertServer::new(Service::new(node)).max_decoding_message_size(MAX_REQUEST_BYTES);
    let connections = Connections::new(socket, limits)?;
    let (stopped, stopping) = tokio::sync::oneshot::channel::<()>();
    let serving = builder(limits).add_service(service).serve_with_incoming_shutdown(connections, async {
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
    places: Arc<Semaphore>,
    patience: Duration,
    /// Runs after a failed accept (no descriptors left, say), so that it is not repeated without a pause.
    retry: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel's, when the socket cannot be used.
    pub(crate) fn new(socket: &ListeningSocket, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::from_std(socket.listener()?)?,
            places: Arc::new(Semaphore::new(limits.connections)),
            patience: limits.patience,
            retry: None,
        })
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
                    // Without a place the stream is dropped here: the client sees the end at once and need not wait.
                    if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                        return Poll::Ready(Some(Ok(Connection::new(stream, place, self.patience))));
                    }
                }
                Err(error) => {
                    tracing::warn!("a connection cannot be accepted: {error}");
                    self.retry = Some(Box::pin(tokio::time::sleep(ACCEPT_RETRY)));
                }
            }
        }
    }
}

/// One client's connection. It must start with the HTTP/2 preface (RFC 9113, 3.4) within a time; what comes after
/// that is watched by pings.
pub(crate) struct Connection {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
    /// Until when the preface must be here; `None` once it is.
    deadline: Option<Pin<Box<Sleep>>>,
    received: usize,
}

impl Connection {
    fn new(stream: UnixStream, place: OwnedSemaphorePermit, patience: Duration) -> Self {
        Self { stream, _place: place, deadline: Some(Box::pin(tokio::time::sleep(patience))), received: 0 }
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
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

const PREFACE_BYTES: usize = 24;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

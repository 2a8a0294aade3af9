//! The HTTPS server: `POST /mutate` and `POST /validate` for the API server, `GET /healthz` for the kubelet's probes. HTTP/1.1.
//!
//! Whoever reaches the port may ask: an answer tells nothing that the asker does not know. So what one may cost is
//! bounded: connections, the size of a question, and the time for each step.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::about::about;
use crate::admission::Webhook;
use crate::certificate::Certificate;

/// Serves on `listener` until `stop` resolves, then ends what is under way.
pub async fn serve(listener: TcpListener, certificate: Certificate, webhook: Webhook, stop: impl Future<Output = ()>) {
    let webhook = Arc::new(webhook);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let permit = tokio::select! {
            () = &mut stop => break,
            Ok(permit) = Arc::clone(&connections).acquire_owned() => permit,
        };
        let stream = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("a connection cannot be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let acceptor = TlsAcceptor::from(certificate.current());
        let watcher = graceful.watcher();
        let webhook = Arc::clone(&webhook);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection(stream, acceptor, watcher, webhook).await {
                tracing::debug!("a connection ended: {error}");
            }
        });
    }
    // What takes longer is cut off with the process.
    let _ = tokio::time::timeout(REQUEST_TIME, graceful.shutdown()).await;
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    watcher: hyper_util::server::graceful::Watcher,
    webhook: Arc<Webhook>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await??;
    let service = service_fn(move |request| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(respond(request, &webhook).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIME)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service);
    Ok(watcher.watch(served).await?)
}

async fn respond(request: Request<Incoming>, webhook: &Webhook) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => text(StatusCode::OK, "ok\n"),
        (&Method::POST, "/mutate" | "/validate") => {
            match tokio::time::timeout(REQUEST_TIME, review(request, webhook)).await {
                Ok(response) => response,
                Err(_) => text(StatusCode::REQUEST_TIMEOUT, "the question took too long\n"),
            }
        }
        (_, "/healthz" | "/mutate" | "/validate") => {
            text(StatusCode::METHOD_NOT_ALLOWED, "use GET /healthz, POST /mutate or POST /validate\n")
        }
        _ => text(StatusCode::NOT_FOUND, "there are /healthz, /mutate and /validate\n"),
    }
}

async fn review(request: Request<Incoming>, webhook: &Webhook) -> Response<Full<Bytes>> {
    let is_validation = request.uri().path() == "/validate";
    let mut body = request.into_body();
    let mut question = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data().unwrap_or_default()) {
            Ok(data) if question.len() + data.len() > MAX_QUESTION => {
                return unreadable(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    &question,
                    "a question has at most 4 MiB; make the object smaller",
                );
            }
            Ok(data) => question.extend_from_slice(&data),
            Err(error) => {
                return unreadable(StatusCode::BAD_REQUEST, &question, &format!("the question broke off: {error}"));
            }
        }
    }
    let answer = if is_validation { webhook.validate(&question) } else { webhook.mutate(&question).await };
    match answer.map(|review| serde_json::to_vec(&review)) {
        Ok(Ok(answer)) => {
            let mut response = Response::new(Full::from(answer));
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        Err(malformed) => unreadable(StatusCode::BAD_REQUEST, &question, &malformed.to_string()),
    }
}

/// The answer to a question that cannot be read, which names the object that it is about.
fn unreadable(status: StatusCode, question: &[u8], problem: &str) -> Response<Full<Bytes>> {
    let problem = match about(question) {
        Some(object) => format!("{object}: {problem}"),
        None => problem.to_owned(),
    };
    tracing::warn!("a question cannot be read: {problem}");
    text(status, &format!("{problem}\n"))
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    response
}

/// At a time; more wait.
const MAX_CONNECTIONS: usize = 128;
/// More than the API server takes from its own clients (3 MiB).
const MAX_QUESTION: usize = 4 << 20;
const MAX_HEADER: usize = 64 << 10;
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// For a whole question and answer; the webhook's configuration gives 10 s.
const REQUEST_TIME: Duration = Duration::from_secs(9);
/// How long a connection may be without a question.
const IDLE_TIME: Duration = Duration::from_secs(60);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

//! An API server that knows NetworkAttachmentDefinitions and nothing else, over TLS with a certificate of its own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The token that it takes.
pub const TOKEN: &str = "token-of-the-service-account";

pub struct ApiServer {
    pub port: u16,
    authority: String,
    known: Arc<Known>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Known {
    definitions: Mutex<HashMap<String, String>>,
    questions: AtomicUsize,
    /// Answered instead of what is known; 0: nothing.
    status: AtomicU16,
}

impl ApiServer {
    pub async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let known = Arc::new(Known::default());
        let task = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&known)));
        Self { port, authority: made.cert.pem(), known, task: Mutex::new(Some(task)) }
    }

    /// The certificate by which it is known, in PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn define(&self, namespace: &str, name: &str, config: &str) {
        let path = format!("/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions/{name}");
        let object =
            serde_json::json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"config": config}});
        self.known.definitions.lock().unwrap().insert(path, object.to_string());
    }

    pub fn answer_with(&self, status: u16) {
        self.known.status.store(status, Ordering::Relaxed);
    }

    /// How many it was asked.
    pub fn questions(&self) -> usize {
        self.known.questions.load(Ordering::Relaxed)
    }

    pub async fn stop(&self) {
        let task = self.task.lock().unwrap().take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, known: Arc<Known>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(stream) = acceptor.accept(stream).await else { continue };
        let service = service_fn(|request| {
            let response = known.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        // A client that goes away is none of our business.
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

impl Known {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let definition = self.definitions.lock().unwrap().get(request.uri().path()).cloned();
        let (status, body) = match (self.status.load(Ordering::Relaxed), definition) {
            _ if token != Some(&format!("Bearer {TOKEN}")) => (401, String::new()),
            (0, Some(definition)) => (200, definition),
            (0, None) => (404, String::new()),
            (status, _) => (status, String::new()),
        };
        Response::builder().status(status).body(Full::from(body)).unwrap()
    }
}

//! The webhook under test, and the API server's side of a question to it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use culvert_webhook::admission::Webhook;
use culvert_webhook::certificate;
use culvert_webhook::cluster::{Address, Cluster};
use culvert_webhook::retirement::Policy;
use culvert_webhook::server;
use culvert_webhook::sidecar::Sidecars;
use culvert_webhook::stage::Stage;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::api_server::{ApiServer, TOKEN};

/// The webhook, serving.
pub struct Running {
    folder: TempDir,
    port: u16,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    /// Whom a client trusts: every certificate that was made.
    trusted: std::sync::Mutex<Vec<String>>,
}

impl Running {
    pub async fn start(api: &ApiServer) -> Self {
        Self::start_with(api, api.authority()).await
    }

    /// With `authority` as what the service account says of the API server.
    pub async fn start_with(api: &ApiServer, authority: &str) -> Self {
        let policy = Policy { passt: Stage::Block, vhostuser: Stage::Allow };
        Self::start_by(api, authority, policy).await
    }

    /// With what is to become of old interface APIs.
    pub async fn start_by(api: &ApiServer, authority: &str, policy: Policy) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        std::fs::write(folder.path().join("ca.crt"), authority).unwrap();
        let (certificate, key) = make_certificate();
        write_certificate(folder.path(), &certificate, Some(&key));

        let bindings = vec!["culvert".to_owned(), "culvert-translator".to_owned()];
        let address = Address { host: "127.0.0.1".to_owned(), port: api.port };
        let webhook = Webhook {
            sidecars: Sidecars { bindings, images: vec![] },
            cluster: Arc::new(Cluster::new(address, folder.path().to_owned())),
            policy,
        };
        let files = certificate::read(folder.path().join("tls.crt"), folder.path().join("tls.key")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server::serve(listener, files, webhook, async {
            stopped.await.unwrap();
        }));
        Self { folder, port, stop, task, trusted: vec![certificate].into() }
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    /// The response to a question about a pod.
    pub async fn ask(&self, question: &Value) -> Value {
        self.ask_at("/mutate", question).await
    }

    /// The response to a question at a path.
    pub async fn ask_at(&self, path: &str, question: &Value) -> Value {
        let (status, body) = self.send("POST", path, question.to_string().into_bytes()).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let review: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(review["kind"], "AdmissionReview");
        review["response"].clone()
    }

    /// What becomes of `pod` by the response, as the API server does it.
    pub fn patched(mut pod: Value, response: &Value) -> Value {
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        json_patch::patch(&mut pod, &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap()).unwrap();
        pod
    }

    pub async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let response = sender.send_request(request.body(Full::<Bytes>::from(body)).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        drop(sender);
        // After a refusal the server may be gone before all of the question was sent.
        let _ = connection.await.unwrap();
        (status, body.to_vec())
    }

    /// The certificate, in DER, that a new connection is served with.
    pub async fn served_certificate(&self) -> Vec<u8> {
        let stream = self.connect().await;
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Certificate and key in PEM; clients trust it from now on.
    pub fn new_certificate(&self) -> (String, String) {
        let made = make_certificate();
        self.trusted.lock().unwrap().push(made.0.clone());
        made
    }

    pub fn write_certificate(&self, certificate: &str, key: Option<&str>) {
        write_certificate(self.folder.path(), certificate, key);
    }

    pub fn remove_certificate(&self) {
        std::fs::remove_file(self.folder.path().join("tls.crt")).unwrap();
    }

    /// A connection on which `bytes` were sent.
    pub async fn send_and_wait(&self, bytes: &[u8]) -> TlsStream<TcpStream> {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    /// What the server says until it closes the connection, in whatever way.
    pub async fn rest_of(mut stream: impl AsyncRead + Unpin) -> String {
        let mut rest = Vec::new();
        if let Err(error) = stream.read_to_end(&mut rest).await {
            let kinds = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
        String::from_utf8(rest).unwrap()
    }

    pub async fn connect_without_tls(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.handshake(self.connect_without_tls().await).await
    }

    pub async fn handshake(&self, stream: TcpStream) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        for pem in self.trusted.lock().unwrap().iter() {
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("culvert-webhook.culvert-system.svc").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

fn make_certificate() -> (String, String) {
    let name = "culvert-webhook.culvert-system.svc".to_owned();
    let made = rcgen::generate_simple_self_signed(vec![name]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn write_certificate(folder: &Path, certificate: &str, key: Option<&str>) {
    std::fs::write(folder.join("tls.crt"), certificate).unwrap();
    if let Some(key) = key {
        std::fs::write(folder.join("tls.key"), key).unwrap();
    }
}

/// A pod as KubeVirt makes it: two bindings of ours and one of others.
pub fn launcher() -> Value {
    serde_json::from_str(include_str!("../data/virt-launcher.json")).unwrap()
}

/// The API server's question about `pod`.
pub fn question(pod: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "7b1c", "namespace": "lab", "operation": "CREATE", "dryRun": false,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": "system:serviceaccount:kubevirt:kubevirt-controller"},
            "object": pod, "oldObject": null, "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    })
}

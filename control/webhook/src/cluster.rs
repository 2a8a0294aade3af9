//! The API server, of which one question is asked: what a NetworkAttachmentDefinition says.
//!
//! One HTTP/1.1 request on a connection of its own, with the service account's token; an answer is kept for some
//! seconds, since pods of one kind come in numbers. That is all that is needed of a Kubernetes client, so none is here.
//! [`crate::admission`] calls this.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::attachment::{Attachment, Definition};

/// The API server and what is known from it.
#[derive(Debug)]
pub struct Cluster {
    address: Address,
    account: PathBuf,
    known: Mutex<HashMap<(String, String), (Instant, Attachment)>>,
}

/// Where the API server is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port of HTTPS.
    pub port: u16,
}

/// Why a definition is not known. The text goes on from the definition's name.
#[derive(Debug, Error)]
pub enum FetchError {
    /// 404: there is none.
    #[error("does not exist; make it, or correct the VM's networkName")]
    Absent,
    /// 401 or 403.
    #[error("may not be read by culvert-webhook ({0}); apply its ClusterRole and ClusterRoleBinding again")]
    Forbidden(StatusCode),
    /// Another status.
    #[error("was not told by the API server: {0}")]
    Status(StatusCode),
    /// culvert-cni would refuse it.
    #[error("cannot be used: {0}")]
    Wrong(String),
    /// No answer, or none that can be read.
    #[error("could not be read from the API server: {0:#}")]
    Failed(anyhow::Error),
}

impl Cluster {
    /// `account` is the folder with the service account's `token` and `ca.crt`, which are read at each request: they
    /// change.
    pub fn new(address: Address, account: PathBuf) -> Self {
        Self { address, account, known: Mutex::default() }
    }

    /// What the definition `name` in `namespace` means. Both have been checked to be names.
    ///
    /// # Errors
    /// When it is not there, or cannot be read; errors are not kept.
    pub async fn attachment(&self, namespace: &str, name: &str) -> Result<Attachment, FetchError> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some((since, attachment)) = self.known.lock().await.get(&key)
            && since.elapsed() < KEPT_FOR
        {
            return Ok(attachment.clone());
        }
        let fetched = tokio::time::timeout(FETCH_TIME, self.fetch(namespace, name)).await;
        let attachment = fetched
            .unwrap_or_else(|_| Err(FetchError::Failed(anyhow::anyhow!("no answer within {FETCH_TIME:?}"))))?
            .attachment()
            .map_err(FetchError::Wrong)?;
        let mut known = self.known.lock().await;
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (since, _)| since.elapsed() < KEPT_FOR);
        }
        if known.len() < MAX_KNOWN {
            known.insert(key, (Instant::now(), attachment.clone()));
        }
        Ok(attachment)
    }

    async fn fetch(&self, namespace: &str, name: &str) -> Result<Definition, FetchError> {
        let path = format!("/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions/{name}");
        let (status, body) = self.get(&path).await.map_err(FetchError::Failed)?;
        match status {
            StatusCode::OK => {
                serde_json::from_slice(&body).context("it is not a definition").map_err(FetchError::Failed)
            }
            StatusCode::NOT_FOUND => Err(FetchError::Absent),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(FetchError::Forbidden(status)),
            _ => Err(FetchError::Status(status)),
        }
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes)> {
        let Address { host, port } = &self.address;
        let token = self.account_file("token").await?;
        let token = String::from_utf8(token).context("the service account's token is not text")?;
        let connector = TlsConnector::from(Arc::new(client_config(&self.account_file("ca.crt").await?)?));
        let stream = TcpStream::connect((host.as_str(), *port)).await.with_context(|| format!("{host} port {port}"))?;
        let server_name =
            ServerName::try_from(host.clone()).with_context(|| format!("{host} is not a server's name"))?;
        let stream = connector.connect(server_name, stream).await.context("TLS")?;

        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("culvert-webhook/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?;
            Ok((head.status, body.to_bytes()))
        };
        // The connection lives as long as the exchange: nothing is left behind when this is given up.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            end = &mut connection => {
                end.context("the connection broke")?;
                exchange.await
            }
        }
    }

    async fn account_file(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.account.join(name);
        tokio::fs::read(&path).await.with_context(|| format!("{}", path.display()))
    }
}

fn client_config(authority: &[u8]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority) {
        roots.add(certificate.context("the service account's ca.crt cannot be read")?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// How long a definition is believed. Whoever changes one waits so long before making VMs with it.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Less than the API server waits for us (`timeoutSeconds` of the webhook's configuration).
const FETCH_TIME: Duration = Duration::from_secs(4);
const MAX_KNOWN: usize = 1024;
/// More than etcd lets an object have.
const MAX_ANSWER: usize = 2 << 20;

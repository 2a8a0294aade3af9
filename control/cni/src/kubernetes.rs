//! Kubernetes' API, as far as culvert-cni needs it: it reads one pod and changes its annotations. HTTP/1.1 over TLS, one connection
//! for each request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;

use crate::environment;
use crate::error::{Code, Error};
use crate::kubeconfig::Access;

/// The API.
pub struct Kubernetes {
    access: Access,
    tls: Option<Arc<ClientConfig>>,
    runtime: Runtime,
}

/// A pod, as far as it matters to us.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Who it is.
    pub metadata: Metadata,
    /// What it is to be.
    pub spec: Spec,
}

/// Who a pod is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Different for each pod of the same name.
    pub uid: String,
    /// Different after each change.
    pub resource_version: String,
    /// What others have noted.
    pub annotations: BTreeMap<String, String>,
}

/// What a pod is to be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    volumes: Vec<Volume>,
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Volume {
    name: String,
    host_path: Option<HostPath>,
    empty_dir: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct HostPath {
    path: PathBuf,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    volume_mounts: Vec<Mount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Mount {
    name: String,
    mount_path: PathBuf,
}

/// Where a pod's volume is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Among kubelet's folders of the pod.
    EmptyDir,
    /// A folder of the node's.
    HostPath(PathBuf),
}

impl Pod {
    /// A volume; `None` when there is none of that name, or one of another kind.
    pub fn volume(&self, name: &str) -> Option<Source> {
        let volume = self.spec.volumes.iter().find(|volume| volume.name == name)?;
        match (&volume.host_path, &volume.empty_dir) {
            (Some(host), _) => Some(Source::HostPath(host.path.clone())),
            (None, Some(_)) => Some(Source::EmptyDir),
            (None, None) => None,
        }
    }

    /// Where a volume is in the containers: in KubeVirt's `compute`, or else the first that has it.
    pub fn mount_path(&self, volume: &str) -> Option<&Path> {
        let (compute, others): (Vec<_>, Vec<_>) = self.spec.containers.iter().partition(|it| it.name == "compute");
        let mut mounts = compute.into_iter().chain(others).flat_map(|container| &container.volume_mounts);
        mounts.find(|mount| mount.name == volume).map(|mount| mount.mount_path.as_path())
    }
}

impl Kubernetes {
    /// The API that a kubeconfig file names. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Code::Config`], [`Code::Io`].
    pub fn of(kubeconfig: &Path) -> Result<Self, Error> {
        let mut access = Access::read(kubeconfig)?;
        let tls = if access.tls { Some(Arc::new(client_config(&mut access)?)) } else { None };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("no connection can be made", error))?;
        Ok(Self { access, tls, runtime })
    }

    /// A pod. It must have the uid that the runtime told: the name alone may be another pod's by now.
    ///
    /// # Errors
    /// [`Code::TryLater`] when the API does not answer, or refuses.
    pub fn pod(&self, id: &environment::Pod) -> Result<Pod, Error> {
        let (namespace, name) = name_of(id);
        let answer = self.call(Method::GET, id, None)?;
        let pod: Pod = serde_json::from_slice(&answer).map_err(|error| self.refused(&error.to_string()))?;
        match id.uid.as_ref().filter(|uid| **uid != pod.metadata.uid) {
            None => Ok(pod),
            Some(uid) => {
                Err(self.refused(&format!("pod {namespace}/{name} is {}, not {uid}: replaced", pod.metadata.uid)))
            }
        }
    }

    /// Changes a pod's annotations: `change` gets the pod and returns those with a new value. Repeated when somebody else changes
    /// the pod at the same time.
    ///
    /// # Errors
    /// As of [`Kubernetes::pod`].
    pub fn annotate(
        &self,
        id: &environment::Pod,
        change: impl Fn(&Pod) -> BTreeMap<String, String>,
    ) -> Result<(), Error> {
        for attempt in 1.. {
            let pod = self.pod(id)?;
            let metadata = json!({ "resourceVersion": pod.metadata.resource_version, "annotations": change(&pod) });
            match self.call(Method::PATCH, id, Some(json!({ "metadata": metadata }))) {
                Err(error) if attempt < MOST_ATTEMPTS && error.details.contains(CONFLICT) => {}
                result => return result.map(drop),
            }
        }
        Ok(())
    }

    fn call(&self, method: Method, id: &environment::Pod, body: Option<Value>) -> Result<Bytes, Error> {
        let (namespace, name) = name_of(id);
        let path = format!("{}/api/v1/namespaces/{namespace}/pods/{name}", self.access.prefix);
        let host = &self.access.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(HOST, format!("{host}:{}", self.access.port)).header(ACCEPT, "application/json");
        if let Some(token) = &self.access.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/merge-patch+json");
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(Full::from(body)).map_err(|error| self.refused(&error.to_string()))?;
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.exchange(request)).await });
        let (status, answer) = match answer {
            Ok(answer) => answer.map_err(|error| self.refused(&error))?,
            Err(_) => return Err(self.refused(&format!("no answer within {PATIENCE:?}"))),
        };
        if status.is_success() {
            return Ok(answer);
        }
        let told: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let message = told.get("message").and_then(Value::as_str).unwrap_or_default();
        Err(self.refused(&format!("{status}: {message}")))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
        let stream = TcpStream::connect((self.access.host.as_str(), self.access.port)).await.map_err(text)?;
        let Some(tls) = &self.tls else { return exchange_on(stream, request).await };
        let name = ServerName::try_from(self.access.server_name.clone()).map_err(text)?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(text)?;
        exchange_on(stream, request).await
    }

    fn refused(&self, why: &str) -> Error {
        let message = format!("Kubernetes at {} port {} does not help", self.access.host, self.access.port);
        Error::with(Code::TryLater, message, why)
    }
}

async fn exchange_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(text)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(text)?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // It ends when the server closes it, perhaps right after its answer.
        ended = connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(text(error)),
        },
    }
}

/// A pod's namespace and name.
fn name_of(id: &environment::Pod) -> (&str, &str) {
    (id.namespace.as_deref().unwrap_or("default"), id.name.as_deref().unwrap_or_default())
}

/// TLS with the cluster's own authorities, and no others.
fn client_config(access: &mut Access) -> Result<ClientConfig, Error> {
    let wrong = |error: rustls::Error| Error::with(Code::Config, "kubeconfig cannot be used", error);
    let mut roots = RootCertStore::empty();
    for authority in access.authorities.drain(..) {
        roots.add(authority).map_err(wrong)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(wrong)?;
    let builder = builder.with_root_certificates(roots);
    match access.identity.take() {
        Some((certificates, key)) => builder.with_client_auth_cert(certificates, key).map_err(wrong),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// An error with its causes: TLS' reasons are among them.
fn text(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> String {
    let error = error.into();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Kubernetes' answer to a change of what has changed meanwhile.
const CONFLICT: &str = "409 Conflict";
/// Others change a pod's annotations at the same time: Multus, KubeVirt.
const MOST_ATTEMPTS: u32 = 10;
/// For one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest object that Kubernetes keeps has 1.5 MiB.
const MAX_ANSWER_BYTES: usize = 4 << 20;

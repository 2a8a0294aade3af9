//! Culvertd, as far as culvert-cni needs it. Each method is one request and waits for its answer.
//!
//! Codes: whatever passes by itself (nobody listens, no answer, a limit is reached) is [`Code::TryLater`], what the
//! configuration must change for is [`Code::Config`].

use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use culvert_api::MAX_ANSWER_BYTES;
use culvert_api::v1;
use culvert_api::v1::culvert_client::CulvertClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::error::{Code, Error};

/// A connection to culvertd.
pub struct Daemon {
    runtime: Runtime,
    client: CulvertClient<Channel>,
}

impl Daemon {
    /// Connects to the culvertd that listens on `socket`.
    ///
    /// # Errors
    /// [`Code::TryLater`] when nobody does.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("no connection can be made", error))?;
        let absent = |error: io::Error| {
            Error::with(Code::TryLater, "culvertd is not there yet", format!("connect {}: {error}", socket.display()))
        };
        let channel = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await.map_err(absent)?;
            // The channel may ask for the connection once; when that ends, the call ends.
            let stream = Mutex::new(Some(TokioIo::new(stream)));
            let hand_over = move |_| {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move { stream.ok_or_else(|| io::Error::from(ErrorKind::ConnectionReset)) }
            };
            let endpoint = Endpoint::from_static("http://culvertd").timeout(PATIENCE);
            let channel = endpoint.connect_with_connector(tower::service_fn(hand_over)).await;
            channel.map_err(|_| absent(ErrorKind::ConnectionReset.into()))
        })?;
        let client = CulvertClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self { runtime, client })
    }

    /// Waits for one answer. What it should say besides goes to the log.
    fn ask<T>(&self, what: &str, question: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        self.runtime.block_on(question).map(Response::into_inner).map_err(|status| refusal(what, &status))
    }

    /// What culvertd says of itself.
    ///
    /// # Errors
    /// [`Code::TryLater`].
    pub fn status(&self) -> Result<v1::GetStatusResponse, Error> {
        let mut client = self.client.clone();
        self.ask("culvertd does not tell its status", client.get_status(v1::GetStatusRequest {}))
    }

    /// The names of the networks.
    ///
    /// # Errors
    /// [`Code::TryLater`].
    pub fn networks(&self) -> Result<Vec<v1::Network>, Error> {
        let mut client = self.client.clone();
        let answer =
            self.ask("culvertd does not tell its networks", client.list_networks(v1::ListNetworksRequest {}))?;
        Ok(answer.networks)
    }

    /// There is such a network.
    ///
    /// # Errors
    /// [`Code::Config`] when there is none.
    pub fn require_network(&self, network: &str) -> Result<(), Error> {
        if self.networks()?.iter().any(|known| known.name == network) {
            return Ok(());
        }
        let details = format!("add it with `culvertctl network add {network}`, or name another in `network`");
        Err(Error::with(Code::Config, format!("culvertd has no network {network}"), details))
    }

    /// A port; `None` when there is none of that name.
    ///
    /// # Errors
    /// [`Code::TryLater`].
    pub fn port(&self, name: &str) -> Result<Option<v1::Port>, Error> {
        let mut client = self.client.clone();
        let request = v1::ListPortsRequest { port: name.to_owned() };
        match self.runtime.block_on(client.list_ports(request)) {
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(refusal(&format!("culvertd does not tell of port {name}"), &status)),
            Ok(answer) => Ok(answer.into_inner().ports.into_iter().next()),
        }
    }

    /// Adds a network, if there is none of that name.
    ///
    /// # Errors
    /// [`Code::Config`], [`Code::TryLater`].
    pub fn add_network(&self, name: &str) -> Result<(), Error> {
        let mut client = self.client.clone();
        let request = v1::AddNetworkRequest { name: name.to_owned(), network: None };
        match self.runtime.block_on(client.add_network(request)) {
            Ok(_) => Ok(()),
            // Somebody made it meanwhile.
            Err(status) if status.code() == tonic::Code::AlreadyExists => Ok(()),
            Err(status) => Err(refusal(&format!("network {name} cannot be added"), &status)),
        }
    }

    /// Removes a network. False when it has ports or is the configuration file's.
    ///
    /// # Errors
    /// [`Code::TryLater`].
    pub fn remove_network(&self, name: &str) -> Result<bool, Error> {
        let mut client = self.client.clone();
        match self.runtime.block_on(client.remove_network(v1::RemoveRequest { name: name.to_owned() })) {
            Ok(_) => Ok(true),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(true),
            Err(status) if status.code() == tonic::Code::FailedPrecondition => Ok(false),
            Err(status) => Err(refusal(&format!("network {name} cannot be removed"), &status)),
        }
    }

    /// Adds a port. A different one of that name, which a killed call left behind, is replaced.
    ///
    /// # Errors
    /// [`Code::Config`], [`Code::TryLater`].
    pub fn add_port(&self, name: &str, spec: &v1::PortSpec) -> Result<(), Error> {
        let mut client = self.client.clone();
        let request = || v1::AddPortRequest { name: name.to_owned(), port: Some(spec.clone()) };
        let what = format!("port {name} cannot be added");
        let note = match self.runtime.block_on(client.add_port(request())) {
            Err(status) if status.code() == tonic::Code::AlreadyExists => {
                self.remove_port(name)?;
                self.ask(&what, client.add_port(request()))?.note
            }
            answer => answer.map_err(|status| refusal(&what, &status))?.into_inner().note,
        };
        if !note.is_empty() {
            eprintln!("culvert-cni: port {name}: {note}");
        }
        Ok(())
    }

    /// Removes a port, if there is one of that name.
    ///
    /// # Errors
    /// [`Code::Config`] for one that others need, [`Code::TryLater`].
    pub fn remove_port(&self, name: &str) -> Result<(), Error> {
        let mut client = self.client.clone();
        let answer = self.runtime.block_on(client.remove_port(v1::RemoveRequest { name: name.to_owned() }));
        removed(&format!("port {name}"), answer.map(drop))
    }

    /// Registers a pod. A different one of that name, which a killed call left behind, is replaced.
    ///
    /// # Errors
    /// [`Code::Config`], [`Code::TryLater`].
    pub fn add_pod(&self, name: &str, spec: &v1::PodSpec) -> Result<(), Error> {
        let mut client = self.client.clone();
        let request = || v1::AddPodRequest { name: name.to_owned(), pod: Some(spec.clone()) };
        let what = format!("pod {name} cannot be registered");
        match self.runtime.block_on(client.add_pod(request())) {
            Err(status) if status.code() == tonic::Code::AlreadyExists => {
                self.remove_pod(name)?;
                self.ask(&what, client.add_pod(request())).map(drop)
            }
            answer => answer.map(drop).map_err(|status| refusal(&what, &status)),
        }
    }

    /// Removes a pod's registration, if there is one of that name.
    ///
    /// # Errors
    /// [`Code::TryLater`].
    pub fn remove_pod(&self, name: &str) -> Result<(), Error> {
        let mut client = self.client.clone();
        let answer = self.runtime.block_on(client.remove_pod(v1::RemoveRequest { name: name.to_owned() }));
        removed(&format!("pod {name}"), answer.map(drop))
    }
}

/// What is not there is removed.
fn removed(what: &str, answer: Result<(), Status>) -> Result<(), Error> {
    match answer {
        Err(status) if status.code() != tonic::Code::NotFound => {
            Err(refusal(&format!("{what} cannot be removed"), &status))
        }
        _ => Ok(()),
    }
}

/// Culvertd's refusal, with the code for the runtime.
fn refusal(what: &str, status: &Status) -> Error {
    use tonic::Code as Grpc;
    let code = match status.code() {
        Grpc::InvalidArgument | Grpc::NotFound | Grpc::FailedPrecondition | Grpc::AlreadyExists => Code::Config,
        Grpc::Unimplemented => {
            let details = "install culvertd and culvert-cni of the same release";
            return Error::with(Code::Config, format!("{what}: this culvertd does not know how"), details);
        }
        _ => Code::TryLater,
    };
    Error::with(code, what, status.message())
}

/// How long culvertd may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

//! A client of the control socket that asks for changes, alone or many at a time. Unlike culvertctl it is no process of its own, so
//! that a case can ask often.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use culvert_api::v1::culvert_client::CulvertClient;
use culvert_api::v1::{self, PortSpec};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A client with some connections.
pub struct Client {
    runtime: Runtime,
    connections: Vec<CulvertClient<Channel>>,
}

impl Client {
    /// Connects once.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(socket: &Path) -> Result<Self> {
        Self::with_connections(socket, 1)
    }

    /// Connects `count` times.
    ///
    /// # Errors
    /// Nobody listens, or not so often.
    pub fn with_connections(socket: &Path, count: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let mut connections = Vec::new();
        for _ in 0..count {
            let channel = runtime.block_on(endpoint.connect()).with_context(|| socket.display().to_string())?;
            connections.push(CulvertClient::new(channel));
        }
        Ok(Self { runtime, connections })
    }

    /// Adds a port; whether there was none like it.
    ///
    /// # Errors
    /// culvertd's refusal.
    pub fn add_port(&mut self, name: &str, spec: PortSpec) -> Result<bool, Status> {
        let request = v1::AddPortRequest { name: name.to_owned(), port: Some(spec) };
        self.ask(async |client| client.add_port(request).await.map(|answer| answer.into_inner().changed))
    }

    /// Removes a port; whether there was one.
    ///
    /// # Errors
    /// culvertd's refusal.
    pub fn remove_port(&mut self, name: &str) -> Result<bool, Status> {
        let request = v1::RemoveRequest { name: name.to_owned() };
        match self.ask(async |client| client.remove_port(request).await) {
            Ok(answer) => Ok(answer.into_inner().changed),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// The names of all ports, sorted.
    ///
    /// # Errors
    /// culvertd's refusal.
    pub fn ports(&mut self) -> Result<Vec<String>, Status> {
        let answer = self.ask(async |client| client.list_ports(v1::ListPortsRequest::default()).await)?;
        let mut names: Vec<_> = answer.into_inner().ports.into_iter().map(|port| port.name).collect();
        names.sort();
        Ok(names)
    }

    /// Asks anything on the first connection.
    ///
    /// # Errors
    /// culvertd's refusal.
    pub fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut CulvertClient<Channel>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let Some(client) = self.connections.first_mut() else { return Err(Status::internal("no connection")) };
        self.runtime.block_on(question(client))
    }

    /// Asks `count` questions at once, in turn on all connections; the answers in the order of the questions.
    ///
    /// # Errors
    /// A question panicked.
    pub fn at_once<T, F>(
        &mut self,
        count: usize,
        question: impl Fn(usize, CulvertClient<Channel>) -> F,
    ) -> Result<Vec<Result<T, Status>>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let clients = self.connections.iter().cycle().take(count).cloned().enumerate();
        let questions: Vec<_> = clients.map(|(number, client)| self.runtime.spawn(question(number, client))).collect();
        self.runtime.block_on(async {
            let mut answers = Vec::new();
            for question in questions {
                answers.push(question.await.context("a question panicked")?);
            }
            Ok(answers)
        })
    }
}

/// A guest's port in the network blue, with this socket.
pub fn guest_port(socket: &Path) -> PortSpec {
    PortSpec { network: Some("blue".to_owned()), socket: Some(socket.display().to_string()), ..PortSpec::default() }
}

/// The same, in a folder that its pod owns.
pub fn pod_port(root: &Path, name: &str, role: &str) -> PortSpec {
    PortSpec {
        socket_root: Some(root.display().to_string()),
        role: Some(role.to_owned()),
        owner: (role == "listen").then(|| "107:107".to_owned()),
        ..guest_port(&PathBuf::from(root).join(name))
    }
}

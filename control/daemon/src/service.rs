//! The methods of `culvert.v1`: each checks its request, asks the [`Node`] and answers. Nothing is kept here.
//!
//! The node is asked on a thread that may wait: a worker that does not answer holds up those who ask, not the server.

use std::pin::Pin;
use std::sync::Arc;

use culvert_api::v1;
use culvert_api::v1::culvert_server::Culvert;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::name::Name;
use crate::node::{CaptureError, Node};

/// The service on one node.
pub struct Service {
    node: Arc<dyn Node>,
}

impl Service {
    /// Serves what `node` knows.
    pub fn new(node: Arc<dyn Node>) -> Self {
        Self { node }
    }

    /// Asks the node on a thread of its own.
    async fn ask<T, Q>(&self, question: Q) -> Result<T, Status>
    where
        T: Send + 'static,
        Q: FnOnce(&dyn Node) -> Result<T, Status> + Send + 'static,
    {
        let node = Arc::clone(&self.node);
        let answer = tokio::task::spawn_blocking(move || question(node.as_ref())).await;
        answer.unwrap_or_else(|_| Err(Status::internal("culvertd failed over this question; see its log")))
    }
}

/// Checks a request's `port`: empty, or the name of a port that exists.
fn check_port(node: &dyn Node, port: &str) -> Result<(), Status> {
    if port.is_empty() {
        return Ok(());
    }
    Name::parse(port).map_err(|problem| Status::invalid_argument(format!("port {port:?} is {problem}")))?;
    if node.ports().iter().any(|known| known.name == port) {
        return Ok(());
    }
    Err(Status::not_found(format!("there is no port {port}; `culvertctl port list` shows the ports")))
}

/// Checks a request's `network`: empty, or the name of a network that exists.
fn check_network(node: &dyn Node, network: &str) -> Result<(), Status> {
    if network.is_empty() {
        return Ok(());
    }
    Name::parse(network).map_err(|problem| Status::invalid_argument(format!("network {network:?} is {problem}")))?;
    if node.networks().iter().any(|known| known.name == network) {
        return Ok(());
    }
    Err(Status::not_found(format!("there is no network {network}; `culvertctl network list` shows the networks")))
}

/// Whether `value` is meant by a request's filter, which is empty for all.
fn is_meant(filter: &str, value: &str) -> bool {
    filter.is_empty() || filter == value
}

#[tonic::async_trait]
impl Culvert for Service {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        self.ask(|node| Ok(Response::new(node.status()))).await
    }

    async fn list_networks(
        &self,
        _: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        self.ask(|node| Ok(Response::new(v1::ListNetworksResponse { networks: node.networks() }))).await
    }

    async fn list_ports(
        &self,
        request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsResponse>, Status> {
        let port = request.into_inner().port;
        self.ask(move |node| {
            check_port(node, &port)?;
            let mut ports = node.ports();
            ports.retain(|known| is_meant(&port, &known.name));
            Ok(Response::new(v1::ListPortsResponse { ports }))
        })
        .await
    }

    async fn list_macs(&self, request: Request<v1::ListMacsRequest>) -> Result<Response<v1::ListMacsResponse>, Status> {
        let v1::ListMacsRequest { network, port } = request.into_inner();
        self.ask(move |node| {
            check_network(node, &network)?;
            check_port(node, &port)?;
            let mut macs = node.macs();
            macs.retain(|mac| is_meant(&network, &mac.network) && is_meant(&port, &mac.port));
            Ok(Response::new(v1::ListMacsResponse { macs }))
        })
        .await
    }

    async fn get_stats(&self, request: Request<v1::GetStatsRequest>) -> Result<Response<v1::GetStatsResponse>, Status> {
        let port = request.into_inner().port;
        self.ask(move |node| {
            check_port(node, &port)?;
            let mut ports = node.stats();
            ports.retain(|stats| is_meant(&port, &stats.port));
            Ok(Response::new(v1::GetStatsResponse { ports }))
        })
        .await
    }

    async fn list_drops(
        &self,
        request: Request<v1::ListDropsRequest>,
    ) -> Result<Response<v1::ListDropsResponse>, Status> {
        let port = request.into_inner().port;
        self.ask(move |node| {
            check_port(node, &port)?;
            let mut drops = node.drops();
            drops.retain(|drop| is_meant(&port, &drop.port));
            Ok(Response::new(v1::ListDropsResponse { drops }))
        })
        .await
    }

    type CaptureStream = Pin<Box<dyn Stream<Item = Result<v1::CaptureResponse, Status>> + Send>>;

    async fn capture(&self, request: Request<v1::CaptureRequest>) -> Result<Response<Self::CaptureStream>, Status> {
        let request = request.into_inner();
        if request.port.is_empty() {
            return Err(Status::invalid_argument("port is empty; name the port to capture"));
        }
        let frames = self.ask(move |node| {
            check_port(node, &request.port)?;
            node.capture(&request).map_err(|error| {
                let message = format!("port {} cannot be captured: {error}", request.port);
                match error {
                    CaptureError::PortNotOpen | CaptureError::Datapath(_) => Status::unavailable(message),
                    CaptureError::TooMany { .. } => Status::resource_exhausted(message),
                }
            })
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames.await?).map(Ok))))
    }
}

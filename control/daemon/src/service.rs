//! The methods of `culvert.v1`: each checks its request, asks the [`Node`] and answers. Nothing is kept here.

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

    /// Checks a request's `port`: empty, or the name of a port that exists.
    fn check_port(&self, port: &str) -> Result<(), Status> {
        if port.is_empty() {
            return Ok(());
        }
        Name::parse(port).map_err(|problem| Status::invalid_argument(format!("port {port:?} is {problem}")))?;
        if self.node.ports().iter().any(|known| known.name == port) {
            return Ok(());
        }
        Err(Status::not_found(format!("there is no port {port}; `culvertctl port list` shows the ports")))
    }

    /// Checks a request's `network`: empty, or the name of a network that exists.
    fn check_network(&self, network: &str) -> Result<(), Status> {
        if network.is_empty() {
            return Ok(());
        }
        Name::parse(network)
            .map_err(|problem| Status::invalid_argument(format!("network {network:?} is {problem}")))?;
        if self.node.networks().iter().any(|known| known.name == network) {
            return Ok(());
        }
        Err(Status::not_found(format!("there is no network {network}; `culvertctl network list` shows the networks")))
    }
}

/// Whether `value` is meant by a request's filter, which is empty for all.
fn is_meant(filter: &str, value: &str) -> bool {
    filter.is_empty() || filter == value
}

#[tonic::async_trait]
impl Culvert for Service {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.node.status()))
    }

    async fn list_networks(
        &self,
        _: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        Ok(Response::new(v1::ListNetworksResponse { networks: self.node.networks() }))
    }

    async fn list_ports(
        &self,
        request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsResponse>, Status> {
        let port = request.into_inner().port;
        self.check_port(&port)?;
        let mut ports = self.node.ports();
        ports.retain(|known| is_meant(&port, &known.name));
        Ok(Response::new(v1::ListPortsResponse { ports }))
    }

    async fn list_macs(&self, request: Request<v1::ListMacsRequest>) -> Result<Response<v1::ListMacsResponse>, Status> {
        let v1::ListMacsRequest { network, port } = request.into_inner();
        self.check_network(&network)?;
        self.check_port(&port)?;
        let mut macs = self.node.macs();
        macs.retain(|mac| is_meant(&network, &mac.network) && is_meant(&port, &mac.port));
        Ok(Response::new(v1::ListMacsResponse { macs }))
    }

    async fn get_stats(&self, request: Request<v1::GetStatsRequest>) -> Result<Response<v1::GetStatsResponse>, Status> {
        let port = request.into_inner().port;
        self.check_port(&port)?;
        let mut ports = self.node.stats();
        ports.retain(|stats| is_meant(&port, &stats.port));
        Ok(Response::new(v1::GetStatsResponse { ports }))
    }

    async fn list_drops(
        &self,
        request: Request<v1::ListDropsRequest>,
    ) -> Result<Response<v1::ListDropsResponse>, Status> {
        let port = request.into_inner().port;
        self.check_port(&port)?;
        let mut drops = self.node.drops();
        drops.retain(|drop| is_meant(&port, &drop.port));
        Ok(Response::new(v1::ListDropsResponse { drops }))
    }

    type CaptureStream = Pin<Box<dyn Stream<Item = Result<v1::CaptureResponse, Status>> + Send>>;

    async fn capture(&self, request: Request<v1::CaptureRequest>) -> Result<Response<Self::CaptureStream>, Status> {
        let request = request.into_inner();
        if request.port.is_empty() {
            return Err(Status::invalid_argument("port is empty; name the port to capture"));
        }
        self.check_port(&request.port)?;
        let frames = self.node.capture(&request).map_err(|error| {
            let message = format!("port {} cannot be captured: {error}", request.port);
            match error {
                CaptureError::PortNotOpen => Status::unavailable(message),
                CaptureError::TooMany { .. } => Status::resource_exhausted(message),
            }
        })?;
        Ok(Response::new(Box::pin(ReceiverStream::new(frames).map(Ok))))
    }
}

//! The methods of `culvert.v1.Migrations`: each checks its request, asks the [`Proxy`] and answers.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use culvert_api::v1;
use culvert_api::v1::migrations_server::Migrations;
use culvert_migration::{Channel, Error, Proxy, Role, View};
use tonic::{Request, Response, Status};

use super::request;

/// The service of one proxy.
pub(super) struct Service(Proxy);

impl Service {
    pub(super) fn new(proxy: Proxy) -> Self {
        Self(proxy)
    }
}

#[tonic::async_trait]
impl Migrations for Service {
    async fn listen_migration(
        &self,
        request: Request<v1::ListenMigrationRequest>,
    ) -> Result<Response<v1::ListenMigrationResponse>, Status> {
        let (name, offered) = request::listen(&self.0, request.into_inner())?;
        let accepting = self.0.listen(name.as_str(), offered).map_err(|error| refusal(&error))?;
        let (address, ports, network) = (accepting.address.to_string(), by_port(&accepting.ports), accepting.network);
        Ok(Response::new(v1::ListenMigrationResponse { address, ports, network }))
    }

    async fn connect_migration(
        &self,
        request: Request<v1::ConnectMigrationRequest>,
    ) -> Result<Response<v1::ConnectMigrationResponse>, Status> {
        let (name, wanted) = request::connect(request.into_inner())?;
        let sockets = self.0.connect(name.as_str(), wanted).map_err(|error| refusal(&error))?;
        let shown = |(channel, path): (Channel, PathBuf)| v1::MigrationSocket {
            channel: channel.number().into(),
            path: path.to_string_lossy().into_owned(),
        };
        Ok(Response::new(v1::ConnectMigrationResponse { sockets: sockets.into_iter().map(shown).collect() }))
    }

    async fn set_migration_rate(
        &self,
        request: Request<v1::SetMigrationRateRequest>,
    ) -> Result<Response<v1::SetMigrationRateResponse>, Status> {
        let v1::SetMigrationRateRequest { name, rate } = request.into_inner();
        self.0.set_rate(request::named(&name)?.as_str(), request::bits(rate)?).map_err(|error| refusal(&error))?;
        Ok(Response::new(v1::SetMigrationRateResponse {}))
    }

    async fn list_migrations(
        &self,
        _: Request<v1::ListMigrationsRequest>,
    ) -> Result<Response<v1::ListMigrationsResponse>, Status> {
        let migrations = self.0.list().into_iter().map(shown).collect();
        Ok(Response::new(v1::ListMigrationsResponse { migrations }))
    }

    async fn remove_migration(
        &self,
        request: Request<v1::RemoveMigrationRequest>,
    ) -> Result<Response<v1::RemoveMigrationResponse>, Status> {
        let name = request::named(&request.into_inner().name)?;
        self.0.remove(name.as_str()).map_err(|error| refusal(&error))?;
        Ok(Response::new(v1::RemoveMigrationResponse {}))
    }
}

fn by_port(ports: &BTreeMap<Channel, u16>) -> HashMap<u32, u32> {
    ports.iter().map(|(channel, port)| (u32::from(*port), u32::from(channel.number()))).collect()
}

fn shown(view: View) -> v1::Migration {
    let role = match view.role {
        Role::Target => v1::MigrationRole::Target,
        Role::Source => v1::MigrationRole::Source,
    };
    v1::Migration {
        name: view.name,
        role: role.into(),
        network: view.network,
        address: view.address.to_string(),
        ports: by_port(&view.ports),
        connections: view.connections,
        connections_total: view.accepted,
        sent_bytes: view.sent,
        received_bytes: view.received,
        sent_rate: view.sent_rate,
        received_rate: view.received_rate,
        rate: view.rate,
        error: view.error.unwrap_or_default(),
    }
}

fn refusal(error: &Error) -> Status {
    let sentence = error.to_string();
    match error {
        Error::NoChannel(_) | Error::OtherKind { .. } => Status::invalid_argument(sentence),
        Error::OtherRole(..) | Error::NoNetwork(_) => Status::failed_precondition(sentence),
        Error::TooMany => Status::resource_exhausted(sentence),
        Error::Unknown(_) => Status::not_found(sentence),
        Error::Address { .. } | Error::Listen { .. } | Error::Socket { .. } => Status::unavailable(sentence),
    }
}

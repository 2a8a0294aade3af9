//! The migration proxy's process: the supervisor starts it beside the daemon where the configuration has `[migration]`, and again
//! when it has ended. It knows nothing of guests' frames, and the daemon nothing of it; clients ask it by a socket of its own.

pub mod request;
mod service;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use culvert_api::MAX_REQUEST_BYTES;
use culvert_api::v1::migrations_server::MigrationsServer;
use culvert_migration::tls::Tls;
use culvert_migration::{Proxy, Settings};
use rustix::process::Signal;

use crate::arguments::Arguments;
use crate::config::{Config, Migration};
use crate::isolation::{self, Kind};
use crate::listening_socket::{ListeningSocket, Purpose};
use crate::server::{Access, Guarded};
use crate::{log, process, server};
use service::Service;

/// Where it is asked, given where culvertd is.
pub fn socket_path(control_socket: &Path) -> PathBuf {
    control_socket.with_file_name("migration.sock")
}

/// The process, from its first thread on; until it is told to stop, or its supervisor has ended.
///
/// # Errors
/// What it cannot do without: certificates, its socket.
pub fn run(config: &Config, wanted: Migration, arguments: &Arguments) -> Result<()> {
    process::end_with_parent(Signal::TERM)?;
    make_folder(&wanted)?;
    let isolation = isolation::begin_migration(config, &wanted)?;
    let _log = isolation.confined(Kind::Log, || log::start(arguments))??;
    isolation.confined(Kind::Migration, || serve(config, wanted))?
}

fn serve(config: &Config, wanted: Migration) -> Result<()> {
    let folder = wanted.folder.clone();
    let tls = wanted.tls.map(Tls::read).transpose().context("certificates for migrations")?;
    if tls.is_none() {
        tracing::warn!(
            "migration.disable_tls is set: whoever is in the migration network can read and change guests' memory"
        );
    }
    let clients = &config.daemon.clients;
    let path = socket_path(&config.daemon.control_socket);
    let socket = ListeningSocket::bind_patiently(&path, Purpose::Migration, clients.socket_group)?;
    let proxy = Proxy::new(Settings { networks: wanted.networks, folder, ports: wanted.ports, tls });
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build();
    control.context("the migration proxy cannot start")?.block_on(async {
        let stop = process::stop_signal()?;
        tracing::info!(socket = %path.display(), "the migration proxy is ready");
        let limits = server::Limits::default();
        let service = MigrationsServer::new(Service::new(proxy)).max_decoding_message_size(MAX_REQUEST_BYTES);
        let router = server::builder(limits).add_service(Guarded(service));
        server::serve_router(&socket, router, limits, Access::new(clients), stop)
            .await
            .context("the migration proxy failed")
    })
}

/// Makes the folder of the sockets, which QEMU has a part in: at the target it makes its own there.
fn make_folder(wanted: &Migration) -> Result<()> {
    let folder = &wanted.folder;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let owner = wanted.owner;
    let owned = made.and_then(|()| match chown(folder, Some(owner.uid), Some(owner.gid)) {
        // Whoever is not root has it to itself.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {
            Ok(())
        }
        other => other,
    });
    owned.with_context(|| format!("migration.folder {} cannot be made", folder.display()))
}

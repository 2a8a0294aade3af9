//! The migrations of this host: those that it offers to receive, and those that it sends.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::address::AddressError;
use crate::channel::Channel;
use crate::meter::Meter;
use crate::pace::Pace;
use crate::relay::{self, Traffic};
use crate::rules::{self, Network};
use crate::tls::Tls;

/// How the proxy works.
#[derive(Debug)]
pub struct Settings {
    /// The networks, in the order in which they are asked whether a migration is theirs.
    pub networks: Vec<Network>,
    /// The folder of the sockets; the paths in it are the same on both hosts.
    pub folder: PathBuf,
    /// The ports that a target listens on; `None`: any.
    pub ports: Option<RangeInclusive<u16>>,
    /// `None`: bytes go as they are, to and from everybody.
    pub tls: Option<Tls>,
}

/// All migrations. They end with it.
#[derive(Debug)]
pub struct Proxy {
    settings: Arc<Settings>,
    migrations: Mutex<BTreeMap<String, Migration>>,
}

/// Which end of a migration this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The guest comes here.
    Target,
    /// The guest leaves.
    Source,
}

/// What a target offers, as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Where the bytes of each channel go to. Those of [`Channel::Memory`] and [`Channel::Disks`] usually to the folder's own names.
    pub targets: BTreeMap<Channel, PathBuf>,
}

/// What a source wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The target's address in the network.
    pub address: IpAddr,
    /// The ports that it listens on.
    pub ports: BTreeMap<Channel, u16>,
    /// Bits a second that may be sent, instead of the network's.
    pub rate: Option<u64>,
}

/// Where a target accepts a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepting {
    /// Its address in the network.
    pub address: IpAddr,
    /// The port of each channel.
    pub ports: BTreeMap<Channel, u16>,
    /// The name of the network.
    pub network: String,
}

/// A migration as it is shown.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name.
    pub name: String,
    /// This host's part.
    pub role: Role,
    /// The name of the network.
    pub network: String,
    /// The address of this host in it, if it is the target; that of the target, if it is the source.
    pub address: IpAddr,
    /// The ports of the target.
    pub ports: BTreeMap<Channel, u16>,
    /// Connections that are open.
    pub connections: u32,
    /// Connections that there were in all.
    pub accepted: u64,
    /// Bytes to the network.
    pub sent: u64,
    /// Bytes from the network.
    pub received: u64,
    /// Bits a second to the network, lately.
    pub sent_rate: u64,
    /// Bits a second from the network, lately.
    pub received_rate: u64,
    /// Bits a second that may be sent.
    pub rate: Option<u64>,
    /// The last thing that went wrong.
    pub error: Option<String>,
}

/// Why a migration cannot be prepared.
#[derive(Debug, Error)]
pub enum Error {
    /// No rule is for it.
    #[error(
        "migration {0}: no network is for it; add a network without migrations to the configuration, behind the others"
    )]
    NoNetwork(String),
    /// This host is not in the network.
    #[error("network {network}: {error}")]
    Address {
        /// The network.
        network: String,
        /// Why not.
        error: AddressError,
    },
    /// No channel was named.
    #[error("migration {0} has no channel; name 0 at least")]
    NoChannel(String),
    /// It is there, as something else.
    #[error("migration {0} is here already, as a {1}; remove it first")]
    OtherRole(String, Role),
    /// There are too many.
    #[error("there are {MAX_MIGRATIONS} migrations already; remove one that is over")]
    TooMany,
    /// A source and its target must be of one kind.
    #[error("migration {name}: {address} is no address of the kind that this host has in network {network} ({own})")]
    OtherKind {
        /// The migration.
        name: String,
        /// The target's.
        address: IpAddr,
        /// The network.
        network: String,
        /// This host's.
        own: IpAddr,
    },
    /// No port is free, or the address is not this host's.
    #[error("migration {name}: {address} cannot be listened on: {error}")]
    Listen {
        /// The migration.
        name: String,
        /// The address.
        address: IpAddr,
        /// The kernel's error.
        error: io::Error,
    },
    /// A socket cannot be made.
    #[error("{}: the socket cannot be made: {error}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
    /// There is none of that name.
    #[error("there is no migration {0}")]
    Unknown(String),
}

/// One migration.
#[derive(Debug)]
struct Migration {
    network: String,
    /// This host's address in the network.
    own: IpAddr,
    part: Part,
    shared: Arc<Shared>,
    /// One for each channel: it accepts, and has a task for each connection. They end when this is dropped.
    _channels: JoinSet<()>,
    _sockets: Vec<Named>,
}

#[derive(Debug)]
enum Part {
    Target { offered: Offered, ports: BTreeMap<Channel, u16> },
    Source { wanted: Wanted },
}

/// What a migration's connections have in common.
#[derive(Debug)]
struct Shared {
    name: String,
    settings: Arc<Settings>,
    traffic: Traffic,
    connections: AtomicU32,
    accepted: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Proxy {
    /// A proxy without migrations.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), migrations: Mutex::default() }
    }

    /// Offers to receive a migration. One that is offered like that already is left alone, one that is offered otherwise is begun anew.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error`].
    pub fn listen(&self, name: &str, offered: Offered) -> Result<Accepting, Error> {
        let mut migrations = self.lock();
        if offered.targets.is_empty() {
            return Err(Error::NoChannel(name.to_owned()));
        }
        let (network, own) = self.network(name)?;
        match migrations.get(name).map(|migration| (&migration.part, migration)) {
            Some((Part::Source { .. }, _)) => return Err(Error::OtherRole(name.to_owned(), Role::Source)),
            Some((Part::Target { offered: before, ports }, migration))
                if *before == offered && migration.own == own =>
            {
                return Ok(Accepting { address: own, ports: ports.clone(), network: network.name.clone() });
            }
            Some(_) => drop(migrations.remove(name)),
            None => {}
        }
        self.has_room(&migrations)?;
        let shared = self.shared(name, network.rate);
        let (mut channels, mut ports) = (JoinSet::new(), BTreeMap::new());
        for (channel, target) in &offered.targets {
            let bound = self.bind(own);
            let (listener, port) =
                bound.map_err(|error| Error::Listen { name: name.to_owned(), address: own, error })?;
            ports.insert(*channel, port);
            channels.spawn(receive(listener, target.clone(), Arc::clone(&shared)));
        }
        tracing::info!(migration = name, network = network.name, address = %own, "a guest may come");
        let accepting = Accepting { address: own, ports: ports.clone(), network: network.name.clone() };
        let part = Part::Target { offered, ports };
        let network = network.name.clone();
        migrations.insert(
            name.to_owned(),
            Migration { network, own, part, shared, _channels: channels, _sockets: Vec::new() },
        );
        Ok(accepting)
    }

    /// Makes the sockets of a migration to another host. One that is wanted like that already is left alone, one that is wanted otherwise
    /// is begun anew. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error`].
    pub fn connect(&self, name: &str, wanted: Wanted) -> Result<BTreeMap<Channel, PathBuf>, Error> {
        let mut migrations = self.lock();
        if wanted.ports.is_empty() {
            return Err(Error::NoChannel(name.to_owned()));
        }
        let (network, own) = self.network(name)?;
        if own.is_ipv4() != wanted.address.is_ipv4() {
            let (name, address, network) = (name.to_owned(), wanted.address, network.name.clone());
            return Err(Error::OtherKind { name, address, network, own });
        }
        let paths: BTreeMap<Channel, PathBuf> =
            wanted.ports.keys().map(|channel| (*channel, self.socket(name, *channel))).collect();
        match migrations.get(name).map(|migration| (&migration.part, migration)) {
            Some((Part::Target { .. }, _)) => return Err(Error::OtherRole(name.to_owned(), Role::Target)),
            Some((Part::Source { wanted: before }, migration)) if *before == wanted && migration.own == own => {
                return Ok(paths);
            }
            Some(_) => drop(migrations.remove(name)),
            None => {}
        }
        self.has_room(&migrations)?;
        let shared = self.shared(name, wanted.rate.or(network.rate));
        let (mut channels, mut sockets) = (JoinSet::new(), Vec::new());
        for (channel, path) in &paths {
            let (listener, named) = listen_at(path).map_err(|error| Error::Socket { path: path.clone(), error })?;
            sockets.push(named);
            let to = SocketAddr::new(wanted.address, wanted.ports.get(channel).copied().unwrap_or_default());
            channels.spawn(send(listener, own, to, Arc::clone(&shared)));
        }
        tracing::info!(migration = name, network = network.name, to = %wanted.address, "a guest may leave");
        let (part, network) = (Part::Source { wanted }, network.name.clone());
        migrations
            .insert(name.to_owned(), Migration { network, own, part, shared, _channels: channels, _sockets: sockets });
        Ok(paths)
    }

    /// Sets how fast a migration may send, in bits a second; `None`: as fast as it goes. Holds at once.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn set_rate(&self, name: &str, rate: Option<u64>) -> Result<(), Error> {
        let migrations = self.lock();
        let migration = migrations.get(name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
        migration.shared.traffic.pace.set_rate(rate);
        Ok(())
    }

    /// Ends a migration, with its connections.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let removed = self.lock().remove(name);
        removed.map(drop).ok_or_else(|| Error::Unknown(name.to_owned()))
    }

    /// All migrations, by name.
    pub fn list(&self) -> Vec<View> {
        self.lock().iter().map(|(name, migration)| migration.view(name)).collect()
    }

    /// Where a migration's socket for a channel is.
    pub fn socket(&self, name: &str, channel: Channel) -> PathBuf {
        self.settings.folder.join(channel.socket_name(name))
    }

    fn network(&self, name: &str) -> Result<(&Network, IpAddr), Error> {
        let network = rules::network(&self.settings.networks, name).ok_or_else(|| Error::NoNetwork(name.to_owned()))?;
        let address = network.address();
        let (own, _) = address.map_err(|error| Error::Address { network: network.name.clone(), error })?;
        Ok((network, own))
    }

    fn has_room(&self, migrations: &BTreeMap<String, Migration>) -> Result<(), Error> {
        if migrations.len() < MAX_MIGRATIONS { Ok(()) } else { Err(Error::TooMany) }
    }

    fn shared(&self, name: &str, rate: Option<u64>) -> Arc<Shared> {
        let traffic = Traffic { sent: Meter::default(), received: Meter::default(), pace: Pace::new(rate) };
        Arc::new(Shared {
            name: name.to_owned(),
            settings: Arc::clone(&self.settings),
            traffic,
            connections: AtomicU32::new(0),
            accepted: AtomicU64::new(0),
            error: Mutex::default(),
        })
    }

    /// Listens on one of the ports that it may, at that address alone; which it is.
    fn bind(&self, address: IpAddr) -> io::Result<(TcpListener, u16)> {
        let ports = self.settings.ports.clone().unwrap_or(0..=0);
        let mut last = io::Error::other("there is no port to choose from");
        for port in ports {
            match std::net::TcpListener::bind((address, port)) {
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    let port = listener.local_addr()?.port();
                    return Ok((TcpListener::from_std(listener)?, port));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Migration>> {
        self.migrations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Migration {
    fn view(&self, name: &str) -> View {
        let (role, address, ports) = match &self.part {
            Part::Target { ports, .. } => (Role::Target, self.own, ports),
            Part::Source { wanted } => (Role::Source, wanted.address, &wanted.ports),
        };
        let traffic = &self.shared.traffic;
        View {
            name: name.to_owned(),
            role,
            network: self.network.clone(),
            address,
            ports: ports.clone(),
            connections: self.shared.connections.load(Ordering::Relaxed),
            accepted: self.shared.accepted.load(Ordering::Relaxed),
            sent: traffic.sent.bytes(),
            received: traffic.received.bytes(),
            sent_rate: traffic.sent.rate(),
            received_rate: traffic.received.rate(),
            rate: traffic.pace.rate(),
            error: self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Shared {
    /// Carries a connection's bytes, both ways.
    async fn carry(
        &self,
        local: UnixStream,
        network: impl tokio::io::AsyncRead + tokio::io::AsyncWrite,
    ) -> Result<(), String> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        // Also where the task is ended.
        let _one_less = OneLess(&self.connections);
        relay::relay(local, network, &self.traffic).await.map_err(|error| format!("the connection broke off: {error}"))
    }

    /// Takes note of how a connection has ended.
    fn ended(&self, result: Result<(), String>) {
        let Err(error) = result else { return };
        let mut last = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is in the network could fill the log.
        if last.as_ref() != Some(&error) {
            tracing::warn!(migration = self.name, "{error}");
        }
        *last = Some(error);
    }
}

/// Accepts what the network sends, while there are not too many.
async fn receive(listener: TcpListener, target: PathBuf, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        // Without a place the stream is dropped here.
        let place = Arc::clone(&places).try_acquire_owned();
        let stranger = Arc::clone(&strangers).try_acquire_owned();
        let (Ok(place), Ok(stranger)) = (place, stranger) else { continue };
        let (target, shared) = (target.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let _place = place;
            let result = take(stream, &target, &shared, stranger).await;
            shared.ended(result.map_err(|error| format!("from {}: {error}", from.ip())));
        });
    }
}

/// One connection of the network's, at the target. `stranger`: its place until it has shown a certificate.
async fn take(stream: TcpStream, target: &Path, shared: &Shared, stranger: impl Send) -> Result<(), String> {
    relay::watch(&stream).map_err(|error| error.to_string())?;
    match &shared.settings.tls {
        Some(tls) => {
            let handshake = TlsAcceptor::from(Arc::clone(&tls.current().server)).accept(stream);
            let stream = within(handshake).await.map_err(|error| untrusted(&error))?;
            drop(stranger);
            hand_on(stream, target, shared).await
        }
        None => hand_on(stream, target, shared).await,
    }
}

/// Carries what a connection brings to the socket that it is for.
async fn hand_on(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite,
    target: &Path,
    shared: &Shared,
) -> Result<(), String> {
    let local = within(UnixStream::connect(target)).await;
    let local = local.map_err(|error| format!("{} cannot be reached: {error}", target.display()))?;
    shared.carry(local, stream).await
}

/// Accepts what libvirt and QEMU send, while there are not too many.
async fn send(listener: UnixListener, own: IpAddr, to: SocketAddr, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((local, _)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let _place = place;
            let result = bring(local, own, to, &shared).await;
            shared.ended(result.map_err(|error| format!("to {to}: {error}")));
        });
    }
}

/// One connection of libvirt's or QEMU's, at the source.
async fn bring(local: UnixStream, own: IpAddr, to: SocketAddr, shared: &Shared) -> Result<(), String> {
    let stream = within(relay::connect(own, to)).await.map_err(|error| format!("no connection: {error}"))?;
    match &shared.settings.tls {
        Some(tls) => {
            let connector = TlsConnector::from(Arc::clone(&tls.current().client));
            let handshake = connector.connect(tls.peer_name(to.ip()), stream);
            let stream = within(handshake).await.map_err(|error| untrusted(&error))?;
            shared.carry(local, stream).await
        }
        None => shared.carry(local, stream).await,
    }
}

struct OneLess<'c>(&'c AtomicU32);

impl Drop for OneLess<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why there is no TLS, and what to do.
fn untrusted(error: &io::Error) -> String {
    format!("TLS fails: {error}; each host's certificate must be signed by the authority that the other one has")
}

/// What takes too long is an error.
async fn within<T>(action: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let result = tokio::time::timeout(PATIENCE, action).await;
    result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A socket's name, which goes with it.
#[derive(Debug)]
struct Named(PathBuf);

impl Drop for Named {
    fn drop(&mut self) {
        // Whoever may write to the folder may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens at a path, in place of a socket that was left there. Who may connect is a matter of the folder: whoever gets there may write
/// to the socket.
fn listen_at(path: &Path) -> io::Result<(UnixListener, Named)> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket has this name")),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    let named = Named(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok((listener, named))
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Target => "target",
            Self::Source => "source",
        })
    }
}

/// Migrations at a time.
pub const MAX_MIGRATIONS: usize = 64;
/// Connections of a channel at a time: QEMU's multifd has up to 255.
const MAX_CONNECTIONS: usize = 260;
/// Connections that have not shown a certificate yet.
const MAX_STRANGERS: usize = 32;
/// How long a step of a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

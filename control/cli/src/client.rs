//! The connection to culvertd, and its errors as sentences.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use culvert_api::MAX_ANSWER_BYTES;
use culvert_api::socket_address::SocketAddress;
use culvert_api::v1::culvert_client::CulvertClient;
use culvert_api::v1::migrations_client::MigrationsClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// culvertd's methods.
pub type Client = CulvertClient<Channel>;
/// Those of its migration proxy.
pub type MigrationClient = MigrationsClient<Channel>;

/// culvertd cannot be reached; the text says why and what to do.
#[derive(Debug)]
pub struct Unreachable(String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// Connects to the culvertd that listens on `socket`.
///
/// # Errors
/// [`Unreachable`].
pub async fn connect(socket: &Path) -> Result<Client> {
    let channel = channel(socket).await?;
    Ok(CulvertClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
}

/// Connects to the migration proxy of the culvertd that listens on `control_socket`.
///
/// # Errors
/// [`Unreachable`].
pub async fn connect_to_migration(control_socket: &Path) -> Result<MigrationClient> {
    let socket = control_socket.with_file_name("migration.sock");
    let has_none = !socket.exists() && control_socket.exists();
    if has_none {
        let problem =
            "culvertd has no migration proxy here; add a section [migration] to its configuration, and restart it";
        return Err(Unreachable(problem.to_owned()).into());
    }
    Ok(MigrationsClient::new(channel(&socket).await?).max_decoding_message_size(MAX_ANSWER_BYTES))
}

async fn channel(socket: &Path) -> Result<Channel> {
    let stream = open(socket).await.map_err(|error| Unreachable(explain(socket, &error)))?;
    // The channel may ask for the connection once; when that ends, the command ends.
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let hand_over = move |_| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.ok_or_else(|| io::Error::from(ErrorKind::ConnectionReset)) }
    };
    let connected = Endpoint::from_static("http://culvertd")
        .timeout(PATIENCE)
        .connect_with_connector(tower::service_fn(hand_over))
        .await;
    let closed = || Unreachable(format!("culvertd at {} closed the connection; try again", socket.display()));
    Ok(connected.map_err(|_| closed())?)
}

/// Opens the socket; through its folder's descriptor when its path is longer than a socket address.
async fn open(socket: &Path) -> io::Result<UnixStream> {
    let address = SocketAddress::new(socket)?;
    UnixStream::connect(address.path()).await
}

fn explain(socket: &Path, error: &io::Error) -> String {
    let socket = socket.display();
    let start = "start it with `culvertd --config FILE`, or name its socket with --socket";
    match error.kind() {
        ErrorKind::NotFound => format!("culvertd is not running: there is no socket {socket}; {start}"),
        ErrorKind::ConnectionRefused => format!("culvertd is not running: nobody listens on {socket}; {start}"),
        ErrorKind::PermissionDenied => {
            format!("you may not use {socket}; become root or a member of the socket's group")
        }
        _ => format!("culvertd cannot be reached at {socket}: {error}; {start}"),
    }
}

/// culvertd's refusal as a sentence.
pub fn refusal(status: &Status) -> anyhow::Error {
    match status.code() {
        Code::Unimplemented => anyhow!("this culvertd does not know that question; use the culvertctl of its version"),
        Code::Cancelled | Code::DeadlineExceeded => anyhow!("culvertd did not answer in time; see its log"),
        Code::Unknown => anyhow!("the connection to culvertd broke off; see its log"),
        _ => anyhow!("{}", status.message()),
    }
}

/// How long culvertd may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

//! One connection's bytes, both ways.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::meter::Meter;
use crate::pace::Pace;

/// What the connections of a migration share.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// To the network.
    pub sent: Meter,
    /// From the network.
    pub received: Meter,
    /// How fast may be sent.
    pub pace: Pace,
}

/// Carries bytes until both sides have ended, or one has failed.
pub(crate) async fn relay(
    local: UnixStream,
    network: impl AsyncRead + AsyncWrite,
    traffic: &Traffic,
) -> io::Result<()> {
    let (from_local, to_local) = local.into_split();
    let (from_network, to_network) = tokio::io::split(network);
    let out = copy(from_local, to_network, &traffic.sent, Some(&traffic.pace));
    let back = copy(from_network, to_local, &traffic.received, None);
    tokio::try_join!(out, back).map(drop)
}

/// Copies until the end, which it passes on.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    meter: &Meter,
    pace: Option<&Pace>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let most = pace.map_or(BUFFER_BYTES, |pace| pace.portion(BUFFER_BYTES));
        let room = buffer.get_mut(..most).unwrap_or_default();
        let count = from.read(room).await?;
        let Some(bytes) = room.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        if let Some(pace) = pace {
            pace.turn(count).await;
        }
        to.write_all(bytes).await?;
        to.flush().await?;
        meter.add(count);
    }
    // It may have gone already.
    match to.shutdown().await {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}

/// Connects from the address that this host has in the network: an answer could take another way else.
pub(crate) async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(to).await?;
    watch(&stream)?;
    Ok(stream)
}

/// Has the kernel notice when the other host has gone.
pub(crate) fn watch(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = stream.as_fd();
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    sockopt::set_tcp_user_timeout(stream, GONE_MILLISECONDS)?;
    Ok(())
}

const BUFFER_BYTES: usize = 256 * 1024;
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What nobody acknowledges for so long never arrives.
const GONE_MILLISECONDS: u32 = 60_000;

//! Datagrams are refused: the place of `datagram.rs` until it is there.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::KernelSockets;
use crate::mapping::Outbound;
use crate::packet::Payload;
use crate::sockets::datagram::{Burst, DatagramSockets, Marks, NetworkError, UdpWish};
use crate::sockets::{ListenAt, SocketId};

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl DatagramSockets for KernelSockets {
    fn open_udp(&mut self, _: u32, _: &UdpWish<'_>) -> io::Result<SocketAddr> {
        refused()
    }

    fn open_udp_listener(&mut self, _: u32, _: &ListenAt<'_>) -> io::Result<()> {
        refused()
    }

    fn open_echo(&mut self, _: u32, _: bool, _: u16, _: Outbound<'_>) -> io::Result<u16> {
        refused()
    }

    fn send_datagram(
        &mut self,
        _: SocketId,
        _: Payload<'_>,
        _: Option<u16>,
        _: Option<SocketAddr>,
        _: Marks,
    ) -> io::Result<()> {
        refused()
    }

    fn receive_datagrams(&mut self, _: SocketId, _: &mut Burst) -> io::Result<()> {
        refused()
    }

    fn receive_error(&mut self, _: SocketId, _: &mut [u8]) -> io::Result<NetworkError> {
        refused()
    }

    fn join(&mut self, _: IpAddr, _: u32) -> io::Result<()> {
        refused()
    }

    fn leave(&mut self, _: IpAddr, _: u32) {}

    fn close_datagrams(&mut self, _: SocketId) {}
}

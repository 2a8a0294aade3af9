//! What names a flow of any protocol, and where flows from outside lead.
//!
//! The flows themselves are in [`tcp::flows`](crate::tcp::flows), [`udp`](crate::udp) and [`icmp`](crate::icmp).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The two ends of a flow, in the guest's eyes. Without zones: the guest's addresses are all of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowEnds {
    /// The guest's.
    pub guest: SocketAddr,
    /// The peer's, or the group's.
    pub peer: SocketAddr,
}

impl fmt::Display for FlowEnds {
    /// `guest 192.0.2.2:5000 peer 198.51.100.7:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest {} peer {}", self.guest, self.peer)
    }
}

/// The same in 38 bytes, for keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StoredEnds {
    addresses: [StoredAddress; 2],
    ports: [u16; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct StoredAddress {
    is_v4: bool,
    /// Of IPv4 the first four.
    bytes: [u8; 16],
}

impl From<FlowEnds> for StoredEnds {
    #[inline]
    fn from(ends: FlowEnds) -> Self {
        let FlowEnds { guest, peer } = ends;
        Self { addresses: [guest.ip().into(), peer.ip().into()], ports: [guest.port(), peer.port()] }
    }
}

impl From<StoredEnds> for FlowEnds {
    #[inline]
    fn from(stored: StoredEnds) -> Self {
        let StoredEnds { addresses: [guest, peer], ports } = stored;
        Self { guest: SocketAddr::new(guest.into(), ports[0]), peer: SocketAddr::new(peer.into(), ports[1]) }
    }
}

impl From<IpAddr> for StoredAddress {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                Self { is_v4: true, bytes: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] }
            }
            IpAddr::V6(address) => Self { is_v4: false, bytes: address.octets() },
        }
    }
}

impl From<StoredAddress> for IpAddr {
    #[inline]
    fn from(stored: StoredAddress) -> Self {
        let [a, b, c, d, ..] = stored.bytes;
        if stored.is_v4 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(stored.bytes).into() }
    }
}

/// Where what arrives at a forwarded port goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address; the guest's where it is `None`.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was() {
        let all = [
            ("192.0.2.2:5000", "198.51.100.7:80"),
            ("[2001:db8::2]:5000", "[2001:db8::7]:80"),
            ("0.0.0.0:0", "[::ffff:1.2.3.4]:65535"),
        ];
        for (guest, peer) in all {
            let ends = FlowEnds { guest: guest.parse().unwrap(), peer: peer.parse().unwrap() };
            assert_eq!(FlowEnds::from(StoredEnds::from(ends)), ends);
        }
        let one = FlowEnds { guest: "1.2.3.4:1".parse().unwrap(), peer: "5.6.7.8:1".parse().unwrap() };
        let other = FlowEnds { guest: "[102:304::]:1".parse().unwrap(), peer: "[506:708::]:1".parse().unwrap() };
        assert_ne!(StoredEnds::from(one), StoredEnds::from(other));
        assert_eq!(size_of::<StoredEnds>(), 38);
    }
}

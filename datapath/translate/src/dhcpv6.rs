//! DHCPv6 (RFC 8415): the one address of the guest, for ever.
//!
//! There is no table of leases: the same question has the same answer. Reading is in `request`, the options of an
//! answer are in `options`. What a client asks for besides one address (further ones, temporary ones, prefixes) it is
//! told that there is none of.
//!
//! Called by the translator with each UDP datagram to [`SERVER_PORT`], wherever it is sent, and these go nowhere else.

mod options;
mod request;

use std::net::{Ipv6Addr, SocketAddrV6};

use crate::guest::Guest;
use crate::reply::{self, Link};
use crate::settings::Settings;

use options::Answer;
use request::{Kind, Request};

/// UDP port of servers. What the guest sends there is for us, answered or not.
pub const SERVER_PORT: u16 = 547;

/// The reply to a frame of the guest's, both from the Ethernet header on; `None` where there is none.
pub fn answer(settings: &Settings, _guest: &Guest, frame: &[u8]) -> Option<Vec<u8>> {
    let v6 = settings.v6.as_ref().filter(|_| settings.services.dhcpv6)?;
    let (mac, source, destination, message) = reply::read_udp_v6(frame)?;
    if destination.port() != SERVER_PORT || !is_host(*source.ip()) {
        return None;
    }
    let request = Request::parse(message)?;
    let duid = server_id(settings);
    let answer = decide(v6.address, &duid, &request)?;
    reply::udp_v6(
        Link { source: settings.mac, destination: mac },
        SocketAddrV6::new(v6.link_local, SERVER_PORT, 0, 0),
        SocketAddrV6::new(*source.ip(), CLIENT_PORT, 0, 0),
        &options::message_of(settings, v6, &duid, &request, answer),
    )
}

/// RFC 8415, sections 16 and 18.3. `None`: no answer.
fn decide(address: Ipv6Addr, duid: &[u8], request: &Request) -> Option<Answer> {
    let named = match &request.server {
        Some(server) if server != duid => return None,
        server => server.is_some(),
    };
    if request.client.is_none() && request.kind != Kind::InformationRequest {
        return None;
    }
    match request.kind {
        Kind::Solicit if named => None,
        Kind::Solicit if request.rapid_commit => Some(Answer::Lease { rapid_commit: true }),
        Kind::Solicit => Some(Answer::Advertise),
        Kind::Request | Kind::Renew if !named => None,
        Kind::Rebind if named => None,
        Kind::Request | Kind::Renew | Kind::Rebind => Some(Answer::Lease { rapid_commit: false }),
        // Section 18.3.3: silence where no address was asked about.
        Kind::Confirm if named || request.addresses().next().is_none() => None,
        Kind::Confirm if request.addresses().all(|asked| asked == address) => Some(Answer::Status(Status::Success)),
        Kind::Confirm => Some(Answer::Status(Status::NotOnLink)),
        Kind::Release | Kind::Decline if !named => None,
        Kind::Release | Kind::Decline => Some(Answer::Status(Status::Success)),
        Kind::InformationRequest => Some(Answer::Parameters),
    }
}

/// RFC 8415, section 11.4 (DUID-LL): the same after a restart, and wherever the guest is moved to.
fn server_id(settings: &Settings) -> Vec<u8> {
    let mut duid = vec![0, 3, 0, 1];
    duid.extend(settings.mac.0);
    duid
}

fn is_host(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

/// RFC 8415, section 21.13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Success = 0,
    NoAddrsAvail = 2,
    NotOnLink = 4,
    NoPrefixAvail = 6,
}

const CLIENT_PORT: u16 = 546;

#[cfg(test)]
mod tests;

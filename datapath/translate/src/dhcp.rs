//! DHCP (RFC 2131) and BOOTP (RFC 951): the one address of the guest, for ever.
//!
//! There is no table of leases: the same question has the same answer. A client that holds an address which is no
//! longer the pod's hears so at its next question (DHCPNAK); releasing or declining an address changes nothing. Reading
//! is in `request`, the options of an answer are in `options`.
//!
//! Called by the translator with each UDP datagram to [`SERVER_PORT`], wherever it is sent, and these go nowhere else.

mod options;
mod request;

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::guest::Guest;
use crate::reply::{self, Link};
use crate::settings::{Ipv4, Settings};

use options::Options;
use request::{MessageType, Request};

/// UDP port of servers. What the guest sends there is for us, answered or not.
pub const SERVER_PORT: u16 = 67;

/// The reply to a frame of the guest's, both from the Ethernet header on; `None` where there is none.
pub fn answer(settings: &Settings, guest: &Guest, frame: &[u8]) -> Option<Vec<u8>> {
    let v4 = settings.v4.as_ref().filter(|_| settings.services.dhcp)?;
    let (mac, _, destination, message) = reply::read_udp_v4(frame)?;
    if destination.port() != SERVER_PORT {
        return None;
    }
    let request = Request::parse(message)?;
    let answer = decide(v4, &request)?;
    let destination = destination_of(&answer, &request);
    reply::udp_v4(
        Link { source: settings.mac, destination: reply::mac_for(destination, mac) },
        SocketAddrV4::new(v4.ours, SERVER_PORT),
        SocketAddrV4::new(destination, CLIENT_PORT),
        &message_of((settings, guest), v4, &request, &answer),
    )
}

/// What is answered, before it is put into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    /// `None`: BOOTP.
    message_type: Option<MessageType>,
    /// The address that is assigned, if one is.
    assigned: Option<Ipv4Addr>,
    /// Whether DISCOVER was answered with ACK (RFC 4039).
    rapid_commit: bool,
}

/// RFC 2131, section 4.3. `None`: no answer.
fn decide(v4: &Ipv4, request: &Request) -> Option<Answer> {
    let address = v4.address.addr();
    let assign = |message_type, rapid_commit| Some(Answer { message_type, assigned: Some(address), rapid_commit });
    let tell = |message_type| Some(Answer { message_type: Some(message_type), assigned: None, rapid_commit: false });
    match request.message_type {
        None => assign(None, false),
        Some(MessageType::Discover) if request.rapid_commit => assign(Some(MessageType::Ack), true),
        Some(MessageType::Discover) => assign(Some(MessageType::Offer), false),
        // Section 4.3.2: SELECTING names a server, INIT-REBOOT an address alone; RENEWING and REBINDING neither, but
        // have their address.
        Some(MessageType::Request) => {
            if request.server.is_some_and(|server| server != v4.ours) {
                return None;
            }
            let wanted = request.requested.or_else(|| (!request.client.is_unspecified()).then_some(request.client))?;
            if wanted == address { assign(Some(MessageType::Ack), false) } else { tell(MessageType::Nak) }
        }
        // Section 4.3.5: parameters alone, for an address that is not ours to judge.
        Some(MessageType::Inform) => tell(MessageType::Ack),
        Some(_) => None,
    }
}

/// RFC 2131, section 4.1.
fn destination_of(answer: &Answer, request: &Request) -> Ipv4Addr {
    if answer.message_type == Some(MessageType::Nak) {
        return Ipv4Addr::BROADCAST;
    }
    let client = Some(request.client).filter(|client| is_host(*client));
    let unicast = client.or(answer.assigned.filter(|_| !request.broadcast));
    unicast.unwrap_or(Ipv4Addr::BROADCAST)
}

fn is_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !address.is_broadcast()
}

/// RFC 2131, section 2 and table 3.
fn message_of((settings, guest): (&Settings, &Guest), v4: &Ipv4, request: &Request, answer: &Answer) -> Vec<u8> {
    let is_nak = answer.message_type == Some(MessageType::Nak);
    let mut message = Vec::with_capacity(MIN_MESSAGE_BYTES);
    message.extend([BOOT_REPLY, ETHERNET, MAC_BYTES, 0]);
    message.extend(request.transaction);
    message.extend([0; 2]);
    message.extend(request.flags);
    message.extend(if is_nak { [0; 4] } else { request.client.octets() });
    message.extend(answer.assigned.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    // The next server, and a relay: there is none.
    message.extend([0; 8]);
    message.extend(request.hardware);
    // The names of a server and a file: not given.
    message.extend([0; 64 + 128]);
    message.extend(MAGIC);
    message.extend(Options::of((settings, guest), v4, request, answer).into_bytes());
    if message.len() < MIN_MESSAGE_BYTES {
        message.resize(MIN_MESSAGE_BYTES, 0);
    }
    message
}

const CLIENT_PORT: u16 = 68;
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const MAC_BYTES: u8 = 6;

/// RFC 2131, section 3.
const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// RFC 951, section 3: clients may expect this much.
const MIN_MESSAGE_BYTES: usize = 300;

#[cfg(test)]
mod tests;

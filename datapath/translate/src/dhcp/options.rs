//! The options of an answer (RFC 2132): which, in which order, and as many as fit.
//!
//! First what makes it an answer: its type, our address, the time of the lease. Then what the client asked for, in its
//! order (RFC 2131, section 4.3.1, and RFC 2132, section 9.8), then the rest of what was configured. What does not fit
//! is left out: the search list name by name, other options as a whole.

use std::net::Ipv4Addr;

use super::request::{MessageType, Request};
use super::{Answer, MAGIC};
use crate::domain_name;
use crate::guest::Guest;
use crate::settings::{Ipv4, Settings};

/// Codes of options.
const MASK: u8 = 1;
const ROUTER: u8 = 3;
const RESOLVERS: u8 = 6;
const HOSTNAME: u8 = 12;
const MTU: u8 = 26;
const LEASE_TIME: u8 = 51;
pub const MESSAGE_TYPE: u8 = 53;
pub const SERVER: u8 = 54;
const MESSAGE: u8 = 56;
pub const RAPID_COMMIT: u8 = 80;
pub const FQDN: u8 = 81;
const SEARCH: u8 = 119;
const ROUTES: u8 = 121;
const END: u8 = 255;

/// Options that may be asked for, in the order in which those are sent that were not.
const PARAMETERS: [u8; 8] = [MASK, ROUTER, ROUTES, RESOLVERS, HOSTNAME, MTU, FQDN, SEARCH];

/// Options in bytes, one behind the other, without the end mark.
#[derive(Debug)]
pub struct Options {
    bytes: Vec<u8>,
    /// How long `bytes` may become.
    limit: usize,
}

impl Options {
    /// All options of an answer.
    pub fn of((settings, guest): (&Settings, &Guest), v4: &Ipv4, request: &Request, answer: &Answer) -> Self {
        let mut options = Self { bytes: Vec::with_capacity(MIN_LIMIT), limit: limit(request) };
        if let Some(message_type) = answer.message_type {
            options.put(MESSAGE_TYPE, &[message_type as u8]);
            options.put(SERVER, &v4.ours.octets());
        }
        if answer.message_type == Some(MessageType::Nak) {
            options.put(MESSAGE, REFUSED);
            return options;
        }
        if answer.rapid_commit {
            options.put(RAPID_COMMIT, &[]);
        }
        if answer.message_type.is_some() && answer.assigned.is_some() {
            options.put(LEASE_TIME, &FOR_EVER);
        }
        let mut waiting = PARAMETERS.to_vec();
        for code in request.parameters.iter().copied().chain(PARAMETERS) {
            if let Some(position) = waiting.iter().position(|waiting| *waiting == code) {
                waiting.remove(position);
                options.put_parameter(code, (settings, guest), v4, request);
            }
        }
        options
    }

    /// With the end mark.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.push(END);
        self.bytes
    }

    fn put_parameter(&mut self, code: u8, (settings, guest): (&Settings, &Guest), v4: &Ipv4, request: &Request) {
        let off_link = !v4.address.contains(&v4.gateway);
        match code {
            MASK => self.put(code, &v4.address.netmask().octets()),
            ROUTER => self.put(code, &v4.gateway.octets()),
            // RFC 3442: the gateway is on the link, and the way to all else.
            ROUTES if off_link => self.put(code, &routes(v4.gateway)),
            RESOLVERS if settings.services.dhcp_dns && !v4.resolvers.is_empty() => {
                let octets: Vec<u8> = v4.resolvers.iter().flat_map(Ipv4Addr::octets).collect();
                self.put(code, &octets);
            }
            HOSTNAME => {
                if let Some(hostname) = settings.hostname.as_ref().filter(|hostname| !hostname.is_empty()) {
                    self.put(code, hostname.as_bytes());
                }
            }
            MTU => {
                if let Some(mtu) = guest.mtu(settings) {
                    self.put(code, &mtu.to_be_bytes());
                }
            }
            FQDN => {
                if let Some(data) = settings.fqdn.as_ref().and_then(|fqdn| client_fqdn(fqdn, request.fqdn_flags)) {
                    self.put(code, &data);
                }
            }
            SEARCH if settings.services.dhcp_search => self.put_search(&settings.search),
            _ => {}
        }
    }

    /// RFC 3397: one list over as many options as it takes.
    fn put_search(&mut self, domains: &[String]) {
        let room = self.limit.saturating_sub(self.bytes.len());
        let heads = 2 * room.div_ceil(MAX_DATA + 2);
        let list = domain_name::encode_compressed(domains, room.saturating_sub(heads));
        if !list.is_empty() {
            self.put(SEARCH, &list);
        }
    }

    /// Puts an option, in pieces where it is longer than one may be (RFC 3396), or leaves it out.
    fn put(&mut self, code: u8, data: &[u8]) {
        let pieces = data.len().div_ceil(MAX_DATA).max(1);
        if self.bytes.len() + 2 * pieces + data.len() > self.limit {
            return;
        }
        let mut rest = data;
        for _ in 0..pieces {
            let (piece, behind) = rest.split_at_checked(MAX_DATA).unwrap_or((rest, &[]));
            self.bytes.push(code);
            self.bytes.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
            self.bytes.extend(piece);
            rest = behind;
        }
    }
}

/// How many bytes of options a client takes (RFC 2131, section 2; RFC 2132, section 9.10).
fn limit(request: &Request) -> usize {
    let max_size = usize::from(request.max_size.unwrap_or(0)).min(MAX_PACKET_BYTES);
    max_size.saturating_sub(HEADERS_BYTES + 1).max(MIN_LIMIT)
}

fn routes(gateway: Ipv4Addr) -> Vec<u8> {
    let mut routes = vec![32];
    routes.extend(gateway.octets());
    routes.extend([0; 4]);
    // The default route.
    routes.push(0);
    routes.extend(gateway.octets());
    routes
}

/// RFC 4702, section 2: nobody updates DNS (N), which overrides a client that asked for it (O). A client that sends
/// text gets text (E is clear), which is deprecated.
fn client_fqdn(fqdn: &str, asked: Option<u8>) -> Option<Vec<u8>> {
    const S: u8 = 1;
    const O: u8 = 2;
    const E: u8 = 4;
    const N: u8 = 8;
    let asked = asked.unwrap_or(E);
    let overridden = if asked & S != 0 { O } else { 0 };
    let name = domain_name::encode(fqdn)?;
    let mut data = vec![N | overridden | (asked & E), u8::MAX, u8::MAX];
    data.extend(if asked & E != 0 { name } else { fqdn.as_bytes().to_vec() });
    Some(data)
}

/// Infinity (RFC 2131, section 3.3).
const FOR_EVER: [u8; 4] = [0xff; 4];

/// For people who look at captures.
const REFUSED: &[u8] = b"not the address of this guest";

/// Longest data of one option.
const MAX_DATA: usize = 255;

/// What every client takes, without the end mark: 312 bytes with it and the magic number (RFC 2131, section 2).
const MIN_LIMIT: usize = 307;

/// From the IP header to the magic number.
const HEADERS_BYTES: usize = 20 + 8 + 236 + MAGIC.len();

/// Fits every link.
const MAX_PACKET_BYTES: usize = 1500;

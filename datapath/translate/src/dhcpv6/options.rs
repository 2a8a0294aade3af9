//! The options of an answer (RFC 8415, section 21; RFC 3646; RFC 4704).

use std::net::Ipv6Addr;

use super::Status;
use super::request::{Association, Kind, Purpose, Request};
use crate::domain_name;
use crate::settings::{Ipv6, Settings};

/// Codes of options.
pub const CLIENT_ID: u16 = 1;
pub const SERVER_ID: u16 = 2;
pub const IA_ADDRESS: u16 = 5;
const PREFERENCE: u16 = 7;
const STATUS: u16 = 13;
pub const RAPID_COMMIT: u16 = 14;
const RESOLVERS: u16 = 23;
const SEARCH: u16 = 24;
const FQDN: u16 = 39;

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The address is to be had.
    Advertise,
    /// The address is the client's.
    Lease {
        /// A Solicit was answered at once (section 18.3.1).
        rapid_commit: bool,
    },
    /// Parameters without an address.
    Parameters,
    /// Nothing but this.
    Status(Status),
}

/// A whole message (section 8).
pub fn message_of(settings: &Settings, v6: &Ipv6, duid: &[u8], request: &Request, answer: Answer) -> Vec<u8> {
    let mut message = vec![if answer == Answer::Advertise { ADVERTISE } else { REPLY }];
    message.extend(request.transaction);
    if let Some(client) = &request.client {
        put(&mut message, CLIENT_ID, client);
    }
    put(&mut message, SERVER_ID, duid);
    match answer {
        Answer::Status(status) => {
            put(&mut message, STATUS, &(status as u16).to_be_bytes());
            return message;
        }
        // Nobody else is going to answer: why wait (section 18.2.1)?
        Answer::Advertise => put(&mut message, PREFERENCE, &[u8::MAX]),
        Answer::Lease { rapid_commit: true } => put(&mut message, RAPID_COMMIT, &[]),
        Answer::Lease { rapid_commit: false } | Answer::Parameters => {}
    }
    if answer != Answer::Parameters {
        put_associations(&mut message, v6.address, request);
    }
    put_parameters(&mut message, settings, v6);
    message
}

/// The first association for addresses that are not temporary gets the one there is.
fn put_associations(message: &mut Vec<u8>, address: Ipv6Addr, request: &Request) {
    let mut free = !address.is_unspecified();
    for association in &request.associations {
        match association.purpose {
            Purpose::Address if free => {
                free = false;
                put_address(message, address, request.kind, association);
            }
            Purpose::Address | Purpose::TemporaryAddress => refuse(message, association, Status::NoAddrsAvail),
            Purpose::Prefix => refuse(message, association, Status::NoPrefixAvail),
        }
    }
}

/// Sections 18.3.2, 18.3.4 and 18.3.5. Addresses that a client should not have any more come with it, with lifetimes of
/// zero, unless it asks for one for the first time: then it is told that it came to another link.
fn put_address(message: &mut Vec<u8>, address: Ipv6Addr, kind: Kind, association: &Association) {
    let foreign = association.addresses.iter().filter(|asked| **asked != address);
    if kind == Kind::Request && foreign.clone().next().is_some() {
        return refuse(message, association, Status::NotOnLink);
    }
    let mut data = association.id.to_vec();
    // T1 and T2.
    data.extend([0xff; 8]);
    put_lifetimes(&mut data, address, u32::MAX);
    if matches!(kind, Kind::Renew | Kind::Rebind) {
        foreign.for_each(|foreign| put_lifetimes(&mut data, *foreign, 0));
    }
    put(message, association.purpose as u16, &data);
}

/// Section 21.6, both lifetimes in seconds.
fn put_lifetimes(data: &mut Vec<u8>, address: Ipv6Addr, lifetime: u32) {
    let mut option = address.octets().to_vec();
    option.extend(lifetime.to_be_bytes());
    option.extend(lifetime.to_be_bytes());
    put(data, IA_ADDRESS, &option);
}

/// An association with nothing in it but why.
fn refuse(message: &mut Vec<u8>, association: &Association, status: Status) {
    let mut data = association.id.to_vec();
    if association.purpose != Purpose::TemporaryAddress {
        data.extend([0; 8]);
    }
    put(&mut data, STATUS, &(status as u16).to_be_bytes());
    put(message, association.purpose as u16, &data);
}

fn put_parameters(message: &mut Vec<u8>, settings: &Settings, v6: &Ipv6) {
    if settings.services.dhcp_dns && !v6.resolvers.is_empty() {
        let resolvers = v6.resolvers.iter().take(MAX_RESOLVERS);
        put(message, RESOLVERS, &resolvers.flat_map(Ipv6Addr::octets).collect::<Vec<_>>());
    }
    if settings.services.dhcp_search {
        put_search(message, &settings.search);
    }
    if let Some(name) = settings.fqdn.as_ref().and_then(|fqdn| domain_name::encode(fqdn)) {
        // RFC 4704, section 4.1: nobody updates DNS (N).
        let mut data = vec![4];
        data.extend(name);
        put(message, FQDN, &data);
    }
}

/// RFC 3646, section 4: names that are not compressed (RFC 8415, section 10).
fn put_search(message: &mut Vec<u8>, domains: &[String]) {
    let mut list = Vec::new();
    for name in domains.iter().filter_map(|domain| domain_name::encode(domain)) {
        if list.len() + name.len() > MAX_SEARCH_BYTES {
            break;
        }
        list.extend(name);
    }
    if !list.is_empty() {
        put(message, SEARCH, &list);
    }
}

/// Section 21.1. What is put is far shorter than an option may be.
fn put(message: &mut Vec<u8>, code: u16, data: &[u8]) {
    let Ok(length) = u16::try_from(data.len()) else { return };
    message.extend(code.to_be_bytes());
    message.extend(length.to_be_bytes());
    message.extend(data);
}

const ADVERTISE: u8 = 2;
const REPLY: u8 = 7;

/// The answer stays below the least MTU of IPv6, 1,280 bytes, with these.
const MAX_RESOLVERS: usize = 8;
const MAX_SEARCH_BYTES: usize = 256;

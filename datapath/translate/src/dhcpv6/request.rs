//! What a client says (RFC 8415, sections 8 and 21), checked.
//!
//! A message is read as a whole or not at all: one option that runs past its end, or one of those that matter that is
//! shorter than it can be, and there is no answer.

use std::net::Ipv6Addr;

/// A client's message, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asks.
    pub kind: Kind,
    /// To be repeated.
    pub transaction: [u8; 3],
    /// Option 1: a DUID of at most 130 bytes, to be repeated.
    pub client: Option<Vec<u8>>,
    /// Option 2: the server that is meant.
    pub server: Option<Vec<u8>>,
    /// Options 3, 4 and 25, in order, up to [`MAX_ASSOCIATIONS`] of them.
    pub associations: Vec<Association>,
    /// Option 14.
    pub rapid_commit: bool,
}

/// Message types of clients (RFC 8415, section 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1
    Solicit,
    /// 3
    Request,
    /// 4
    Confirm,
    /// 5
    Renew,
    /// 6
    Rebind,
    /// 8
    Release,
    /// 9
    Decline,
    /// 11
    InformationRequest,
}

/// An identity association: what a client groups its addresses by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// What it is for.
    pub purpose: Purpose,
    /// To be repeated.
    pub id: [u8; 4],
    /// The addresses in it, up to [`MAX_ADDRESSES`] of them.
    pub addresses: Vec<Ipv6Addr>,
}

/// The option that an association is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// IA_NA.
    Address = 3,
    /// IA_TA.
    TemporaryAddress = 4,
    /// IA_PD.
    Prefix = 25,
}

impl Request {
    /// Reads the payload of a UDP datagram. `None`: no message of a client on this link.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let ([kind, transaction @ ..], options) = message.split_first_chunk::<4>()?;
        let mut request = Self {
            kind: Kind::of(*kind)?,
            transaction: *transaction,
            client: None,
            server: None,
            associations: Vec::new(),
            rapid_commit: false,
        };
        for_each_option(options, |code, data| request.read_option(code, data))?;
        Some(request)
    }

    /// All addresses asked for or about.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.associations.iter().flat_map(|association| association.addresses.iter().copied())
    }

    fn read_option(&mut self, code: u16, data: &[u8]) -> Option<()> {
        match code {
            super::options::CLIENT_ID => self.client = Some(duid(data)?),
            super::options::SERVER_ID => self.server = Some(duid(data)?),
            IA_NA => self.read_association(Purpose::Address, data, 8)?,
            IA_TA => self.read_association(Purpose::TemporaryAddress, data, 0)?,
            IA_PD => self.read_association(Purpose::Prefix, data, 8)?,
            super::options::RAPID_COMMIT => self.rapid_commit = true,
            _ => {}
        }
        Some(())
    }

    /// `times` bytes of lifetimes, which are ours to choose, are passed over.
    fn read_association(&mut self, purpose: Purpose, data: &[u8], times: usize) -> Option<()> {
        let (id, rest) = data.split_first_chunk::<4>()?;
        let mut addresses = Vec::new();
        for_each_option(rest.get(times..)?, |code, data| {
            if code == super::options::IA_ADDRESS {
                let (address, rest) = data.split_first_chunk::<16>()?;
                rest.first_chunk::<8>()?;
                if addresses.len() < MAX_ADDRESSES {
                    addresses.push(Ipv6Addr::from(*address));
                }
            }
            Some(())
        })?;
        if self.associations.len() < MAX_ASSOCIATIONS {
            self.associations.push(Association { purpose, id: *id, addresses });
        }
        Some(())
    }
}

impl Kind {
    fn of(message_type: u8) -> Option<Self> {
        Some(match message_type {
            1 => Self::Solicit,
            3 => Self::Request,
            4 => Self::Confirm,
            5 => Self::Renew,
            6 => Self::Rebind,
            8 => Self::Release,
            9 => Self::Decline,
            11 => Self::InformationRequest,
            _ => return None,
        })
    }
}

/// RFC 8415, section 21.1. `None`: they do not fill `bytes` exactly, or `read` did not like one.
fn for_each_option(mut bytes: &[u8], mut read: impl FnMut(u16, &[u8]) -> Option<()>) -> Option<()> {
    while !bytes.is_empty() {
        let ([a, b, c, d], rest) = bytes.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*c, *d])))?;
        read(u16::from_be_bytes([*a, *b]), data)?;
        bytes = rest;
    }
    Some(())
}

/// RFC 8415, section 11.1.
fn duid(data: &[u8]) -> Option<Vec<u8>> {
    (3..=MAX_DUID_BYTES).contains(&data.len()).then(|| data.to_vec())
}

const IA_NA: u16 = Purpose::Address as u16;
const IA_TA: u16 = Purpose::TemporaryAddress as u16;
const IA_PD: u16 = Purpose::Prefix as u16;

/// A type, and up to 128 bytes.
const MAX_DUID_BYTES: usize = 130;

/// More are not answered: the answer stays small.
const MAX_ASSOCIATIONS: usize = 8;
const MAX_ADDRESSES: usize = 8;

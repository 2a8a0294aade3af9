//! What a client says (RFC 2131, section 2; RFC 2132), checked.
//!
//! A message is read as a whole or not at all: one option that runs past its end, or one of those that matter with a
//! length that it cannot have, and there is no answer.

use std::net::Ipv4Addr;

use super::{BOOT_REQUEST, ETHERNET, MAC_BYTES, MAGIC};

/// A client's message, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `xid`, to be repeated.
    pub transaction: [u8; 4],
    /// `flags`, to be repeated.
    pub flags: [u8; 2],
    /// Whether the client cannot hear unicast before it has its address.
    pub broadcast: bool,
    /// `ciaddr`: the address that the client has and answers for.
    pub client: Ipv4Addr,
    /// `chaddr`, to be repeated.
    pub hardware: [u8; 16],
    /// Option 53; `None`: BOOTP.
    pub message_type: Option<MessageType>,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 55: what the client wants to know, in its order.
    pub parameters: Vec<u8>,
    /// Option 57, in bytes, from the IP header on.
    pub max_size: Option<u16>,
    /// Option 80 (RFC 4039).
    pub rapid_commit: bool,
    /// The flags of option 81 (RFC 4702, section 2.1).
    pub fqdn_flags: Option<u8>,
}

/// Option 53 (RFC 2132, section 9.6), as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// DHCPDISCOVER
    Discover = 1,
    /// DHCPOFFER
    Offer = 2,
    /// DHCPREQUEST
    Request = 3,
    /// DHCPACK
    Ack = 5,
    /// DHCPNAK
    Nak = 6,
    /// DHCPINFORM
    Inform = 8,
    /// Any other.
    Other = 255,
}

impl Request {
    /// Reads the payload of a UDP datagram. `None`: no message of a client on this link, by way of Ethernet.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (header, options) = message.split_first_chunk::<HEADER_BYTES>()?;
        let [BOOT_REQUEST, ETHERNET, MAC_BYTES, ..] = *header else { return None };
        let relay: [u8; 4] = field(header, 24)?;
        if relay != [0; 4] || field(header, 236)? != MAGIC {
            return None;
        }
        let flags: [u8; 2] = field(header, 10)?;
        let mut request = Self {
            transaction: field(header, 4)?,
            flags,
            broadcast: flags[0] & 0x80 != 0,
            client: Ipv4Addr::from(field::<4>(header, 12)?),
            hardware: field(header, 28)?,
            message_type: None,
            requested: None,
            server: None,
            parameters: Vec::new(),
            max_size: None,
            rapid_commit: false,
            fqdn_flags: None,
        };
        let overload = request.read_options(options)?;
        // Section 4.1: `file` before `sname`.
        if overload & 1 != 0 {
            request.read_options(&field::<128>(header, 108)?)?;
        }
        if overload & 2 != 0 {
            request.read_options(&field::<64>(header, 44)?)?;
        }
        Some(request)
    }

    /// Reads options up to the end mark, or the end of `bytes`: some clients send no mark. Gives option 52, which says
    /// where more are. `None`: they are malformed.
    fn read_options(&mut self, mut bytes: &[u8]) -> Option<u8> {
        let mut overload = 0;
        loop {
            let [code, rest @ ..] = bytes else { return Some(overload) };
            match *code {
                PAD => bytes = rest,
                END => return Some(overload),
                code => {
                    let (length, rest) = rest.split_first()?;
                    let (data, rest) = rest.split_at_checked(usize::from(*length))?;
                    bytes = rest;
                    match code {
                        OVERLOAD => overload = *data.first()?,
                        code => self.read_option(code, data)?,
                    }
                }
            }
        }
    }

    fn read_option(&mut self, code: u8, data: &[u8]) -> Option<()> {
        match code {
            super::options::MESSAGE_TYPE => {
                let [message_type] = *data else { return None };
                self.message_type = Some(MessageType::of(message_type));
            }
            REQUESTED_ADDRESS => self.requested = Some(address(data)?),
            super::options::SERVER => self.server = Some(address(data)?),
            // RFC 3396: a list in pieces.
            PARAMETERS => self.parameters.extend(data),
            MAX_SIZE => self.max_size = Some(u16::from_be_bytes(data.try_into().ok()?)),
            super::options::RAPID_COMMIT => self.rapid_commit = true,
            super::options::FQDN => self.fqdn_flags = Some(*data.first()?),
            _ => {}
        }
        Some(())
    }
}

impl MessageType {
    fn of(code: u8) -> Self {
        match code {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            5 => Self::Ack,
            6 => Self::Nak,
            8 => Self::Inform,
            _ => Self::Other,
        }
    }
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = data.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], offset: usize) -> Option<[u8; N]> {
    header.get(offset..)?.first_chunk().copied()
}

/// Up to the magic number, with it.
const HEADER_BYTES: usize = 240;

/// Codes of options that only clients send.
const PAD: u8 = 0;
const END: u8 = 255;
const REQUESTED_ADDRESS: u8 = 50;
const OVERLOAD: u8 = 52;
const PARAMETERS: u8 = 55;
const MAX_SIZE: u8 = 57;

//! A guest that moves to another machine while it runs: what its translator there has to know, as a stream of bytes.
//!
//! The stream is vhost-user's device state (SET_DEVICE_STATE_FD), which the frontend carries over. It begins with a mark and a
//! version; records follow, each a kind, a length and a body; the last one tells how many there were. What is not understood
//! is refused as a whole: the guest stays where it is then. What is in it was another translator's, but whoever carries it may
//! have changed it, so each field is checked, and flows may lead only where this translator lets its guest go.
//!
//! Here is what is said ([`State`]) and how ([`fields`]); why a flow does not come along is in [`lost`]. What becomes of it
//! is for the protocols (`moving` in [`crate::tcp::flows`], [`crate::udp`], [`crate::icmp`]) and for
//! [`Translator`](crate::translator::Translator).

pub mod fields;
pub mod lost;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use culvert_frame::MacAddress;

use crate::context::Context;
use crate::flow::FlowEnds;
use crate::forward::{Protocol, Rule};
use crate::guest::Guest;
use crate::icmp::EchoState;
use crate::mapping;
use crate::settings::Settings;
use crate::sockets::Host;
use crate::sockets::moving::StreamState;
use crate::tcp::SavedConnection;
use crate::udp::UdpState;
use fields::{Field, fields};
use lost::Lost;

/// The largest stream that is written or read, in bytes.
pub const MAX_BYTES: usize = 256 << 20;

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What the guest was told.
    pub told: Told,
    /// What was learned of it.
    pub guest: Guest,
    /// The clock of timestamps towards the guest, in milliseconds; it wraps.
    pub clock: u32,
    /// The groups that it listens to.
    pub groups: Vec<IpAddr>,
    /// Which ports lead to it.
    pub forwards: Vec<Rule>,
    /// Flows of UDP.
    pub udp: Vec<UdpState>,
    /// Flows of echo.
    pub echo: Vec<EchoState>,
    /// Connections.
    pub tcp: Vec<TcpState>,
}

/// What the guest was told of its network: its lease, and who we are for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Our MAC address.
    pub mac: MacAddress,
    /// IPv4, if it has that.
    pub v4: Option<ToldV4>,
    /// IPv6, if it has that.
    pub v6: Option<ToldV6>,
}

/// IPv4 as the guest was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldV4 {
    /// The address that it leases.
    pub address: Ipv4Addr,
    /// Its prefix, in bits.
    pub prefix: u8,
    /// Its gateway.
    pub gateway: Ipv4Addr,
    /// The address from which we answer.
    pub ours: Ipv4Addr,
}

/// IPv6 as the guest was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldV6 {
    /// The address that it is assigned.
    pub address: Ipv6Addr,
    /// The gateway, as the host knows it.
    pub gateway: Ipv6Addr,
    /// The router's link-local address.
    pub link_local: Ipv6Addr,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpState {
    /// Which one.
    pub ends: FlowEnds,
    /// Which thread had it.
    pub lane: u8,
    /// Towards the guest.
    pub connection: SavedConnection,
    /// Towards the far end. `None`: it has none, or it could not be read.
    pub stream: Option<StreamState>,
}

impl TcpState {
    /// Whether it can be one.
    pub fn is_whole(&self) -> bool {
        let is_stream = self.stream.as_ref().is_none_or(StreamState::is_whole);
        let has_ports = self.ends.guest.port() != 0 && self.ends.peer.port() != 0;
        let waiting = self
            .stream
            .as_ref()
            .map_or(u32::MAX, |stream| u32::try_from(stream.receive_queue.len()).unwrap_or(u32::MAX));
        // What the guest has not acknowledged is sent again out of the queue.
        let has_all = self.connection.in_flight() <= waiting;
        // What each side knows of its end, the other does.
        let is_agreed = self.stream.as_ref().is_none_or(|stream| self.connection.agrees_with(stream));
        let is_one_family =
            self.stream.as_ref().is_none_or(|stream| stream.local.is_ipv4() == self.ends.peer.is_ipv4());
        is_stream
            && fields::is_readable(&self.ends)
            && has_ports
            && has_all
            && is_agreed
            && is_one_family
            && self.connection.is_whole()
    }
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// It does not begin as such.
    #[error("this is no state of a culvert-translator: the guest's source has another backend")]
    Foreign,
    /// Another version.
    #[error(
        "the state has version {0}, and this culvert-translator reads {VERSION}: use the same version at both places"
    )]
    Version(u16),
    /// It ends too early.
    #[error("the state ends too early")]
    Short,
    /// It is longer than [`MAX_BYTES`].
    #[error("the state has more than {MAX_BYTES} bytes")]
    Long,
    /// A field has a value that it cannot have.
    #[error("the state is damaged: {0} cannot be what it says")]
    Value(&'static str),
    /// A record that is unknown, or one too many.
    #[error("the state is damaged: a record of kind {0} is unknown or one too many")]
    Record(u8),
    /// Bytes follow its end.
    #[error("the state is damaged: bytes follow its end")]
    Trailing,
}

/// Why a state does not fit a translator: the guest stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Our MAC address differs.
    #[error(
        "the guest knows its gateway as {there}, here it would be {here}: start both translators with the same MAC address"
    )]
    Mac {
        /// As the guest knows it.
        there: MacAddress,
        /// As it is here.
        here: MacAddress,
    },
    /// It has a family of addresses that there is not here.
    #[error("the guest has {0}, which this pod has not")]
    Family(&'static str),
}

impl Told {
    /// What a guest is told by these settings.
    pub fn of(settings: &Settings) -> Self {
        let v4 = settings.v4.as_ref().map(|v4| ToldV4 {
            address: v4.address.addr(),
            prefix: v4.address.prefix_len(),
            gateway: v4.gateway,
            ours: v4.ours,
        });
        let v6 = settings.v6.as_ref().map(|v6| ToldV6 {
            address: v6.address,
            gateway: v6.gateway,
            link_local: v6.link_local,
        });
        Self { mac: settings.mac, v4, v6 }
    }

    /// Whether a guest that was told this can live with these settings.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, settings: &Settings) -> Result<(), Misfit> {
        if self.mac != settings.mac {
            return Err(Misfit::Mac { there: self.mac, here: settings.mac });
        }
        if self.v4.is_some() && settings.v4.is_none() {
            return Err(Misfit::Family("IPv4"));
        }
        if self.v6.is_some() && settings.v6.is_none() {
            return Err(Misfit::Family("IPv6"));
        }
        Ok(())
    }

    /// Makes `settings` those by which this guest goes on: the router keeps the addresses by which the guest knows it. The
    /// pod's own addresses stay what they are. Returns the settings by which the guest is told of its addresses: its lease
    /// stays, whatever the pod has here.
    pub fn adopt(&self, settings: &mut Settings) -> Settings {
        if let (Some(told), Some(v4)) = (&self.v4, &mut settings.v4) {
            if v4.mapping.host_loopback == Some(v4.gateway) {
                v4.mapping.host_loopback = Some(told.gateway);
            }
            (v4.gateway, v4.ours) = (told.gateway, told.ours);
        }
        if let (Some(told), Some(v6)) = (&self.v6, &mut settings.v6) {
            if v6.mapping.host_loopback == Some(v6.gateway) {
                v6.mapping.host_loopback = Some(told.gateway);
            }
            (v6.gateway, v6.link_local) = (told.gateway, told.link_local);
        }
        let mut leased = settings.clone();
        if let (Some(told), Some(v4)) = (&self.v4, &mut leased.v4)
            && let Ok(address) = ipnet::Ipv4Net::new(told.address, told.prefix)
        {
            v4.address = address;
        }
        if let (Some(told), Some(v6)) = (&self.v6, &mut leased.v6) {
            v6.address = told.address;
        }
        leased
    }
}

/// Whether a flow with these ends may lead to `far`, on the host's side: one that the guest begins with such a peer would lead
/// there, or one that begins there would have such a peer.
///
/// # Errors
/// [`Lost::NotAllowed`].
pub(crate) fn permit<S: Host, L>(ctx: &mut Context<'_, S, L>, ends: &FlowEnds, far: SocketAddr) -> Result<(), Lost> {
    let same = |one: SocketAddr, other: SocketAddr| (one.ip(), one.port()) == (other.ip(), other.port());
    if ctx.towards_host(ends.peer).is_ok_and(|to| same(to, far)) {
        return Ok(());
    }
    let seen = mapping::towards_guest(ctx.settings, ctx.guest, far.ip()).map(|(seen, _)| seen);
    let is_seen_so = seen.is_ok_and(|seen| seen == ends.peer.ip()) && ends.peer.port() == far.port();
    let is_elsewhere = !far.ip().is_loopback() && !ctx.sockets.has_address(far);
    // One who begins a flow can be answered, but not at a place that is refused.
    let is_refused = mapping::towards_host(ctx.settings, far).is_err();
    if is_seen_so && is_elsewhere && !is_refused { Ok(()) } else { Err(Lost::NotAllowed) }
}

impl State {
    /// Adds what another thread has of the same guest.
    pub fn add(&mut self, other: Self) {
        let Self { clock, groups, udp, echo, tcp, .. } = other;
        // A guest takes no segment that seems older than the last one.
        if clock.wrapping_sub(self.clock) < 1 << 31 {
            self.clock = clock;
        }
        self.groups.extend(groups);
        self.udp.extend(udp);
        self.echo.extend(echo);
        self.tcp.extend(tcp);
    }

    /// The parts of so many threads, the first one's first: each flow where it was, if there is such a thread.
    pub fn parts(self, count: usize) -> Vec<Self> {
        let count = count.max(1);
        let Self { told, guest, clock, groups, forwards, udp, echo, tcp } = self;
        let empty = |_| Self {
            told,
            guest,
            clock,
            groups: Vec::new(),
            forwards: Vec::new(),
            udp: Vec::new(),
            echo: Vec::new(),
            tcp: Vec::new(),
        };
        let mut parts: Vec<Self> = (0..count).map(empty).collect();
        for flow in udp {
            if let Some(part) = parts.get_mut(usize::from(flow.lane) % count) {
                part.udp.push(flow);
            }
        }
        for flow in tcp {
            if let Some(part) = parts.get_mut(usize::from(flow.lane) % count) {
                part.tcp.push(flow);
            }
        }
        if let Some(first) = parts.first_mut() {
            (first.groups, first.forwards, first.echo) = (groups, forwards, echo);
        }
        parts
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        MARK.write(&mut out);
        VERSION.write(&mut out);
        let mut count = 0_u32;
        let mut put = |kind: u8, body: &dyn Fn(&mut Vec<u8>)| {
            out.push(kind);
            let at = out.len();
            out.extend([0; 4]);
            body(&mut out);
            let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
            if let Some(field) = out.get_mut(at..at + 4) {
                field.copy_from_slice(&length.to_le_bytes());
            }
            count += 1;
        };
        put(NETWORK, &|out| {
            self.told.write(out);
            self.guest.write(out);
            self.clock.write(out);
        });
        self.groups.iter().for_each(|group| put(GROUP, &|out| group.write(out)));
        self.forwards.iter().for_each(|rule| put(FORWARD, &|out| rule.write(out)));
        self.udp.iter().for_each(|flow| put(UDP, &|out| flow.write(out)));
        self.echo.iter().for_each(|flow| put(ECHO, &|out| flow.write(out)));
        self.tcp.iter().for_each(|flow| put(TCP, &|out| flow.write(out)));
        out.push(END);
        4_u32.write(&mut out);
        count.write(&mut out);
        out
    }

    /// From bytes, all of them.
    ///
    /// # Errors
    /// [`Damaged`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        if bytes.len() > MAX_BYTES {
            return Err(Damaged::Long);
        }
        let mut rest = bytes;
        if <[u8; 8]>::read(&mut rest).map_err(|_| Damaged::Foreign)? != MARK {
            return Err(Damaged::Foreign);
        }
        match u16::read(&mut rest)? {
            VERSION => {}
            other => return Err(Damaged::Version(other)),
        }
        let mut network = None;
        let (mut groups, mut forwards) = (Vec::new(), Vec::new());
        let (mut udp, mut echo, mut tcp) = (Vec::new(), Vec::new(), Vec::new());
        for count in 0_u32.. {
            let kind = u8::read(&mut rest)?;
            let length = u32::read(&mut rest)? as usize;
            let (mut body, behind) = rest.split_at_checked(length).ok_or(Damaged::Short)?;
            rest = behind;
            let from = &mut body;
            match kind {
                NETWORK if network.is_none() => {
                    network = Some((Told::read(from)?, Guest::read(from)?, u32::read(from)?));
                }
                GROUP if groups.len() < MOST_GROUPS => groups.push(IpAddr::read(from)?),
                FORWARD if forwards.len() < crate::forward::MAX_RULES => forwards.push(Rule::read(from)?),
                UDP if udp.len() < MOST_FLOWS => udp.push(UdpState::read(from)?),
                ECHO if echo.len() < MOST_FLOWS => echo.push(EchoState::read(from)?),
                TCP if tcp.len() < MOST_FLOWS => tcp.push(TcpState::read(from)?),
                END => {
                    if u32::read(from)? != count {
                        return Err(Damaged::Value("the number of records"));
                    }
                    if !from.is_empty() || !rest.is_empty() {
                        return Err(Damaged::Trailing);
                    }
                    let (told, guest, clock) = network.ok_or(Damaged::Short)?;
                    return Ok(Self { told, guest, clock, groups, forwards, udp, echo, tcp });
                }
                other => return Err(Damaged::Record(other)),
            }
            if !from.is_empty() {
                return Err(Damaged::Trailing);
            }
        }
        Err(Damaged::Short)
    }
}

/// How a stream begins.
pub const MARK: [u8; 8] = *b"culvert\x01";

/// What is written and read.
pub const VERSION: u16 = 1;

/// Most flows of a kind.
const MOST_FLOWS: usize = crate::limits::MAX_FLOWS as usize;
/// Of each family there are sixteen.
const MOST_GROUPS: usize = 32;

/// Kinds of records.
const NETWORK: u8 = 1;
const GROUP: u8 = 2;
const FORWARD: u8 = 3;
const UDP: u8 = 4;
const ECHO: u8 = 5;
const TCP: u8 = 6;
const END: u8 = 0xff;

fields!(ToldV6 { address, gateway, link_local });
impl Field for FlowEnds {
    fn write(&self, out: &mut Vec<u8>) {
        self.guest.write(out);
        self.peer.write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let (guest, peer): (SocketAddr, SocketAddr) = (Field::read(from)?, Field::read(from)?);
        let is_whole = guest.is_ipv4() == peer.is_ipv4()
            && !guest.ip().is_unspecified()
            && !guest.ip().is_multicast()
            && !guest.ip().is_loopback()
            && !peer.ip().is_unspecified();
        if is_whole { Ok(Self { guest, peer }) } else { Err(Damaged::Value("the ends of a flow")) }
    }
}

impl Field for MacAddress {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let mac = Self(Field::read(from)?);
        if mac.is_group() || mac == Self::default() { Err(Damaged::Value("a MAC address")) } else { Ok(mac) }
    }
}

impl Field for Told {
    fn write(&self, out: &mut Vec<u8>) {
        self.mac.write(out);
        self.v4.write(out);
        self.v6.write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        Ok(Self { mac: Field::read(from)?, v4: Field::read(from)?, v6: Field::read(from)? })
    }
}

impl Field for ToldV4 {
    fn write(&self, out: &mut Vec<u8>) {
        self.address.write(out);
        self.prefix.write(out);
        self.gateway.write(out);
        self.ours.write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let told = Self {
            address: Field::read(from)?,
            prefix: Field::read(from)?,
            gateway: Field::read(from)?,
            ours: Field::read(from)?,
        };
        if told.prefix > 32 { Err(Damaged::Value("a prefix")) } else { Ok(told) }
    }
}

impl Field for Guest {
    fn write(&self, out: &mut Vec<u8>) {
        self.mac.write(out);
        self.v4.write(out);
        self.v6.write(out);
        self.v6_link_local.write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let guest = Self {
            mac: Field::read(from)?,
            v4: Field::read(from)?,
            v6: Field::read(from)?,
            v6_link_local: Field::read(from)?,
            // A matter of the rings here.
            longest_packet: None,
        };
        let is_host_v4 = !matches!(guest.v4.octets(), [127 | 224.., ..]);
        let is_host_v6 = !guest.v6.is_loopback() && !guest.v6.is_multicast();
        let is_link_local = guest.v6_link_local.is_none_or(|address| address.is_unicast_link_local());
        if is_host_v4 && is_host_v6 && is_link_local { Ok(guest) } else { Err(Damaged::Value("the guest's address")) }
    }
}

impl Field for Protocol {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        });
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        match u8::read(from)? {
            6 => Ok(Self::Tcp),
            17 => Ok(Self::Udp),
            _ => Err(Damaged::Value("a protocol")),
        }
    }
}

impl Field for Rule {
    fn write(&self, out: &mut Vec<u8>) {
        self.protocol.write(out);
        self.address.write(out);
        self.interface.as_deref().map(str::to_owned).write(out);
        (self.first, self.last).write(out);
        self.target.write(out);
        self.target_first.write(out);
        self.strict.write(out);
    }

    /// Whether rules contradict each other is for the table to say.
    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let protocol = Field::read(from)?;
        let address = Field::read(from)?;
        let interface: Option<String> = Field::read(from)?;
        let (first, last): (u16, u16) = Field::read(from)?;
        let rule = Self {
            protocol,
            address,
            interface: interface.map(Arc::from),
            first,
            last,
            target: Field::read(from)?,
            target_first: Field::read(from)?,
            strict: Field::read(from)?,
        };
        let is_name = rule.interface.as_deref().is_none_or(|name| (1..16).contains(&name.len()) && !name.contains('/'));
        let has_ports = first != 0 && first <= last && rule.target_first != 0;
        let has_targets = last.checked_sub(first).is_some_and(|more| rule.target_first.checked_add(more).is_some());
        if is_name && has_ports && has_targets { Ok(rule) } else { Err(Damaged::Value("a forwarded port")) }
    }
}

impl Field for StreamState {
    fn write(&self, out: &mut Vec<u8>) {
        self.local.write(out);
        self.far.write(out);
        [self.send_next, self.receive_next, self.unsent, self.mss].iter().for_each(|number| number.write(out));
        self.sack.write(out);
        self.scale.write(out);
        self.timestamp.write(out);
        self.windows.write(out);
        (self.is_shut, self.has_ended).write(out);
        self.send_queue.write(out);
        self.receive_queue.write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let (local, far) = (Field::read(from)?, Field::read(from)?);
        let [send_next, receive_next, unsent, mss] =
            [u32::read(from)?, u32::read(from)?, u32::read(from)?, u32::read(from)?];
        let (sack, scale, timestamp) = (Field::read(from)?, Field::read(from)?, Field::read(from)?);
        let windows = Field::read(from)?;
        let (is_shut, has_ended) = Field::read(from)?;
        let (send_queue, receive_queue) = (Field::read(from)?, Field::read(from)?);
        let stream = Self {
            local,
            far,
            send_next,
            receive_next,
            unsent,
            mss,
            sack,
            scale,
            timestamp,
            windows,
            is_shut,
            has_ended,
            send_queue,
            receive_queue,
        };
        if stream.is_whole() { Ok(stream) } else { Err(Damaged::Value("a stream")) }
    }
}

impl Field for TcpState {
    fn write(&self, out: &mut Vec<u8>) {
        self.ends.write(out);
        self.lane.write(out);
        self.connection.write(out);
        self.stream.write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let flow = Self {
            ends: Field::read(from)?,
            lane: Field::read(from)?,
            connection: Field::read(from)?,
            stream: Field::read(from)?,
        };
        if flow.is_whole() { Ok(flow) } else { Err(Damaged::Value("a connection")) }
    }
}

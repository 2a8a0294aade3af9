//! Interfaces of this thread's network namespace: made, changed and removed by rtnetlink(7), and one offload by ethtool's
//! messages (Linux' Documentation/networking/ethtool-netlink.rst). Each call is one request and its answer.

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};

/// A socket in the namespace in which it was made.
pub struct Netlink(Socket);

/// What is known of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// The text that was left with it.
    pub alias: String,
    /// In bytes.
    pub mtu: u32,
    /// Its address.
    pub address: Vec<u8>,
    /// Whether it is up.
    pub up: bool,
}

impl Netlink {
    /// For this thread's namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        connected(NETLINK_ROUTE).map(Self)
    }

    /// An interface by its name.
    ///
    /// # Errors
    /// The kernel's; that there is none is no error.
    pub fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answer = match exchange(&self.0, NLM_F_ACK, RouteNetlinkMessage::GetLink(question)) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => return Ok(None),
            answer => answer?,
        };
        let found = answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        Ok(found.map(|found| {
            let mut link =
                Link { index: found.header.index, up: found.header.flags.contains(LinkFlags::Up), ..Link::default() };
            for attribute in found.attributes {
                match attribute {
                    LinkAttribute::IfAlias(alias) => link.alias = alias,
                    LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                    LinkAttribute::Address(address) => link.address = address,
                    _ => {}
                }
            }
            link
        }))
    }

    /// Makes a bridge that learns and does nothing else.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_bridge(&self, name: &str) -> io::Result<()> {
        let data = vec![InfoBridge::ForwardDelay(0), InfoBridge::MulticastSnooping(false)];
        self.add(name, 0, InfoKind::Bridge, InfoData::Bridge(data))
    }

    /// Makes a pair of interfaces: `name` here, `peer` in another namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_veth(&self, name: &str, mtu: u32, peer: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let mut other = LinkMessage::default();
        other.attributes.extend([
            LinkAttribute::IfName(peer.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ]);
        self.add(name, mtu, InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(other)))
    }

    fn add(&self, name: &str, mtu: u32, kind: InfoKind, data: InfoData) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        if mtu > 0 {
            link.attributes.push(LinkAttribute::Mtu(mtu));
        }
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        exchange(&self.0, flags, RouteNetlinkMessage::NewLink(link)).map(drop)
    }

    /// Changes an interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set(&self, index: u32, attributes: Vec<LinkAttribute>, flags: LinkFlags) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        (link.header.flags, link.header.change_mask) = (flags, flags);
        link.attributes = attributes;
        exchange(&self.0, NLM_F_ACK, RouteNetlinkMessage::SetLink(link)).map(drop)
    }

    /// Gives an interface an address, which counts as nobody else's: who gives it knows (no duplicate address detection).
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(&self, index: u32, address: IpNet) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        match address {
            IpNet::V4(address) => message.attributes.push(AddressAttribute::Broadcast(address.broadcast())),
            IpNet::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        exchange(&self.0, flags, RouteNetlinkMessage::NewAddress(message)).map(drop)
    }

    /// Leads what is for a network out of an interface, by a gateway or (`None`) straight.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_route(&self, index: u32, to: IpNet, gateway: Option<IpAddr>) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to.addr());
        message.header.destination_prefix_length = to.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Destination(to.network().into()));
        message.attributes.push(RouteAttribute::Oif(index));
        message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        exchange(&self.0, flags, RouteNetlinkMessage::NewRoute(message)).map(drop)
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        exchange(&self.0, NLM_F_ACK, RouteNetlinkMessage::DelLink(link)).map(drop)
    }
}

/// Has the kernel complete the checksums, and so cut what is to be segmented, before an interface of this thread's namespace
/// sends: for whoever takes the frames at its other end.
///
/// # Errors
/// The kernel's.
pub fn finish_checksums(index: u32) -> io::Result<()> {
    let socket = connected(NETLINK_GENERIC)?;
    let name = GenlCtrlAttrs::FamilyName(Features::family_name().to_owned());
    let question = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] });
    let family = exchange(&socket, NLM_F_ACK, question)?.into_iter().flat_map(|message| message.payload.nlas);
    let mut family = family.filter_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(id),
        _ => None,
    });
    let family = family.next().ok_or(io::ErrorKind::Unsupported)?;
    let mut request = GenlMessage::from_payload(Features(index));
    request.set_resolved_family_id(family);
    exchange(&socket, NLM_F_ACK, request).map(drop)
}

/// ETHTOOL_MSG_FEATURES_SET for an interface: `tx-checksum-ip-generic` off.
#[derive(Clone, Debug)]
struct Features(u32);

impl Features {
    fn attributes(&self) -> Vec<DefaultNla> {
        // ETHTOOL_A_HEADER_DEV_INDEX and _FLAGS: no further reply.
        let header = nest(1, &[plain(1, &self.0.to_ne_bytes()), plain(3, &OMIT_REPLY.to_ne_bytes())]);
        // ETHTOOL_A_BITSET_BIT_NAME; without a value it is off.
        let bit = nest(1, &[plain(2, b"tx-checksum-ip-generic\0")]);
        // ETHTOOL_A_FEATURES_WANTED with ETHTOOL_A_BITSET_BITS.
        vec![header, nest(3, &[nest(3, &[bit])])]
    }
}

impl GenlFamily for Features {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        FEATURES_SET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Features {
    fn buffer_len(&self) -> usize {
        self.attributes().as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes().as_slice().emit(buffer);
    }
}

/// There is none but the acknowledgement.
impl netlink_packet_core::ParseableParametrized<[u8], GenlHeader> for Features {
    fn parse_with_param(_: &[u8], _: GenlHeader) -> Result<Self, netlink_packet_core::DecodeError> {
        Ok(Self(0))
    }
}

fn plain(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

fn nest(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; inner.buffer_len()];
    inner.emit(&mut value);
    DefaultNla::new(kind | NESTED, value)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn connected(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends a request; what is answered before the acknowledgement.
fn exchange<M>(socket: &Socket, flags: u16, request: M) -> io::Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug + Into<NetlinkPayload<M>>,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut request = NetlinkMessage::new(header, request.into());
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            // At least its own header (16 bytes), or this would never end.
            let Some((message, _)) = rest.split_at_checked(length).filter(|_| length >= 16) else {
                return Err(io::Error::other("an answer of netlink is cut off"));
            };
            match NetlinkMessage::<M>::deserialize(message).map_err(io::Error::other)?.payload {
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

const FEATURES_SET: u8 = 12;
const OMIT_REPLY: u32 = 1 << 1;
const NESTED: u16 = 1 << 15;

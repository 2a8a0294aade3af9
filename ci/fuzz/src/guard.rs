//! Any frame before a guard, and any sequence of messages about groups.
//!
//! Checked: what a guard lets pass has the sources that it lists, read here in the plainest way; VLAN tags and bytes behind
//! the head change nothing. A message is read from a frame or it is not, whatever tags it has. A change of the groups is
//! told, ports are delivered to in order and once, and nobody who reports in time is left out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::checksum::Sum;
use culvert_frame::{DropReason, MacAddress};
use culvert_switch::PortId;
use culvert_switch::groups::{Delivery, GroupMap, Groups, MEMBER_TIME};
use culvert_switch::guard::Guard;
use culvert_switch::snoop::{self, Question, Snooped};

#[derive(Arbitrary, Debug)]
struct Input {
    bound: bool,
    /// Which of the addresses of [`addresses`] are listed.
    listed: u8,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    /// Any bytes.
    Frame {
        port: u8,
        bytes: Vec<u8>,
    },
    /// Any message in a packet of its kind, with right lengths and checksums.
    Message {
        port: u8,
        vlan: u8,
        destination: u8,
        source: u8,
        hops_are_wrong: bool,
        kind: u8,
        body: Vec<u8>,
    },
    /// A neighbour discovery message or other ICMPv6, with extension headers.
    Discovery {
        source: u8,
        chain: Vec<u8>,
        kind: u8,
        target: u8,
        body: Vec<u8>,
    },
    /// ARP, or something like it.
    Arp {
        is_rarp: bool,
        operation: u8,
        sender_is_other: bool,
        sender: u8,
        target: u8,
    },
    /// A general query with a time to answer in tenths of seconds.
    Query {
        port: u8,
        vlan: u8,
        tenths: u8,
    },
    /// A report of IGMPv2 of one of 256 groups.
    Report {
        port: u8,
        vlan: u8,
        group: u8,
    },
    Pass {
        seconds: u8,
    },
    Welcome {
        port: u8,
    },
    Forget {
        port: u8,
    },
}

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const LINK_LOCAL: &str = "fe80::ff:fe00:a";

/// Sources and targets: those that a guard may list, then others.
const ADDRESSES_V4: [&str; 5] = ["10.0.0.5", "10.0.1.9", "10.0.0.6", "0.0.0.0", "224.0.0.1"];
const ADDRESSES_V6: [&str; 6] = ["2001:db8::5", "2001:db8:1::9", "2001:db8::6", "::", LINK_LOCAL, "fe80::1"];
const GROUPS_V4: [&str; 6] = ["224.0.0.1", "224.0.0.22", "224.0.0.2", "239.1.2.3", "225.129.2.3", "224.0.0.106"];
const GROUPS_V6: [&str; 6] = ["ff02::1", "ff02::16", "ff02::2", "ff05::7", "ff02::1:ff00:5", "ff02::6a"];

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let addresses = ["10.0.0.5/32", "10.0.1.0/24", "2001:db8::5/128", "2001:db8:1::/48"];
    let listed = (0..).zip(addresses).filter(|(place, _)| input.listed >> place & 1 == 1);
    let guard = Guard {
        mac: input.bound.then_some(MacAddress(STATION)),
        addresses: listed.map(|(_, text)| text.parse().expect("a network")).collect(),
    };
    let mut network = Network::default();
    for operation in input.operations.iter().take(200) {
        network.operate(&guard, operation);
    }
}

/// Groups, the map that was made of them last, and what is known to have been reported.
#[derive(Default)]
struct Network {
    groups: Groups,
    map: GroupMap,
    now: Duration,
    /// When a port reported a group, until somebody asks for just that one.
    reported: HashMap<(u16, IpAddr, PortId), Duration>,
}

impl Network {
    fn operate(&mut self, guard: &Guard, operation: &Operation) {
        let frame = match operation {
            Operation::Frame { bytes, .. } => bytes.clone(),
            Operation::Message { destination, source, hops_are_wrong, kind, body, .. } => {
                let hops = 1 + u8::from(*hops_are_wrong);
                if kind & 1 == 0 {
                    igmp(pick(&ADDRESSES_V4, *source), pick(&GROUPS_V4, *destination), hops, body)
                } else {
                    let chain = [58, 0, 5, 2, 0, 0, 1, 0];
                    let (source, destination) = (pick(&ADDRESSES_V6, *source), pick(&GROUPS_V6, *destination));
                    icmpv6(source, destination, hops, 0, &chain, body)
                }
            }
            Operation::Discovery { source, chain, kind, target, body } => {
                let target = pick(&ADDRESSES_V6, *target).parse::<Ipv6Addr>().expect("an address").octets();
                let message = [&[*kind, 0, 0, 0, 0, 0, 0, 0], &target[..], body].concat();
                let first = chain.first().copied().unwrap_or(58);
                let chain = chain.get(1..).unwrap_or_default();
                icmpv6(pick(&ADDRESSES_V6, *source), "ff02::1", 255, first, chain, &message)
            }
            Operation::Arp { is_rarp, operation, sender_is_other, sender, target } => {
                let hardware = if *sender_is_other { OTHER } else { STATION };
                let [sender, target] = [sender, target].map(|number| v4(pick(&ADDRESSES_V4, *number)));
                let text = [&[0, 1, 8, 0, 6, 4, 0, *operation], &hardware[..], &sender, &[0; 6], &target].concat();
                ethernet([0xff; 6], if *is_rarp { 0x8035 } else { 0x0806 }, &text)
            }
            Operation::Query { tenths, .. } => igmp("10.0.0.6", "224.0.0.1", 1, &[0x11, *tenths, 0, 0, 0, 0, 0, 0]),
            Operation::Report { group, .. } => {
                igmp("10.0.0.6", &format!("239.9.9.{group}"), 1, &[0x16, 0, 0, 0, 239, 9, 9, *group])
            }
            Operation::Pass { seconds } => return self.pass(*seconds),
            Operation::Welcome { port } => {
                let changed = self.groups.welcome(PortId(u16::from(port % 8)), self.now);
                return self.renew(changed);
            }
            Operation::Forget { port } => {
                let port = PortId(u16::from(port % 8));
                self.reported.retain(|&(_, _, reporter), _| reporter != port);
                let changed = self.groups.forget(port);
                return self.renew(changed);
            }
        };
        check(guard, &frame);
        let Some(snooped) = read(&frame) else { return };
        let (port, vlan) = match operation {
            Operation::Frame { port, .. } => (port, 0),
            Operation::Message { port, vlan, .. }
            | Operation::Query { port, vlan, .. }
            | Operation::Report { port, vlan, .. } => (port, vlan % 3),
            _ => return,
        };
        self.hear(u16::from(vlan), PortId(u16::from(port % 8)), &snooped);
    }

    fn hear(&mut self, vlan: u16, port: PortId, snooped: &Snooped) {
        match snooped {
            Snooped::Report(report) => {
                for record in report.records() {
                    if record.listens {
                        self.reported.insert((vlan, record.group, port), self.now);
                    }
                }
            }
            Snooped::Query(query) => {
                if let Question::Group(group) = query.question {
                    self.reported.retain(|&(in_vlan, of, _), _| (in_vlan, of) != (vlan, group));
                }
            }
            Snooped::Router(_) => {}
        }
        let changed = self.groups.apply(vlan, port, snooped, self.now);
        self.renew(changed);
    }

    fn pass(&mut self, seconds: u8) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            if self.groups.expire(self.now) {
                self.renew(true);
            }
        }
        self.renew(false);
        let now = self.now;
        self.reported.retain(|_, &mut at| now < at + MEMBER_TIME);
    }

    fn renew(&mut self, changed: bool) {
        let map = self.groups.snapshot();
        assert!(changed || map == self.map, "a change that was not told");
        self.map = map;
        for (&(vlan, group, port), &at) in &self.reported {
            let address = snoop::group_mac(group).expect("a group");
            if let Delivery::Ports(ports) = self.map.members(vlan, address) {
                assert!(ports.is_sorted_by(|a, b| a < b), "{ports:?}");
                assert!(self.now >= at + MEMBER_TIME || ports.contains(&port), "{port:?} lost {group}");
            }
        }
    }
}

/// What a frame says about groups; the same with tags before it.
fn read(frame: &[u8]) -> Option<Snooped> {
    let length = u32::try_from(frame.len()).expect("a short frame");
    let snooped = snoop::parse(frame, length);
    assert!(snooped.is_none() || snoop::is_message(frame));
    if frame.len() >= 14 {
        assert_eq!(snoop::parse(&tagged(frame), length + 4), snooped);
    }
    if let Some(head) = frame.get(..128)
        && let Some(Snooped::Report(report)) = snoop::parse(head, length)
    {
        assert!(frame.len() == 128 || report.everything || snooped == Some(Snooped::Report(report)));
    }
    snooped
}

/// Whether a guard lets a frame pass that it must not.
fn check(guard: &Guard, frame: &[u8]) {
    let verdict = guard.check(frame);
    if frame.len() < 14 {
        return assert!(guard.is_open() || verdict.is_err());
    }
    let source: [u8; 6] = frame[6..12].try_into().expect("six bytes");
    if guard.mac.is_some_and(|mac| mac.0 != source) {
        return assert_eq!(verdict, Err(DropReason::SpoofedSource));
    }
    if guard.addresses.is_empty() {
        return assert_eq!(verdict, Ok(()));
    }
    assert_eq!(guard.check(&tagged(frame)), verdict);
    // The head decides: what it does not tell is refused.
    if let Some(head) = frame.get(..128) {
        assert!(guard.check(head).is_err() || verdict.is_ok());
    }
    if verdict.is_err() {
        return assert_eq!(verdict, Err(DropReason::SpoofedAddress));
    }
    let mut at = 12;
    while matches!(frame[at..at + 2], [0x81, 0x00] | [0x88, 0xa8]) {
        at += 4;
    }
    let (ether_type, packet) = (u16::from_be_bytes([frame[at], frame[at + 1]]), &frame[at + 2..]);
    let lists = |address: IpAddr| guard.addresses.iter().any(|network| network.contains(&address));
    let address_v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four bytes"));
    match ether_type {
        0x0800 => {
            let asks = address_v4(12).is_unspecified() && matches!(packet[9], 2 | 17) && packet[16] >= 224;
            assert!(asks || lists(address_v4(12)));
        }
        0x86dd => {
            let source = IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).expect("sixteen bytes"));
            let [a, b, c, d, e, f] = frame[6..12] else { unreachable!("six bytes") };
            let own = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
            assert!(source.is_unspecified() || source == own || lists(source));
            // The simplest forgeries, without extension headers.
            if packet[6] == 58 {
                let message = &packet[40..];
                assert!(!matches!(message[0], 130 | 134 | 137), "a router's message");
                if message[0] == 136 {
                    let target = IpAddr::from(<[u8; 16]>::try_from(&message[8..24]).expect("sixteen bytes"));
                    assert!(target == own || lists(target), "an advertisement of {target}");
                    let option_is_own =
                        message.get(24..32).is_none_or(|option| option[0] != 2 || option[2..8] == source_of(frame));
                    assert!(option_is_own || usize::from(packet[5]) < 32 && packet[4] == 0);
                }
            }
        }
        0x0806 | 0x8035 => {
            assert_eq!(packet[8..14], source);
            assert!(address_v4(14).is_unspecified() || lists(address_v4(14)));
        }
        other => panic!("{other:#x} passed"),
    }
}

fn source_of(frame: &[u8]) -> [u8; 6] {
    frame[6..12].try_into().expect("six bytes")
}

fn pick<'a>(from: &[&'a str], number: u8) -> &'a str {
    from[usize::from(number) % from.len()]
}

fn v4(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>().expect("an address").octets()
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0x00, 0x07], &frame[12..]].concat()
}

fn ethernet(destination: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination, &STATION, &ether_type.to_be_bytes()[..], payload].concat()
}

fn to_group(group: &str, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let group = snoop::group_mac(group.parse().expect("an address")).expect("a group");
    ethernet(group.0, ether_type, payload)
}

/// With a checksum over `pseudo` and the message, at its bytes 2 and 3.
fn summed(pseudo: &[u8], message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if message.len() >= 4 {
        message[2..4].fill(0);
        let mut sum = Sum::default();
        sum.add(pseudo);
        sum.add(&message);
        message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    }
    message
}

fn igmp(source: &str, destination: &str, hops: u8, message: &[u8]) -> Vec<u8> {
    let message = summed(&[], message);
    let [high, low] = u16::try_from(24 + message.len()).unwrap_or(u16::MAX).to_be_bytes();
    let fixed = [0x46, 0, high, low, 0, 0, 0, 0, hops, 2, 0, 0];
    let packet = [&fixed, &v4(source)[..], &v4(destination), &[0x94, 4, 0, 0], &message].concat();
    to_group(destination, 0x0800, &packet)
}

fn icmpv6(source: &str, destination: &str, hops: u8, first: u8, chain: &[u8], message: &[u8]) -> Vec<u8> {
    let addresses = [source, destination].map(|text| text.parse::<Ipv6Addr>().expect("an address").octets()).concat();
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let message = summed(&[&addresses[..], &[0, 0, 0, length, 0, 0, 0, 58]].concat(), message);
    let [high, low] = u16::try_from(chain.len() + message.len()).unwrap_or(u16::MAX).to_be_bytes();
    let packet = [&[0x60, 0, 0, 0, high, low, first, hops], &addresses[..], chain, &message].concat();
    to_group(destination, 0x86dd, &packet)
}

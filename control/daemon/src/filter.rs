//! Which frames a capture is to have, in the syntax of pcap-filter(7): `udp port 53 and host 10.0.0.5`.
//!
//! A filter is parsed once ([`parse`]) and then asked of each frame, by a worker: it neither allocates nor fails. A frame is taken apart
//! once ([`Facts`]), whatever the filter asks.
//!
//! Where this differs from pcap-filter: VLAN tags are looked through, so that `port 53` is true of tagged frames as well, and `vlan` does not
//! move what comes behind it. There are no byte offsets (`tcp[13]`), no names of hosts, and only a few of services.

mod facts;
mod parse;

use std::net::IpAddr;
use std::ops::RangeInclusive;

use culvert_api::v1;
use culvert_frame::{Direction, MacAddress};
use culvert_switch::Wanted;
use ipnet::IpNet;

use facts::Facts;

/// A condition on frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Expression);

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// A sentence: what cannot be read, and what could stand there.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self)
    }

    /// Whether it is true of a frame, of which `head` is what is known, and `length` the length in bytes.
    pub fn is_true(&self, head: &[u8], length: u32) -> bool {
        Facts::of(head, length).is_some_and(|facts| holds(&self.0, &facts))
    }
}

/// What a capture is to have.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Frames that go this way; `None` for both.
    pub direction: Option<Direction>,
    /// Frames of which this is true; `None` for all.
    pub filter: Option<Filter>,
}

impl Choice {
    /// Reads what a request says.
    ///
    /// # Errors
    /// A sentence about the filter.
    pub fn of(request: &v1::CaptureRequest) -> Result<Self, String> {
        let direction = match request.direction() {
            v1::Direction::Unspecified => None,
            v1::Direction::Rx => Some(Direction::Rx),
            v1::Direction::Tx => Some(Direction::Tx),
        };
        let text = request.filter.as_str();
        let filter = (!text.trim().is_empty()).then(|| Filter::parse(text)).transpose()?;
        Ok(Self { direction, filter })
    }

    /// Whether it has all frames.
    pub fn is_everything(&self) -> bool {
        self.direction.is_none() && self.filter.is_none()
    }
}

impl Wanted for Choice {
    fn is_wanted(&self, direction: Direction, head: &[u8], length: u32) -> bool {
        self.direction.is_none_or(|wanted| wanted == direction)
            && self.filter.as_ref().is_none_or(|filter| filter.is_true(head, length))
    }
}

/// What is combined. Deep only as far as [`parse`] permits.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    And(Box<[Expression; 2]>),
    Or(Box<[Expression; 2]>),
    Not(Box<Expression>),
    Is(Protocol),
    /// With a protocol that must be as well.
    Of(Option<Protocol>, Side, What),
    Broadcast,
    Multicast,
    /// Any, or one.
    Vlan(Option<u16>),
    /// An IP protocol by its number.
    Number(u8),
    EtherType(u16),
    AtLeast(u32),
    AtMost(u32),
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Ether,
    Ip,
    Ip6,
    Arp,
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmp6,
}

/// Which of two ends is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Either,
    Source,
    Destination,
    Both,
}

/// What an end is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Station(MacAddress),
    Net(IpNet),
    Ports(RangeInclusive<u16>),
}

fn holds(expression: &Expression, facts: &Facts) -> bool {
    match expression {
        Expression::And(both) => both.iter().all(|one| holds(one, facts)),
        Expression::Or(both) => both.iter().any(|one| holds(one, facts)),
        Expression::Not(one) => !holds(one, facts),
        Expression::Is(protocol) => is(*protocol, facts),
        Expression::Of(protocol, side, what) => {
            protocol.is_none_or(|protocol| is(protocol, facts)) && is_of(*side, what, facts)
        }
        Expression::Broadcast => facts.stations[1] == MacAddress([0xff; 6]),
        Expression::Multicast => facts.stations[1].0[0] & 1 == 1,
        Expression::Vlan(None) => !facts.vlans.is_empty(),
        Expression::Vlan(Some(vlan)) => facts.vlans.contains(vlan),
        Expression::Number(number) => facts.protocol == Some(*number),
        Expression::EtherType(number) => facts.ether_type == *number,
        Expression::AtLeast(length) => facts.length >= *length,
        Expression::AtMost(length) => facts.length <= *length,
    }
}

fn is(protocol: Protocol, facts: &Facts) -> bool {
    let number = |number| facts.protocol == Some(number);
    match protocol {
        Protocol::Ether => true,
        Protocol::Ip => facts.ether_type == IPV4,
        Protocol::Ip6 => facts.ether_type == IPV6,
        Protocol::Arp => facts.ether_type == ARP,
        Protocol::Tcp => number(TCP),
        Protocol::Udp => number(UDP),
        Protocol::Sctp => number(SCTP),
        Protocol::Icmp => facts.ether_type == IPV4 && number(ICMP),
        Protocol::Icmp6 => facts.ether_type == IPV6 && number(ICMP6),
    }
}

fn is_of(side: Side, what: &What, facts: &Facts) -> bool {
    match what {
        What::Station(address) => side.is_true(Some(facts.stations), |station| station == address),
        What::Net(net) => side.is_true(facts.addresses, |address: &IpAddr| net.contains(address)),
        What::Ports(ports) => side.is_true(facts.ports, |port| ports.contains(port)),
    }
}

impl Side {
    /// Whether a condition is true of the ends that are meant, the source first; of none, if there are no ends.
    fn is_true<T>(self, ends: Option<[T; 2]>, condition: impl Fn(&T) -> bool) -> bool {
        let Some([source, destination]) = ends else { return false };
        match self {
            Self::Either => condition(&source) || condition(&destination),
            Self::Source => condition(&source),
            Self::Destination => condition(&destination),
            Self::Both => condition(&source) && condition(&destination),
        }
    }
}

/// EtherTypes and IP protocol numbers, as IANA has them.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram from 10.0.0.5:40000 to 192.0.2.1:53, with or without a tag.
    fn query(vlan: Option<u16>) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 0x0b, 2, 0, 0, 0, 0, 0x0a];
        if let Some(vlan) = vlan {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend([8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 5, 192, 0, 2, 1]);
        frame.extend([0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    /// A TCP segment from [fd00::5]:443 to [fd00::6]:50000.
    fn segment() -> Vec<u8> {
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x0a, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64];
        for last in [5, 6] {
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        frame.extend([1, 0xbb, 0xc3, 0x50, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        frame
    }

    fn arp() -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 0x0a, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend([2, 0, 0, 0, 0, 0x0a, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        frame
    }

    #[test]
    fn filters_say_of_frames_what_tcpdump_says() {
        for (filter, of_query, of_segment, of_arp) in [
            ("udp port 53", true, false, false),
            ("port 53", true, false, false),
            ("port domain or https", true, true, false),
            ("src port 53", false, false, false),
            ("dst port 53 and src portrange 40000-40010", true, false, false),
            ("tcp", false, true, false),
            ("ip6 and tcp src port 443", false, true, false),
            ("ip", true, false, false),
            ("arp", false, false, true),
            ("host 10.0.0.5", true, false, true),
            ("arp host 10.0.0.1", false, false, true),
            ("src host 10.0.0.5 and not arp", true, false, false),
            ("host 10.0.0.5 or fd00::6", true, true, true),
            ("src and dst net fd00::/64", false, true, false),
            ("dst net 192.0.2.0/24", true, false, false),
            ("src or dst net 192.0.2.0/24", true, false, false),
            ("net 10", true, false, true),
            ("ether host 02:00:00:00:00:0a", true, true, true),
            ("ether dst 02:00:00:00:00:0b", true, false, false),
            ("broadcast", false, false, true),
            ("multicast", false, true, true),
            ("ether proto 0x0806", false, false, true),
            ("ether proto \\\\arp", false, false, true),
            ("ip proto 17", true, false, false),
            ("ip proto udp", true, false, false),
            ("greater 60", false, true, false),
            ("less 45", false, false, true),
            ("!tcp && !(udp || icmp)", false, false, true),
            // `and` and `or` bind equally, from the left.
            ("arp or udp and port 1", false, false, false),
            ("not host 10.0.0.5 and 192.0.2.1", false, false, false),
            ("vlan", false, false, false),
        ] {
            let parsed = Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
            let is = |frame: &[u8]| parsed.is_true(frame, u32::try_from(frame.len()).unwrap());
            assert_eq!((is(&query(None)), is(&segment()), is(&arp())), (of_query, of_segment, of_arp), "{filter}");
        }
        let is = |filter: &str| Filter::parse(filter).unwrap().is_true(&query(Some(10)), 50);
        assert!(is("vlan 10 and udp port 53") && is("port 53") && is("vlan") && !is("vlan 11"));
    }

    #[test]
    fn frames_that_are_cut_off_are_no_fault() {
        let filter = Filter::parse("port 53 or host fd00::5 or vlan 3 or tcp or broadcast").unwrap();
        for frame in [query(None), query(Some(3)), segment(), arp()] {
            for length in 0..frame.len() {
                filter.is_true(&frame[..length], 60);
            }
        }
        assert!(!filter.is_true(&[], 0));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for (filter, word) in [
            ("", "is empty"),
            ("udp port", "port"),
            ("port x", "x"),
            ("port 70000", "70000"),
            ("host", "host"),
            ("host example.org", "example.org"),
            ("(udp", ")"),
            ("udp)", ")"),
            ("udp and", "end"),
            ("tcp[13] & 2 != 0", "["),
            ("net 10.0.0.0/99", "10.0.0.0/99"),
            ("vlan 5000", "5000"),
            ("portrange 9-3", "9-3"),
        ] {
            let error = Filter::parse(filter).unwrap_err();
            assert!(error.contains(word), "{filter}: {error}");
        }
        assert!(Filter::parse(&"(".repeat(60_000)).unwrap_err().contains("too"));
        assert!(Filter::parse(&"not ".repeat(250)).unwrap_err().contains("too"));
    }
}

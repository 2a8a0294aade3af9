//! The syntax of filters.

use std::net::IpAddr;

use culvert_frame::MacAddress;
use ipnet::{IpNet, Ipv4Net};

use super::{Expression, Protocol, Side, What};

/// Reads a filter.
pub(super) fn parse(text: &str) -> Result<Expression, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("is too long: {MAX_BYTES} bytes are the most"));
    }
    let words = words(text);
    if words.is_empty() {
        return Err("is empty; write something like udp port 53".to_owned());
    }
    let mut parser = Parser { words: &words, depth: 0, last: None };
    let expression = parser.expression()?;
    match parser.peek() {
        None => Ok(expression),
        Some(word) => Err(format!("has {word:?} where an end or another condition should be; join them by and, or")),
    }
}

/// Words, and the signs between them.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        if sign.is_whitespace() || "()!&|[]<>=".contains(sign) {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            match sign {
                '&' | '|' if signs.peek() == Some(&sign) => {
                    signs.next();
                    words.push(if sign == '&' { "and" } else { "or" }.to_owned());
                }
                '!' => words.push("not".to_owned()),
                sign if sign.is_whitespace() => {}
                sign => words.push(sign.to_string()),
            }
        } else if sign != '\\' {
            // A backslash only keeps tcpdump from taking a name for a keyword.
            word.push(sign);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

struct Parser<'a> {
    words: &'a [String],
    depth: usize,
    /// What was said before an address or port, which holds for those that follow it: `host a or b`.
    last: Option<Qualifiers>,
}

/// What stands before an address or port.
#[derive(Clone, Copy, Debug, Default)]
struct Qualifiers {
    protocol: Option<Protocol>,
    side: Option<Side>,
    kind: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.first().map(String::as_str)
    }

    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        if found {
            self.next();
        }
        found
    }

    /// `and` and `or` bind equally, from the left (pcap-filter(7)).
    fn expression(&mut self) -> Result<Expression, String> {
        let mut left = self.condition()?;
        loop {
            if self.take("and") {
                left = Expression::And(Box::new([left, self.condition()?]));
            } else if self.take("or") {
                left = Expression::Or(Box::new([left, self.condition()?]));
            } else {
                return Ok(left);
            }
            self.deeper()?;
        }
    }

    /// Each condition, `not` and parenthesis makes the expression deeper by one at most.
    fn deeper(&mut self) -> Result<(), String> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > MAX_DEPTH { Err(format!("has too many conditions: {MAX_DEPTH} are the most")) } else { Ok(()) }
    }

    fn condition(&mut self) -> Result<Expression, String> {
        self.deeper()?;
        if self.take("not") {
            return Ok(Expression::Not(Box::new(self.condition()?)));
        }
        if self.take("(") {
            let inner = self.expression()?;
            if self.take(")") {
                return Ok(inner);
            }
            return Err("has a ( without its )".to_owned());
        }
        self.primitive()
    }

    fn primitive(&mut self) -> Result<Expression, String> {
        match self.peek() {
            None => return Err("comes to its end where a condition should be".to_owned()),
            Some("broadcast") => return Ok(self.skip(Expression::Broadcast)),
            Some("multicast") => return Ok(self.skip(Expression::Multicast)),
            Some("greater") => return self.number(0, u32::MAX).map(Expression::AtLeast),
            Some("less") => return self.number(0, u32::MAX).map(Expression::AtMost),
            Some("vlan") => {
                if self.words.get(1).is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
                    return self.number(0, 4095).map(|vlan| Expression::Vlan(u16::try_from(vlan).ok()));
                }
                return Ok(self.skip(Expression::Vlan(None)));
            }
            Some(_) => {}
        }
        let mut said = Qualifiers { protocol: self.protocol(), ..Qualifiers::default() };
        if let (Some(protocol), Some("proto")) = (said.protocol, self.peek()) {
            return self.by_number(protocol);
        }
        if said.protocol == Some(Protocol::Ether) {
            match self.peek() {
                Some("broadcast") => return Ok(self.skip(Expression::Broadcast)),
                Some("multicast") => return Ok(self.skip(Expression::Multicast)),
                _ => {}
            }
        }
        said.side = self.side();
        said.kind = self.kind();
        let has_object = self.peek().is_some_and(|word| !matches!(word, "and" | "or" | "not" | "(" | ")"));
        if let (Some(protocol), None, None, false) = (said.protocol, said.side, said.kind, has_object) {
            return Ok(Expression::Is(protocol));
        }
        let nothing_said = said.protocol.is_none() && said.side.is_none() && said.kind.is_none();
        let said = if nothing_said { self.last.unwrap_or_default() } else { said };
        self.last = Some(said);
        self.object(said)
    }

    fn skip(&mut self, found: Expression) -> Expression {
        self.next();
        found
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let found = protocol(self.peek()?)?;
        self.next();
        Some(found)
    }

    fn side(&mut self) -> Option<Side> {
        let words: Vec<&str> = self.words.iter().take(3).map(String::as_str).collect();
        let (side, count) = match words.as_slice() {
            ["src", "or", "dst"] | ["dst", "or", "src"] => (Side::Either, 3),
            ["src", "and", "dst"] | ["dst", "and", "src"] => (Side::Both, 3),
            ["src", ..] => (Side::Source, 1),
            ["dst", ..] => (Side::Destination, 1),
            _ => return None,
        };
        self.words = self.words.get(count..).unwrap_or_default();
        Some(side)
    }

    fn kind(&mut self) -> Option<Kind> {
        let kind = match self.peek()? {
            "host" => Kind::Host,
            "net" => Kind::Net,
            "port" => Kind::Port,
            "portrange" => Kind::PortRange,
            _ => return None,
        };
        self.next();
        Some(kind)
    }

    /// `proto` and a number or name.
    fn by_number(&mut self, of: Protocol) -> Result<Expression, String> {
        self.next();
        let word = self.next().unwrap_or_default().to_owned();
        let number = match word.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).ok(),
            None => word.parse().ok(),
        };
        match (of, number, protocol(&word)) {
            (Protocol::Ether, Some(number), _) => Ok(Expression::EtherType(number)),
            (Protocol::Ip | Protocol::Ip6, Some(number), _) if number <= 255 => {
                let number = Expression::Number(u8::try_from(number).unwrap_or_default());
                Ok(Expression::And(Box::new([Expression::Is(of), number])))
            }
            (_, None, Some(protocol)) => Ok(Expression::And(Box::new([Expression::Is(of), Expression::Is(protocol)]))),
            _ => Err(format!("has {word:?} behind proto; write a number, as in ip proto 17")),
        }
    }

    fn number(&mut self, least: u32, most: u32) -> Result<u32, String> {
        let what = self.next().unwrap_or_default().to_owned();
        let word = self.next().unwrap_or_default();
        let number = word.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| format!("has {word:?} behind {what}; write a number from {least} to {most}"))
    }

    /// An address, net or port.
    fn object(&mut self, said: Qualifiers) -> Result<Expression, String> {
        let Some(word) = self.next() else {
            return Err("comes to its end where an address or port should be, behind host, net, port or src".to_owned());
        };
        let side = said.side.unwrap_or(Side::Either);
        if said.protocol == Some(Protocol::Ether) {
            let station = word
                .parse::<MacAddress>()
                .map_err(|_| format!("has {word:?} where a MAC address should be, such as 02:00:00:00:00:0a"))?;
            return Ok(Expression::Of(None, side, What::Station(station)));
        }
        let what = match said.kind.unwrap_or(Kind::Host) {
            Kind::Host => {
                let address: IpAddr = word.parse().map_err(|_| {
                    format!("has {word:?} where an address should be, such as 10.0.0.5; names are not looked up")
                })?;
                What::Net(address.into())
            }
            Kind::Net => What::Net(
                net(word)
                    .ok_or_else(|| format!("has {word:?} where a net should be, such as 10.0.0.0/8 or fd00::/64"))?,
            ),
            Kind::Port => {
                let port = port(word).ok_or_else(|| format!("has {word:?} where a port should be; write a number"))?;
                What::Ports(port..=port)
            }
            Kind::PortRange => {
                let range = word.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
                let range = range.filter(|(first, last)| first <= last);
                let (first, last) =
                    range.ok_or_else(|| format!("has {word:?} where ports should be, such as 8000-8010"))?;
                What::Ports(first..=last)
            }
        };
        Ok(Expression::Of(said.protocol, side, what))
    }
}

fn protocol(word: &str) -> Option<Protocol> {
    Some(match word {
        "ether" => Protocol::Ether,
        "ip" => Protocol::Ip,
        "ip6" => Protocol::Ip6,
        "arp" => Protocol::Arp,
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "icmp" => Protocol::Icmp,
        "icmp6" => Protocol::Icmp6,
        _ => return None,
    })
}

/// A port by its number, or by the name of one of a few services.
fn port(word: &str) -> Option<u16> {
    Some(match word {
        "ssh" => 22,
        "domain" => 53,
        "bootps" => 67,
        "bootpc" => 68,
        "http" => 80,
        "ntp" => 123,
        "https" => 443,
        number => return number.parse().ok(),
    })
}

/// A net with its length, one address, or the first numbers of IPv4 addresses: `10` is 10.0.0.0/8.
fn net(word: &str) -> Option<IpNet> {
    if word.contains('/') {
        return word.parse::<IpNet>().ok();
    }
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(address.into());
    }
    let numbers = word.split('.').map(str::parse).collect::<Result<Vec<u8>, _>>().ok()?;
    let mut address = [0; 4];
    for (place, number) in address.iter_mut().zip(&numbers) {
        *place = *number;
    }
    let bits = u8::try_from(numbers.len().checked_mul(8)?).ok().filter(|bits| *bits <= 32)?;
    Ipv4Net::new(address.into(), bits).ok().map(IpNet::V4)
}

/// The longest filter.
const MAX_BYTES: usize = 4096;
/// The most conditions, `not`s and parentheses.
const MAX_DEPTH: usize = 200;

//! The text of a port specification, as `-t` and `-u` take it. Grammar (spaces around items do not matter):
//!
//! ```text
//! spec      = "none" | [ [ADDRESS] ["%" INTERFACE] "/" ] item { "," item }
//! item      = PORT ["-" PORT] [":" target]        forwarded
//!           | "~" PORT ["-" PORT]                 left out, whatever the others say
//!           | "all" [":" ADDRESS]                 all ports that are not ephemeral, as far as they are free
//! target    = [ADDRESS "/"] PORT ["-" PORT] | ADDRESS
//! ```
//!
//! With ranges, `all` adds nothing. `auto` belongs to a mode of operation that there is not here. Addresses of IPv6 may
//! stand in brackets. Only text is looked at: what can be forwarded is for [`super::ForwardTable`] to say.

use std::net::IpAddr;
use std::sync::Arc;

/// What a text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spec {
    /// Nothing is forwarded.
    None,
    /// These are.
    Ports(Ports),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports {
    pub address: Option<IpAddr>,
    pub interface: Option<Arc<str>>,
    pub ranges: Vec<Range>,
    /// The first and last ports left out.
    pub exclusions: Vec<(u16, u16)>,
    /// Where `all` leads to, which holds if there are no ranges.
    pub all_target: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub first: u16,
    pub last: u16,
    pub target: Option<IpAddr>,
    pub target_first: u16,
}

/// Why a text is no specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// `auto`
    #[error(
        "port specification {0:?}: \"auto\" needs a look into the guest, which there is not; name the ports, or use \"all\""
    )]
    Auto(String),
    /// Longer than anything meaningful.
    #[error("a port specification has {0} bytes; {MAX_SPEC_BYTES} are the most")]
    Long(usize),
    /// A part of it.
    #[error("port specification {spec:?}: {part:?} {problem}")]
    Part {
        /// All of it.
        spec: String,
        /// What is wrong.
        part: String,
        /// Why, and what would be right.
        problem: &'static str,
    },
}

/// The longest specification, in bytes.
pub const MAX_SPEC_BYTES: usize = 16 * 1024;

impl Spec {
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        if text.len() > MAX_SPEC_BYTES {
            return Err(SpecError::Long(text.len()));
        }
        if text == "none" {
            return Ok(Self::None);
        }
        ports(text).map(Self::Ports).map_err(|problem| match problem {
            Problem::Auto => SpecError::Auto(text.to_owned()),
            Problem::Part(part, problem) => SpecError::Part { spec: text.to_owned(), part: part.to_owned(), problem },
        })
    }
}

/// What is wrong with which part.
enum Problem<'a> {
    Auto,
    Part(&'a str, &'static str),
}

fn ports(text: &str) -> Result<Ports, Problem<'_>> {
    let (place, items) = match text.split_once('/') {
        // Otherwise the slash belongs to an item, as in 2000:192.0.2.5/2001.
        Some((place, items)) if place.contains('%') || !place.contains(':') || ip_address(place).is_some() => {
            (place, items)
        }
        _ => ("", text),
    };
    let mut ports = Ports::default();
    if text.len() > items.len() {
        (ports.address, ports.interface) = listen_place(place)?;
    }
    for item in items.split(',') {
        let item = item.trim();
        if item == "all" {
            continue;
        }
        if item == "auto" {
            return Err(Problem::Auto);
        }
        if let Some(target) = item.strip_prefix("all:") {
            ports.all_target = Some(target_address(item, target)?);
        } else if let Some(excluded) = item.strip_prefix('~') {
            // Port 0 is left out anyway.
            ports.exclusions.push(numbers(excluded).ok_or(Problem::Part(item, RANGE))?);
        } else {
            ports.ranges.push(range(item)?);
        }
    }
    Ok(ports)
}

/// `[ADDRESS]["%" INTERFACE]`
fn listen_place(place: &str) -> Result<(Option<IpAddr>, Option<Arc<str>>), Problem<'_>> {
    let Some((address, interface)) = place.split_once('%') else {
        return ip_address(place).map(|address| (Some(address), None)).ok_or(Problem::Part(place, "is no IP address"));
    };
    let fits = (1..=MAX_INTERFACE_BYTES).contains(&interface.len());
    if !fits || interface.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '%') {
        return Err(Problem::Part(place, "names no interface: give 1 to 15 characters after %"));
    }
    let address = match address {
        "" => None,
        address => Some(ip_address(address).ok_or(Problem::Part(place, "is no IP address with an interface"))?),
    };
    Ok((address, Some(interface.into())))
}

fn range(item: &str) -> Result<Range, Problem<'_>> {
    let (ports, target) = match item.split_once(':') {
        Some((ports, target)) => (ports, Some(target)),
        None => (item, None),
    };
    let (first, last) = numbers(ports).ok_or(Problem::Part(item, RANGE))?;
    let mut range = Range { first, last, target: None, target_first: first };
    if let Some(target) = target {
        let ports = match target.rsplit_once('/') {
            Some((address, ports)) => {
                range.target = Some(target_address(item, address)?);
                // `22:192.0.2.5/` is `22:192.0.2.5`.
                (!ports.is_empty()).then_some(ports)
            }
            None if numbers(target).is_some() => Some(target),
            None => {
                range.target = Some(target_address(item, target)?);
                None
            }
        };
        if let Some(ports) = ports {
            let (target_first, target_last) = numbers(ports).ok_or(Problem::Part(item, RANGE))?;
            if last.abs_diff(first) != target_last.abs_diff(target_first) {
                return Err(Problem::Part(item, "has ranges of different lengths; give as many ports on both sides"));
            }
            range.target_first = target_first;
        }
    }
    if range.first == 0 || range.target_first == 0 {
        return Err(Problem::Part(item, "has port 0, which cannot be forwarded; ports are 1 to 65535"));
    }
    Ok(range)
}

fn target_address<'a>(item: &'a str, address: &str) -> Result<IpAddr, Problem<'a>> {
    ip_address(address).ok_or(Problem::Part(item, "has a target that is neither ports nor an IP address"))
}

fn ip_address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// One port or a range, the last not below the first.
fn numbers(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

/// Digits alone: `str::parse` would take a sign, too.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

const RANGE: &str = "is no port and no range of ports: give 1 to 65535, FIRST-LAST, or \"all\"";

/// IFNAMSIZ less the final zero.
const MAX_INTERFACE_BYTES: usize = 15;

//! Forwards: which ports of the pod lead to which ports of the guest.
//!
//! [`ForwardTable`] is what `-t`, `-u` and the control socket's `forward add` and `forward remove` say, as rules that
//! do not contradict each other. It is not the sockets: a table is a list of [`Listen`]s, and
//! [`ForwardTable::changes_to`] tells which of them to open and to close for another table; [`open_all`] does the
//! opening with a function of the caller's. Ports that are steered (`culvert-steer`) need none: [`Steered`] tells where they
//! lead. The text of a specification is read in [`spec`]. Called by the binary's
//! start and by its event loop.

mod spec;
mod steered;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

pub use spec::{MAX_SPEC_BYTES, SpecError};
use spec::{Ports, Spec};
pub use steered::{Left, Steered};

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP connections.
    Tcp,
    /// UDP datagrams.
    Udp,
}

/// One socket that listens (TCP) or receives (UDP) for the guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listen {
    /// What is forwarded.
    pub protocol: Protocol,
    /// The pod's address to bind; `None`: every address of both families.
    pub address: Option<IpAddr>,
    /// The pod's interface to bind to (SO_BINDTODEVICE).
    pub interface: Option<Arc<str>>,
    /// The pod's port, never 0.
    pub port: u16,
    /// Where it leads to: an address of the same family as `address`; `None`: the guest's own.
    pub target: Option<IpAddr>,
    /// The guest's port, never 0.
    pub target_port: u16,
    /// Whether it must be possible to open it. Those of `all` need not be.
    pub strict: bool,
}

/// Consecutive ports that are forwarded alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What is forwarded.
    pub protocol: Protocol,
    /// The pod's address to bind; `None`: every address of both families.
    pub address: Option<IpAddr>,
    /// The pod's interface to bind to.
    pub interface: Option<Arc<str>>,
    /// The pod's first port.
    pub first: u16,
    /// The pod's last port.
    pub last: u16,
    /// Where it leads to; `None`: the guest's own address.
    pub target: Option<IpAddr>,
    /// The guest's port for `first`; the others follow in order.
    pub target_first: u16,
    /// Whether it must be possible to open them.
    pub strict: bool,
}

/// What there is to forward with; a table refuses the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// Whether there is IPv4.
    pub v4: bool,
    /// Whether there is IPv6.
    pub v6: bool,
    /// Whether there is TCP.
    pub tcp: bool,
    /// Whether there is UDP.
    pub udp: bool,
    /// The ports that the kernel gives out by itself (net.ipv4.ip_local_port_range): `all` leaves them alone.
    pub ephemeral: RangeInclusive<u16>,
}

/// Everything that is forwarded: rules that do not contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardTable {
    ground: Ground,
    rules: Vec<Rule>,
}

/// What is to be done to get from one table to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be closed, before anything is opened.
    pub close: Vec<Listen>,
    /// To be opened.
    pub open: Vec<Listen>,
}

/// Why a table stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The text is not a specification.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A protocol is switched off.
    #[error("{0} ports cannot be forwarded: {0} is switched off; leave out the forward, or --no-{off}", off = .0.name())]
    NoProtocol(Protocol),
    /// There is no such address family.
    #[error("{0} cannot be forwarded: there is no {family} here; choose an address of the other family", family = family(*.0))]
    NoFamily(IpAddr),
    /// A target needs an address to listen at.
    #[error("{0} has a target address: name an address of the same family before the ports, such as {example}", example = example(.0))]
    NoListenAddress(Box<Rule>),
    /// A target is of the other family.
    #[error("{0} leads from one address family to the other; choose addresses of the same family")]
    OtherFamily(Box<Rule>),
    /// A target that cannot be the guest.
    #[error("{0} cannot lead to the guest: choose a unicast address that the guest has")]
    Target(IpAddr),
    /// Two rules for the same port.
    #[error("{new} contradicts {old}; leave out one of them")]
    Conflict {
        /// The rule to be added.
        new: Box<Rule>,
        /// The rule that is there.
        old: Box<Rule>,
    },
    /// There is nothing like that to remove.
    #[error("{0} is not forwarded; `forward list` shows what is")]
    Missing(Box<Rule>),
    /// The table would grow too large.
    #[error("there would be more than {MAX_RULES} rules; combine ports to ranges")]
    TooMany,
}

/// How many rules a table has at most: a bound on what clients of the control socket can cause.
pub const MAX_RULES: usize = 4096;

impl ForwardTable {
    /// Nothing is forwarded.
    pub fn new(ground: Ground) -> Self {
        Self { ground, rules: Vec::new() }
    }

    /// The rules, in the order in which they were added.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// A table of the same ground that forwards nothing.
    pub fn without_rules(&self) -> Self {
        Self::new(self.ground.clone())
    }

    /// Adds what `text` says, all of it or nothing. `none` adds nothing.
    ///
    /// # Errors
    /// Any [`ForwardError`]; the table is as before then.
    pub fn add(&mut self, protocol: Protocol, text: &str) -> Result<(), ForwardError> {
        let Spec::Ports(ports) = Spec::parse(text)? else { return Ok(()) };
        let mut all = self.rules.clone();
        for rule in rules(protocol, &ports, &self.ground.ephemeral) {
            self.check(&rule)?;
            if let Some(old) = all.iter().find(|old| old.overlaps(&rule)) {
                return Err(ForwardError::Conflict { new: Box::new(rule), old: Box::new(old.clone()) });
            }
            all.push(rule);
        }
        if all.len() > MAX_RULES {
            return Err(ForwardError::TooMany);
        }
        self.rules = all;
        Ok(())
    }

    /// Adds a rule that another table of the same kind has had.
    ///
    /// # Errors
    /// Any [`ForwardError`]; the table is as before then.
    pub fn add_rule(&mut self, rule: Rule) -> Result<(), ForwardError> {
        self.check(&rule)?;
        if let Some(old) = self.rules.iter().find(|old| old.overlaps(&rule)) {
            return Err(ForwardError::Conflict { new: Box::new(rule), old: Box::new(old.clone()) });
        }
        if self.rules.len() >= MAX_RULES {
            return Err(ForwardError::TooMany);
        }
        self.rules.push(rule);
        Ok(())
    }

    /// Removes a rule, if it is there.
    pub fn remove_rule(&mut self, rule: &Rule) {
        self.rules.retain(|old| old != rule);
    }

    /// Removes what `text` says, all of it or nothing: its ports at its address and interface, whatever they lead to.
    /// Of `all`, those are removed that are forwarded. `none`
    /// removes everything of that protocol.
    ///
    /// # Errors
    /// [`ForwardError::Missing`] names the first range that is not wholly there; the table is as before then.
    pub fn remove(&mut self, protocol: Protocol, text: &str) -> Result<(), ForwardError> {
        let Spec::Ports(ports) = Spec::parse(text)? else {
            self.rules.retain(|rule| rule.protocol != protocol);
            return Ok(());
        };
        let mut left = self.rules.clone();
        for rule in rules(protocol, &ports, &self.ground.ephemeral) {
            let matching = |old: &Rule| {
                old.protocol == rule.protocol && old.address == rule.address && old.interface == rule.interface
            };
            let (there, mut others): (Vec<Rule>, Vec<Rule>) = left.into_iter().partition(matching);
            let covered: usize = there.iter().filter_map(|old| old.common_ports(&rule)).map(|ports| ports.len()).sum();
            if rule.strict && covered != rule.ports().len() {
                return Err(ForwardError::Missing(Box::new(rule)));
            }
            others.extend(there.iter().flat_map(|old| old.without(&rule)));
            left = others;
        }
        if left.len() > MAX_RULES {
            return Err(ForwardError::TooMany);
        }
        self.rules = left;
        Ok(())
    }

    /// Every socket that the table asks for; at most one for each protocol, address, interface and port.
    pub fn listens(&self) -> impl Iterator<Item = Listen> + '_ {
        self.rules.iter().flat_map(Rule::listens)
    }

    /// What is to be done so that `new` holds in place of this table.
    pub fn changes_to(&self, new: &Self) -> Changes {
        let (old, wanted): (HashSet<Listen>, HashSet<Listen>) = (self.listens().collect(), new.listens().collect());
        Changes {
            close: self.listens().filter(|listen| !wanted.contains(listen)).collect(),
            open: new.listens().filter(|listen| !old.contains(listen)).collect(),
        }
    }

    /// Whether there are ports that could be [`Steered`].
    pub fn can_be_steered(&self) -> bool {
        self.rules.iter().any(Rule::can_be_steered)
    }

    /// The table of those that take sockets of their own: all, or with `steering` those that cannot be steered.
    pub fn listened(&self, steering: bool) -> Self {
        let rules = self.rules.iter().filter(|rule| !(steering && rule.can_be_steered())).cloned().collect();
        Self { ground: self.ground.clone(), rules }
    }

    fn check(&self, rule: &Rule) -> Result<(), ForwardError> {
        let there_is = match rule.protocol {
            Protocol::Tcp => self.ground.tcp,
            Protocol::Udp => self.ground.udp,
        };
        if !there_is {
            return Err(ForwardError::NoProtocol(rule.protocol));
        }
        if let Some(address) = rule.address
            && !(if address.is_ipv4() { self.ground.v4 } else { self.ground.v6 })
        {
            return Err(ForwardError::NoFamily(address));
        }
        let Some(target) = rule.target else { return Ok(()) };
        if target.is_unspecified() || target.is_multicast() || target.is_loopback() {
            return Err(ForwardError::Target(target));
        }
        match rule.address {
            None => Err(ForwardError::NoListenAddress(Box::new(rule.clone()))),
            Some(address) if address.is_ipv4() != target.is_ipv4() => {
                Err(ForwardError::OtherFamily(Box::new(rule.clone())))
            }
            Some(_) => Ok(()),
        }
    }
}

/// The rules that a specification stands for: its ranges less its exclusions, or all ports that are not ephemeral.
fn rules(protocol: Protocol, spec: &Ports, ephemeral: &RangeInclusive<u16>) -> Vec<Rule> {
    let rule = |first, last, target, target_first, strict| Rule {
        protocol,
        address: spec.address,
        interface: spec.interface.clone(),
        first,
        last,
        target,
        target_first,
        strict,
    };
    let mut rules = Vec::new();
    for item in &spec.ranges {
        rules.push(rule(item.first, item.last, item.target, item.target_first, true));
    }
    if rules.is_empty() {
        rules.push(rule(1, u16::MAX, spec.all_target, 1, false));
        rules = rules.iter().flat_map(|rule| rule.without_ports(*ephemeral.start(), *ephemeral.end())).collect();
    }
    for (first, last) in &spec.exclusions {
        rules = rules.iter().flat_map(|rule| rule.without_ports(*first, *last)).collect();
    }
    rules
}

impl Rule {
    /// The pod's ports.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Whether it means all ports that nobody has, of all addresses: those that are named must be had for certain, and
    /// only a socket of ours makes sure of that.
    fn can_be_steered(&self) -> bool {
        !self.strict && self.address.is_none() && self.interface.is_none()
    }

    fn listens(&self) -> impl Iterator<Item = Listen> + '_ {
        self.ports().map(|port| Listen {
            protocol: self.protocol,
            address: self.address,
            interface: self.interface.clone(),
            port,
            target: self.target,
            target_port: self.target_of(port),
            strict: self.strict,
        })
    }

    /// The guest's port for one of the pod's. The specification was refused if there is none.
    fn target_of(&self, port: u16) -> u16 {
        self.target_first.saturating_add(port.saturating_sub(self.first))
    }

    fn common_ports(&self, other: &Self) -> Option<RangeInclusive<u16>> {
        let common = self.first.max(other.first)..=self.last.min(other.last);
        (!common.is_empty()).then_some(common)
    }

    /// Whether one packet could belong to both.
    fn overlaps(&self, other: &Self) -> bool {
        let addresses = match (self.address, other.address) {
            (Some(one), Some(two)) => {
                one == two || (one.is_ipv4() == two.is_ipv4() && (one.is_unspecified() || two.is_unspecified()))
            }
            (None, _) | (_, None) => true,
        };
        let interfaces = match (&self.interface, &other.interface) {
            (Some(one), Some(two)) => one == two,
            (None, _) | (_, None) => true,
        };
        self.protocol == other.protocol && addresses && interfaces && self.common_ports(other).is_some()
    }

    fn without(&self, other: &Self) -> Vec<Self> {
        self.without_ports(other.first, other.last)
    }

    /// What is left when the ports from `first` to `last` are taken out: up to two pieces.
    fn without_ports(&self, first: u16, last: u16) -> Vec<Self> {
        if last < self.first || self.last < first {
            return vec![self.clone()];
        }
        let piece = |first: Option<u16>, last: Option<u16>| {
            let (first, last) = (first?, last?);
            (first <= last).then(|| Self { first, last, target_first: self.target_of(first), ..self.clone() })
        };
        let below = piece(Some(self.first), first.checked_sub(1));
        let above = piece(last.checked_add(1), Some(self.last));
        below.into_iter().chain(above).collect()
    }
}

/// Opens sockets with `open`, and hands them out with what they listen to.
///
/// A [strict](Listen::strict) one that cannot be opened ends it; of the others, one must be opened. What was opened is
/// dropped then. Of those that are not strict at most `best_effort` are opened, the lowest ports first.
///
/// # Errors
/// The one that could not be opened, with the remedy.
pub fn open_all<S>(
    mut listens: Vec<Listen>,
    best_effort: usize,
    mut open: impl FnMut(&Listen) -> io::Result<S>,
) -> Result<Vec<(Listen, S)>, OpenError> {
    listens.sort_by_key(|listen| (!listen.strict).then_some(listen.port));
    let mut opened = Vec::new();
    let (mut room, mut left_out) = (best_effort, 0_usize);
    let mut failed = None;
    for listen in listens {
        if !listen.strict && room == 0 {
            left_out += 1;
            continue;
        }
        match open(&listen) {
            Ok(socket) => {
                room -= usize::from(!listen.strict);
                opened.push((listen, socket));
            }
            Err(error) if listen.strict => return Err(OpenError { listen: Box::new(listen), error }),
            Err(error) => failed = Some((listen, error)),
        }
    }
    if left_out > 0 {
        tracing::warn!(
            "{left_out} of the ports that \"all\" means are not forwarded: half of the descriptors are for connections; \
             raise the limit of open files (ulimit -n), or name the ports"
        );
    }
    match failed {
        Some((listen, error)) if !opened.iter().any(|(opened, _)| !opened.strict) => {
            Err(OpenError { listen: Box::new(listen), error })
        }
        _ => Ok(opened),
    }
}

/// A socket that could not be opened.
#[derive(Debug)]
pub struct OpenError {
    listen: Box<Listen>,
    error: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, error } = self;
        if !listen.strict {
            return write!(f, "none of the ports could be forwarded; at {listen}: {error}");
        }
        write!(f, "{listen} cannot be forwarded: {error}; ")?;
        match error.kind() {
            io::ErrorKind::AddrInUse => f.write_str("stop the program that has the port, or choose another one"),
            io::ErrorKind::AddrNotAvailable => {
                f.write_str("choose an address of the pod, or allow others with --freebind")
            }
            io::ErrorKind::PermissionDenied => write!(
                f,
                "allow it with `sysctl -w net.ipv4.ip_unprivileged_port_start={}`, or choose a port from 1024 on",
                listen.port
            ),
            _ => f.write_str("choose another port"),
        }
    }
}

impl std::error::Error for OpenError {}

impl Protocol {
    /// As options have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// An address to listen at, as people know it from other tools: `*`, `192.0.2.1`, `[2001:db8::1]`.
fn listen_address(
    f: &mut fmt::Formatter<'_>,
    protocol: Protocol,
    address: Option<IpAddr>,
    interface: Option<&str>,
) -> fmt::Result {
    match address {
        None => write!(f, "{protocol} *")?,
        Some(IpAddr::V4(address)) => write!(f, "{protocol} {address}")?,
        Some(IpAddr::V6(address)) => write!(f, "{protocol} [{address}]")?,
    }
    interface.map_or(Ok(()), |interface| write!(f, "%{interface}"))
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        listen_address(f, self.protocol, self.address, self.interface.as_deref())?;
        write!(f, ":{}", self.port)
    }
}

/// As in `TCP *:2000-2005 => 3000-3005` and `UDP 192.0.2.1%eth0:53 => 192.0.2.5:53 (best effort)`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |f: &mut fmt::Formatter<'_>, first, last| {
            if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
        };
        listen_address(f, self.protocol, self.address, self.interface.as_deref())?;
        f.write_str(":")?;
        range(f, self.first, self.last)?;
        f.write_str(" => ")?;
        match self.target {
            None => {}
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
        }
        range(f, self.target_first, self.target_of(self.last))?;
        if self.strict { Ok(()) } else { f.write_str(" (best effort)") }
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn example(rule: &Rule) -> String {
    let any = if rule.target.is_some_and(|target| target.is_ipv4()) { "0.0.0.0" } else { "::" };
    format!("{any}/{}:{}", rule.first, rule.target.map(|target| target.to_string()).unwrap_or_default())
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests;

//! Readers of single values: each takes what TOML parsed and returns a checked value, or what is wrong with it.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use culvert_frame::MacAddress;
use culvert_vhost::Owner;
use ipnet::IpNet;
use toml::de::DeValue;

use super::mistake::{either, nearest};
use super::section::Found;
use super::vlan::VLAN_RANGE;
use crate::name::Name;

/// What is wrong with a value, and the remedy: the two halves of a [`Mistake`](super::Mistake)'s sentence.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }

    /// A value of the wrong TOML type.
    pub(super) fn kind(needed: &str, value: &DeValue<'_>, example: &str) -> Self {
        let is = match value {
            DeValue::String(_) => "a text in quotes",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        Self::new(format!("must be {needed}, not {is}"), format!("write it like {example}"))
    }
}

/// Any text without control characters.
pub(super) fn text<'v>(value: &'v DeValue<'_>, example: &str) -> Result<&'v str, Wrong> {
    let DeValue::String(text) = value else { return Err(Wrong::kind("a text in quotes", value, example)) };
    if text.contains(char::is_control) {
        return Err(Wrong::new("contains a control character", format!("write it like {example}")));
    }
    Ok(text)
}

/// A whole number within `range`.
pub(super) fn number<T>(value: &DeValue<'_>, range: RangeInclusive<T>) -> Result<T, Wrong>
where
    T: Copy + Display + PartialOrd + TryFrom<i128>,
{
    let (low, high) = (*range.start(), *range.end());
    let DeValue::Integer(integer) = value else {
        let remedy = format!("write a plain number from {low} to {high}");
        return Err(Wrong { remedy, ..Wrong::kind("a whole number", value, "") });
    };
    let outside = || Wrong::new("is out of range", format!("write a number from {low} to {high}"));
    let number = i128::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| outside())?;
    T::try_from(number).ok().filter(|number| range.contains(number)).ok_or_else(outside)
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    match value {
        DeValue::Boolean(boolean) => Ok(*boolean),
        other => {
            Err(Wrong::new(Wrong::kind("true or false", other, "").problem, "write true or false, without quotes"))
        }
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(value: &DeValue<'_>, choices: &[(&'static str, T)]) -> Result<T, Wrong> {
    let words = || choices.iter().map(|(word, _)| *word);
    let example = format!("\"{}\"", words().next().unwrap_or_default());
    let text = text(value, &example)?;
    choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(|| {
        let remedy = match nearest(text, words()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!(
                "write {}",
                either(words().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().iter().map(String::as_str))
            ),
        };
        Wrong::new("is none of the choices", remedy)
    })
}

/// The name of a port or network.
pub(super) fn name(value: &DeValue<'_>) -> Result<Name, Wrong> {
    Name::parse(text(value, "\"vm-a\"")?)
        .map_err(|_| Wrong::new("is not a name", "use 1 to 63 characters of a-z, 0-9 and -"))
}

/// A duration within `range`: a number and `us`, `ms`, `s`, `m` or `h`. A plain `0` needs no unit.
pub(super) fn duration(value: &DeValue<'_>, range: RangeInclusive<Duration>, example: &str) -> Result<Duration, Wrong> {
    let DeValue::String(text) = value else { return Err(Wrong::kind("a duration in quotes", value, example)) };
    let not_one = || Wrong::new("is not a duration", format!("write a number and us, ms, s, m or h, like {example}"));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at_checked(digits).ok_or_else(not_one)?;
    let microseconds: u64 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "" if count == "0" => 1,
        _ => return Err(not_one()),
    };
    if count.is_empty() {
        return Err(not_one());
    }
    // Only digits are left, so that the one way to fail is a number too large.
    let duration =
        count.parse::<u64>().ok().and_then(|count| count.checked_mul(microseconds)).map(Duration::from_micros);
    duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
        let (low, high) = (with_unit(*range.start()), with_unit(*range.end()));
        Wrong::new("is out of range", format!("write a duration from {low} to {high}"))
    })
}

/// `duration` as [`duration`] reads it, in the largest unit that fits.
pub(super) fn with_unit(duration: Duration) -> String {
    let microseconds = duration.as_micros();
    let units = [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];
    let largest = units.into_iter().find(|(_, size)| microseconds >= *size && microseconds.is_multiple_of(*size));
    largest.map_or_else(|| "0".to_owned(), |(unit, size)| format!("{}{unit}", microseconds / size))
}

/// A unicast MAC address.
pub(super) fn station_address(value: &DeValue<'_>) -> Result<MacAddress, Wrong> {
    let example = "\"02:00:00:00:00:0a\"";
    let address: MacAddress = text(value, example)?
        .parse()
        .map_err(|_| Wrong::new("is not a MAC address", format!("write six bytes like {example}")))?;
    if address.is_group() || address == MacAddress::default() {
        let remedy = format!("write the guest's own address, like {example}");
        return Err(Wrong::new("is not the address of one station", remedy));
    }
    Ok(address)
}

/// One element of `trunk`: a VLAN as a number, or a range of them in quotes; the first and the last one.
pub(super) fn vlan_range(value: &DeValue<'_>) -> Result<(u16, u16), Wrong> {
    let (low, high) = (*VLAN_RANGE.start(), *VLAN_RANGE.end());
    let remedy = || format!("write a number from {low} to {high}, or a range of them like \"30-39\"");
    match value {
        DeValue::Integer(_) => number(value, VLAN_RANGE).map(|vlan| (vlan, vlan)),
        DeValue::String(range) => {
            let number = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse().ok().filter(|vlan| digits && VLAN_RANGE.contains(vlan))
            };
            let ends = range.split_once('-').unwrap_or((range, range));
            match (number(ends.0), number(ends.1)) {
                (Some(first), Some(last)) if first <= last => Ok((first, last)),
                (Some(_), Some(_)) => Err(Wrong::new("ends before it starts", "write the lower VLAN first")),
                _ => Err(Wrong::new("is no range of VLANs", remedy())),
            }
        }
        other => Err(Wrong { remedy: remedy(), ..Wrong::kind("a number or a range in quotes", other, "") }),
    }
}

/// One element of `addresses`: an IPv4 or IPv6 address, or a prefix.
pub(super) fn addresses(value: &DeValue<'_>) -> Result<IpNet, Wrong> {
    let example = "\"10.0.0.5\" or \"fd00::/64\"";
    let text = text(value, example)?;
    let address = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>());
    let address = address.map_err(|_| Wrong::new("is no IP address or prefix", format!("write it like {example}")))?;
    if address.addr() != address.network() {
        let (whole, one) = (address.trunc(), address.addr());
        let problem = format!("has bits set behind its first {}", address.prefix_len());
        return Err(Wrong::new(problem, format!("write \"{whole}\" for the prefix or \"{one}\" for one address")));
    }
    if address.addr().is_multicast() {
        return Err(Wrong::new("is no address of a station", "write the guest's own addresses"));
    }
    Ok(address)
}

/// An address or prefix as [`addresses`] reads it: one address without its length.
pub fn address_text(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// `text` as a TOML string.
pub fn toml_text(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Puts a value that was found in the place of a default.
pub(super) fn set<T>(place: &mut T, found: Option<Found<T>>) {
    if let Some(found) = found {
        *place = found.value;
    }
}

/// An address and a port number to listen on.
pub(super) fn socket_address(value: &DeValue<'_>) -> Result<Option<SocketAddr>, Wrong> {
    let example = "\"127.0.0.1:9477\"";
    let text = text(value, example)?;
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let remedy = format!("write it like {example} or \"[::1]:9477\", or \"off\"");
        Wrong::new("is not an address with a port number", remedy)
    })
}

/// An absolute path without `..`, without repeated or trailing slashes.
pub(super) fn absolute_path(value: &DeValue<'_>, example: &str) -> Result<PathBuf, Wrong> {
    let path = text(value, example)?;
    if path.contains(char::is_control) {
        return Err(Wrong::new("contains a control character", "write the path without it"));
    }
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err(Wrong::new("is not an absolute path", format!("start it with /, like {example}")));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Wrong::new("contains \"..\"", "write the path without it"));
    }
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(Wrong::new(format!("is longer than {MAX_PATH_BYTES} bytes"), "choose a shorter path"));
    }
    Ok(path.components().collect())
}

/// The path of a Unix socket. It is used through its folder's descriptor, so that the folder's path may be longer than
/// the 107 bytes that a socket address holds (unix(7)); the name in the folder may not be.
pub(super) fn socket_path(value: &DeValue<'_>, example: &str) -> Result<PathBuf, Wrong> {
    let path = absolute_path(value, example)?;
    let Some(file_name) = path.file_name() else {
        return Err(Wrong::new("names no file", format!("add the socket's name, like {example}")));
    };
    if file_name.len() > MAX_SOCKET_NAME_BYTES {
        let problem = format!("has a file name of more than {MAX_SOCKET_NAME_BYTES} bytes");
        return Err(Wrong::new(problem, "shorten the part behind the last slash"));
    }
    Ok(path)
}

/// The user and the group that a socket belongs to, by number.
pub(super) fn owner(value: &DeValue<'_>) -> Result<Owner, Wrong> {
    let example = "\"107:107\"";
    text(value, example)?.parse().map_err(|_| {
        Wrong::new("is no user and group by number", format!("write them with a colon between, like {example}"))
    })
}

/// The name of a network interface, as the kernel takes it (`dev_valid_name`).
pub(super) fn interface(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value, "\"tap0\"")?;
    let valid = (1..=MAX_INTERFACE_BYTES).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
    if valid {
        return Ok(text.to_owned());
    }
    let remedy = format!("write 1 to {MAX_INTERFACE_BYTES} bytes without / and :, like \"tap0\"");
    Err(Wrong::new("is no name of a network interface", remedy))
}

/// An SELinux label.
pub(super) fn label(value: &DeValue<'_>) -> Result<String, Wrong> {
    let example = "\"system_u:object_r:container_file_t:s0\"";
    let label = text(value, example)?;
    if label.is_empty() || label.len() > MAX_LABEL_BYTES || !label.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Wrong::new("is no SELinux label", format!("write it like {example}")));
    }
    Ok(label.to_owned())
}

/// What somebody wrote for people.
pub(super) fn description(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value, "\"vm-a of Anna\"")?;
    if text.is_empty() || text.len() > MAX_DESCRIPTION_BYTES {
        let problem = format!("has not 1 to {MAX_DESCRIPTION_BYTES} bytes");
        return Err(Wrong::new(problem, "shorten it, or remove the key"));
    }
    Ok(text.to_owned())
}

/// A device for DPDK: a PCI address or the name of a virtual device, each with its driver's arguments.
pub(super) fn device(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(value, "\"0000:03:00.0\" or \"net_null0\"")?;
    let name = text.split(',').next().unwrap_or_default();
    if let Some(address) = pci_address(name) {
        return Ok(text.replacen(name, &address, 1));
    }
    let known_prefix = ["net_", "eth_", "virtio_user"].iter().any(|prefix| name.starts_with(prefix));
    let name_characters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if known_prefix && name_characters && name.len() < MAX_DEVICE_NAME_BYTES {
        return Ok(text.to_owned());
    }
    let remedy = "write a PCI address like \"0000:03:00.0\" or a virtual device like \"net_af_packet0,iface=eth0\"";
    Err(Wrong::new("is no DPDK device", remedy))
}

/// The PCI address in its full form (`dddd:bb:dd.f`), when `text` is one; the domain may be left out.
pub(super) fn pci_address(text: &str) -> Option<String> {
    let (slot, function) = text.rsplit_once('.')?;
    let parts: Vec<&str> = slot.split(':').collect();
    let (domain, bus, device) = match parts.as_slice() {
        [bus, device] => ("0000", *bus, *device),
        [domain, bus, device] => (*domain, *bus, *device),
        _ => return None,
    };
    let is_hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let valid = is_hex(domain, 4)
        && is_hex(bus, 2)
        && is_hex(device, 2)
        && u8::from_str_radix(device, 16).is_ok_and(|device| device < 32)
        && matches!(function.as_bytes(), [b'0'..=b'7']);
    valid.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

/// Longest path, in bytes: PATH_MAX without its final zero.
const MAX_PATH_BYTES: usize = 4095;
/// Longest file name of a socket: 107 bytes less `/proc/self/fd/NUMBER/`.
const MAX_SOCKET_NAME_BYTES: usize = 80;
/// IFNAMSIZ, which counts a final zero, less one.
const MAX_INTERFACE_BYTES: usize = 15;
/// Longest SELinux label, in bytes: a page, as the kernel takes it.
const MAX_LABEL_BYTES: usize = 4095;
/// Longest `description`, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 200;
/// RTE_DEV_NAME_MAX_LEN, which counts a final zero.
const MAX_DEVICE_NAME_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        let texts = [(0, "0"), (1, "1us"), (1_500, "1500us"), (2_000, "2ms"), (10_000_000, "10s"), (60_000_000, "1m")];
        for (microseconds, text) in texts {
            assert_eq!(with_unit(Duration::from_micros(microseconds)), text);
        }
        assert_eq!(with_unit(Duration::from_secs(24 * 3600)), "24h");
    }

    #[test]
    fn pci_addresses_get_their_domain() {
        assert_eq!(pci_address("03:00.0").as_deref(), Some("0000:03:00.0"));
        assert_eq!(pci_address("0001:AF:1f.7").as_deref(), Some("0001:af:1f.7"));
        for text in ["", "03:00", "03:00.8", "03:20.0", "3:0.0", "00000:03:00.0", "a:03:00.0", "03:00.0.0", "+3:00.0"] {
            assert_eq!(pci_address(text), None, "{text}");
        }
    }
}

//! What was learned of the guest from its frames: its MAC address, and the addresses that it uses at present.
//!
//! Traffic for the guest goes to what it used last, whatever it was assigned: a guest that has another address than the
//! one it was offered is still reached, and nobody needs to configure that. What the guest is told is in
//! [`crate::settings`]; the state of its flows is elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_frame::MacAddress;

use crate::settings::Settings;

/// The guest, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The address that its frames come from; `None` before the first one.
    pub mac: Option<MacAddress>,
    /// The IPv4 address it used last, at first the one it is assigned; unspecified where it has no IPv4.
    pub v4: Ipv4Addr,
    /// The IPv6 address, not link-local, that it used last, at first the one it is assigned. Unspecified where it has
    /// none.
    pub v6: Ipv6Addr,
    /// The link-local address it used last; `None` before the first.
    pub v6_link_local: Option<Ipv6Addr>,
    /// The longest packet, in bytes, that its receive buffers hold, where that is known.
    pub longest_packet: Option<u16>,
}

impl Guest {
    /// A guest from which nothing was heard.
    pub fn new(settings: &Settings) -> Self {
        Self {
            mac: None,
            v4: settings.v4.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |v4| v4.address.addr()),
            v6: settings.v6.as_ref().map_or(Ipv6Addr::UNSPECIFIED, |v6| v6.address),
            v6_link_local: None,
            longest_packet: None,
        }
    }

    /// Where frames for the guest go: its address, or to all while it is unknown.
    pub fn mac_or_broadcast(&self) -> MacAddress {
        self.mac.unwrap_or(MacAddress::BROADCAST)
    }

    /// The MTU that it is told, in bytes: what is wanted, as far as its buffers hold that. `None`: it is told none.
    pub fn mtu(&self, settings: &Settings) -> Option<u16> {
        Some(settings.mtu?.min(self.longest_packet.unwrap_or(u16::MAX)))
    }

    /// Learns from the sources of a frame of the guest's, an Ethernet header first: of IPv4, IPv6 and ARP. Sources that
    /// no host may have are passed over (RFC 1122, section 3.2.1.3; RFC 4291, sections 2.5 and 2.7), and ours.
    pub fn learn(&mut self, settings: &Settings, frame: &[u8]) {
        let Some((ethernet, payload)) = frame.split_first_chunk::<14>() else { return };
        let [_, _, _, _, _, _, a, b, c, d, e, f, kind @ ..] = *ethernet;
        let mac = MacAddress([a, b, c, d, e, f]);
        if mac.is_group() || mac == MacAddress::default() || mac == settings.mac {
            return;
        }
        self.mac = Some(mac);
        match u16::from_be_bytes(kind) {
            IPV4 => self.learn_v4(settings, bytes_at(payload, 12)),
            ARP => self.learn_v4(settings, bytes_at(payload, 14)),
            IPV6 => self.learn_v6(settings, bytes_at(payload, 8)),
            _ => {}
        }
    }

    fn learn_v4(&mut self, settings: &Settings, source: Option<[u8; 4]>) {
        let (Some(source), Some(v4)) = (source.map(Ipv4Addr::from), &settings.v4) else { return };
        // 0.0.0.0/8, 127.0.0.0/8, and 224.0.0.0 up to 255.255.255.255.
        let [first, ..] = source.octets();
        if !matches!(first, 0 | 127 | 224..) && source != v4.ours && source != v4.gateway {
            self.v4 = source;
        }
    }

    fn learn_v6(&mut self, settings: &Settings, source: Option<[u8; 16]>) {
        let (Some(source), Some(v6)) = (source.map(Ipv6Addr::from), &settings.v6) else { return };
        if source.is_unspecified()
            || source.is_loopback()
            || source.is_multicast()
            || source == v6.link_local
            || source == v6.gateway
        {
            return;
        }
        if source.is_unicast_link_local() {
            self.v6_link_local = Some(source);
        } else {
            self.v6 = source;
        }
    }
}

/// `N` bytes of `from`, those at `offset`.
fn bytes_at<const N: usize>(from: &[u8], offset: usize) -> Option<[u8; N]> {
    from.get(offset..)?.first_chunk().copied()
}

/// EtherTypes.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn v4(source: [u8; 4]) -> Vec<u8> {
        let ip = [&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0][..], &source, &[8, 8, 8, 8]].concat();
        [&[0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55][..], &samples::GUEST_MAC.0, &[8, 0], &ip].concat()
    }

    fn v6(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().unwrap();
        let ip = [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &source.octets(), &[0; 16]].concat();
        [&[0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55][..], &samples::GUEST_MAC.0, &[0x86, 0xdd], &ip].concat()
    }

    #[test]
    fn a_guest_has_what_it_was_assigned_until_it_uses_something_else() {
        let settings = samples::settings();
        let mut guest = Guest::new(&settings);
        let ll = samples::GUEST_LINK_LOCAL;
        assert_eq!((guest.v4, guest.v6), ([192, 0, 2, 2].into(), "2001:db8::2".parse().unwrap()));
        assert_eq!((guest.mac_or_broadcast(), guest.v6_link_local), (MacAddress::BROADCAST, None));
        guest.learn(&settings, &v4([10, 0, 0, 9]));
        assert_eq!((guest.mac_or_broadcast(), guest.v4), (samples::GUEST_MAC, [10, 0, 0, 9].into()));
        guest.learn(&settings, &v6(&ll.to_string()));
        assert_eq!((guest.v6, guest.v6_link_local), ("2001:db8::2".parse().unwrap(), Some(ll)));
        guest.learn(&settings, &v6("2001:db8::77"));
        assert_eq!((guest.v6, guest.v6_link_local), ("2001:db8::77".parse().unwrap(), Some(ll)));
    }

    #[test]
    fn a_guest_is_told_no_larger_mtu_than_its_buffers_hold() {
        let mut settings = samples::settings();
        let mut guest = Guest::new(&settings);
        for (wanted, holds, told) in [
            (Some(65_520), None, Some(65_520)),
            (Some(65_520), Some(1500), Some(1500)),
            (Some(1400), Some(1500), Some(1400)),
            (None, Some(1500), None),
        ] {
            (settings.mtu, guest.longest_packet) = (wanted, holds);
            assert_eq!(guest.mtu(&settings), told);
        }
    }

    #[test]
    fn sources_that_no_guest_has_are_not_learned() {
        let settings = samples::settings();
        let mut guest = Guest::new(&settings);
        guest.learn(&settings, &v4([192, 0, 2, 2]));
        let before = guest;
        for source in [[0; 4], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4], [192, 0, 2, 1]] {
            guest.learn(&settings, &v4(source));
            assert_eq!(guest, before, "{source:?}");
        }
        for source in ["::", "::1", "ff02::1", "fe80::1"] {
            guest.learn(&settings, &v6(source));
            assert_eq!(guest, before, "{source}");
        }
        for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1], settings.mac.0] {
            let mut frame = v4([10, 0, 0, 9]);
            frame[6..12].copy_from_slice(&mac);
            guest.learn(&settings, &frame);
            assert_eq!(guest, before, "{mac:?}");
        }
    }

    #[test]
    fn frames_cut_short_and_families_that_there_are_not() {
        let settings = samples::settings();
        let mut guest = Guest::new(&settings);
        for frame in [v4([10, 0, 0, 9]), v6("2001:db8::77")] {
            let end = if frame.len() > 50 { 38 } else { 30 };
            for length in 0..end {
                guest.learn(&settings, &frame[..length]);
            }
        }
        let untouched = Guest::new(&settings);
        assert_eq!((guest.v4, guest.v6, guest.v6_link_local), (untouched.v4, untouched.v6, None));
        let none = Settings { v4: None, v6: None, ..settings };
        let mut guest = Guest::new(&none);
        guest.learn(&none, &v4([10, 0, 0, 9]));
        guest.learn(&none, &v6("2001:db8::77"));
        assert_eq!((guest.v4, guest.v6), (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED));
    }
}

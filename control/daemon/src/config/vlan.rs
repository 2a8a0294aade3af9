//! The VLANs of a port as they are written: the keys `vlan`, `qinq`, `trunk` and `native`. What they do to frames is the
//! switch's matter; `node` hands them over.

use std::ops::RangeInclusive;

use culvert_switch::vlan::MAX_VLAN;

use super::section::{Report, Section};
use super::value::{self, Wrong};

/// Which VLANs a port belongs to, and how (IEEE 802.1Q-2022, 6.9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Vlans {
    /// Neither `vlan` nor `trunk`: frames pass as they are, with the tags that they have, in a domain of their own.
    #[default]
    Transparent,
    /// `vlan`: frames without a tag; they belong to this VLAN.
    Access {
        /// The VLAN, one of [`VLAN_RANGE`].
        vlan: u16,
        /// Whether tags of the guest's own are carried inside of `vlan`; such frames are refused otherwise.
        qinq: bool,
    },
    /// `trunk`: frames with a tag of one of these VLANs.
    Trunk {
        /// The VLANs, at least one.
        allowed: VlanRanges,
        /// The VLAN of frames without a tag, one of `allowed`; such frames are refused when `None`.
        native: Option<u16>,
    },
}

/// VLAN identifiers that a port may have (IEEE 802.1Q-2022, table 9-2: 0 and 4095 are reserved).
pub const VLAN_RANGE: RangeInclusive<u16> = 1..=MAX_VLAN;

/// A set of VLANs, as ranges in order with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VlanRanges(Vec<(u16, u16)>);

impl VlanRanges {
    /// The set that has all VLANs of `ranges`; each has its first and its last one.
    pub fn new(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for (first, last) in sorted {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// The ranges, each with its first and its last VLAN.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Every VLAN, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|&(first, last)| first..=last)
    }

    /// Each range as it is written in the configuration: `10` or `30-39`.
    pub fn texts(&self) -> Vec<String> {
        let text = |&(first, last): &(u16, u16)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        self.0.iter().map(text).collect()
    }
}

impl Vlans {
    /// Reads the four keys of a port.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Self {
        let vlan = section.optional(report, "vlan", |value| value::number(value, VLAN_RANGE));
        let trunk = section.list(report, "trunk", "[10, \"30-39\"]", value::vlan_range);
        let native = section.optional(report, "native", |value| value::number(value, VLAN_RANGE));
        let qinq = section.optional(report, "qinq", value::boolean);
        if section.has("vlan") {
            let stands = |remedy: &str| Wrong::new("stands beside vlan", remedy);
            section.refuse(report, "trunk", stands("keep vlan for one VLAN or trunk for several, not both"));
            section.refuse(report, "native", stands("remove it: frames without a tag belong to vlan already"));
        } else {
            let remedy = "remove it, or add vlan: the VLAN that carries the guest's tags";
            section.refuse(report, "qinq", Wrong::new("works only with vlan", remedy));
            if !section.has("trunk") {
                let remedy = "remove it, or add trunk with the VLANs that have a tag";
                section.refuse(report, "native", Wrong::new("works only with trunk", remedy));
            }
        }
        if section.is_empty_list("trunk") {
            let remedy = "write at least one, like [10, \"30-39\"], or remove the key";
            section.refuse(report, "trunk", Wrong::new("names no VLAN", remedy));
        }
        match (vlan, trunk) {
            (Some(vlan), _) => Self::Access { vlan: vlan.value, qinq: qinq.is_some_and(|found| found.value) },
            (None, Some(trunk)) => {
                let native = native.map(|found| found.value);
                let listed = trunk.value.into_iter().map(|found| found.value);
                let allowed = VlanRanges::new(listed.chain(native.map(|vlan| (vlan, vlan))));
                Self::Trunk { allowed, native }
            }
            (None, None) => Self::Transparent,
        }
    }

    /// The keys that [`Self::read`] reads this from, with their values as TOML.
    pub(super) fn keys(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Transparent => Vec::new(),
            Self::Access { vlan, qinq } => {
                let qinq = qinq.then(|| ("qinq", "true".to_owned()));
                std::iter::once(("vlan", vlan.to_string())).chain(qinq).collect()
            }
            Self::Trunk { allowed, native } => {
                let texts = allowed.texts().into_iter();
                let elements: Vec<_> =
                    texts.map(|text| if text.contains('-') { format!("\"{text}\"") } else { text }).collect();
                let native = native.map(|vlan| ("native", vlan.to_string()));
                std::iter::once(("trunk", format!("[{}]", elements.join(", ")))).chain(native).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined() {
        let ranges = VlanRanges::new([(30, 39), (10, 10), (35, 50), (51, 51), (9, 8), (11, 11)]);
        assert_eq!(ranges.ranges(), [(10, 11), (30, 51)]);
        assert_eq!(ranges.texts(), ["10-11", "30-51"]);
        assert_eq!(ranges.iter().count(), 2 + 22);
        assert_eq!(VlanRanges::new([(1, 4094), (5, 4000)]).ranges(), [(1, 4094)]);
    }
}

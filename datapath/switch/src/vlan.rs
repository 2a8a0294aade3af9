//! VLANs of a port (IEEE 802.1Q-2022): which frames may come in, in which VLAN they are then, and how they leave.
//!
//! A port is one of three kinds. A *transparent* port knows no VLANs: its frames pass as they are, tags included, in VLAN
//! 0, which only transparent ports have. An *access* port is in one VLAN and its frames carry no tag; with `qinq` it
//! takes tagged frames too and carries their tags inside its VLAN. A *trunk* carries many VLANs, told apart by the frame's
//! outer tag, and one *native* VLAN for frames without.
//!
//! Priority tags (VLAN 0 in the tag, 802.1Q 6.13) are kept: on their way out of a trunk they get the VLAN's number. Inner
//! tags are the sender's own: nothing but that there is one matters, since a frame of the native VLAN that left with it as
//! its outer tag would be in another VLAN at the other end. Such a frame leaves with the native VLAN's tag before it.

use std::sync::Arc;

use culvert_frame::DropReason;

/// Bytes of one tag.
pub const TAG_BYTES: usize = 4;

/// Where the first tag starts: behind the addresses.
pub(crate) const TAG_OFFSET: usize = 12;

/// The VLAN of transparent ports.
pub const TRANSPARENT: u16 = 0;

/// Largest number of a VLAN; 4095 is reserved (802.1Q-2022, table 9-2).
pub const MAX_VLAN: u16 = 4094;

/// Which VLANs a port has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Vlans {
    /// None: frames pass as they are, between such ports.
    #[default]
    Transparent,
    /// One, whose frames have no tag at this port.
    Access {
        /// 1 to [`MAX_VLAN`].
        vlan: u16,
        /// Whether tagged frames are taken, and their tags carried inside the VLAN.
        qinq: bool,
    },
    /// Many, whose frames are tagged.
    Trunk {
        /// Those whose frames are tagged.
        allowed: Arc<VlanSet>,
        /// The one whose frames have no tag; may be in `allowed`, then frames with its tag are taken as well.
        native: Option<u16>,
    },
}

/// A set of VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanSet([u64; 64]);

impl VlanSet {
    /// Whether `vlan` is in the set.
    #[inline]
    pub fn contains(&self, vlan: u16) -> bool {
        self.0.get(usize::from(vlan / 64)).is_some_and(|word| word >> (vlan % 64) & 1 != 0)
    }

    /// The VLANs, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=MAX_VLAN).filter(|&vlan| self.contains(vlan))
    }
}

impl FromIterator<u16> for VlanSet {
    /// Numbers that are no VLAN's (0, and above [`MAX_VLAN`]) are left out.
    fn from_iter<I: IntoIterator<Item = u16>>(vlans: I) -> Self {
        let mut set = Self([0; 64]);
        for vlan in vlans.into_iter().filter(|vlan| (1..=MAX_VLAN).contains(vlan)) {
            if let Some(word) = set.0.get_mut(usize::from(vlan / 64)) {
                *word |= 1 << (vlan % 64);
            }
        }
        set
    }
}

/// The VLAN that a frame is in, and how it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// [`TRANSPARENT`], or 1 to [`MAX_VLAN`].
    pub vlan: u16,
    /// The frame's tag, as far as it concerns us.
    pub tag: Tag,
    /// Whether a tag follows that is the sender's own.
    pub has_inner: bool,
}

impl Membership {
    /// That of a frame with these first bytes, in `vlan` by `tag`.
    #[inline]
    fn new(vlan: u16, tag: Tag, head: &[u8]) -> Self {
        let inner = match tag {
            Tag::None => TAG_OFFSET,
            Tag::Priority(_) | Tag::Vlan => TAG_OFFSET + TAG_BYTES,
        };
        Self { vlan, tag, has_inner: matches!(head.get(inner..), Some([0x81, 0x00, ..] | [0x88, 0xa8, ..])) }
    }
}

/// What a frame has of a tag that is ours to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// None; tags that may be there are the sender's own.
    None,
    /// A priority tag with this control information (priority and drop eligibility in the upper 4 bits, VLAN 0).
    Priority(u16),
    /// The tag of its VLAN.
    Vlan,
}

/// What becomes of a frame's tag on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagEdit {
    /// The frame leaves as it came.
    Keep,
    /// A tag with this control information is put in.
    Push(u16),
    /// The outer tag is taken away.
    Pop,
    /// The outer tag gets this control information.
    Rewrite(u16),
}

impl Vlans {
    /// The VLAN of a frame that comes in here with these first bytes.
    ///
    /// # Errors
    /// [`DropReason::VlanNotAllowed`]; [`DropReason::Runt`] when the frame ends within its tag.
    #[inline]
    pub fn ingress(&self, head: &[u8]) -> Result<Membership, DropReason> {
        match self {
            Self::Transparent => Ok(Membership { vlan: TRANSPARENT, tag: Tag::None, has_inner: false }),
            Self::Access { vlan, qinq: true } => Ok(Membership::new(*vlan, Tag::None, head)),
            Self::Access { vlan, qinq: false } => match outer_tag(head)? {
                None => Ok(Membership::new(*vlan, Tag::None, head)),
                Some(control) if control & VLAN_BITS == 0 => Ok(Membership::new(*vlan, Tag::Priority(control), head)),
                Some(_) => Err(DropReason::VlanNotAllowed),
            },
            Self::Trunk { allowed, native } => {
                let native = native.ok_or(DropReason::VlanNotAllowed);
                match outer_tag(head)? {
                    None => Ok(Membership::new(native?, Tag::None, head)),
                    Some(control) if control & VLAN_BITS == 0 => {
                        Ok(Membership::new(native?, Tag::Priority(control), head))
                    }
                    Some(control) if allowed.contains(control & VLAN_BITS) => {
                        Ok(Membership::new(control & VLAN_BITS, Tag::Vlan, head))
                    }
                    Some(_) => Err(DropReason::VlanNotAllowed),
                }
            }
        }
    }

    /// Whether frames of `vlan` may leave here.
    #[inline]
    pub fn carries(&self, vlan: u16) -> bool {
        match self {
            Self::Transparent => vlan == TRANSPARENT,
            Self::Access { vlan: own, .. } => vlan == *own,
            Self::Trunk { allowed, native } => *native == Some(vlan) || allowed.contains(vlan),
        }
    }

    /// How a frame leaves here; the port carries its VLAN.
    #[inline]
    pub fn egress(&self, frame: Membership) -> TagEdit {
        let tagged = match self {
            Self::Transparent => return TagEdit::Keep,
            Self::Access { .. } => false,
            Self::Trunk { native, .. } => *native != Some(frame.vlan) || frame.has_inner,
        };
        match (frame.tag, tagged) {
            (Tag::None, true) => TagEdit::Push(frame.vlan),
            (Tag::Priority(control), true) => TagEdit::Rewrite(control & !VLAN_BITS | frame.vlan),
            (Tag::Vlan, false) => TagEdit::Pop,
            (Tag::None | Tag::Priority(_), false) | (Tag::Vlan, true) => TagEdit::Keep,
        }
    }

    /// The VLANs in which an address that is bound to the port stands: all of an ordinary port, and of a trunk up to 64.
    pub fn bound(&self) -> Vec<u16> {
        match self {
            Self::Transparent => vec![TRANSPARENT],
            Self::Access { vlan, .. } => vec![*vlan],
            Self::Trunk { allowed, native } => {
                let tagged = allowed.iter().filter(|vlan| Some(*vlan) != *native);
                native.iter().copied().chain(tagged).take(64).collect()
            }
        }
    }
}

impl TagEdit {
    /// By how many bytes the frame grows.
    #[inline]
    pub const fn growth(self) -> i16 {
        match self {
            Self::Keep | Self::Rewrite(_) => 0,
            Self::Push(_) => 4,
            Self::Pop => -4,
        }
    }

    /// A frame's length after the edit.
    #[inline]
    pub const fn length(self, before: u32) -> u32 {
        before.saturating_add_signed(self.growth() as i32)
    }

    /// Writes a frame's first bytes as they are after the edit into `out`, which has room for [`TAG_BYTES`] more than
    /// `head`; returns how many that are.
    pub fn apply(self, head: &[u8], out: &mut [u8]) -> usize {
        let addresses = head.get(..TAG_OFFSET).unwrap_or(head);
        let behind = head.get(TAG_OFFSET..).unwrap_or_default();
        let behind_tag = behind.get(TAG_BYTES..).unwrap_or_default();
        let new_tag;
        let (in_place, behind) = match self {
            Self::Keep => (&[][..], behind),
            Self::Pop => (&[][..], behind_tag),
            Self::Push(control) => {
                new_tag = tag(TAG_TYPE, control);
                (&new_tag[..], behind)
            }
            Self::Rewrite(control) => {
                // A service tag stays one.
                new_tag = tag(behind.first_chunk().copied().unwrap_or(TAG_TYPE), control);
                (&new_tag[..], behind_tag)
            }
        };
        let mut length = 0;
        // Part by part: byte by byte it would take longer than all else that is done with a frame for a NIC.
        for part in [addresses, in_place, behind] {
            let room = out.get_mut(length..).unwrap_or_default();
            let count = part.len().min(room.len());
            if let (Some(to), Some(from)) = (room.get_mut(..count), part.get(..count)) {
                to.copy_from_slice(from);
            }
            length += count;
        }
        length
    }
}

/// The control information of a frame's outer tag, if it has one.
#[inline]
fn outer_tag(head: &[u8]) -> Result<Option<u16>, DropReason> {
    match head.get(TAG_OFFSET..) {
        Some([0x81, 0x00, high, low, ..] | [0x88, 0xa8, high, low, ..]) => Ok(Some(u16::from_be_bytes([*high, *low]))),
        Some([0x81, 0x00, ..] | [0x88, 0xa8, ..]) => Err(DropReason::Runt),
        _ => Ok(None),
    }
}

/// A tag of a type, with its control information.
pub(crate) const fn tag([a, b]: [u8; 2], control: u16) -> [u8; TAG_BYTES] {
    let [c, d] = control.to_be_bytes();
    [a, b, c, d]
}

const VLAN_BITS: u16 = 0xfff;
/// The tag protocol identifier of what we push (802.1Q-2022, table 9-1).
pub(crate) const TAG_TYPE: [u8; 2] = [0x81, 0x00];

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk(allowed: &[u16], native: Option<u16>) -> Vlans {
        Vlans::Trunk { allowed: Arc::new(allowed.iter().copied().collect()), native }
    }

    const ACCESS: Vlans = Vlans::Access { vlan: 10, qinq: false };
    const QINQ: Vlans = Vlans::Access { vlan: 10, qinq: true };

    /// Addresses, the given tags, an EtherType and a payload.
    fn frame(tags: &[[u8; 4]]) -> Vec<u8> {
        [&[1; 12][..], &tags.concat(), &[0x88, 0xb5, 7, 8, 9]].concat()
    }

    fn ingress(vlans: &Vlans, tags: &[[u8; 4]]) -> Result<(u16, Tag), DropReason> {
        vlans.ingress(&frame(tags)).map(|it| (it.vlan, it.tag))
    }

    const TAG_10: [u8; 4] = [0x81, 0, 0xa0, 10];
    const SERVICE_10: [u8; 4] = [0x88, 0xa8, 0, 10];
    const TAG_11: [u8; 4] = [0x81, 0, 0, 11];
    const PRIORITY: [u8; 4] = [0x81, 0, 0xe0, 0];

    #[test]
    fn frames_come_in_by_their_tags() {
        let refused = Err(DropReason::VlanNotAllowed);
        assert_eq!(ingress(&Vlans::Transparent, &[TAG_10]), Ok((0, Tag::None)));

        assert_eq!(ingress(&ACCESS, &[]), Ok((10, Tag::None)));
        assert_eq!(ingress(&ACCESS, &[PRIORITY]), Ok((10, Tag::Priority(0xe000))));
        assert_eq!(ingress(&ACCESS, &[TAG_10]), refused);
        assert_eq!(ingress(&ACCESS, &[SERVICE_10]), refused);
        assert_eq!(ingress(&QINQ, &[TAG_11]), Ok((10, Tag::None)));

        let no_native = trunk(&[10], None);
        assert_eq!(ingress(&no_native, &[]), refused);
        assert_eq!(ingress(&no_native, &[PRIORITY]), refused);
        assert_eq!(ingress(&no_native, &[TAG_10]), Ok((10, Tag::Vlan)));
        assert_eq!(ingress(&no_native, &[SERVICE_10, TAG_11]), Ok((10, Tag::Vlan)));
        assert_eq!(ingress(&no_native, &[TAG_11]), refused);
        let with_native = trunk(&[10, 11], Some(11));
        assert_eq!(ingress(&with_native, &[]), Ok((11, Tag::None)));
        assert_eq!(ingress(&with_native, &[PRIORITY]), Ok((11, Tag::Priority(0xe000))));
        assert_eq!(ingress(&with_native, &[TAG_11]), Ok((11, Tag::Vlan)));
    }

    #[test]
    fn a_frame_that_ends_in_its_tag_is_a_runt() {
        let short = [&[1; 12][..], &[0x81, 0, 0]].concat();
        assert_eq!(ACCESS.ingress(&short), Err(DropReason::Runt));
        assert_eq!(trunk(&[10], Some(1)).ingress(&short), Err(DropReason::Runt));
        assert!(Vlans::Transparent.ingress(&short).is_ok());
    }

    #[test]
    fn frames_leave_as_the_port_wants_them() {
        let after = |from: &Vlans, tags: &[[u8; 4]], to: &Vlans| {
            let came = frame(tags);
            let membership = from.ingress(&came).unwrap();
            assert!(to.carries(membership.vlan));
            let edit = to.egress(membership);
            let mut out = vec![0; came.len() + TAG_BYTES];
            let length = edit.apply(&came, &mut out);
            out.truncate(length);
            assert_eq!(edit.length(u32::try_from(came.len()).unwrap()), u32::try_from(length).unwrap());
            out
        };
        let tagged = trunk(&[10], None);
        let native = trunk(&[11], Some(10));
        let control = |high| [0x81, 0, high, 10];
        assert_eq!(after(&ACCESS, &[], &ACCESS), frame(&[]));
        assert_eq!(after(&ACCESS, &[], &tagged), frame(&[control(0)]));
        assert_eq!(after(&ACCESS, &[], &native), frame(&[]));
        assert_eq!(after(&ACCESS, &[PRIORITY], &tagged), frame(&[control(0xe0)]));
        assert_eq!(after(&ACCESS, &[PRIORITY], &ACCESS), frame(&[PRIORITY]));
        assert_eq!(after(&tagged, &[TAG_10], &ACCESS), frame(&[]));
        assert_eq!(after(&tagged, &[TAG_10], &tagged), frame(&[TAG_10]));
        assert_eq!(after(&tagged, &[SERVICE_10, TAG_11], &tagged), frame(&[SERVICE_10, TAG_11]));
        assert_eq!(after(&tagged, &[SERVICE_10, TAG_11], &QINQ), frame(&[TAG_11]));
        assert_eq!(after(&QINQ, &[TAG_11], &tagged), frame(&[control(0), TAG_11]));
        assert_eq!(after(&native, &[[0x88, 0xa8, 0x20, 0]], &tagged), frame(&[[0x88, 0xa8, 0x20, 10]]));
        // A tag of the sender's does not become that of a VLAN which the sender has not.
        assert_eq!(after(&QINQ, &[TAG_11], &native), frame(&[control(0), TAG_11]));
        assert_eq!(after(&ACCESS, &[PRIORITY, TAG_11], &native), frame(&[control(0xe0), TAG_11]));
        assert_eq!(after(&tagged, &[TAG_10, SERVICE_10], &native), frame(&[TAG_10, SERVICE_10]));
        assert_eq!(after(&tagged, &[TAG_10], &native), frame(&[]));
    }

    #[test]
    fn only_real_vlans_are_in_a_set() {
        let set: VlanSet = [0, 1, 64, 4094, 4095, 65535].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 64, 4094]);
        assert!(!set.contains(0) && !set.contains(4095) && !set.contains(u16::MAX));
    }

    #[test]
    fn vlans_do_not_mix() {
        assert!(!Vlans::Transparent.carries(10) && !ACCESS.carries(0) && !trunk(&[10], None).carries(0));
        assert!(!ACCESS.carries(11) && !trunk(&[10], Some(12)).carries(11));
        assert_eq!(trunk(&[10, 12], Some(12)).bound(), [12, 10]);
    }
}

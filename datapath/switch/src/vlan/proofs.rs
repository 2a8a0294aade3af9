//! Frames with up to two tags between ports of all kinds.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    a_frame_stays_in_its_vlan_with_what_is_the_senders: 17_000,
    an_edit_changes_the_tag_alone_and_fits_its_room: 2_100,
    a_set_has_the_vlans_that_were_put_in: 3_300,
}

/// Ports of all kinds, of VLANs 10 and 11.
fn any_port(choices: &mut Choices) -> Vlans {
    let trunk = |allowed: &[u16], native| Vlans::Trunk { allowed: Arc::new(allowed.iter().copied().collect()), native };
    match choices.below(8) {
        0 => Vlans::Transparent,
        1 => Vlans::Access { vlan: 10, qinq: false },
        2 => Vlans::Access { vlan: 10, qinq: true },
        3 => trunk(&[10], None),
        4 => trunk(&[10, 11], Some(11)),
        5 => trunk(&[10, 11], Some(10)),
        6 => trunk(&[11], Some(10)),
        _ => trunk(&[], Some(10)),
    }
}

/// A tag: of a customer or a service, its control information.
type Tags = Vec<(bool, u16)>;

fn frame(tags: &[(bool, u16)]) -> Vec<u8> {
    let tag = |(is_service, control): &(bool, u16)| tag(if *is_service { [0x88, 0xa8] } else { TAG_TYPE }, *control);
    [&[1; 12][..], &tags.iter().flat_map(tag).collect::<Vec<_>>(), &[0x88, 0xb5, 7]].concat()
}

/// What a frame is to a port that it comes in by: its VLAN, its priority where a tag of ours tells one, and the tags that are the sender's
/// own. As 802.1Q has it, and not as the code does.
fn meaning(port: &Vlans, tags: &[(bool, u16)]) -> Option<(u16, Option<u16>, Tags)> {
    let own = |from: usize| tags[from..].to_vec();
    let outer = tags.first().map(|(_, control)| (control & 0xfff, control >> 12));
    match (port, outer) {
        (Vlans::Transparent, _) => Some((0, None, own(0))),
        (Vlans::Access { vlan, qinq: true }, _) | (Vlans::Access { vlan, .. }, None) => Some((*vlan, None, own(0))),
        (Vlans::Access { vlan, .. }, Some((0, priority))) => Some((*vlan, Some(priority), own(1))),
        (Vlans::Access { .. }, Some(_)) => None,
        (Vlans::Trunk { native, .. }, None) => Some(((*native)?, None, own(0))),
        (Vlans::Trunk { native, .. }, Some((0, priority))) => Some(((*native)?, Some(priority), own(1))),
        (Vlans::Trunk { allowed, .. }, Some((vlan, priority))) => {
            allowed.iter().any(|other| other == vlan).then(|| (vlan, Some(priority), own(1)))
        }
    }
}

/// A frame that comes in by one port and leaves by another one means the same at the far end of that as it meant here: its VLAN, the
/// sender's own tags, and its priority if both ends can tell one; and it has at most one tag more: eight kinds of ports each, up to two
/// tags of two types, VLANs 0, 10, 11 and 12, two priorities.
fn a_frame_stays_in_its_vlan_with_what_is_the_senders(choices: &mut Choices) {
    let (from, to) = (any_port(choices), any_port(choices));
    let tags = choices.list(2, |choices| (choices.flag(), choices.of(&[0, 0xe000]) | choices.of(&[0, 10, 11, 12])));
    let came = frame(&tags);
    let meant = meaning(&from, &tags);
    let membership = from.ingress(&came);
    assert_eq!(membership.map(|it| it.vlan), meant.as_ref().map(|it| it.0).ok_or(DropReason::VlanNotAllowed));
    let (Ok(membership), Some((vlan, priority, own))) = (membership, meant) else { return };
    let carries = match &to {
        Vlans::Transparent => vlan == 0,
        Vlans::Access { vlan: other, .. } => vlan == *other,
        Vlans::Trunk { allowed, native } => allowed.iter().any(|other| other == vlan) || *native == Some(vlan),
    };
    assert_eq!(to.carries(vlan), carries);
    if !carries {
        return;
    }
    let edit = to.egress(membership);
    let mut out = vec![0; came.len() + TAG_BYTES];
    let length = edit.apply(&came, &mut out);
    out.truncate(length);
    assert_eq!(usize::try_from(edit.length(u32::try_from(came.len()).unwrap())).unwrap(), length);

    // The tags that it left with.
    let mut left = Vec::new();
    let mut rest = &out[12..];
    while let [a @ (0x81 | 0x88), b @ (0 | 0xa8), high, low, behind @ ..] = rest {
        left.push(([*a, *b] == [0x88, 0xa8], u16::from_be_bytes([*high, *low])));
        rest = behind;
    }
    assert_eq!((&out[..12], rest), (&[1; 12][..], &[0x88, 0xb5, 7][..]));
    assert!(left.len() <= tags.len() + 1);
    match &to {
        Vlans::Transparent => assert_eq!(left, tags),
        // A host behind an access port knows no VLAN. It sees the priority tag, and what was the sender's.
        Vlans::Access { .. } => {
            let outer = usize::from(left.len() > own.len());
            assert_eq!(left[outer..], own);
            assert!(left[..outer].iter().all(|(_, control)| control & 0xfff == 0 && Some(control >> 12) == priority));
        }
        // The far end of a trunk is a trunk of the same kind; it takes the native VLAN's tag as well.
        Vlans::Trunk { allowed, native } => {
            let allowed = Arc::new(allowed.iter().chain(*native).collect());
            let (there, told, kept) = meaning(&Vlans::Trunk { allowed, native: *native }, &left).unwrap();
            assert_eq!((there, kept), (vlan, own));
            assert!(told == priority || told.is_none() || (priority.is_none() && told == Some(0)));
            // A priority that was told by a priority tag stays told.
            assert!(!matches!(membership.tag, Tag::Priority(_)) || told == priority);
        }
    }
}

/// An edit puts in, takes out or replaces four bytes behind the addresses and changes no others, writes no more than there is room for, and
/// tells what it wrote: frames of up to 20 bytes, rooms from none to all.
fn an_edit_changes_the_tag_alone_and_fits_its_room(choices: &mut Choices) {
    let head: Vec<u8> = (100..100 + choices.number(0..=20_u8)).collect();
    let edit = choices.of(&[TagEdit::Keep, TagEdit::Push(0x1234), TagEdit::Pop, TagEdit::Rewrite(0x5678)]);
    let (addresses, behind) = head.split_at(head.len().min(12));
    let behind_tag = &behind[behind.len().min(4)..];
    let expected = match edit {
        TagEdit::Keep => head.clone(),
        TagEdit::Push(_) => [addresses, &[0x81, 0, 0x12, 0x34], behind].concat(),
        TagEdit::Pop => [addresses, behind_tag].concat(),
        // The type stays.
        TagEdit::Rewrite(_) => {
            let kind = if behind.len() < 2 { &TAG_TYPE } else { &behind[..2] };
            [addresses, kind, &[0x56, 0x78], behind_tag].concat()
        }
    };
    let mut out = [0xee; 24];
    let room = choices.number(0..=24_usize);
    let written = edit.apply(&head, &mut out[..room]);
    assert_eq!(written, expected.len().min(room));
    assert_eq!(out[..written], expected[..written]);
    assert!(out[written..].iter().all(|byte| *byte == 0xee));
}

/// A set of any three numbers has those that are VLANs, in order, and no others: numbers around the ends of words and of VLANs.
fn a_set_has_the_vlans_that_were_put_in(choices: &mut Choices) {
    let edges = [0, 1, 2, 63, 64, 65, 127, 128, 4030, 4031, 4032, 4094, 4095, 4096, u16::MAX];
    let numbers = [(); 3].map(|()| choices.of(&edges));
    let set: VlanSet = numbers.into_iter().collect();
    for vlan in edges {
        assert_eq!(set.contains(vlan), numbers.contains(&vlan) && (1..=4094).contains(&vlan), "{vlan}");
    }
    let mut expected: Vec<_> = numbers.into_iter().filter(|vlan| (1..=4094).contains(vlan)).collect();
    expected.sort_unstable();
    expected.dedup();
    // All 4,094 are looked at.
    if numbers[0] == numbers[1] {
        assert!(set.iter().eq(expected));
    }
}

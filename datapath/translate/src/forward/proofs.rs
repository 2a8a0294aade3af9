//! Rules of a few ports against a plain map.

use std::collections::BTreeMap;

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    a_table_forwards_what_was_added_and_not_removed: 9_000,
    ports_that_are_taken_out_leave_all_others: 14_000,
    a_specification_that_is_read_names_ports_that_there_are: 37_000,
}

fn table() -> ForwardTable {
    ForwardTable::new(Ground { v4: true, v6: true, tcp: true, udp: true, ephemeral: 32768..=60999 })
}

/// What it forwards: port to port.
fn listened(table: &ForwardTable) -> BTreeMap<u16, u16> {
    let listens: Vec<_> = table.listens().collect();
    let map: BTreeMap<_, _> = listens.iter().map(|listen| (listen.port, listen.target_port)).collect();
    assert_eq!(map.len(), listens.len(), "no port twice");
    map
}

/// After two additions and a removal each port leads where the map says, one that contradicts another is refused whole, as is a removal of
/// what is not all there, and the changes from before are the difference: ranges of 4 ports, to themselves or others.
fn a_table_forwards_what_was_added_and_not_removed(choices: &mut Choices) {
    let (mut table, mut model) = (table(), BTreeMap::new());
    let range = |choices: &mut Choices| {
        let first = choices.number(1..=4_u16);
        (first, choices.number(first..=4))
    };
    for _ in 0..2 {
        let (first, last) = range(choices);
        let by = choices.of(&[0, 1, 65_531]);
        let text = format!("{first}-{last}:{}-{}", first + by, last + by);
        let is_free = (first..=last).all(|port| !model.contains_key(&port));
        assert_eq!(table.add(Protocol::Tcp, &text).is_ok(), is_free, "{text}");
        if is_free {
            model.extend((first..=last).map(|port| (port, port + by)));
        }
        assert_eq!(listened(&table), model);
    }
    let before = table.clone();
    let (first, last) = range(choices);
    let is_there = (first..=last).all(|port| model.contains_key(&port));
    assert_eq!(table.remove(Protocol::Tcp, &format!("{first}-{last}")).is_ok(), is_there);
    let removed: Vec<_> = model.keys().copied().filter(|port| is_there && (first..=last).contains(port)).collect();
    model.retain(|port, _| !removed.contains(port));
    assert_eq!(listened(&table), model);
    let ports =
        |listens: &[Listen]| listens.iter().map(|listen| listen.port).collect::<std::collections::BTreeSet<_>>();
    let (there, back) = (before.changes_to(&table), table.changes_to(&before));
    assert!(there.open.is_empty() && back.close.is_empty() && ports(&there.close).into_iter().eq(removed));
    assert_eq!(ports(&back.open), ports(&there.close));
}

/// What is left of a range is all of it but what was taken out, in pieces that are in order and apart, and each port leads where it led:
/// ranges and parts at all edges of 65,535 ports.
fn ports_that_are_taken_out_leave_all_others(choices: &mut Choices) {
    let edges = [1, 2, 3, 100, 0xfffd, 0xfffe, 0xffff_u16];
    let mut range = || {
        let (one, other) = (choices.of(&edges), choices.of(&edges));
        (one.min(other), one.max(other))
    };
    let ((first, last), (from, to)) = (range(), range());
    let from = if choices.flag() { 0 } else { from };
    let target_first = choices.of(&[1, first, 0xffff - (last - first)]);
    let rule = Rule {
        protocol: Protocol::Udp,
        address: None,
        interface: None,
        first,
        last,
        target: None,
        target_first,
        strict: true,
    };
    let pieces = rule.without_ports(from, to);
    assert!(pieces.len() <= 2 && pieces.windows(2).all(|pair| pair[0].last < pair[1].first));
    assert!(pieces.iter().all(|piece| piece.first <= piece.last));
    let around = edges.iter().flat_map(|port| [port.saturating_sub(1), *port, port.saturating_add(1)]);
    for port in around.chain([from, to]) {
        let is_left = rule.ports().contains(&port) && !(from..=to).contains(&port);
        let piece = pieces.iter().find(|piece| piece.ports().contains(&port));
        assert_eq!(piece.map(|piece| piece.target_of(port)), is_left.then(|| target_first + (port - first)));
    }
    let other = Rule { first: from.max(1), last: to.max(1), ..rule.clone() };
    let common = rule.ports().filter(|port| other.ports().contains(port));
    let common: Vec<_> = common.collect();
    assert_eq!(rule.overlaps(&other), !common.is_empty());
    assert_eq!(rule.common_ports(&other).map_or(0, |ports| ports.len()), common.len());
}

/// A text is refused or has ranges in order, of ports from 1 on, whose targets are as many: all texts of up to 5 of eight characters.
fn a_specification_that_is_read_names_ports_that_there_are(choices: &mut Choices) {
    let text: String =
        choices.list(5, |choices| choices.of(&['0', '1', '2', '-', ':', ',', '~', '/'])).into_iter().collect();
    let Ok(Spec::Ports(ports)) = Spec::parse(&text) else { return };
    for range in &ports.ranges {
        assert!(1 <= range.first && range.first <= range.last && range.target_first >= 1, "{text}");
        assert!(range.target_first.checked_add(range.last - range.first).is_some(), "{text}");
    }
    assert!(ports.exclusions.iter().all(|(first, last)| first <= last), "{text}");
    let count = ports.ranges.len() + ports.exclusions.len();
    assert_eq!(text.split(',').count(), count, "each item is one: {text}");
}

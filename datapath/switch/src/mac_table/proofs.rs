//! Small tables against a plain map.

use std::collections::BTreeMap;

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    a_table_with_room_is_a_plain_map: 76_000,
    a_full_table_keeps_what_it_has: 59_000,
    keys_and_values_keep_what_they_are_of: 15_000,
}

const AGE: u32 = 10;

fn mac(number: u64) -> MacAddress {
    MacAddress::from_u64(0x0200_0000_0000 | number)
}

/// A table that has room for all of two addresses finds each where a map with ages does, counts each port's as the map does, and refuses
/// what goes beyond a port's limit: all series of four of fourteen steps, limits 1 and 2.
fn a_table_with_room_is_a_plain_map(choices: &mut Choices) {
    let table = MacTable::of_size(AGE, 8, 2, [7, 9]);
    let limit = choices.number(1..=2);
    // Where an address is, and when it was seen; `None`: it is bound.
    let mut model = BTreeMap::<u64, (PortId, Option<u32>)>::new();
    let mut now = 100;
    for _ in 0..4 {
        let is_old = |seen: Option<u32>| seen.is_some_and(|seen| now - seen > AGE);
        let step = choices.below(14);
        let (number, at) = (step as u64 / 2 % 2, PortId(u16::from(step % 2 == 1)));
        match step {
            0..4 => {
                let count = model.values().filter(|(port, seen)| *port == at && seen.is_some()).count();
                let learned = match model.get(&number) {
                    Some((port, None)) => {
                        if *port == at {
                            Learned::Known
                        } else {
                            Learned::Static
                        }
                    }
                    Some((port, _)) if *port == at => Learned::Known,
                    _ if count >= limit as usize => Learned::Refused,
                    _ => Learned::Known,
                };
                assert_eq!(table.learn(3, mac(number), at, limit, now), learned);
                if learned == Learned::Known && model.get(&number).is_none_or(|(_, seen)| seen.is_some()) {
                    model.insert(number, (at, Some(now)));
                }
            }
            4..8 => {
                assert!(table.can_bind(3, mac(number)) && table.bind(3, mac(number), at));
                model.insert(number, (at, None));
            }
            8 | 9 => {
                table.forget(at);
                model.retain(|_, (port, _)| *port != at);
            }
            10 | 11 => {
                table.forget_learned(at);
                model.retain(|_, (port, seen)| *port != at || seen.is_none());
            }
            12 => {
                table.sweep(now);
                model.retain(|_, (_, seen)| !is_old(*seen));
            }
            _ => now += AGE - 4,
        }
        let is_old = |seen: Option<u32>| seen.is_some_and(|seen| now - seen > AGE);
        let find = |number| model.get(&number).filter(|(_, seen)| !is_old(*seen));
        for number in 0..2 {
            assert_eq!(table.lookup(3, mac(number), now), find(number).map(|(port, _)| *port));
            assert_eq!(table.lookup(4, mac(number), now), None);
        }
        let mut entries = table.entries(now);
        entries.sort_by_key(|entry| entry.address.to_u64());
        let expected = (0..2)
            .filter_map(|number| find(number).map(|(port, seen)| (mac(number), *port, seen.map(|seen| now - seen))));
        assert!(entries.iter().map(|it| (it.address, it.port, it.age_seconds)).eq(expected));
        for at in [PortId(0), PortId(1)] {
            let count = model.values().filter(|(port, seen)| *port == at && seen.is_some()).count();
            assert_eq!(table.count(at) as usize, count);
        }
    }
}

/// Where four addresses compete for two places, those that are there stay until they are old or another one is bound, bound ones until they
/// are forgotten, a binding finds a place whenever it is said to, and counts are exact: all series of five of nine steps.
fn a_full_table_keeps_what_it_has(choices: &mut Choices) {
    let table = MacTable::of_size(AGE, 1, 1, [1, 3]);
    let (at, mut now) = (PortId(0), 100);
    for _ in 0..5 {
        let known = |number| table.lookup(0, mac(number), now).is_some();
        let before: Vec<_> = (0..4).filter(|&number| known(number)).collect();
        let bound = |number| table.entries(now).iter().any(|it| it.address == mac(number) && it.age_seconds.is_none());
        let was_bound: Vec<_> = (0..4).filter(|&number| bound(number)).collect();
        let step = choices.below(9);
        let number = step as u64 % 4;
        let after = |number| table.lookup(0, mac(number), now).is_some();
        match step {
            0..4 => {
                let has_room = before.len() < 2 || before.contains(&number);
                let learned = table.learn(0, mac(number), at, 9, now);
                assert_eq!(learned, if has_room { Learned::Known } else { Learned::Refused });
                assert!(before.iter().all(|&number| after(number)) && after(number) == has_room);
            }
            4..8 => {
                let can = table.can_bind(0, mac(number));
                assert_eq!(can, was_bound.len() < 2 || was_bound.contains(&number));
                assert_eq!(table.bind(0, mac(number), at), can);
                assert!(was_bound.iter().all(|&number| bound(number)) && bound(number) == can);
            }
            _ => now += AGE + 1,
        }
        let entries = table.entries(now);
        assert!(entries.len() <= 2);
        // What is past its age and not swept yet is counted.
        let learned = entries.iter().filter(|entry| entry.age_seconds.is_some()).count();
        assert!((learned..=2).contains(&(table.count(at) as usize)));
        table.sweep(now);
        assert_eq!(table.count(at) as usize, learned);
    }
}

/// A key keeps VLAN and address, a value port and second, and neither looks like a place without entry, a claimed or a static one: VLANs,
/// addresses, ports and seconds at edges.
fn keys_and_values_keep_what_they_are_of(choices: &mut Choices) {
    let address = MacAddress::from_u64(choices.of(&[0, 1, 0x0200_0000_0000, 0xffff_ffff_ffff]));
    let tag = choices.of(&[0, 1, 63, 64, 4094, 4095]);
    let key = key(tag, address);
    assert_eq!((vlan(key), MacAddress::from_u64(key)), (tag, address));
    assert!(key != 0 && key != CLAIMED && key & USED != 0);
    let at = PortId(choices.of(&[0, 1, 0x0fff, u16::MAX]));
    let second = choices.of(&[0, 1, 0x7fff_ffff, u32::MAX - 1, u32::MAX]);
    let value = value(at, second);
    assert_eq!((port(value), seen(value)), (at, second));
    assert!(value & (STATIC | NONE) == 0);
    let now = choices.of(&[0, 1, 0x7fff_ffff, u32::MAX]);
    assert_eq!(age(value, now), now.saturating_sub(second));
    let other = PortId(choices.of(&[0, u16::MAX]));
    assert_eq!(is_known(value, other, now), other == at && second >= now);
    // One that is bound is known at its port at any time.
    assert_eq!(is_known(value | STATIC, other, now), other == at);
    let table = MacTable::of_size(choices.of(&[0, 1, 300, u32::MAX]), 1, 1, [0, 0]);
    let age_limit = table.age_seconds.load(Ordering::Relaxed);
    assert_eq!(table.is_expired(value, now), u64::from(now) > u64::from(second) + u64::from(age_limit));
    assert!(!table.is_expired(value | STATIC, now) && !table.is_expired(NONE, now));
}

//! All short lives of a few flows.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    a_flow_is_found_by_its_number_and_its_ends_until_it_is_removed: 16_000,
}

/// Ends that differ in one thing: the port, the family, which end is which.
fn ends(number: usize) -> FlowEnds {
    let at = |last, port| SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), port));
    let v6 = |port| SocketAddr::from((Ipv6Addr::from([0xc000, 0x0200, 0, 0, 0, 0, 0, 0]), port));
    match number {
        0 => FlowEnds { guest: at(2, 80), peer: at(9, 81) },
        1 => FlowEnds { guest: at(2, 81), peer: at(9, 80) },
        2 => FlowEnds { guest: at(9, 81), peer: at(2, 80) },
        _ => FlowEnds { guest: v6(80), peer: v6(81) },
    }
}

/// Each flow has its own number and is found by that and by its ends while it is there and no longer, and a number serves again when it is
/// free: four flows, all series of seven additions and removals.
fn a_flow_is_found_by_its_number_and_its_ends_until_it_is_removed(choices: &mut Choices) {
    let mut table = FlowTable::<StoredEnds>::new();
    let mut model = BTreeMap::<usize, u32>::new();
    for _ in 0..7 {
        let number = choices.below(4);
        match model.remove(&number) {
            Some(index) => {
                assert_eq!(table.remove(index), Some(ends(number).into()));
                assert_eq!(table.remove(index), None);
            }
            None => {
                let index = table.next_index();
                assert!(!model.values().any(|other| *other == index) && index <= 4, "a number of its own");
                assert_eq!(table.insert(ends(number).into()), index);
                model.insert(number, index);
            }
        }
        for number in 0..4 {
            let index = model.get(&number).copied();
            assert_eq!(table.find(&ends(number)), index);
            assert_eq!(index.and_then(|index| table.get(index)).copied(), index.map(|_| ends(number).into()));
        }
        assert_eq!((table.len(), table.by_ends.len(), table.iter().count()), (model.len(), model.len(), model.len()));
        assert!((0..5).all(|index| table.get_mut(index).is_some() == model.values().any(|other| *other == index)));
    }
}

//! What a worker has noted against the table itself.

use culvert_frame::MacAddress;
use culvert_proofs::{Choices, proofs};

use super::*;
use crate::mac_table::MacTable;

proofs! {
    what_is_noted_is_what_the_table_says: 4_000,
}

/// A burst finds the same ways in the cache as in the table, whatever has changed in the table since they were noted: two stations that
/// each know the other, one step of eight before each of three bursts, at either of two ports.
fn what_is_noted_is_what_the_table_says(choices: &mut Choices) {
    let (table, mut cache) = (MacTable::of_size(10, 8, 3, [5, 7]), WayCache::new());
    let mac = |number: u64| MacAddress::from_u64(0x0200_0000_0000 | number);
    let (a, b, c) = (PortId(0), PortId(1), PortId(2));
    let mut now = 100;
    table.learn(0, mac(1), a, 9, now);
    table.learn(0, mac(2), b, 9, now);
    let stations = [[1, 2], [2, 1], [1, 2]].map(|pair| pair.map(|number| mac(number).to_u64()));
    for _ in 0..3 {
        match choices.below(8) {
            0 => _ = table.learn(0, mac(1), c, 9, now),
            1 => _ = table.learn(0, mac(2), c, 9, now),
            2 => _ = table.bind(0, mac(2), c),
            3 => table.forget(b),
            4 => now += 1,
            5 => table.set_age(0),
            6 => table.sweep(now + 11),
            _ => {}
        }
        let glance = table.glance(now);
        let at = if choices.flag() { a } else { b };
        let stations = if at == a { &stations[..1] } else { &stations[1..2] };
        let [mut ways, mut expected] = [[PortId(99); MOST_WAYS]; 2];
        // The second time it is noted, the third time found.
        for _ in 0..3 {
            let found = cache.ways(&glance, stations, at, &mut ways);
            assert_eq!(found, glance.ways(stations, at, &mut expected));
            assert_eq!(ways[..found], expected[..found]);
        }
    }
}

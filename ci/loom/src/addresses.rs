//! A table of addresses, as small as it can be, between workers that learn, look up, sweep and forget at the same time.

use culvert_frame::MacAddress;
use loom::sync::Arc;
use loom::thread;

use crate::mac_table::{Learned, MacTable};
use crate::port::PortId;

const A: PortId = PortId(0);
const B: PortId = PortId(1);
const ONE: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const TWO: MacAddress = MacAddress([2, 0, 0, 0, 0, 3]);
const AGE: u32 = 300;
/// When everything of the first second is past its age.
const LATER: u32 = AGE + 1;

/// Two pairs, and secrets by which all odd addresses have the same places in the same order.
fn table() -> Arc<MacTable> {
    Arc::new(MacTable::of_size(AGE, 2, 2, [0, 1]))
}

/// Does both at the same time: the first in a thread of its own, or with `SWAPPED` the second.
///
/// Each scenario is tried both ways, since loom remembers of an atomic the last access alone: where a thread has read what it
/// then writes, an earlier read of the other thread's is forgotten, and the order of these two is not tried.
fn race<const SWAPPED: bool>(table: &Arc<MacTable>, one: fn(&MacTable), other: fn(&MacTable)) {
    let (started, here) = if SWAPPED { (other, one) } else { (one, other) };
    let shared = Arc::clone(table);
    let thread = thread::spawn(move || started(&shared));
    here(table);
    thread.join().unwrap();
}

/// Each port has as many addresses as its count tells.
fn counts_are_exact(table: &MacTable, now: u32) {
    for at in [A, B] {
        let live = table.entries(now).iter().filter(|entry| entry.port == at).count();
        assert_eq!(table.count(at) as usize, live, "the count of {at:?} is not exact");
    }
}

/// An address takes the place of one that is past its age, while the old one is looked up: it is found where it was, or
/// not at all.
pub fn look_up_while_a_place_is_taken<const SWAPPED: bool>() {
    let table = table();
    table.learn(0, ONE, A, 10, 0);
    race::<SWAPPED>(
        &table,
        |table| {
            let found = table.lookup(0, ONE, 0);
            assert!(found.is_none_or(|at| at == A), "the address is found behind {found:?}");
        },
        |table| assert_eq!(table.learn(0, TWO, B, 10, LATER), Learned::Known),
    );
    assert_eq!(table.lookup(0, TWO, LATER), Some(B));
}

/// An address moves while its port is forgotten.
pub fn move_while_forgotten<const SWAPPED: bool>() {
    let table = table();
    table.learn(0, ONE, A, 10, 0);
    race::<SWAPPED>(&table, |table| assert_eq!(table.learn(0, ONE, B, 10, 1), Learned::Known), |table| table.forget(A));
    counts_are_exact(&table, 1);
    assert_eq!(table.count(A), 0);
}

/// Two workers learn one address at the same time, and one of its copies moves.
pub fn learn_twice<const SWAPPED: bool>() {
    let table = table();
    race::<SWAPPED>(
        &table,
        |table| {
            table.learn(0, ONE, A, 10, 0);
        },
        |table| {
            table.learn(0, ONE, A, 10, 0);
            table.learn(0, ONE, B, 10, 1);
        },
    );
    counts_are_exact(&table, 1);
    table.sweep(LATER + 1);
    assert_eq!((table.count(A), table.count(B)), (0, 0));
}

/// A sweep takes what another worker replaces.
pub fn sweep_while_a_place_is_taken<const SWAPPED: bool>() {
    let table = table();
    table.learn(0, ONE, A, 10, 0);
    race::<SWAPPED>(
        &table,
        |table| table.sweep(LATER),
        |table| assert_eq!(table.learn(0, TWO, B, 10, LATER), Learned::Known),
    );
    counts_are_exact(&table, LATER);
    assert_eq!(table.lookup(0, TWO, LATER), Some(B));
}

/// Control binds an address that a worker learns elsewhere: the binding wins.
pub fn bind_while_learned<const SWAPPED: bool>() {
    let table = table();
    table.learn(0, ONE, B, 10, 0);
    race::<SWAPPED>(
        &table,
        |table| {
            table.learn(0, ONE, B, 10, 1);
        },
        |table| assert!(table.bind(0, ONE, A)),
    );
    assert_eq!(table.lookup(0, ONE, 1), Some(A));
    assert_eq!((table.count(A), table.count(B)), (0, 0));
}

/// What was found while the table was in one state still holds when it is in that state later, once whoever changes it is done.
pub fn change_while_looked_at<const SWAPPED: bool>() {
    let table = table();
    table.learn(0, ONE, A, 10, 0);
    let look = |table: &MacTable| (table.glance(1).state(), table.lookup(0, ONE, 1));
    let change = |table: &MacTable| assert_eq!(table.learn(0, ONE, B, 10, 1), Learned::Known);
    let shared = Arc::clone(&table);
    let (state, found) = if SWAPPED {
        let looking = thread::spawn(move || look(&shared));
        change(&table);
        looking.join().unwrap()
    } else {
        let changing = thread::spawn(move || change(&shared));
        let looked = look(&table);
        changing.join().unwrap();
        looked
    };
    let (later, finds) = look(&table);
    assert!(state != later || found == finds, "behind {found:?}, then in the same state behind {finds:?}");
}

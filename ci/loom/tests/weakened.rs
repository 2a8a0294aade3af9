//! What loom must find when orderings or looks are missing. This process has its own `sync`: see `culvert_loom::sync::weaken`.

use culvert_loom::sync::weaken;
use culvert_loom::{addresses, check, plans};

/// Without the acknowledgement's release, control frees what the worker still works in.
#[test]
#[should_panic(expected = "Causality violation")]
fn an_acknowledgement_that_orders_nothing() {
    weaken();
    check(plans::remove_a_queue);
}

/// The value of an address is seen before its key is.
#[test]
#[should_panic(expected = "the address is found behind")]
fn an_entry_that_orders_nothing() {
    weaken();
    check(addresses::look_up_while_a_place_is_taken::<false>);
}

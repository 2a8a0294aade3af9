//! What control and workers share, as it is.

use culvert_loom::{addresses, check, plans};

/// What a removed queue used is control's when the worker has acknowledged, without a lock.
#[test]
fn what_was_removed_may_be_freed() {
    check(plans::remove_a_queue);
}

/// A queue that stays goes through its slot from plan to plan.
#[test]
fn a_queue_stays_through_a_change() {
    check(plans::keep_a_queue);
}

/// Plans come faster than the worker takes them up.
#[test]
fn plans_may_be_skipped() {
    check(plans::skip_a_plan);
}

/// A worker that is about to sleep misses neither a plan nor the end.
#[test]
fn no_wake_up_is_lost() {
    check(plans::sleep);
}

#[test]
fn no_address_is_found_behind_anothers_port() {
    check(addresses::look_up_while_a_place_is_taken::<false>);
    check(addresses::look_up_while_a_place_is_taken::<true>);
}

#[test]
fn an_address_that_moves_while_its_port_is_forgotten_is_counted_once() {
    check(addresses::move_while_forgotten::<false>);
    check(addresses::move_while_forgotten::<true>);
}

#[test]
fn an_address_that_two_workers_learn_is_counted_as_often_as_it_is_there() {
    check(addresses::learn_twice::<false>);
    check(addresses::learn_twice::<true>);
}

#[test]
fn a_sweep_and_a_worker_free_a_place_once() {
    check(addresses::sweep_while_a_place_is_taken::<false>);
    check(addresses::sweep_while_a_place_is_taken::<true>);
}

#[test]
fn a_binding_wins_over_what_is_learned() {
    check(addresses::bind_while_learned::<false>);
    check(addresses::bind_while_learned::<true>);
}

#[test]
fn what_a_worker_has_noted_holds_while_the_table_is_in_the_same_state() {
    check(addresses::change_while_looked_at::<false>);
    check(addresses::change_while_looked_at::<true>);
}

//! Turns against a debt that is reckoned by itself.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    who_owes_more_than_a_round_waits_until_it_is_paid: 32_000,
}

/// A port has a turn when, and only when, it owes no more than a round's share after the rounds that have passed, whatever numbers those
/// have, and another port's turns are nothing to it: three times any of six numbers of rounds and of five costs, from two starts of which
/// one goes around.
fn who_owes_more_than_a_round_waits_until_it_is_paid(choices: &mut Choices) {
    let (mut shares, port, other) = (Shares::new(), PortId(1), PortId(2));
    let start = choices.of(&[0, u32::MAX - 2]);
    shares.round = start;
    shares.accounts.iter_mut().for_each(|account| account.round = start);
    let (mut owes, share) = (0_u64, u64::from(ROUND_SHARE));
    for _ in 0..3 {
        let rounds = choices.of(&[0_u32, 1, 2, 4, 1000, 0x8000_0000]);
        if rounds > 4 {
            shares.round = shares.round.wrapping_add(rounds);
        } else {
            (0..rounds).for_each(|_| shares.begin_round());
        }
        owes = owes.saturating_sub(u64::from(rounds) * share);
        let may = shares.may_take(port);
        assert_eq!(may, owes <= share);
        if may {
            let cost = choices.of(&[0, 1, ROUND_SHARE, 4 * ROUND_SHARE, u32::MAX]);
            shares.charge(port, cost);
            owes = (owes + u64::from(cost)).min(u32::MAX.into());
        }
        assert!(shares.may_take(other));
    }
}

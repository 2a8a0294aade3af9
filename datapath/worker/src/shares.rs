//! What each guest may take of a worker: in each round as much as any other, whatever its frames cost and however many queues it has.
//!
//! A turn ends when it has cost [`TURN_COST`](culvert_switch::forward::TURN_COST). Its port is charged with that, and
//! has no further turn before as many rounds have passed as it takes to pay [`ROUND_SHARE`] in each. A round in which others have
//! nothing to do takes a fraction of a microsecond: who is alone waits for nobody.

use culvert_switch::PortId;
use culvert_switch::forward::TAP_COST;
use culvert_switch::port::MAX_PORTS;

/// What a port may cost in a round on average, in the unit of `TURN_COST`: a full burst of frames of 1514 bytes to one port each.
pub const ROUND_SHARE: u32 = 64 * 1024;
// A look at a frame costs its sender a round.
const _: () = assert!(TAP_COST == ROUND_SHARE);

/// What each port has cost one worker.
pub(crate) struct Shares {
    accounts: Box<[Account]>,
    round: u32,
}

#[derive(Clone, Copy, Default)]
struct Account {
    /// Not paid yet in the round of that number.
    owes: u32,
    round: u32,
}

impl Shares {
    pub(crate) fn new() -> Self {
        Self { accounts: vec![Account::default(); MAX_PORTS].into(), round: 0 }
    }

    /// Another round begins.
    #[inline]
    pub(crate) const fn begin_round(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// Whether the port may have a turn.
    #[inline]
    pub(crate) fn may_take(&mut self, port: PortId) -> bool {
        let round = self.round;
        let Some(account) = self.accounts.get_mut(port.index()) else { return true };
        account.owes <= ROUND_SHARE || account.pay(round)
    }

    /// A port had a turn.
    #[inline]
    pub(crate) fn charge(&mut self, port: PortId, cost: u32) {
        if let Some(account) = self.accounts.get_mut(port.index()) {
            account.pay(self.round);
            account.owes = account.owes.saturating_add(cost);
        }
    }
}

impl Account {
    /// Pays for the rounds that have passed; returns whether little enough is left.
    fn pay(&mut self, round: u32) -> bool {
        let rounds = round.wrapping_sub(std::mem::replace(&mut self.round, round));
        self.owes = self.owes.saturating_sub(rounds.saturating_mul(ROUND_SHARE));
        self.owes <= ROUND_SHARE
    }
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;

    /// What ports take in many rounds, each of which has so many queues with frames of that cost a turn.
    fn taken(ports: &[(u32, u32)]) -> Vec<u64> {
        let mut shares = Shares::new();
        let mut taken = vec![0; ports.len()];
        for _ in 0..10_000 {
            shares.begin_round();
            for (number, &(queues, cost)) in (0_u16..).zip(ports) {
                for _ in 0..queues {
                    if shares.may_take(PortId(number)) {
                        shares.charge(PortId(number), cost);
                        taken[usize::from(number)] += u64::from(cost);
                    }
                }
            }
        }
        taken
    }

    #[test]
    fn all_that_flood_get_the_same() {
        let taken = taken(&[(1, 256 * 1024), (8, 60_000), (128, 300_000), (1, 3_000_000), (2, 64 * 1024)]);
        let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
        assert!(most - least < 4_000_000, "{taken:?}");
    }

    #[test]
    fn who_asks_for_less_gets_all_of_it() {
        let taken = taken(&[(1, 50_000), (128, 300_000)]);
        assert_eq!(taken[0], 50_000 * 10_000);
    }
}

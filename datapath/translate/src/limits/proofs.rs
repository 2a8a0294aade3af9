//! Budgets, filled in any order.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    nobody_takes_what_is_kept_for_another: 29_000,
    threads_have_their_parts_whatever_the_others_take: 27_000,
    flows_begin_no_faster_than_is_paid_for: 24_000,
}

fn budget(flows: u32, threads: usize) -> Budget {
    Budget::new(LimitSettings { flows, new_flows: 1, burst: 1 }, threads)
}

/// Takes up to so many; returns how many those are. What is refused changes nothing.
fn fill(budget: &mut Budget, share: Share, thread: usize, most: u32) -> u32 {
    let mut count = 0;
    while count < most {
        let before = budget.in_use();
        if budget.take(share, thread).is_err() {
            assert_eq!(budget.in_use(), before);
            break;
        }
        count += 1;
        assert_eq!(budget.in_use(), before + 1);
    }
    count
}

/// However a budget of 20 is filled, in whatever order: no more flows than there are, of TCP four fifths, of UDP half; echo has its
/// sixteenth, UDP the rest of its fifth, and what is closed can be taken again.
fn nobody_takes_what_is_kept_for_another(choices: &mut Choices) {
    let mut budget = budget(20, 1);
    let order = choices.of(&[
        [Share::Tcp, Share::Udp, Share::Echo],
        [Share::Tcp, Share::Echo, Share::Udp],
        [Share::Udp, Share::Tcp, Share::Echo],
        [Share::Udp, Share::Echo, Share::Tcp],
        [Share::Echo, Share::Tcp, Share::Udp],
        [Share::Echo, Share::Udp, Share::Tcp],
    ]);
    let counts = order.map(|share| fill(&mut budget, share, 0, choices.number(0..=20)));
    let count = |share| (0..3).find(|&at| order[at] == share).map(|at| counts[at]).unwrap();
    let (tcp, udp, echo) = (count(Share::Tcp), count(Share::Udp), count(Share::Echo));
    assert_eq!(budget.in_use(), tcp + udp + echo);
    assert!(tcp + udp + echo <= 20 && tcp <= 16 && udp <= 10);
    // Somebody who asks for more is refused when, and only when, nothing but what is kept for others is left.
    let left = 20 - tcp - udp - echo.max(1);
    let expected = [left > 0 && tcp < 16, left > 0 && udp < 10, echo == 0 || left > 0];
    for (share, may) in [Share::Tcp, Share::Udp, Share::Echo].into_iter().zip(expected) {
        assert_eq!(budget.take(share, 0).is_ok(), may);
        if may {
            budget.close(share, 0);
        }
    }
    // Against TCP alone.
    assert!(echo > 1 || udp >= 3 || expected[1]);
    if tcp > 0 {
        budget.close(Share::Tcp, 0);
        assert_eq!(budget.take(Share::Tcp, 0), Ok(()));
    }
}

/// Of two threads each can open its part of UDP's fifth, whatever the other one, TCP and echo have taken before, and all together have no
/// more than there is: any three fillings before, and of who asks first.
fn threads_have_their_parts_whatever_the_others_take(choices: &mut Choices) {
    let mut budget = budget(40, 2);
    let each = (40_u32 / 5 - 40 / 16) / 2;
    for _ in 0..3 {
        let (share, thread) = choices.of(&[(Share::Tcp, 0), (Share::Udp, 0), (Share::Udp, 1), (Share::Echo, 0)]);
        fill(&mut budget, share, thread, choices.of(&[0, 1, 2, 3, 16, 40]));
    }
    for thread in if choices.flag() { [0, 1] } else { [1, 0] } {
        let has = budget.udp[thread];
        assert_eq!(fill(&mut budget, Share::Udp, thread, each.saturating_sub(has)), each.saturating_sub(has));
    }
    assert!(budget.in_use() <= 40 && budget.tcp <= 32 && budget.all_udp() <= 20);
    assert!(budget.echo > 0 || budget.take(Share::Echo, 1).is_ok());
}

/// As many flows begin as a bucket pays for that fills steadily and counts no moment twice, whichever of two clocks is ahead: six flows at
/// moments that go on, stand still or go back a little, a rate that divides a second and one that does not, bursts of 1 to 3.
fn flows_begin_no_faster_than_is_paid_for(choices: &mut Choices) {
    let (new_flows, burst) = (choices.of(&[10, 3]), choices.number(1..=3_u32));
    let mut budget = Budget::new(LimitSettings { flows: 100, new_flows, burst }, 1);
    let start = Instant::now();
    let price = 1_000_000_000 / u64::from(new_flows);
    // In nanoseconds.
    let (mut clock, mut latest, mut credit) = (1_000_000_000_u64, None::<u64>, price * u64::from(burst));
    for _ in 0..6 {
        clock = choices.of(&[clock, clock + price - 1, clock + price + 1, clock - price / 2]);
        credit = (credit + latest.map_or(0, |latest| clock.saturating_sub(latest))).min(price * u64::from(burst));
        latest = latest.max(Some(clock));
        let may = credit >= price;
        assert_eq!(budget.open(start + Duration::from_nanos(clock), Share::Tcp, 0).is_ok(), may);
        credit -= if may { price } else { 0 };
    }
}

//! P3: another version of culvertd takes over under load; guests keep exact books.

use anyhow::{Context, Result, ensure};
use culvert_system::daemon::BUILDS;

use super::crowd::Crowd;
use crate::field::Field;

/// Two builds take over from each other by turns. No guest is hung up, no frame is lost, none comes twice.
pub fn under_load(field: &mut Field) -> Result<()> {
    let times = if field.is_full() { 50 } else { 4 };
    let mut crowd = Crowd::new(true)?;
    let mut gaps = Vec::new();
    for (time, build) in BUILDS.into_iter().rev().cycle().take(times).enumerate() {
        gaps.push(crowd.take_over(build).with_context(|| format!("takeover {time}"))?);
    }
    let totals = crowd.group().balance()?;
    ensure!(totals.lost == 0 && totals.repeated == 0, "{totals:?}");
    crowd.daemon().check_counters()?;
    gaps.sort();
    let at = |percent: usize| gaps.get((gaps.len() * percent / 100).min(gaps.len() - 1)).copied().unwrap_or_default();
    println!(
        "taken over {times} times: {} frames, none lost, none twice; no guest of four had a frame for {:.1?} (p99 {:.1?}, worst {:.1?})",
        totals.frames,
        at(50),
        at(99),
        at(100)
    );
    Ok(())
}

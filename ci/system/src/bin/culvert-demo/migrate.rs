//! Two nodes, and a guest that moves between them while it is pinged, has connections open, and changes its memory.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_system::activity::Activity;
use culvert_system::lab::{Lab, STATION};
use culvert_system::moving::MovingGuest;

use crate::Demo;

/// Shows it, and keeps both daemons' configurations and logs whatever happens.
pub fn show(folder: &Path) -> Result<()> {
    let mut demo = Demo { start: Instant::now(), seen: Vec::new() };
    let mut lab = None;
    let shown = journey(&mut demo, &mut lab);
    fs::create_dir_all(folder)?;
    for (index, name) in NODES.into_iter().enumerate() {
        let Some(lab) = &mut lab else { break };
        let node = lab.node(index)?;
        fs::write(folder.join(format!("culvertd-{name}.log")), node.daemon.console().transcript())?;
        fs::copy(node.node.path("culvertd.toml"), folder.join(format!("culvertd-{name}.toml")))?;
    }
    shown.context("the demo has failed")?;
    demo.summarise();
    Ok(())
}

fn journey(demo: &mut Demo, started: &mut Option<Lab>) -> Result<()> {
    demo.step("start culvertd on nodes a and b", || {
        *started = Some(Lab::start()?);
        Ok(format!("their uplinks lead to a station, {STATION}"))
    })?;
    let Some(lab) = started else { return Ok(()) };
    let mut vm: Option<MovingGuest> = None;
    demo.step("boot a Linux guest on a", || {
        vm = Some(lab.boot()?);
        Ok("the station answers its ping".to_owned())
    })?;
    let vm = vm.as_mut().context("no guest")?;
    let mut activity = None;
    demo.step("give it something to do", || {
        activity = Some(Activity::start(lab, &mut vm.guest)?);
        Ok("100 pings a second both ways, a connection each way, 2000 pages of memory changed a second".to_owned())
    })?;
    let activity = activity.as_mut().context("no activity")?;
    let mut journeys = Vec::new();
    for _ in 0..MOVES {
        let name = |index: usize| NODES.get(index).copied().unwrap_or_default();
        let step = format!("it moves from {} to {}", name(vm.at()), name(1 - vm.at()));
        demo.step(&step, || {
            let journey = vm.move_over(lab)?;
            thread::sleep(SETTLING);
            journeys.push(journey);
            activity.check(&journey)
        })?;
    }
    vm.end_source();
    demo.step("all of it was right", || activity.end(&mut vm.guest, &journeys, 0))?;
    for (index, name) in NODES.into_iter().enumerate() {
        for command in ["port list", "mac list"] {
            println!("\n{name}$ culvertctl {command}\n{}", lab.node(index)?.daemon.ctl(command)?.trim_end());
        }
    }
    println!();
    Ok(())
}

const NODES: [&str; 2] = ["a", "b"];

const MOVES: usize = 4;

/// How long the guest is watched at the node where it has arrived.
const SETTLING: Duration = Duration::from_secs(1);

//! The oracle sees what it is there for: cases that do harm are red, each for its harm, and one that does none is green.

use anyhow::Result;
use culvert_driver::Shape;
use culvert_hostile::case::{Expect, case};
use culvert_hostile::field::Field;
use culvert_hostile::guest::TRANSMIT;
use culvert_hostile::neighbours::ADDRESSES;
use culvert_hostile::raw_frontend::{request, ring_state};
use culvert_hostile::runner::play_alone;

fn played(name: &'static str, run: fn(&mut Field) -> Result<()>) -> Vec<String> {
    let wrong = play_alone(&case("Q1", name, "A case of a test.", run));
    println!("{name}: {wrong:#?}");
    wrong
}

fn is_red(name: &'static str, run: fn(&mut Field) -> Result<()>, sentence: &str) {
    let wrong = played(name, run);
    assert!(wrong.iter().any(|wrong| wrong.contains(sentence)), "not told: {sentence}");
}

#[test]
fn a_case_without_harm_is_green() {
    assert!(played("no-harm", |field| field.connect_victim(Shape::default(), 0).map(drop)).is_empty());
}

#[test]
fn a_guest_that_stays_is_a_leak() {
    let stays = |field: &mut Field| {
        std::mem::forget(field.connect_victim(Shape::default(), 0)?);
        Ok(())
    };
    is_red("stays", stays, "mapped files: ");
}

#[test]
fn lost_frames_of_neighbours_are_seen() {
    // The victim claims a neighbour's address, and frames go there for a while: nobody has forbidden it here.
    let steals = |field: &mut Field| {
        let mut guest = field.connect_victim(Shape::default(), 0)?;
        let [left, right] = ADDRESSES;
        let mut frame = [left.as_slice(), &right, &[0x88, 0xb7]].concat();
        frame.resize(60, 0);
        for _ in 0..200 {
            guest.send(&frame)?;
            guest.wait_used(TRANSMIT)?;
            while guest.interface.receive().is_some() {}
        }
        Ok(())
    };
    is_red("steals", steals, "of the neighbours' frames ");
}

#[test]
fn a_line_of_the_log_that_nobody_expects_is_seen() {
    let refused = |field: &mut Field| {
        let guest = field.connect_victim(Shape::default(), 0)?;
        guest.frontend.ask(request::SET_VRING_NUM, &ring_state(77, 16), &[]).map(drop)
    };
    is_red("refused", refused, "1 lines of the log were not expected");
}

#[test]
fn what_does_not_come_as_declared_is_seen() {
    let declares = |field: &mut Field| {
        field.expect_quarantine("no reason");
        field.expect_drops("runt", 1);
        field.expect(Expect::Log { port: field.victim(), sentence: "no such line", lines: 1..=1 });
        Ok(())
    };
    is_red("declares", declares, "not quarantined");
}

#[test]
fn a_daemon_that_dies_is_seen() {
    let dies = |field: &mut Field| {
        let before = field.daemon().pid();
        field.daemon().crash()?;
        // Its supervisor starts another one.
        while [0, before].contains(&field.daemon().pid()) || field.daemon().ctl("status").is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    };
    is_red("dies", dies, "another process runs");
}

#[test]
fn a_case_that_panics_is_red() {
    is_red("panics", |_| panic!("as a test wants it"), "the case has panicked");
}

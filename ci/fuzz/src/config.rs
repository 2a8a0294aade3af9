//! A configuration file of any text.
//!
//! Checked: every mistake has a place in the file, names what is wrong and what to do, and is one line; what is right can be
//! written and read again, and is kept by the journal.

use std::collections::BTreeSet;

use culvertd::config::{Config, Machine, Objects, read_objects, write_objects};
use culvertd::journal;

/// Runs one input: the file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let machine = Machine { cores: BTreeSet::from([0, 1, 2, 5]), memory_mb: 4096 };
    match Config::parse(text, "culvertd.toml", &machine, &Objects::default()) {
        Ok(config) => kept(&config.objects),
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            let lines = text.split('\n').count();
            for mistake in mistakes {
                assert!(mistake.line.is_none_or(|line| (1..=lines).contains(&line)), "{mistake}");
                assert!(!mistake.problem.is_empty() && !mistake.remedy.is_empty(), "{mistake:?}");
                let told = mistake.to_string();
                assert!(!told.contains(char::is_control), "{told:?}");
                assert!(told.len() < 4096, "{} bytes", told.len());
            }
        }
    }
    // As a client's, too.
    if let Ok(objects) = read_objects(text) {
        kept(&objects);
    }
}

/// Writes objects and reads them again.
pub(crate) fn kept(objects: &Objects) {
    let written = write_objects(objects);
    let read = read_objects(&written).expect("what was written");
    assert_eq!(write_objects(&read), written);
    let counts = [objects.networks.len(), objects.ports.len(), objects.mirrors.len(), objects.pods.len()];
    assert_eq!([read.networks.len(), read.ports.len(), read.mirrors.len(), read.pods.len()], counts);
    fn wanted<T>(objects: &[culvertd::config::Object<T>]) -> impl Iterator<Item = &T> {
        objects.iter().map(|object| &object.wanted)
    }
    assert!(wanted(&read.networks).eq(wanted(&objects.networks)));
    assert!(wanted(&read.ports).eq(wanted(&objects.ports)));
    assert!(wanted(&read.mirrors).eq(wanted(&objects.mirrors)));
    assert!(wanted(&read.pods).eq(wanted(&objects.pods)));
    assert_eq!(journal::decode(&journal::encode(&read)).expect("our own journal"), read);
}

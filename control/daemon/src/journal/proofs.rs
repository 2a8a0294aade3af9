//! A small journal, whole, cut short and damaged.

use std::cell::LazyCell;

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    a_journal_with_a_bit_changed_is_the_same_or_none: 830,
    a_journal_that_is_cut_short_or_goes_on_is_none: 100,
    a_first_line_says_what_follows: 1_000,
}

thread_local! {
    /// What is kept, and how.
    static SAMPLE: LazyCell<(Objects, Vec<u8>)> = LazyCell::new(|| {
        let text = "[[network]]\nname = \"n\"\n[[port]]\nname = \"p\"\nnetwork = \"n\"\nsocket = \"/s\"\n";
        let Ok(objects) = read_objects(text) else { panic!("it has no mistakes") };
        let bytes = encode(&objects);
        (objects, bytes)
    });
}

/// A journal of a network and a port in which any one bit is another is the same journal (a digit in another form), or damaged; it is never
/// another one.
fn a_journal_with_a_bit_changed_is_the_same_or_none(choices: &mut Choices) {
    SAMPLE.with(|sample| {
        let (objects, bytes) = &**sample;
        let mut damaged = bytes.clone();
        damaged[choices.below(bytes.len())] ^= 1 << choices.number(0..=7_u8);
        match decode(&damaged) {
            Ok(found) => assert_eq!(found, *objects),
            Err(damage) => assert!(!damage.to_string().is_empty()),
        }
    });
}

/// The same journal is damaged where it ends, anywhere, and where more follows; whole it is what was kept.
fn a_journal_that_is_cut_short_or_goes_on_is_none(choices: &mut Choices) {
    SAMPLE.with(|sample| {
        let (objects, bytes) = &**sample;
        let length = choices.number(0..=bytes.len() + 1);
        let mut cut = bytes.clone();
        cut.resize(length, b'\n');
        let found = decode(&cut);
        if length == bytes.len() {
            assert_eq!(found.as_ref(), Ok(objects));
        } else {
            // Without its first line it is none at all.
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            assert_eq!(found, Err(if length <= end { Damage::NotAJournal } else { Damage::Length }));
        }
    });
}

/// A text is read where the first line tells our version, its length and its checksum, in this order, and is refused for the first of them
/// that is not so: versions, lengths, checksums and what stands between them, right, wrong and missing.
fn a_first_line_says_what_follows(choices: &mut Choices) {
    let text = SAMPLE.with(|sample| write_objects(&sample.0));
    let (length, checksum) = (text.len(), crc32fast::hash(text.as_bytes()));
    let magic = choices.of(&[MAGIC, "# culvertd journa", "", " # culvertd journal"]);
    let space = choices.of(&[" ", "", "  "]);
    let version = choices.of(&["1", "0", "2", "4294967295", "4294967296", "-1", "x", "1x"]);
    let lengths = [length.to_string(), (length + 1).to_string(), String::new(), "99999999999999999999".to_owned()];
    let at = choices.below(lengths.len());
    let sums = [format!("{checksum:08x}"), format!("{:08x}", checksum ^ 1), String::new(), format!("1{checksum:08x}")];
    let sum = choices.below(sums.len());
    let found = decode(format!("{magic}{space}{version} {} {}\n{text}", lengths[at], sums[sum]).as_bytes());
    let number = version.parse::<u32>().ok().filter(|_| magic == MAGIC && space == " ");
    let expected = match (number, at, sum) {
        (None, ..) => Err(Damage::NotAJournal),
        (Some(number), ..) if number != 1 => Err(Damage::Version(number)),
        (_, 2 | 3, _) | (_, _, 2 | 3) => Err(Damage::NotAJournal),
        (_, 1, _) => Err(Damage::Length),
        (_, _, 1) => Err(Damage::Checksum),
        _ => Ok(SAMPLE.with(|sample| sample.0.clone())),
    };
    assert_eq!(found, expected);
}

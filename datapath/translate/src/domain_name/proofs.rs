//! All short names, read by a plain reader of RFC 1035.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    a_name_is_read_as_it_was_written: 5_400,
    compressed_names_are_read_as_they_were_written: 9_200,
}

/// The names in some bytes; what a pointer leads to lies before it.
fn read(bytes: &[u8]) -> Vec<String> {
    let (mut names, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let (mut labels, mut place, mut end) = (Vec::new(), at, None);
        loop {
            let length = usize::from(bytes[place]);
            if length >= 0xc0 {
                let pointed = (length - 0xc0) * 256 + usize::from(bytes[place + 1]);
                assert!(pointed < place, "it leads back");
                end = end.or(Some(place + 2));
                place = pointed;
            } else if length == 0 {
                at = end.unwrap_or(place + 1);
                break;
            } else {
                labels.push(String::from_utf8(bytes[place + 1..=place + length].to_vec()).unwrap());
                place += 1 + length;
            }
        }
        names.push(labels.join("."));
    }
    names
}

/// Whether a text is a name: labels of 1 to 63 bytes, 253 bytes in all, and perhaps a final dot.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253 && text.split('.').all(|label| (1..=63).contains(&label.len()))
}

/// A text is encoded if, and only if, it is a name, and read back without its final dot: all texts of up to 6 letters and dots, behind
/// labels that reach both of the limits or none.
fn a_name_is_read_as_it_was_written(choices: &mut Choices) {
    let label = |length| "x".repeat(length);
    let before = match choices.below(5) {
        0 => String::new(),
        1 => label(60),
        2 => [label(63), label(63), label(63), label(55)].join("."),
        3 => [label(63), label(63), label(63), label(58)].join("."),
        _ => label(62) + ".",
    };
    let text = before + &choices.list(6, |choices| choices.of(&["a", ".", "bb"])).concat();
    match encode(&text) {
        Some(bytes) => {
            assert!(is_name(&text) && bytes.len() <= 255);
            assert_eq!(read(&bytes), [text.strip_suffix('.').unwrap_or(&text)]);
        }
        None => assert!(!is_name(&text), "{text}"),
    }
}

/// Of three names those that are ones and fit come back, in their order, and what is written is no longer than the limit or than it is
/// without pointers: endings that are shared, wholly, in part and in other letters, all limits up to 26.
fn compressed_names_are_read_as_they_were_written(choices: &mut Choices) {
    let names = ["a.b.c", "b.c", "c", "B.c.", "d.a.b.c", "bad..c", "x"];
    let names = [(); 3].map(|()| choices.of(&names).to_owned());
    let limit = choices.number(0..=26_usize);
    let encoded = encode_compressed(&names, limit);
    assert!(encoded.len() <= limit);
    let whole: usize = names.iter().filter_map(|name| encode(name)).map(|bytes| bytes.len()).sum();
    assert!(encoded.len() <= whole);
    let lower = |name: &String| name.trim_end_matches('.').to_lowercase();
    let there: Vec<_> = read(&encoded).iter().map(lower).collect();
    let mut wanted = names.iter().filter(|name| is_name(name)).map(lower);
    assert!(there.iter().all(|name| wanted.any(|wanted| wanted == *name)), "those that fit, in their order");
    // Where there is room for all of them as they are, all are there.
    assert!(whole > limit || there.len() == names.iter().filter(|name| is_name(name)).count());
}

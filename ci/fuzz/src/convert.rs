//! A file for `culvertctl convert`: any text. What comes out needs no second time, has as many lines, and differs only in lines that
//! have a binding; or there is a sentence with a place in the text, and it is no bug of ours.

use culvert_convert::{Wish, convert};

/// Runs one input: a byte of choices, then the text.
pub fn run(data: &[u8]) {
    let Some((choices, text)) = data.split_first() else { return };
    let wish = Wish { all_passt: choices & 1 != 0, ..Wish::default() };
    let first = match convert(text, &wish) {
        Ok(first) => first,
        Err(fault) => {
            let lines = text.iter().filter(|byte| b"\r\n".contains(byte)).count() + 2;
            assert!((1..=lines).contains(&fault.line) && fault.column > 0, "{fault}");
            assert!(!fault.text.contains("which is a bug"), "{fault}");
            return;
        }
    };
    let before = str::from_utf8(text).expect("what is converted is a text");
    let second = convert(first.text.as_bytes(), &wish).expect("what was converted can be read");
    assert_eq!((&second.text, second.changes.len()), (&first.text, 0), "not idempotent");
    assert_eq!(first.changes.is_empty(), first.text == before);
    assert_eq!(before.split('\n').count(), first.text.split('\n').count());
    for (old, new) in before.split('\n').zip(first.text.split('\n')) {
        assert!(old == new || new.contains("binding") || new.contains("culvert"), "{old:?} became {new:?}");
    }
}

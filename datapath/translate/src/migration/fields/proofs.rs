//! Values of all kinds, whole, cut short and damaged.

use std::fmt::Debug;

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    a_value_is_read_as_it_was_written_and_never_as_another: 700,
}

/// What is written is read again, with nothing left; cut short it is an error; and what is read of it with a bit changed is what would have
/// been written so: values of all kinds, all lengths, all bits.
fn a_value_is_read_as_it_was_written_and_never_as_another(choices: &mut Choices) {
    let v4 = SocketAddr::from(([192, 0, 2, 1], 0xfffe));
    let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0xffff, 0x7f00, 1], 1));
    match choices.below(9) {
        0 => check(choices, &(true, 0x5a_u8)),
        1 => check(choices, &(0xfffe_u16, 0x8000_0001_u32)),
        2 => check(choices, &Some(7_u32)),
        3 => check(choices, &None::<u32>),
        4 => check(choices, &[0, 1, u32::MAX, 3, 4]),
        5 => check(choices, &Some((v4, true))),
        6 => check(choices, &(v6, v4)),
        7 => check(choices, &(vec![0_u8, 255, 7], 3_u8)),
        _ => check(choices, &(String::from("a\u{e9}"), String::new())),
    }
}

fn check<T: Field + PartialEq + Debug>(choices: &mut Choices, value: &T) {
    let mut bytes = Vec::new();
    value.write(&mut bytes);
    assert!(is_readable(value));
    let mut all = bytes.as_slice();
    assert_eq!(T::read(&mut all).as_ref(), Ok(value));
    assert!(all.is_empty());
    let at = choices.below(bytes.len());
    assert!(T::read(&mut &bytes[..at]).is_err(), "cut at {at}");
    bytes[at] ^= 1 << choices.number(0..=7_u8);
    let mut rest = bytes.as_slice();
    if let Ok(other) = T::read(&mut rest) {
        let mut again = Vec::new();
        other.write(&mut again);
        assert_eq!(again, bytes[..bytes.len() - rest.len()], "{other:?} has one form");
        assert_ne!(other, *value);
    }
}

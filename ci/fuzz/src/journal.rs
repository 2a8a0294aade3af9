//! A journal of any bytes, as they are, and behind a first line that is right: it is read, or damaged in a way that is told.

use culvertd::config::Objects;
use culvertd::journal::{Damage, decode, encode};

use crate::config::kept;

/// Runs one input.
pub fn run(data: &[u8]) {
    judge(data);
    let empty = encode(&Objects::default());
    let first = String::from_utf8(empty).expect("text");
    let version = first.trim_end().rsplit(' ').nth(2).expect("a version").to_owned();
    let magic = first.split(&format!(" {version} ")).next().expect("a magic").to_owned();
    let mut whole = format!("{magic} {version} {} {:08x}\n", data.len(), checksum(data)).into_bytes();
    whole.extend(data);
    let damage = judge(&whole);
    assert!(damage.is_none_or(|damage| matches!(damage, Damage::Mistake(_))));
}

fn judge(bytes: &[u8]) -> Option<Damage> {
    match decode(bytes) {
        Ok(objects) => {
            kept(&objects);
            None
        }
        Err(damage) => {
            assert!(!damage.to_string().is_empty());
            Some(damage)
        }
    }
}

/// CRC-32 as gzip has it (RFC 1952, section 8), bit by bit.
fn checksum(data: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
    !data.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

//! Domain names as they travel (RFC 1035, section 3.1): labels behind their lengths, an empty one at the end.
//!
//! For the search domains and names that DHCP, DHCPv6 and router advertisements tell of. Nothing here reads what a
//! guest sends.

/// A name such as `a.example.org`, with or without a final dot. `None`: a label is empty or longer than 63 bytes, or
/// the name longer than 255.
pub fn encode(name: &str) -> Option<Vec<u8>> {
    let mut encoded = Vec::with_capacity(name.len() + 2);
    for label in labels(name) {
        put_label(&mut encoded, label)?;
    }
    encoded.push(0);
    (encoded.len() > 1 && encoded.len() <= MAX_BYTES).then_some(encoded)
}

/// Several names, where an ending that was there before is a pointer to it (RFC 1035, section 4.1.4), as far as `limit`
/// bytes allow: what comes first stays. Pointers count from the first byte (RFC 3397, section 2). Names that cannot be
/// encoded are left out.
pub fn encode_compressed(names: &[String], limit: usize) -> Vec<u8> {
    let mut encoded = Vec::new();
    // Endings, each with where it is.
    let mut known: Vec<(&str, u16)> = Vec::new();
    for name in names {
        let before = (encoded.len(), known.len());
        if encode(name).is_none() || put_compressed(&mut encoded, &mut known, name).is_none() || encoded.len() > limit {
            encoded.truncate(before.0);
            known.truncate(before.1);
        }
    }
    encoded
}

fn put_compressed<'a>(encoded: &mut Vec<u8>, known: &mut Vec<(&'a str, u16)>, name: &'a str) -> Option<()> {
    let mut ending = name.trim_end_matches('.');
    while !ending.is_empty() {
        if let Some((_, position)) = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(ending)) {
            encoded.extend((POINTER | position).to_be_bytes());
            return Some(());
        }
        let position = u16::try_from(encoded.len()).ok().filter(|position| position & POINTER == 0)?;
        known.push((ending, position));
        let (label, rest) = ending.split_once('.').unwrap_or((ending, ""));
        put_label(encoded, label)?;
        ending = rest;
    }
    encoded.push(0);
    Some(())
}

fn labels(name: &str) -> impl Iterator<Item = &str> {
    name.strip_suffix('.').unwrap_or(name).split('.')
}

fn put_label(encoded: &mut Vec<u8>, label: &str) -> Option<()> {
    let length = u8::try_from(label.len()).ok().filter(|length| (1..=MAX_LABEL_BYTES).contains(length))?;
    encoded.push(length);
    encoded.extend(label.as_bytes());
    Some(())
}

/// RFC 1035, section 2.3.4; the first with lengths and the final zero.
const MAX_BYTES: usize = 255;
const MAX_LABEL_BYTES: u8 = 63;

/// The two bits that make a pointer of two bytes.
const POINTER: u16 = 0xc000;

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_behind_their_lengths() {
        assert_eq!(encode("a.bc.example").unwrap(), b"\x01a\x02bc\x07example\0");
        assert_eq!(encode("a.bc.example."), encode("a.bc.example"));
        assert_eq!(encode("single").unwrap(), b"\x06single\0");
        let longest = [&"x".repeat(63), &"x".repeat(63), &"x".repeat(63), &"x".repeat(61)].map(|x| x.clone()).join(".");
        assert_eq!(encode(&longest).unwrap().len(), 255);
        for bad in ["", ".", "..", "a..b", ".a", "a..", &"x".repeat(64), &format!("{longest}x")] {
            assert_eq!(encode(bad), None, "{bad}");
        }
    }

    fn compressed(names: &[&str], limit: usize) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        encode_compressed(&names, limit)
    }

    /// RFC 1035, section 4.1.4.
    #[test]
    fn endings_that_were_there_are_pointed_to() {
        let names = ["a.example.org", "b.example.org", "example.org.", "A.EXAMPLE.org", "org", "c.b.example.org"];
        let expected = b"\x01a\x07example\x03org\0\x01b\xc0\x02\xc0\x02\xc0\x00\xc0\x0a\x01c\xc0\x0f";
        assert_eq!(compressed(&names, 100), expected);
    }

    #[test]
    fn names_that_are_too_much_or_bad_are_left_out() {
        let names = ["a.example.org", "bad..org", "a-long-one.example.net", "b.example.org"];
        assert_eq!(compressed(&names, 19), b"\x01a\x07example\x03org\0\x01b\xc0\x02");
        assert_eq!(compressed(&names, 18), b"\x01a\x07example\x03org\0");
        assert_eq!(compressed(&names, 14), b"");
        // Nothing points to where a name was that has been left out.
        let names = ["x.example.org", "b.example.org", "org"];
        assert_eq!(compressed(&names, 14), b"\x03org\0");
    }
}

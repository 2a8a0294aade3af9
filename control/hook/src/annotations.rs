//! A pod's annotations as the downward API writes them into a file: one `key="value"` in each line, the value quoted as Go
//! quotes strings (`%q`).
//!
//! The pod cannot write this file, but whoever may annotate the pod decides what is in it: sizes are limited, and what is
//! malformed is an error.

/// Longest file that is read, in bytes. Kubernetes allows 256 KiB of annotations, and quoting makes four bytes of one.
pub const MAX_FILE_BYTES: usize = 2 * 1024 * 1024;

/// Why an annotation cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// Too long.
    #[error("it has {0} bytes; {MAX_FILE_BYTES} are read")]
    TooLong(usize),
    /// The line of that number is not `key="value"`.
    #[error("line {0} is not key=\"value\" with Go's quoting")]
    Malformed(usize),
    /// The value is no text.
    #[error("the value in line {0} is not UTF-8")]
    NotText(usize),
}

/// The value of one annotation; of several with one key, the first. `None` if there is none.
///
/// # Errors
/// The file is too long, or a line up to the one looked for is malformed, as when the file is read while it is cut short.
pub fn find(file: &[u8], key: &str) -> Result<Option<String>, AnnotationError> {
    if file.len() > MAX_FILE_BYTES {
        return Err(AnnotationError::TooLong(file.len()));
    }
    for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let malformed = AnnotationError::Malformed(index + 1);
        let equals = line.iter().position(|byte| *byte == b'=').ok_or_else(|| malformed.clone())?;
        let (found, value) = line.split_at(equals);
        let value = unquote(value.get(1..).unwrap_or_default()).ok_or(malformed)?;
        if found == key.as_bytes() {
            return String::from_utf8(value).map(Some).map_err(|_| AnnotationError::NotText(index + 1));
        }
    }
    Ok(None)
}

/// What a string in Go's double quotes stands for; all of `quoted` must be one. `\x` and octal escapes are bytes, `\u` and
/// `\U` characters: the Go Programming Language Specification, "String literals".
fn unquote(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut rest = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut value = Vec::with_capacity(rest.len());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => return None,
            b'\\' => rest = escape(rest, &mut value)?,
            byte => value.push(*byte),
        }
    }
    Some(value)
}

/// Reads what follows a backslash, and returns what follows that.
fn escape<'a>(text: &'a [u8], value: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (kind, rest) = text.split_first()?;
    let simple = match kind {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' | b'"' => *kind,
        b'0'..=b'7' => {
            let (number, rest) = number(text, 3, 8)?;
            value.push(u8::try_from(number).ok()?);
            return Some(rest);
        }
        b'x' => {
            let (number, rest) = number(rest, 2, 16)?;
            value.push(u8::try_from(number).ok()?);
            return Some(rest);
        }
        b'u' | b'U' => {
            let (number, rest) = number(rest, if *kind == b'u' { 4 } else { 8 }, 16)?;
            let character = char::from_u32(number)?;
            value.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(rest);
        }
        _ => return None,
    };
    value.push(simple);
    Some(rest)
}

/// A number of exactly `digits` digits, and what follows.
fn number(text: &[u8], digits: usize, radix: u32) -> Option<(u32, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    let number = std::str::from_utf8(number).ok()?;
    // from_str_radix takes a sign.
    number.chars().all(|digit| digit.is_digit(radix)).then_some(())?;
    Some((u32::from_str_radix(number, radix).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotations_of_a_pod_are_read() {
        let file = br#"k8s.v1.cni.cncf.io/networks="[{\"interface\":\"net1\",\"name\":\"lab-net\",\"namespace\":\"lab\",\"cni-args\":{\"interface-type\":\"vhost-user-net\"}}]"
empty=""
kubernetes.io/config.seen="2026-01-02T03:04:05.000Z"
with=equals="a=b"
"#;
        let networks = r#"[{"interface":"net1","name":"lab-net","namespace":"lab","cni-args":{"interface-type":"vhost-user-net"}}]"#;
        assert_eq!(find(file, "k8s.v1.cni.cncf.io/networks").unwrap().unwrap(), networks);
        assert_eq!(find(file, "empty").unwrap().unwrap(), "");
        assert_eq!(find(file, "kubernetes.io/config.seen").unwrap().unwrap(), "2026-01-02T03:04:05.000Z");
        assert_eq!(find(file, "with"), Err(AnnotationError::Malformed(4)));
        assert_eq!(find(b"", "with"), Ok(None));
        assert_eq!(find(b"a=\"1\"\nb=\"2\"", "b").unwrap().unwrap(), "2");
        assert_eq!(find(b"a=\"1\"\na=\"2\"\n", "a").unwrap().unwrap(), "1");
    }

    #[test]
    fn all_of_go_s_escapes_are_known() {
        let file = br#"k="\a\b\f\n\r\t\v\\\"|\x41|\101|\u00e9|\U0001f600|'|/""#;
        let value = "\u{7}\u{8}\u{c}\n\r\t\u{b}\\\"|A|A|é|😀|'|/";
        assert_eq!(find(file, "k").unwrap().unwrap(), value);
        assert_eq!(find("k=\"ü😀\"".as_bytes(), "k").unwrap().unwrap(), "ü😀");
        // Two bytes of one character.
        assert_eq!(find(br#"k="\xc3\xa9""#, "k").unwrap().unwrap(), "é");
    }

    #[test]
    fn what_go_would_not_unquote_is_malformed() {
        for value in [
            r#"""#,
            "",
            "a",
            r#""a"#,
            r#"a""#,
            r#""a"b""#,
            r#""\""#,
            r#""\q""#,
            r#""\x4""#,
            r#""\x+4""#,
            r#""\400""#,
            r#""\08""#,
            r#""\ud800""#,
            r#""\U00110000""#,
            r#""\u12""#,
            r#""\'""#,
            r#""a" "#,
        ] {
            assert_eq!(find(format!("k={value}").as_bytes(), "k"), Err(AnnotationError::Malformed(1)), "{value}");
        }
        assert_eq!(find(b"k", "k"), Err(AnnotationError::Malformed(1)));
        assert_eq!(find(br#"k="\xff""#, "k"), Err(AnnotationError::NotText(1)));
        let long = vec![b'\n'; MAX_FILE_BYTES + 1];
        assert_eq!(find(&long, "k"), Err(AnnotationError::TooLong(MAX_FILE_BYTES + 1)));
    }

    /// The kubelet replaces the file by a link; a copy may still end anywhere.
    #[test]
    fn a_file_that_is_cut_short_is_an_error_or_lacks_the_annotation() {
        let file = br#"a="1"
b="\u00e9\\"
c="3"
"#;
        for end in 0..file.len() {
            match find(&file[..end], "c") {
                Ok(None) | Err(AnnotationError::Malformed(_)) => {}
                Ok(Some(value)) => assert_eq!((value.as_str(), end), ("3", file.len() - 1)),
                other => panic!("{other:?}"),
            }
        }
    }
}

//! A frame's first bytes as text: its Ethernet header in words, or all of it in hexadecimal.

use std::fmt::Write;

use culvert_api::v1;
use culvert_frame::EthernetHeader;

/// Source, destination, EtherType and length: `02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff 0806 len 42`.
pub fn summary(head: &[u8], length: u32) -> String {
    match EthernetHeader::parse(head) {
        Ok(header) => format!("{} > {} {:04x} len {length}", header.source, header.destination, header.ether_type),
        Err(_) => format!("{} len {length}", if head.is_empty() { "-".to_owned() } else { hexadecimal(head) }),
    }
}

/// Two digits for each byte, without spaces.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `rx` or `tx`, from culvertd's side.
pub fn direction(direction: v1::Direction) -> &'static str {
    match direction {
        v1::Direction::Rx => "rx",
        v1::Direction::Tx => "tx",
        v1::Direction::Unspecified => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_told_in_words() {
        let head = [[0xff; 6], [2, 0, 0, 0, 0, 0xa]].concat();
        assert_eq!(summary(&[&head[..], &[8, 6, 0]].concat(), 42), "02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff 0806 len 42");
        assert_eq!(summary(&head[..3], 3), "ffffff len 3");
        assert_eq!(summary(&[], 0), "- len 0");
    }
}

//! What a guest is told of DNS: a pod's /etc/resolv.conf of any bytes, and its domains as they travel in DHCP, DHCPv6 and
//! router advertisements, read again by a reader of our own.

use culvert_translate::domain_name::{encode, encode_compressed};
use culvert_translate::resolv_conf::ResolvConf;

/// Runs one input: a byte that limits the answer, and the file.
pub fn run(data: &[u8]) {
    let Some((limit, file)) = data.split_first() else { return };
    let read = ResolvConf::parse(&String::from_utf8_lossy(file));
    assert!(read.search.iter().all(|domain| !domain.is_empty() && !domain.ends_with('.')));
    let limit = usize::from(*limit) * 8;
    let compressed = encode_compressed(&read.search, limit);
    assert!(compressed.len() <= limit);

    let mut names = Vec::new();
    let mut at = 0;
    while at < compressed.len() {
        let (name, end) = decode(&compressed, at);
        names.push(name);
        at = end;
    }
    // All that can be told, in order; later ones may be left out where there is no room.
    let mut wanted = read.search.iter().filter(|name| encode(name).is_some());
    for name in &names {
        assert!(wanted.any(|other| other.eq_ignore_ascii_case(name)), "{name:?} was never asked for");
    }
    for domain in &read.search {
        let Some(alone) = encode(domain) else { continue };
        assert_eq!(decode(&alone, 0), (domain.clone(), alone.len()));
    }
}

/// A name of labels and pointers (RFC 1035, 4.1.4), and where the next one starts. Pointers lead back only.
fn decode(bytes: &[u8], start: usize) -> (String, usize) {
    let (mut labels, mut at, mut end, mut before) = (Vec::new(), start, None, start + 1);
    loop {
        let length = usize::from(bytes[at]);
        match length {
            0 => return (labels.join("."), end.unwrap_or(at + 1)),
            1..=63 => {
                let label = std::str::from_utf8(&bytes[at + 1..at + 1 + length]).expect("text");
                labels.push(label);
                at += 1 + length;
            }
            _ => {
                assert_eq!(length & 0xc0, 0xc0);
                end = end.or(Some(at + 2));
                let to = usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]) & 0x3fff);
                assert!(to < before, "a pointer leads on");
                (at, before) = (to, to);
            }
        }
    }
}

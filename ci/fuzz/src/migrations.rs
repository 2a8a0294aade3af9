//! What the migration proxy reads: requests of clients to its socket, any bytes as protobuf, and what Multus tells of a pod's networks.
//! What comes from other hosts it does not read: TLS is rustls', and behind it bytes are carried.
//!
//! Checked: what is refused says why, in one line; what is taken names sockets that can be, each channel once, and ports that are some.

use std::path::Path;

use culvert_api::v1;
use culvert_migration::{Channel, Proxy, Settings, address};
use culvertd::migration::request;
use prost::Message;

/// Runs one input: a byte that chooses the request, and its bytes.
pub fn run(data: &[u8]) {
    let [method, bytes @ ..] = data else { return };
    let refused = match method % 4 {
        0 => v1::ListenMigrationRequest::decode(bytes).ok().and_then(listen),
        1 => v1::ConnectMigrationRequest::decode(bytes).ok().and_then(connect),
        2 => v1::SetMigrationRateRequest::decode(bytes).ok().and_then(|wanted| {
            let checked = request::named(&wanted.name).and_then(|_| request::bits(wanted.rate));
            assert!(!matches!(checked, Ok(Some(0))), "a rate of nothing");
            checked.err().map(|status| status.message().to_owned())
        }),
        _ => std::str::from_utf8(bytes).ok().and_then(|text| address::told(text, address::INTERFACE).err()),
    };
    if let Some(sentence) = refused {
        assert!(!sentence.is_empty() && !sentence.contains(char::is_control), "{sentence:?}");
        assert!(sentence.len() < 1024, "{} bytes", sentence.len());
    }
}

fn listen(wanted: v1::ListenMigrationRequest) -> Option<String> {
    let folder = Path::new("/run/culvert/migration");
    let settings = Settings { networks: Vec::new(), folder: folder.to_owned(), ports: None, tls: None };
    let count = wanted.targets.len();
    match request::listen(&Proxy::new(settings), wanted) {
        Ok((name, offered)) => {
            assert!(is_name(name.as_str()) && offered.targets.len() == count);
            for (channel, path) in offered.targets {
                let text = path.to_str().expect("UTF-8");
                assert!(path.is_absolute() && !text.contains(char::is_control), "{text:?}");
                // The folder's own names are looked at by who makes them.
                assert!(text.len() <= 107 || path == folder.join(channel.socket_name(name.as_str())), "{text:?}");
            }
            None
        }
        Err(status) => Some(status.message().to_owned()),
    }
}

fn connect(wanted: v1::ConnectMigrationRequest) -> Option<String> {
    let count = wanted.ports.len();
    match request::connect(wanted) {
        Ok((name, wanted)) => {
            assert!(is_name(name.as_str()) && wanted.ports.len() == count);
            assert!(wanted.ports.values().all(|port| *port > 0) && wanted.ports.len() <= Channel::ALL.len());
            assert_ne!(wanted.rate, Some(0));
            None
        }
        Err(status) => Some(status.message().to_owned()),
    }
}

/// What may become part of a socket's name.
fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

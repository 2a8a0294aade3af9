//! What comes from several parts together: sockets that are served without an event.

use std::time::Duration;

use super::*;
use crate::forward::Listen;
use crate::samples;
use crate::world::{World, at};

/// An event comes once for those who knock; when there are no descriptors they are asked in again later.
#[test]
fn connections_that_found_no_descriptor_are_accepted_later() {
    let World { now, mut sockets, mut link, .. } = World::new();
    let mut translator = Translator::new(samples::settings(), LimitSettings::default(), now, 1);
    let listen = Listen {
        protocol: Protocol::Tcp,
        address: None,
        interface: None,
        port: 80,
        target: None,
        target_port: 80,
        strict: true,
    };
    translator.open_forward(&listen, false, &mut sockets).unwrap();
    let none = || Err(io::Error::from_raw_os_error(libc::EMFILE));
    sockets.streams.waiting.extend([none(), none(), Ok(at("198.51.100.9:5000"))]);
    let ready = Readiness { readable: true, writable: false, failed: false, stops: true };
    translator.socket_event(now, SocketId::TcpListener(0), ready, &mut sockets, &mut link);
    translator.finish(now, &mut sockets, &mut link);
    assert_eq!(translator.counters().refused(Refusal::NoDescriptor), 1);
    // Not at once, and without an event.
    let mut later = now;
    while translator.tcp().is_empty() {
        assert!(
            translator.deadline().unwrap() > later && translator.deadline().unwrap() <= later + Duration::from_secs(1)
        );
        later = translator.deadline().unwrap();
        translator.finish(later, &mut sockets, &mut link);
    }
    assert_eq!(translator.counters().refused(Refusal::NoDescriptor), 2);
}

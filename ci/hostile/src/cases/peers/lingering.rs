//! Descriptors by which a frontend would have culvertd wait: one that cannot be closed, one that cannot be written to. V6.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;

use super::greeted;
use crate::case::{Case, case};
use crate::field::Field;
use crate::guest::Guest;
use crate::raw_frontend::{VERSION, numbers, request};

pub const CLOSING: Case = case(
    "V6",
    "descriptors-that-cannot-be-closed",
    "TCP sockets that linger, with each request that takes descriptors and none: only the frontend's own port waits.",
    closing,
);

pub const BLOCKING: Case = case(
    "V6",
    "interrupts-that-block",
    "An eventfd is made to block and filled while it is handed over again and again: only its own port waits.",
    blocking,
);

/// A TCP socket whose last close waits for a reader: as long as the other socket that is returned is there.
fn lingering() -> Result<(OwnedFd, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    let reader = listener.accept()?.0;
    rustix::net::sockopt::set_socket_linger(&sender, Some(Duration::from_secs(600)))?;
    sender.set_nonblocking(true)?;
    while (&mut &sender).write(&[0; 65_536]).is_ok() {}
    Ok((sender.into(), reader))
}

fn closing(field: &mut Field) -> Result<()> {
    for sentence in ["refused", "connection closed", "cannot be closed", "a second frontend"] {
        field.may_tell(sentence);
    }
    let other = field.add_port("beside-the-lingering", "")?;
    let mut readers = Vec::new();
    for request in
        [request::GET_FEATURES, request::SET_MEM_TABLE, request::SET_VRING_CALL, request::SET_BACKEND_REQ_FD, 99]
    {
        let frontend = greeted(field)?;
        let (bomb, reader) = lingering()?;
        frontend.send(request, VERSION, &numbers(&[0]), &[bomb.as_fd()])?;
        // Who closes it last waits, and that may be we.
        std::thread::spawn(move || drop(bomb));
        readers.push(reader);
        // Another port is opened, served and left meanwhile.
        drop(Guest::connect(&other, Default::default(), 0)?);
        drop(frontend);
        drop(Guest::connect(&other, Default::default(), 0)?);
        // It can be closed from now on.
        readers.clear();
    }
    Ok(())
}

fn blocking(field: &mut Field) -> Result<()> {
    for sentence in ["blocks", "too many messages", "connection closed"] {
        field.may_tell(sentence);
    }
    let other = field.add_port("beside-the-blocking", "")?;
    let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let stop = AtomicBool::new(false);
    let guest = field.connect_victim(Default::default(), 0)?;
    let played = std::thread::scope(|scope| {
        // Between the look whether it can be written to and the write.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = rustix::fs::fcntl_setfl(&event, OFlags::NONBLOCK);
                let _ = rustix::io::read(&event, &mut [0; 8]);
                let _ = rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes());
                let _ = rustix::fs::fcntl_setfl(&event, OFlags::empty());
                std::thread::yield_now();
            }
            // Whoever still waits to write can go on.
            let _ = rustix::fs::fcntl_setfl(&event, OFlags::NONBLOCK);
            let _ = rustix::io::read(&event, &mut [0; 8]);
        });
        let play = || -> Result<()> {
            for _ in 0..1000 {
                // A worker may have met it first: then the port is quarantined.
                if guest.frontend.ask(request::SET_VRING_CALL, &numbers(&[1]), &[event.as_fd()]).is_err() {
                    break;
                }
            }
            for _ in 0..5 {
                drop(Guest::connect(&other, Default::default(), 0)?);
            }
            Ok(())
        };
        let played = play();
        stop.store(true, Ordering::Relaxed);
        played
    });
    // The thread may have filled it last.
    let _ = rustix::io::read(&event, &mut [0; 8]);
    ensure!(played.is_ok(), "a guest at another port: {played:?}");
    Ok(())
}

//! What passt-repair does, by its protocol: sockets of a translator come with a byte that says whether they are to be in repair mode, and the
//! byte goes back when they are.

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// Connects to a translator's `S.repair`, and does so until it ends, or what is returned was shut down.
///
/// # Errors
/// It does not listen there.
pub fn help(socket: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    let own = stream.try_clone()?;
    thread::spawn(move || {
        loop {
            match serve(&own) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return println!("  sockets cannot be switched: {error:#}"),
            }
        }
    });
    Ok(stream)
}

/// Takes one message. Whether there was one.
fn serve(mut stream: &UnixStream) -> Result<bool> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    for socket in rights.flatten().collect::<Vec<OwnedFd>>() {
        setsockopt(&socket, sockopt::TcpRepair, &u32::from(byte == [1]))?;
    }
    if received.bytes > 0 {
        stream.write_all(&byte)?;
    }
    Ok(received.bytes > 0)
}

/// How many come with one message.
const MOST_SOCKETS: usize = 253;

//! Help for translators whose guest moves to another machine: their sockets are switched to repair mode (TCP_REPAIR), which takes
//! CAP_NET_ADMIN. At `S.repair` culvertd does as passt-repair does; docs/TRANSLATOR.md tells it to users.
//!
//! A translator asks while its guest stands still, so nobody may let it wait for the next look: each has a thread of its own, which
//! waits for what it says. The sockets come from a pod, which may hand over whatever it likes: they must be of TCP, and of the
//! network namespace that is registered. The supervisor does the switching: the daemon may not.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_api::translator::REPAIR_SUFFIX;
use culvert_guest::descriptor::network_namespace;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    Shutdown, SocketAddrUnix, SocketFlags, SocketType, ipproto,
};

use super::folder;
use super::packets::Namespace;
use crate::broker::message::MAX_DESCRIPTORS;
use crate::config::Pod;

/// Switches sockets of a network namespace, or says why not.
type Switch = dyn Fn(&Path, &[OwnedFd], bool) -> Result<(), String> + Send + Sync;

/// The translators of one pod that are helped so.
pub struct Repairs {
    switch: Arc<Switch>,
    pace: Arc<Mutex<Pace>>,
    /// By where they were found.
    helped: BTreeMap<PathBuf, Helped>,
}

/// One of them.
struct Helped {
    /// As which it was found.
    identity: (u64, u64),
    /// What was registered then.
    netns: PathBuf,
    socket: Arc<OwnedFd>,
    /// Looks after it.
    thread: JoinHandle<()>,
}

impl Drop for Helped {
    /// Its thread ends then, when it is done with what it does.
    fn drop(&mut self) {
        // It fails where the translator has gone.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

/// The supervisor serves all pods: none may keep it busy. This is how much of it one has used.
#[derive(Debug, Default)]
struct Pace {
    began: Option<Instant>,
    count: u32,
}

impl Pace {
    /// One more message is answered; how long to wait before the next one is heard.
    fn wait(&mut self, now: Instant) -> Duration {
        let began = match self.began {
            Some(began) if now.saturating_duration_since(began) < PERIOD => began,
            _ => {
                self.count = 0;
                *self.began.insert(now)
            }
        };
        self.count += 1;
        if self.count < MOST_MESSAGES { Duration::ZERO } else { (began + PERIOD).saturating_duration_since(now) }
    }
}

/// A guest with all connections that a translator may have moves with half of these, there and back.
const MOST_MESSAGES: u32 = 2048;
const PERIOD: Duration = Duration::from_secs(10);

/// Translators of one pod that are helped.
const MAX_OF_A_POD: usize = 16;

impl Repairs {
    /// Helps nobody yet. What needs a privilege is done by `switch`.
    pub fn new(switch: impl Fn(&Path, &[OwnedFd], bool) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { switch: Arc::new(switch), pace: Arc::default(), helped: BTreeMap::new() }
    }

    /// Looks for translators of this pod. To be called about once a second.
    pub fn turn(&mut self, pod: &Pod) {
        let Some(netns) = &pod.netns else { return self.helped.clear() };
        // Whose translator has gone ends by itself.
        self.helped.retain(|_, helped| !helped.thread.is_finished() && helped.netns == *netns);
        for folder in &pod.folders {
            // That it cannot be looked into is told where help is looked for.
            for found in folder::sockets(folder, REPAIR_SUFFIX).unwrap_or_default() {
                let is_known = self.helped.get(&found.path).is_some_and(|helped| helped.identity == found.identity);
                if is_known || self.helped.len() >= MAX_OF_A_POD {
                    continue;
                }
                // Left behind by one that has ended, or busy.
                let Ok(socket) = connect(&found).map(Arc::new) else { continue };
                let (switch, there, own) = (Arc::clone(&self.switch), netns.clone(), Arc::clone(&socket));
                let pace = Arc::clone(&self.pace);
                let serve = move || {
                    while serve(&own, &*switch, &there).is_ok() {
                        let wait = pace.lock().unwrap_or_else(PoisonError::into_inner).wait(Instant::now());
                        std::thread::sleep(wait);
                    }
                };
                if let Ok(thread) = std::thread::Builder::new().name("repair".to_owned()).spawn(serve) {
                    let helped = Helped { identity: found.identity, netns: netns.clone(), socket, thread };
                    self.helped.insert(found.path.clone(), helped);
                }
            }
        }
    }
}

/// Takes one message, and answers it when it is done. An error: the translator has gone, or is not to be talked to.
fn serve(socket: &OwnedFd, switch: &Switch, netns: &Path) -> Result<(), Errno> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let sockets: Vec<OwnedFd> = rights.flatten().collect();
    if received.bytes == 0 {
        return Err(Errno::PIPE);
    }
    let on = match byte {
        [1] => true,
        [0] => false,
        _ => return Err(Errno::PROTO),
    };
    if received.flags.contains(ReturnFlags::CTRUNC) || sockets.is_empty() {
        return Err(Errno::PROTO);
    }
    if let Err(reason) = switch(netns, &sockets, on) {
        tracing::warn!("sockets of a translator cannot be switched to or from repair mode: {reason}");
        return Err(Errno::PERM);
    }
    let mut nothing = SendAncillaryBuffer::default();
    rustix::net::sendmsg(socket, &[IoSlice::new(&byte)], &mut nothing, SendFlags::NOSIGNAL).map(drop)
}

/// Connects to what was found, however names change meanwhile. Does not wait for it.
fn connect(found: &folder::Found) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", found.as_fd().as_raw_fd()))?;
    rustix::net::connect(&socket, &address)?;
    // Its thread waits.
    rustix::fs::fcntl_setfl(&socket, rustix::fs::OFlags::empty())?;
    Ok(socket)
}

impl Namespace {
    /// Switches sockets of this namespace.
    ///
    /// # Errors
    /// A sentence. Some may have been switched.
    pub fn repair(&self, sockets: &[OwnedFd], on: bool) -> Result<(), String> {
        let own = self.inside("repair", || {
            let family = AddressFamily::INET;
            let probe = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
            let probe = probe.map_err(|errno| format!("no socket: {errno}"))?;
            network_namespace(probe.as_fd()).map_err(|error| format!("no number of the namespace: {error}"))
        })?;
        for socket in sockets {
            let is_tcp = rustix::net::sockopt::socket_protocol(socket).is_ok_and(|kind| kind == Some(ipproto::TCP));
            if !is_tcp || !network_namespace(socket.as_fd()).is_ok_and(|namespace| namespace == own) {
                return Err("only sockets of TCP in the pod's network namespace are switched".to_owned());
            }
            setsockopt(socket, sockopt::TcpRepair, &u32::from(on)).map_err(|errno| format!("TCP_REPAIR: {errno}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pod_keeps_the_supervisor_busy() {
        let mut pace = Pace::default();
        let now = Instant::now();
        for _ in 1..MOST_MESSAGES {
            assert_eq!(pace.wait(now), Duration::ZERO);
        }
        assert_eq!(pace.wait(now + Duration::from_secs(4)), Duration::from_secs(6));
        assert_eq!(pace.wait(now + PERIOD), Duration::ZERO);
    }
}

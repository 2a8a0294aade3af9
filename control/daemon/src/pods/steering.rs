//! Steering for a translator that may not attach it: all ports of a pod's network namespace that nobody has to its two
//! sockets (`culvert-steer`). docs/TRANSLATOR.md tells it to users.
//!
//! The sockets come from a pod, which may hand over whatever it likes: they must be in the kernel's list of the namespace
//! that is registered, one that listens and one of UDP. The supervisor does this: the daemon may not.

use std::os::fd::OwnedFd;
use std::path::Path;

use culvert_steer::Steering;
use culvert_steer::bound::Question;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::packets::Namespace;

/// Steers the ports of the network namespace at `netns` to these sockets, TCP's first.
///
/// # Errors
/// A sentence: there is no such namespace, the sockets are others, or culvertd may not (CAP_SYS_ADMIN).
pub fn open(netns: &Path, sockets: &[OwnedFd]) -> Result<Steering, String> {
    Namespace::open(netns)?.steering(sockets)
}

impl Namespace {
    /// Steers this namespace's ports.
    ///
    /// # Errors
    /// A sentence.
    pub fn steering(&self, sockets: &[OwnedFd]) -> Result<Steering, String> {
        let [tcp, udp] = sockets else { return Err("ports are steered to two sockets".to_owned()) };
        let numbers = [tcp, udp].map(|socket| rustix::fs::fstat(socket).map(|status| status.st_ino));
        let [Ok(of_tcp), Ok(of_udp)] = numbers else { return Err("ports are steered to sockets".to_owned()) };
        let bound = self.inside("ports", || {
            let asked = Question::new().and_then(|question| question.ask());
            asked.map_err(|error| format!("the kernel does not list the pod's sockets: {error}"))
        })?;
        let is_there = |is_udp, inode| bound.iter().any(|bound| bound.is_udp == is_udp && bound.inode == inode);
        if !is_there(false, of_tcp) || !is_there(true, of_udp) {
            return Err("ports are steered to sockets of the pod, one that listens and one of UDP".to_owned());
        }
        let flags = SocketFlags::CLOEXEC;
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|errno| format!("no socket pair: {errno}"))?;
        culvert_steer::attach(self, tcp, udp, far).map_err(|error| error.to_string())?;
        culvert_steer::receive(near).map_err(|error| error.to_string())
    }
}

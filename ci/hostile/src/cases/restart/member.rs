//! A guest with exact books ([`Ledger`]) that connects to culvertd in either role, again and again: each time its rings go on where
//! they stand.

use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_driver::Ring;
use culvert_system::frontend::memory;
use culvert_system::qemu::Role;
use rustix::event::{PollFd, PollFlags, Timespec};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use super::ledger::Ledger;

/// A guest and its connection.
pub struct Member {
    /// Its rings.
    pub ledger: Ledger,
    socket: PathBuf,
    /// In the connect role.
    listener: Option<UnixListener>,
    link: Option<Link>,
}

struct Link {
    frontend: Frontend,
    /// The same connection, to look at.
    stream: UnixStream,
    /// Of the receive ring: kick and call.
    receive: [EventFd; 2],
    /// Of the transmit ring, once frames may go out.
    transmit: Option<[EventFd; 2]>,
}

impl Member {
    /// A guest that is not connected yet. In the connect role it listens.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn new(ledger: Ledger, socket: &Path, role: Role) -> Result<Self> {
        let listener = match role {
            Role::Listen => None,
            Role::Connect => {
                let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
                listener.set_nonblocking(true)?;
                Some(listener)
            }
        };
        Ok(Self { ledger, socket: socket.to_owned(), listener, link: None })
    }

    /// Whether culvertd has its rings, and fills the receive ring.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Whether its frames go out.
    pub fn is_enabled(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.transmit.is_some())
    }

    /// Whether culvertd has closed the connection, as its end does.
    pub fn is_hung_up(&self) -> bool {
        let Some(link) = &self.link else { return false };
        let mut found = [PollFd::new(&link.stream, PollFlags::RDHUP)];
        rustix::event::poll(&mut found, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    /// Drops its connection.
    pub fn disconnect(&mut self) {
        self.link = None;
    }

    /// Connects if culvertd is there: from then on frames come in. `false`: it is not, or not any more.
    ///
    /// # Errors
    /// Not culvertd's end but something else is in the way.
    pub fn connect(&mut self) -> Result<bool> {
        let Some(stream) = self.stream()? else { return Ok(false) };
        stream.set_read_timeout(Some(ANSWER))?;
        // culvertd may be killed at any message.
        self.link = self.start(stream).ok();
        Ok(self.link.is_some())
    }

    /// Lets its frames go out. `false`: culvertd has ended.
    pub fn enable(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let [_, ring] = self.ledger.rings();
        link.transmit = start_ring(&mut link.frontend, 1, ring, self.ledger.is_packed()).ok();
        link.transmit.is_some()
    }

    /// Tells culvertd that a ring has something new.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kick(&self, ring: usize) -> Result<()> {
        let events =
            self.link.as_ref().and_then(|link| if ring == 0 { Some(&link.receive) } else { link.transmit.as_ref() });
        let kick = events.map(|[kick, _]| kick);
        kick.map_or(Ok(()), |kick| kick.write(1)).context("kick")
    }

    /// A connection, if there can be one now.
    fn stream(&self) -> Result<Option<UnixStream>> {
        let found = match &self.listener {
            Some(listener) => listener.accept().map(|(stream, _)| stream),
            None => UnixStream::connect(&self.socket),
        };
        match found {
            Ok(stream) => {
                stream.set_nonblocking(false)?;
                Ok(Some(stream))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| self.socket.display().to_string()),
        }
    }

    fn start(&self, stream: UnixStream) -> Result<Link> {
        let mut frontend = Frontend::from_stream(stream.try_clone()?, 2);
        frontend.set_owner()?;
        frontend.get_features()?;
        let protocol = frontend.get_protocol_features()?;
        frontend.set_protocol_features(protocol & VhostUserProtocolFeatures::REPLY_ACK)?;
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let packed = if self.ledger.is_packed() { RING_PACKED } else { 0 };
        frontend.set_features(VERSION_1 | PROTOCOL_FEATURES | MRG_RXBUF | packed)?;
        frontend.set_mem_table(&[memory(self.ledger.ram())])?;
        let [ring, _] = self.ledger.rings();
        let receive = start_ring(&mut frontend, 0, ring, self.ledger.is_packed())?;
        Ok(Link { frontend, stream, receive, transmit: None })
    }
}

/// Hands a ring over as it stands; returns its kick and call descriptors.
fn start_ring(frontend: &mut Frontend, index: usize, ring: &Ring, is_packed: bool) -> Result<[EventFd; 2]> {
    let (kick, call) = (EventFd::new(0)?, EventFd::new(0)?);
    let (desc_table_addr, avail_ring_addr, used_ring_addr) = ring.user_addresses();
    let (size, flags, log_addr) = (ring.size(), 0, None);
    frontend.set_vring_num(index, size)?;
    // As QEMU does after a loss of the backend, which could not be asked: of a packed ring it knows where it began.
    frontend.set_vring_base(index, if is_packed { 0x8000 } else { ring.used_index() })?;
    let addresses = VringConfigData {
        queue_max_size: size,
        queue_size: size,
        flags,
        desc_table_addr,
        used_ring_addr,
        avail_ring_addr,
        log_addr,
    };
    frontend.set_vring_addr(index, &addresses)?;
    frontend.set_vring_call(index, &call)?;
    // In this order, as QEMU does: what is sent on a ring that is started and not enabled must be thrown away.
    frontend.set_vring_enable(index, true)?;
    frontend.set_vring_kick(index, &kick)?;
    Ok([kick, call])
}

/// The longest that culvertd may take for an answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Feature bits: virtio 1.3, 5.1.3 and 6; 30 is vhost-user's.
const MRG_RXBUF: u64 = 1 << 15;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;
const RING_PACKED: u64 = 1 << 34;

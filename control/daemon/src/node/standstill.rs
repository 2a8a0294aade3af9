//! The daemon's part when another culvertd takes over ([`crate::takeover`]). The old one stands still and gives everything that the next
//! one needs into the supervisor's keeping; it goes on where it was if the other does not. The next one finds it there.
//!
//! The supervisor says by a signal that it wants something, and is asked what: so a stray signal does nothing.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use culvert_switch::PortTotals;
use culvert_vhost::Standstill;
use tokio::signal::unix::Signal;

use super::live::{Keeper, LiveNode};
use crate::broker::message::Wish;
use crate::broker::{Broker, CONNECTION};
use crate::listening_socket::{BindError, ListeningSocket, Purpose};
use crate::name::Name;
use crate::takeover::state::{CONTROL_SOCKET, Identity, LISTENER, LOCK, STATE, State};
use crate::takeover::step;

/// What the last daemon has told this one, until it is used.
#[derive(Debug, Default)]
pub(super) struct Inherited(Mutex<State>);

impl Inherited {
    /// What the last daemon has left at the supervisor. What cannot be read is told and left.
    pub fn take(broker: &Broker) -> Self {
        let state = broker.take(STATE).and_then(|mut files| files.pop().map(State::from_file).transpose());
        let state = state.unwrap_or_else(|error| {
            tracing::warn!("counters begin at zero, for those of the last daemon cannot be read: {error}");
            None
        });
        Self(Mutex::new(state.unwrap_or_default()))
    }

    /// What a port has counted so far; once.
    pub fn totals(&self, port: &Name) -> Option<PortTotals> {
        self.state().ports.remove(port.as_str()).map(PortTotals::from)
    }

    /// Device and inode of the name of a port's socket.
    pub fn listener(&self, port: &Name) -> Option<(u64, u64)> {
        self.state().listeners.get(port.as_str()).map(|&Identity { device, inode }| (device, inode))
    }

    /// Those of the control socket.
    fn control_socket(&self) -> Option<(u64, u64)> {
        self.state().control_socket.map(|Identity { device, inode }| (device, inode))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what the supervisor wants, each time that `signal` comes.
pub async fn attend(mut signal: Signal, node: Arc<LiveNode>, control: Arc<ListeningSocket>) {
    let mut go_on = None;
    while signal.recv().await.is_some() {
        let asked = Arc::clone(&node);
        let wish = tokio::task::spawn_blocking(move || asked.broker.asked()).await;
        match wish {
            Ok(Ok(Wish::Freeze)) if go_on.is_none() => {
                let (sender, receiver) = std::sync::mpsc::channel();
                go_on = Some(sender);
                let (node, control) = (Arc::clone(&node), Arc::clone(&control));
                tokio::task::spawn_blocking(move || node.stand_still(&control, &receiver));
            }
            Ok(Ok(Wish::Freeze)) => {}
            // Whoever stands still goes on when this end has gone.
            Ok(Ok(Wish::Thaw | Wish::Nothing)) => go_on = None,
            Ok(Err(error)) => tracing::error!("the supervisor does not say what it wants: {error}"),
            Err(error) => tracing::error!("the supervisor's wish is not heard: {error}"),
        }
    }
}

impl LiveNode {
    /// Stands still until the other end of `go_on` has gone.
    fn stand_still(&self, control: &ListeningSocket, go_on: &Receiver<()>) {
        // No change of a client comes between.
        let journal = self.journal();
        // It may have lasted until nobody waits any more.
        if go_on.try_recv() == Err(TryRecvError::Disconnected) {
            return;
        }
        step::reached("old-daemon-asked");
        let start = Instant::now();
        let Some((standstill, still)) = self.server.stand_still(SETTLING) else { return };
        let outcome = self.give(standstill, control, &journal);
        let stands = outcome.is_ok();
        match &outcome {
            Ok(()) => tracing::info!(after = ?start.elapsed(), "another culvertd takes over: this one stands still"),
            Err(reason) => tracing::error!("another culvertd cannot take over: {reason}"),
        }
        step::reached("old-daemon-still");
        if let Err(error) = self.broker.frozen(outcome) {
            tracing::error!("another culvertd cannot take over: {error}");
        } else if stands {
            step::reached("old-daemon-told");
            // Ends with an error when it is to go on.
            let _ = go_on.recv();
        }
        drop(still);
        if let Err(error) = self.datapath.release() {
            tracing::error!("frames do not go on: {error}");
        }
        self.forget_handed_over();
        if stands {
            tracing::warn!(after = ?start.elapsed(), "the other culvertd did not take over: this one goes on");
        }
    }

    /// Gives everything into the supervisor's keeping, and has workers leave frames where they are.
    fn give(&self, standstill: Standstill, control: &ListeningSocket, journal: &Keeper) -> Result<(), String> {
        let Standstill { listeners, connections, lost } = standstill;
        for (port, reason) in lost {
            tracing::warn!(port, "the guest has to connect again after the takeover: {reason}");
        }
        for (port, descriptors) in connections {
            if let Err(error) = self.broker.store(&format!("{CONNECTION}{port}"), &descriptors) {
                tracing::warn!(port, "the guest has to connect again after the takeover: {error}");
            }
        }
        let mut state = State::default();
        for listener in listeners {
            let name = format!("{LISTENER}{}", listener.port);
            self.store(&name, listener.socket)?;
            state.listeners.insert(listener.port, identity(listener.identity));
        }
        let (socket, of_socket) = control.copy().map_err(|error| error.to_string())?;
        self.store(CONTROL_SOCKET, socket)?;
        state.control_socket = Some(identity(of_socket));
        if let Some(lock) = journal.copy_lock() {
            self.store(LOCK, lock.map_err(|error| error.to_string())?)?;
        }
        self.keep_addresses();
        // Here the gap begins.
        self.datapath.hold().map_err(|error| error.to_string())?;
        for (port, totals) in self.all_totals() {
            state.ports.insert(port, (&totals).into());
        }
        self.store(STATE, state.into_file().map_err(|error| error.to_string())?)
    }

    fn store(&self, name: &str, descriptor: OwnedFd) -> Result<(), String> {
        self.broker.store(name, &[descriptor]).map_err(|error| format!("{name} is not kept: {error}"))
    }

    /// Has the supervisor close what only another daemon needs.
    pub(super) fn forget_handed_over(&self) {
        let ports = self.wanted();
        let listeners = ports.ports.iter().map(|port| format!("{LISTENER}{}", port.wanted.name));
        let others = [CONTROL_SOCKET, LOCK, STATE].map(str::to_owned);
        for name in listeners.chain(others) {
            if let Err(error) = self.broker.forget(&name) {
                tracing::warn!("the supervisor keeps {name}: {error}");
            }
        }
    }
}

/// The control socket of the last daemon; one made anew, for `group`, if it has handed over none.
///
/// # Errors
/// There is none, and none can be made.
pub(super) fn control_socket(
    broker: &Broker,
    inherited: &Inherited,
    path: &Path,
    group: Option<u32>,
) -> Result<ListeningSocket, BindError> {
    let handed = inherited.control_socket().zip(broker.take(CONTROL_SOCKET).unwrap_or_default().pop());
    if let Some((identity, socket)) = handed {
        match ListeningSocket::adopt(path, Purpose::Control, socket, identity) {
            Ok(socket) => return Ok(socket),
            Err(error) => tracing::warn!("{error}; it is made anew"),
        }
    }
    ListeningSocket::bind_patiently(path, Purpose::Control, group)
}

fn identity((device, inode): (u64, u64)) -> Identity {
    Identity { device, inode }
}

/// How long dialogues with frontends may take to come to their ends. Frames pass meanwhile.
const SETTLING: Duration = Duration::from_millis(500);

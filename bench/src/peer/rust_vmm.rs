//! The reference: what the crates of rust-vmm give to whoever writes a backend with them as their documentation shows,
//! vhost-user-backend's vrings behind locks and virtio-queue's chains with readers and writers. It polls, as the other
//! peers do, passes what comes from one guest to the other, and copies twice.
//!
//! It is this program once more, as a process of its own: `culvert-bench rust-vmm`.

use std::io::{Read, Write};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use culvert_system::console::Console;
use tempfile::TempDir;
use vhost::vhost_user::{Listener, VhostUserProtocolFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringState, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::{Running, Setup};
use crate::core_to_core;

/// The backend, as a process.
#[derive(Args)]
pub struct Options {
    /// The core that polls.
    #[arg(long)]
    core: usize,
    /// The sockets of both guests.
    #[arg(num_args = 2)]
    sockets: Vec<PathBuf>,
}

/// A running backend, and its sockets' folder.
pub struct Process {
    console: Console,
    _folder: TempDir,
}

/// Starts one for two guests.
pub fn start(setup: &Setup) -> Result<(Vec<PathBuf>, Running)> {
    ensure!(setup.guests == 2 && setup.nics.is_empty(), "the rust-vmm backend joins two guests, no more");
    let folder = TempDir::new()?;
    let sockets = ["a", "b"].map(|name| folder.path().join(name));
    let mut arguments = vec!["rust-vmm".to_owned(), "--core".to_owned(), setup.core().to_string()];
    arguments.extend(sockets.iter().map(|socket| socket.display().to_string()));
    let mut console = Console::start("rust-vmm", std::env::current_exe()?, &arguments)?;
    console.wait_for(READY, LIMIT)?;
    Ok((sockets.to_vec(), Running::RustVmm(Process { console, _folder: folder })))
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.console.pid()
    }

    pub fn explain(&self) -> String {
        self.console.last_words()
    }
}

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Vring = VringRwLock<Memory>;

/// What the polling thread knows of a guest: its memory and rings, once its first kick has come.
type Shared = Arc<Mutex<Option<(Memory, Vec<Vring>)>>>;

/// The backend of one guest.
struct Backend {
    memory: Memory,
    shared: Shared,
}

/// Serves two guests until the process is ended.
pub fn run(options: &Options) -> Result<()> {
    let mut guests = Vec::new();
    let mut daemons = Vec::new();
    for socket in &options.sockets {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let shared = Shared::default();
        let backend = Arc::new(RwLock::new(Backend { memory: memory.clone(), shared: shared.clone() }));
        let daemon = VhostUserDaemon::new("rust-vmm".to_owned(), backend, memory).map_err(told)?;
        daemons.push((daemon, Listener::new(socket, true)?));
        guests.push(shared);
    }
    println!("{READY}");
    for (daemon, listener) in &mut daemons {
        daemon.start(listener).map_err(told)?;
    }
    core_to_core::bind(options.core);
    let mut buffer = vec![0; 65_562];
    loop {
        for (from, to) in [(0, 1), (1, 0)] {
            let known = |guest: usize| -> Option<(Memory, Vec<Vring>)> {
                guests.get(guest)?.lock().unwrap_or_else(PoisonError::into_inner).clone()
            };
            let (Some((from_memory, from)), Some((to_memory, to))) = (known(from), known(to)) else { continue };
            let (Some(transmit), Some(receive)) = (from.get(1), to.first()) else { continue };
            pass(&mut transmit.get_mut(), &from_memory, &mut receive.get_mut(), &to_memory, &mut buffer)?;
        }
    }
}

fn told(error: vhost_user_backend::Error) -> anyhow::Error {
    anyhow!("vhost-user-backend: {error}")
}

/// Passes on a burst.
fn pass(
    transmit: &mut VringState<Memory>,
    from: &Memory,
    receive: &mut VringState<Memory>,
    to: &Memory,
    buffer: &mut [u8],
) -> Result<()> {
    let (from, to) = (from.memory(), to.memory());
    let mut passed = [false; 2];
    for _ in 0..BURST {
        let Some(chain) = transmit.get_queue_mut().pop_descriptor_chain(from.clone()) else { break };
        let head = chain.head_index();
        let mut reader = chain.reader(from.deref())?;
        let length = reader.available_bytes().min(buffer.len());
        let Some(frame) = buffer.get_mut(..length) else { break };
        reader.read_exact(frame)?;
        transmit.add_used(head, 0)?;
        passed[0] = true;
        // Frames for which the receiver has no buffer are lost.
        let Some(chain) = receive.get_queue_mut().pop_descriptor_chain(to.clone()) else { continue };
        let head = chain.head_index();
        let mut writer = chain.writer(to.deref())?;
        // The header says that the frame takes one buffer (virtio 1.3, 5.1.6.4).
        if let Some(buffers) = frame.get_mut(10..12) {
            buffers.copy_from_slice(&1_u16.to_le_bytes());
        }
        writer.write_all(frame)?;
        receive.add_used(head, u32::try_from(length)?)?;
        passed[1] = true;
    }
    for (ring, passed) in [transmit, receive].into_iter().zip(passed) {
        if passed && ring.needs_notification()? {
            ring.signal_used_queue()?;
        }
    }
    Ok(())
}

impl VhostUserBackendMut for Backend {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        VERSION_1 | MRG_RXBUF | PROTOCOL_FEATURES
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ
    }

    fn set_event_idx(&mut self, _: bool) {}

    fn update_memory(&mut self, memory: Memory) -> std::io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    /// A kick tells where the rings are; from then on they are polled, and no guest is asked for kicks.
    fn handle_event(&mut self, _: u16, _: EventSet, vrings: &[Vring], _: usize) -> std::io::Result<()> {
        for vring in vrings {
            // Of a ring that is not set up yet, for which another event comes. An error would end the thread that looks for kicks.
            let _ = vring.disable_notification();
        }
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Some((self.memory.clone(), vrings.to_vec()));
        Ok(())
    }
}

/// Feature bits: virtio 1.3, 5.1.3 and 6; 30 is vhost-user's.
const MRG_RXBUF: u64 = 1 << 15;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;

/// Frames that are taken from a guest at once.
const BURST: usize = 32;

const READY: &str = "ready";

const LIMIT: Duration = Duration::from_secs(30);

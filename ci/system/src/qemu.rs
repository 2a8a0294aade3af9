//! A guest in QEMU with one network device.
//!
//! It is emulated (tcg), so that the tests behave alike on every machine, with or without KVM.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::console::Console;
use crate::guest::{Guest, mac};
use crate::paths::guest_file;
use crate::place::Place;

/// What kind of guest to start. Begin with [`GuestOptions::new`].
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// Its name in messages.
    pub name: String,
    /// The socket of its network device; with [`Transport::Tap`] the interface's name.
    pub socket: PathBuf,
    /// What is spoken on it.
    pub transport: Transport,
    /// Who creates the socket.
    pub role: Role,
    /// The virtio version that the device speaks.
    pub virtio: Virtio,
    /// Queue pairs; the guest gets as many processors.
    pub queues: u16,
    /// Which guest of the test it is; see [`Guest`] for its addresses.
    pub number: u8,
    /// Further properties of the network device, such as `csum=off,mrg_rxbuf=off`.
    pub properties: String,
    /// Has the programs of the larger image as well.
    pub tools: bool,
    /// Where QEMU runs.
    pub place: Place,
    /// With [`Role::Listen`]: QEMU waits for culvertd's socket, and connects again after a loss; otherwise it ends where there is none.
    pub reconnect: bool,
    /// The socket of QEMU's monitor, see [`Monitor`](crate::qmp::Monitor).
    pub monitor: Option<PathBuf>,
    /// How the guest begins.
    pub start: Start,
}

impl GuestOptions {
    /// One modern queue pair, culvertd listening.
    pub fn new(name: &str, socket: &Path, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            socket: socket.to_owned(),
            transport: Transport::VhostUser,
            role: Role::Listen,
            virtio: Virtio::Modern,
            queues: 1,
            number,
            properties: String::new(),
            tools: false,
            place: Place::default(),
            reconnect: true,
            monitor: None,
            start: Start::Boot,
        }
    }

    /// Starts QEMU and returns before the guest has booted.
    ///
    /// # Errors
    /// QEMU or the guest image is missing.
    pub fn boot(&self) -> Result<Guest> {
        Ok(Guest::new(&self.name, self.number, self.launch()?))
    }

    /// Starts QEMU; what the guest prints, once it is there, comes on the console.
    ///
    /// # Errors
    /// QEMU or the guest image is missing.
    pub fn launch(&self) -> Result<Console> {
        Console::start_in(&self.place, &self.name, "qemu-system-x86_64", &arguments(self)?)
    }
}

/// How a guest begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It boots.
    Boot,
    /// It comes from another QEMU, once the monitor was told from where, and runs as it did there.
    Arrive,
    /// The same, but it stands still until the monitor is told otherwise.
    ArrivePaused,
}

/// What is spoken on the socket of a guest's network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The guest's rings are shared.
    VhostUser,
    /// Frames, each after its length in four bytes (`-netdev stream`); one queue pair, and nobody but the other side listens.
    Stream,
    /// A tap device of the kernel's, which is there already; one queue pair.
    Tap,
}

/// Who creates the socket, seen from culvertd, as in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// culvertd; QEMU connects, and connects again every second after a loss.
    Listen,
    /// QEMU.
    Connect,
}

impl Role {
    /// The value of culvertd's key `role`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Connect => "connect",
        }
    }
}

/// The virtio version that a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtio {
    /// 1.0 and later.
    Modern,
    /// 0.9.5 only (`disable-modern=on`).
    Legacy,
}

/// QEMU's command line.
fn arguments(options: &GuestOptions) -> Result<Vec<String>> {
    let GuestOptions { queues, number, .. } = options;
    let mac = mac(*number);
    let socket = options.socket.display();
    let role = match options.role {
        Role::Listen if options.reconnect => ",reconnect-ms=1000",
        Role::Listen => "",
        Role::Connect => ",server=on",
    };
    let virtio = match options.virtio {
        Virtio::Modern => "disable-legacy=on",
        Virtio::Legacy => "disable-modern=on",
    };
    // Where there can only be one processor, the emulator leaves out the barriers of the guest's locked instructions. Its driver and the
    // backend need them to agree on who sleeps: without them a notification is lost now and then, and the queue stands still.
    let processors = (*queues).max(2);
    // Each queue pair has two interrupts, the device two more.
    let multi = if *queues > 1 { format!(",mq=on,vectors={}", 2 * queues + 2) } else { String::new() };
    let further = if options.properties.is_empty() { String::new() } else { format!(",{}", options.properties) };
    let (kernel, initrd) =
        (guest_file("vmlinuz")?, guest_file(if options.tools { "tools.cpio" } else { "initrd.cpio" })?);
    // The kernel holds the image twice while it unpacks it.
    let memory = if options.tools { 512 } else { 256 };
    let netdev = match options.transport {
        Transport::VhostUser => format!(
            "-chardev socket,id=vhost,path={socket}{role} -netdev vhost-user,id=net,chardev=vhost,queues={queues}"
        ),
        Transport::Stream => {
            format!("-netdev stream,id=net,server=off,reconnect-ms=1000,addr.type=unix,addr.path={socket}")
        }
        Transport::Tap => format!("-netdev tap,id=net,ifname={socket},script=no,downscript=no,vhost=off"),
    };
    // With no_timer_check the kernel does not take a processor that others hold up for one whose timer is broken, over which it panics.
    let line = format!(
        "-accel tcg -cpu max -machine pc -smp {queues},maxcpus={processors} -m {memory} -nodefaults -no-user-config -no-reboot -display none \
         -append console=ttyS0\u{a0}quiet\u{a0}panic=-1\u{a0}no_timer_check -chardev stdio,id=console,signal=off -serial chardev:console \
         -object memory-backend-memfd,id=memory,size={memory}M,share=on -numa node,memdev=memory \
         {netdev} -device virtio-net-pci,netdev=net,mac={mac},romfile=,{virtio}{multi}{further}"
    );
    let mut arguments: Vec<String> = line.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
    if let Some(monitor) = &options.monitor {
        arguments.extend(["-qmp".to_owned(), format!("unix:{},server=on,wait=off", monitor.display())]);
    }
    arguments.extend(match options.start {
        Start::Boot => vec![],
        Start::Arrive => vec!["-incoming".to_owned(), "defer".to_owned()],
        Start::ArrivePaused => vec!["-incoming".to_owned(), "defer".to_owned(), "-S".to_owned()],
    });
    arguments.extend(["-kernel".to_owned(), kernel.display().to_string()]);
    arguments.extend(["-initrd".to_owned(), initrd.display().to_string()]);
    Ok(arguments)
}

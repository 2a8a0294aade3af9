//! C6: what a pod, or chance, puts in the place of files, all the time, while culvertd binds, chmods, chowns, writes and unlinks.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::frontend::FrontendGuest;

use crate::case::Part;
use crate::client::{Client, guest_port, pod_port};
use crate::field::Field;

/// Things of the node's that a pod wants to reach: a file, a container runtime's socket, a folder.
struct Outside {
    file: PathBuf,
    socket: PathBuf,
    folder: PathBuf,
    listener: UnixListener,
    before: Vec<String>,
}

impl Outside {
    fn new(place: &Path) -> Result<Self> {
        let outside = place.join("outside");
        let (file, socket, folder) = (outside.join("file"), outside.join("runtime.sock"), outside.join("folder"));
        fs::create_dir_all(&folder)?;
        fs::write(&file, "untouched")?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
        let mut made = Self { file, socket, folder, listener, before: Vec::new() };
        made.before = made.look()?;
        Ok(made)
    }

    /// Asserts that all is as it was, and that nobody has connected.
    fn check(&self) -> Result<()> {
        let now = self.look()?;
        ensure!(now == self.before, "what is outside was touched: {now:?}, before {:?}", self.before);
        ensure!(self.listener.accept().is_err(), "culvertd has connected to a socket outside");
        Ok(())
    }

    fn look(&self) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        for path in [&self.file, &self.socket, &self.folder] {
            let status = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
            seen.push(format!("{} {}:{} {:o}", status.ino(), status.uid(), status.gid(), status.mode()));
        }
        seen.push(fs::read_to_string(&self.file)?);
        seen.push(format!(
            "{:?}",
            fs::read_dir(&self.folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Vec<_>>()
        ));
        Ok(seen)
    }
}

/// What may be in the place of a name.
type Swap = fn(&Path, &Outside) -> Result<()>;

const SWAPS: [Swap; 8] = [
    |path, outside| Ok(symlink(&outside.file, path)?),
    |path, outside| Ok(symlink(&outside.socket, path)?),
    |path, outside| Ok(fs::hard_link(&outside.file, path)?),
    |path, outside| Ok(fs::hard_link(&outside.socket, path)?),
    |path, outside| Ok(symlink(outside.folder.join("made"), path)?),
    |path, _| fifo(path),
    |path, _| Ok(fs::write(path, "the pod's")?),
    |path, _| {
        // A socket of the pod's own, bound under another name, on which nobody listens.
        let other = path.with_extension("other");
        let _ = fs::remove_file(&other);
        drop(UnixListener::bind(&other)?);
        Ok(fs::rename(other, path)?)
    },
];

fn fifo(path: &Path) -> Result<()> {
    Ok(rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)?)
}

fn clear(path: &Path) {
    // Whichever it is, if it is anything.
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
}

/// Does `work` again and again for some time while another thread does `swaps`, one after the other.
fn race(full: bool, swaps: impl Fn(usize) + Sync, mut work: impl FnMut() -> Result<()>) -> Result<u32> {
    let time = Duration::from_millis(if full { 20_000 } else { 1500 });
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                swaps(number);
                // Others have work to do, too; never the same time twice.
                thread::sleep(Duration::from_micros(20 + 37 * (u64::try_from(number).unwrap_or(0) % 11)));
            }
        });
        let begin = Instant::now();
        let mut rounds = 0;
        let result = loop {
            if begin.elapsed() > time && rounds >= 10 {
                break Ok(rounds);
            }
            if let Err(error) = work() {
                break Err(error);
            }
            rounds += 1;
        };
        end.store(true, Ordering::Relaxed);
        result
    })
}

/// A folder of the case's own.
fn place(field: &mut Field) -> PathBuf {
    let name = field.victim();
    field.node().path(&name)
}

pub(super) fn sockets(field: &mut Field) -> Result<()> {
    field.exempt(Part::Log, "a port that cannot be opened is told of, and how often is chance");
    let outside = Outside::new(&place(field))?;
    let root = place(field).join("pods/a");
    fs::create_dir_all(&root)?;
    let mut client = Client::connect(&field.control_socket())?;
    for role in ["listen", "connect"] {
        let socket = root.join("vm.sock");
        let swap = |number: usize| {
            clear(&socket);
            if let Some(swap) = SWAPS.get(number % (SWAPS.len() + 1)) {
                let _ = swap(&socket, &outside);
            }
        };
        race(field.is_full(), swap, || {
            client.add_port("swapped", pod_port(&root, "vm.sock", role))?;
            client.remove_port("swapped")?;
            outside.check().context(role)
        })?;
        clear(&socket);
        outside.check().context(role)?;
    }
    // What the pod has left alone works.
    client.add_port("swapped", pod_port(&root, "vm.sock", "listen"))?;
    drop(FrontendGuest::connect(&root.join("vm.sock"), Shape::default())?);
    client.remove_port("swapped")?;
    outside.check()
}

pub(super) fn folders(field: &mut Field) -> Result<()> {
    field.exempt(Part::Log, "a port that cannot be opened is told of, and how often is chance");
    let outside = Outside::new(&place(field))?;
    let root = place(field).join("pods/a");
    let (inner, aside) = (root.join("inner"), root.join("aside"));
    fs::create_dir_all(&aside)?;
    let mut client = Client::connect(&field.control_socket())?;
    let swap = |number: usize| {
        clear(&inner);
        match number % 6 {
            0 => drop(fs::create_dir(&inner)),
            1 => drop(symlink(&outside.folder, &inner)),
            2 => drop(symlink("/", &inner)),
            3 => drop(symlink("../../../outside/folder", &inner)),
            4 => drop(fs::rename(&aside, &inner).and_then(|()| fs::create_dir(&aside))),
            _ => {}
        }
    };
    race(field.is_full(), swap, || {
        client.add_port("swapped", pod_port(&root, "inner/vm.sock", "listen"))?;
        client.remove_port("swapped")?;
        outside.check()
    })?;
    clear(&inner);
    client.add_port("swapped", pod_port(&root, "inner/vm.sock", "listen"))?;
    drop(FrontendGuest::connect(&inner.join("vm.sock"), Shape::default())?);
    client.remove_port("swapped")?;
    outside.check()
}

pub(super) fn journal(field: &mut Field) -> Result<()> {
    let outside = Outside::new(&place(field))?;
    let state = field.node().path("state");
    let guest = field.node().path("swapped.sock");
    let mut client = Client::connect(&field.control_socket())?;
    let (mut kept, mut refused) = (0, 0);
    let swap = |number: usize| {
        let path =
            state.join(["journal", "journal.new", "lock", "journal.damaged"].get(number % 4).unwrap_or(&"journal"));
        match number % 9 {
            // A folder is not to be removed by unlink, nor to be renamed over.
            8 => drop(fs::create_dir(&path)),
            place => {
                clear(&path);
                if let Some(swap) = SWAPS.get(place) {
                    let _ = swap(&path, &outside);
                }
            }
        }
    };
    race(field.is_full(), swap, || {
        for change in [client.add_port("swapped", guest_port(&guest)), client.remove_port("swapped")] {
            match change {
                Ok(_) => kept += 1,
                Err(status) => {
                    ensure!(status.message().contains("the journal cannot be written"), "{status}");
                    refused += 1;
                }
            }
        }
        outside.check()
    })?;
    ensure!(kept > 0 && refused > 0, "{kept} changes were kept, {refused} refused: too tame");
    for name in ["journal", "journal.new", "journal.damaged", "journal.other", "lock", "lock.other"] {
        clear(&state.join(name));
    }
    client.remove_port("swapped")?;
    client.add_port("swapped", guest_port(&guest))?;
    let status = fs::symlink_metadata(state.join("journal"))?;
    ensure!(status.file_type().is_file() && status.mode() & 0o777 == 0o600, "the journal is {status:?}");
    ensure!(
        fs::read_to_string(state.join("journal"))?.contains("name = \"swapped\""),
        "the journal has not what was answered"
    );
    ensure!(fs::symlink_metadata(&guest)?.file_type().is_socket(), "the port has no socket");
    client.remove_port("swapped")?;
    outside.check()
}

/// Mounts and unmounts, for other cases as well.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

//! Tests that need a process to themselves: EAL starts once in each, and some are another user's or have a network
//! of their own. A test of that kind runs its own program again, for itself alone, and looks at the result.
#![allow(dead_code, reason = "each test program uses a part")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

use culvert_nic::{Batch, Eal, EalConfig, Mbuf, Pool, PoolConfig, Port, PortConfig};

/// What the process of a test's own is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As the tests are.
    Same,
    /// User `nobody` without capabilities, if the tests run as root.
    OrdinaryUser,
    /// In a network namespace of its own, where only `lo` is; needs root.
    OwnNetwork,
}

const MARK: &str = "CULVERT_TEST_PROCESS";
static TURN: Mutex<()> = Mutex::new(());
const NOBODY: u32 = 65534;

/// Whether this is a process of a test's own.
pub fn is_own() -> bool {
    env::var_os(MARK).is_some()
}

/// True in the process that is `test`'s own. Elsewhere it starts that process, fails if it failed, and gives false.
pub fn own(test: &str, kind: Kind) -> bool {
    if env::var(MARK).is_ok_and(|name| name == test) {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = folder.path().join("test");
    let mut command = Command::new(&program);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(MARK, test).env("TMPDIR", folder.path()).env_remove("XDG_RUNTIME_DIR").current_dir(folder.path());
    let root = rustix::process::getuid().is_root();
    match kind {
        Kind::OrdinaryUser if root => {
            command.uid(NOBODY).gid(NOBODY);
        }
        Kind::OwnNetwork => {
            assert!(root, "{test} needs root");
            // SAFETY: unshare is a system call and touches no memory.
            unsafe {
                command.pre_exec(|| match libc::unshare(libc::CLONE_NEWNET) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                })
            };
        }
        _ => {}
    }
    let child = {
        // A program cannot be run while it is open for writing, as it would be in a child of another thread.
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // A copy, as the program may lie where only root can go.
        fs::copy(env::current_exe().unwrap(), &program).unwrap();
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let output = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}", output.status);
    // Why it cannot start, EAL writes to standard error as well.
    let stray = |line: &str| line.starts_with("EAL:") && !line.starts_with("EAL: FATAL:");
    assert!(!text.lines().any(stray), "DPDK writes past our log:\n{text}");
    false
}

/// EAL with 64 MiB in ordinary pages.
pub fn start() -> Eal {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let main_core = (0..1024).find(|core| allowed.is_set(*core)).unwrap();
    let hugepages = culvert_nic::Hugepages::Never;
    Eal::start(&EalConfig { memory_mb: 64, main_core, hugepages, ..EalConfig::default() }).unwrap()
}

/// A pool of 4096 buffers.
pub fn pool(eal: &Eal) -> Pool {
    Pool::create(eal, &PoolConfig { buffers: Some(4096), ..PoolConfig::default() }).unwrap()
}

/// A port with one queue each way.
pub fn open(eal: &Eal, pool: &Pool, device: &str) -> Port {
    Port::open(eal, pool, &config(device)).unwrap()
}

pub fn config(device: &str) -> PortConfig {
    PortConfig { name: "uplink0".to_owned(), device: device.to_owned(), ..PortConfig::default() }
}

/// A frame of `content`.
pub fn frame(pool: &Pool, content: &[u8]) -> Mbuf {
    let mut frame = pool.allocate(u32::try_from(content.len()).unwrap()).unwrap();
    let mut rest = content;
    for segment in frame.segments_mut() {
        let (now, later) = rest.split_at(segment.len());
        segment.copy_from_slice(now);
        rest = later;
    }
    assert!(rest.is_empty());
    frame
}

/// The content of a frame.
pub fn content(frame: &Mbuf) -> Vec<u8> {
    let bytes: Vec<u8> = frame.segments().flatten().copied().collect();
    assert_eq!(bytes.len(), frame.length() as usize);
    assert_eq!(frame.segments().count(), usize::from(frame.segment_count()));
    bytes
}

/// The contents of the frames of a batch, which is emptied.
pub fn contents(frames: &mut Batch) -> Vec<Vec<u8>> {
    let all = frames.iter().map(content).collect();
    frames.clear();
    all
}

/// A broadcast of `length` bytes whose payload depends on `number`.
pub fn broadcast(number: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, number, 0x88, 0xb5]);
    bytes.extend((bytes.len()..length).map(|index| number.wrapping_add((index % 251) as u8)));
    bytes.truncate(length);
    bytes
}

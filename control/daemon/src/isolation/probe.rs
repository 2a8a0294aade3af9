//! For tests only (feature `inject`): does what is forbidden, on a thread of each kind, and logs how it ended. ci/system's `isolation`
//! test knows what must fail. `CULVERT_INJECT=probe`; `probe-never` does what ends the process.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::process::Pid;

use super::{Isolation, Kind};

/// Does what is asked for.
pub fn run(isolation: &Isolation) {
    // getppid() is no call of ours.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    let supervisor = parent.and_then(Pid::from_raw);
    if culvert_worker::inject::wished("probe").is_some() {
        for kind in [Kind::Control, Kind::DevicePlugin, Kind::Dpdk, Kind::Log, Kind::Vhost, Kind::Worker] {
            if let Err(error) = isolation.confined(kind, || acts(kind, supervisor)) {
                tracing::error!("probe {kind:?}: {error:#}");
            }
        }
        tracing::info!("probes have ended");
    }
    if culvert_worker::inject::wished("probe-never").is_some() {
        let result = rustix::process::chroot("/");
        tracing::error!("probe: chroot has returned {result:?}");
    }
}

fn acts(kind: Kind, supervisor: Option<Pid>) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let packets = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).map_err(io::Error::from);
    let path = rustix::fs::openat(CWD, "/etc/passwd", OFlags::PATH, Mode::empty());
    // Nothing changes where it is permitted.
    let owner = rustix::fs::chownat(CWD, "/etc/passwd", Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::empty());
    let made = format!("/var/tmp/culvert-probe-{kind:?}");
    let acts: [(&str, io::Result<()>); 9] = [
        ("read", File::open("/etc/passwd").map(drop)),
        ("make", File::create_new(&made).and_then(|_| std::fs::remove_file(&made))),
        ("elsewhere", path.map(drop).map_err(io::Error::from)),
        ("chown", owner.map_err(io::Error::from)),
        ("run", Command::new("/bin/true").spawn().and_then(|mut child| child.wait()).map(drop)),
        ("tcp", TcpListener::bind("127.0.0.1:0").map(drop)),
        ("packets", packets.map(drop)),
        ("unix", UnixDatagram::unbound().map(drop)),
        ("signal", supervisor.map_or(Ok(()), rustix::process::test_kill_process).map_err(io::Error::from)),
    ];
    for (act, result) in acts {
        let end = result.map_or_else(
            |error| error.raw_os_error().map_or_else(|| error.to_string(), |number| number.to_string()),
            |()| "done".to_owned(),
        );
        tracing::info!("probe {kind:?} {act}: {end}");
    }
}

//! A process at its limit of open files: frontends wait or are closed, and nothing is lost when there is room again.
//! Alone in its process, because it sets the limit. hostile P9
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use culvert_vhost::{Backend, PortKey, PortSocket, Role, Server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::request::*;
use support::*;

#[test]
fn a_full_descriptor_table_is_waited_out() {
    let workers = Arc::new(FakeWorkers::default());
    let server = Server::start(Arc::clone(&workers) as Arc<dyn Backend>, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |port: u32| folder.path().join(format!("{port}.sock"));
    for port in 0..2 {
        let (role, name) = (Role::Listen, format!("vm-{port}"));
        server
            .add(PortSocket {
                port: PortKey(port),
                name,
                place: path(port).into(),
                role,
                device: CONFIG,
                records: None,
            })
            .unwrap();
    }
    let served = UnixStream::connect(path(0)).unwrap();
    let ask = |stream: &UnixStream| {
        send(stream, &good(GET_FEATURES, 0)).unwrap();
        read_number(stream)
    };
    assert_eq!(ask(&served).unwrap(), CONFIG.offered());
    let call = good(SET_VRING_CALL, 0);
    let client = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();

    // The first three are taken by every process: nothing can be opened from here on.
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..usual }).unwrap();
    // An existing connection goes on; a descriptor that cannot be taken closes it; a new frontend is not accepted.
    let address = rustix::net::SocketAddrUnix::new(path(1)).unwrap();
    rustix::net::connect(&client, &address).unwrap();
    let new = UnixStream::from(client);
    send(&new, &good(GET_FEATURES, 0)).unwrap();
    // When this is answered, the event of the new frontend, which is older, has been dealt with.
    assert_eq!(ask(&served).unwrap(), CONFIG.offered());
    send(&served, &call).unwrap();
    assert!(is_closed(&served));

    // There is room again.
    setrlimit(Resource::Nofile, usual).unwrap();
    assert_eq!(read_number(&new).unwrap(), CONFIG.offered());
    let again = UnixStream::connect(path(0)).unwrap();
    assert_eq!(ask(&again).unwrap(), CONFIG.offered());
}

//! Descriptors, threads and mappings do not add up, whatever a frontend sends. Alone in its process, because it counts
//! what the process has open. hostile V4, V9, V16
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use culvert_vhost::{Backend, PortKey, PortSocket, Role, Server, SocketState};
use support::request::*;
use support::*;

fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:guest")).count()
}

#[test]
fn nothing_adds_up() {
    let workers = Arc::new(FakeWorkers::default());
    let server = Server::start(Arc::clone(&workers) as Arc<dyn Backend>, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vhost.sock");
    let (port, name, role) = (PortKey(1), "vm".to_owned(), Role::Listen);
    server.add(PortSocket { port, name, place: path.clone().into(), role, device: CONFIG, records: None }).unwrap();
    let baseline = open_descriptors();
    let settled = |what: &str| {
        wait_until("the end of the last session", || server.state(port) == Some(SocketState::Waiting));
        wait_until(what, || open_descriptors() == baseline && mappings() == 0);
        assert!(workers.record().running.is_empty());
    };

    // Each request, with each count of descriptors; most close the connection.
    for request in 0..46 {
        for count in [0, 1, 2, 8, 9, 253] {
            let client = UnixStream::connect(&path).unwrap();
            for message in dialogue_to_running() {
                send(&client, &message).unwrap();
            }
            let mut hostile = good(request, NEED_REPLY);
            hostile.descriptors = (0..count).map(|_| eventfd()).collect();
            // The server may close before all is sent.
            let _ = send(&client, &hostile);
            let _ = send(&client, &good(GET_FEATURES, NEED_REPLY));
            while !is_closed(&client) {
                if client.shutdown(std::net::Shutdown::Write).is_err() {
                    break;
                }
            }
            drop((client, hostile));
            settled("the baseline after one message");
        }
    }

    // One connection, many messages, all refused or replaced.
    let client = UnixStream::connect(&path).unwrap();
    for message in dialogue_to_running() {
        send(&client, &message).unwrap();
    }
    let _offered = (read_number(&client).unwrap(), read_number(&client).unwrap());
    let ask = |message: &Message| {
        send(&client, message).unwrap();
        read_number(&client).unwrap()
    };
    let mut during = None;
    for round in 0..300 {
        for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, SET_MEM_TABLE, ADD_MEM_REG] {
            assert_eq!(ask(&good(request, NEED_REPLY)), 0);
            let count = good(request, NEED_REPLY).descriptors.len();
            let mut hostile = good(request, NEED_REPLY);
            hostile.descriptors = (0..count + 3).map(|_| memfd(1)).collect();
            assert_eq!(ask(&hostile), 1);
        }
        // The region that was added goes again.
        let remove = message(REM_MEM_REG, NEED_REPLY, &words(&[0, GUEST + SIZE, SIZE, USER + SIZE, 0]));
        assert_eq!(ask(&remove.with([memfd(1)])), 0);
        assert_eq!(ask(&message(SET_LOG_FD, NEED_REPLY, &[]).with([eventfd()])), 0);
        // What is out of use is closed aside.
        let open = || (open_descriptors(), mappings());
        if during.is_none() {
            wait_until("the end of what was refused", || mappings() == 1);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let first = *during.get_or_insert_with(open);
        wait_until(&format!("as much open in round {round} as in the first"), || open() == first);
    }
    drop(client);
    settled("the baseline after many messages");

    // Many connections.
    for _ in 0..500 {
        let client = UnixStream::connect(&path).unwrap();
        for message in dialogue_to_running() {
            let _ = send(&client, &message);
        }
    }
    settled("the baseline after many connections");
}

//! Over a packet socket, on one end of a pair of interfaces in a network namespace of the test's own; the guest has the
//! other end. Needs root.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use culvert_driver::{Kind, OffloadBits, Stream};
use culvert_frame::{Offload, Offloads};
use culvert_guest::{NetHeader, packet_socket};
use culvert_translate::transport::{PacketSocket, Transport};
use rustix::net::{RecvFlags, SendFlags};

use crate::echo::{Echo, wait_until};
use crate::packets::packets;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The loop on veth-a, and the guest's socket on veth-b. The namespace ends with the thread and the sockets.
fn pair() -> (Echo, OwnedFd) {
    // SAFETY: this thread alone gets another network namespace; nobody relies on its having the old one.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(unshared, 0, "a network namespace needs root");
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    ip("link add veth-a mtu 1500 type veth peer name veth-b mtu 1500");
    for end in ["veth-a", "veth-b"] {
        ip(&format!("link set {end} up"));
    }
    let guest = packets("veth-b");
    packet_socket::prepare(guest.as_fd()).unwrap();
    let ours = packets("veth-a");
    let echo =
        Echo::start(|registry, first| Transport::Packet(Box::new(PacketSocket::new(ours, registry, first).unwrap())));
    echo.wait_for("the guest", |news| news.came);
    (echo, guest)
}

fn frame(length: usize) -> Vec<u8> {
    let mut frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5].to_vec();
    frame.extend((14..length).map(|at| (at * 7 + length) as u8));
    frame
}

fn send(guest: &OwnedFd, header: &[u8], frame: &[u8]) {
    let bytes = [&header[..10], frame].concat();
    assert_eq!(rustix::net::send(guest, &bytes, SendFlags::empty()).unwrap(), bytes.len());
}

/// The next frame that is the test's own, behind a header of 12 bytes.
fn receive(guest: &OwnedFd) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = vec![0; 70_000];
    let mut length = 0;
    wait_until("a frame", || match rustix::net::recv(guest, &mut bytes[..], RecvFlags::DONTWAIT) {
        Ok((count, _)) => {
            length = count;
            true
        }
        Err(_) => false,
    });
    (bytes[..12].to_vec(), bytes[10..length].to_vec())
}

#[test]
fn frames_come_back_and_the_loop_sleeps() {
    let (echo, guest) = pair();
    for length in [14, 60, 1514] {
        send(&guest, &[0; 10], &frame(length));
        assert_eq!(receive(&guest).1, frame(length));
        echo.wait_until_idle();
    }
    // As many at once as a socket's buffer surely holds.
    for number in (0..1000).step_by(40) {
        (number..number + 40).for_each(|number| send(&guest, &[0; 10], &frame(60 + number)));
        (number..number + 40).for_each(|number| assert_eq!(receive(&guest).1, frame(60 + number)));
    }
    assert_eq!(echo.totals().tx_refused, 0);
}

/// The kernel passes on what is left undone, both ways; segments of UDP are cut here.
#[test]
fn offloads_are_passed_both_ways() {
    let sender = OffloadBits { checksum: true, tso4: true, tso6: true, ecn: true, uso4: false, uso6: false };
    let receiver = OffloadBits { checksum: true, tso4: true, tso6: true, ecn: true, uso4: false, uso6: false };
    let (echo, guest) = pair();
    for kind in Kind::ALL {
        let mut stream = Stream::new(kind, [2; 6], [4; 6], sender, receiver).untagged();
        for _ in 0..20 {
            let (header, frame, _) = stream.frame(60_000);
            send(&guest, &header, &frame);
            while !stream.is_complete() {
                let (header, frame) = receive(&guest);
                stream.accept(&header, &frame).unwrap();
            }
        }
        if kind.tcp {
            assert!(stream.seen().0 > 5, "{kind:?}");
        }
    }
    assert_eq!((echo.totals().tx_segmented, echo.refused()), (0, vec![]));
    for kind in [Kind { tcp: false, v6: false }, Kind { tcp: false, v6: true }] {
        let sender = OffloadBits { uso4: true, uso6: true, ..sender };
        let mut stream = Stream::new(kind, [2; 6], [4; 6], sender, receiver).untagged();
        for _ in 0..20 {
            let (header, frame, _) = stream.frame(60_000);
            let request = NetHeader::parse(&header).unwrap().request();
            let head = &frame[..frame.len().min(128)];
            let offload = Offload::check(request, Offloads::ALL, head, frame.len() as u32).unwrap();
            echo.send(vec![(offload, frame)]);
            while !stream.is_complete() {
                let (header, frame) = receive(&guest);
                stream.accept(&header, &frame).unwrap();
            }
        }
    }
    assert!(echo.totals().tx_segmented > 10);
}

#[test]
fn frames_of_others_on_the_interface_are_left_alone() {
    let (echo, guest) = pair();
    let other = packets("veth-a");
    rustix::net::send(&other, &frame(70), SendFlags::empty()).unwrap();
    assert_eq!(receive(&guest).1, frame(70));
    send(&guest, &[0; 10], &frame(60));
    assert_eq!(receive(&guest).1, frame(60));
    assert_eq!(echo.frames(), 1);
}

#[test]
fn an_interface_that_is_down_or_gone_is_survived() {
    let (echo, guest) = pair();
    ip("link set veth-a down");
    echo.send(vec![(Offload::None, frame(60))]);
    wait_until("a frame that is lost", || echo.totals().tx_refused == 1);
    ip("link set veth-a up");
    wait_until("a link", || {
        send(&guest, &[0; 10], &frame(61));
        echo.frames() > 0
    });
    assert_eq!(receive(&guest).1, frame(61));
    ip("link del veth-a");
    echo.send(vec![(Offload::None, frame(60))]);
    // Echoes may have been under way as well.
    wait_until("a frame that is lost", || echo.totals().tx_refused > 1);
    echo.wait_until_idle();
    // Nor is it looked at again what is gone.
    std::thread::sleep(std::time::Duration::from_millis(300));
    echo.wait_until_idle();
}

#[test]
fn other_descriptors_are_refused() {
    let poll = mio::Poll::new().unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = PacketSocket::new(socket.into(), poll.registry(), mio::Token(1)).unwrap_err();
    assert_eq!(error.to_string(), "the descriptor is not a packet socket");
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(PacketSocket::new(file.into(), poll.registry(), mio::Token(1)).is_err());
}

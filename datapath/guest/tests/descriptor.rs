//! Guest memory to sockets.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod harness;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use culvert_driver::Shape;
use culvert_guest::descriptor::{self, MAX_PIECES};
use culvert_guest::{NetHeader, Packet, Piece, TransmitBurst};
use harness::pair;
use rustix::io::Errno;
use rustix::net::SendFlags;

fn frame(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// Head and rest as one list.
fn pieces<'a>(packet: &Packet<'a>) -> impl Iterator<Item = Piece<'a>> + Clone {
    std::iter::once(Piece::from(packet.head)).chain(packet.rest())
}

fn datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    let length = socket.recv(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

#[test]
fn frames_from_a_guest_become_datagrams() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let receiver_v6 = UdpSocket::bind("[::1]:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender_v6 = UdpSocket::bind("[::1]:0").unwrap();
    let mut pair = pair(Shape::default());
    let mut burst = TransmitBurst::default();
    for cuts in [&[][..], &[1, 2, 3], &[130, 140]] {
        let sent = frame(5000);
        assert!(pair.driver.send_with(&[0; 12], &sent, cuts));
        let received = pair.transmit.receive(&mut burst).unwrap();
        let packet = received.packet(0).unwrap();
        let to = receiver.local_addr().unwrap();
        let send = |socket: &UdpSocket, to| {
            descriptor::send(socket.as_fd(), pieces(&packet), SendFlags::DONTWAIT, to).unwrap()
        };
        assert_eq!(send(&sender, Some(&to)), sent.len());
        assert_eq!(datagram(&receiver), sent);
        assert_eq!(send(&sender_v6, Some(&receiver_v6.local_addr().unwrap())), sent.len());
        assert_eq!(datagram(&receiver_v6), sent);
    }
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    assert_eq!(descriptor::send(sender.as_fd(), std::iter::empty(), SendFlags::empty(), None).unwrap(), 0);
    assert_eq!(datagram(&receiver), b"");
}

#[test]
fn a_stream_takes_what_it_has_room_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _receiver = listener.accept().unwrap();
    let bytes = frame(60_000);
    let packet = Packet::of_bytes(NetHeader::default(), &bytes);
    let mut sent = 0;
    let error = loop {
        match descriptor::send(sender.as_fd(), pieces(&packet), SendFlags::DONTWAIT, None) {
            Ok(taken) => sent += taken,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(Errno::AGAIN.raw_os_error()));
    assert!(sent > 0);
}

#[test]
fn more_pieces_than_the_kernel_takes_are_refused_empty_ones_not_counted() {
    let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let some = |count| std::iter::repeat_n([Piece::from(&b""[..]), Piece::from(&b"x"[..])], count).flatten();
    let send = |count| descriptor::send(sender.as_fd(), some(count), SendFlags::DONTWAIT, None);
    assert_eq!(send(MAX_PIECES).unwrap(), MAX_PIECES);
    assert_eq!(receiver.recv(&mut [0; 2000]).unwrap(), MAX_PIECES);
    assert_eq!(send(MAX_PIECES + 1).unwrap_err().raw_os_error(), Some(Errno::MSGSIZE.raw_os_error()));
}

/// hostile V8: a truncated memory file is an error of the call, not a signal.
#[test]
fn lost_memory_is_an_error() {
    let mut pair = pair(Shape::default());
    let mut burst = TransmitBurst::default();
    assert!(pair.driver.send_with(&[0; 12], &frame(5000), &[]));
    let received = pair.transmit.receive(&mut burst).unwrap();
    let packet = received.packet(0).unwrap();
    rustix::fs::ftruncate(pair.driver.ram().file(), 0).unwrap();
    let (sender, _receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let error = descriptor::send(sender.as_fd(), packet.rest(), SendFlags::DONTWAIT, None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::FAULT.raw_os_error()));
}

#[test]
fn frames_of_our_own_are_packets() {
    for length in [0, 1, 127, 128, 129, 5000] {
        let bytes = frame(length);
        let packet = Packet::of_bytes(NetHeader::default(), &bytes);
        let mut whole = vec![0; length];
        let mut filled = 0;
        for piece in pieces(&packet) {
            filled += piece.copy_to(0, whole.get_mut(filled..).unwrap());
        }
        assert_eq!((packet.length as usize, filled, &whole), (length, length, &bytes));
    }
}

//! Guest memory to sockets, and back.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

mod harness;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use culvert_driver::Shape;
use culvert_guest::descriptor::{self, MAX_PIECES};
use culvert_guest::receive::PutError;
use culvert_guest::{NetHeader, Packet, Piece, Rooms, TransmitBurst};
use harness::pair;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

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

/// A frame whose payload is received straight into the guest's buffers, as much as there is.
#[test]
fn payloads_are_received_into_the_guests_buffers() {
    let header = NetHeader { gso_size: 1460, ..NetHeader::default() };
    let shapes = [(12, true, false), (12, true, true), (12, false, false), (10, false, true)];
    for (header_bytes, mergeable, split_header) in shapes {
        let receive_bytes = if mergeable { 1526 } else { 70_000 };
        let shape = Shape { queue_size: 128, header_bytes, mergeable, split_header, receive_bytes, ..Shape::default() };
        let mut pair = pair(shape);
        let (sender, receiver) = std::os::unix::net::UnixStream::pair().unwrap();
        for (most, there) in [(1, 1), (1000, 1000), (1400, 5000), (60_000, 60_000), (60_000, 10), (60_000, 1460)] {
            let head = frame(54);
            let bytes = frame(there);
            std::io::Write::write_all(&mut &sender, &bytes).unwrap();
            let before = pair.receive.position();
            // Not used: nothing happens.
            pair.receive.find_room(54, most, most).unwrap();
            assert!(pair.receive.reserved().is_some());
            assert!(pair.receive.reserved().is_none());
            pair.receive.publish();
            assert_eq!(pair.receive.position(), before);

            pair.receive.find_room(54, most, most).unwrap();
            let mut reserved = pair.receive.reserved().unwrap();
            assert_eq!(reserved.rooms().bytes(), most);
            let count = descriptor::receive(receiver.as_fd(), reserved.rooms(), RecvFlags::PEEK).unwrap();
            assert_eq!(count, there.min(most as usize));
            reserved.commit(&header, &head, count as u32);
            pair.receive.publish();
            let (header, received) = pair.driver.receive().unwrap();
            assert_eq!(header[4..6], 1460_u16.to_le_bytes());
            assert!(received == [&head, &bytes[..count]].concat(), "{shape:?} {most} {there}");
            let mut drained = vec![0; there];
            let rooms = Rooms::from(&mut drained[..]);
            assert_eq!(descriptor::receive(receiver.as_fd(), rooms, RecvFlags::WAITALL).unwrap(), there);
            assert_eq!(drained, bytes);
        }
        // Put in between: what was found is not there any more.
        pair.receive.find_room(54, 100, 100).unwrap();
        pair.receive.put(&header, &frame(60), 60, std::iter::empty()).unwrap();
        assert!(pair.receive.reserved().is_none());
    }
}

#[test]
fn rooms_that_do_not_suffice_are_not_found() {
    let mut pair = pair(Shape { queue_size: 16, mergeable: true, receive_bytes: 1526, ..Shape::default() });
    assert_eq!(pair.receive.find_room(54, 60_000, 60_000), Err(PutError::NoBuffer));
    assert!(pair.receive.reserved().is_none());
    // Sixteen buffers, less the header: a part of what was wanted.
    pair.receive.find_room(54, 1460, 60_000).unwrap();
    assert_eq!(pair.receive.reserved().unwrap().rooms().bytes(), 16 * 1526 - 12 - 54);
    pair.receive.find_room(54, 20_000, 20_000).unwrap();
    rustix::fs::ftruncate(pair.driver.ram().file(), 0).unwrap();
    let (sender, receiver) = std::os::unix::net::UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut &sender, b"x").unwrap();
    let mut reserved = pair.receive.reserved().unwrap();
    let error = descriptor::receive(receiver.as_fd(), reserved.rooms(), RecvFlags::DONTWAIT).unwrap_err();
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

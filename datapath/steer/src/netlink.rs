//! Questions to the kernel over netlink(7) that are answered with everything there is, a dump.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage};
use netlink_packet_core::{NetlinkPayload, NetlinkSerializable};
use netlink_sys::{Socket, SocketAddr};

/// Opens the way to the kernel for questions of one `protocol` (`NETLINK_*`), in this thread's network namespace.
///
/// # Errors
/// The kernel's.
pub fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Asks, and hands on each part of the answer. Parts that cannot be read are passed over. The kernel answers at once.
///
/// # Errors
/// The kernel's, or its answer is cut off.
pub fn dump<T>(socket: &Socket, question: T, each: &mut dyn FnMut(T)) -> io::Result<()>
where
    T: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut question = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if read(&answer, each)? {
            return Ok(());
        }
    }
}

/// Reads the messages of one datagram; whether the last one was among them.
///
/// # Errors
/// The kernel's, or one of them is cut off.
pub fn read<T: NetlinkDeserializable>(mut datagram: &[u8], each: &mut dyn FnMut(T)) -> io::Result<bool> {
    while let Some(length) = datagram.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
        // At least its own header (16 bytes), or this would never end.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((message, _)) = datagram.split_at_checked(length).filter(|_| length >= 16) else {
            return Err(io::Error::other("a message of the kernel's over netlink is cut off"));
        };
        match NetlinkMessage::<T>::deserialize(message).map(|message| message.payload) {
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
            Ok(NetlinkPayload::InnerMessage(part)) => each(part),
            Ok(_) => {}
            Err(error) => tracing::debug!("a message of the kernel's over netlink is not understood: {error}"),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(false)
}

//! A vhost-user frontend that keeps no rule: any bytes, any descriptors, in any pieces and at any time.
//!
//! [`RawFrontend`] is one connection. What a well-behaved frontend says is here as well ([`request`], [`RawFrontend::ask`]), since most
//! attacks begin in the middle of an honest dialogue. [`crate::guest`] makes a guest of it. No code of Culvert's is used.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// The numbers of the requests (vhost-user specification, "Front-end message types").
pub mod request {
    #![expect(missing_docs, reason = "the specification's names")]
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_LOG_FD: u32 = 7;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SEND_RARP: u32 = 19;
    pub const NET_SET_MTU: u32 = 20;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const IOTLB_MSG: u32 = 22;
    pub const SET_VRING_ENDIAN: u32 = 23;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const RESET_DEVICE: u32 = 34;
    pub const VRING_KICK: u32 = 35;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const SET_STATUS: u32 = 39;
    pub const GET_STATUS: u32 = 40;
}

/// Header flags: protocol version 1.
pub const VERSION: u32 = 1;
/// Header flag: this is a reply.
pub const REPLY: u32 = 1 << 2;
/// Header flag: an answer is wanted to this request, whatever it is (REPLY_ACK).
pub const NEED_REPLY: u32 = 1 << 3;
/// In the bodies of SET_VRING_KICK, CALL and ERR: no descriptor comes with it.
pub const NO_DESCRIPTOR: u64 = 1 << 8;

/// What the backend has answered.
#[derive(Debug)]
pub struct Reply {
    /// The number of the request that it answers.
    pub request: u32,
    /// Its flags.
    pub flags: u32,
    /// What follows the header.
    pub body: Vec<u8>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Reply {
    /// The body as one number of 64 bits.
    ///
    /// # Errors
    /// It has another length.
    pub fn number(&self) -> Result<u64> {
        let bytes = self.body.as_slice().try_into().with_context(|| format!("not a number: {self:?}"))?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

/// One connection to a vhost-user backend that listens.
#[derive(Debug)]
pub struct RawFrontend {
    stream: UnixStream,
}

impl RawFrontend {
    /// Connects and says nothing.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        Ok(Self { stream })
    }

    /// A connection that was accepted: for a backend that connects to its frontend.
    pub fn accepted(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The socket, for what is not here.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends bytes, whatever they mean, with descriptors, in one sendmsg(2); returns how many were taken.
    ///
    /// # Errors
    /// The backend has closed the connection, or there are more descriptors than the kernel's 253.
    pub fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let sent = rustix::net::sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        Ok(sent?)
    }

    /// Sends a message of which every part is the caller's.
    ///
    /// # Errors
    /// The backend has closed the connection.
    pub fn send(&self, request: u32, flags: u32, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = message(request, flags, body);
        let sent = self.send_bytes(&bytes, descriptors).with_context(|| format!("request {request}"))?;
        ensure!(sent == bytes.len(), "{sent} bytes of request {request} were taken, of {}", bytes.len());
        Ok(())
    }

    /// Reads one message.
    ///
    /// # Errors
    /// None comes within `limit`, or the connection was closed.
    pub fn read_reply(&self, limit: Duration) -> Result<Reply> {
        let deadline = Instant::now() + limit;
        let mut descriptors = Vec::new();
        let header = self.read_exactly(HEADER_BYTES, deadline, &mut descriptors)?;
        let field = |index: usize| {
            let bytes = header.get(4 * index..4 * index + 4).and_then(|bytes| bytes.try_into().ok());
            u32::from_ne_bytes(bytes.unwrap_or_default())
        };
        let body = self.read_exactly(usize::try_from(field(2))?, deadline, &mut descriptors)?;
        Ok(Reply { request: field(0), flags: field(1), body, descriptors })
    }

    /// Sends a request that has a reply of its own and returns the reply.
    ///
    /// # Errors
    /// The connection was closed.
    pub fn get(&self, request: u32, body: &[u8]) -> Result<Reply> {
        self.send(request, VERSION, body, &[])?;
        let reply = self.read_reply(REPLY_LIMIT).with_context(|| format!("the reply to request {request}"))?;
        ensure!(reply.request == request, "request {request} was answered with {reply:?}");
        Ok(reply)
    }

    /// Sends a request and asks how it went; needs REPLY_ACK negotiated. 0 is success.
    ///
    /// # Errors
    /// The connection was closed.
    pub fn ask(&self, request: u32, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<u64> {
        self.send(request, VERSION | NEED_REPLY, body, descriptors)?;
        self.read_reply(REPLY_LIMIT).with_context(|| format!("the answer to request {request}"))?.number()
    }

    /// As [`Self::ask`], for a request that must succeed.
    ///
    /// # Errors
    /// The backend refuses it.
    pub fn must(&self, request: u32, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let answer = self.ask(request, body, descriptors)?;
        ensure!(answer == 0, "request {request} was refused with {answer}");
        Ok(())
    }

    /// Waits until the backend has closed the connection; what it says meanwhile is thrown away.
    ///
    /// # Errors
    /// It has not within `limit`.
    pub fn wait_closed(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut bytes = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the backend keeps the connection for {limit:?}");
            self.stream.set_read_timeout(Some(left))?;
            match (&self.stream).read(&mut bytes) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the backend has closed the connection by now.
    pub fn is_closed(&self) -> bool {
        self.wait_closed(Duration::from_millis(1)).is_ok()
    }

    fn read_exactly(&self, length: usize, deadline: Instant, descriptors: &mut Vec<OwnedFd>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the backend does not answer");
            self.stream.set_read_timeout(Some(left))?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let rest = bytes.get_mut(filled..).unwrap_or_default();
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.stream, &mut [IoSliceMut::new(rest)], &mut control, flags) {
                Ok(received) if received.bytes == 0 => bail!("the backend closed the connection"),
                Ok(received) => filled += received.bytes,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
        }
        Ok(bytes)
    }
}

impl Drop for RawFrontend {
    /// Programs that other cases start hold the connection as well, between fork and exec: closing it would not end it.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// A message as it goes over the socket, with the true length of its body.
pub fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    message_of_size(request, flags, u32::try_from(body.len()).unwrap_or(u32::MAX), body)
}

/// A message whose header says `size`, whatever follows.
pub fn message_of_size(request: u32, flags: u32, size: u32, body: &[u8]) -> Vec<u8> {
    let header = [request, flags, size].map(u32::to_ne_bytes).concat();
    [header.as_slice(), body].concat()
}

/// Numbers of 64 bits, one after the other: the body of most requests.
pub fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// A ring's number and another one of 32 bits: the body of SET_VRING_NUM, BASE and ENABLE.
pub fn ring_state(ring: u32, value: u32) -> Vec<u8> {
    [ring.to_ne_bytes(), value.to_ne_bytes()].concat()
}

/// The body of SET_VRING_ADDR.
pub fn ring_addresses(ring: u32, flags: u32, descriptors: u64, used: u64, available: u64, log: u64) -> Vec<u8> {
    [ring_state(ring, flags), numbers(&[descriptors, used, available, log])].concat()
}

/// One region of a memory table.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawRegion {
    /// Where the guest has it.
    pub guest_address: u64,
    /// Length in bytes.
    pub size: u64,
    /// Where the frontend has it.
    pub user_address: u64,
    /// Where it starts in the file.
    pub offset: u64,
}

impl RawRegion {
    /// Its four numbers.
    pub fn body(&self) -> Vec<u8> {
        numbers(&[self.guest_address, self.size, self.user_address, self.offset])
    }
}

/// The body of SET_MEM_TABLE, with a `count` that need not be true.
pub fn memory_table(count: u32, regions: &[RawRegion]) -> Vec<u8> {
    let mut body = ring_state(count, 0);
    regions.iter().for_each(|region| body.extend(region.body()));
    body
}

/// Bytes of a message's header.
pub const HEADER_BYTES: usize = 12;

/// The most descriptors that Linux passes at once (SCM_MAX_FD).
const KERNEL_DESCRIPTORS: usize = 253;

/// The longest that an answer may take.
const REPLY_LIMIT: Duration = Duration::from_secs(10);

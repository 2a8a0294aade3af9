//! A client of the control socket that speaks HTTP/2 (RFC 9113) byte by byte, so that it can say what no library says.
//!
//! It sends any frame, reads what comes, and knows just enough of gRPC for an ordinary request. What it reads of answers is their
//! ends: which stream ended how, and whether the connection is still there.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A connection to a control socket.
pub struct Http2 {
    stream: UnixStream,
}

/// One frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type: [`DATA`] and the others.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// How a stream, or the whole connection, has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// There is an answer.
    Answered,
    /// The server has reset the stream, with this code.
    Reset(u32),
    /// The server says farewell, with this code, and closes.
    GoAway(u32),
    /// The connection is closed without a word.
    Closed,
}

impl Http2 {
    /// Connects and says nothing.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn silent(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self { stream })
    }

    /// Connects with the preface and empty settings.
    ///
    /// # Errors
    /// Nobody listens, or the connection is closed at once.
    pub fn connect(socket: &Path) -> Result<Self> {
        let mut client = Self::silent(socket)?;
        client.send(PREFACE)?;
        client.frame(SETTINGS, 0, 0, &[])?;
        Ok(client)
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// The server has closed the connection, or takes nothing for [`LIMIT`].
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// As [`Http2::send`].
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.send(&frame(kind, flags, stream, payload))
    }

    /// Sends an ordinary request of a method, such as `ListPorts`, with a message that may be anything.
    ///
    /// # Errors
    /// As [`Http2::send`].
    pub fn request(&mut self, stream: u32, method: &str, message: &[u8]) -> io::Result<()> {
        self.frame(HEADERS, END_HEADERS, stream, &headers(method))?;
        self.frame(DATA, END_STREAM, stream, &prefixed(message))
    }

    /// Reads one frame; none when the server has closed the connection.
    ///
    /// # Errors
    /// Nothing comes within [`LIMIT`], or half a frame.
    pub fn read(&mut self) -> Result<Option<Frame>> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(error).context("nothing comes from the control server"),
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let [d, e, f, g, ..] = stream;
        let mut payload = vec![0; length];
        match self.stream.read_exact(&mut payload) {
            Ok(()) => {}
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(error).context("half a frame"),
        }
        Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff, payload }))
    }

    /// Reads until a stream has ended, or the connection; acknowledges settings and answers pings meanwhile.
    ///
    /// # Errors
    /// Nothing of that happens within [`LIMIT`].
    pub fn wait(&mut self, stream: u32) -> Result<End> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let Some(frame) = self.read()? else { return Ok(End::Closed) };
            let code = |at: usize| {
                frame.payload.get(at..at + 4).and_then(|code| code.try_into().ok()).map_or(0, u32::from_be_bytes)
            };
            match frame.kind {
                GOAWAY => return Ok(End::GoAway(code(4))),
                RST_STREAM if frame.stream == stream => return Ok(End::Reset(code(0))),
                HEADERS | DATA if frame.stream == stream && frame.flags & END_STREAM != 0 => return Ok(End::Answered),
                SETTINGS if frame.flags & ACK == 0 => drop(self.frame(SETTINGS, ACK, 0, &[])),
                PING if frame.flags & ACK == 0 => drop(self.frame(PING, ACK, 0, &frame.payload)),
                _ => {}
            }
        }
        bail!("stream {stream} does not end within {LIMIT:?}")
    }

    /// Reads until the connection is over.
    ///
    /// # Errors
    /// It is not within `limit`.
    pub fn wait_closed(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        self.stream.set_read_timeout(Some(limit))?;
        while self.read()?.is_some() {
            if Instant::now() > deadline {
                bail!("the connection is still open after {limit:?}");
            }
        }
        Ok(())
    }

    /// The connection itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block (RFC 7541) of a request of a method.
pub fn headers(method: &str) -> Vec<u8> {
    // Of the static table: :method POST, :scheme http; then texts that go into no table.
    let mut block = vec![0x83, 0x86];
    let text = |block: &mut Vec<u8>, text: &str| {
        block.push(u8::try_from(text.len()).unwrap_or(0));
        block.extend(text.as_bytes());
    };
    block.push(0x04);
    text(&mut block, &format!("/culvert.v1.Culvert/{method}"));
    block.push(0x01);
    text(&mut block, "culvertd");
    block.extend([0x0f, 0x10]);
    text(&mut block, "application/grpc");
    block.push(0x00);
    text(&mut block, "te");
    text(&mut block, "trailers");
    block
}

/// A gRPC message: not compressed, its length, its bytes.
pub fn prefixed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat()
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub const DATA: u8 = 0;
/// Opens a stream.
pub const HEADERS: u8 = 1;
/// Ranks streams; of no effect today.
pub const PRIORITY: u8 = 2;
/// Ends a stream at once.
pub const RST_STREAM: u8 = 3;
/// Settings of an end.
pub const SETTINGS: u8 = 4;
/// Never sent by clients.
pub const PUSH_PROMISE: u8 = 5;
/// Asks for an answer.
pub const PING: u8 = 6;
/// A farewell.
pub const GOAWAY: u8 = 7;
/// Room for more data.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a header block.
pub const CONTINUATION: u8 = 9;

/// Flag: the last of its stream.
pub const END_STREAM: u8 = 1;
/// Flag of SETTINGS and PING: an answer.
pub const ACK: u8 = 1;
/// Flag: the header block ends here.
pub const END_HEADERS: u8 = 4;
/// Flag: padding follows.
pub const PADDED: u8 = 8;

/// How long the server may take for anything: more than twice its patience.
const LIMIT: Duration = Duration::from_secs(15);

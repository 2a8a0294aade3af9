//! A guest behind QEMU's `-netdev stream`: frames over a stream socket of the Unix kind, each behind its length.
//!
//! The length has 32 bits in network byte order and counts the frame alone. There are no offloads: frames are finished
//! here. What is to be sent is gathered and written at once; when the socket is full and so is our buffer, the link is
//! [`Full`] until the socket takes more. A length that no frame has ends the connection: where the next frame starts is
//! unknown then. TCP segments that follow each other are joined ([`join`](super::join)), for nobody has done that
//! before us. One peer at a time; another one is refused while it is there.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use culvert_frame::layers::MAX_HEADER_BYTES;
use culvert_frame::offload::MAX_SEGMENTS;
use culvert_frame::{MAX_FRAME_BYTES, Offload, Offloads, PartialChecksum, checksum};
use culvert_guest::receive::PutError;
use culvert_guest::{NetHeader, Piece, Rooms};
use culvert_vhost::listen::Listener;
use culvert_vhost::log_limit::LogLimit;
use culvert_vhost::single::SingleError;
use culvert_vhost::socket;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

use crate::link::Full;
use crate::time::Instant;
use crate::transport::finish::{self, Backlog, Sink, Workspace};
use crate::transport::join::Joiner;
use crate::transport::{Burst, Frames, MAX_FRAMES, News, Place, Totals, Watch};

/// Bytes of the length before each frame.
const LENGTH_BYTES: usize = 4;

/// What is read at once, and no less than the longest frame with its length.
const READ_BYTES: usize = 256 << 10;
const _: () = assert!(READ_BYTES > 2 * (MAX_FRAME_BYTES as usize + LENGTH_BYTES));

/// How much may wait to be sent before the link is full.
const WRITE_BYTES: usize = 128 << 10;

const LONGEST: usize = MAX_FRAME_BYTES as usize;

/// What one frame may take, cut into the most segments, each with all headers.
const FRAME_BYTES: usize = LONGEST + MAX_SEGMENTS as usize * (MAX_HEADER_BYTES + LENGTH_BYTES);

/// Room for what waits, and as much again before it is moved to the front.
const BUFFER_BYTES: usize = 2 * WRITE_BYTES + FRAME_BYTES;

const LISTENER: usize = 0;
const STREAM: usize = 1;

/// The socket.
#[derive(Debug)]
pub struct QemuStream {
    listener: Option<Listener>,
    /// Somebody may wait to be accepted.
    waiting: bool,
    stream: Option<UnixStream>,
    watch: Watch,
    reader: Reader,
    writer: Writer,
    news: News,
    log: LogLimit,
    totals: Totals,
}

impl QemuStream {
    /// Creates the socket at `path`. Uses two tokens of `registry` from `first` on.
    ///
    /// # Errors
    /// The socket cannot be created: which, why and what to do.
    pub fn listen(path: &Path, registry: &Registry, first: Token) -> Result<Self, SingleError> {
        let mut transport = Self::new(registry, first)?;
        let mut listener = Listener::bind(&path.into())?;
        let token = transport.watch.token(LISTENER);
        transport.watch.registry.register(listener.source(), token, Interest::READABLE)?;
        transport.listener = Some(listener);
        Ok(transport)
    }

    /// See [`Transport::leave_name`](super::Transport::leave_name).
    pub fn leave_name(&mut self) {
        if let Some(listener) = &mut self.listener {
            listener.leave_name();
        }
    }

    /// Takes up a connection that exists. There is never another one.
    ///
    /// # Errors
    /// The descriptor cannot be waited on.
    pub fn connected(stream: StdStream, registry: &Registry, first: Token) -> Result<Self, SingleError> {
        let mut transport = Self::new(registry, first)?;
        stream.set_nonblocking(true)?;
        transport.attach(UnixStream::from_std(stream))?;
        Ok(transport)
    }

    fn new(registry: &Registry, first: Token) -> io::Result<Self> {
        Ok(Self {
            listener: None,
            waiting: true,
            stream: None,
            watch: Watch::new(registry, first)?,
            reader: Reader::default(),
            writer: Writer::default(),
            news: News::default(),
            log: LogLimit::default(),
            totals: Totals::default(),
        })
    }

    /// See [`Transport::event`](super::Transport::event).
    pub fn event(&mut self, token: Token) {
        match self.watch.index(token) {
            Some(LISTENER) => self.waiting = true,
            Some(STREAM) => {
                self.reader.ready = true;
                self.writer.ready = true;
            }
            _ => {}
        }
    }

    /// See [`Transport::turn`](super::Transport::turn).
    pub fn turn(&mut self, now: Instant) -> News {
        if let Some(stream) = &self.stream {
            self.writer.send(stream);
            if let Some(end) = self.reader.end.take().or(self.writer.end.take()) {
                self.close(&end, now);
            }
        }
        self.accept(now);
        if self.writer.told_full && !self.writer.is_full() && self.stream.is_some() {
            self.writer.told_full = false;
            self.news.room = true;
        }
        std::mem::take(&mut self.news)
    }

    /// See [`Transport::deadline`](super::Transport::deadline).
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let connected = self.stream.is_some();
        let ended = self.reader.end.is_some() || self.writer.end.is_some();
        let at_once = connected && (self.reader.ready || ended) || self.waiting && self.listener.is_some();
        at_once.then_some(now)
    }

    /// See [`Transport::halves`](super::Transport::halves).
    pub fn halves(&mut self) -> (StreamSource<'_>, StreamLink<'_>) {
        let stream = self.stream.as_ref();
        (StreamSource { stream, reader: &mut self.reader }, StreamLink { stream, writer: &mut self.writer })
    }

    /// See [`Transport::quarantine`](super::Transport::quarantine); done in the next turn.
    pub fn quarantine(&mut self, reason: String) {
        self.reader.end.get_or_insert(End::Fault(reason));
    }

    /// What passed so far.
    pub const fn totals(&self) -> Totals {
        let Totals { connections, quarantined, .. } = self.totals;
        Totals { connections, quarantined, rx_disabled: 0, tx_refused: 0, tx_segmented: self.writer.segmented }
    }

    fn attach(&mut self, mut stream: UnixStream) -> io::Result<()> {
        let token = self.watch.token(STREAM);
        self.watch.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.reader.begin();
        self.writer.begin();
        self.stream = Some(stream);
        self.totals.connections += 1;
        (self.news.came, self.news.room) = (true, true);
        Ok(())
    }

    fn close(&mut self, end: &End, now: Instant) {
        if let Some(mut stream) = self.stream.take() {
            let _ = self.watch.registry.deregister(&mut stream);
        }
        self.news.left = true;
        self.waiting = true;
        if let End::Fault(_) = end {
            self.totals.quarantined += 1;
        }
        if let Some(left_out) = self.log.permit(now.to_std()) {
            match end {
                End::HungUp => tracing::info!(left_out, "the guest's connection has ended"),
                End::Fault(reason) => tracing::warn!(left_out, "the guest's connection was closed: {reason}"),
            }
        }
    }

    /// Accepts who waits; a bounded number of them.
    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listener.as_ref().filter(|_| self.waiting) else { return };
            let failed = match listener.accept() {
                Ok(None) => {
                    self.waiting = false;
                    return;
                }
                Ok(Some(stream)) => {
                    if self.stream.as_ref().is_some_and(socket::is_hung_up) {
                        self.close(&End::HungUp, now);
                    }
                    if self.stream.is_some() { Err("there is one already".to_owned()) } else { Ok(stream) }
                }
                Err(error) => {
                    // Too many open files: the next event tries again.
                    self.waiting = false;
                    Err(error.to_string())
                }
            };
            let attached = failed.and_then(|stream| self.attach(stream).map_err(|error| error.to_string()));
            if let Err(reason) = attached
                && let Some(left_out) = self.log.permit(now.to_std())
            {
                tracing::warn!(left_out, "a connection was refused: {reason}");
            }
        }
    }
}

/// How many connections are accepted in one turn.
const ACCEPTS: u32 = 16;

/// Why a connection ended.
#[derive(Debug)]
enum End {
    HungUp,
    Fault(String),
}

/// The direction from the guest.
#[derive(Debug)]
struct Reader {
    buffer: Box<[u8]>,
    /// What was read and not handed on.
    bytes: Range<usize>,
    places: Vec<Place>,
    joiner: Joiner,
    /// There may be more to read.
    ready: bool,
    end: Option<End>,
}

impl Default for Reader {
    fn default() -> Self {
        let (buffer, places) = (vec![0; READ_BYTES].into(), Vec::with_capacity(MAX_FRAMES));
        Self { buffer, bytes: 0..0, places, joiner: Joiner::default(), ready: false, end: None }
    }
}

impl Reader {
    fn begin(&mut self) {
        (self.bytes, self.ready, self.end) = (0..0, true, None);
    }

    /// Finds the next whole frames, reading when there are none. `false`: there are none.
    fn fill(&mut self, mut stream: &UnixStream) -> bool {
        loop {
            if let Err(length) = split(&self.buffer, &mut self.bytes, &mut self.places) {
                self.ready = false;
                let fault = format!("it sent a frame of {length} bytes, which is more than {MAX_FRAME_BYTES}");
                self.end.get_or_insert(End::Fault(fault));
            }
            if !self.places.is_empty() {
                return true;
            }
            if !self.ready || self.end.is_some() {
                return false;
            }
            // Less than one frame is left.
            self.buffer.copy_within(self.bytes.clone(), 0);
            self.bytes = 0..self.bytes.len();
            match stream.read(self.buffer.get_mut(self.bytes.end..).unwrap_or_default()) {
                Ok(0) => self.end = Some(End::HungUp),
                // Also after less than there was room for: the end that may follow has no event of its own.
                Ok(count) => self.bytes.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready = false,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.end = Some(End::HungUp),
                Err(error) => self.end = Some(End::Fault(error.to_string())),
            }
        }
    }
}

/// Finds up to [`MAX_FRAMES`] whole frames in `bytes` of `buffer`, and takes them off its start.
///
/// # Errors
/// A length that no frame has. Frames before it are found.
fn split(buffer: &[u8], bytes: &mut Range<usize>, places: &mut Vec<Place>) -> Result<(), u32> {
    places.clear();
    while places.len() < MAX_FRAMES {
        let left = buffer.get(bytes.clone()).unwrap_or_default();
        let Some(length) = left.first_chunk::<LENGTH_BYTES>() else { break };
        let length = u32::from_be_bytes(*length);
        if length > MAX_FRAME_BYTES {
            return Err(length);
        }
        let start = bytes.start + LENGTH_BYTES;
        let frame = start..start + usize::try_from(length).unwrap_or(usize::MAX);
        if frame.end > bytes.end {
            break;
        }
        bytes.start = frame.end;
        places.push(Place { bytes: frame, ..Place::default() });
    }
    Ok(())
}

/// Frames from the stream.
#[derive(Debug)]
pub struct StreamSource<'a> {
    stream: Option<&'a UnixStream>,
    reader: &'a mut Reader,
}

impl StreamSource<'_> {
    /// See [`Source::receive`](super::Source::receive).
    pub fn receive(&mut self) -> Burst<'_> {
        if !self.stream.is_some_and(|stream| self.reader.fill(stream)) {
            return Burst::NONE;
        }
        let Reader { buffer, places, joiner, .. } = &mut *self.reader;
        joiner.join(buffer, places);
        let parts = joiner.parts().map(|part| Piece::from(buffer.get(part).unwrap_or_default())).collect();
        // What is joined is to be segmented; nothing else can be asked for on a stream.
        Burst { frames: Frames::Own(buffer, places, parts), asks: Offloads::ALL }
    }
}

/// The direction to the guest.
#[derive(Debug)]
struct Writer {
    buffer: Box<[u8]>,
    /// What of it is to be sent.
    bytes: Range<usize>,
    /// The socket may take more.
    ready: bool,
    told_full: bool,
    workspace: Workspace,
    segmented: u64,
    end: Option<End>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into(),
            bytes: 0..0,
            ready: false,
            told_full: false,
            workspace: Workspace::default(),
            segmented: 0,
            end: None,
        }
    }
}

impl Writer {
    fn begin(&mut self) {
        (self.bytes, self.ready, self.told_full, self.end) = (0..0, true, false, None);
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= WRITE_BYTES
    }

    /// Sends what the socket takes.
    fn send(&mut self, stream: &UnixStream) {
        while self.ready && !self.bytes.is_empty() && self.end.is_none() {
            match socket::send(stream, self.buffer.get(self.bytes.clone()).unwrap_or_default()) {
                Ok(0) => self.ready = false,
                Ok(sent) => self.bytes.start += sent,
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.end = Some(End::HungUp);
                }
                Err(error) => self.end = Some(End::Fault(error.to_string())),
            }
        }
    }

    /// Makes room for one frame, however it is cut.
    fn make_room(&mut self, stream: Option<&UnixStream>) -> Result<(), Full> {
        let stream = stream.ok_or(Full)?;
        if self.is_full() {
            self.send(stream);
        }
        if self.is_full() || self.end.is_some() {
            self.told_full = true;
            return Err(Full);
        }
        if self.buffer.len() - self.bytes.end < FRAME_BYTES {
            self.buffer.copy_within(self.bytes.clone(), 0);
            self.bytes = 0..self.bytes.len();
        }
        Ok(())
    }
}

/// The room behind what is to be sent, for one frame behind its length.
#[derive(Debug)]
struct Room<'a> {
    buffer: &'a mut [u8],
    end: &'a mut usize,
}

impl Room<'_> {
    /// The part for a frame of that length, behind its length; the next frame goes behind it.
    fn take(&mut self, length: usize) -> Result<&mut [u8], PutError> {
        let prefix = u32::try_from(length).map_err(|_| PutError::SmallBuffer)?.to_be_bytes();
        let start = *self.end;
        let end = start + LENGTH_BYTES + length;
        let (before, frame) = self
            .buffer
            .get_mut(start..end)
            .and_then(|room| room.split_at_mut_checked(LENGTH_BYTES))
            .ok_or(PutError::SmallBuffer)?;
        before.copy_from_slice(&prefix);
        *self.end = end;
        Ok(frame)
    }

    fn add(&mut self, head: &[u8], payload: &[u8]) -> Result<&mut [u8], PutError> {
        let frame = self.take(head.len() + payload.len())?;
        let (start, end) = frame.split_at_mut(head.len());
        start.copy_from_slice(head);
        end.copy_from_slice(payload);
        Ok(frame)
    }
}

impl Sink for Room<'_> {
    fn takes(&self) -> Offloads {
        Offloads::NONE
    }

    fn put(&mut self, _: &NetHeader, head: &[u8], payload: &[u8]) -> Result<(), PutError> {
        self.add(head, payload).map(|_| ())
    }

    fn put_completed(
        &mut self,
        partial: PartialChecksum,
        head: &[u8],
        payload: &[u8],
        _: &mut Workspace,
    ) -> Result<(), PutError> {
        checksum::complete(self.add(head, payload)?, partial);
        Ok(())
    }
}

/// Frames to the stream.
#[derive(Debug)]
pub struct StreamLink<'a> {
    stream: Option<&'a UnixStream>,
    writer: &'a mut Writer,
}

impl StreamLink<'_> {
    /// See [`GuestLink::put`](crate::link::GuestLink::put).
    ///
    /// # Errors
    /// [`Full`].
    #[inline]
    pub fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        self.writer.make_room(self.stream)?;
        let Writer { buffer, bytes, workspace, segmented, .. } = &mut *self.writer;
        let mut room = Room { buffer, end: &mut bytes.end };
        // There is room for all segments, so none is left over.
        let cut = finish::put(&mut room, offload, head, payload, workspace, &mut Backlog::default());
        *segmented += u64::from(cut == Ok(true));
        Ok(())
    }

    /// See [`GuestLink::reserve`](crate::link::GuestLink::reserve).
    ///
    /// # Errors
    /// [`Full`].
    pub fn reserve(
        &mut self,
        offload: Offload,
        head: &[u8],
        payload_bytes: u32,
    ) -> Result<Option<StreamReservation<'_>>, Full> {
        let length = head.len() + payload_bytes as usize;
        if matches!(finish::simplest(offload, length, Offloads::NONE), Offload::Segment(_)) || length > LONGEST {
            return Ok(None);
        }
        self.writer.make_room(self.stream)?;
        let Writer { buffer, bytes, .. } = &mut *self.writer;
        let room = Room { buffer, end: &mut bytes.end };
        Ok(Some(StreamReservation { room, head_bytes: head.len(), payload_bytes: payload_bytes as usize }))
    }

    /// Sends what was put.
    pub fn flush(&mut self) {
        if let Some(stream) = self.stream {
            self.writer.send(stream);
        }
    }
}

/// Room for one frame in what is to be sent.
#[derive(Debug)]
pub struct StreamReservation<'a> {
    room: Room<'a>,
    head_bytes: usize,
    payload_bytes: usize,
}

impl StreamReservation<'_> {
    /// See [`Reservation::rooms`](super::Reservation::rooms).
    pub fn rooms(&mut self) -> Rooms<'_> {
        let start = *self.room.end + LENGTH_BYTES + self.head_bytes;
        Rooms::from(self.room.buffer.get_mut(start..start + self.payload_bytes).unwrap_or_default())
    }

    /// See [`Reservation::commit`](super::Reservation::commit).
    pub fn commit(mut self, offload: Offload, head: &[u8], payload_bytes: u32) {
        let payload_bytes = self.payload_bytes.min(payload_bytes as usize);
        let offload = finish::simplest(offload, self.head_bytes + payload_bytes, Offloads::NONE);
        // There was room for it.
        let Ok(frame) = self.room.take(self.head_bytes + payload_bytes) else { return };
        for (to, from) in frame.iter_mut().zip(head).take(self.head_bytes) {
            *to = *from;
        }
        if let Offload::Checksum(partial) = offload {
            checksum::complete(frame, partial);
        }
    }
}

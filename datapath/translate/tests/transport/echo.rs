//! An event loop around one transport, in a thread of its own, that sends each frame back as it came.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use culvert_frame::{DropReason, Offload};
use culvert_guest::{Packet, descriptor};
use culvert_translate::link::{Full, GuestLink};
use culvert_translate::time::Instant;
use culvert_translate::transport::{Link, News, Totals, Transport};
use mio::{Events, Poll, Registry, Token, Waker};
use rustix::net::RecvFlags;

/// The first token of the transport: not 0, as in the translator.
const FIRST: Token = Token(1 << 40);
const WAKER: Token = Token(0);

/// The loop. It ends when this is dropped.
pub struct Echo {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    news: Receiver<News>,
}

struct Shared {
    waker: Waker,
    orders: Mutex<Vec<Order>>,
    turns: AtomicU64,
    /// Frames that came.
    frames: AtomicU64,
    /// Frames whose payload went from a socket into room that was reserved.
    reserved: AtomicU64,
    refused: Mutex<Vec<DropReason>>,
    totals: Mutex<Totals>,
}

enum Order {
    Stop,
    Quarantine,
    /// The loop looks for frames, and does not sleep; or no more.
    Look(bool),
    /// Frames of the loop's own.
    Send(Vec<(Offload, Vec<u8>)>),
}

impl Echo {
    /// Runs what `make` makes of a registry and the first token.
    pub fn start(make: impl FnOnce(&Registry, Token) -> Transport) -> Self {
        let poll = Poll::new().unwrap();
        let transport = make(poll.registry(), FIRST);
        let shared = Arc::new(Shared {
            waker: Waker::new(poll.registry(), WAKER).unwrap(),
            orders: Mutex::default(),
            turns: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            refused: Mutex::default(),
            totals: Mutex::default(),
        });
        let (send, news) = channel();
        let ours = Arc::clone(&shared);
        let thread = std::thread::spawn(move || run(transport, poll, &ours, &send));
        Self { shared, thread: Some(thread), news }
    }

    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }

    pub fn frames(&self) -> u64 {
        self.shared.frames.load(Ordering::Relaxed)
    }

    pub fn reserved(&self) -> u64 {
        self.shared.reserved.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> Vec<DropReason> {
        self.shared.refused.lock().unwrap().clone()
    }

    pub fn totals(&self) -> Totals {
        *self.shared.totals.lock().unwrap()
    }

    pub fn quarantine(&self) {
        self.order(Order::Quarantine);
    }

    pub fn send(&self, frames: Vec<(Offload, Vec<u8>)>) {
        self.order(Order::Send(frames));
    }

    /// From now on the loop looks for frames and does not sleep, or no more.
    pub fn look(&self, look: bool) {
        self.order(Order::Look(look));
    }

    /// Waits until the transport tells something.
    pub fn wait_for(&self, what: &str, is_it: impl Fn(News) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let news = self.news.recv_timeout(deadline - Instant::now());
            if is_it(news.unwrap_or_else(|_| panic!("{what} was not told"))) {
                return;
            }
        }
    }

    /// Whether the loop sleeps: it has no turn of its own accord.
    pub fn wait_until_idle(&self) {
        wait_until("an idle loop", || {
            let before = self.turns();
            std::thread::sleep(Duration::from_millis(50));
            self.turns() == before
        });
    }

    fn order(&self, order: Order) {
        self.shared.orders.lock().unwrap().push(order);
        self.shared.waker.wake().unwrap();
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.order(Order::Stop);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the loop failed");
    }
}

/// Longer than anything takes on any machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits for what is bound to come.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn run(mut transport: Transport, mut poll: Poll, shared: &Shared, told: &Sender<News>) {
    let mut events = Events::with_capacity(64);
    let mut back: VecDeque<(Offload, Vec<u8>)> = VecDeque::new();
    let mut full = false;
    // Every other frame is received by the transport from a socket.
    let mut looks = false;
    let (mut by_kernel, pipe) = (false, UnixStream::pair().unwrap());
    loop {
        let now = Instant::now();
        let timeout = transport.deadline(now).map(|at| at.saturating_duration_since(now));
        poll.poll(&mut events, if looks { Some(Duration::ZERO) } else { timeout }).unwrap();
        if looks && events.is_empty() && !transport.has_frames() {
            continue;
        }
        let now = Instant::now();
        for event in events.iter().filter(|event| event.token() != WAKER) {
            transport.event(event.token(), now);
        }
        for order in std::mem::take(&mut *shared.orders.lock().unwrap()) {
            match order {
                Order::Stop => return,
                Order::Look(look) => {
                    looks = look;
                    transport.stay_awake(look);
                }
                Order::Quarantine => transport.quarantine("a test".to_owned()),
                Order::Send(frames) => back.extend(frames),
            }
        }
        let news = transport.turn(now);
        full &= !news.room;
        if news.left {
            back.clear();
        }
        let (mut source, mut link) = transport.halves();
        for _ in 0..4 {
            let burst = source.receive();
            if burst.is_empty() {
                break;
            }
            for index in 0..burst.len() {
                match burst.frame(index) {
                    Ok((packet, offload)) => back.push_back((offload, copy(&packet))),
                    Err(reason) => shared.refused.lock().unwrap().push(reason),
                }
                shared.frames.fetch_add(1, Ordering::Relaxed);
            }
        }
        while !full && let Some((offload, frame)) = back.front() {
            let (head, payload) = frame.split_at(head_bytes(*offload, frame));
            let result = if by_kernel {
                put_by_kernel(&mut link, *offload, head, payload, &pipe, &shared.reserved)
            } else {
                link.put(*offload, head, payload)
            };
            match result {
                Ok(()) => {
                    back.pop_front();
                    by_kernel = !by_kernel;
                }
                Err(_) => full = true,
            }
        }
        link.flush();
        // What is told was done.
        *shared.totals.lock().unwrap() = transport.totals();
        shared.turns.fetch_add(1, Ordering::Relaxed);
        if news != News::default() {
            told.send(news).unwrap();
        }
    }
}

/// Puts a frame whose payload is received from a socket, if that can be.
fn put_by_kernel(
    link: &mut Link<'_>,
    offload: Offload,
    head: &[u8],
    payload: &[u8],
    (there, here): &(UnixStream, UnixStream),
    reserved: &AtomicU64,
) -> Result<(), Full> {
    // More room than is needed in the end.
    let most = payload.len().min(60_000) as u32 + 100;
    if payload.len() as u32 > most {
        return link.put(offload, head, payload);
    }
    if let Some(mut reservation) = link.reserve(offload, head, most)?
        && reservation.rooms().bytes() as usize >= payload.len()
    {
        if !payload.is_empty() {
            (&mut &*there).write_all(payload).unwrap();
            let count = descriptor::receive(here.as_fd(), reservation.rooms(), RecvFlags::DONTWAIT);
            match count {
                Ok(count) => assert_eq!(count, payload.len()),
                // The memory was lost.
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(14), "{error}");
                    (&mut &*here).read_exact(&mut vec![0; payload.len()]).unwrap();
                }
            }
        }
        reservation.commit(offload, head, payload.len() as u32);
        reserved.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    // There is none, or room for a part only: an echo is whole.
    link.put(offload, head, payload)
}

fn head_bytes(offload: Offload, frame: &[u8]) -> usize {
    match offload {
        Offload::Segment(segmentation) => usize::from(segmentation.header_bytes),
        _ => frame.len().min(54),
    }
}

fn copy(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = packet.head.to_vec();
    for piece in packet.rest() {
        let at = bytes.len();
        bytes.resize(at + piece.length() as usize, 0);
        piece.copy_to(0, &mut bytes[at..]);
    }
    bytes
}

//! The queues of a guest that is played, as a device of smoltcp.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use culvert_driver::{Buffer, Descriptor, Ram, Ring};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use vhost::VhostBackend;
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use crate::dialogue::{self, EVENT_IDX, Events, MQ, MRG_RXBUF};

/// By which queue pair the guest sends.
#[derive(Clone, Copy)]
pub enum Way {
    /// By the guest's port; what has none, by the last one.
    ByPort,
    Always(usize),
    /// So many frames by one, then so many by the next one.
    InTurn(usize),
}

pub struct Queues {
    ram: Rc<Ram>,
    /// Receive rings have even numbers, transmit rings odd ones.
    rings: Vec<Queue>,
    frontend: Option<Frontend>,
    stream: UnixStream,
    pub way: Way,
    next: usize,
    /// Segments that came, by queue pair and the guest's port.
    pub arrived: BTreeMap<(usize, u16), u64>,
}

struct Queue {
    ring: Ring,
    /// None: the translator does not have it.
    events: Option<Events>,
    buffers: u64,
}

const SIZE: u16 = 128;
const BUFFER: u32 = 2048;
const HEADER: usize = 12;

impl Queues {
    pub fn attach(stream: UnixStream, pairs: usize) -> Self {
        let ram = Rc::new(Ram::new((pairs as u64) << 20, false));
        let rings = (0..2 * pairs)
            .map(|_| {
                let ring = Ring::new(Rc::clone(&ram), SIZE, true);
                let buffers = ram.allocate(u64::from(SIZE) * u64::from(BUFFER), 64);
                Queue { ring, events: None, buffers }
            })
            .collect();
        let placeholder = stream.try_clone().unwrap();
        let arrived = BTreeMap::new();
        let mut queues = Self { ram, rings, frontend: None, stream: placeholder, way: Way::ByPort, next: 0, arrived };
        queues.attach_again(stream);
        queues
    }

    /// As a driver does that starts anew.
    pub fn attach_again(&mut self, stream: UnixStream) {
        self.stream = stream.try_clone().unwrap();
        let several = if self.rings.len() > 2 { MQ } else { 0 };
        let mut frontend = dialogue::begin(stream, &self.ram, MRG_RXBUF | EVENT_IDX | several, self.rings.len() as u64);
        for (index, queue) in self.rings.iter_mut().enumerate() {
            queue.ring.reset();
            if index % 2 == 0 {
                queue.refill();
            }
            queue.events = Some(dialogue::start_ring(&mut frontend, index, &queue.ring));
        }
        self.frontend = Some(frontend);
    }

    /// Whether all buffers of queue pair `pair` have been filled, and none was taken.
    pub fn is_full(&self, pair: usize) -> bool {
        let ring = &self.rings[2 * pair].ring;
        ring.used_index() == ring.available_index()
    }

    /// As a frontend does that moves its guest away: all rings are stopped, and the connection stays.
    pub fn leave(&mut self) -> (Frontend, UnixStream) {
        (0..self.rings.len() / 2).for_each(|pair| self.stop(pair));
        (self.frontend.take().unwrap(), self.stream.try_clone().unwrap())
    }

    /// As a frontend does that its guest comes to: `before` is done before any ring starts.
    pub fn arrive(&mut self, stream: UnixStream, before: impl FnOnce(&UnixStream)) {
        self.stream = stream.try_clone().unwrap();
        let several = if self.rings.len() > 2 { MQ } else { 0 };
        let frontend = dialogue::begin(stream, &self.ram, MRG_RXBUF | EVENT_IDX | several, self.rings.len() as u64);
        self.frontend = Some(frontend);
        before(&self.stream);
        (0..self.rings.len() / 2).for_each(|pair| self.restart(pair));
    }

    /// As one does whose guest stays after all.
    pub fn stay(&mut self, frontend: Frontend) {
        self.frontend = Some(frontend);
        (0..self.rings.len() / 2).for_each(|pair| self.restart(pair));
    }

    pub fn detach(&mut self) {
        self.frontend = None;
        let _ = self.stream.shutdown(Shutdown::Both);
        self.rings.iter_mut().for_each(|queue| queue.events = None);
    }

    /// Whether the translator has ended the connection.
    pub fn is_closed(&mut self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.stream, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
        polled[0].revents().contains(PollFlags::HUP) || (!polled[0].revents().is_empty() && self.reads_nothing())
    }

    fn reads_nothing(&mut self) -> bool {
        (&self.stream).read(&mut [0]).map_or(true, |count| count == 0)
    }

    pub fn wait_closed(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !self.is_closed() {
            assert!(std::time::Instant::now() < deadline, "the connection stays");
            thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn enable(&mut self, pair: usize, enabled: bool) {
        let frontend = self.frontend.as_mut().unwrap();
        for index in [2 * pair, 2 * pair + 1] {
            frontend.set_vring_enable(index, enabled).unwrap();
        }
    }

    pub fn stop(&mut self, pair: usize) {
        let frontend = self.frontend.as_mut().unwrap();
        for index in [2 * pair, 2 * pair + 1] {
            let position = frontend.get_vring_base(index).unwrap();
            assert_eq!(position, u32::from(self.rings[index].ring.used_index()), "nothing is in between");
            self.rings[index].events = None;
        }
    }

    pub fn restart(&mut self, pair: usize) {
        let frontend = self.frontend.as_mut().unwrap();
        for index in [2 * pair, 2 * pair + 1] {
            let queue = &mut self.rings[index];
            let position = queue.ring.used_index();
            queue.events = Some(dialogue::start_ring_at(frontend, index, &queue.ring, position));
        }
    }

    /// The memory that there is already, as where some was added: all rings stop and start.
    pub fn set_memory_again(&mut self) {
        dialogue::set_memory(self.frontend.as_mut().unwrap(), &self.ram);
    }

    /// The guest's memory vanishes, and it kicks for its frames of queue pair `pair`.
    pub fn lose_memory(&mut self, pair: usize) {
        rustix::fs::ftruncate(self.ram.file(), 0).unwrap();
        self.rings[2 * pair + 1].kick();
    }

    /// There is memory again, with nothing in it.
    pub fn find_memory(&mut self) {
        rustix::fs::ftruncate(self.ram.file(), self.ram.size()).unwrap();
    }

    /// Of a transmit ring: more buffers than it has room for are on offer. Of a receive ring: buffers lie outside of the guest's
    /// memory.
    pub fn break_ring(&mut self, index: usize) {
        let queue = &mut self.rings[index];
        if index % 2 == 1 {
            queue.ring.set_available_index(queue.ring.available_index().wrapping_add(SIZE + 1));
            queue.kick();
        } else {
            let outside = Descriptor { address: 1 << 60, length: BUFFER, flags: 2, next: 0 };
            (0..SIZE).for_each(|head| queue.ring.set_descriptor(head, outside));
        }
    }

    /// Sends a frame by the queue pair `pair`, when there is room.
    pub fn send_by(&mut self, pair: usize, frame: &[u8]) {
        let queue = &mut self.rings[2 * pair + 1];
        if queue.events.is_none() {
            return;
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            while queue.ring.take_used().is_some() {}
            if queue.ring.free() > 0 {
                break;
            }
            // A ring that nobody serves any more: the frame is lost.
            if std::time::Instant::now() > deadline {
                return;
            }
            thread::sleep(Duration::from_micros(20));
        }
        let address = queue.buffers + u64::from(queue.ring.next_head()) * u64::from(BUFFER);
        self.ram.write(address, &[&[0; HEADER][..], frame].concat());
        let length = (HEADER + frame.len()) as u32;
        queue.ring.offer(&[Buffer { address, length, writable: false }]).unwrap();
        if queue.ring.publish() {
            queue.kick();
        }
    }

    fn send(&mut self, frame: &[u8]) {
        let pairs = self.rings.len() / 2;
        let pair = match self.way {
            Way::ByPort => segment_ports(frame).map_or(pairs - 1, |(from, _)| usize::from(from) % pairs),
            Way::Always(pair) => pair,
            Way::InTurn(frames) => {
                self.next += 1;
                self.next / frames % pairs
            }
        };
        self.send_by(pair, frame);
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        for (pair, queue) in self.rings.iter_mut().step_by(2).enumerate() {
            if let Some((head, length)) = queue.ring.take_used() {
                let mut bytes = vec![0; length as usize];
                self.ram.read(queue.buffers + u64::from(head) * u64::from(BUFFER), &mut bytes);
                queue.refill();
                let frame = bytes.split_off(HEADER);
                if let Some((_, to)) = segment_ports(&frame) {
                    *self.arrived.entry((pair, to)).or_default() += 1;
                }
                return Some(frame);
            }
        }
        None
    }

    pub fn drop_received(&mut self) {
        while self.take().is_some() {}
    }
}

impl Queue {
    fn refill(&mut self) {
        while self.ring.free() > 0 {
            let address = self.buffers + u64::from(self.ring.next_head()) * u64::from(BUFFER);
            self.ring.offer(&[Buffer { address, length: BUFFER, writable: true }]);
        }
        if self.ring.publish() {
            self.kick();
        }
    }

    fn kick(&self) {
        if let Some(events) = &self.events {
            events.kick.write(1).unwrap();
        }
    }
}

/// The ports of a segment of TCP over IPv4, from and to.
fn segment_ports(frame: &[u8]) -> Option<(u16, u16)> {
    let is_tcp = frame.get(12..14)? == [8, 0] && *frame.get(23)? == 6;
    let ports = frame.get(34..38).filter(|_| is_tcp)?;
    Some((u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
}

impl Device for Queues {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Sender<'_>)> {
        let frame = self.take()?;
        Some((Frame(frame), Sender(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

pub struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub struct Sender<'a>(&'a mut Queues);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        self.0.send(&frame);
        result
    }
}

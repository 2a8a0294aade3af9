//! Echo requests to a guest at short, equal distances, and for how long it does not answer.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::place::Namespace;

/// The time from one echo request to the next.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Requests that go out of a namespace until this is dropped.
pub struct Pings {
    sent: Arc<Mutex<Vec<Ping>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// One request.
#[derive(Clone, Copy)]
struct Ping {
    sent: SystemTime,
    answered: Option<SystemTime>,
}

/// What became of the requests of some time.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// How many requests there were.
    pub sent: usize,
    /// How many of them were not answered until now.
    pub lost: usize,
    /// The longest time in which no answer came.
    pub silence: Duration,
}

impl Pings {
    /// Begins.
    ///
    /// # Errors
    /// The test is not root.
    pub fn start(from: &Namespace, address: &str) -> Result<Self> {
        let socket = from.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let raw = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp).context("needs root")?;
            // Of the same system calls as a socket of UDP; the kernel passes over the port.
            let socket = UdpSocket::from(raw);
            socket.connect((address, 0)).with_context(|| address.to_owned())?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(INTERVAL))?;
        // raw(7): each such socket gets all answers; so ours have a number of their own.
        let identifier = u16::try_from(socket.as_raw_fd())? ^ 0x5a00;
        let receiver = socket.try_clone()?;
        let (sent, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let ours = (Arc::clone(&sent), Arc::clone(&stop));
        let sender = thread::spawn(move || send(&socket, identifier, &ours.0, &ours.1));
        let ours = (Arc::clone(&sent), Arc::clone(&stop));
        let receiver = thread::spawn(move || receive(&receiver, identifier, &ours.0, &ours.1));
        Ok(Self { sent, stop, threads: vec![sender, receiver] })
    }

    /// What became of the requests that were sent in this time.
    pub fn answers(&self, from: SystemTime, to: SystemTime) -> Answers {
        let of_this_time: Vec<Ping> =
            lock(&self.sent).iter().filter(|ping| (from..to).contains(&ping.sent)).copied().collect();
        let mut times: Vec<SystemTime> = of_this_time.iter().filter_map(|ping| ping.answered).collect();
        times.extend([from, to]);
        times.sort_unstable();
        let gaps = times.iter().zip(times.iter().skip(1)).map(|(one, next)| next.duration_since(*one));
        Answers {
            sent: of_this_time.len(),
            lost: of_this_time.iter().filter(|ping| ping.answered.is_none()).count(),
            silence: gaps.filter_map(Result::ok).max().unwrap_or_default(),
        }
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It fails only when the thread has panicked: the test has seen what that did.
            let _ = thread.join();
        }
    }
}

/// Sends requests, each with its place in the list.
fn send(socket: &UdpSocket, identifier: u16, sent: &Mutex<Vec<Ping>>, stop: &AtomicBool) {
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let number = {
            let mut list = lock(sent);
            list.push(Ping { sent: SystemTime::now(), answered: None });
            list.len() as u64 - 1
        };
        // A neighbour that does not answer is an error as well; the request is lost then.
        let _ = socket.send(&request(identifier, number));
        // Where this thread had to wait there are fewer, not many at once.
        due = (due + INTERVAL).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Notes when each is answered.
fn receive(socket: &UdpSocket, identifier: u16, sent: &Mutex<Vec<Ping>>, stop: &AtomicBool) {
    let mut bytes = [0; 128];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut bytes) {
            Ok(length) => {
                let number = bytes.get(..length).and_then(|packet| number_in(packet, identifier));
                let mut list = lock(sent);
                if let Some(ping) = number.and_then(|number| list.get_mut(usize::try_from(number).ok()?)) {
                    ping.answered.get_or_insert(SystemTime::now());
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // What the kernel says about a request that it could not send.
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

/// An echo request (RFC 792) whose payload is its number.
fn request(identifier: u16, number: u64) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(number.to_be_bytes());
    let sum = packet.chunks_exact(2).fold(0_u32, |sum, pair| match pair {
        &[one, two] => sum + u32::from(u16::from_be_bytes([one, two])),
        _ => sum,
    });
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let sum = !u16::try_from(folded).unwrap_or_default();
    packet.splice(2..4, sum.to_be_bytes());
    packet
}

/// The number in an answer of ours, behind its IPv4 header.
fn number_in(packet: &[u8], identifier: u16) -> Option<u64> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let message = packet.get(header..)?;
    let is_ours = message.starts_with(&[0, 0]) && message.get(4..6)? == identifier.to_be_bytes();
    let number = message.get(8..16)?;
    is_ours.then(|| u64::from_be_bytes(number.try_into().unwrap_or_default()))
}

fn lock(list: &Mutex<Vec<Ping>>) -> MutexGuard<'_, Vec<Ping>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_answer() {
        let mut answer = vec![0x45; 20];
        answer.extend(request(7, 0x0102_0304_0506));
        answer[20] = 0;
        assert_eq!(number_in(&answer, 7), Some(0x0102_0304_0506));
        assert_eq!(number_in(&answer, 8), None);
        assert_eq!(number_in(&answer[..30], 7), None);
    }
}

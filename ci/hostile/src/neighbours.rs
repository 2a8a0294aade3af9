//! Two guests that exchange numbered frames all the time, in a thread of their own: what a case must not disturb.
//!
//! Every frame has a number, a length and bytes that follow from the number. It must come once, in order and unchanged. A frame with
//! the ethertype [`ECHO`] comes back to its sender, so that a victim can see whether it reaches them.
//!
//! The guests are culvert-driver behind the `vhost` crate's frontend, and so have nothing in common with what plays the attacks.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use culvert_driver::Shape;
use culvert_system::frontend::FrontendGuest;

/// Ethertype of the numbered frames (IEEE 802, local experimental 1).
pub const NUMBERED: [u8; 2] = [0x88, 0xb5];

/// Ethertype of frames that a neighbour sends back (local experimental 2).
pub const ECHO: [u8; 2] = [0x88, 0xb6];

/// The neighbours' addresses: left, right.
pub const ADDRESSES: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// How fast the neighbours send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So many frames a second from each side, in one burst every millisecond at most.
    PerSecond(u32),
    /// As fast as frames come back.
    Fastest,
}

impl Pace {
    /// Whether there is no time to sleep between two looks.
    const fn is_busy(self) -> bool {
        match self {
            Self::Fastest => true,
            Self::PerSecond(rate) => rate >= BUSY_RATE,
        }
    }
}

/// What they have seen so far, of both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that were sent.
    pub sent: u64,
    /// Numbered frames that came, in order and unchanged.
    pub received: u64,
    /// Frames that did not come before a later one did.
    pub lost: u64,
    /// Frames that came twice, late or changed.
    pub wrong: u64,
    /// The longest time without a frame, of the worse direction.
    pub longest_gap: Duration,
    /// Times from sending to receiving since the last call of [`Neighbours::mark`]: half were at most this. Under load, what the
    /// neighbours themselves waited for a core is not part of it.
    pub median: Duration,
    /// 99 in 100 were at most this.
    pub p99: Duration,
}

/// The two guests at work. They leave when this is dropped.
pub struct Neighbours {
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Mark,
    Pace(Pace),
    Pause,
    Settle(Sender<Result<Counts>>),
}

impl Neighbours {
    /// Connects two guests and lets them talk.
    ///
    /// # Errors
    /// A guest cannot connect.
    pub fn start(sockets: [&Path; 2], pace: Pace) -> Result<Self> {
        let (orders, inbox) = channel();
        let (started, ready) = channel();
        let sockets = sockets.map(Path::to_owned);
        let thread = thread::Builder::new().name("neighbours".to_owned()).spawn(move || {
            match Pair::connect(&sockets, pace) {
                Ok(mut pair) => {
                    let _ = started.send(Ok(()));
                    pair.run(&inbox);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        ready.recv().context("the neighbours ended")??;
        Ok(Self { orders, thread: Some(thread) })
    }

    /// Stops sending, waits until all frames have come or cannot be waited for any longer, and goes on sending.
    ///
    /// # Errors
    /// The connection of a neighbour is broken.
    pub fn settle(&self) -> Result<Counts> {
        let (answer, counts) = channel();
        self.order(Order::Settle(answer))?;
        counts.recv().context("the neighbours ended")?
    }

    /// Forgets gaps and times that were measured so far, but no loss.
    ///
    /// # Errors
    /// The neighbours have ended.
    pub fn mark(&self) -> Result<()> {
        self.order(Order::Mark)
    }

    /// Sends faster or slower from now on.
    ///
    /// # Errors
    /// The neighbours have ended.
    pub fn set_pace(&self, pace: Pace) -> Result<()> {
        self.order(Order::Pace(pace))
    }

    /// Sends nothing, and counts no gap, until the next [`Neighbours::set_pace`].
    ///
    /// # Errors
    /// The neighbours have ended.
    pub fn pause(&self) -> Result<()> {
        self.order(Order::Pause)
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).map_err(|_| anyhow!("the neighbours ended"))
    }

    /// Ends their connections.
    pub fn end(&mut self) {
        // The thread ends when nobody can give it orders.
        let (nobody, _) = channel();
        self.orders = nobody;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.end();
    }
}

/// The two guests, in their thread.
struct Pair {
    guests: [FrontendGuest; 2],
    /// By the direction: from left to right, from right to left.
    directions: [Direction; 2],
    pace: Option<Pace>,
    due: Instant,
    wrong: u64,
    times: Vec<u32>,
    watch: Watch,
}

/// Tells the time less what this thread waited for a core: others run on its core in many cases, and frames that came meanwhile
/// were not late.
struct Watch {
    start: Instant,
    /// When it was last looked at, and the processor time that the thread had then.
    last: (Instant, Duration),
    waited: Duration,
}

impl Watch {
    fn start() -> Self {
        let now = Instant::now();
        Self { start: now, last: (now, processor_time()), waited: Duration::ZERO }
    }

    /// The time since the start. With `busy` this thread has not slept since the last look: what it did not run, it waited.
    fn look(&mut self, now: Instant, busy: bool) -> Duration {
        let (then, had) = std::mem::replace(&mut self.last, (now, processor_time()));
        if busy {
            self.waited += now.duration_since(then).saturating_sub(self.last.1.saturating_sub(had));
        }
        now.duration_since(self.start).saturating_sub(self.waited)
    }
}

/// This thread's (clock_gettime(2), `CLOCK_THREAD_CPUTIME_ID`).
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Frames on their way from one neighbour to the other.
#[derive(Default)]
struct Direction {
    sent: u64,
    received: u64,
    lost: u64,
    /// When each frame was sent that has not come yet, by the [`Watch`]; the first one has the number `received + lost`.
    on_way: VecDeque<Duration>,
    last: Option<Instant>,
    longest_gap: Duration,
}

impl Pair {
    fn connect(sockets: &[PathBuf; 2], pace: Pace) -> Result<Self> {
        let [left, right] = sockets;
        let shape = Shape { queue_size: QUEUE_SIZE, ..Shape::default() };
        let guests = [FrontendGuest::connect(left, shape)?, FrontendGuest::connect(right, shape)?];
        let directions = [Direction::default(), Direction::default()];
        let watch = Watch::start();
        Ok(Self { guests, directions, pace: Some(pace), due: Instant::now(), wrong: 0, times: Vec::new(), watch })
    }

    fn run(&mut self, inbox: &Receiver<Order>) {
        let mut broken = None;
        loop {
            let pause = if self.pace.is_some_and(Pace::is_busy) { Duration::ZERO } else { TICK };
            match inbox.recv_timeout(pause) {
                Ok(Order::Mark) => self.mark(),
                Ok(Order::Pace(pace)) => self.set_pace(Some(pace)),
                Ok(Order::Pause) => self.set_pace(None),
                Ok(Order::Settle(answer)) => {
                    let counts = match broken.take() {
                        None => self.settle(),
                        Some(error) => Err(error),
                    };
                    let _ = answer.send(counts);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if broken.is_none() {
                broken = self.turn(true).err();
            }
        }
    }

    /// Sends what is due, if it is to, and takes in what came.
    fn turn(&mut self, sending: bool) -> Result<()> {
        let now = Instant::now();
        let time = self.watch.look(now, sending && self.pace.is_some_and(Pace::is_busy));
        let [left, right] = &mut self.guests;
        let [there, back] = &mut self.directions;
        let burst = match self.pace {
            Some(_) if !sending => 0,
            None => 0,
            Some(Pace::Fastest) => FASTEST_BURST,
            Some(Pace::PerSecond(rate)) => {
                // What was not sent in time is not made up for: it would be a burst that nobody asked for.
                let elapsed = now.saturating_duration_since(self.due).min(LATEST);
                let interval = Duration::from_secs(1) / rate.max(1);
                let count = u32::try_from(elapsed.as_nanos() / interval.as_nanos().max(1)).unwrap_or(0);
                self.due = if elapsed == LATEST { now } else { self.due + interval * count };
                count
            }
        };
        there.send(left, 0, burst, time)?;
        back.send(right, 1, burst, time)?;
        // Once more: to send the burst took some time as well.
        let now = Instant::now();
        let time = self.watch.look(now, true);
        self.wrong +=
            there.take_in(right, 0, now, time, &mut self.times)? + back.take_in(left, 1, now, time, &mut self.times)?;
        Ok(())
    }

    fn set_pace(&mut self, pace: Option<Pace>) {
        self.pace = pace;
        self.due = Instant::now();
        self.directions.iter_mut().for_each(|direction| direction.last = None);
    }

    fn mark(&mut self) {
        self.times.clear();
        for direction in &mut self.directions {
            (direction.last, direction.longest_gap) = (None, Duration::ZERO);
        }
    }

    fn settle(&mut self) -> Result<Counts> {
        let mut deadline = Instant::now() + DRAIN;
        let mut waiting = usize::MAX;
        loop {
            self.turn(false)?;
            let left = self.directions.iter().map(|direction| direction.on_way.len()).sum::<usize>();
            if left < waiting {
                (waiting, deadline) = (left, Instant::now() + DRAIN);
            }
            if left == 0 || Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_micros(200));
        }
        // The last ones were lost if they have not come by now.
        for direction in &mut self.directions {
            direction.lost += direction.on_way.len() as u64;
            direction.on_way.clear();
            direction.last = None;
        }
        self.due = Instant::now();
        Ok(self.counts())
    }

    fn counts(&mut self) -> Counts {
        let sum = |of: fn(&Direction) -> u64| self.directions.iter().map(of).sum();
        let (sent, received, lost) = (sum(|it| it.sent), sum(|it| it.received), sum(|it| it.lost));
        let longest_gap = self.directions.iter().map(|it| it.longest_gap).max().unwrap_or_default();
        self.times.sort_unstable();
        let at = |hundredths: usize| {
            let index = (self.times.len() * hundredths / 100).min(self.times.len().saturating_sub(1));
            Duration::from_micros(u64::from(self.times.get(index).copied().unwrap_or(0)))
        };
        Counts { sent, received, lost, wrong: self.wrong, longest_gap, median: at(50), p99: at(99) }
    }
}

impl Direction {
    /// Sends up to `burst` numbered frames.
    fn send(&mut self, guest: &mut FrontendGuest, from: usize, burst: u32, time: Duration) -> Result<()> {
        for _ in 0..burst {
            // A frame for which the receiver had no buffer, since its thread was away, is nobody's loss.
            if self.on_way.len() >= MOST_ON_WAY {
                break;
            }
            if !guest.send(&numbered(from, self.sent))? {
                // The ring is full: the next turn goes on.
                break;
            }
            self.sent += 1;
            self.on_way.push_back(time);
        }
        Ok(())
    }

    /// Takes in what came at the other end; returns how many frames came twice, late or changed.
    fn take_in(
        &mut self,
        guest: &mut FrontendGuest,
        from: usize,
        now: Instant,
        time: Duration,
        times: &mut Vec<u32>,
    ) -> Result<u64> {
        let mut wrong = 0;
        while let Some((_, frame)) = guest.interface.receive() {
            // Copies of what is for somebody else are not its to count or to answer.
            if !is_for(from, &frame) {
                continue;
            }
            match frame.get(12..14) {
                Some(kind) if kind == NUMBERED => wrong += u64::from(!self.count(&frame, from, now, time, times)),
                Some(kind) if kind == ECHO => answer(guest, frame)?,
                _ => {}
            }
        }
        Ok(wrong)
    }

    /// Counts a numbered frame; whether it is the expected one or a later one, unchanged.
    fn count(&mut self, frame: &[u8], from: usize, now: Instant, time: Duration, times: &mut Vec<u32>) -> bool {
        let number = frame.get(14..22).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let expected = self.received + self.lost;
        let Some(number) = number.filter(|&number| number >= expected && number < self.sent) else { return false };
        if frame != numbered(from, number) {
            return false;
        }
        while self.received + self.lost < number {
            self.lost += 1;
            self.on_way.pop_front();
        }
        self.received += 1;
        if let Some(sent) = self.on_way.pop_front() {
            times.push(time.saturating_sub(sent).as_micros().try_into().unwrap_or(u32::MAX));
        }
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now.saturating_duration_since(last));
        }
        true
    }
}

/// The frame of a number.
fn numbered(from: usize, number: u64) -> Vec<u8> {
    let [left, right] = ADDRESSES;
    let (source, destination) = if from == 0 { (left, right) } else { (right, left) };
    let mut frame = [destination.as_slice(), &source, &NUMBERED, &number.to_le_bytes()].concat();
    // From the shortest frame to the longest.
    let length = 60 + usize::try_from(number.wrapping_mul(37) % 1455).unwrap_or(0);
    frame.resize(length, number.to_le_bytes()[0]);
    frame
}

/// Whether a frame is for the neighbour that gets the frames of the other one, `from`.
fn is_for(from: usize, frame: &[u8]) -> bool {
    let [left, right] = ADDRESSES;
    frame.starts_with(if from == 0 { &right } else { &left })
}

/// Sends an echo back. One that does not fit into the ring is lost, which its sender notices.
fn answer(guest: &mut FrontendGuest, mut frame: Vec<u8>) -> Result<()> {
    let Some(addresses) = frame.get_mut(..12) else { bail!("a frame without addresses") };
    addresses.rotate_left(6);
    guest.send(&frame)?;
    Ok(())
}

/// How often the neighbours look at their rings.
const TICK: Duration = Duration::from_millis(1);

const QUEUE_SIZE: u16 = 1024;

/// Frames of a direction that have been sent and have not come: the other half of the receiver's buffers is left to floods.
const MOST_ON_WAY: usize = QUEUE_SIZE as usize / 2;

/// The longest time whose frames are sent at once.
const LATEST: Duration = Duration::from_millis(20);

/// From so many frames a second on the neighbours do not sleep.
const BUSY_RATE: u32 = 10_000;

/// How many frames are sent between two looks, at most, when there is no rate.
const FASTEST_BURST: u32 = 32;

/// A frame that has not come after so long without any other is lost.
const DRAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_is_lost_changed_or_comes_twice_is_counted() {
        let now = Instant::now();
        let sent = Duration::from_secs(1);
        let mut direction = Direction { sent: 10, on_way: (0..10).map(|_| sent).collect(), ..Direction::default() };
        let mut times = Vec::new();
        let mut count = |direction: &mut Direction, frame: &[u8]| direction.count(frame, 0, now, sent, &mut times);
        assert!(count(&mut direction, &numbered(0, 0)));
        assert!(!count(&mut direction, &numbered(0, 0)));
        assert!(count(&mut direction, &numbered(0, 3)));
        let mut changed = numbered(0, 4);
        changed[40] ^= 1;
        assert!(!count(&mut direction, &changed));
        assert!(!count(&mut direction, &numbered(1, 4)));
        assert!(!count(&mut direction, &numbered(0, 10)));
        assert_eq!((direction.received, direction.lost, direction.on_way.len()), (2, 2, 6));
    }
}

//! Two guests of the test's own that send each other a frame every fraction of a millisecond, in a thread of its own, and note for how long none
//! came while something is done to the switch between them. Unlike a real guest's pings this tells of the switch alone.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use culvert_driver::Shape;

use crate::frontend::FrontendGuest;

/// The guests at work. They leave when this is dropped.
pub struct Beat {
    orders: Sender<Sender<Result<Seen>>>,
    _thread: JoinHandle<()>,
}

/// What was seen since this was asked last.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The longest time without a frame, of the worse direction.
    pub gap: Duration,
    /// Frames that came.
    pub frames: u64,
    /// Frames that never came.
    pub lost: u64,
}

impl Beat {
    /// Connects two guests, and lets them send.
    ///
    /// # Errors
    /// A guest cannot connect.
    pub fn start(sockets: [&Path; 2]) -> Result<Self> {
        let sockets = sockets.map(Path::to_owned);
        let (orders, inbox) = channel();
        let (started, ready) = channel();
        let _thread = thread::Builder::new().name("beat".to_owned()).spawn(move || {
            let shape = Shape { queue_size: QUEUE_SIZE, ..Shape::default() };
            let [left, right] = sockets.map(|socket| FrontendGuest::connect(&socket, shape));
            match left.and_then(|left| Ok([left, right?])) {
                Ok(guests) => {
                    let _ = started.send(Ok(()));
                    run(guests, &inbox);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        ready.recv().context("the guests have ended")??;
        Ok(Self { orders, _thread })
    }

    /// What was seen since this was asked last.
    ///
    /// # Errors
    /// A frame was changed, or came twice or out of order; a kick does not work.
    pub fn seen(&self) -> Result<Seen> {
        let (answer, seen) = channel();
        self.orders.send(answer).map_err(|_| anyhow!("the guests have ended"))?;
        seen.recv().context("the guests have ended")?
    }
}

/// Frames from one guest to the other.
#[derive(Default)]
struct Direction {
    sent: u64,
    /// Numbers of frames that have not come yet.
    on_way: VecDeque<u64>,
    last: Option<Instant>,
    gap: Duration,
    frames: u64,
    lost: u64,
}

fn run(mut guests: [FrontendGuest; 2], inbox: &Receiver<Sender<Result<Seen>>>) {
    let mut directions = [Direction::default(), Direction::default()];
    let mut wrong = None;
    loop {
        if wrong.is_none() {
            wrong = turn(&mut guests, &mut directions).err();
        }
        match inbox.recv_timeout(INTERVAL) {
            Ok(answer) => {
                let seen = match wrong.take() {
                    Some(error) => Err(error),
                    None => Ok(take(&mut directions)),
                };
                // Whoever asked may have gone.
                let _ = answer.send(seen);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn turn(guests: &mut [FrontendGuest; 2], directions: &mut [Direction; 2]) -> Result<()> {
    let [left, right] = guests;
    let [there, back] = directions;
    there.send(left, 1)?;
    back.send(right, 2)?;
    there.take_in(right, 1)?;
    back.take_in(left, 2)
}

fn take(directions: &mut [Direction; 2]) -> Seen {
    let mut seen = Seen { gap: Duration::ZERO, frames: 0, lost: 0 };
    for direction in directions {
        seen.gap = seen.gap.max(std::mem::take(&mut direction.gap));
        seen.frames += std::mem::take(&mut direction.frames);
        seen.lost += std::mem::take(&mut direction.lost);
    }
    seen
}

impl Direction {
    fn send(&mut self, from: &mut FrontendGuest, number: u8) -> Result<()> {
        // No more than the receiver has room for: what is lost beyond that is nobody's fault.
        if self.on_way.len() < MOST_ON_WAY && from.send(&frame(number, self.sent))? {
            self.on_way.push_back(self.sent);
            self.sent += 1;
        }
        Ok(())
    }

    fn take_in(&mut self, at: &mut FrontendGuest, number: u8) -> Result<()> {
        let mut came = false;
        while let Some((_, received)) = at.interface.receive() {
            let of_frame = received.get(14..22).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
            // Others may send as well.
            let Some(of_frame) = of_frame.filter(|of_frame| received == frame(number, *of_frame)) else { continue };
            while self.on_way.pop_front_if(|first| *first < of_frame).is_some() {
                self.lost += 1;
            }
            ensure!(self.on_way.pop_front() == Some(of_frame), "frame {of_frame} came twice, or out of order");
            self.frames += 1;
            came = true;
        }
        let now = Instant::now();
        if came || self.last.is_none() {
            at.kick_receive()?;
            self.gap = self.gap.max(self.last.map_or(Duration::ZERO, |last| now - last));
            self.last = Some(now);
        }
        Ok(())
    }
}

/// A frame of the guest of this number, to the other one.
fn frame(from: u8, number: u64) -> Vec<u8> {
    let address = |guest| [2, 0, 0, 0, 0x77, guest];
    let mut frame = [&address(3 - from)[..], &address(from), &[0x88, 0xb5], &number.to_le_bytes()].concat();
    frame.resize(60, 7);
    frame
}

/// Between two frames.
const INTERVAL: Duration = Duration::from_micros(250);
/// Of each ring: more than two seconds of frames.
const QUEUE_SIZE: u16 = 1024;
const MOST_ON_WAY: usize = 900;

//! Requests of the played guest to the world, one after the other: the time until the answer has come, and what each takes of the translator.
//!
//! The far end is in the same thread, and polls like the guest: the only program that sleeps and wakes up is the translator.

use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Result, ensure};
use culvert_system::translator::WORLD;

use super::far::{Far, PORT, answer};
use super::flows::Flows;
use super::packet::{UDP_HEAD, datagram, parse_datagram};
use super::running::{Running, under_load};
use super::station::{Room, Station};
use crate::clock::{microseconds, ticks};
use crate::latency::quantile;
use crate::options::Options;
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |(name, measure): (&str, Measure)| {
        let options = options.clone();
        Case::new(name, move |peer| {
            under_load(&options, peer, 1, "", |running| {
                let mut all = Times::default();
                measure(&options, running, &mut all)?;
                all.figures()
            })
        })
    };
    Ok([("TCP", tcp as Measure), ("TCP, a connection for each", connections), ("UDP", udp)].map(case).into())
}

type Measure = fn(&Options, &Running, &mut Times) -> Result<()>;

/// How long requests took, and what they took of the translator.
#[derive(Default)]
struct Times {
    ticks: Vec<u64>,
    seconds: f64,
    cpu: f64,
}

impl Times {
    /// Makes requests for a time, and as many that do not count before.
    fn measure(&mut self, options: &Options, running: &Running, mut request: impl FnMut() -> Result<()>) -> Result<()> {
        for _ in 0..WARM_UP {
            request()?;
        }
        let (before, start) = (running.taken()?, Instant::now());
        while start.elapsed() < options.time() && self.ticks.len() < MOST {
            let begin = ticks();
            request()?;
            self.ticks.push(ticks() - begin);
        }
        self.seconds = start.elapsed().as_secs_f64();
        self.cpu = running.taken()?.since(before).running.as_secs_f64();
        Ok(())
    }

    fn figures(mut self) -> Result<Vec<Figure>> {
        let count = self.ticks.len() as f64;
        ensure!(count >= 50.0, "{count} requests are too few");
        self.ticks.sort_unstable();
        let at = |part: f64| microseconds(quantile(&self.ticks, part));
        Ok(vec![
            Figure::cost("p50", "us", at(0.5)),
            Figure::cost("p99", "us", at(0.99)),
            Figure::gain("rate", "1/s", count / self.seconds),
            Figure::cost("processor time", "us each", 1e6 * self.cpu / count),
        ])
    }
}

fn tcp(options: &Options, running: &Running, times: &mut Times) -> Result<()> {
    let mut flows = connect(options, running, 1)?;
    let mut far = Far::new(running.world())?;
    far.open(&mut flows, 0..1)?;
    let mut wanted = 0;
    times.measure(options, running, || {
        flows.write(0, REQUEST)?;
        wanted += u64::from(REQUEST);
        let mut answered = false;
        flows.until("answer", |flows| {
            if !answered {
                answered = answer(far.connection(0)?, REQUEST as usize)?;
            }
            Ok(flows.flow(0).bytes == wanted)
        })
    })
}

/// Each with a connection of its own, which the world closes first, as an HTTP server does.
fn connections(options: &Options, running: &Running, times: &mut Times) -> Result<()> {
    let mut flows = connect(options, running, PORTS)?;
    let far = Far::new(running.world())?;
    let mut next = 0;
    times.measure(options, running, || {
        let index = next % PORTS;
        next += 1;
        flows.open(index)?;
        flows.until("connection", |flows| Ok(flows.flow(index).open))?;
        flows.write(index, REQUEST)?;
        let mut connection: Option<TcpStream> = None;
        flows.until("answer and its end", |flows| {
            if connection.is_none() && !flows.flow(index).ended {
                connection = far.accept()?;
            }
            if let Some(there) = &mut connection
                && answer(there, REQUEST as usize)?
            {
                connection = None;
            }
            Ok(flows.flow(index).ended)
        })?;
        let flow = flows.flow(index);
        ensure!(!flow.reset && flow.bytes == u64::from(REQUEST), "a connection was broken");
        flows.close(index)?;
        flows.turn()
    })
}

fn udp(options: &Options, running: &Running, times: &mut Times) -> Result<()> {
    let mut station = station(options, running)?;
    let far = running.world().udp(&format!("{}:{PORT}", WORLD[0]))?;
    far.set_nonblocking(true)?;
    let head = datagram([20_000, PORT], UDP_HEAD as u32 + REQUEST);
    let mut request = [0; 2048];
    times.measure(options, running, || {
        station.room();
        station.lay(&[0; 12], &head, UDP_HEAD as u32 + REQUEST);
        station.send()?;
        let (mut come, begin) = (false, Instant::now());
        while !come {
            if let Ok((length, from)) = far.recv_from(&mut request) {
                far.send_to(request.get(..length).unwrap_or_default(), from)?;
            }
            station.take(|frame| come |= parse_datagram(frame).is_some_and(|(ports, _)| ports == [PORT, 20_000]))?;
            ensure!(begin.elapsed().as_secs() < 2, "a datagram did not come back");
        }
        Ok(())
    })
}

/// The guest of the first translator, for so many connections.
pub fn connect(options: &Options, running: &Running, count: usize) -> Result<Flows> {
    Ok(Flows::new(station(options, running)?, count, PORT))
}

fn station(options: &Options, running: &Running) -> Result<Station> {
    let translator = running.translators.first().ok_or_else(|| anyhow::anyhow!("a translator"))?;
    Station::connect(translator.socket(), options.ring, Room::FRAMES)
}

/// Bytes of a request and of its answer.
pub const REQUEST: u32 = 32;

const WARM_UP: usize = 200;

/// Ports of the guest: none comes again before its first connection is forgotten.
const PORTS: usize = 50_000;

/// No more than there are ports: whoever waits for the end of a connection keeps it for a while (RFC 9293, 3.6.1).
const MOST: usize = 49_000;

//! TCP connections between a guest and the world, many at once, on which both ends send and check each byte until they are told to end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::guest::Guest;
use crate::place::Namespace;
use crate::traffic::{Endpoint, Host};

/// What the two ends of a connection do.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The world's address where the guest calls, the guest's where the world does.
    pub address: &'static str,
    /// Who calls.
    pub guest_calls: bool,
    /// What the guest sends: at least so many bytes; `None`: it says at once that it sends nothing.
    pub guest_sends: Option<u64>,
    /// The same of the world.
    pub world_sends: Option<u64>,
    /// The time in milliseconds after each 64 KiB.
    pub pause: u32,
}

/// The connections.
pub struct Streams {
    /// Each with its port, by which the guest's shell knows it.
    list: Vec<(u16, Kind, Host)>,
    next: u16,
}

impl Streams {
    /// None yet. They will be at ports from this one on.
    pub fn new(first_port: u16) -> Self {
        Self { list: Vec::new(), next: first_port }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Begins with these as well, in few commands: a guest that does much is slow to take them.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn start(&mut self, world: &Namespace, guest: &mut Guest, kinds: &[Kind]) -> Result<()> {
        let ports: Vec<(u16, Kind)> = (self.next..).zip(kinds.iter().copied()).collect();
        self.next += u16::try_from(ports.len())?;
        let words = |port: u16, kind: &Kind, who: &str, sends: Option<u64>| {
            let sends = sends.map_or("none".to_owned(), |bytes| bytes.to_string());
            format!("exchange {who} {port} {sends} {}", kind.pause)
        };
        let (mut in_guest, mut called) = (String::new(), String::new());
        for (port, kind) in &ports {
            if kind.guest_calls {
                let mut host = Host::new(world);
                host.start(&words(*port, kind, "-", kind.world_sends))?;
                host.wait_listening()?;
                self.list.push((*port, *kind, host));
            } else {
                called += &format!("until grep -q READY /tmp/s{port}; do sleep 0.1; done; ");
            }
            let who = if kind.guest_calls { kind.address } else { "-" };
            let words = words(*port, kind, who, kind.guest_sends);
            in_guest += &format!("guest-traffic {words} >/tmp/s{port} 2>&1 & s{port}=$!; ");
        }
        guest.check(&(in_guest + &called))?;
        for (port, kind) in ports.iter().filter(|(_, kind)| !kind.guest_calls) {
            let mut host = Host::new(world);
            host.start(&words(*port, kind, kind.address, kind.world_sends))?;
            self.list.push((*port, *kind, host));
        }
        Ok(())
    }

    /// Ends all, and looks whether all was right: what one end has sent is what has come to the other one. Returns how many bytes came to the
    /// world, and to the guest.
    ///
    /// # Errors
    /// Something was wrong.
    pub fn end(self, guest: &mut Guest) -> Result<[u64; 2]> {
        let Self { mut list, .. } = self;
        let mut all = String::new();
        for (port, _, host) in &mut list {
            host.tell_to_end()?;
            all += &format!(" $s{port}");
        }
        // Where one has failed that is told later.
        guest.run(&format!("kill -TERM{all} 2>/dev/null"))?;
        let mut sums = [0; 2];
        for (port, kind, mut host) in list {
            let of_world = host.finish(LIMIT).with_context(|| format!("{kind:?}, the world's end"))?;
            let of_world = numbers(&of_world);
            ensure!(of_world.len() == 2, "{kind:?}: the world's end printed {of_world:?}");
            let of_guest = guest.check(&format!("wait $s{port}; code=$?; grep -v READY /tmp/s{port}; (exit $code)"));
            let of_guest = numbers(&of_guest.with_context(|| format!("{kind:?}, the guest's end"))?);
            let crossed: Vec<u64> = of_guest.iter().rev().copied().collect();
            ensure!(
                crossed == of_world,
                "{kind:?}: sent and come {of_guest:?} in the guest, {of_world:?} in the world"
            );
            // What was sent by the guest has come to the world.
            for (sum, came) in sums.iter_mut().zip(of_guest) {
                *sum += came;
            }
        }
        Ok(sums)
    }

    /// Waits until the guest's ends have found all of them reset, and then until the world's ends are over. Returns how long the first took.
    ///
    /// # Errors
    /// One was not.
    pub fn reset(mut self, guest: &mut Guest) -> Result<Duration> {
        let since = Instant::now();
        for (port, kind, _) in &self.list {
            let (printed, status) = guest.run(&format!("wait $s{port}; code=$?; cat /tmp/s{port}; (exit $code)"))?;
            let is_reset = status != 0 && printed.contains("reset by peer");
            ensure!(is_reset, "{kind:?} ends with {status} in the guest, and prints {printed}");
        }
        let took = since.elapsed();
        for (_, kind, host) in &mut self.list {
            host.wait_over(LIMIT).with_context(|| format!("{kind:?}, the world's end"))?;
        }
        Ok(took)
    }
}

fn numbers(printed: &str) -> Vec<u64> {
    printed.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The longest that the rest of a connection may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

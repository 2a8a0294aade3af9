//! What a guest does while it moves: it is pinged, and pings; sends and receives on connections; and changes its memory.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use crate::guest::Guest;
use crate::lab::{Lab, STATION};
use crate::moving::Journey;
use crate::pings::{Answers, INTERVAL, Pings};
use crate::traffic::{Endpoint, Host};

/// What goes on while the guest moves.
pub struct Activity {
    pings: Pings,
    /// To the guest, and from it.
    streams: [Host; 2],
}

impl Activity {
    /// Begins with all of it.
    ///
    /// # Errors
    /// The guest has not the programs.
    pub fn start(lab: &Lab, guest: &mut Guest) -> Result<Self> {
        guest.check("echo 4096 6000000 6000000 >/proc/sys/net/ipv4/tcp_rmem")?;
        guest.check("guest-memory 32 2000 >/tmp/memory 2>&1 & memory=$!")?;
        guest.check(&format!("ping -q -i 0.01 {STATION} >/tmp/ping 2>&1 & ping=$!"))?;
        guest.check("guest-traffic receive 7001 300 >/tmp/in 2>&1 & in=$!")?;
        guest.check("until grep -q READY /tmp/in; do sleep 0.1; done")?;
        let mut streams = [Host::new(lab.outside()), Host::new(lab.outside())];
        streams[0].start(&format!("send {} 7001 0 0", guest.address()))?;
        streams[1].start("receive 7002 0")?;
        streams[1].wait_listening()?;
        guest.check(&format!("guest-traffic send {STATION} 7002 0 20 >/tmp/out 2>&1 & out=$!"))?;
        // More than a megabyte that came lies in the guest's buffers, unread, for seconds: nobody but the backend has written there.
        let unread = "netstat -tn | awk '$4 ~ /:7001$/ && $2 > 1000000 { full = 1 } END { exit !full }'";
        guest.check(&format!("until {unread}; do sleep 0.2; done"))?;
        Ok(Self { pings: Pings::start(lab.outside(), guest.address())?, streams })
    }

    /// Looks at what became of pings meanwhile: some may be lost while the guest stands still, and no others. Returns what was seen.
    ///
    /// # Errors
    /// More were lost.
    pub fn check(&self, journey: &Journey) -> Result<String> {
        let may_be_lost = may_be_lost(journey);
        let answers = self.settled(journey.began, SystemTime::now(), may_be_lost);
        let seen = format!(
            "{:3} ms still ({} by QEMU's count), {:3} ms without an answer, {} of {} pings lost; {} rounds, {} MB",
            journey.standstill().as_millis(),
            journey.downtime.as_millis(),
            answers.silence.as_millis(),
            answers.lost,
            answers.sent,
            journey.rounds,
            journey.transferred / 1_000_000
        );
        ensure!(answers.lost as u128 <= may_be_lost, "{seen}; {may_be_lost} may be lost");
        Ok(seen)
    }

    /// Looks whether the guest has gone on since then: all pings have been answered but as many as a busy machine may cost ([`SLACK`]).
    ///
    /// # Errors
    /// More were lost.
    pub fn went_on(&self, since: SystemTime) -> Result<Answers> {
        let answers = self.settled(since, SystemTime::now(), SLACK);
        ensure!(answers.lost as u128 <= SLACK, "the guest has not moved, and {answers:?}");
        Ok(answers)
    }

    /// What became of the pings of some time. Those of its last moment may still be on their way, on a busy machine for long: where more than
    /// `may_be_lost` have no answer, it is waited for.
    fn settled(&self, from: SystemTime, to: SystemTime, may_be_lost: u128) -> Answers {
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let answers = self.pings.answers(from, to);
            if answers.lost as u128 <= may_be_lost || Instant::now() > deadline {
                return answers;
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Ends all of it after these journeys, and looks whether all was right. Returns what was seen. Of a thousand pings at other times
    /// `permille` may be lost: a guest that gets no processor time for a while offers no buffers, and where its switch gets none, the kernel's
    /// queue to it is full.
    ///
    /// # Errors
    /// Something was wrong.
    pub fn end(&mut self, guest: &mut Guest, journeys: &[Journey], permille: u64) -> Result<String> {
        self.streams[0].tell_to_end()?;
        guest.check("kill -TERM $in").context("the guest receives")?;
        let sent = self.streams[0].finish(STREAM_LIMIT)?;
        let came = guest.check("wait $in && grep -v READY /tmp/in").context("the guest receives")?;
        ensure!(came.trim() == sent.trim(), "{came} of {sent} bytes came to the guest");
        guest.check("kill -TERM $out; wait $out").context("the guest sends")?;
        let sent_by_guest = guest.check("cat /tmp/out")?;
        let came = self.streams[1].finish(STREAM_LIMIT)?;
        ensure!(came.trim() == sent_by_guest.trim(), "{came} of {sent_by_guest} bytes came from the guest");
        let changed =
            guest.check("kill -TERM $memory; wait $memory && cat /tmp/memory").context("the guest's memory")?;
        guest.check("kill -INT $ping; wait $ping")?;
        let pinged = guest.check("tail -n 2 /tmp/ping")?;
        let numbers: Vec<u64> = pinged.split(' ').filter_map(|word| word.parse().ok()).collect();
        let seen = format!(
            "to the guest: {} MB in one connection, from it: {}; pages changed: {}; its pings: {}",
            megabytes(&sent),
            megabytes(&sent_by_guest),
            changed.trim(),
            pinged.trim().replace('\n', "; ")
        );
        let [pings, answers, ..] = numbers[..] else { bail!("ping printed:\n{pinged}") };
        // As many as `check` grants to each journey, and those of the last moment, which have not been answered when it ends.
        let may_be_lost: u128 =
            journeys.iter().map(may_be_lost).sum::<u128>() + SLACK + u128::from(pings * permille / 1000);
        let lost = u128::from(pings - answers);
        ensure!(lost <= may_be_lost, "the guest has lost {lost} pings, of which {may_be_lost} may be: {seen}");
        Ok(seen)
    }
}

/// How many pings a journey may cost, each way.
fn may_be_lost(journey: &Journey) -> u128 {
    journey.standstill().as_millis() / INTERVAL.as_millis() + SLACK
}

fn megabytes(bytes: &str) -> u64 {
    bytes.trim().parse::<u64>().unwrap_or_default() / 1_000_000
}

/// How many pings may be lost beside those of the time in which the guest stands still: until its first frame they go to where it was, and an
/// emulated guest among other work takes a while for that; and where a switch gets no processor time, the kernel's queue to it is full.
const SLACK: u128 = 50;

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

const STREAM_LIMIT: Duration = Duration::from_secs(60);

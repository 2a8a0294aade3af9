//! What can be asked of a running translator, and told to it: one text request, one text reply.
//!
//! The meaning alone; docs/TRANSLATOR.md has the grammar. The binary's control socket brings requests and takes
//! replies, and its event loop is what is [`Controlled`].

use crate::forward::{MAX_SPEC_BYTES, Protocol, Rule};

/// What can be asked of a running translator, and told to it.
pub trait Controlled {
    /// What is forwarded.
    fn forwards(&self) -> &[Rule];

    /// Forwards more ports: all of `spec`, or nothing.
    ///
    /// # Errors
    /// One sentence: what is wrong and what would be right.
    fn add_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String>;

    /// Forwards no longer what `spec` names. Flows that are there go on.
    ///
    /// # Errors
    /// One sentence: what is wrong and what would be right.
    fn remove_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String>;

    /// Calls `each` with one line for each flow, without line end, until it returns false.
    fn flows(&self, each: &mut dyn FnMut(&str) -> bool);

    /// Names and values of all counters and gauges. Names are of a-z, 0-9 and _.
    fn statistics(&self) -> Vec<(&'static str, u64)>;
}

/// The reply to a request: `ok` or `error: ` and a sentence, then lines. At most [`MAX_REPLY_BYTES`] long; where lines
/// are missing for that reason, the last one is `...`.
pub fn answer(request: &str, translator: &mut dyn Controlled) -> String {
    let words: Vec<&str> = request.split_whitespace().collect();
    let changed = match words.as_slice() {
        ["stats"] => {
            let statistics = translator.statistics();
            return reply(|each| {
                statistics.iter().all(|(name, value)| each(&format!("{name} {value}")));
            });
        }
        ["flows"] => return reply(|each| translator.flows(each)),
        ["forward", "list"] => {
            return reply(|each| {
                translator.forwards().iter().all(|rule| each(&rule.to_string()));
            });
        }
        ["forward", verb @ ("add" | "remove"), protocol @ ("tcp" | "udp"), spec @ ..] if !spec.is_empty() => {
            let protocol = if *protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
            let spec = spec.join(" ");
            if *verb == "add" {
                translator.add_forward(protocol, &spec)
            } else {
                translator.remove_forward(protocol, &spec)
            }
        }
        _ => Err(REQUESTS.to_owned()),
    };
    match changed {
        Ok(()) => reply(|_| ()),
        Err(mut sentence) => {
            // It may quote the request.
            sentence.truncate(sentence.floor_char_boundary(MAX_REPLY_BYTES / 2));
            format!("error: {}\n", sentence.replace('\n', " "))
        }
    }
}

/// `ok` and the lines that `lines` hands out, as long as they fit.
fn reply(lines: impl FnOnce(&mut dyn FnMut(&str) -> bool)) -> String {
    let mut text = String::from("ok\n");
    let mut whole = true;
    lines(&mut |line| {
        whole = whole && text.len() + line.len() + 1 + REST.len() <= MAX_REPLY_BYTES;
        if whole {
            text.push_str(line);
            text.push('\n');
        }
        whole
    });
    if !whole {
        text.push_str(REST);
    }
    text
}

/// The longest request: a specification of ports, and the words before it.
pub const MAX_REQUEST_BYTES: usize = MAX_SPEC_BYTES + 64;
/// The longest reply; less than what a socket takes at once by default (net.core.wmem_default).
pub const MAX_REPLY_BYTES: usize = 64 * 1024;
/// What is said to those who ask for anything else.
pub const REQUESTS: &str =
    "requests are: forward list; forward add tcp|udp SPEC; forward remove tcp|udp SPEC; flows; stats";
/// Said when lines are missing.
const REST: &str = "...\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::{ForwardTable, Ground};

    /// A translator of forwards alone.
    struct Fake {
        forwards: ForwardTable,
        flows: usize,
    }

    impl Fake {
        fn new() -> Self {
            let ground = Ground { v4: true, v6: true, tcp: true, udp: true, ephemeral: 32768..=60999 };
            Self { forwards: ForwardTable::new(ground), flows: 2 }
        }
    }

    impl Controlled for Fake {
        fn forwards(&self) -> &[Rule] {
            self.forwards.rules()
        }

        fn add_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
            self.forwards.add(protocol, spec).map_err(|error| error.to_string())
        }

        fn remove_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
            self.forwards.remove(protocol, spec).map_err(|error| error.to_string())
        }

        fn flows(&self, each: &mut dyn FnMut(&str) -> bool) {
            let _ = (0..self.flows).all(|number| each(&format!("tcp 192.0.2.1:{number}")));
        }

        fn statistics(&self) -> Vec<(&'static str, u64)> {
            vec![("rx_frames", 7), ("tx_frames", u64::MAX)]
        }
    }

    #[test]
    fn requests_and_replies() {
        let mut fake = Fake::new();
        for (request, reply) in [
            ("forward list", "ok\n"),
            ("forward add tcp 2222:22, 80", "ok\n"),
            ("forward add udp 127.0.0.1/53", "ok\n"),
            ("  forward \t list\n", "ok\nTCP *:2222 => 22\nTCP *:80 => 80\nUDP 127.0.0.1:53 => 53\n"),
            ("forward remove tcp 80", "ok\n"),
            ("forward remove tcp 81", "error: TCP *:81 => 81 is not forwarded; `forward list` shows what is\n"),
            ("forward list", "ok\nUDP 127.0.0.1:53 => 53\nTCP *:2222 => 22\n"),
            ("flows", "ok\ntcp 192.0.2.1:0\ntcp 192.0.2.1:1\n"),
            ("stats", "ok\nrx_frames 7\ntx_frames 18446744073709551615\n"),
        ] {
            assert_eq!(answer(request, &mut fake), reply, "{request}");
        }
        let usage = format!("error: {REQUESTS}\n");
        for request in [
            "",
            "help",
            "forward",
            "forward add",
            "forward add tcp",
            "forward add sctp 80",
            "forward list all",
            "stats x",
            "STATS",
        ] {
            assert_eq!(answer(request, &mut fake), usage, "{request}");
        }
    }

    #[test]
    fn replies_have_a_size() {
        let mut fake = Fake { flows: 1_000_000, ..Fake::new() };
        let reply = answer("flows", &mut fake);
        assert!(reply.len() <= MAX_REPLY_BYTES && reply.len() > MAX_REPLY_BYTES - 100);
        assert!(reply.ends_with("\n...\n"));
        let reply = answer(&format!("forward add tcp {}", "ü\u{1}x".repeat(4000)), &mut fake);
        assert!(
            reply.starts_with("error: port specification") && reply.ends_with('\n') && reply.len() <= MAX_REPLY_BYTES
        );
        assert_eq!(reply.lines().count(), 1);
    }
}

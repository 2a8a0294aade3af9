//! Requests to a translator's control socket, line by line: specifications of ports, added to and removed from one table.

use culvert_translate::forward::{ForwardTable, Ground, Protocol, Rule};
use culvert_translate::request::{Controlled, MAX_REPLY_BYTES, answer};

/// Runs one input: text, a request in each line.
pub fn run(data: &[u8]) {
    // Few ports are not ephemeral here: `all` is quickly told.
    let ground = Ground { v4: true, v6: true, tcp: true, udp: true, ephemeral: 40..=65_500 };
    let mut fake = Fake(ForwardTable::new(ground));
    for line in String::from_utf8_lossy(data).lines().take(64) {
        let before = fake.0.clone();
        let reply = answer(line, &mut fake);
        assert!(reply.len() <= MAX_REPLY_BYTES && reply.ends_with('\n'), "{reply:?}");
        let refused = reply.starts_with("error: ");
        assert!(refused || reply.starts_with("ok\n"), "{reply:?}");
        if fake.0 != before {
            assert!(!refused, "a refused request changed something");
            check(&fake.0, &before);
        }
    }
}

/// No port has two meanings, and the changes lead from one table to the other. Long tables are left out: they take long.
fn check(table: &ForwardTable, before: &ForwardTable) {
    let few = |table: &ForwardTable| table.rules().iter().map(|rule| rule.ports().len()).sum::<usize>() <= 200;
    if !few(table) || !few(before) {
        return;
    }
    let mut now: Vec<_> = table.listens().collect();
    now.sort_unstable();
    assert!(now.iter().all(|listen| listen.port != 0 && listen.target_port != 0), "{now:?}");
    let mut ports: Vec<_> = now.iter().map(|at| (at.protocol, at.address, &at.interface, at.port)).collect();
    ports.sort_unstable();
    assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "{now:?}");
    let changes = before.changes_to(table);
    let mut listens: Vec<_> = before.listens().collect();
    listens.sort_unstable();
    for closed in &changes.close {
        listens.remove(listens.binary_search(closed).expect("what is closed was open"));
    }
    listens.extend(changes.open);
    listens.sort_unstable();
    assert_eq!(listens, now);
}

struct Fake(ForwardTable);

impl Controlled for Fake {
    fn forwards(&self) -> &[Rule] {
        self.0.rules()
    }

    fn add_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
        self.0.add(protocol, spec).map_err(|error| error.to_string())
    }

    fn remove_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
        self.0.remove(protocol, spec).map_err(|error| error.to_string())
    }

    fn flows(&self, each: &mut dyn FnMut(&str) -> bool) {
        each("tcp");
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![("rx_frames", 1)]
    }
}

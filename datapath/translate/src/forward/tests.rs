use super::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn ground() -> Ground {
    Ground { v4: true, v6: true, tcp: true, udp: true, ephemeral: 32768..=60999 }
}

pub(super) fn table() -> ForwardTable {
    ForwardTable::new(ground())
}

/// What a specification alone amounts to.
fn shown(text: &str) -> String {
    let mut table = table();
    match table.add(Protocol::Tcp, text) {
        Ok(()) => table.rules().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_form_of_the_grammar() {
    for (text, rules) in [
        ("none", ""),
        ("22", "TCP *:22 => 22"),
        ("22:23", "TCP *:22 => 23"),
        ("22,25", "TCP *:22 => 22; TCP *:25 => 25"),
        (" 22, 25 ", "TCP *:22 => 22; TCP *:25 => 25"),
        ("22-80", "TCP *:22-80 => 22-80"),
        ("22-80:32-90", "TCP *:22-80 => 32-90"),
        ("22-22", "TCP *:22 => 22"),
        ("192.0.2.1/22", "TCP 192.0.2.1:22 => 22"),
        ("192.0.2.1%eth0/22", "TCP 192.0.2.1%eth0:22 => 22"),
        ("%eth0/22", "TCP *%eth0:22 => 22"),
        ("::1/22", "TCP [::1]:22 => 22"),
        ("[::1]/22", "TCP [::1]:22 => 22"),
        ("fe80::1%eth0/22", "TCP [fe80::1]%eth0:22 => 22"),
        ("0.0.0.0/5000:192.0.2.5/6000", "TCP 0.0.0.0:5000 => 192.0.2.5:6000"),
        ("0.0.0.0/5000:192.0.2.5", "TCP 0.0.0.0:5000 => 192.0.2.5:5000"),
        ("0.0.0.0/5000:192.0.2.5/", "TCP 0.0.0.0:5000 => 192.0.2.5:5000"),
        ("0.0.0.0/5000-5001:192.0.2.5", "TCP 0.0.0.0:5000-5001 => 192.0.2.5:5000-5001"),
        ("::/2000:2001:db8::1/5", "TCP [::]:2000 => [2001:db8::1]:5"),
        ("::/2000:[2001:db8::1]/5", "TCP [::]:2000 => [2001:db8::1]:5"),
        ("2000-5000,~3000-3010", "TCP *:2000-2999 => 2000-2999; TCP *:3011-5000 => 3011-5000"),
        ("192.0.2.1/20-30,~25", "TCP 192.0.2.1:20-24 => 20-24; TCP 192.0.2.1:26-30 => 26-30"),
        ("~25,20-30", "TCP *:20-24 => 20-24; TCP *:26-30 => 26-30"),
        ("2000-2005:3000-3005,~2002", "TCP *:2000-2001 => 3000-3001; TCP *:2003-2005 => 3003-3005"),
        ("2000,~2000", ""),
        ("all", "TCP *:1-32767 => 1-32767 (best effort); TCP *:61000-65535 => 61000-65535 (best effort)"),
        ("::1/all", "TCP [::1]:1-32767 => 1-32767 (best effort); TCP [::1]:61000-65535 => 61000-65535 (best effort)"),
        (
            "127.0.0.6/all:192.0.2.6",
            "TCP 127.0.0.6:1-32767 => 192.0.2.6:1-32767 (best effort); TCP 127.0.0.6:61000-65535 => \
             192.0.2.6:61000-65535 (best effort)",
        ),
        (
            "~20000-20010",
            "TCP *:1-19999 => 1-19999 (best effort); TCP *:20011-32767 => 20011-32767 (best effort); TCP *:61000-65535 \
             => 61000-65535 (best effort)",
        ),
        ("~0", "TCP *:1-32767 => 1-32767 (best effort); TCP *:61000-65535 => 61000-65535 (best effort)"),
        ("~1-65535", ""),
        ("all,~1-65000", "TCP *:65001-65535 => 65001-65535 (best effort)"),
        // Ranges say all there is to say.
        ("all,22", "TCP *:22 => 22"),
        ("22,all", "TCP *:22 => 22"),
        // Two ports may lead to one.
        ("22,23:22", "TCP *:22 => 22; TCP *:23 => 22"),
    ] {
        assert_eq!(shown(text), rules, "{text}");
    }
}

#[test]
fn what_is_no_specification_is_refused_with_the_part_and_the_remedy() {
    let range = "is no port and no range of ports: give 1 to 65535, FIRST-LAST, or \"all\"";
    for (text, part, problem) in [
        ("", "", range),
        ("127.0.0.1/", "", range),
        ("22,", "", range),
        ("22,,23", "", range),
        ("22,none", "none", range),
        ("22-", "22-", range),
        ("-22", "-22", range),
        ("+22", "+22", range),
        ("22-20", "22-20", range),
        ("65536", "65536", range),
        ("~", "~", range),
        ("~22:23", "~22:23", range),
        ("x", "x", range),
        ("127.0.0.1/127.0.0.2/2000", "127.0.0.2/2000", range),
        ("0.0.0.0/1:192.0.2.1/x", "1:192.0.2.1/x", range),
        ("22:", "22:", "has a target that is neither ports nor an IP address"),
        ("22:x", "22:x", "has a target that is neither ports nor an IP address"),
        ("all:", "all:", "has a target that is neither ports nor an IP address"),
        ("2000-2005:3000", "2000-2005:3000", "has ranges of different lengths; give as many ports on both sides"),
        ("2000:3000-3005", "2000:3000-3005", "has ranges of different lengths; give as many ports on both sides"),
        ("0", "0", "has port 0, which cannot be forwarded; ports are 1 to 65535"),
        ("0-10", "0-10", "has port 0, which cannot be forwarded; ports are 1 to 65535"),
        ("22:0", "22:0", "has port 0, which cannot be forwarded; ports are 1 to 65535"),
        ("a/22", "a", "is no IP address"),
        ("/22", "", "is no IP address"),
        ("a%eth0/22", "a%eth0", "is no IP address with an interface"),
        ("1.2.3.4%/22", "1.2.3.4%", "names no interface: give 1 to 15 characters after %"),
        ("%a%b/22", "%a%b", "names no interface: give 1 to 15 characters after %"),
        ("%0123456789abcdef/22", "%0123456789abcdef", "names no interface: give 1 to 15 characters after %"),
    ] {
        assert_eq!(shown(text), format!("port specification {text:?}: {part:?} {problem}"), "{text}");
    }
    assert_eq!(
        shown("auto"),
        "port specification \"auto\": \"auto\" needs a look into the guest, which there is not; name the ports, or use \
         \"all\""
    );
    assert_eq!(shown(&"1,".repeat(9000)), "a port specification has 18000 bytes; 16384 are the most");
}

#[test]
fn targets_must_be_unicast_and_of_the_family_that_is_listened_at() {
    assert_eq!(
        shown("22:192.0.2.1/23"),
        "TCP *:22 => 192.0.2.1:23 has a target address: name an address of the same family before the ports, such as \
         0.0.0.0/22:192.0.2.1"
    );
    assert_eq!(
        shown("::/22:192.0.2.1"),
        "TCP [::]:22 => 192.0.2.1:22 leads from one address family to the other; choose addresses of the same family"
    );
    for target in ["0.0.0.0", "127.0.0.1", "224.0.0.1"] {
        assert_eq!(
            shown(&format!("0.0.0.0/22:{target}")),
            format!("{target} cannot lead to the guest: choose a unicast address that the guest has")
        );
    }
}

#[test]
fn what_is_switched_off_cannot_be_forwarded() {
    let mut table = ForwardTable::new(Ground { v6: false, udp: false, ..ground() });
    table.add(Protocol::Tcp, "22").unwrap();
    assert_eq!(
        table.add(Protocol::Tcp, "::1/23").unwrap_err().to_string(),
        "::1 cannot be forwarded: there is no IPv6 here; choose an address of the other family"
    );
    assert_eq!(
        table.add(Protocol::Udp, "22").unwrap_err().to_string(),
        "UDP ports cannot be forwarded: UDP is switched off; leave out the forward, or --no-udp"
    );
    table.add(Protocol::Udp, "none").unwrap();
}

#[test]
fn one_port_has_one_meaning() {
    for (first, second, fits) in [
        ("22", "22", false),
        ("22", "all", false),
        ("22", "127.0.0.1/22", false),
        ("20-30", "25:80", false),
        ("0.0.0.0/20-30", "127.0.0.1/25", false),
        ("%lo/22", "22", false),
        ("22", "23", true),
        ("0.0.0.0/22", "::/22", true),
        ("0.0.0.0/22", "::1/22", true),
        ("127.0.0.1/22", "127.0.0.2/22", true),
        ("%lo/22", "%eth0/22", true),
    ] {
        for (first, second) in [(first, second), (second, first)] {
            let mut table = table();
            table.add(Protocol::Tcp, first).unwrap();
            let before = table.clone();
            let result = table.add(Protocol::Tcp, second);
            assert_eq!(result.is_ok(), fits, "{first} {second}: {result:?}");
            assert_eq!(table == before, !fits);
            table.add(Protocol::Udp, second).unwrap();
        }
    }
    let mut table = table();
    table.add(Protocol::Tcp, "22").unwrap();
    assert_eq!(
        table.add(Protocol::Tcp, "127.0.0.1/20-30").unwrap_err().to_string(),
        "TCP 127.0.0.1:20-30 => 20-30 contradicts TCP *:22 => 22; leave out one of them"
    );
}

#[test]
fn parts_of_ranges_can_be_removed() {
    let mut table = table();
    table.add(Protocol::Tcp, "20-30:120-130").unwrap();
    table.add(Protocol::Udp, "25").unwrap();
    table.remove(Protocol::Tcp, "25").unwrap();
    let rules: Vec<_> = table.rules().iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["UDP *:25 => 25", "TCP *:20-24 => 120-124", "TCP *:26-30 => 126-130"]);
    let before = table.clone();
    for missing in ["25", "19-20", "127.0.0.1/20", "%lo/20", "20,25"] {
        let error = table.remove(Protocol::Tcp, missing).unwrap_err().to_string();
        assert!(error.ends_with("is not forwarded; `forward list` shows what is"), "{error}");
        assert_eq!(table, before);
    }
    // One request may take what lies in two rules.
    table.remove(Protocol::Tcp, "23-24,26").unwrap();
    table.remove(Protocol::Tcp, "all").unwrap();
    assert_eq!(table.rules().len(), 1);
    table.remove(Protocol::Udp, "none").unwrap();
    assert_eq!(table, self::table());
}

#[test]
fn the_table_does_not_grow_for_ever() {
    let odd =
        |from: u16| (from..32_000).step_by(2).take(2048).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    let mut table = table();
    table.add(Protocol::Tcp, &odd(1)).unwrap();
    table.add(Protocol::Tcp, &odd(5001)).unwrap();
    assert_eq!(table.add(Protocol::Tcp, "20000"), Err(ForwardError::TooMany));
    assert_eq!(table.rules().len(), MAX_RULES);
}

#[test]
fn changes_close_what_has_gone_and_open_what_has_come() {
    let mut old = table();
    old.add(Protocol::Tcp, "20-22").unwrap();
    let mut new = table();
    new.add(Protocol::Tcp, "20").unwrap();
    new.add(Protocol::Tcp, "22:23").unwrap();
    let changes = old.changes_to(&new);
    let shown = |listens: &[Listen]| listens.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(shown(&changes.close), "TCP *:21 TCP *:22");
    assert_eq!(shown(&changes.open), "TCP *:22");
    assert_eq!(changes.open[0].target_port, 23);
    assert_eq!(new.changes_to(&new), Changes::default());
}

fn opened(text: &str, bad: impl Fn(u16) -> Option<io::ErrorKind>) -> Result<Vec<u16>, String> {
    let mut table = table();
    table.add(Protocol::Tcp, text).unwrap();
    let open = |listen: &Listen| bad(listen.port).map_or(Ok(listen.port), |kind| Err(kind.into()));
    let opened = open_all(table.listens().collect(), usize::MAX, open).map_err(|error| error.to_string())?;
    Ok(opened.into_iter().map(|(_, port)| port).collect())
}

#[test]
fn ports_that_are_named_must_open_and_one_of_the_others() {
    let privileged = |port| (port < 1024).then_some(io::ErrorKind::PermissionDenied);
    assert_eq!(opened("2000-2002", privileged).unwrap(), [2000, 2001, 2002]);
    assert_eq!(
        opened("2000,80", privileged).unwrap_err(),
        "TCP *:80 cannot be forwarded: permission denied; allow it with `sysctl -w \
         net.ipv4.ip_unprivileged_port_start=80`, or choose a port from 1024 on"
    );
    assert_eq!(opened("all", privileged).unwrap().len(), 32767 - 1023 + 65535 - 60999);
    // The first rule of the two has no port that can be opened: the others can.
    assert_eq!(opened("~1024-65534", |port| (port != 65535).then_some(io::ErrorKind::AddrInUse)).unwrap(), [65535]);
    assert_eq!(
        opened("~1-65534", |_| Some(io::ErrorKind::AddrInUse)).unwrap_err(),
        "none of the ports could be forwarded; at TCP *:65535: address in use"
    );
    assert!(opened("~1-65535", |_| None).unwrap().is_empty());
}

#[test]
fn there_are_not_more_best_effort_ports_than_there_is_room() {
    let mut table = table();
    table.add(Protocol::Tcp, "127.0.0.1/40000-40010").unwrap();
    table.add(Protocol::Tcp, "~2").unwrap();
    table.add(Protocol::Udp, "all").unwrap();
    let open = |listen: &Listen| if listen.port == 3 { Err(io::ErrorKind::AddrInUse.into()) } else { Ok(()) };
    let opened = open_all(table.listens().collect(), 5, open).unwrap();
    let opened: Vec<_> = opened.iter().map(|(listen, ())| listen.to_string()).collect();
    assert_eq!(opened[..2], ["TCP 127.0.0.1:40000", "TCP 127.0.0.1:40001"]);
    assert_eq!(opened[11..], ["TCP *:1", "UDP *:1", "UDP *:2", "TCP *:4", "UDP *:4"]);
}

prop_compose! {
    fn a_range()(first in 1u16.., count in 0u16..200, shift in 0u16..3000, exclude in any::<bool>()) -> String {
        let first = first.min(60_000);
        let last = first + count;
        match (exclude, shift) {
            (true, _) => format!("~{first}-{last}"),
            (false, 0..1000) => format!("{first}-{last}"),
            (false, _) => format!("{first}-{last}:{}-{}", first + shift, last + shift),
        }
    }
}

fn a_spec() -> impl Strategy<Value = String> {
    let address = prop_oneof![
        4 => Just(String::new()),
        1 => any::<Ipv4Addr>().prop_map(|address| format!("{address}/")),
        1 => any::<Ipv6Addr>().prop_map(|address| format!("{address}/")),
        1 => any::<Ipv6Addr>().prop_map(|address| format!("[{address}]%eth0/")),
        1 => Just("%eth1/".to_owned()),
    ];
    (address, prop::collection::vec(a_range(), 1..4)).prop_map(|(address, items)| address + &items.join(","))
}

/// Where `all` is few ports: a list of all sockets is made at each step.
fn small() -> ForwardTable {
    ForwardTable::new(Ground { ephemeral: 300..=65_400, ..ground() })
}

proptest! {
    /// Whatever is added and removed: no socket is asked for twice, the changes are those between the lists, and what
    /// is refused changes nothing.
    #[test]
    fn tables_never_contradict_themselves(steps in prop::collection::vec((any::<bool>(), any::<bool>(), a_spec()), 1..12)) {
        let mut table = small();
        for (add, tcp, text) in steps {
            let before = table.clone();
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let result = if add { table.add(protocol, &text) } else { table.remove(protocol, &text) };
            if result.is_err() {
                prop_assert_eq!(&table, &before);
            }
            let mut ports = HashSet::new();
            for listen in table.listens() {
                prop_assert!(listen.port != 0 && listen.target_port != 0);
                prop_assert!(ports.insert((listen.protocol, listen.address, listen.interface, listen.port)));
            }
            let changes = before.changes_to(&table);
            let mut replayed: HashSet<Listen> = before.listens().collect();
            for listen in &changes.close {
                prop_assert!(replayed.remove(listen));
            }
            for listen in &changes.open {
                prop_assert!(replayed.insert(listen.clone()));
            }
            prop_assert_eq!(replayed, table.listens().collect::<HashSet<_>>());
        }
    }

    /// What was added alone and is removed leaves nothing.
    #[test]
    fn what_is_added_can_be_removed(text in a_spec()) {
        let mut table = small();
        if table.add(Protocol::Tcp, &text).is_ok() && !table.rules().is_empty() {
            table.remove(Protocol::Tcp, &text).unwrap();
            prop_assert!(table.rules().is_empty());
        }
    }

    #[test]
    fn no_text_does_harm(text in "[0-9a-z:/%~,.\\[\\]-]{0,40}|.{0,60}") {
        let mut table = small();
        let _ = table.add(Protocol::Udp, &text);
    }
}

//! Answers to address configuration in the eyes of tshark, which knows the protocols from elsewhere: nothing malformed,
//! checksums right, and the number of answers of each kind as expected. `ci/setup` installs tshark.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use culvert_translate::guest::Guest;
use culvert_translate::settings::{DEFAULT_MAC, Ipv4, Ipv6, Mapping, Services, Settings};
use culvert_translate::time::Instant;
use culvert_translate::{arp, dhcp, dhcpv6, ndp};
use pcap_file::pcap::{PcapPacket, PcapWriter};

/// With names and resolvers of these numbers and lengths, and gateways on the link or off it.
fn settings(names: usize, label_bytes: usize, resolvers: usize, gateway: [u8; 4]) -> Settings {
    let gateway = Ipv4Addr::from(gateway);
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    Settings {
        mac: DEFAULT_MAC,
        mtu: Some(1500),
        v4: Some(Ipv4 {
            address: "192.0.2.2/24".parse().unwrap(),
            gateway,
            ours: gateway,
            resolvers: vec![Ipv4Addr::new(192, 0, 2, 53); resolvers],
            mapping: Mapping { host_loopback: Some(gateway), ..Mapping::default() },
        }),
        v6: Some(Ipv6 {
            address: "2001:db8::2".parse().unwrap(),
            gateway: link_local,
            link_local,
            interface_index: 2,
            resolvers: vec!["2001:db8::53".parse().unwrap(); resolvers],
            mapping: Mapping { host_loopback: Some(link_local), ..Mapping::default() },
        }),
        search: (0..names).map(|n| format!("{}{n}.sub{}.example.org", "x".repeat(label_bytes), n % 3)).collect(),
        hostname: Some("g".repeat(label_bytes)),
        fqdn: Some(format!("{}.example.org", "g".repeat(label_bytes))),
        services: Services::default(),
    }
}

/// The frames of clients in a file `captured.txt`.
fn questions(captured: &str) -> Vec<Vec<u8>> {
    let lines = captured.lines().filter_map(|line| line.strip_prefix("> "));
    lines.map(bytes).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).unwrap());
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

/// How many frames of a capture a display filter of tshark's lets through.
fn count(capture: &std::path::Path, filter: &str) -> usize {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]);
    let output = tshark.args(["-Y", filter, "-r"]).arg(capture).output().expect("tshark: run ci/setup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8_lossy(&output.stdout);
    println!("{filter}:\n{shown}");
    shown.lines().count()
}

#[test]
fn all_answers_are_well_formed() {
    let router_solicitation = bytes(
        "33330000000202000000000a86dd6000000000103afffe80000000000000000000fffe00000a\
         ff02000000000000000000000000000285007b1a00000000010102000000000a",
    );
    let who_has_gateway = bytes("ffffffffffff02000000000a0806000108000604000102000000000ac0000202000000000000c0000237");
    let mut answers = Vec::new();
    for settings in [
        settings(0, 1, 0, [192, 0, 2, 1]),
        settings(2, 10, 2, [192, 0, 2, 1]),
        settings(3, 60, 3, [169, 254, 1, 1]),
        settings(100, 20, 40, [192, 0, 2, 1]),
    ] {
        let guest = Guest::new(&settings);
        for question in questions(include_str!("../src/dhcp/captured.txt")) {
            answers.extend(dhcp::answer(&settings, &guest, &question));
        }
        for question in questions(include_str!("../src/dhcpv6/captured.txt")) {
            answers.extend(dhcpv6::answer(&settings, &guest, &question));
        }
        answers.push(arp::answer(&settings, &guest, &who_has_gateway).unwrap());
        answers.push(arp::request(&settings, &guest).unwrap());
        answers.push(ndp::answer(&settings, &guest, &router_solicitation).unwrap());
        answers.push(ndp::solicitation(&settings, &guest).unwrap());
        let now = Instant::now();
        answers.push(ndp::Advertiser::new(now, 1).poll(now, &settings, &guest).unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("answers.pcap");
    let mut writer = PcapWriter::new(File::create(&capture).unwrap()).unwrap();
    for (second, frame) in (0..).zip(&answers) {
        let length = u32::try_from(frame.len()).unwrap();
        writer.write_packet(&PcapPacket::new(Duration::from_secs(second), length, frame)).unwrap();
    }
    drop(writer);
    let bad = "_ws.malformed || _ws.expert.severity >= \"Warning\" || ip.checksum.status == \"Bad\" || \
               udp.checksum.status == \"Bad\" || icmpv6.checksum.status == \"Bad\"";
    assert_eq!(count(&capture, bad), 0);
    let kinds =
        ["dhcp.option.dhcp == 2", "dhcp.option.dhcp == 5", "dhcp.option.dhcp == 6", "dhcp && !dhcp.option.dhcp"];
    // Six clients name the server that they know from the network where they were captured: one of the four is another.
    assert_eq!(kinds.map(|kind| count(&capture, kind)), [7 * 4, 10 * 4 - 6, 2 * 4, 4]);
    assert_eq!(["dhcpv6.msgtype == 2", "dhcpv6.msgtype == 7"].map(|kind| count(&capture, kind)), [2 * 4, 11 * 4]);
    assert_eq!(["arp", "icmpv6.type == 134", "icmpv6.type == 135"].map(|kind| count(&capture, kind)), [8, 8, 4]);
}

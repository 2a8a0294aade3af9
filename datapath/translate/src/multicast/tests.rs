//! Reports of groups in a simulated world.

use std::net::IpAddr;

use super::*;
use crate::world::{World, ip_frame, with_packet};

const GUEST: &str = "192.0.2.2";
const GUEST6: &str = "fe80::ff:fe00:a";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn igmp(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], rest].concat();
    let sum = internet_checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip_frame(ip(GUEST), ip("224.0.0.22"), IGMP, &message)
}

fn mld(kind: u8, rest: &[u8]) -> Vec<u8> {
    let (from, to) = (ip(GUEST6), ip("ff02::16"));
    let (word, rest) = rest.split_at(4);
    let header = with_checksum(from, to, [kind, 0, 0, 0, word[0], word[1], word[2], word[3]], rest);
    ip_frame(from, to, ICMPV6, &[&header[..], rest].concat())
}

fn bytes(group: &str) -> Vec<u8> {
    match ip(group) {
        IpAddr::V4(group) => group.octets().to_vec(),
        IpAddr::V6(group) => group.octets().to_vec(),
    }
}

/// A record of version 3, or 2 of MLD.
fn record(kind: u8, group: &str, sources: &[&str], auxiliary: &[u8]) -> Vec<u8> {
    let sources: Vec<_> = sources.iter().flat_map(|source| bytes(source)).collect();
    let count = u8::try_from(sources.len() / bytes(group).len()).unwrap();
    [&[kind, u8::try_from(auxiliary.len() / 4).unwrap(), 0, count], &bytes(group)[..], &sources, auxiliary].concat()
}

fn report(records: &[Vec<u8>]) -> Vec<u8> {
    [&[0, 0, 0, u8::try_from(records.len()).unwrap()], &records.concat()[..]].concat()
}

struct Multicast {
    world: World,
    groups: Groups,
}

impl Multicast {
    fn new() -> Self {
        Self { world: World::new(), groups: Groups::default() }
    }

    fn say(&mut self, frame: &[u8]) -> Result<bool, Refusal> {
        with_packet(frame, |ip| self.groups.from_guest(&mut self.world.context(), ip))
    }

    fn joined(&self) -> Vec<String> {
        self.world.sockets.groups.iter().map(IpAddr::to_string).collect()
    }
}

#[test]
fn groups_are_joined_and_left_as_the_guest_says() {
    let mdns = bytes("224.0.0.251");
    let (all, one) = (record(TO_EXCLUDE, "239.1.1.1", &[], &[]), record(1, "239.1.1.2", &["10.0.0.1"], b"aux "));
    let none = record(3, "239.1.1.1", &[], &[]);
    let steps = [
        (igmp(IGMP_REPORT, &mdns), &["224.0.0.251"][..]),
        (igmp(IGMP2_REPORT, &mdns), &["224.0.0.251"]),
        (igmp(IGMP2_LEAVE, &mdns), &[]),
        (igmp(IGMP2_LEAVE, &mdns), &[]),
        (igmp(IGMP3_REPORT, &report(&[all, one])), &["239.1.1.1", "239.1.1.2"]),
        (igmp(IGMP3_REPORT, &report(&[record(6, "239.1.1.2", &["10.0.0.1"], &[]), none])), &["239.1.1.2"]),
        (igmp(IGMP3_REPORT, &report(&[record(3, "239.1.1.2", &[], &[])])), &[]),
        // Those that everybody is in need not be joined.
        (igmp(IGMP2_REPORT, &bytes("224.0.0.1")), &[]),
    ];
    let mut multicast = Multicast::new();
    for (frame, joined) in steps {
        assert_eq!(multicast.say(&frame), Ok(true));
        assert_eq!(multicast.joined(), joined);
    }
    assert!(multicast.groups.contains(ip("224.0.0.1")) && !multicast.groups.contains(ip("224.0.0.251")));

    let mdns = [&[0; 4], &bytes("ff02::fb")[..]].concat();
    let steps = [
        (mld(MLD_REPORT, &mdns), &["ff02::fb"][..]),
        (mld(MLD_DONE, &mdns), &[]),
        (
            mld(
                MLD2_REPORT,
                &report(&[record(TO_EXCLUDE, "ff05::2", &[], &[]), record(5, "ff05::3", &["fe80::1"], &[])]),
            ),
            &["ff05::2", "ff05::3"],
        ),
        (
            mld(MLD2_REPORT, &report(&[record(3, "ff05::2", &[], &[]), record(4, "ff02::1:ff00:a", &[], &[])])),
            &["ff05::3"],
        ),
        (mld(MLD_DONE, &[&[0; 4], &bytes("ff05::3")[..]].concat()), &[]),
    ];
    for (frame, joined) in steps {
        assert_eq!(multicast.say(&frame), Ok(true));
        assert_eq!(multicast.joined(), joined);
    }
}

#[test]
fn there_are_no_more_groups_than_a_socket_may_join() {
    let mut multicast = Multicast::new();
    for number in 0..100 {
        multicast.say(&igmp(IGMP2_REPORT, &[239, 0, 0, number])).unwrap();
        // Reported again and again, it stays.
        multicast.say(&igmp(IGMP2_REPORT, &[239, 9, 9, 9])).unwrap();
        multicast.say(&mld(MLD_REPORT, &[&[0; 4], &bytes(&format!("ff05::{number}"))[..]].concat())).unwrap();
    }
    assert_eq!(multicast.joined().len(), 2 * MAX_GROUPS);
    assert!(multicast.groups.contains(ip("239.9.9.9")) && multicast.groups.contains(ip("239.0.0.99")));
}

#[test]
fn malformed_reports_are_refused() {
    let good = report(&[record(TO_EXCLUDE, "239.1.1.1", &[], &[])]);
    let mut wrong = igmp(IGMP2_REPORT, &bytes("239.1.1.1"));
    *wrong.last_mut().unwrap() ^= 1;
    let cases = [
        (wrong, Refusal::Malformed),
        (igmp(IGMP2_REPORT, &[]), Refusal::Truncated),
        (igmp(IGMP2_REPORT, &bytes("192.0.2.9")), Refusal::BadDestination),
        (igmp(0x11, &bytes("239.1.1.1")), Refusal::BadRequest),
        (igmp(0, &bytes("239.1.1.1")), Refusal::BadRequest),
        (igmp(IGMP3_REPORT, &good[..good.len() - 1]), Refusal::Truncated),
        // More records, sources or words than there are.
        (igmp(IGMP3_REPORT, &[&[0, 0, 0xff, 0xff], &good[4..]].concat()), Refusal::Truncated),
        (igmp(IGMP3_REPORT, &report(&[vec![4, 0, 0xff, 0xff, 239, 1, 1, 2]])), Refusal::Truncated),
        (igmp(IGMP3_REPORT, &report(&[vec![4, 0xff, 0, 0, 239, 1, 1, 2]])), Refusal::Truncated),
        (mld(MLD_REPORT, &[0; 19]), Refusal::Truncated),
        (mld(MLD_REPORT, &[0; 20]), Refusal::BadDestination),
    ];
    let mut multicast = Multicast::new();
    for (frame, refusal) in cases {
        assert_eq!(multicast.say(&frame), Err(refusal));
    }
    assert_eq!(multicast.say(&ip_frame(ip(GUEST), ip("224.0.0.1"), IGMP, &[])), Err(Refusal::Truncated));
    // Neither is this about groups.
    assert_eq!(multicast.say(&mld(128, &[0; 4])), Ok(false));
    assert_eq!(multicast.joined(), ["239.1.1.1"], "the record before the one that is missing was good");
}

#[test]
fn without_a_family_its_groups_are_refused() {
    let mut multicast = Multicast::new();
    multicast.world.settings.v4 = None;
    let refused = multicast.say(&igmp(IGMP2_REPORT, &bytes("239.1.1.1")));
    assert_eq!(refused, Err(Refusal::BadDestination));
}

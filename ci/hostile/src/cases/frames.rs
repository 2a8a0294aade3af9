//! Cases of hostile frames and sockets: through culvertd's switch, and into a translator.
//!
//! Those against a translator have a translator of their own in a pod of its own ([`crate::translators`]); what culvertd and its
//! neighbours must keep is looked at in each of them as well.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cases' own frames, byte by byte: whoever is wrong here has written a wrong case"
)]

mod floods;
mod ip;
pub(crate) mod packets;
mod physical;
mod rates;
mod services;
mod switching;
mod tcp;

use crate::case::{Case, case};

/// The cases of this folder.
pub const CASES: &[Case] = &[
    case(
        "N1",
        "sizes-and-tags",
        "Frames of no byte to 9,000, up to 40 tags, half tags, any type: counted, neighbours hear no wrong one.",
        switching::sizes_and_tags,
    ),
    case(
        "N1",
        "tags-of-others",
        "Tags that are not the port's, behind each other and cut off: dropped, and no inner tag leads elsewhere.",
        switching::tags_of_others,
    ),
    case(
        "N2",
        "switch-headers-that-lie",
        "IPv4, IPv6 and TCP headers that lie, behind a guard and with checksums to complete: dropped or passed as they are (N2 to N5).",
        switching::headers_that_lie,
    ),
    case(
        "N2",
        "ipv4-headers-that-lie",
        "Lengths, versions, sources and options that lie: refused, each for its reason, and no flow suffers.",
        ip::ipv4_headers_that_lie,
    ),
    case(
        "N3",
        "fragments",
        "Fragments that overlap, are tiny, too long or too many: refused or forgotten, within fixed memory.",
        ip::fragments,
    ),
    case(
        "N4",
        "ipv6-headers",
        "Chains of 100 extension headers, routing headers, jumbograms, cut off anywhere: refused after a bounded walk.",
        ip::ipv6_headers,
    ),
    case(
        "N5",
        "segments-that-lie",
        "All flags, offsets, options, windows, numbers, urgent pointers, overlapping data: RST or silence, the stream stays whole.",
        tcp::segments_that_lie,
    ),
    case(
        "N6",
        "syn-flood",
        "SYNs as fast as they go: capped in number and rate, and a neighbour's connections open as before.",
        floods::syn_flood,
    ),
    case(
        "N7",
        "no-ports-left",
        "More connections to one address than there are ports: the guest is told, others of its flows go on.",
        floods::no_ports_left,
    ),
    case(
        "N7",
        "no-descriptors-left",
        "A guest takes all flows that 512 descriptors give: datagrams, control, forwards and the next guest still have theirs.",
        floods::no_descriptors_left,
    ),
    case(
        "N8",
        "slow-readers",
        "Hundreds of connections that nobody reads, both ways: memory per flow is bounded, nothing is lost.",
        tcp::slow_readers,
    ),
    case(
        "N9",
        "storms-of-ends",
        "RST and FIN storms, half connections, both ends at once, the same ends again: the table is empty in the end.",
        tcp::storms_of_ends,
    ),
    case(
        "N10",
        "datagrams",
        "Datagrams whose headers lie, and 15,000 flows (full: 100,000): refused or capped, and the next one still leaves.",
        floods::datagrams,
    ),
    case(
        "N11",
        "icmp-that-lies",
        "Errors about what was never sent, redirects, echo requests with wrong lengths: no flow changes, no byte leaks.",
        ip::icmp_that_lies,
    ),
    case(
        "N12",
        "claims-of-others",
        "ARP, NDP, RARP and router advertisements in others' names from a guarded port: dropped, all of them.",
        switching::claims_of_others,
    ),
    case(
        "N12",
        "a-translator-keeps-its-addresses",
        "Claims to be the router, to a translator: its guest loses nothing, and the router stays.",
        ip::a_translator_keeps_its_addresses,
    ),
    case(
        "N13",
        "addresses-of-others",
        "100,000 sources, another port's address, an address that moves: limits hold, bound addresses stay.",
        switching::addresses_of_others,
    ),
    case(
        "N14",
        "requests-for-addresses",
        "DHCP and DHCPv6 with options that run past their end, and thousands of requests: the one address, nothing grows.",
        services::requests_for_addresses,
    ),
    case(
        "N15",
        "names-without-end",
        "DNS with loops, and 10,000 queries that nobody answers: passed as they are, bounded.",
        services::names_without_end,
    ),
    case(
        "N16",
        "where-no-guest-may-go",
        "The node's addresses, also new ones, loopback and metadata: refused and counted; a rule allows one.",
        services::where_no_guest_may_go,
    ),
    case(
        "N17",
        "a-loop-outside",
        "A bridge outside joins two ports: limits keep the storm from the others.",
        switching::a_loop_outside,
    ),
    case(
        "N17",
        "a-flood-of-broadcasts",
        "A guest sends to everybody as fast as it can: the neighbours lose nothing.",
        switching::a_flood_of_broadcasts,
    ),
    case(
        "N17",
        "a-group-that-answers-itself",
        "A guest sends to a group that it listens to: it does not hear itself.",
        services::a_group_that_answers_itself,
    ),
    case(
        "N17",
        "a-flood-over-its-rate",
        "A guest with a rate keeps its ring full: it sends what the rate permits, loses nothing, and the neighbours lose nothing.",
        rates::a_flood_over_its_rate,
    ),
    case(
        "N17",
        "rates-that-change-under-a-flood",
        "Rates of all kinds come and go at the ports of a guest that floods and of one that listens: all is accounted for.",
        rates::rates_that_change_under_a_flood,
    ),
    case(
        "N17",
        "a-ring-that-breaks-while-it-is-held",
        "A guest breaks its ring while it waits for its rate: quarantined, and its rate can be changed.",
        rates::a_ring_that_breaks_while_it_is_held,
    ),
    case(
        "N18",
        "nothing-widens-an-entry",
        "Protocol 0, padding and foreign tags between others' frames: nobody's way changes.",
        switching::nothing_widens_an_entry,
    ),
    case(
        "N19",
        "a-physical-port-in-trouble",
        "Runts, jumbo frames, wrong checksums, and 100 flaps of a NIC's link: counted, and frames pass again.",
        physical::a_physical_port_in_trouble,
    ),
    case(
        "N18",
        "nothing-widens-a-flow",
        "Padding, protocol 0 and the ports of other flows, to a translator: no flow takes what is not its own.",
        ip::nothing_widens_a_flow,
    ),
];

//! Guests that send each other frames through the forwarder: any virtio-net header, any bytes, any cuts, TCP and UDP with
//! offload requests; ports with any rules that come and go, addresses that move and age.
//!
//! Checked: what a guest receives is what others of its network have sent, whole or in segments, byte for byte but for the
//! outer tag and the checksum that its sender left open, in their order, nothing twice; the virtio-net header before it asks
//! for nothing that the guest did not negotiate, and fits the frame; and the
//! ledgers balance.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use culvert_driver::{Interface, Ram, Shape};
use culvert_frame::checksum::Sum;
use culvert_frame::header::vlan_tags_bytes;
use culvert_frame::layers::IpVersion;
use culvert_frame::{Direction, MacAddress, Offload, Offloads, Segmentation};
use culvert_guest::features::{
    self, NET_CSUM, NET_GUEST_CSUM, NET_GUEST_TSO4, NET_GUEST_TSO6, NET_GUEST_USO4, NET_GUEST_USO6, NET_HOST_TSO4,
    NET_HOST_TSO6, NET_HOST_USO, NET_MRG_RXBUF, VERSION_1,
};
use culvert_guest::net_header::{DATA_VALID, NEEDS_CSUM};
use culvert_guest::{Memory, NetHeader, ReceiveQueue, TransmitBurst, TransmitQueue};
use culvert_switch::groups::Groups;
use culvert_switch::guard::Guard;
use culvert_switch::limits::{Limiter, Limits};
use culvert_switch::network::NetworkId;
use culvert_switch::port::MirrorTo;
use culvert_switch::rates::{Allowance, Meter, Rate, Rates};
use culvert_switch::{
    Bridge, Burst, Egress, Forwarder, MacTable, Port, PortCounters, PortId, PortTotals, Rules, Topology, Vlans,
};

use crate::guest::{layout, share};

#[derive(Arbitrary, Debug)]
struct Input {
    snooping: bool,
    ports: [PortSpec; PORTS],
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct PortSpec {
    second_network: bool,
    bound: bool,
    /// 0 to 2, or as good as none.
    mac_limit: u8,
    mtu: u16,
    mergeable: bool,
    /// Small buffers: 128 bytes.
    small_buffers: bool,
    vlans: u8,
    isolated: bool,
    /// Each lets nothing pass, or a frame a second, or everything; then it may be a rate, towards us and away from us.
    limits: [u8; 2],
    has_addresses: bool,
    /// Which offloads it negotiated, one bit each.
    asks: u8,
    takes: u8,
    /// The port that gets copies of its frames, and of which.
    mirror: Option<(u8, bool, bool)>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    /// A guest sends a frame; the second word is its destination, the third its source.
    Send {
        port: u8,
        destination: u8,
        source: u8,
        length: u16,
        header: Option<[u8; 10]>,
        cut: u8,
    },
    /// TCP or UDP; the lowest bits of `kind` say over what, the next ones what is left to be done.
    SendStream {
        port: u8,
        destination: u8,
        source: u8,
        kind: u8,
        payload: u16,
        segment: u16,
        tags: Vec<(bool, u16)>,
        cut: u8,
    },
    /// Any bytes as a frame.
    SendBytes {
        port: u8,
        bytes: Vec<u8>,
    },
    /// A worker takes a burst from a port.
    Forward {
        port: u8,
    },
    /// A guest looks at what it received.
    Drain {
        port: u8,
    },
    /// The port's way out.
    Way {
        port: u8,
        way: Way,
    },
    Pass {
        seconds: u8,
    },
    Sweep,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Way {
    Down,
    Guest,
    Quarantined,
}

const PORTS: usize = 4;
/// Of the last port; the others have one.
const QUEUES: usize = 2;
/// Of the tables of addresses: the same in each run, so that an input does the same again.
const SECRETS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x9e37_79b9_7f4a_7c15];
const AGE_SECONDS: u32 = 300;
/// In seconds: the longest frame is paid for, whatever the rate.
const A_LONG_TIME: u32 = 5000;

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let mut node = Node::new(input.ports, input.snooping);
    for operation in input.operations.iter().take(80) {
        node.operate(operation);
    }
    for port in 0..PORTS {
        while !node.guests[port].sent.is_empty() {
            node.forward(port);
            // What a rate holds back may pass then.
            node.now += A_LONG_TIME;
        }
    }
    for port in 0..PORTS {
        node.drain(port);
    }
    node.check_ledgers();
    node.put_back();
}

struct Node {
    specs: [PortSpec; PORTS],
    rules: [Arc<Rules>; PORTS],
    /// Who gets copies, and so takes no other part.
    is_target: [bool; PORTS],
    guests: Vec<Guest>,
    topology: Topology,
    tables: [Arc<MacTable>; 2],
    groups: Option<[Groups; 2]>,
    limiters: Vec<Arc<Limiter>>,
    meters: Vec<Arc<Meter>>,
    counters: Vec<Arc<[PortCounters]>>,
    forwarder: Forwarder,
    burst: TransmitBurst,
    /// Frames in the order in which they were forwarded.
    history: Vec<Sent>,
    now: u32,
}

/// A frame that was forwarded, the port that it came from, and what its sender left to be done, if that could be.
struct Sent {
    from: usize,
    frame: Vec<u8>,
    offload: Option<Offload>,
}

/// A guest with one transmit queue and one or more receive queues, each on an interface of its own.
struct Guest {
    interfaces: Vec<Interface>,
    transmit: TransmitQueue,
    receive: Vec<Arc<Mutex<ReceiveQueue>>>,
    asks: Offloads,
    takes: Offloads,
    way: Way,
    /// Frames offered and not forwarded yet, with their virtio-net headers.
    sent: Vec<(NetHeader, Vec<u8>)>,
    /// Whole frames.
    received: u64,
    /// For each queue, the first frame of the history that may come next, and how much payload of the one before, of which
    /// segments have come, is still missing.
    next: Vec<(usize, usize)>,
}

impl Node {
    fn new(specs: [PortSpec; PORTS], snooping: bool) -> Self {
        let guests = MEMORIES.with(|memories| {
            let used = |(ram, memory): &Shared| Rc::strong_count(ram) > 1 || Arc::strong_count(memory) > 1;
            assert!(!memories.iter().any(used), "memory outlives its guest");
            let mut memories = memories.iter();
            (0..PORTS).map(|port| Guest::new(port, specs[port], &mut memories)).collect()
        });
        let targets: Vec<_> = specs.iter().flat_map(PortSpec::mirror).map(|mirror| mirror.target.index()).collect();
        let mut node = Self {
            specs,
            rules: std::array::from_fn(|port| Arc::new(specs[port].rules(port))),
            is_target: std::array::from_fn(|port| targets.contains(&port)),
            guests,
            topology: Topology::default(),
            tables: [(); 2].map(|()| Arc::new(MacTable::of_size(AGE_SECONDS, 128, PORTS, SECRETS))),
            groups: snooping.then(Default::default),
            limiters: specs.iter().map(|spec| Arc::new(Limiter::new(&spec.limits()))).collect(),
            meters: specs.iter().map(|spec| Arc::new(Meter::new(&spec.rates()))).collect(),
            counters: (0..PORTS).map(|_| [PortCounters::default()].into()).collect(),
            forwarder: FORWARDER.take().unwrap_or_else(|| Forwarder::new(0)),
            burst: BURST.take().unwrap_or_default(),
            history: Vec::new(),
            now: 0,
        };
        node.plug();
        node
    }

    /// Keeps for the next input what takes longer to make than most inputs. A forwarder finds nothing of the tables of this one in those of
    /// the next.
    fn put_back(self) {
        let Self { guests, topology, forwarder, burst, .. } = self;
        FORWARDER.set(Some(forwarder));
        BURST.set(Some(burst));
        // It holds queues.
        drop(topology);
        for interface in guests.into_iter().flat_map(|guest| guest.interfaces) {
            interface.clear(FRAME_BUFFERS);
        }
        // Looked at where there are few inputs.
        if cfg!(not(feature = "libfuzzer")) {
            let is_clear =
                |(ram, _): &Shared| ram.difference(ram.guest_address(), &vec![0; ram.size() as usize]).is_none();
            assert!(MEMORIES.with(|memories| memories.iter().all(is_clear)), "what an input wrote is left");
        }
    }

    /// A new topology, as the ports and groups are now.
    fn plug(&mut self) {
        let port = |number: usize| {
            let (spec, guest) = (self.specs[number], &self.guests[number]);
            Port {
                id: PortId(number as u16),
                network: NetworkId(u16::from(spec.second_network)),
                attachment: 0,
                rules: self.rules[number].clone(),
                limiter: self.limiters[number].clone(),
                meter: self.meters[number].clone(),
                is_guest: true,
                egress: match guest.way {
                    Way::Down => Egress::Down,
                    Way::Quarantined => Egress::Quarantined,
                    Way::Guest => Egress::Guest(guest.receive.clone().into(), guest.takes),
                },
                mirrors: spec.mirror().into_iter().collect(),
                is_mirror_target: self.is_target[number],
                taps: Box::default(),
                latencies: Box::default(),
                counters: self.counters[number].clone(),
            }
        };
        let bridge = |number: usize| Bridge {
            table: self.tables[number].clone(),
            groups: self.groups.as_ref().map(|groups| Arc::new(groups[number].snapshot())),
        };
        let ports = (0..PORTS).map(|number| Some(port(number))).collect();
        self.topology = Topology::new(ports, (0..2).map(|number| Some(bridge(number))).collect());
    }

    fn operate(&mut self, operation: &Operation) {
        match operation {
            Operation::Send { port, destination, source, length, header, cut } => {
                let mut frame = [address(*destination).0, address(*source).0].concat();
                frame.extend([0x88, 0xb5]);
                let start = self.history.len() + usize::from(*length);
                frame.extend(pattern(start, usize::from(*length % 2100)));
                self.send(*port, NetHeader::parse(&header.unwrap_or_default()), &frame, u32::from(*cut));
            }
            Operation::SendStream { port, destination, source, kind, payload, segment, tags, cut } => {
                let tags: Vec<_> = tags.iter().take(3).map(|&(service, control)| tag(service, control)).collect();
                let mark = self.history.len() + usize::from(*payload);
                let (header, mut frame) =
                    stream([*destination, *source], *kind, usize::from(*payload) % 2000, *segment, tags.len(), mark);
                frame.splice(12..12, tags.concat());
                self.send(*port, Some(header), &frame, u32::from(*cut));
            }
            Operation::SendBytes { port, bytes } => self.send(*port, None, bytes, 14),
            Operation::Forward { port } => self.forward(usize::from(*port) % PORTS),
            Operation::Drain { port } => self.drain(usize::from(*port) % PORTS),
            Operation::Way { port, way } => {
                self.guests[usize::from(*port) % PORTS].way = *way;
                self.plug();
            }
            Operation::Pass { seconds } => self.now += u32::from(*seconds),
            Operation::Sweep => self.tables.iter().for_each(|table| table.sweep(self.now)),
        }
    }

    fn send(&mut self, port: u8, header: Option<NetHeader>, frame: &[u8], cut: u32) {
        let guest = &mut self.guests[usize::from(port) % PORTS];
        let frame = &frame[..frame.len().min(LARGEST_FRAME)];
        let header = header.unwrap_or_default();
        let cut = cut.min(frame.len() as u32);
        // A full ring takes nothing.
        let has_room = guest.sent.len() < usize::from(QUEUE_SIZE) / 2;
        if has_room && guest.interfaces[0].send_with(&header.to_bytes(0), frame, &[cut]) {
            guest.sent.push((header, frame.to_vec()));
        }
    }

    fn forward(&mut self, port: usize) {
        let guest = &mut self.guests[port];
        let received = guest.transmit.receive(&mut self.burst).expect("a good ring");
        assert_eq!(received.len(), guest.sent.len().min(32));
        let now = Duration::from_secs(self.now.into());
        let mut burst = Burst::Guest(received);
        self.forwarder.forward(&self.topology, PortId(port as u16), &mut burst, now);
        // Those that would have cost too much for one turn stay in the ring.
        let taken = burst.len();
        drop(burst);
        let asks = guest.asks;
        self.history.extend(guest.sent.drain(..taken).map(|(header, frame)| {
            let head = &frame[..frame.len().min(HEAD_BYTES)];
            let offload = Offload::check(header.request(), asks, head, frame.len() as u32).ok();
            Sent { from: port, frame, offload }
        }));
        assert_eq!(self.forwarder.take_faults().count(), 0);
        self.note_groups(now);
    }

    /// As control does.
    fn note_groups(&mut self, now: Duration) {
        let snooped: Vec<_> = self.forwarder.take_snooped().collect();
        let Some(groups) = &mut self.groups else { return };
        let mut changed = false;
        for groups in groups.iter_mut() {
            changed |= groups.expire(now);
        }
        for (port, vlan, message) in snooped {
            let network = usize::from(self.specs[port.index()].second_network);
            changed |= groups[network].apply(vlan, port, &message, now);
        }
        if changed {
            self.plug();
        }
    }

    fn drain(&mut self, port: usize) {
        let (specs, is_target) = (self.specs, self.is_target);
        let may_come = |from: usize| {
            let is_alike = specs[from].second_network == specs[port].second_network;
            let are_isolated = specs[from].isolated && specs[port].isolated;
            !is_target[from] && from != port && (is_target[port] || is_alike && !are_isolated)
        };
        let guest = &mut self.guests[port];
        let takes = guest.takes;
        for (interface, (next, missing)) in guest.interfaces.iter_mut().zip(&mut guest.next) {
            while let Some((header, frame)) = interface.receive() {
                let header = NetHeader::parse(&header).expect("a header");
                check_header(&header, &frame, takes);
                // A segment more of the frame of which some have come.
                let before = next.checked_sub(1).and_then(|index| self.history.get(index));
                let more = before.filter(|_| *missing > 0).and_then(|sent| segment_of(sent, &frame, *missing));
                if let Some(payload) = more {
                    *missing -= payload;
                    guest.received += u64::from(*missing == 0);
                    continue;
                }
                let later = self.history.iter().enumerate().skip(*next).filter(|(_, sent)| may_come(sent.from));
                let mut found =
                    later.filter_map(|(index, sent)| Some((index, is_what_was_sent(sent, &header, &frame)?)));
                let (index, left) = found.next().expect("a frame that another port of the network sent, in order");
                (*next, *missing) = (index + 1, left);
                guest.received += u64::from(left == 0);
            }
        }
    }

    fn check_ledgers(&self) {
        let totals: Vec<_> = self.counters.iter().map(|sets| PortTotals::sum(sets)).collect();
        for (it, guest) in totals.iter().zip(&self.guests) {
            assert_eq!(it.rx_frames, it.forwarded + it.dropped(Direction::Rx));
            assert_eq!(it.offered, it.tx_frames + it.dropped(Direction::Tx));
            assert_eq!(it.tx_frames, guest.received);
        }
        let sum = |which: fn(&PortTotals) -> u64| totals.iter().map(which).sum::<u64>();
        assert_eq!(sum(|it| it.copies), sum(|it| it.offered));
        assert_eq!(sum(|it| it.rx_frames), self.history.len() as u64);
    }
}

/// Memory of one interface, and how it is shared.
type Shared = (Rc<Ram>, Arc<Memory>);

thread_local! {
    /// Of all interfaces, one after the other. Each clears its own.
    static MEMORIES: Vec<Shared> = (0..PORTS - 1 + QUEUES).map(|_| {
        let ram = Rc::new(Ram::new(0x8_0000, false));
        let memory = share(&ram);
        (ram, memory)
    }).collect();
    static FORWARDER: Cell<Option<Forwarder>> = const { Cell::new(None) };
    static BURST: Cell<Option<TransmitBurst>> = const { Cell::new(None) };
}

impl Guest {
    fn new<'a>(port: usize, spec: PortSpec, memories: &mut impl Iterator<Item = &'a Shared>) -> Self {
        let queues = if port + 1 == PORTS { QUEUES } else { 1 };
        let shape = Shape {
            queue_size: QUEUE_SIZE,
            header_bytes: 12,
            mergeable: spec.mergeable,
            receive_bytes: if spec.small_buffers { 128 } else { 2048 },
            ..Shape::default()
        };
        let features = spec.features();
        let (rams, memories): (Vec<_>, Vec<_>) = memories.take(queues).cloned().unzip();
        let interface = |ram| Interface::in_ram(shape, LARGEST_FRAME as u32, ram);
        let interfaces: Vec<_> = rams.into_iter().map(interface).collect();
        let receive = interfaces.iter().zip(&memories).map(|(interface, memory)| {
            let queue = ReceiveQueue::new(memory.clone(), &layout(&interface.receive), features, Arc::default());
            Arc::new(Mutex::new(queue.expect("a good ring")))
        });
        let receive = receive.collect();
        let transmit =
            TransmitQueue::new(memories[0].clone(), &layout(&interfaces[0].transmit), features, Arc::default());
        Self {
            receive,
            transmit: transmit.expect("a good ring"),
            interfaces,
            asks: features::asked(features),
            takes: features::taken(features),
            way: Way::Guest,
            sent: Vec::new(),
            received: 0,
            next: vec![(0, 0); queues],
        }
    }
}

impl PortSpec {
    fn features(self) -> u64 {
        let chosen = |mask: u8, bits: &[u64]| {
            let bits = bits.iter().enumerate().filter(|(place, _)| mask >> place & 1 != 0);
            bits.fold(0, |all, (_, bit)| all | bit)
        };
        let asks = chosen(self.asks, &[NET_HOST_TSO4, NET_HOST_TSO6, features::NET_HOST_ECN, NET_HOST_USO]);
        let takes = [NET_GUEST_TSO4, NET_GUEST_TSO6, features::NET_GUEST_ECN, NET_GUEST_USO4, NET_GUEST_USO6];
        let takes = chosen(self.takes, &takes);
        // All others need checksums.
        let sums = chosen(self.asks >> 7, &[NET_CSUM]) | chosen(self.takes >> 7, &[NET_GUEST_CSUM]);
        let asks = if sums & NET_CSUM == 0 { 0 } else { asks };
        let takes = if sums & NET_GUEST_CSUM == 0 { 0 } else { takes };
        VERSION_1 | if self.mergeable { NET_MRG_RXBUF } else { 0 } | sums | asks | takes
    }

    fn limits(&self) -> Limits {
        let limit = |limit: u8| if limit < 2 { Some(u32::from(limit)) } else { None };
        Limits { broadcast: limit(self.limits[0]), unknown: limit(self.limits[1]) }
    }

    fn rates(&self) -> Rates {
        let slow = |burst| Some(Allowance { per_second: 2, burst });
        let rate = |limit: u8| match limit {
            2 => Rate { bytes: None, frames: slow(3) },
            3 => Rate { bytes: slow(200), frames: None },
            4 => Rate { bytes: slow(5000), frames: slow(40) },
            _ => Rate::default(),
        };
        Rates { rx: rate(self.limits[0]), tx: rate(self.limits[1]) }
    }

    fn mirror(&self) -> Option<MirrorTo> {
        // In few inputs: a target takes no other part.
        let (target, rx, tx) = self.mirror.filter(|(target, ..)| usize::from(*target) < PORTS)?;
        Some(MirrorTo { target: PortId(target.into()), rx, tx })
    }

    fn rules(&self, number: usize) -> Rules {
        let trunk =
            |allowed: &[u16], native| Vlans::Trunk { allowed: Arc::new(allowed.iter().copied().collect()), native };
        let vlans = match self.vlans % 8 {
            0 => Vlans::Access { vlan: 1, qinq: false },
            1 => Vlans::Access { vlan: 2, qinq: false },
            2 => Vlans::Access { vlan: 1, qinq: true },
            3 => trunk(&[1, 2], None),
            4 => trunk(&[2], Some(1)),
            _ => Vlans::Transparent,
        };
        let addresses = if self.has_addresses { vec!["10.0.0.1/32", "fd00::1/128"] } else { Vec::new() };
        Rules {
            vlans,
            guard: Guard {
                mac: self.bound.then(|| station(number as u8)),
                addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            },
            limits: self.limits(),
            rates: self.rates(),
            isolated: self.isolated,
            mac_limit: if self.mac_limit < 3 { u32::from(self.mac_limit) } else { 1000 },
            mtu: self.mtu.max(68),
        }
    }
}

/// The virtio-net header asks for what was negotiated, and for something that can be done with the frame.
fn check_header(header: &NetHeader, frame: &[u8], takes: Offloads) {
    match header.flags {
        0 => assert_eq!(*header, NetHeader::default(), "the virtio-net header is ours"),
        DATA_VALID => {
            assert_eq!(*header, NetHeader { flags: DATA_VALID, ..NetHeader::default() });
            assert!(takes.contains(Offloads::CHECKSUM));
        }
        NEEDS_CSUM => {
            let head = &frame[..frame.len().min(HEAD_BYTES + 4)];
            let offload = Offload::check(header.request(), takes, head, frame.len() as u32);
            // Headers are not found behind three tags: then it was checked without the one that we pushed.
            if !is_tagged(frame, 3) {
                assert_eq!(offload.map(Offload::fields).map(|fields| NetHeader::of(&fields)), Ok(*header));
            }
        }
        flags => panic!("flags {flags:#x}"),
    }
}

/// Whether a received frame is, or is the first segment of, a frame that was sent; then how much payload is missing still.
fn is_what_was_sent(sent: &Sent, header: &NetHeader, frame: &[u8]) -> Option<usize> {
    let open = match sent.offload? {
        Offload::Segment(segmentation) if header.gso_type == 0 => {
            let payload = sent.frame.len() - usize::from(segmentation.header_bytes);
            return segment_of(sent, frame, payload).map(|cut| payload - cut);
        }
        Offload::None | Offload::Valid => None,
        Offload::Checksum(partial) => Some(partial.field()),
        Offload::Segment(segmentation) => Some(segmentation.partial_checksum().field()),
    };
    let Some(field) = open else { return same_but_for_the_tag(frame, &sent.frame).then_some(0) };
    if frame.len().abs_diff(sent.frame.len()) > 4 {
        return None;
    }
    let mut sent = sent.frame.clone();
    let mut frame = frame.to_vec();
    // Counted from the end, which no tag moves.
    let from_end = sent.len() - field;
    sent[field..field + 2].fill(0);
    let field = frame.len().checked_sub(from_end)?;
    frame.get_mut(field..field + 2)?.fill(0);
    same_but_for_the_tag(&frame, &sent).then_some(0)
}

/// Whether a received frame is the next segment of one of which `missing` bytes of payload have not come; then how many
/// bytes of them it has.
fn segment_of(sent: &Sent, frame: &[u8], missing: usize) -> Option<usize> {
    let Some(Offload::Segment(Segmentation { header_bytes, size, .. })) = sent.offload else { return None };
    let payload = missing.min(usize::from(size));
    let headers = frame.len().checked_sub(payload)?;
    let start = sent.frame.len() - missing;
    let (head, tail) = frame.split_at(headers);
    let sent_head = &sent.frame[..usize::from(header_bytes)];
    // Addresses and ports are the same, and a tag was perhaps pushed or popped; lengths, numbers and sums are `culvert-frame`'s matter.
    let is_alike = matches!(head.len().abs_diff(sent_head.len()), 0 | 4) && head.get(..12) == sent_head.get(..12);
    (is_alike && tail == &sent.frame[start..start + payload]).then_some(payload)
}

fn same_but_for_the_tag(frame: &[u8], sent: &[u8]) -> bool {
    let forms = |frame| [halves(frame, 0), halves(frame, outer_tag_bytes(frame))];
    let sent = forms(sent);
    forms(frame).iter().any(|form| sent.contains(form))
}

fn outer_tag_bytes(frame: &[u8]) -> usize {
    if frame.len() >= 16 && vlan_tags_bytes(frame) > 0 { 4 } else { 0 }
}

/// The frame without so many bytes behind its addresses: what is before them, and what behind.
fn halves(frame: &[u8], without: usize) -> (&[u8], &[u8]) {
    let (addresses, rest) = frame.split_at(frame.len().min(12));
    (addresses, &rest[without..])
}

fn is_tagged(frame: &[u8], times: usize) -> bool {
    (0..times).all(|place| matches!(frame.get(12 + 4 * place..14 + 4 * place), Some([0x81, 0x00] | [0x88, 0xa8])))
}

fn tag(service: bool, control: u16) -> [u8; 4] {
    // Mostly of a VLAN that a port has.
    let vlan = if control & 0xff0 == 0 { control & 0xf } else { control % 4 };
    let [high, low] = (control & 0xf000 | vlan).to_be_bytes();
    let [a, b] = if service { [0x88, 0xa8] } else { [0x81, 0x00] };
    [a, b, high, low]
}

/// A frame of TCP or UDP to be put behind some tags, and the header with which it is sent.
fn stream(stations: [u8; 2], kind: u8, payload: usize, segment: u16, tags: usize, mark: usize) -> (NetHeader, Vec<u8>) {
    let (is_ipv6, is_udp) = (kind & 1 != 0, kind & 2 != 0);
    let payload = pattern(mark, payload);
    let protocol = if is_udp { 17 } else { 6 };
    let mut transport = if is_udp {
        let length = (8 + payload.len() as u16).to_be_bytes();
        [&[0x13, 0x88, 0x13, 0x89], &length[..], &[0, 0]].concat()
    } else {
        vec![0x13, 0x88, 0x13, 0x89, 0, 0, 1, 0, 0, 0, 2, 0, 0x50, 0x10 | kind & 0x80, 1, 0, 0, 0, 0, 0]
    };
    let bytes = transport.len() + payload.len();
    let ip = if is_ipv6 {
        let mut addresses = [0; 32];
        (addresses[0], addresses[15], addresses[16], addresses[31]) = (0xfd, 1, 0xfd, 2);
        let [high, low] = (bytes as u16).to_be_bytes();
        [&[0x60, 0, 0, 0, high, low, protocol, 64][..], &addresses].concat()
    } else {
        let [high, low] = (20 + bytes as u16).to_be_bytes();
        vec![0x45, 0, high, low, 0, 7, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
    };
    let version = if is_ipv6 { IpVersion::V6 } else { IpVersion::V4 };
    let field = if is_udp { 6 } else { 16 };
    let sum = Sum::of_pseudo_header(version, &ip, protocol, bytes as u32).expect("an IP header").partial();
    transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    let ether_type = if is_ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    let addresses = stations.map(|station| address(station).0).concat();
    let header = NetHeader {
        flags: if kind & 4 != 0 { NEEDS_CSUM } else { 0 },
        gso_type: match (kind & 8 != 0, is_udp, is_ipv6) {
            (false, ..) => 0,
            (true, true, _) => 5,
            (true, false, false) => 1 | kind & 0x80,
            (true, false, true) => 4 | kind & 0x80,
        },
        hdr_len: 0,
        gso_size: segment % 1500,
        csum_start: (14 + 4 * tags + ip.len()) as u16,
        csum_offset: field as u16,
    };
    (header, [&addresses[..], &ether_type, &ip, &transport, payload].concat())
}

const QUEUE_SIZE: u16 = 64;
/// As many bytes of a frame are looked at.
const HEAD_BYTES: usize = 128;
const LARGEST_FRAME: usize = 2200;

/// A frame has no more: the largest one, where they are of 128 bytes.
const FRAME_BUFFERS: u16 = 20;

/// So many bytes of what frames hold, which is another one for each start.
fn pattern(start: usize, bytes: usize) -> &'static [u8] {
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| (0..253).cycle().take(253 + LARGEST_FRAME).collect());
    &PATTERN[start % 253..][..bytes]
}

/// The address that a port may be bound to.
fn station(number: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, number])
}

/// A few stations, and a few groups.
fn address(number: u8) -> MacAddress {
    match number % 16 {
        12 => MacAddress::BROADCAST,
        13 => MacAddress([0x01, 0, 0x5e, 0, 0, 1]),
        14 => MacAddress([0x01, 0x80, 0xc2, 0, 0, number / 16]),
        15 => MacAddress([0x33, 0x33, 0, 0, 0, 1]),
        station => self::station(station),
    }
}

//! Guests played in the test's process, at ports of a datapath of its own.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    dead_code,
    reason = "tests, not all of which use all"
)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_driver::{Interface, Ring, Shape};
use culvert_frame::MacAddress;
use culvert_guest::device::{RingChange, RingSetup};
use culvert_guest::features::{EVENT_IDX, INDIRECT_DESC, NET_MRG_RXBUF, RING_PACKED, VERSION_1};
use culvert_guest::{Call, Memory, Region, RingLayout};
use culvert_switch::{NetworkId, PortId, Rules};
use culvert_worker::datapath::DatapathConfig;
use culvert_worker::{Datapath, NetworkSettings};
use rustix::event::{EventfdFlags, eventfd};

pub const SETTINGS: NetworkSettings = NetworkSettings { mac_age: Duration::from_secs(300), snooping: false };
pub const FEATURES: u64 = VERSION_1 | NET_MRG_RXBUF | INDIRECT_DESC;

/// A guest of one queue pair and the port that it is attached to.
pub struct Guest {
    pub port: PortId,
    pub mac: MacAddress,
    pub driver: Interface,
    pub memory: Arc<Memory>,
    pub kick: Arc<OwnedFd>,
    pub shape: Shape,
}

pub fn datapath(workers: usize, idle_sleep: Option<Duration>) -> (Datapath, NetworkId) {
    let cores = std::thread::available_parallelism().unwrap().get();
    let cores = (0..workers).map(|index| index % cores).collect();
    let datapath = Datapath::start(&DatapathConfig { cores, idle_sleep }, None).unwrap();
    let network = datapath.add_network(SETTINGS).unwrap();
    (datapath, network)
}

impl Guest {
    pub fn new(datapath: &Datapath, network: NetworkId, number: u8, shape: Shape) -> Self {
        let port = datapath.add_guest_port(network, Rules::default()).unwrap();
        let driver = Interface::new(shape, 9200);
        let ram = driver.ram();
        let region = Region {
            guest_address: ram.guest_address(),
            size: ram.size(),
            user_address: ram.user_address(),
            mmap_offset: 0,
        };
        let memory = Memory::map(vec![(region, ram.file().try_clone_to_owned().unwrap())]).unwrap();
        let kick = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let mac = MacAddress([2, 0, 0, 0, 0, number]);
        Self { port, mac, driver, memory: Arc::new(memory), kick, shape }
    }

    pub fn start(&self, datapath: &Datapath) {
        let rings = [&self.driver.receive, &self.driver.transmit];
        let changes = (0..).zip(rings).map(|(ring, of)| RingChange::Start { ring, setup: self.setup(of) }).collect();
        assert_eq!(datapath.change_rings(self.port, changes).unwrap(), []);
    }

    pub fn setup(&self, ring: &Ring) -> RingSetup {
        let (descriptors, available, used) = ring.user_addresses();
        RingSetup {
            memory: self.memory.clone(),
            layout: RingLayout { size: ring.size(), descriptors, available, used },
            features: FEATURES
                | if self.shape.event_idx { EVENT_IDX } else { 0 }
                | if self.shape.packed { RING_PACKED } else { 0 },
            kick: Some(self.kick.clone()),
            call: Arc::new(Call::default()),
            enabled: true,
            packed: None,
            log: None,
        }
    }

    pub fn frame(&self, to: MacAddress, number: u32) -> Vec<u8> {
        let mut frame = [to.0, self.mac.0].concat();
        frame.extend([0x88, 0xb5]);
        frame.extend(number.to_be_bytes());
        frame.resize(60 + number as usize % 1400, number as u8);
        frame
    }

    /// Sends and kicks if asked to.
    pub fn send(&mut self, frame: &[u8]) {
        wait(|| self.driver.send(frame));
        rustix::io::write(self.kick.as_fd(), &1_u64.to_ne_bytes()).unwrap();
    }

    pub fn receive(&mut self) -> Vec<u8> {
        let mut received = None;
        wait(|| {
            received = self.driver.receive();
            received.is_some()
        });
        received.unwrap().1
    }
}

pub fn start_all(datapath: &Datapath, guests: &[&Guest]) {
    guests.iter().for_each(|guest| guest.start(datapath));
}

pub fn wait(mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < Duration::from_secs(20), "nothing happened");
        std::thread::sleep(Duration::from_micros(100));
    }
}

//! One virtio-net device as its frontend configures it: features, memory table, rings.
//!
//! Pure state: each request of the vhost-user session becomes one call here, which refuses it or answers with the
//! [`RingChange`]s that the workers have to carry out. Nothing here waits, maps memory or reads a ring; no worker calls
//! it. A ring *runs* once it has a size, addresses inside of the memory table, and a kick (or the word that there is
//! none); from then on the worker has it, until a `Stop` for it was acknowledged.

use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_frame::MacAddress;

use crate::call::{Call, Replaced};
use crate::dirty_log::{DirtyLog, RingLog};
use crate::features;
use crate::layout::{RingError, RingLayout};
use crate::memory::Memory;
use crate::packed::{FIRST_POSITION, PackedStart};
use crate::record::{Record, Records};

/// Most queue pairs of one device: a vhost-user kick names its ring in 8 bits.
pub const MAX_QUEUE_PAIRS: u16 = 128;

/// Smallest MTU that a frontend may set, in bytes (RFC 791, section 3.2).
pub const MIN_MTU: u16 = 68;

/// What a port offers to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Pairs of a receive and a transmit queue, 1 to [`MAX_QUEUE_PAIRS`].
    pub queue_pairs: u16,
    /// Largest packet without its Ethernet header, in bytes.
    pub mtu: u16,
    /// The guest's MAC address, if the port prescribes one.
    pub mac: Option<MacAddress>,
    /// Whether frames may pass with checksums to be completed and to be segmented.
    pub offloads: bool,
    /// Whether what is written into the guest's memory can be logged, so that the guest can move to another machine.
    pub migrates: bool,
}

impl DeviceConfig {
    /// The feature bits that we offer. MQ and GUEST_ANNOUNCE only with several pairs: without CTRL_VQ, which belongs
    /// to the frontend, Linux refuses a device that has them.
    pub fn offered(&self) -> u64 {
        let mut bits = features::VERSION_1
            | features::NET_MRG_RXBUF
            | features::INDIRECT_DESC
            | features::EVENT_IDX
            | features::IN_ORDER
            | features::RING_PACKED
            | features::ANY_LAYOUT
            | features::NET_MTU
            | features::PROTOCOL_FEATURES;
        if self.migrates {
            bits |= features::LOG_ALL;
        }
        if self.offloads {
            bits |= features::NET_OFFLOADS;
        }
        if self.mac.is_some() {
            bits |= features::NET_MAC;
        }
        if self.queue_pairs > 1 {
            bits |= features::NET_MQ | features::NET_GUEST_ANNOUNCE;
        }
        bits
    }

    /// The start of `virtio_net_config` (virtio 1.3, section 5.1.4): mac, status, max_virtqueue_pairs, mtu.
    pub fn space(&self) -> [u8; 12] {
        let [a, b, c, d, e, f] = self.mac.unwrap_or_default().0;
        let [pairs_low, pairs_high] = self.queue_pairs.to_le_bytes();
        let [mtu_low, mtu_high] = self.mtu.to_le_bytes();
        [a, b, c, d, e, f, 0, 0, pairs_low, pairs_high, mtu_low, mtu_high]
    }

    /// How many rings the device has, two for each pair. An even number is a receive queue of the guest (our tx), an
    /// odd one a transmit queue (our rx).
    pub fn rings(&self) -> u16 {
        self.queue_pairs.clamp(1, MAX_QUEUE_PAIRS) * 2
    }
}

/// What the workers have to do about one ring.
#[derive(Clone, Debug)]
pub enum RingChange {
    /// Finish the burst, give all its buffers back, let go of the ring. No error if it does not run.
    Stop {
        /// Number of the ring.
        ring: u16,
    },
    /// Take the ring up, at the position that its used index or its record tells. Whoever asks for it signals once when it is done: an
    /// interrupt may be owed from before.
    Start {
        /// Number of the ring.
        ring: u16,
        /// All that is needed to run it.
        setup: RingSetup,
    },
    /// Pass frames through a running ring, or cease to.
    Enable {
        /// Number of the ring.
        ring: u16,
        /// Whether frames may pass.
        enabled: bool,
    },
    /// Log what is written into the guest's memory for a running ring from now on, or cease to. No frame may be lost over it.
    Log {
        /// Number of the ring.
        ring: u16,
        /// Where to; none: nowhere.
        log: Option<RingLog>,
    },
}

/// All that a worker needs to run a ring.
#[derive(Clone, Debug)]
pub struct RingSetup {
    /// The table that holds the ring and its buffers.
    pub memory: Arc<Memory>,
    /// Size and place; checked against `memory`.
    pub layout: RingLayout,
    /// The acknowledged feature bits, without LOG_ALL.
    pub features: u64,
    /// What the guest writes to after it made buffers available; none if it expects to be polled.
    pub kick: Option<Arc<OwnedFd>>,
    /// How to interrupt the guest. SET_VRING_CALL changes it in place.
    pub call: Arc<Call>,
    /// Whether frames may pass.
    pub enabled: bool,
    /// Where to go on, if the ring is packed; a split ring tells that itself.
    pub packed: Option<PackedStart>,
    /// Where it is logged what is written into the guest's memory, if it is.
    pub log: Option<RingLog>,
}

/// A ring that a worker let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoppedRing {
    /// Number of the ring.
    pub ring: u16,
    /// Index of the next available entry that was not taken (GET_VRING_BASE); of a packed ring with the wrap counter in bit 15.
    pub position: u16,
}

/// The workers did not acknowledge a change in time. The change may still happen later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the workers did not acknowledge a change of rings within 1 s; look for a stalled worker core")]
pub struct Unresponsive;

/// Why a request was refused. The device is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The frontend acknowledged feature bits that were not offered.
    #[error("feature bits {0:#x} were never offered")]
    Features(u64),
    /// No ring has this number.
    #[error("ring {ring} does not exist, the port has {rings} rings; raise its `queues`")]
    NoSuchRing {
        /// As the frontend sent it.
        ring: u32,
        /// How many there are.
        rings: u16,
    },
    /// Size or place of a ring.
    #[error("ring {ring}: {error}")]
    Ring {
        /// Number of the ring.
        ring: u16,
        /// What is wrong.
        error: RingError,
    },
    /// A size above 65535.
    #[error("ring {ring}: size {size} is too large")]
    Size {
        /// Number of the ring.
        ring: u16,
        /// As the frontend sent it.
        size: u32,
    },
    /// A split ring's position has 16 bits; that of a packed one is inside of the ring.
    #[error("ring {ring}: there is no position {position:#x}")]
    Position {
        /// Number of the ring.
        ring: u16,
        /// As the frontend sent it.
        position: u32,
    },
    /// The request is for stopped rings.
    #[error("ring {0} runs; the request is only for a stopped ring")]
    Running(u16),
    /// Writes are to be logged, and there is no log.
    #[error("writes cannot be logged: no usable log was given (SET_LOG_BASE)")]
    NoLog,
    /// The log has no bits for some of the memory.
    #[error("a dirty log of {bytes} bytes is too small: the guest's memory needs {needed}")]
    ShortLog {
        /// That it has.
        bytes: u64,
        /// That it must have.
        needed: u64,
    },
    /// SET_VRING_ENABLE with a number other than 0 and 1.
    #[error("ring {ring}: {state} is neither 0 (disable) nor 1 (enable)")]
    Enable {
        /// Number of the ring.
        ring: u16,
        /// As the frontend sent it.
        state: u32,
    },
    /// An MTU that the port cannot carry.
    #[error("MTU {wanted} is not between {MIN_MTU} and the port's {port}; raise the port's `mtu`")]
    Mtu {
        /// As the frontend sent it.
        wanted: u64,
        /// The port's.
        port: u16,
    },
}

/// How a guest tells that it made buffers available.
#[derive(Clone, Debug, Default)]
pub enum Kick {
    /// Not said yet: the ring does not run.
    #[default]
    Unknown,
    /// Not at all: the ring must be polled.
    Polled,
    /// It writes to this.
    Descriptor(Arc<OwnedFd>),
}

/// User addresses of a ring's three areas (SET_VRING_ADDR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring.
    pub used: u64,
    /// The guest address at which writes to the used ring are to be logged (`log_guest_addr`); none: the frontend has told none.
    pub log: Option<u64>,
}

/// What a frontend has said of one ring.
#[derive(Clone, Copy, Debug)]
pub struct RingSettings<'a> {
    /// Entries; 0 while unknown.
    pub size: u16,
    /// Where it is.
    pub addresses: Option<RingAddresses>,
    /// What SET_VRING_BASE would tell of where the ring stood last; none: nothing was said.
    pub position: Option<u32>,
    /// How the guest tells that it made buffers available.
    pub kick: &'a Kick,
    /// How to interrupt the guest.
    pub call: &'a Call,
    /// What SET_VRING_ENABLE said.
    pub enabled: Option<bool>,
    /// The feature bits that it runs with, if it does, without LOG_ALL.
    pub running: Option<u64>,
}

/// What is known of one ring, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingStatus {
    /// Entries; 0 while unknown.
    pub size: u16,
    /// Whether a worker has it.
    pub running: bool,
    /// Whether frames may pass.
    pub enabled: bool,
}

/// The device.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    acknowledged: u64,
    memory: Option<Arc<Memory>>,
    rings: Box<[Ring]>,
    /// Where its packed rings stand.
    records: Option<Arc<Records>>,
    /// Where it is noted what we write, when that is wanted, and how the frontend is told of that.
    log: Option<Arc<DirtyLog>>,
    log_call: Arc<Call>,
    /// Writes were to be logged since there is this log.
    log_was_wanted: bool,
}

impl Device {
    /// A device that no frontend has configured.
    pub fn new(config: DeviceConfig) -> Self {
        let rings = (0..config.rings()).map(|_| Ring::default()).collect();
        Self {
            config,
            acknowledged: 0,
            memory: None,
            rings,
            records: None,
            log: None,
            log_call: Arc::default(),
            log_was_wanted: false,
        }
    }

    /// The same with these records of packed rings, which may be an earlier process's.
    #[must_use]
    pub fn with_records(self, records: Option<Arc<Records>>) -> Self {
        Self { records, ..self }
    }

    /// Why records cannot outlive the process, where they should.
    pub fn unkept(&self) -> Option<&std::io::Error> {
        self.records.as_ref().and_then(|records| records.failure())
    }

    /// What the port offers.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// The acknowledged feature bits.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The memory table in force.
    pub fn memory(&self) -> Option<&Arc<Memory>> {
        self.memory.as_ref()
    }

    /// All rings, by number.
    pub fn rings(&self) -> impl ExactSizeIterator<Item = RingStatus> + '_ {
        self.rings.iter().map(|ring| RingStatus {
            size: ring.size,
            running: ring.running.is_some(),
            enabled: self.is_enabled(ring),
        })
    }

    /// What the frontend has said of each ring, by number.
    pub fn settings(&self) -> impl ExactSizeIterator<Item = RingSettings<'_>> {
        self.rings.iter().map(|ring| RingSettings {
            size: ring.size,
            addresses: ring.addresses,
            position: ring.position.map(|position| base(position, self.acknowledged)),
            kick: &ring.kick,
            call: &ring.call,
            enabled: ring.enabled,
            running: ring.running.as_ref().map(|running| running.features),
        })
    }

    /// The log that SET_LOG_BASE gave.
    pub fn log(&self) -> Option<&Arc<DirtyLog>> {
        self.log.as_ref()
    }

    /// What is signalled when there are new marks in it.
    pub fn log_call(&self) -> &Call {
        &self.log_call
    }

    /// Whether writes are to be logged: LOG_ALL was acknowledged, or a ring's flag is set.
    pub fn is_logging(&self) -> bool {
        let asks = |ring: &Ring| ring.addresses.is_some_and(|addresses| addresses.log.is_some());
        self.acknowledged & features::LOG_ALL != 0 || self.rings.iter().any(asks)
    }

    /// SET_FEATURES. Running rings keep their features until they are stopped, but for LOG_ALL, which holds at once: the request is done
    /// when every ring logs. A frontend may acknowledge it before rings run, and give the log later: QEMU does when a device starts in the
    /// middle of a migration, though its rings are enabled by then. They start when the log is there: what was written before would be
    /// missing in it.
    ///
    /// # Errors
    /// [`DeviceError::Features`]; [`DeviceError::NoLog`] and [`DeviceError::ShortLog`] where a ring runs.
    pub fn set_features(&mut self, bits: u64) -> Result<Vec<RingChange>, DeviceError> {
        let unknown = bits & !self.config.offered();
        if unknown != 0 {
            return Err(DeviceError::Features(unknown));
        }
        let before = mem::replace(&mut self.acknowledged, bits);
        if (before ^ bits) & features::LOG_ALL == 0 {
            return Ok(Vec::new());
        }
        let followed = self.follow_log();
        if followed.is_err() {
            self.acknowledged = before;
        }
        followed
    }

    /// SET_LOG_BASE, once the log is mapped. Returns the log of before as well, which must outlive the acknowledgement of the changes.
    ///
    /// # Errors
    /// [`DeviceError::ShortLog`]; the log of before is in force then.
    pub fn set_log(&mut self, log: Arc<DirtyLog>) -> Result<(Vec<RingChange>, Option<Arc<DirtyLog>>), DeviceError> {
        self.check_log(self.memory.as_deref(), Some(&log))?;
        let old = self.log.replace(log);
        match self.follow_log() {
            Ok(changes) => Ok((changes, old)),
            Err(error) => {
                self.log = old;
                Err(error)
            }
        }
    }

    /// Forgets the log, when it is not in use: it is not the one that the frontend reads. Returns it.
    pub fn forget_log(&mut self) -> Option<Arc<DirtyLog>> {
        if self.is_logging() { None } else { self.log.take() }
    }

    /// Forgets the log once it was in use and is so no more: a frontend gives another one for its next try. Returns it; it must outlive the
    /// acknowledgement of what the last request has changed.
    pub fn forget_used_log(&mut self) -> Option<Arc<DirtyLog>> {
        if self.is_logging() {
            self.log_was_wanted = true;
        } else if mem::take(&mut self.log_was_wanted) {
            return self.log.take();
        }
        None
    }

    /// SET_LOG_FD: takes effect at once. Returns the old descriptor.
    pub fn set_log_call(&mut self, descriptor: OwnedFd) -> Option<Replaced> {
        self.log_call.set(Some(descriptor))
    }

    /// Whether a table of memory can be that in force: where writes are logged, all of it must have bits in the log.
    ///
    /// # Errors
    /// [`DeviceError::ShortLog`].
    pub fn check_memory(&self, memory: &Memory) -> Result<(), DeviceError> {
        if self.is_logging() { self.check_log(Some(memory), self.log.as_deref()) } else { Ok(()) }
    }

    fn check_log(&self, memory: Option<&Memory>, log: Option<&DirtyLog>) -> Result<(), DeviceError> {
        let Some(log) = log else { return Ok(()) };
        let is_packed = self.acknowledged & features::RING_PACKED != 0;
        let used_ends = self.rings.iter().filter_map(|ring| {
            let bytes = if is_packed { 4 } else { 6 + 8 * u64::from(ring.size) };
            Some(ring.addresses?.log?.saturating_add(bytes))
        });
        let end = used_ends.chain(memory.map(Memory::end)).max().unwrap_or(0);
        let (bytes, needed) = (log.bytes(), DirtyLog::needed(end));
        if bytes < needed { Err(DeviceError::ShortLog { bytes, needed }) } else { Ok(()) }
    }

    /// Whether a ring can log as it is to; that of one that does not run may come later.
    fn check_ring_log(&self, number: u16) -> Result<(), DeviceError> {
        let Some(ring) = self.rings.get(usize::from(number)) else { return Ok(()) };
        if self.ring_log(ring).is_err() && ring.running.is_some() {
            return Err(DeviceError::NoLog);
        }
        if self.is_logging() { self.check_log(self.memory.as_deref(), self.log.as_deref()) } else { Ok(()) }
    }

    /// Where a ring's writes are to be logged, if they are.
    fn ring_log(&self, ring: &Ring) -> Result<Option<RingLog>, DeviceError> {
        let used = ring.addresses.and_then(|addresses| addresses.log);
        if self.acknowledged & features::LOG_ALL == 0 && used.is_none() {
            return Ok(None);
        }
        let log = self.log.clone().ok_or(DeviceError::NoLog)?;
        Ok(Some(RingLog { log, used, call: Arc::clone(&self.log_call) }))
    }

    /// Has each running ring log what it is to log by now, and starts those that have waited for their log.
    fn follow_log(&mut self) -> Result<Vec<RingChange>, DeviceError> {
        if self.is_logging() {
            self.check_log(self.memory.as_deref(), self.log.as_deref())?;
        }
        let running = self.rings.iter().filter(|ring| ring.running.is_some());
        running.map(|ring| self.ring_log(ring)).collect::<Result<Vec<_>, _>>()?;
        let mut changes = Vec::new();
        for number in 0..self.config.rings() {
            let Some(ring) = self.rings.get(usize::from(number)) else { break };
            if ring.running.is_none() {
                // Where it lies where no ring can be, it stays stopped.
                changes.extend(self.start(number, None).ok().flatten());
                continue;
            }
            let log = self.ring_log(ring).unwrap_or(None);
            let Some(running) = self.ring(u32::from(number))?.1.running.as_mut() else { continue };
            if running.log != log {
                running.log.clone_from(&log);
                changes.push(RingChange::Log { ring: number, log });
            }
        }
        Ok(changes)
    }

    /// SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG, once the new table is mapped. All running rings are stopped and, where
    /// the new table still holds them, started again; a ring that it does not hold runs again when a later one does.
    /// Also returns the old table, which must outlive the acknowledgement of the changes.
    pub fn set_memory(&mut self, memory: Option<Arc<Memory>>) -> (Vec<RingChange>, Option<Arc<Memory>>) {
        let mut changes = Vec::new();
        let running_before: Vec<_> = self.rings.iter_mut().map(|ring| ring.running.take()).collect();
        for (number, running) in (0..).zip(&running_before) {
            if running.is_some() {
                changes.push(RingChange::Stop { ring: number });
            }
        }
        let old = mem::replace(&mut self.memory, memory);
        for (number, running) in (0..).zip(running_before) {
            // A ring outside of the new table stays stopped: not an error of this request.
            if let Ok(Some(start)) = self.start(number, running.map(|running| running.features)) {
                changes.push(start);
            }
        }
        (changes, old)
    }

    /// NET_SET_MTU: checks only, the port's MTU stays what it is.
    ///
    /// # Errors
    /// [`DeviceError::Mtu`].
    pub fn check_mtu(&self, wanted: u64) -> Result<(), DeviceError> {
        if (u64::from(MIN_MTU)..=u64::from(self.config.mtu)).contains(&wanted) {
            Ok(())
        } else {
            Err(DeviceError::Mtu { wanted, port: self.config.mtu })
        }
    }

    /// SET_VRING_NUM.
    ///
    /// # Errors
    /// No such ring, a bad size, or the ring runs.
    pub fn set_size(&mut self, ring: u32, size: u32) -> Result<Vec<RingChange>, DeviceError> {
        let (number, ring) = self.ring(ring)?;
        if ring.running.is_some() {
            return Err(DeviceError::Running(number));
        }
        let size = u16::try_from(size).map_err(|_| DeviceError::Size { ring: number, size })?;
        RingLayout::check_size(size).map_err(|error| DeviceError::Ring { ring: number, error })?;
        ring.size = size;
        // Where the ring is known to be, but it does not fit there: new addresses are on their way.
        Ok(self.start(number, None).ok().flatten().into_iter().collect())
    }

    /// SET_VRING_ADDR. A running ring is moved.
    ///
    /// # Errors
    /// No such ring, or a place where no ring can be. Checked when size and memory are known, else at the kick.
    pub fn set_addresses(&mut self, ring: u32, addresses: RingAddresses) -> Result<Vec<RingChange>, DeviceError> {
        let (memory, features) = (self.memory.clone(), self.acknowledged);
        let (number, ring) = self.ring(ring)?;
        let before = ring.addresses;
        if before == Some(addresses) {
            return Ok(Vec::new());
        }
        if before.is_some_and(|before| (RingAddresses { log: addresses.log, ..before }) == addresses) {
            // It stays where it is.
            ring.addresses = Some(addresses);
            let followed = self.follow_log();
            if followed.is_err() {
                self.ring(u32::from(number))?.1.addresses = before;
            }
            return followed;
        }
        if let (Some(memory), size @ 1..) = (memory, ring.size) {
            layout(size, addresses)
                .check(&memory, features)
                .map_err(|error| DeviceError::Ring { ring: number, error })?;
        }
        ring.addresses = Some(addresses);
        if let Err(error) = self.check_ring_log(number) {
            self.ring(u32::from(number))?.1.addresses = before;
            return Err(error);
        }
        self.restart(number)
    }

    /// SET_VRING_BASE. Of a split ring kept only to answer GET_VRING_BASE: it resumes from its used index. Of a packed one the lower half
    /// tells where the driver's next buffer is, the upper half where the next used one is: the same place, as nothing is under way in a
    /// ring that stands, so that DPDK's virtio-user leaves it out.
    ///
    /// # Errors
    /// No such ring, a position that the ring cannot have, or the ring runs.
    pub fn set_position(&mut self, ring: u32, position: u32) -> Result<(), DeviceError> {
        let is_packed = self.acknowledged & features::RING_PACKED != 0;
        let (number, ring) = self.ring(ring)?;
        if ring.running.is_some() {
            return Err(DeviceError::Running(number));
        }
        let lower = if is_packed { position & 0xffff } else { position };
        let lower = u16::try_from(lower).map_err(|_| DeviceError::Position { ring: number, position })?;
        ring.position = Some(lower);
        Ok(())
    }

    /// The first half of GET_VRING_BASE: stops the ring, which runs again after the next kick descriptor.
    ///
    /// # Errors
    /// No such ring.
    pub fn stop(&mut self, ring: u32) -> Result<Vec<RingChange>, DeviceError> {
        let (number, ring) = self.ring(ring)?;
        ring.kick = Kick::Unknown;
        Ok(ring.running.take().map(|_| RingChange::Stop { ring: number }).into_iter().collect())
    }

    /// The second half of GET_VRING_BASE: where the ring stands.
    ///
    /// # Errors
    /// No such ring.
    pub fn position(&mut self, ring: u32) -> Result<u32, DeviceError> {
        let features = self.acknowledged;
        let (number, ring) = self.ring(ring)?;
        let position = ring.position.unwrap_or_else(|| first(features));
        // From here on the frontend knows it, and may tell us another.
        if ring.running.is_none()
            && let Some(record) = self.records.as_ref().and_then(|records| records.ring(number))
        {
            record.clear();
        }
        Ok(base(position, features))
    }

    /// SET_VRING_KICK. The last thing that a ring needs to run.
    ///
    /// # Errors
    /// No such ring, or it lies where no ring can be.
    pub fn set_kick(&mut self, ring: u32, kick: Kick) -> Result<Vec<RingChange>, DeviceError> {
        let (number, ring) = self.ring(ring)?;
        let old = mem::replace(&mut ring.kick, kick);
        let result = self.restart(number);
        if result.is_err() {
            self.ring(u32::from(number))?.1.kick = old;
        }
        result
    }

    /// SET_VRING_CALL: takes effect at once, also on a running ring. The guest is interrupted once: a process before us may
    /// have died between its used index and the interrupt, which nobody else would make up for, and the guest would wait
    /// for ever (QEMU's libvhost-user does the same). That is for the caller, who gets the call and its old descriptor: a
    /// frontend can make either last.
    ///
    /// # Errors
    /// No such ring.
    pub fn set_call(
        &mut self,
        ring: u32,
        descriptor: Option<OwnedFd>,
    ) -> Result<(Arc<Call>, Option<Replaced>), DeviceError> {
        let call = &self.ring(ring)?.1.call;
        let replaced = call.set(descriptor);
        Ok((Arc::clone(call), replaced))
    }

    /// SET_VRING_ENABLE: 1 or 0. QEMU sends it before it acknowledges any features.
    ///
    /// # Errors
    /// No such ring, or another number.
    pub fn set_enabled(&mut self, ring: u32, state: u32) -> Result<Vec<RingChange>, DeviceError> {
        let (number, ring) = self.ring(ring)?;
        let enabled = match state {
            0 => false,
            1 => true,
            _ => return Err(DeviceError::Enable { ring: number, state }),
        };
        ring.enabled = Some(enabled);
        Ok(ring.running.as_ref().map(|_| RingChange::Enable { ring: number, enabled }).into_iter().collect())
    }

    /// Whether a ring has this number, for requests that only name one.
    ///
    /// # Errors
    /// No such ring.
    pub fn check_ring(&mut self, ring: u32) -> Result<(), DeviceError> {
        self.ring(ring).map(drop)
    }

    /// RESET_DEVICE: features and rings as at the start. Memory stays, because frontends do not send it again, and so
    /// do the interrupts.
    pub fn reset(&mut self) -> Vec<RingChange> {
        let changes = self.stop_all();
        self.acknowledged = 0;
        for ring in &mut self.rings {
            *ring = Ring { call: Arc::clone(&ring.call), held: ring.held, ..Ring::default() };
        }
        changes
    }

    /// Stops every ring that a worker may have, also those whose earlier stop was not acknowledged.
    pub fn stop_all(&mut self) -> Vec<RingChange> {
        let mut changes = Vec::new();
        for (number, ring) in (0..).zip(&mut self.rings) {
            ring.running = None;
            if ring.held {
                changes.push(RingChange::Stop { ring: number });
            }
        }
        changes
    }

    /// Takes note of the workers' acknowledgement.
    pub fn stopped(&mut self, stopped: &[StoppedRing]) {
        let is_packed = self.acknowledged & features::RING_PACKED != 0;
        for stop in stopped {
            // A packed ring may have stood somewhere without having run.
            let record = self.records.as_ref().filter(|_| is_packed).and_then(|records| records.ring(stop.ring));
            if let Some(ring) = self.rings.get_mut(usize::from(stop.ring)) {
                if is_packed {
                    ring.position = record.and_then(|record| record.position()).or(ring.position);
                } else {
                    ring.position = Some(stop.position);
                }
                ring.held = ring.running.is_some();
            }
        }
    }

    fn ring(&mut self, ring: u32) -> Result<(u16, &mut Ring), DeviceError> {
        let rings = self.config.rings();
        let missing = DeviceError::NoSuchRing { ring, rings };
        let number = u16::try_from(ring).map_err(|_| missing)?;
        Ok((number, self.rings.get_mut(usize::from(number)).ok_or(missing)?))
    }

    fn is_enabled(&self, ring: &Ring) -> bool {
        ring.enabled.unwrap_or(self.acknowledged & features::PROTOCOL_FEATURES == 0)
    }

    /// Stops a ring if it runs and starts it if it can run.
    fn restart(&mut self, number: u16) -> Result<Vec<RingChange>, DeviceError> {
        let (_, ring) = self.ring(u32::from(number))?;
        let running = ring.running.take();
        match self.start(number, running.as_ref().map(|running| running.features)) {
            Ok(start) => {
                let stop = running.as_ref().map(|_| RingChange::Stop { ring: number });
                Ok(stop.into_iter().chain(start).collect())
            }
            Err(error) => {
                self.ring(u32::from(number))?.1.running = running;
                Err(error)
            }
        }
    }

    /// The change that starts a ring, if nothing is missing. A restarted ring keeps its features.
    fn start(&mut self, number: u16, kept_features: Option<u64>) -> Result<Option<RingChange>, DeviceError> {
        let Some(memory) = self.memory.clone() else { return Ok(None) };
        let features = kept_features.unwrap_or(self.acknowledged & !features::LOG_ALL);
        let Some(ring) = self.rings.get(usize::from(number)) else { return Ok(None) };
        let (Some(addresses), size @ 1..) = (ring.addresses, ring.size) else { return Ok(None) };
        let kick = match &ring.kick {
            Kick::Unknown => return Ok(None),
            Kick::Polled => None,
            Kick::Descriptor(descriptor) => Some(Arc::clone(descriptor)),
        };
        let layout = layout(size, addresses);
        layout.check(&memory, features).map_err(|error| DeviceError::Ring { ring: number, error })?;
        // Its writes are to be logged, and there is no log yet: it starts with that.
        let Ok(log) = self.ring_log(ring) else { return Ok(None) };
        let call = Arc::clone(&ring.call);
        let enabled = self.is_enabled(ring);
        // A ring that is only moved goes on where it stands, which is not known before it was stopped.
        let told = kept_features.is_none().then(|| ring.position.unwrap_or(FIRST_POSITION));
        let packed = (features & features::RING_PACKED != 0).then(|| self.record(number));
        let packed = packed.flatten().map(|record| PackedStart { record, told });
        if let Some(ring) = self.rings.get_mut(usize::from(number)) {
            ring.running = Some(Running { features, log: log.clone() });
            ring.held = true;
        }
        Ok(Some(RingChange::Start {
            ring: number,
            setup: RingSetup { memory, layout, features, kick, call, enabled, packed, log },
        }))
    }

    fn record(&mut self, number: u16) -> Option<Record> {
        let rings = self.config.rings();
        self.records.get_or_insert_with(|| Records::new(None, rings)).ring(number)
    }
}

#[derive(Debug, Default)]
struct Ring {
    /// 0 until SET_VRING_NUM.
    size: u16,
    addresses: Option<RingAddresses>,
    /// Of a packed ring with the wrap counter in bit 15.
    position: Option<u16>,
    kick: Kick,
    call: Arc<Call>,
    /// What SET_VRING_ENABLE said. Before, rings are disabled if PROTOCOL_FEATURES was acknowledged, else enabled.
    enabled: Option<bool>,
    running: Option<Running>,
    /// A start was asked for, and no stop after it was acknowledged.
    held: bool,
}

#[derive(Clone, Debug)]
struct Running {
    /// Without LOG_ALL.
    features: u64,
    log: Option<RingLog>,
}

/// Where a new ring begins.
fn first(features: u64) -> u16 {
    if features & features::RING_PACKED == 0 { 0 } else { FIRST_POSITION }
}

/// A position as in SET_VRING_BASE and GET_VRING_BASE: of a packed ring twice, for what is available and for what is used.
fn base(position: u16, features: u64) -> u32 {
    let upper = if features & features::RING_PACKED == 0 { 0 } else { position };
    u32::from(upper) << 16 | u32::from(position)
}

fn layout(size: u16, addresses: RingAddresses) -> RingLayout {
    let RingAddresses { descriptors, available, used, .. } = addresses;
    RingLayout { size, descriptors, available, used }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;
    use rustix::fs::MemfdFlags;

    const CONFIG: DeviceConfig = DeviceConfig { queue_pairs: 1, mtu: 1500, mac: None, offloads: true, migrates: true };

    fn memory(user_address: u64) -> Arc<Memory> {
        let size = 0x1_0000;
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, size).unwrap();
        Arc::new(Memory::map(vec![(Region { guest_address: 0, size, user_address, mmap_offset: 0 }, file)]).unwrap())
    }

    fn addresses(start: u64) -> RingAddresses {
        RingAddresses { descriptors: start, available: start + 0x1000, used: start + 0x2000, log: None }
    }

    /// A device whose ring 1 runs, in memory at user address 0x1000.
    fn running() -> Device {
        let mut device = Device::new(CONFIG);
        device.set_memory(Some(memory(0x1000)));
        device.set_size(1, 256).unwrap();
        device.set_addresses(1, addresses(0x1000)).unwrap();
        assert_eq!(summary(&device.set_kick(1, Kick::Polled).unwrap()), "start 1 ");
        device
    }

    fn summary(changes: &[RingChange]) -> String {
        let change = |change: &RingChange| match change {
            RingChange::Stop { ring } => format!("stop {ring} "),
            RingChange::Start { ring, .. } => format!("start {ring} "),
            RingChange::Enable { ring, enabled } => format!("enable {ring} {enabled} "),
            RingChange::Log { ring, log } => format!("log {ring} {} ", log.is_some()),
        };
        changes.iter().map(change).collect()
    }

    #[test]
    fn an_odd_configuration_still_has_rings() {
        for (queue_pairs, rings) in [(0, 2), (1, 2), (128, 256), (u16::MAX, 256)] {
            let config = DeviceConfig { queue_pairs, ..CONFIG };
            assert_eq!((config.rings(), Device::new(config).rings().len()), (rings, usize::from(rings)));
        }
    }

    #[test]
    fn memory_that_moves_takes_its_rings_along_or_leaves_them_stopped() {
        let mut device = running();
        let (changes, old) = device.set_memory(Some(memory(0x0)));
        assert_eq!(summary(&changes), "stop 1 start 1 ");
        assert!(old.is_some());
        assert_eq!(summary(&device.set_memory(Some(memory(0x10_0000))).0), "stop 1 ");
        assert_eq!(summary(&device.set_memory(None).0), "");
        assert_eq!(summary(&device.set_memory(Some(memory(0x1000))).0), "start 1 ");
    }

    #[test]
    fn a_refused_request_changes_nothing() {
        let mut device = running();
        let outside = device.set_addresses(1, addresses(0x10_0000)).unwrap_err();
        assert!(matches!(outside, DeviceError::Ring { ring: 1, error: RingError::Outside { .. } }));
        assert_eq!(device.set_size(1, 128).unwrap_err(), DeviceError::Running(1));
        assert_eq!(device.set_position(1, 0).unwrap_err(), DeviceError::Running(1));
        assert_eq!(device.set_features(1 << 63).unwrap_err(), DeviceError::Features(1 << 63));
        assert_eq!(device.set_kick(2, Kick::Polled).unwrap_err(), DeviceError::NoSuchRing { ring: 2, rings: 2 });
        let status: Vec<_> = device.rings().map(|ring| (ring.size, ring.running)).collect();
        assert_eq!(status, [(0, false), (256, true)]);
    }

    #[test]
    fn a_refused_kick_is_forgotten() {
        let mut device = Device::new(CONFIG);
        device.set_addresses(1, addresses(0x10_0000)).unwrap();
        device.set_size(1, 256).unwrap();
        device.set_memory(Some(memory(0x1000)));
        assert!(device.set_kick(1, Kick::Polled).is_err());
        assert_eq!(summary(&device.set_memory(Some(memory(0x10_0000))).0), "");
        assert_eq!(summary(&device.set_kick(1, Kick::Polled).unwrap()), "start 1 ");
    }

    #[test]
    fn a_ring_is_stopped_at_the_end_until_that_was_acknowledged() {
        let mut device = running();
        assert_eq!(summary(&device.stop(1).unwrap()), "stop 1 ");
        assert_eq!(summary(&device.stop_all()), "stop 1 ", "nobody has acknowledged it");
        device.stopped(&[StoppedRing { ring: 1, position: 9 }, StoppedRing { ring: 77, position: 1 }]);
        assert_eq!(device.position(1).unwrap(), 9);
        assert_eq!(summary(&device.stop_all()), "");
        // The acknowledgement of the stop in a restart does not end the care for what was started after it.
        let mut device = running();
        assert_eq!(summary(&device.set_kick(1, Kick::Polled).unwrap()), "stop 1 start 1 ");
        device.stopped(&[StoppedRing { ring: 1, position: 9 }]);
        assert_eq!(summary(&device.stop_all()), "stop 1 ");
    }

    #[test]
    fn an_interrupt_that_was_owed_before_us_is_made_up_for() {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let (call, replaced) = Device::new(CONFIG).set_call(0, Some(event.try_clone().unwrap())).unwrap();
        assert!(replaced.is_none());
        call.signal().unwrap();
        let mut count = [0; 8];
        rustix::io::read(&event, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }

    #[test]
    fn the_mtu_is_bounded_by_the_port() {
        let device = Device::new(CONFIG);
        assert_eq!(device.check_mtu(1500), Ok(()));
        let text = device.check_mtu(9000).unwrap_err().to_string();
        assert_eq!(text, "MTU 9000 is not between 68 and the port's 1500; raise the port's `mtu`");
    }
}

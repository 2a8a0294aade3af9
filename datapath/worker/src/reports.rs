//! What a worker has told control under the present plan: each port's trouble once.

use std::sync::mpsc::SyncSender;

use culvert_guest::{RingFault, bus_fault};
use culvert_switch::PortId;
use culvert_switch::port::MAX_PORTS;

use crate::plan::Plan;
use crate::shared::Event;

/// One worker's reports.
pub(crate) struct Reports {
    events: SyncSender<Event>,
    reported: Vec<PortId>,
    bus_faults: u64,
}

impl Reports {
    pub(crate) fn new(events: SyncSender<Event>) -> Self {
        Self { events, reported: Vec::with_capacity(MAX_PORTS), bus_faults: bus_fault::count() }
    }

    /// A new plan: control knows all of the old one's.
    pub(crate) fn begin_plan(&mut self) {
        self.reported.clear();
    }

    /// Tells of a guest's fault. `false` when control cannot be told now: it will be at the next one.
    pub(crate) fn fault(&mut self, plan: &Plan, port: PortId, fault: RingFault) -> bool {
        self.report(plan, port, |attachment| Event::Fault { port, attachment, fault })
    }

    /// Tells of a bug of ours.
    pub(crate) fn panic(&mut self, plan: &Plan, port: PortId) -> bool {
        self.report(plan, port, |attachment| Event::Panicked { port, attachment })
    }

    /// Tells what is about the worker itself. `false` when control cannot be told now.
    pub(crate) fn tell(&self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }

    /// Tells if some guest's memory was truncated since the last time.
    #[inline]
    pub(crate) fn look_at_memory(&mut self) {
        let count = bus_fault::count();
        if count != self.bus_faults && self.tell(Event::MemoryLost) {
            self.bus_faults = count;
        }
    }

    fn report(&mut self, plan: &Plan, port: PortId, event: impl FnOnce(u32) -> Event) -> bool {
        if self.reported.contains(&port) {
            return true;
        }
        let attachment = plan.topology.port(port).map_or(0, |port| port.attachment);
        let told = self.tell(event(attachment));
        if told && self.reported.len() < self.reported.capacity() {
            self.reported.push(port);
        }
        told
    }
}

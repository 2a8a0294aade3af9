//! A guest without a machine: the driver of `culvert-driver`, joined to the transport by [`dialogue`](crate::dialogue).

use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use culvert_driver::{Interface, Shape};
use vhost::VhostBackend;
use vhost::vhost_user::Frontend;

pub use crate::dialogue::{EVENT_IDX, Events, MRG_RXBUF, begin, start_ring};
use crate::echo::wait_until;

/// A guest of one queue pair that runs.
pub struct Guest {
    pub interface: Interface,
    pub frontend: Frontend,
    pub receive: Events,
    pub transmit: Events,
    stream: UnixStream,
}

impl Drop for Guest {
    /// Programs that other tests start hold the connection as well, between fork and exec: closing it would not end it.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Guest {
    pub fn attach(stream: UnixStream, shape: Shape, features: u64) -> Self {
        let interface = Interface::new(shape, 70_000);
        let features =
            features | if shape.mergeable { MRG_RXBUF } else { 0 } | if shape.event_idx { EVENT_IDX } else { 0 };
        let mut frontend = begin(stream.try_clone().unwrap(), interface.ram(), features, 2);
        let receive = start_ring(&mut frontend, 0, &interface.receive);
        let transmit = start_ring(&mut frontend, 1, &interface.transmit);
        Self { interface, frontend, receive, transmit, stream }
    }

    /// Sends a frame and does not kick, whatever was asked for.
    pub fn send_silently(&mut self, header: &[u8], frame: &[u8]) {
        wait_until("room in the transmit ring", || self.interface.send_with(header, frame, &[]));
    }

    /// Sends a frame and kicks; waits for room before.
    pub fn send(&mut self, header: &[u8], frame: &[u8], cuts: &[u32]) {
        wait_until("room in the transmit ring", || self.interface.send_with(header, frame, cuts));
        self.transmit.kick.write(1).unwrap();
    }

    /// The next frame, with its header; kicks for the buffers that are given back where that was asked for.
    pub fn receive(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut got = None;
        wait_until("a frame", || {
            got = self.interface.receive();
            got.is_some()
        });
        if self.interface.take_kick() {
            self.receive.kick.write(1).unwrap();
        }
        got.unwrap()
    }

    /// Waits until the connection is closed.
    pub fn wait_closed(&mut self) {
        wait_until("the end of the connection", || self.frontend.get_features().is_err());
    }
}

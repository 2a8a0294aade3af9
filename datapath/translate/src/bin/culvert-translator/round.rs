//! What every thread does in a round once it knows what became of its guest: sockets, frames, and what is due.

use culvert_translate::lane::letter::Letter;
use culvert_translate::socket::KernelSockets;
use culvert_translate::sockets::{Readiness, SocketId};
use culvert_translate::time::Instant;
use culvert_translate::translator::Translator;
use culvert_translate::transport::Source;
use mio::Events;

use crate::recorded::Recorded;

/// Bursts that are taken from the guest before sockets have their turn again.
const BURSTS: usize = 8;

/// Serves the sockets that `events` tell of, what other threads have sent, and frames of the guest's. To be followed by
/// [`Translator::finish`].
pub fn serve(
    now: Instant,
    events: &Events,
    letters: Vec<Letter>,
    translator: &mut Translator,
    sockets: &mut KernelSockets,
    source: &mut Source<'_>,
    link: &mut Recorded<'_>,
) {
    for event in events {
        if let Some(id) = SocketId::from_token(event.token().0) {
            let failed = event.is_error();
            let readable = event.is_readable() || event.is_read_closed() || failed;
            let writable = event.is_writable() || event.is_write_closed() || failed;
            let stops = event.is_read_closed() || event.is_priority() || failed;
            let ready = Readiness { readable, writable, failed, stops };
            translator.socket_event(now, id, ready, sockets, link);
        }
    }
    for letter in letters {
        translator.letter(now, letter, sockets, link);
    }
    for _ in 0..BURSTS {
        let burst = source.receive();
        if burst.is_empty() {
            break;
        }
        for index in 0..burst.len() {
            match burst.frame(index) {
                Ok((frame, offload)) => {
                    link.record_from_guest(&frame);
                    translator.frame(now, &frame, offload, sockets, link);
                }
                Err(reason) => translator.no_frame(reason),
            }
        }
    }
}

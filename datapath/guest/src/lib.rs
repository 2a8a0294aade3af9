//! Everything that a guest can write: its memory, its rings and what lies in them.
//!
//! A guest is hostile. Nothing here hands out a Rust reference to guest memory: it is read and written by volatile or
//! copying access after a bounds check, each field once. What a guest does wrong is a value ([`RingFault`], or a
//! [`DropReason`](culvert_frame::DropReason) for one frame), never a panic.
//!
//! - [`memory`]: the table of memory regions that a frontend shares with us; [`bus_fault`]: surviving their truncation;
//! - [`features`]: the virtio feature bits that we know; [`device`]: the state of one device, as its frontend configures it;
//! - [`layout`]: where a ring lies; [`split`]: raw access to a split ring; [`chain`]: checked walks over its descriptors;
//! - [`transmit`]: taking frames from a guest's transmit queue; [`receive`]: putting frames into its receive queue, `gather`: those over several buffers, `straight`: most of them;
//! - [`packed`]: the same for packed rings; [`record`]: where those stand; [`queue`]: queues of either kind;
//! - [`dirty_log`]: where it is noted which memory we have written, for a guest that moves; `marks`: a ring's part in that;
//! - [`net_header`]: the virtio-net header; [`piece`]: bytes of a frame, wherever they lie; [`call`]: the guest's interrupt;
//! - [`descriptor`]: guest memory to a file descriptor; [`packet_socket`]: frames by way of the kernel; [`unblock`]: freeing a worker that a frontend holds up; `wide`: what the processor has.
//!
//! `unsafe` stands in `memory`, `cycle_clock`, `unblock`, `bus_fault`, `piece`, `split`, `chain`, `transmit`, `receive`, `packed` and its
//! parts, `record`, `descriptor`, `dirty_log` and `packet_socket`, and nowhere else.

pub mod bus_fault;
pub mod call;
pub mod chain;
pub mod cycle_clock;
pub mod descriptor;
pub mod device;
pub mod dirty_log;
pub mod features;
mod gather;
pub mod layout;
mod marks;
pub mod memory;
pub mod net_header;
pub mod packed;
pub mod packet_socket;
pub mod piece;
pub mod queue;
pub mod receive;
pub mod record;
pub mod split;
mod straight;
pub mod thread_clock;
pub mod transmit;
pub mod unblock;
#[cfg(target_arch = "x86_64")]
mod wide;

pub use call::Call;
pub use dirty_log::{DirtyLog, LogError, RingLog};
pub use layout::{MAX_QUEUE_SIZE, RingError, RingLayout};
pub use memory::{Memory, MemoryError, Region};
pub use net_header::NetHeader;
pub use piece::{Piece, Rooms};
pub use queue::{ReceiveQueue, Reserved, TransmitQueue};
pub use split::RingFault;
pub use straight::Straight;
pub use transmit::{Packet, Received, TransmitBurst};

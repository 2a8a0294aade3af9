//! Physical ports: anything that DPDK drives, from a PCI card to a pcap file.
//!
//! The way through this crate: [`Eal`] starts DPDK once per process, a [`Pool`] gives buffers for frames, a
//! [`Port`] opens a device and hands out its [`RxQueue`]s and [`TxQueue`]s, which a worker polls for [`Batch`]es of
//! [`Mbuf`]s. Each poll is one call into DPDK, whatever the number of frames; looking at a frame is plain Rust.
//!
//! It knows nothing of guests, networks or forwarding: `switch` puts a guest's frames into mbufs and decides where
//! an mbuf goes. The daemon opens ports, the workers own the queues. rx is towards us, tx is away from us.
#![expect(unsafe_code, reason = "the safe side of DPDK's C interface")]

mod batch;
mod device;
mod eal;
mod hugepages;
mod log;
mod mbuf;
mod pool;
mod port;
mod queue;

pub use batch::{BURST, Batch};
pub use eal::{Eal, EalConfig, EalError, WorkerThread};
pub use hugepages::{HugepageUse, Hugepages};
pub use mbuf::{Mbuf, Segments, SegmentsMut};
pub use pool::{Pool, PoolConfig};
pub use port::{Link, Port, PortConfig, PortError, Statistics};
pub use queue::{RxQueue, TxQueue};

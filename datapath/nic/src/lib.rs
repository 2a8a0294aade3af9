//! Physical ports: anything that DPDK drives, from a PCI card to a pcap file.
//!
//! The way through this crate: [`Eal`] starts DPDK once per process, a [`Pool`] gives buffers for frames, a
//! [`Port`] opens a device and hands out its [`RxQueue`]s and [`TxQueue`]s, which a worker polls for [`Batch`]es of
//! [`Mbuf`]s. Each poll is one call into DPDK, whatever the number of frames; looking at a frame is plain Rust.
//!
//! ```
//! # use culvert_nic::{Batch, Eal, EalConfig, Pool, PoolConfig, Port, PortConfig};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let eal = Eal::start(&EalConfig { memory_mb: 64, ..EalConfig::default() })?;
//! let pool = Pool::create(&eal, &PoolConfig::default())?;
//! let device = "net_ring0".to_owned(); // what is sent to it comes back
//! let mut port = Port::open(&eal, &pool, &PortConfig { name: "loop".to_owned(), device, ..PortConfig::default() })?;
//! let (mut rx, mut tx) = port.take_queues();
//! let mut frames = Batch::new();
//! pool.allocate_burst(&[60, 1514], &mut frames);
//! assert_eq!(tx[0].send(&mut frames), 2);
//! assert_eq!(rx[0].receive(&mut frames), 2);
//! assert_eq!(frames.get(1).map(|frame| frame.length()), Some(1514));
//! # Ok(())
//! # }
//! ```
//!
//! It knows nothing of guests, networks or forwarding: `switch` puts a guest's frames into mbufs and decides where
//! an mbuf goes. The daemon opens ports, the workers own the queues. rx is towards us, tx is away from us.
#![expect(unsafe_code, reason = "the safe side of DPDK's C interface")]

mod attach;
mod batch;
mod bond;
mod device;
mod eal;
mod failure;
mod filter;
mod hugepages;
mod log;
mod mbuf;
mod mtu;
mod offload;
mod pool;
mod port;
mod queue;
mod setup;

pub use batch::{BURST, Batch};
pub use device::needs_pci;
pub use eal::{Eal, EalConfig, EalError, WorkerThread};
pub use filter::FilterError;
pub use hugepages::{HugepageUse, Hugepages};
pub use mbuf::{Mbuf, Segments, SegmentsMut};
pub use offload::{NicOffloads, RxChecksum, TxOffload};
pub use pool::{Pool, PoolConfig};
pub use port::{Link, Port, PortConfig, PortError, Statistics};
pub use queue::{RxQueue, TxQueue};

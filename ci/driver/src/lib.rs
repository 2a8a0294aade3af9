//! A guest's side of virtio-net, played by a test, a fuzzer or a benchmark: memory that can be shared with a backend
//! ([`Ram`]), rings in it ([`Ring`], [`PackedRing`]), and a network interface of one queue pair on top ([`Interface`]). For comparison it can also
//! play the device, by an implementation that is not Culvert's ([`Reference`]).
//!
//! [`Stream`] makes frames for it that leave checksums and segmentation to the device, and checks what becomes of them.
//!
//! It does what a driver does, and what a hostile one does: every ring field and descriptor can be written raw. It knows
//! nothing of Culvert, so it can stand before any vhost-user backend.

mod interface;
mod packed;
mod ram;
mod reference;
mod ring;
mod stream;

pub use interface::{Interface, Shape};
pub use packed::{PackedDescriptor, PackedRing, Place};
pub use ram::Ram;
pub use reference::{Next, Put, Reference};
pub use ring::{Buffer, Descriptor, Ring};
pub use stream::{Kind, OffloadBits, Side, Stream};

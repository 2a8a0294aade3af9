//! The migration proxy of a host: libvirt and QEMU talk to Unix sockets, and what they say goes by mutual TLS over the network
//! that is meant for migrations, as KubeVirt's virt-handler does it.
//!
//! ```text
//! source: libvirt, QEMU -> NAME-source.sock    -> TLS over the migration network -> libvirt's socket       :target
//!                          NAME-49152-source.sock                                -> NAME-49152-source.sock
//! ```
//!
//! - [`Channel`]: the three connections of a migration, and where their sockets are;
//! - [`address`]: which address a host has for migrations;
//! - [`rules`]: which network a migration takes;
//! - [`tls`]: who may take part;
//! - [`doctor`]: whether migrations take the network that is meant for them, also those of KubeVirt's virt-handler;
//! - [`Proxy`]: the migrations of this host; `relay` carries the bytes of one connection, [`pace`] keeps to a rate, [`meter`] counts.
//!
//! culvertd runs it in a process of its own (control/daemon/src/migration.rs): nothing of a guest is in reach of what the network
//! sends here, and a migration goes on when the daemon is started again.
#![forbid(unsafe_code)]

pub mod address;
mod channel;
pub mod doctor;
pub mod meter;
pub mod pace;
mod proxy;
mod relay;
pub mod rules;
pub mod tls;

pub use channel::Channel;
pub use proxy::{Accepting, Error, MAX_MIGRATIONS, Offered, Proxy, Role, Settings, View, Wanted};

//! culvert-hook, KubeVirt's binding sidecar: what it does, for its binary, its tests and the fuzz targets.
//!
//! virt-launcher hands a domain's XML and the VMI to the sidecar and defines what comes back. [`edit()`] is that step, pure:
//! it gives the VMI's interfaces that use a binding of ours their `<interface>` elements, and the guest's memory the sharing
//! that vhost-user needs. [`plan`] is the same with the translators that must run for it. Everything around it:
//!
//! - what is read: [`vmi`], [`annotations`], [`network_info`]; [`context`] is all of it but the VMI;
//! - what is decided: [`binding`], [`socket`], [`forwards`];
//! - what is written: [`domain`] (the document), [`interface`], [`memory`] and [`host_mtu`] (the changes);
//! - what is done: [`service`] answers virt-launcher at a [`hook_socket`], reads what there is of the [`pod`], and keeps
//!   [`translators`] running.
//!
//! What outsiders wrote (XML, JSON, annotations) is limited in size and depth and never makes this panic: the result is the
//! whole edit, or an [`EditError`] for a person.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod binding;
pub mod context;
pub mod domain;
pub mod edit;
pub mod error;
pub mod forwards;
pub mod hook_socket;
pub mod host_mtu;
pub mod interface;
pub mod memory;
pub mod mount;
pub mod network_info;
pub mod pod;
pub mod proto;
pub mod service;
pub mod socket;
pub mod translators;
pub mod vmi;

pub use context::Context;
pub use edit::{Plan, Tap, TranslatorWish, edit, plan};
pub use error::{EditError, Reason};
pub use vmi::Vmi;

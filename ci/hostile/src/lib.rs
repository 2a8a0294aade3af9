//! Hostile guests, frontends, frames, clients and folders, played against a running culvertd, and what must hold meanwhile.
//!
//! - [`case`]: what a case is, and what it declares that must come of it;
//! - [`cases`]: all of them, by table;
//! - [`field`]: what a case plays on: culvertd, a port for the case, and neighbours;
//! - [`neighbours`]: two guests that exchange numbered frames all the time, none of which may be lost;
//! - [`load`]: how fast they can be without loss;
//! - [`oracle`]: what is looked at before and after each case; [`process`]: what culvertd has open;
//! - [`raw_frontend`], [`guest`]: a frontend and a guest that do as a case likes;
//! - [`translators`]: a translator for the cases of hostile frames to have, and another one beside it;
//! - [`client`], [`http2`]: clients of the control socket, one in its words and one byte by byte;
//! - [`runner`]: runs cases and tells how they went; [`exempt`]: rows that have no case, and why.
//! - [`soak`]: all of it for a long time, on one culvertd.
//!
//! The binary is `culvert-hostile`; `ci/hostile/run` builds what it needs and runs it in namespaces of its own.

pub mod case;
pub mod cases;
pub mod client;
pub mod exempt;
pub mod field;
pub mod guest;
pub mod http2;
pub mod load;
pub mod neighbours;
pub mod oracle;
pub mod process;
pub mod raw_frontend;
pub mod runner;
pub mod soak;
pub mod translators;

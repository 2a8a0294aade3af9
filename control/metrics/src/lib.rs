//! Metrics, health and the status page of a node, by HTTP. culvertd runs it in a process of its own
//! (control/daemon/src/metrics.rs), which knows the node as any client does: by the control socket.
//!
//! - [`table`]: all metrics; what is served and docs/METRICS.md are made of it;
//! - [`collect`]: asks culvertd, for all clients together; [`snapshot`]: what it answered, bounded;
//! - [`exposition`]: OpenMetrics of a snapshot; [`reference`](mod@reference): the document;
//! - [`view`]: a snapshot for the status page, as JSON; [`page`]: the page itself;
//! - [`server`]: HTTP, and what one client may cost.
//!
//! Nothing here changes anything of the node.
#![forbid(unsafe_code)]

pub mod collect;
pub mod exposition;
pub mod owner;
pub mod page;
pub mod reference;
pub mod server;
pub mod snapshot;
pub mod table;
pub mod view;

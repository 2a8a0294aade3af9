//! The metrics process: the supervisor starts it beside the daemon, and again when it has ended. It serves metrics, health and the status
//! page ([`culvert_metrics`]) to whoever reaches `daemon.metrics_address`, so it has nothing but its listening socket and the control
//! socket to ask at: no guest's memory, no right, no file.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_metrics::collect::Collector;
use culvert_metrics::server::{self, Limits};
use rustix::process::Signal;

use crate::arguments::Arguments;
use crate::config::Config;
use crate::isolation::{self, Kind};
use crate::{log, process};

/// The process, from its first thread on; until it is told to stop, or its supervisor has ended.
///
/// # Errors
/// What it cannot do without: its address.
pub fn run(config: &Config, address: SocketAddr, arguments: &Arguments) -> Result<()> {
    process::end_with_parent(Signal::TERM)?;
    process::set_name();
    // The one of a culvertd that was killed may be about to end.
    let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let listener = process::patiently(|| TcpListener::bind(address), is_taken);
    let isolation = isolation::begin_metrics(config)?;
    let _log = isolation.confined(Kind::Log, || log::start(arguments))??;
    isolation.confined(Kind::Metrics, || serve(config, address, listener))?
}

fn serve(config: &Config, address: SocketAddr, listener: io::Result<TcpListener>) -> Result<()> {
    let listener = listener.with_context(|| {
        format!("metrics cannot be served at {address}; end who has that address, or name another one as daemon.metrics_address")
    })?;
    listener.set_nonblocking(true)?;
    let own = listener.local_addr()?;
    let control = tokio::runtime::Builder::new_current_thread().enable_all().thread_keep_alive(Duration::MAX).build();
    control.context("the metrics process cannot start")?.block_on(async {
        let stop = process::stop_signal()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tracing::info!(address = %own, "metrics are served");
        server::serve(listener, Collector::new(&config.daemon.control_socket), Limits::default(), stop).await;
        Ok(())
    })
}

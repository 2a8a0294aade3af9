//! What the daemon tells its supervisor for systemd's watchdog: again and again that all goes its way, as long as that is so.
//!
//! That takes the thread that serves clients, one of those that answer them, whoever holds what runs, the thread that watches over the
//! workers (it has culvertd started again by itself when a worker comes to no end), and the supervisor's socket.

use std::sync::Arc;
use std::time::Duration;

use crate::node::live::LiveNode;
use crate::supervisor::HEARTBEAT;

/// How often the supervisor wants to hear; `None`: never.
pub fn interval() -> Option<Duration> {
    let text = std::env::var(HEARTBEAT).ok()?;
    text.parse().ok().map(Duration::from_millis)
}

/// Tells it, for the first time at once: to be called when all ports were opened.
pub async fn run(interval: Duration, node: Arc<LiveNode>) {
    let mut ticks = tokio::time::interval(interval.max(SHORTEST));
    let mut looked = None;
    loop {
        ticks.tick().await;
        let asked = Arc::clone(&node);
        let now = tokio::task::spawn_blocking(move || {
            asked.port_counts();
            asked.looks_at_workers()
        });
        let Ok(now) = now.await else { continue };
        if looked.replace(now) == Some(now) {
            tracing::warn!("nobody watches over the workers; systemd is not told that all goes its way");
            continue;
        }
        let asked = Arc::clone(&node);
        let told = tokio::task::spawn_blocking(move || asked.tell_alive()).await;
        if let Ok(Err(error)) = told {
            tracing::warn!("the supervisor cannot be told that all goes its way: {error}");
        }
    }
}

/// Workers are looked at every 100 ms.
const SHORTEST: Duration = Duration::from_millis(200);

//! A guest in a thread of its own that sends to one address as fast as its frames are taken, until it is dropped.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

use super::OWN;
use crate::guest::{Guest, TRANSMIT};

/// The flood. No neighbour gets a frame of it as long as culvertd knows where the address is.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Connects the guest; its first frame has been taken when this returns.
    ///
    /// # Errors
    /// culvertd refuses it.
    pub fn start(socket: &Path, to: [u8; 6]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (started, has_started) = channel();
        let (socket, until) = (socket.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut guest = Guest::connect(&socket, Default::default(), 0)?;
            let frame = [to.as_slice(), &[2, 0, 0, 0, 0, 0x78], &OWN, &[7; 1400]].concat();
            while !until.load(Ordering::Relaxed) {
                guest.send(&frame)?;
                guest.wait_used(TRANSMIT)?;
                let _ = started.send(());
            }
            Ok(())
        });
        let flood = Self { stop, thread: Some(thread) };
        match has_started.recv() {
            Ok(()) => Ok(flood),
            Err(_) => flood.end().and(Err(anyhow!("the flood has not begun"))),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// Its guest was not served to the end.
    pub fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).map_err(|_| anyhow!("the flood failed"))?.context("the guest that floods")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

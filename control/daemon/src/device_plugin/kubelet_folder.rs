//! When to look at kubelet's folder: at once after something has happened there, by inotify(7), and now and then in any
//! case. What has happened is for the one who looks to find out, so that no event can be missed or misunderstood.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventStream, Inotify, WatchMask};
use tokio_stream::StreamExt;

/// Kubelet's folder, watched while it exists.
pub(super) struct KubeletFolder {
    path: PathBuf,
    /// `None` when the kernel has no further watches: then it is looked now and then only.
    events: Option<EventStream<[u8; EVENT_BYTES]>>,
}

impl KubeletFolder {
    /// Must be called within a tokio runtime.
    pub(super) fn new(path: &Path) -> Self {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; EVENT_BYTES]));
        let mut folder = Self { path: path.to_owned(), events: None };
        match events {
            Ok(events) => folder.events = Some(events),
            Err(error) => folder.give_up(&error),
        }
        folder.watch_again();
        folder
    }

    /// Returns after something has happened in the folder, and after `most` in any case.
    pub(super) async fn changed(&mut self, most: Duration) {
        let event = async {
            match &mut self.events {
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        match tokio::time::timeout(most, event).await {
            Ok(Some(Ok(_))) | Err(_) => {}
            Ok(Some(Err(error))) => self.give_up(&error),
            Ok(None) => self.give_up(&io::ErrorKind::UnexpectedEof.into()),
        }
        self.watch_again();
    }

    /// The folder may be a new one. For the one that is watched already this does nothing; without one it fails.
    fn watch_again(&mut self) {
        let events = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR;
        if let Some(stream) = &self.events {
            let _ = stream.watches().add(&self.path, events);
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        self.events = None;
        tracing::warn!("{} cannot be watched, and is looked at now and then: {error}", self.path.display());
    }
}

/// Room for some events, each with a name of up to 255 bytes.
const EVENT_BYTES: usize = 4096;

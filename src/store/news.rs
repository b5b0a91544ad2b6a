//! What a store tells its broker without being asked: that there is news, and what other brokers announce.

use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use crate::revoke::feed::MAX_ANNOUNCEMENT;
use crate::task::store::{StepResult, StoreError};

/// How many announcements wait for whoever does not read; the oldest go first.
const WAITING: usize = 1_024;

/// Both ways out. Neither ever waits for a reader.
pub(super) struct News {
    nudges: watch::Sender<u64>,
    announcements: broadcast::Sender<Arc<[u8]>>,
}

impl Default for News {
    fn default() -> Self {
        Self { nudges: watch::Sender::new(0), announcements: broadcast::Sender::new(WAITING) }
    }
}

impl News {
    /// Something may have been written to some history.
    pub(super) fn nudge(&self) {
        self.nudges.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A broker has announced something. What is longer than any broker of ours sends is dropped.
    pub(super) fn announced(&self, message: &[u8]) {
        if message.len() <= MAX_ANNOUNCEMENT {
            // An error says that nobody listens.
            let _ = self.announcements.send(message.into());
        }
    }

    pub(super) fn nudges(&self) -> watch::Receiver<u64> {
        self.nudges.subscribe()
    }

    pub(super) fn announcements(&self) -> broadcast::Receiver<Arc<[u8]>> {
        self.announcements.subscribe()
    }
}

/// Refuses what is too long to be announced.
pub(super) fn announceable(message: &[u8]) -> StepResult<()> {
    match message.len() {
        0..=MAX_ANNOUNCEMENT => Ok(()),
        length => Err(StoreError::Unavailable(format!(
            "an announcement of {length} bytes is longer than the {MAX_ANNOUNCEMENT} that are allowed"
        ))),
    }
}

/// So many registrations at most. It bounds what one look at all of them costs.
pub(super) const MAX_REGISTRATIONS: u32 = 20_000;
/// So many entries on a page at most, however many are asked for.
pub(super) const MAX_ENTRIES: usize = 1_000;

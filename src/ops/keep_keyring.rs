//! The stored keyring, watched: a store that was flushed while this broker lives gets it back, so that the next broker makes no new keys.
//!
//! Only a keyring that was seen in the store shortly before is written back: an old one could bring back a key that was given up since.

use std::time::Duration;

use crate::audit::Outcome;
use crate::error::Result;
use crate::failpoint::{Place, reach};
use crate::time::Timestamp;

use super::Broker;
use super::tasks::store_error;
use super::trail::Trail;

/// A keyring that was not seen for longer is not written back.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5 * 60);

impl Broker {
    /// Looks at the stored keyring; writes ours back if there is none and ours was there a moment ago.
    pub(super) async fn keep_keyring(&self, now: Timestamp) -> Result<()> {
        let gauge = metrics::gauge!("taskpass_keyring_in_store");
        match self.store.load().await.map_err(store_error)? {
            Some(stored) if stored.document == self.keys.document() => {
                self.keyring_seen.store(now.as_millis(), std::sync::atomic::Ordering::Relaxed);
                gauge.set(1.0);
            }
            Some(stored) => {
                gauge.set(0.0);
                let (stored, ours) = (stored.version, self.keys.version());
                tracing::warn!(
                    stored,
                    ours,
                    "the store holds another keyring than this broker; restart it to take that one"
                );
            }
            None => self.write_keyring_back(now).await?,
        }
        Ok(())
    }

    async fn write_keyring_back(&self, now: Timestamp) -> Result<()> {
        let seen = Timestamp::from_millis(self.keyring_seen.load(std::sync::atomic::Ordering::Relaxed));
        if now.since(seen) > CONFIRMED_WITHIN {
            tracing::error!(
                "the store has lost the keyring, and this broker has not seen it there for too long to write it back"
            );
            return Ok(());
        }
        reach(Place::KeyringLost);
        let stored = self.store.compare_and_set(None, self.keys.document()).await.map_err(store_error)?;
        reach(Place::KeyringKept);
        let ours = stored.document == self.keys.document();
        tracing::error!(ours, "the store had lost the keyring; it has one again");
        let mut trail = Trail::new("KeepKeyring", "keyring");
        trail.fact("written_back", ours);
        self.write_audit(None, trail, Outcome::Done, now).await
    }
}

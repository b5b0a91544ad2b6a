//! From the feed to the responses that are going on.

use super::Protection;
use crate::feed::{Event, Fed, ForVerifier, Violation};
use crate::keyset::KeySet;
use crate::view::RevocationView;

/// Keeps a verifier up to date as [`ForVerifier`] does, and has responses that are going on judged again after whatever changed: with an end at once, and with each
/// heartbeat, that is four times in a bound, for those that expire.
#[derive(Clone, Debug)]
pub struct Watching {
    fed: ForVerifier,
    protection: Protection,
}

impl Protection {
    /// To be handed to [`Follower::start`](crate::feed::Follower::start). None for a verifier that is offline.
    pub fn watching(&self) -> Option<Watching> {
        let fed = ForVerifier::new(self.verifier().clone())?;
        Some(Watching { fed, protection: self.clone() })
    }
}

impl Fed for Watching {
    fn view(&self) -> &RevocationView {
        self.fed.view()
    }

    fn take_keys(&self, issuer: &str, epoch: u64, keys: &KeySet) -> Result<(), Violation> {
        self.fed.take_keys(issuer, epoch, keys)
    }

    fn happened(&self, event: &Event<'_>) {
        self.fed.happened(event);
        self.protection.judge_streams_again();
    }
}

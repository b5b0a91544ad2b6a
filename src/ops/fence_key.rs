//! The fence of a key: nothing is signed under it any more at any broker, and nothing that is, is good. Whoever calls this has decided on it, and has seen to it that
//! the keyring signs with another key.

use taskpass_verifier::keyset::KeyId;

use super::bulk_revoke::new_intent_id;
use super::propagation::Spread;
use super::{Broker, answer};
use crate::error::Result;
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::task::state::Actor;
use crate::time::Timestamp;

impl Broker {
    /// Raises a fence of a key in every partition. Success means that all have it; before that the error is one to retry, and brokers go on by themselves. To be
    /// followed by an audit line, and then by [`Broker::propagated`].
    ///
    /// `ends`: where others would take what is signed under the key until then, whatever is recorded; for an intermediate, the end of its certificate.
    pub(super) async fn fence_key(
        &self,
        key: KeyId,
        ends: Option<Timestamp>,
        by: Actor,
        now: Timestamp,
    ) -> Result<(answer::FenceReceipt, Spread)> {
        let last_task = now.saturating_add(self.settings.lifetimes.max_task);
        let forget_at = ends.map_or(last_task, |ends| ends.max(last_task));
        let intent = FenceIntent {
            id: new_intent_id(now)?,
            target: FenceTarget::Key(key),
            at: now,
            block_until: forget_at,
            forget_at,
            by,
        };
        let (receipt, spread) = self.raise_fence(&intent, true, now).await?;
        // No task is refused by it.
        Ok((answer::FenceReceipt { blocked_until: None, ..receipt }, spread))
    }
}

#[cfg(test)]
mod tests;

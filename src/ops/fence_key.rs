//! The fence of a key: nothing is signed under it any more at any broker, and nothing that is, is good. It stands for a key that the keyring calls compromised, so that it follows
//! from the keyring alone: every broker that raises it raises one and the same.

use ring::digest;
use taskpass_verifier::keyset::KeyId;
use uuid::Uuid;

use super::propagation::Spread;
use super::{Broker, answer};
use crate::error::{Error, Result};
use crate::keys::{KeyState, KeyUse, KeyView};
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::task::state::Actor;
use crate::time::Timestamp;

impl Broker {
    /// Raises the fence of a compromised key in every partition. Success means that all have it; before that the error is one to retry, and brokers go on by themselves. To be
    /// followed by an audit line, and then by [`Broker::propagated`].
    ///
    /// Idempotent, at all brokers together, until the fence may be forgotten ([`Broker::key_fence_ends`]): where it stands already nothing changes, and the places in the receipt are those where the
    /// partitions are now, which every follower that has it passes.
    pub(super) async fn fence_key(
        &self,
        key: &KeyView,
        by: Actor,
        now: Timestamp,
    ) -> Result<(answer::FenceReceipt, Spread)> {
        if key.state != KeyState::Compromised {
            return Err(Error::internal(format_args!("a fence of a key that is {}", key.state.as_str())));
        }
        let forget_at = self.key_fence_ends(key);
        let intent = FenceIntent {
            id: intent_id(&key.kid, key.since),
            target: FenceTarget::Key(key.kid),
            at: key.since,
            block_until: forget_at,
            forget_at,
            by,
        };
        let served = key.key_use == KeyUse::TaskCaIntermediate || self.serves(&key.trust_domain);
        let (receipt, spread) = self.raise_fence(&intent, served, now).await?;
        // No task is refused by it.
        let (blocked_until, expires_by) = (None, self.accepted_until(key));
        Ok((answer::FenceReceipt { blocked_until, expires_by, ..receipt }, spread))
    }

    /// When the fence of a compromised key may be forgotten: no task lives any more that could have been issued something under it, and nobody would take what is.
    pub(super) fn key_fence_ends(&self, key: &KeyView) -> Timestamp {
        let last_task = key.since.saturating_add(self.settings.lifetimes.max_task);
        last_task.max(self.accepted_until(key))
    }

    /// Until when a verifier that does not hear of the fence takes what is under the key.
    fn accepted_until(&self, key: &KeyView) -> Timestamp {
        match key.outlives {
            Some(longest) => key.since.saturating_add(longest),
            None => key.not_after.unwrap_or(Timestamp::from_millis(u64::MAX)),
        }
    }
}

/// Of the key and the moment since when it is compromised, and of nothing else: so all who raise the fence raise one.
fn intent_id(kid: &KeyId, since: Timestamp) -> Uuid {
    let name = [b"taskpass-key-fence-v1\0".as_slice(), kid.as_bytes()].concat();
    let digest = digest::digest(&digest::SHA256, &name);
    let mut tail = [0; 10];
    tail.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    uuid::Builder::from_unix_timestamp_millis(since.as_millis(), &tail).into_uuid()
}

#[cfg(test)]
mod tests;

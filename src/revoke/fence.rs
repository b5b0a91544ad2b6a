//! A fence ends every task of a workload or a trust domain at once, or refuses every credential under a key.
//!
//! One of a workload or a trust domain cuts at a sequence of each partition, never at a time: a task dies if the partition's sequence when it began is below the cut,
//! so nothing begun or minted slips behind it. One of a key cuts nothing: for as long as it stands nothing is recorded under the key and nothing under it is good,
//! whenever its task began. It ends no task and blocks no begin: a task goes on under another key.
//!
//! Its intent is stored first, in one fixed place; then it is raised in every partition; then the intent is taken away. A
//! broker that dies in between is finished by another ([`FenceStore::intents`]).
//!
//! A record of a credential does not say under which key it is signed, for the credential does: a token by its `kid`, a certificate by the intermediate that has signed it.
//! So a fence of a key holds for what was recorded before records knew of keys, and for what somebody with a stolen key signs under the id of a credential that is good. Whoever asks
//! for a verdict names the key of what was presented, and never one that is taken from elsewhere.

use async_trait::async_trait;
use taskpass_verifier::ids::Partition;
use taskpass_verifier::keyset::KeyId;
use uuid::Uuid;

use crate::task::state::Actor;
use crate::task::store::{Position, StepResult};
use crate::time::Timestamp;

/// Whose tasks end, or under which key nothing is good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FenceTarget {
    /// All of one SPIFFE ID, and everything below them.
    Workload(String),
    /// All of one trust domain, and everything below them.
    TrustDomain(String),
    /// Every credential that is signed under a key: the JWT key of a token, the intermediate's key of a certificate.
    Key(KeyId),
}

impl FenceTarget {
    /// The name under which stores keep it: `w:<SPIFFE ID>`, `t:<trust domain>` or `k:<RFC 7638 thumbprint>`.
    pub fn key(&self) -> String {
        match self {
            Self::Workload(id) => format!("w:{id}"),
            Self::TrustDomain(name) => format!("t:{name}"),
            Self::Key(id) => format!("k:{id}"),
        }
    }

    /// Its SPIFFE ID, name or thumbprint alone, for the audit log.
    pub fn name(&self) -> String {
        match self {
            Self::Workload(name) | Self::TrustDomain(name) => name.clone(),
            Self::Key(id) => id.to_string(),
        }
    }

    /// From [`Self::key`].
    pub fn from_key(key: &str) -> Option<Self> {
        match key.split_at_checked(2)? {
            ("w:", id) => Some(Self::Workload(id.to_owned())),
            ("t:", name) => Some(Self::TrustDomain(name.to_owned())),
            ("k:", id) => id.parse().ok().map(Self::Key),
            _ => None,
        }
    }
}

/// The wish to raise a fence everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceIntent {
    /// UUID version 7. Nothing rests on the order of ids: they are made by the clocks of brokers.
    pub id: Uuid,
    /// Whose tasks end, or under which key nothing is good.
    pub target: FenceTarget,
    /// When the operator asked; the moment of the end of each task.
    pub at: Timestamp,
    /// New tasks are refused before this; of a key, new credentials under it, so that it is `forget_at`.
    pub block_until: Timestamp,
    /// Nothing older can live after this: the fence may be forgotten. Not before `block_until`.
    pub forget_at: Timestamp,
    /// Who, and their words.
    pub by: Actor,
}

/// Fences.
#[async_trait]
pub trait FenceStore: Send + Sync {
    /// Stores the intent in the one fixed place. Idempotent by id.
    async fn intend(&self, intent: &FenceIntent) -> StepResult<()>;

    /// All intents that are not finished, oldest first. One that cannot be read is left out, with an error in the log: it must not hold up the others.
    async fn intents(&self) -> StepResult<Vec<FenceIntent>>;

    /// Raises the fence in one partition: one entry in its history, whose sequence is the cut. If the fence that stands on the target is of this very intent, nothing
    /// changes and the partition's present position is the answer. Else the fence takes the place of the one that stands: cut, moment and actor are the new ones,
    /// also for what that one had ended. So an intent that is raised again after another on the same target cuts again, which ends more than it must and never
    /// less. `block_until` and `forget_at` only grow, in both cases; a fence that cuts is remembered at least until the latest deadline that any task of the partition
    /// was ever given, whatever has become of that task.
    ///
    /// A fence stands until its `forget_at`, and at that very moment it is none: it ends nothing, and whoever raises it again, the same intent too, cuts anew.
    async fn raise(&self, partition: Partition, intent: &FenceIntent, now: Timestamp)
    -> StepResult<Position>;

    /// The fences of a partition that refuse new tasks, or new credentials under a key, still, each as the intent that raised it last, with the block and the memory that it has come to. Reads only.
    /// One that cannot be read is left out, with an error in the log.
    async fn blocks(&self, partition: Partition, now: Timestamp) -> StepResult<Vec<FenceIntent>>;

    /// Takes the intent away, once every partition has it. Idempotent.
    async fn finish(&self, id: Uuid) -> StepResult<()>;
}

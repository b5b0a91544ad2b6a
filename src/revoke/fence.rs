//! A fence ends every task of a workload or a trust domain at once.
//!
//! It cuts at a sequence of each partition, never at a time: a task dies if the partition's sequence when it began is below the cut,
//! so nothing begun or minted slips behind it. Its intent is stored first, in one fixed place; then it is raised in every partition; then the intent is taken away. A
//! broker that dies in between is finished by another ([`FenceStore::intents`]).

use async_trait::async_trait;
use taskpass_verifier::ids::Partition;
use uuid::Uuid;

use crate::task::state::Actor;
use crate::task::store::{Position, StepResult};
use crate::time::Timestamp;

/// Whose tasks end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FenceTarget {
    /// All of one SPIFFE ID, and everything below them.
    Workload(String),
    /// All of one trust domain, and everything below them.
    TrustDomain(String),
}

impl FenceTarget {
    /// The name under which stores keep it: `w:<SPIFFE ID>` or `t:<trust domain>`.
    pub fn key(&self) -> String {
        match self {
            Self::Workload(id) => format!("w:{id}"),
            Self::TrustDomain(name) => format!("t:{name}"),
        }
    }

    /// From [`Self::key`].
    pub fn from_key(key: &str) -> Option<Self> {
        match key.split_at_checked(2)? {
            ("w:", id) => Some(Self::Workload(id.to_owned())),
            ("t:", name) => Some(Self::TrustDomain(name.to_owned())),
            _ => None,
        }
    }
}

/// The wish to raise a fence everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceIntent {
    /// UUID version 7. Nothing rests on the order of ids: they are made by the clocks of brokers.
    pub id: Uuid,
    /// Whose tasks end.
    pub target: FenceTarget,
    /// When the operator asked; the moment of the end of each task.
    pub at: Timestamp,
    /// New tasks are refused before this.
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

    /// The fences of a partition that refuse new tasks still, each as the intent that raised it last, with the block and the memory that it has come to. Reads only.
    /// One that cannot be read is left out, with an error in the log.
    async fn blocks(&self, partition: Partition, now: Timestamp) -> StepResult<Vec<FenceIntent>>;

    /// Takes the intent away, once every partition has it. Idempotent.
    async fn finish(&self, id: Uuid) -> StepResult<()>;
}

//! Where tasks, credentials, fences and wrapped keys lie. Two stores of one behaviour; `contract` is the suite that both pass.

#[cfg(test)]
pub(crate) mod contract;

pub mod embedded;
#[cfg(test)]
pub(crate) mod model;
mod news;
pub mod redis;

use std::fmt::Display;

use async_trait::async_trait;

use crate::keys::store::{BundleStore, KeyringStore};
use crate::revoke::feed::FeedStore;
use crate::revoke::fence::FenceStore;
use crate::revoke::history::Durability;
use crate::task::store::{CredentialStore, QuotaStore, StepResult, TaskStore};
use crate::time::Timestamp;

/// Leaves a record that cannot be read out of a list, so that it hides none of the others: it is counted, and named in the log. A step on it alone fails.
fn leave_out(kind: &'static str, id: impl Display, why: impl Display) {
    metrics::counter!("taskpass_damaged_records_total", "kind" => kind).increment(1);
    tracing::warn!(kind, %id, %why, "a stored record cannot be read and is left out of a list");
}

/// What every store can say of itself.
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// How sure an acknowledged write is.
    fn durability(&self) -> Durability;

    /// Whether steps can be taken now: one small round trip, within the store's time limit.
    async fn probe(&self) -> StepResult<()>;

    /// Says that the store's content was restored from elsewhere: the generation of every partition grows.
    async fn declare_restored(&self, now: Timestamp) -> StepResult<()>;

    /// This broker takes no more steps, and should not be waited for when another has to know what it remembers. Best effort.
    async fn leave(&self) {}
}

/// A whole store.
pub trait Store:
    TaskStore + CredentialStore + QuotaStore + FenceStore + FeedStore + KeyringStore + BundleStore + Maintenance
{
}

impl<T> Store for T where
    T: TaskStore
        + CredentialStore
        + QuotaStore
        + FenceStore
        + FeedStore
        + KeyringStore
        + BundleStore
        + Maintenance
{
}

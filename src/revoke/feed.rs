//! What a store tells those who follow its history: positions, entries, who follows, and a nudge when there is news.
//!
//! The history of a partition is read, never trusted to be pushed: a nudge may be lost, or come for nothing. Entries that were forgotten can no longer matter to anybody,
//! and are left out without a trace; so what follows on a position is known by positions alone, never by counting entries.

use std::time::Duration;

use async_trait::async_trait;
use taskpass_verifier::ids::{CredentialId, Partition, TaskId};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::fence::FenceTarget;
use crate::task::store::{Position, StepResult};
use crate::time::Timestamp;

/// By how much longer an entry is kept than anything that it has ended may live: a verifier that begins to follow by a broker whose clock is ahead has to be told while
/// others, by theirs, would still accept. More than the clocks of two brokers can be apart, of which each is within a second of the store's.
pub const HISTORY_MARGIN: Duration = Duration::from_secs(10);

/// One entry of a partition's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEntry {
    /// Its sequence in the partition.
    pub seq: u64,
    /// When it was written, by the partition's time.
    pub at: Timestamp,
    /// Nothing that it is about lives longer, by [`HISTORY_MARGIN`].
    pub forget_at: Timestamp,
    /// What happened.
    pub what: Happened,
    /// [`Position::chain`] after it.
    pub chain: [u8; 20],
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// The task, and everything below it, ended.
    TaskEnded(TaskId),
    /// One credential was revoked.
    CredentialRevoked(CredentialId),
    /// Every task of the target that began below the entry's sequence ended.
    Fence(FenceTarget),
    /// A new generation: [`Position::generation`] says which.
    Generation,
}

/// A part of a partition's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPage {
    /// The partition's present position, as of this very look.
    pub position: Position,
    /// Entries after the sequence that was asked for, in order, at most as many as were asked for.
    pub entries: Vec<FeedEntry>,
    /// True: there are more after the last of these.
    pub more: bool,
}

/// One stream that a verifier follows, as all brokers of the store know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The stream.
    pub stream: Uuid,
    /// The verifier's SPIFFE ID.
    pub follower: String,
    /// Canonical URI of the audience that it follows.
    pub audience: String,
    /// Of the audience, as it was when the stream began: by which the stream is told of keys. Empty: a broker has registered it that did not say.
    pub trust_domain: String,
    /// After how long without news it refuses.
    pub bound: Duration,
    /// When the registration goes by itself: never sooner than the largest bound after the last heartbeat.
    pub until: Timestamp,
}

/// What an announcement between brokers is at most, in bytes.
pub const MAX_ANNOUNCEMENT: usize = 64 * 1024;

/// The following side of a store.
#[async_trait]
pub trait FeedStore: Send + Sync {
    /// The present position of every partition, in order of partition: one small look, which is what a heartbeat rests on. `None`: the partition was not to be had (it is not
    /// yet begun, its part of the store does not answer, or its history is being proved), and whoever follows it must not be kept fresh. Where the
    /// configured durability is `replicas` the look is a write that waits for them, so that a primary that lost its replicas gives no answer.
    async fn positions(&self, now: Timestamp) -> StepResult<Vec<Option<Position>>>;

    /// Since when this broker has stood, without interruption, by a store that it had proved: what it wrote before may have been lost with the store, what it wrote since was not, unless a
    /// generation grew. The present moment while there is none. `None`: nothing that was acknowledged can have been lost since this
    /// broker began.
    fn proved_since(&self) -> Option<Instant>;

    /// Since when every credential that was recorded is still on record, unless a generation grew: mints leave nothing in the history, so that the loss of some that were before cannot be
    /// seen. The present moment while there is no server that is proved. `None`: none that was acknowledged can have been lost.
    fn keeps_mints_since(&self) -> Option<Instant>;

    /// Holds a position that was known once, to whomever, against the partition's history: where that does not cover it something was lost, and a new generation begins. Whether one did.
    async fn hold_against(&self, partition: Partition, known: Position, now: Timestamp) -> StepResult<bool>;

    /// Entries of a partition after `seq` (0: from the beginning), at most `limit`, that are not yet to be forgotten at `now`. Changes nothing.
    async fn entries(
        &self,
        partition: Partition,
        seq: u64,
        limit: usize,
        now: Timestamp,
    ) -> StepResult<FeedPage>;

    /// Stores registrations, or moves their `until` later, in the one fixed place. As durable as any write. Those past their `until` go. Answers the streams for which there was no room: all others
    /// are stored, and one that was is never refused.
    async fn register(&self, registrations: &[Registration], now: Timestamp) -> StepResult<Vec<Uuid>>;

    /// All registrations that are not past their `until`.
    async fn registrations(&self, now: Timestamp) -> StepResult<Vec<Registration>>;

    /// Changes when something was written to some history, by whichever broker. Lossy: a hint to look sooner than the next heartbeat.
    fn nudges(&self) -> watch::Receiver<u64>;

    /// Tells all brokers of this store, this one included, at most [`MAX_ANNOUNCEMENT`] bytes. Lossy, in no particular order: what rests on it must be true without it.
    async fn announce(&self, message: &[u8]) -> StepResult<()>;

    /// What brokers announce from now on.
    fn announcements(&self) -> tokio::sync::broadcast::Receiver<std::sync::Arc<[u8]>>;
}

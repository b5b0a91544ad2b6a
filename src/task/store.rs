//! The steps that a store must take in one piece, and what each promises.
//!
//! Every step is atomic, works on one partition, and first checks the partition itself: that its history is the one this broker
//! remembers, and that `now` is not more than the configured skew from the store's own clock ([`StoreError::ClockSkew`]). Time in a
//! partition never runs back: a step uses the greater of its `now` and the greatest `now` that a *writing* step has left there.
//! A step that returns `Ok` is as durable as configured (G3); a step that returns [`StoreError::Unavailable`] may or
//! may not have happened, and may be sent again: each is idempotent or says so.
//!
//! Logic never leans on a store's own expiry: a record past its time counts as absent whether or not it has gone yet.

use std::time::Duration;

use async_trait::async_trait;
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;

use super::record::{SealedFacts, TaskRecord};
use super::state::{Actor, End, EndReason, Status};
use crate::time::Timestamp;

/// Why a step gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer, or its history is being proved. It may or may not have taken the step.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The caller's clock and the store's are too far apart; nothing was done.
    #[error("this clock and the store's differ by {0:?}")]
    ClockSkew(Duration),
    /// A stored value is damaged or of a version that this broker does not know; nothing was done.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// A step's answer.
pub type StepResult<T> = Result<T, StoreError>;

/// A place in a partition's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Of the partition when the entry was written.
    pub generation: Generation,
    /// Counts the entries of the partition (ends, single revocations, fences, new generations), from 1.
    pub seq: u64,
    /// Digest over the digest before and the entry.
    pub chain: [u8; 20],
}

/// Everything to begin a task.
#[derive(Clone, Debug)]
pub struct BeginTask {
    /// Fresh; its partition is that of the root. With an idempotency key the partition must come from (owner, key).
    pub id: TaskId,
    /// Root first, at most [`super::record::MAX_ANCESTORS`]; empty for a root task.
    pub lineage: Vec<TaskId>,
    /// SPIFFE ID.
    pub owner: String,
    /// The sealed facts to store.
    pub facts: SealedFacts,
    /// When it ends by itself.
    pub deadline: Timestamp,
    /// How long it stays readable after its end.
    pub retention: Duration,
    /// Where a retry finds it.
    pub idempotency: Option<Idempotency>,
}

/// A caller's key and the digest of what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// SHA-256 over owner and key, so that no caller meets another's.
    pub key: [u8; 32],
    /// SHA-256 over the request, the key left out.
    pub request: [u8; 32],
}

/// What came of [`TaskStore::begin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BeginOutcome {
    /// The task is stored: version 1, no credentials, readable until its deadline plus `retention`. Where this very id was stored before with the same
    /// owner, lineage and facts, the record as it stands, which may have ended since. The status is that of the step: by the partition's time, which may be ahead
    /// of the caller's, a short task may be over already.
    Begun(Box<TaskView>),
    /// The idempotency key stands for the same request: this is the task that it began, live or not. A task of another generation, one past its readable
    /// time, or one in whose place there is a tombstone, frees its key and is never replayed.
    Replayed(TaskId),
    /// The idempotency key stands for another request.
    KeyReused,
    /// Fences refuse new tasks of the owner or its trust domain until then: the latest of them.
    Blocked(Timestamp),
    /// The parent has ended.
    ParentEnded(End),
    /// No such parent.
    ParentUnknown,
}

/// A task as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// The id it was asked for by.
    pub id: TaskId,
    /// As stored.
    pub record: TaskRecord,
    /// As it is in effect.
    pub status: Status,
}

impl TaskView {
    /// As [`super::TaskHead::may_have_certificate`]; and what a store has lost that came back to an older copy, this record does not say.
    pub fn may_have_certificate(&self) -> bool {
        let lost = matches!(&self.status, Status::Ended(end) if end.reason == EndReason::GenerationChanged);
        lost || self.record.head.may_have_certificate()
    }
}

/// What came of [`TaskStore::extend`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtendOutcome {
    /// The deadline is the one asked for. Asking for the deadline that stands changes nothing and is no error.
    Extended(Box<TaskView>),
    /// It has ended, and stays so.
    Ended(End),
    /// Deadlines only move later.
    NotLater(Timestamp),
    /// A child never outlives its parent; this is the parent's deadline.
    BeyondParent(Timestamp),
    /// No such task.
    Unknown,
}

/// Everything to end a task.
#[derive(Clone, Debug)]
pub struct EndTask {
    /// Which.
    pub id: TaskId,
    /// [`EndReason::Completed`] or [`EndReason::Revoked`].
    pub reason: EndReason,
    /// Who, and their words.
    pub by: Actor,
    /// How long it stays readable.
    pub retention: Duration,
    /// `Some(how long to remember)`: an id that the store does not know is ended all the same, by a tombstone.
    pub bury_unknown: Option<Duration>,
}

/// What came of [`TaskStore::end`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndOutcome {
    /// This call ended it: one entry in the partition's history, whatever it minted and however many are below it.
    Ended(Box<TaskView>, Position),
    /// It had ended before, perhaps for another reason; nothing was changed. The position is the partition's present one.
    AlreadyEnded(Box<TaskView>, Position),
    /// The store did not know it and has a tombstone now; `Position` of its entry.
    Buried(Position),
    /// No such task.
    Unknown,
}

/// Which tasks to list.
#[derive(Clone, Debug)]
pub struct ListTasks {
    /// Of this owner only.
    pub owner: Option<String>,
    /// Of this partition only.
    pub within: Option<Partition>,
    /// Not the ended ones.
    pub live_only: bool,
    /// Where the page before ended: what [`TaskPage::next`] said.
    pub after: Option<TaskId>,
    /// At most so many; at least 1.
    pub limit: usize,
}

/// A page has no more tasks once it holds this many bytes of records: so it is never much longer, however long they are.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// Some tasks, ordered by partition, then id. A store may return fewer than asked for, or none, and still have more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPage {
    /// Ancestors, fences, generation and deadline are considered in each status.
    pub tasks: Vec<TaskView>,
    /// Where to go on; `None` at the end.
    pub next: Option<TaskId>,
}

/// Tasks whose deadline passed, now written as ended; and when to look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapsed {
    /// Those that this step ended: id, owner, and the deadline.
    pub ended: Vec<(TaskId, String, Timestamp)>,
    /// Task records that were past their readable time and are gone.
    pub forgotten: usize,
    /// True if the limit was reached: there is more to do at once.
    pub more: bool,
    /// The next moment at which a task of this partition lapses or is forgotten; not after `now` only if there is more to do. Everything else is forgotten in
    /// passing and wakes nobody: visit each partition now and then.
    pub next_due: Option<Timestamp>,
}

/// Tasks. A partition per step; [`TaskStore::list`] walks over them.
#[async_trait]
pub trait TaskStore: Send + Sync {
    /// The partition's generation as this broker has seen it last; `None` if it has not yet. Does not ask the store.
    fn generation(&self, partition: Partition) -> Option<Generation>;

    /// Stores a task if its parent (when it has one) is live and no fence blocks it. Idempotent by `id` (the same id with the same owner, lineage and facts is
    /// `Begun` again; with others, or a tombstone, it is [`StoreError::Damaged`]), and by the idempotency key. Looked at in this order: id, key, fences, parent.
    /// Does not ask whether the deadline is sound: that is the caller's.
    async fn begin(&self, task: BeginTask, now: Timestamp) -> StepResult<BeginOutcome>;

    /// What [`Self::begin`] would say because of an idempotency key alone, [`BeginOutcome::Replayed`] or [`BeginOutcome::KeyReused`]; `None` if the key is free in
    /// this partition. Reads only.
    async fn replay(
        &self,
        partition: Partition,
        idempotency: Idempotency,
        now: Timestamp,
    ) -> StepResult<Option<BeginOutcome>>;

    /// The task as it stands. `None` if there is no record or it is past its readable time.
    async fn read(&self, id: TaskId, now: Timestamp) -> StepResult<Option<TaskView>>;

    /// Moves the deadline of a live task later, and the end of its readable time by as much; the version grows. Looked at in this order: ended, the same deadline,
    /// not later, beyond the parent's.
    async fn extend(&self, id: TaskId, deadline: Timestamp, now: Timestamp) -> StepResult<ExtendOutcome>;

    /// Ends a task and with it everything it minted and everything below it, by one write (G2). The first end stays, also one that is in effect but not written
    /// (deadline, fence, generation, an ancestor): then nothing is written. The version grows; the record stays readable for `retention` from now on.
    ///
    /// A tombstone has no owner, lineage or facts, version 1, its end as its deadline, `began_seq` 0, and is readable for as long as it is remembered. It has no
    /// credentials either: what was recorded under its id before is unknown to every step from then on.
    async fn end(&self, end: EndTask, now: Timestamp) -> StepResult<EndOutcome>;

    /// Tasks that are still readable. A task that begins or changes between pages may be missed or shown twice. One whose record, or what its status rests on, is damaged
    /// is left out, counted and logged.
    async fn list(&self, query: ListTasks, now: Timestamp) -> StepResult<TaskPage>;

    /// Writes the end of up to `limit` tasks whose deadline is not after `now`, forgets up to `limit` records of each sort (tasks, credentials, fences, history
    /// entries) whose time is over. Changes no verdict: a task past its deadline is dead before it is written so, and what is written is what had ended it in
    /// effect ([`Status`]: a generation, a fence with its moment and actor, or the deadline). The version grows, the readable time stays, the history gets no entry.
    ///
    /// A writing step only where there is something to write: a lapse that finds nothing due writes nothing, and leaves its `now` at most in memory.
    async fn lapse(&self, partition: Partition, limit: usize, now: Timestamp) -> StepResult<Lapsed>;
}

/// Token or certificate. The numbers are part of the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CredentialKind {
    /// A JWT.
    Token = 1,
    /// An X.509 certificate.
    Certificate = 2,
}

/// Everything to record a credential before it is made (G1).
#[derive(Clone, Copy, Debug)]
pub struct RecordCredential {
    /// Of which task.
    pub task: TaskId,
    /// [`super::TaskHead::version`] of the record that the decision rested on.
    pub version: u32,
    /// Token or certificate.
    pub kind: CredentialKind,
    /// Under which it will be signed: the JWT key, or the intermediate's. Not stored: what is presented names it.
    pub key: KeyId,
    /// Index of the grant in the task's facts; 0 for certificates.
    pub grant: u8,
    /// In whole seconds.
    pub issued_at: Timestamp,
    /// In whole seconds, after `issued_at`, not after the task's deadline.
    pub expires_at: Timestamp,
    /// How many credentials a task may have been issued in all.
    pub limit: u32,
}

/// What came of [`CredentialStore::record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordOutcome {
    /// Stored; the credential may be made.
    Recorded {
        /// Its id.
        id: CredentialId,
        /// To be minted into it.
        generation: Generation,
        /// To be minted into it: [`super::TaskHead::began_seq`].
        began_seq: u64,
    },
    /// The decision rested on an older version: read the task, decide again.
    Stale,
    /// The task has ended.
    Ended(End),
    /// A fence of the key stands: nothing is signed under it any more. The task goes on, and another key will do.
    KeyFenced,
    /// It would outlive its task, whose deadline this is (G7).
    BeyondDeadline(Timestamp),
    /// The limit is reached.
    Exhausted,
    /// No such task.
    Unknown,
}

/// A credential as recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialRecord {
    /// Which.
    pub id: CredentialId,
    /// Token or certificate.
    pub kind: CredentialKind,
    /// Index of the grant in the task's facts.
    pub grant: u8,
    /// In whole seconds.
    pub issued_at: Timestamp,
    /// In whole seconds.
    pub expires_at: Timestamp,
    /// Ended by itself, its task aside.
    pub revoked: bool,
}

/// What came of [`CredentialStore::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Recorded, unexpired, not revoked; its task and all above it live; no fence, of its key neither; generation current.
    Active {
        /// To be compared with what is presented.
        record: CredentialRecord,
        /// To be compared with what is presented.
        generation: Generation,
        /// To be compared with what is presented.
        began_seq: u64,
    },
    /// The task has ended.
    TaskEnded(End),
    /// Revoked by itself.
    Revoked,
    /// A fence stands of the key under which it is signed; its task goes on.
    KeyFenced,
    /// Not recorded, or past its expiry.
    Unknown,
}

/// Credentials of tasks.
#[async_trait]
pub trait CredentialStore: Send + Sync {
    /// Records a credential on condition that its task is live in every respect and `version` is the stored one, and no fence stands of its key (looked at in
    /// this order: unknown, ended, key fenced, stale, beyond the deadline, exhausted). Its number is the count of those issued before it. Of the first certificate the task's head
    /// says in the same step that there is one ([`super::TaskHead::tokens_alone`]), and goes on to. **Not** idempotent: a step whose answer was lost
    /// leaves a record that nobody holds a credential for.
    async fn record(&self, credential: RecordCredential, now: Timestamp) -> StepResult<RecordOutcome>;

    /// Whether a credential that was presented, signed under `key`, is good, by one read. Looked at in this order: unknown (the task, or the credential), task ended,
    /// revoked, key fenced. Whether it was recorded for that key is not known here, see [`crate::revoke::fence`].
    async fn check(&self, id: CredentialId, key: KeyId, now: Timestamp) -> StepResult<CheckOutcome>;

    /// Ends one credential, whether or not its task has ended; an entry in the history the first time, and the partition's present position afterwards. `None`: not
    /// recorded, or past its expiry. Idempotent.
    async fn revoke(
        &self,
        id: CredentialId,
        now: Timestamp,
    ) -> StepResult<Option<(CredentialRecord, Position)>>;

    /// Unexpired credentials of a task with numbers from `from` on, at most `limit`, in order of number, and the number to go on from. One that is damaged is left
    /// out, counted and logged.
    async fn credentials(
        &self,
        task: TaskId,
        from: u32,
        limit: usize,
        now: Timestamp,
    ) -> StepResult<(Vec<CredentialRecord>, Option<u32>)>;
}

/// Places for live tasks of one workload, so that it cannot have more than it may over all partitions.
///
/// A place is taken before the task begins and given back when it ends; it goes by itself at the deadline. What a crash leaves behind is found when a workload is
/// full: whoever asks then looks at the tasks that hold places, and gives back those of the dead.
///
/// Places belong to no partition: they are judged by the caller's `now` alone, and no step on them moves the time of any partition.
#[async_trait]
pub trait QuotaStore: Send + Sync {
    /// Takes a place until `deadline`, or moves the deadline of the one that `task` has. `Err(holders)`, at most `limit` of them, if all are taken. A place whose
    /// deadline is not after `now` is free.
    async fn reserve(
        &self,
        owner: &str,
        task: TaskId,
        deadline: Timestamp,
        limit: u32,
        now: Timestamp,
    ) -> StepResult<Result<(), Vec<TaskId>>>;

    /// Gives places back. Idempotent.
    async fn release(&self, owner: &str, tasks: &[TaskId]) -> StepResult<()>;
}

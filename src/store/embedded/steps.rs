//! The store's traits: each step handed to the thread that writes, or taken on a snapshot.

use async_trait::async_trait;
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;
use uuid::Uuid;

use super::{EmbeddedStore, credentials, fences, lapse, tasks};
use crate::keys::store::{KeyringStore, StoredKeyring};
use crate::revoke::fence::{FenceIntent, FenceStore};
use crate::revoke::history::Durability;
use crate::store::Maintenance;
use crate::task::store::*;
use crate::time::Timestamp;

#[async_trait]
impl TaskStore for EmbeddedStore {
    fn generation(&self, partition: Partition) -> Option<Generation> {
        self.history.remembered(partition).map(|position| position.generation)
    }

    async fn begin(&self, task: BeginTask, now: Timestamp) -> StepResult<BeginOutcome> {
        self.writing(move |txn| tasks::begin(txn, &task, now)).await
    }

    async fn replay(
        &self,
        partition: Partition,
        idempotency: Idempotency,
        now: Timestamp,
    ) -> StepResult<Option<BeginOutcome>> {
        self.reading(partition, now, |view| tasks::replayed(view, &idempotency)).await
    }

    async fn read(&self, id: TaskId, now: Timestamp) -> StepResult<Option<TaskView>> {
        self.reading(id.partition(), now, |view| tasks::read(view, id)).await
    }

    async fn extend(&self, id: TaskId, deadline: Timestamp, now: Timestamp) -> StepResult<ExtendOutcome> {
        self.writing(move |txn| tasks::extend(txn, id, deadline, now)).await
    }

    async fn end(&self, end: EndTask, now: Timestamp) -> StepResult<EndOutcome> {
        self.writing(move |txn| tasks::end(txn, &end, now)).await
    }

    async fn list(&self, query: ListTasks, now: Timestamp) -> StepResult<TaskPage> {
        let (mut found, mut room) = (Vec::<TaskView>::new(), PAGE_BYTES);
        let first = query.after.map_or(0, |id| id.partition().number());
        let wanted = |partition: &Partition| query.within.is_none_or(|within| within == *partition);
        for partition in Partition::all().skip(usize::from(first)).filter(wanted) {
            if found.len() >= query.limit.max(1) || room == 0 {
                let next = found.last().map(|view| view.id);
                return Ok(TaskPage { tasks: found, next });
            }
            let after = query.after.filter(|id| id.partition() == partition);
            let limit = query.limit.saturating_sub(found.len()).max(1);
            let query = ListTasks { limit, ..query.clone() };
            let (tasks, next) =
                self.reading(partition, now, |view| tasks::page(view, &query, after, room)).await?;
            room = room.saturating_sub(tasks.iter().map(|view| view.record.weight()).sum());
            found.extend(tasks);
            if next.is_some() {
                return Ok(TaskPage { tasks: found, next });
            }
        }
        Ok(TaskPage { tasks: found, next: None })
    }

    async fn lapse(&self, partition: Partition, limit: usize, now: Timestamp) -> StepResult<Lapsed> {
        // A look first, so that a store in which nothing happens is not written to.
        if let Some(nothing) = self.reading(partition, now, lapse::nothing).await? {
            self.rules.clocks.see(partition, now);
            return Ok(nothing);
        }
        self.writing(move |txn| lapse::lapse(txn, partition, limit, now)).await
    }
}

#[async_trait]
impl CredentialStore for EmbeddedStore {
    async fn record(&self, credential: RecordCredential, now: Timestamp) -> StepResult<RecordOutcome> {
        self.writing(move |txn| credentials::record(txn, &credential, now)).await
    }

    async fn check(&self, id: CredentialId, key: KeyId, now: Timestamp) -> StepResult<CheckOutcome> {
        self.reading(id.task.partition(), now, |view| credentials::check(view, id, key)).await
    }

    async fn revoke(
        &self,
        id: CredentialId,
        now: Timestamp,
    ) -> StepResult<Option<(CredentialRecord, Position)>> {
        self.writing(move |txn| credentials::revoke(txn, id, now)).await
    }

    async fn credentials(
        &self,
        task: TaskId,
        from: u32,
        limit: usize,
        now: Timestamp,
    ) -> StepResult<(Vec<CredentialRecord>, Option<u32>)> {
        self.reading(task.partition(), now, |view| credentials::list(view, task, from, limit)).await
    }
}

#[async_trait]
impl QuotaStore for EmbeddedStore {
    async fn reserve(
        &self,
        owner: &str,
        task: TaskId,
        deadline: Timestamp,
        limit: u32,
        now: Timestamp,
    ) -> StepResult<Result<(), Vec<TaskId>>> {
        let owner = owner.to_owned();
        self.writing(move |txn| fences::reserve(txn, &owner, task, deadline, limit, now)).await
    }

    async fn release(&self, owner: &str, tasks: &[TaskId]) -> StepResult<()> {
        let (owner, tasks) = (owner.to_owned(), tasks.to_vec());
        self.writing(move |txn| fences::release(txn, &owner, &tasks)).await
    }
}

#[async_trait]
impl FenceStore for EmbeddedStore {
    async fn intend(&self, intent: &FenceIntent) -> StepResult<()> {
        let intent = intent.clone();
        self.writing(move |txn| fences::intend(txn, &intent)).await
    }

    async fn intents(&self) -> StepResult<Vec<FenceIntent>> {
        self.reading_all(fences::all_intents).await
    }

    async fn raise(
        &self,
        partition: Partition,
        intent: &FenceIntent,
        now: Timestamp,
    ) -> StepResult<Position> {
        let intent = intent.clone();
        self.writing(move |txn| fences::raise(txn, partition, &intent, now)).await
    }

    async fn blocks(&self, partition: Partition, now: Timestamp) -> StepResult<Vec<FenceIntent>> {
        self.reading(partition, now, fences::blocks).await
    }

    async fn finish(&self, id: Uuid) -> StepResult<()> {
        self.writing(move |txn| fences::finish(txn, id)).await
    }
}

#[async_trait]
impl KeyringStore for EmbeddedStore {
    async fn load(&self) -> StepResult<Option<StoredKeyring>> {
        self.reading_all(fences::load).await
    }

    async fn compare_and_set(&self, expected: Option<u64>, document: &[u8]) -> StepResult<StoredKeyring> {
        let document = document.to_vec();
        self.writing(move |txn| fences::compare_and_set(txn, expected, &document)).await
    }
}

#[async_trait]
impl Maintenance for EmbeddedStore {
    fn durability(&self) -> Durability {
        self.rules.durability
    }

    async fn probe(&self) -> StepResult<()> {
        self.writing(|_| Ok(())).await
    }

    async fn declare_restored(&self, now: Timestamp) -> StepResult<()> {
        self.writing(move |txn| Partition::all().try_for_each(|partition| txn.grow(partition, now))).await
    }
}

//! What a step sees: the rows of one partition at one moment, and what they mean together. The same for reading steps, on a snapshot, and for
//! writing ones, in the middle of a transaction.

use redb::ReadableTable;
use taskpass_verifier::ids::{CredentialId, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;

use super::rows::*;
use crate::revoke::fence::FenceTarget;
use crate::task::TaskRecord;
use crate::task::record::trust_domain_of;
use crate::task::state::{Actor, End, EndReason, Status};
use crate::task::store::{CredentialRecord, Position, StoreError, TaskView};
use crate::time::Timestamp;

pub(super) type Bytes = &'static [u8];

/// The one table.
pub(super) trait Table: ReadableTable<Bytes, Bytes> {}
impl<T: ReadableTable<Bytes, Bytes>> Table for T {}

/// Why a step gave no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file fails: nothing of the whole transaction counts.
    File(String),
    /// This step alone.
    Step(StoreError),
}

pub(super) type Stepped<T> = Result<T, Fault>;

impl From<redb::StorageError> for Fault {
    fn from(error: redb::StorageError) -> Self {
        Self::File(error.to_string())
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Step(error)
    }
}

/// A value, if there is one under the key.
pub(super) fn get<R>(
    table: &impl Table,
    key: &[u8],
    read: impl FnOnce(&[u8]) -> Result<R, StoreError>,
) -> Stepped<Option<R>> {
    Ok(table.get(key)?.map(|value| read(value.value())).transpose()?)
}

pub(super) fn partition_row(table: &impl Table, partition: Partition) -> Stepped<Option<PartitionRow>> {
    get(table, &partition_key(partition), PartitionRow::decode)
}

/// The digest that a partition's history holds at a sequence, if that entry is still there.
pub(super) fn chain_at(table: &impl Table, partition: Partition, seq: u64) -> Stepped<Option<[u8; 20]>> {
    get(table, &history_key(partition, seq), |bytes| Cursor(bytes, "history entry").array())
}

/// A task's record, readable or not.
pub(super) fn task(table: &impl Table, id: TaskId) -> Stepped<Option<TaskRecord>> {
    get(table, &task_key(id), |bytes| {
        TaskRecord::decode(bytes).map_err(|damage| StoreError::Damaged(format!("task {id}: {damage}")))
    })
}

/// One partition at one moment.
pub(super) struct View<'t, T> {
    pub(super) table: &'t T,
    pub(super) partition: Partition,
    pub(super) row: PartitionRow,
    pub(super) now: Timestamp,
}

impl<T: Table> View<'_, T> {
    pub(super) fn position(&self) -> Position {
        self.row.position
    }

    /// A task that is still readable. Other partitions' tasks are not here.
    pub(super) fn task(&self, id: TaskId) -> Stepped<Option<TaskRecord>> {
        if id.partition() != self.partition {
            return Ok(None);
        }
        Ok(task(self.table, id)?.filter(|record| record.head.readable_until > self.now))
    }

    /// A fence that is not yet to be forgotten.
    pub(super) fn fence(&self, target: &str) -> Stepped<Option<Fence>> {
        if self.row.fences == 0 {
            return Ok(None);
        }
        let fence = get(self.table, &fence_key(self.partition, target), Fence::decode)?;
        Ok(fence.filter(|fence| fence.forget_at > self.now))
    }

    /// The fences on an owner and on its trust domain.
    pub(super) fn fences_on(&self, owner: &str) -> Stepped<[(EndReason, Option<Fence>); 2]> {
        let workload = self.fence(&format!("w:{owner}"))?;
        let trust_domain = self.fence(&format!("t:{}", trust_domain_of(owner)))?;
        Ok([(EndReason::WorkloadRevoked, workload), (EndReason::TrustDomainRevoked, trust_domain)])
    }

    /// Whether a fence stands of the key.
    pub(super) fn key_fenced(&self, key: KeyId) -> Stepped<bool> {
        Ok(self.row.fences > 0 && self.fence(&FenceTarget::Key(key).key())?.is_some())
    }

    /// What has ended the task itself, its ancestors aside.
    pub(super) fn own_end(&self, record: &TaskRecord) -> Stepped<Option<End>> {
        let head = &record.head;
        let end = |at, reason, by| Ok(Some(End { at, reason, ancestor: None, by }));
        if let Some((reason, at)) = head.end {
            return end(at, reason, record.ended_by.clone());
        }
        let present = self.row.position.generation;
        if head.generation != present {
            let at = Timestamp::from_millis(present.unix_millis());
            return end(at, EndReason::GenerationChanged, Actor::default());
        }
        for (reason, fence) in self.fences_on(&record.owner)? {
            if let Some(fence) = fence.filter(|fence| head.began_seq < fence.cut) {
                return end(fence.at, reason, fence.by);
            }
        }
        match head.deadline <= self.now {
            true => end(head.deadline, EndReason::Deadline, Actor::default()),
            false => Ok(None),
        }
    }

    /// What has ended the task, its ancestors considered, root first.
    pub(super) fn end(&self, record: &TaskRecord) -> Stepped<Option<End>> {
        if let Some(end) = self.own_end(record)? {
            return Ok(Some(end));
        }
        for id in &record.lineage {
            let ended = match self.task(*id)? {
                Some(ancestor) => self.own_end(&ancestor)?,
                None => Some(lost()),
            };
            if let Some(end) = ended {
                return Ok(Some(End { reason: EndReason::AncestorEnded, ancestor: Some(*id), ..end }));
            }
        }
        Ok(None)
    }

    pub(super) fn seen(&self, id: TaskId, record: TaskRecord) -> Stepped<TaskView> {
        let status = self.end(&record)?.map_or(Status::Live, Status::Ended);
        Ok(TaskView { id, record, status })
    }

    pub(super) fn chunk(&self, task: TaskId, chunk: u32) -> Stepped<Option<Chunk>> {
        get(self.table, &chunk_key(task, chunk), |bytes| Ok(Chunk(bytes.to_vec())))
    }

    /// A credential that is recorded and not past its expiry.
    pub(super) fn credential(&self, id: CredentialId) -> Stepped<Option<CredentialRecord>> {
        let key = chunk_key(id.task, id.number / CHUNK);
        let record = get(self.table, &key, |bytes| Ok(Chunk::find(bytes, id)))?.flatten();
        Ok(record.filter(|record| record.expires_at > self.now))
    }
}

/// The end of an ancestor that the store has forgotten or lost.
fn lost() -> End {
    End { at: Timestamp::EPOCH, reason: EndReason::AncestorEnded, ancestor: None, by: Actor::default() }
}

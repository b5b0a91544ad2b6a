//! The steps of credentials.

use taskpass_verifier::ids::{CredentialId, TaskId};
use taskpass_verifier::keyset::KeyId;

use super::rows::*;
use super::txn::Txn;
use super::view::{Stepped, Table, View};
use crate::store::leave_out;
use crate::task::store::*;
use crate::time::Timestamp;

pub(super) fn record(txn: &mut Txn<'_>, asked: &RecordCredential, now: Timestamp) -> Stepped<RecordOutcome> {
    let partition = asked.task.partition();
    let now = txn.enter(partition, now)?;
    let view = txn.view(partition, now)?;
    let Some(old) = view.task(asked.task)? else { return Ok(RecordOutcome::Unknown) };
    if let Some(end) = view.end(&old)? {
        return Ok(RecordOutcome::Ended(end));
    }
    if view.key_fenced(asked.key)? {
        return Ok(RecordOutcome::KeyFenced);
    }
    if asked.version != old.head.version {
        return Ok(RecordOutcome::Stale);
    }
    if asked.expires_at > old.head.deadline {
        return Ok(RecordOutcome::BeyondDeadline(old.head.deadline));
    }
    if old.head.credentials >= asked.limit {
        return Ok(RecordOutcome::Exhausted);
    }
    let id = CredentialId { task: asked.task, number: old.head.credentials };
    let &RecordCredential { kind, grant, issued_at, expires_at, .. } = asked;
    let stored = view.chunk(id.task, id.number / CHUNK)?;
    let mut new = old.clone();
    new.head.credentials = new.head.credentials.saturating_add(1);
    new.head.tokens_alone &= kind == CredentialKind::Token;
    new.head.last_expiry = new.head.last_expiry.max(Some(expires_at));
    txn.put_task(id.task, Some(&old), &new)?;
    let key = chunk_key(id.task, id.number / CHUNK);
    if stored.is_none() {
        txn.put(&expiry_key(partition, expires_at, &key), &[])?;
    }
    let mut chunk = stored.unwrap_or_default();
    chunk.set(&CredentialRecord { id, kind, grant, issued_at, expires_at, revoked: false });
    txn.put(&key, &chunk.0)?;
    Ok(RecordOutcome::Recorded { id, generation: old.head.generation, began_seq: old.head.began_seq })
}

pub(super) fn check<T: Table>(view: &View<'_, T>, id: CredentialId, key: KeyId) -> Stepped<CheckOutcome> {
    let Some(task) = view.task(id.task)? else { return Ok(CheckOutcome::Unknown) };
    let Some(record) = view.credential(id)? else { return Ok(CheckOutcome::Unknown) };
    if let Some(end) = view.end(&task)? {
        return Ok(CheckOutcome::TaskEnded(end));
    }
    if record.revoked {
        return Ok(CheckOutcome::Revoked);
    }
    if view.key_fenced(key)? {
        return Ok(CheckOutcome::KeyFenced);
    }
    let (generation, began_seq) = (task.head.generation, task.head.began_seq);
    Ok(CheckOutcome::Active { record, generation, began_seq })
}

pub(super) fn revoke(
    txn: &mut Txn<'_>,
    id: CredentialId,
    now: Timestamp,
) -> Stepped<Option<(CredentialRecord, Position)>> {
    let partition = id.task.partition();
    let now = txn.enter(partition, now)?;
    let view = txn.view(partition, now)?;
    if view.task(id.task)?.is_none() {
        return Ok(None);
    }
    let Some(mut record) = view.credential(id)? else { return Ok(None) };
    if record.revoked {
        return Ok(Some((record, view.position())));
    }
    record.revoked = true;
    let mut chunk = view.chunk(id.task, id.number / CHUNK)?.unwrap_or_default();
    chunk.set(&record);
    txn.put(&chunk_key(id.task, id.number / CHUNK), &chunk.0)?;
    let position = txn.enter_history(partition, &Entry::Revoked { id, at: now }, record.expires_at)?;
    Ok(Some((record, position)))
}

pub(super) fn list<T: Table>(
    view: &View<'_, T>,
    task: TaskId,
    from: u32,
    limit: usize,
) -> Stepped<(Vec<CredentialRecord>, Option<u32>)> {
    let mut records = Vec::new();
    if view.task(task)?.is_none() {
        return Ok((records, None));
    }
    let (first, last) = (chunk_key(task, from / CHUNK), chunk_key(task, u32::MAX));
    for row in view.table.range(first.as_slice()..=last.as_slice())? {
        let (key, value) = row?;
        let number = key.value().last_chunk().copied().map(u32::from_be_bytes);
        let number = number.ok_or_else(|| damaged("credential"))?;
        let chunk = Chunk(value.value().to_vec());
        for id in chunk.damaged(task, number).filter(|id| id.number >= from) {
            leave_out("credential", id, "it is of no kind that is known");
        }
        let unexpired = chunk.records(task, number).filter(|record| record.expires_at > view.now);
        for record in unexpired.filter(|record| record.id.number >= from) {
            if records.len() >= limit.max(1) {
                return Ok((records, Some(record.id.number)));
            }
            records.push(record);
        }
    }
    Ok((records, None))
}

//! The steps of tasks.

use taskpass_verifier::ids::TaskId;

use super::rows::*;
use super::txn::Txn;
use super::view::{self, Fault, Stepped, Table, View};
use crate::store::leave_out;
use crate::task::state::{Actor, End};
use crate::task::store::*;
use crate::task::{SealedFacts, TaskHead, TaskRecord};
use crate::time::Timestamp;

pub(super) fn begin(txn: &mut Txn<'_>, task: &BeginTask, now: Timestamp) -> Stepped<BeginOutcome> {
    let partition = task.id.partition();
    let now = txn.enter(partition, now)?;
    let view = txn.view(partition, now)?;
    if let Some(there) = view.task(task.id)? {
        let there = view.seen(task.id, same(task, there)?)?;
        return Ok(BeginOutcome::Begun(Box::new(there)));
    }
    if let Some(asked) = &task.idempotency
        && let Some(outcome) = replayed(&view, asked)?
    {
        return Ok(outcome);
    }
    if let Some(until) = blocked(&view, &task.owner)? {
        return Ok(BeginOutcome::Blocked(until));
    }
    if let Some(outcome) = under(&view, task)? {
        return Ok(outcome);
    }
    let seen = view.seen(task.id, fresh(task, view.position()))?;
    let record = &seen.record;
    txn.clear_task(task.id)?;
    txn.put_task(task.id, None, record)?;
    txn.put(&owner_key(&owner_hash(&task.owner), task.id), &[])?;
    if let Some(idempotency) = &task.idempotency {
        let key = idempotency_key(partition, &idempotency.key);
        txn.put(&key, &[task.id.as_bytes().as_slice(), &idempotency.request].concat())?;
        txn.put(&expiry_key(partition, record.head.readable_until, &key), &[])?;
    }
    Ok(BeginOutcome::Begun(Box::new(seen)))
}

/// The record that stands under the id, if it is of the same task.
fn same(task: &BeginTask, there: TaskRecord) -> Result<TaskRecord, StoreError> {
    let same = !there.head.tombstone
        && there.owner == task.owner
        && there.lineage == task.lineage
        && there.facts == task.facts;
    if same {
        Ok(there)
    } else {
        Err(StoreError::Damaged(format!("task {} is there with other facts", task.id)))
    }
}

/// What the idempotency key stands for.
pub(super) fn replayed<T: Table>(view: &View<'_, T>, asked: &Idempotency) -> Stepped<Option<BeginOutcome>> {
    let key = idempotency_key(view.partition, &asked.key);
    let Some((id, request)) = view::get(view.table, &key, decode_key)? else { return Ok(None) };
    let Some(record) = view.task(id)? else { return Ok(None) };
    if record.head.tombstone || record.head.generation != view.position().generation {
        return Ok(None);
    }
    Ok(Some(if request == asked.request { BeginOutcome::Replayed(id) } else { BeginOutcome::KeyReused }))
}

/// An idempotency key's task and the digest of its request.
pub(super) fn decode_key(bytes: &[u8]) -> Result<(TaskId, [u8; 32]), StoreError> {
    let mut rest = Cursor(bytes, "idempotency key");
    Ok((rest.task()?, rest.array()?))
}

fn blocked<T: Table>(view: &View<'_, T>, owner: &str) -> Stepped<Option<Timestamp>> {
    let fences = view.fences_on(owner)?;
    let until = fences.into_iter().filter_map(|(_, fence)| fence).map(|fence| fence.block_until).max();
    Ok(until.filter(|until| *until > view.now))
}

/// Why the task cannot begin under its parent; `None` if it can, or has none.
fn under<T: Table>(view: &View<'_, T>, task: &BeginTask) -> Stepped<Option<BeginOutcome>> {
    let Some((parent, above)) = task.lineage.split_last() else { return Ok(None) };
    let Some(parent) = view.task(*parent)?.filter(|parent| parent.head.tombstone || parent.lineage == above)
    else {
        return Ok(Some(BeginOutcome::ParentUnknown));
    };
    Ok(view.end(&parent)?.map(BeginOutcome::ParentEnded))
}

fn fresh(task: &BeginTask, position: Position) -> TaskRecord {
    let head = TaskHead {
        end: None,
        tombstone: false,
        version: 1,
        deadline: task.deadline,
        began_seq: position.seq,
        last_expiry: None,
        credentials: 0,
        tokens_alone: true,
        readable_until: task.deadline.saturating_add(task.retention),
        generation: position.generation,
    };
    TaskRecord {
        head,
        lineage: task.lineage.clone(),
        owner: task.owner.clone(),
        facts: task.facts.clone(),
        ended_by: Actor::default(),
    }
}

pub(super) fn read<T: Table>(view: &View<'_, T>, id: TaskId) -> Stepped<Option<TaskView>> {
    view.task(id)?.map(|record| view.seen(id, record)).transpose()
}

pub(super) fn extend(
    txn: &mut Txn<'_>,
    id: TaskId,
    deadline: Timestamp,
    now: Timestamp,
) -> Stepped<ExtendOutcome> {
    let now = txn.enter(id.partition(), now)?;
    let view = txn.view(id.partition(), now)?;
    let Some(old) = view.task(id)? else { return Ok(ExtendOutcome::Unknown) };
    if let Some(end) = view.end(&old)? {
        return Ok(ExtendOutcome::Ended(end));
    }
    let standing = old.head.deadline;
    if deadline == standing {
        return Ok(ExtendOutcome::Extended(Box::new(view.seen(id, old)?)));
    }
    if deadline < standing {
        return Ok(ExtendOutcome::NotLater(standing));
    }
    if let Some(parent) = old.lineage.last()
        && let Some(parent) = view.task(*parent)?
        && deadline > parent.head.deadline
    {
        return Ok(ExtendOutcome::BeyondParent(parent.head.deadline));
    }
    let mut new = old.clone();
    new.head.deadline = deadline;
    new.head.readable_until = old.head.readable_until.saturating_add(deadline.since(standing));
    new.head.version = new.head.version.saturating_add(1);
    let seen = view.seen(id, new)?;
    txn.put_task(id, Some(&old), &seen.record)?;
    Ok(ExtendOutcome::Extended(Box::new(seen)))
}

pub(super) fn end(txn: &mut Txn<'_>, end: &EndTask, now: Timestamp) -> Stepped<EndOutcome> {
    let partition = end.id.partition();
    let now = txn.enter(partition, now)?;
    let view = txn.view(partition, now)?;
    let Some(old) = view.task(end.id)? else {
        return match end.bury_unknown {
            Some(remember) => bury(txn, end, now.saturating_add(remember), now),
            None => Ok(EndOutcome::Unknown),
        };
    };
    let seen = view.seen(end.id, old)?;
    if !seen.status.is_live() {
        return Ok(EndOutcome::AlreadyEnded(Box::new(seen), view.position()));
    }
    let old = seen.record;
    let written = End { at: now, reason: end.reason, ancestor: None, by: end.by.clone() };
    let new = ended(&old, &written, now.saturating_add(end.retention));
    txn.put_task(end.id, Some(&old), &new)?;
    let entry = Entry::End { id: end.id, reason: end.reason.code(), at: now };
    let position = txn.enter_history(partition, &entry, old.head.deadline)?;
    let seen = txn.view(partition, now)?.seen(end.id, new)?;
    Ok(EndOutcome::Ended(Box::new(seen), position))
}

/// The record with its end written down.
pub(super) fn ended(old: &TaskRecord, end: &End, readable_until: Timestamp) -> TaskRecord {
    let mut new = old.clone();
    new.head.end = Some((end.reason, end.at));
    new.head.version = new.head.version.saturating_add(1);
    new.head.readable_until = readable_until;
    new.ended_by = end.by.clone();
    new
}

fn bury(txn: &mut Txn<'_>, end: &EndTask, until: Timestamp, now: Timestamp) -> Stepped<EndOutcome> {
    let partition = end.id.partition();
    txn.clear_task(end.id)?;
    let head = TaskHead {
        end: Some((end.reason, now)),
        tombstone: true,
        version: 1,
        deadline: now,
        began_seq: 0,
        last_expiry: None,
        credentials: 0,
        tokens_alone: false,
        readable_until: until,
        generation: txn.view(partition, now)?.position().generation,
    };
    let tombstone = TaskRecord {
        head,
        lineage: Vec::new(),
        owner: String::new(),
        facts: SealedFacts(Vec::new()),
        ended_by: end.by.clone(),
    };
    txn.put_task(end.id, None, &tombstone)?;
    let entry = Entry::Buried { id: end.id, reason: end.reason.code(), at: now };
    Ok(EndOutcome::Buried(txn.enter_history(partition, &entry, until)?))
}

/// A task, if the query asks for it.
fn wanted<T: Table>(view: &View<'_, T>, query: &ListTasks, id: TaskId) -> Stepped<Option<TaskView>> {
    let of_owner = |record: &TaskRecord| query.owner.as_ref().is_none_or(|owner| *owner == record.owner);
    let Some(record) = view.task(id)?.filter(of_owner) else { return Ok(None) };
    let seen = view.seen(id, record)?;
    Ok((!query.live_only || seen.status.is_live()).then_some(seen))
}

/// How many rows a page looks at, whatever it finds.
const LOOKS: usize = 1_024;

/// One page of at most about `room` bytes: the tasks of `partition` after `after`; `None` for the second part if the partition has no more.
pub(super) fn page<T: Table>(
    view: &View<'_, T>,
    query: &ListTasks,
    after: Option<TaskId>,
    room: usize,
) -> Stepped<(Vec<TaskView>, Option<TaskId>)> {
    let of = query.owner.as_deref().map(owner_hash);
    let key = |id: TaskId| of.as_ref().map_or_else(|| task_key(id), |owner| owner_key(owner, id));
    let prefix = match &of {
        Some(owner) => [tasks_of_owner(owner), vec![view.partition.number()]].concat(),
        None => tasks_of(view.partition),
    };
    // The key right after another is that one with a zero byte at its end.
    let from = after.map_or_else(|| prefix.clone(), |id| [key(id), vec![0]].concat());
    let end = after_prefix(&prefix);
    let (mut tasks, mut bytes) = (Vec::new(), 0);
    for (looked, row) in view.table.range(from.as_slice()..end.as_slice())?.enumerate() {
        let (key, _) = row?;
        let id = key.value().last_chunk().and_then(|id| TaskId::from_bytes(*id).ok());
        let id = id.ok_or_else(|| damaged("task id"))?;
        match wanted(view, query, id) {
            Ok(seen) => {
                bytes += seen.as_ref().map_or(0, |view| view.record.weight());
                tasks.extend(seen);
            }
            Err(Fault::Step(StoreError::Damaged(why))) => leave_out("task", id, why),
            Err(fault) => return Err(fault),
        }
        if tasks.len() >= query.limit.max(1) || bytes >= room || looked >= LOOKS {
            return Ok((tasks, Some(id)));
        }
    }
    Ok((tasks, None))
}

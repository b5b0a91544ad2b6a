//! Writing down what has lapsed, and forgetting what nobody can ask for any more. Verdicts never wait for it.

use taskpass_verifier::ids::{Partition, TaskId};

use super::fences::lapse_place;
use super::rows::*;
use super::tasks::{decode_key, ended};
use super::txn::{Txn, due_at};
use super::view::{self, Stepped, Table, View};
use crate::task::store::{Lapsed, StoreError};
use crate::time::Timestamp;

/// The most that one step handles, however much it is asked for: other steps wait for it.
pub(super) const LIMIT: usize = 128;

pub(super) fn lapse(
    txn: &mut Txn<'_>,
    partition: Partition,
    limit: usize,
    now: Timestamp,
) -> Stepped<Lapsed> {
    let now = txn.enter(partition, now)?;
    let limit = limit.clamp(1, LIMIT);
    let until = now.as_millis().saturating_add(1);
    let tasks = keys(txn.table(), &due_before(partition, 0), &due_before(partition, until), limit)?;
    let others = keys(txn.table(), &expiry_before(partition, 0), &expiry_before(partition, until), limit)?;
    let mut lapsed = Lapsed {
        ended: Vec::new(),
        forgotten: 0,
        more: tasks.len() >= limit || others.len() >= limit,
        next_due: None,
    };
    for key in &tasks {
        lapse_task(txn, key, now, &mut lapsed)?;
    }
    for key in &others {
        forget(txn, partition, key, now)?;
    }
    lapsed.next_due = next_due(txn.table(), partition)?;
    lapsed.more |= lapsed.next_due.is_some_and(|due| due <= now);
    Ok(lapsed)
}

/// The answer where nothing is due; `None` if something is.
pub(super) fn nothing<T: Table>(view: &View<'_, T>) -> Stepped<Option<Lapsed>> {
    let (partition, until) = (view.partition, view.now.as_millis().saturating_add(1));
    let tasks = keys(view.table, &due_before(partition, 0), &due_before(partition, until), 1)?;
    let others = keys(view.table, &expiry_before(partition, 0), &expiry_before(partition, until), 1)?;
    if !tasks.is_empty() || !others.is_empty() {
        return Ok(None);
    }
    let next_due = next_due(view.table, partition)?;
    Ok(Some(Lapsed { ended: Vec::new(), forgotten: 0, more: false, next_due }))
}

fn keys(table: &impl Table, from: &[u8], to: &[u8], limit: usize) -> Stepped<Vec<Key>> {
    let rows = table.range(from..to)?;
    rows.take(limit).map(|row| Ok(row?.0.value().to_vec())).collect()
}

fn next_due(table: &impl Table, partition: Partition) -> Stepped<Option<Timestamp>> {
    let end = after_prefix(&[b'D', partition.number()]);
    let first = keys(table, &due_before(partition, 0), &end, 1)?;
    Ok(first.first().map(|key| moment(key)).transpose()?)
}

/// The moment in a key of the two indexes by time.
fn moment(key: &[u8]) -> Result<Timestamp, StoreError> {
    let mut rest = Cursor(key, "due moment");
    rest.take(2)?;
    rest.time()
}

fn lapse_task(txn: &mut Txn<'_>, key: &[u8], now: Timestamp, lapsed: &mut Lapsed) -> Stepped<()> {
    let mut rest = Cursor(key, "due task");
    rest.take(10)?;
    let id: TaskId = rest.task()?;
    let Some(old) = view::task(txn.table(), id)? else { return txn.remove(key).map(drop) };
    if old.head.readable_until <= now {
        lapsed.forgotten += 1;
        return txn.forget_task(id, &old);
    }
    let Some(end) = txn.view(id.partition(), now)?.own_end(&old)? else {
        txn.remove(key)?;
        return txn.put(&due_key(id.partition(), due_at(&old), id), &[]);
    };
    let new = ended(&old, &end, old.head.readable_until);
    txn.put_task(id, Some(&old), &new)?;
    lapsed.ended.push((id, old.owner, old.head.deadline));
    Ok(())
}

/// Looks at a row whose time may be over: takes it away, or notes when to look again.
fn forget(txn: &mut Txn<'_>, partition: Partition, key: &[u8], now: Timestamp) -> Stepped<()> {
    txn.remove(key)?;
    let (_, row) = key.split_at_checked(10).ok_or_else(|| damaged("due moment"))?;
    let again = match row.first() {
        Some(b'C') => chunk_goes(txn, row)?,
        Some(b'F') => view::get(txn.table(), row, Fence::decode)?.map(|fence| fence.forget_at),
        Some(b'H') => view::get(txn.table(), row, history_goes)?,
        Some(b'I') => return forget_idempotency(txn, partition, row, now),
        Some(b'Q') => {
            let again = lapse_place(txn, row, now)?;
            return again.map_or(Ok(()), |at| txn.put(&expiry_key(partition, at, row), &[]));
        }
        _ => return Err(damaged("due moment").into()),
    };
    match again {
        Some(at) if at > now => txn.put(&expiry_key(partition, at, row), &[]),
        _ => {
            let gone = txn.remove(row)?;
            if gone && row.first() == Some(&b'F') {
                txn.change(partition, |row| row.fences = row.fences.saturating_sub(1))?;
            }
            Ok(())
        }
    }
}

fn history_goes(bytes: &[u8]) -> Result<Timestamp, StoreError> {
    let mut rest = Cursor(bytes, "history entry");
    rest.take(20)?;
    rest.time()
}

fn chunk_goes(txn: &Txn<'_>, row: &[u8]) -> Stepped<Option<Timestamp>> {
    let mut rest = Cursor(row, "credential");
    rest.take(1)?;
    let (task, number) = (rest.task()?, u32::from_be_bytes(rest.array()?));
    view::get(txn.table(), row, |bytes| Ok(Chunk(bytes.to_vec()).last_expiry(task, number)))
}

/// A key stays for as long as its task is readable.
fn forget_idempotency(txn: &mut Txn<'_>, partition: Partition, row: &[u8], now: Timestamp) -> Stepped<()> {
    let Some((id, _)) = view::get(txn.table(), row, decode_key)? else { return Ok(()) };
    match txn.view(partition, now)?.task(id)? {
        Some(record) => txn.put(&expiry_key(partition, record.head.readable_until, row), &[]),
        None => txn.remove(row).map(drop),
    }
}

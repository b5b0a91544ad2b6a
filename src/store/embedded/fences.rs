//! The steps of fences, places and the keyring.

use taskpass_verifier::ids::{Partition, TaskId};
use uuid::Uuid;

use super::rows::*;
use super::txn::Txn;
use super::view::{self, Stepped, Table, View};
use crate::keys::store::StoredKeyring;
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::task::store::{Position, StoreError};
use crate::time::Timestamp;

pub(super) fn intend(txn: &mut Txn<'_>, intent: &FenceIntent) -> Stepped<()> {
    let key = intent_key(intent.id);
    match view::get(txn.table(), &key, |_| Ok(()))? {
        Some(()) => Ok(()),
        None => txn.put(&key, &encode_intent(intent)?),
    }
}

/// All intents; their ids grow with time.
pub(super) fn all_intents(table: &impl Table) -> Stepped<Vec<FenceIntent>> {
    let (from, to) = (intents(), after_prefix(&intents()));
    let rows = table.range(from.as_slice()..to.as_slice())?;
    let intents = rows.map(|row| {
        let (key, value) = row?;
        let intent = decode_intent(key.value(), value.value());
        Ok(intent.inspect_err(|error| tracing::error!(%error, "a stored bulk end cannot be read")).ok())
    });
    intents.filter_map(Result::transpose).collect()
}

pub(super) fn finish(txn: &mut Txn<'_>, id: Uuid) -> Stepped<()> {
    txn.remove(&intent_key(id)).map(drop)
}

pub(super) fn raise(
    txn: &mut Txn<'_>,
    partition: Partition,
    intent: &FenceIntent,
    now: Timestamp,
) -> Stepped<Position> {
    let now = txn.enter(partition, now)?;
    let view = txn.view(partition, now)?;
    let target = intent.target.key();
    let key = fence_key(partition, &target);
    let (present, horizon) = (view.position(), view.row.horizon);
    let row = view::get(txn.table(), &key, Fence::decode)?;
    let there = row.is_some();
    let standing = row.filter(|fence| fence.forget_at > now);
    let stands = standing.as_ref().map(|fence| (fence.block_until, fence.forget_at)).unwrap_or_default();
    let block_until = intent.block_until.max(stands.0);
    // Whoever raises it late still outlives what began before that.
    let forget_at = intent.forget_at.max(stands.1).max(horizon);
    let (fence, position) = match standing {
        Some(fence) if fence.intent == intent.id => {
            let forget_at = intent.forget_at.max(fence.forget_at);
            if (block_until, forget_at) == stands {
                return Ok(present);
            }
            (Fence { block_until, forget_at, ..fence }, present)
        }
        _ => {
            let entry = Entry::Fence { target: &target, intent: intent.id, at: intent.at };
            let position = txn.enter_history(partition, &entry, forget_at)?;
            let (intent, at, by) = (intent.id, intent.at, intent.by.clone());
            (Fence { intent, cut: position.seq, at, block_until, forget_at, by }, position)
        }
    };
    txn.put(&key, &fence.encode())?;
    txn.put(&expiry_key(partition, fence.forget_at, &key), &[])?;
    txn.change(partition, |row| row.fences = row.fences.saturating_add(u32::from(!there)))?;
    Ok(position)
}

/// The fences whose block is not over.
pub(super) fn blocks<T: Table>(view: &View<'_, T>) -> Stepped<Vec<FenceIntent>> {
    let prefix = fences_of(view.partition);
    let rows = view.table.range(prefix.as_slice()..after_prefix(&prefix).as_slice())?;
    let mut blocks = Vec::new();
    for row in rows {
        let (key, value) = row?;
        let target = key.value().get(prefix.len()..).and_then(|target| std::str::from_utf8(target).ok());
        let target = target.and_then(FenceTarget::from_key).ok_or_else(|| damaged("fence"));
        match target.and_then(|target| Ok(Fence::decode(value.value())?.standing_on(target))) {
            Ok(fence) if fence.block_until > view.now => blocks.push(fence),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "a stored bulk end cannot be read, and its block is not remembered");
            }
        }
    }
    Ok(blocks)
}

fn deadline_of(bytes: &[u8]) -> Result<Timestamp, StoreError> {
    Cursor(bytes, "place").time()
}

fn count(txn: &Txn<'_>, owner: &OwnerHash) -> Stepped<u32> {
    let read = |bytes: &[u8]| Cursor(bytes, "number of places").array().map(u32::from_be_bytes);
    Ok(view::get(txn.table(), &place_count_key(owner), read)?.unwrap_or_default())
}

fn set_count(txn: &mut Txn<'_>, owner: &OwnerHash, count: u32) -> Stepped<()> {
    match count {
        0 => txn.remove(&place_count_key(owner)).map(drop),
        _ => txn.put(&place_count_key(owner), &count.to_be_bytes()),
    }
}

/// Takes the rows of places away, and counts what is left.
fn remove_places(txn: &mut Txn<'_>, owner: &OwnerHash, tasks: &[TaskId]) -> Stepped<u32> {
    let before = count(txn, owner)?;
    let mut left = before;
    for task in tasks {
        if txn.remove(&place_key(owner, *task))? {
            left = left.saturating_sub(1);
        }
    }
    if left != before {
        set_count(txn, owner, left)?;
    }
    Ok(left)
}

/// All places of an owner, and until when.
fn places(table: &impl Table, owner: &OwnerHash) -> Stepped<Vec<(TaskId, Timestamp)>> {
    let prefix = places_of(owner);
    let rows = table.range(prefix.as_slice()..after_prefix(&prefix).as_slice())?;
    rows.map(|row| {
        let (key, value) = row?;
        let id = key.value().last_chunk().and_then(|id| TaskId::from_bytes(*id).ok());
        Ok((id.ok_or_else(|| damaged("place"))?, deadline_of(value.value())?))
    })
    .collect()
}

pub(super) fn reserve(
    txn: &mut Txn<'_>,
    owner: &str,
    task: TaskId,
    deadline: Timestamp,
    limit: u32,
    now: Timestamp,
) -> Stepped<Result<(), Vec<TaskId>>> {
    let owner = owner_hash(owner);
    let home = home_of(&owner);
    txn.judge_clock(home, now)?;
    let key = place_key(&owner, task);
    let has = view::get(txn.table(), &key, deadline_of)?;
    if has.is_none_or(|until| until <= now) {
        let mut taken = count(txn, &owner)?;
        if taken >= limit || has.is_some() {
            let (held, lapsed): (Vec<_>, Vec<_>) =
                places(txn.table(), &owner)?.into_iter().partition(|(_, until)| *until > now);
            let lapsed: Vec<_> = lapsed.into_iter().map(|(task, _)| task).collect();
            taken = remove_places(txn, &owner, &lapsed)?;
            if taken >= limit {
                let at_most = usize::try_from(limit).unwrap_or(usize::MAX);
                return Ok(Err(held.into_iter().take(at_most).map(|(task, _)| task).collect()));
            }
        }
        set_count(txn, &owner, taken.saturating_add(1))?;
    }
    txn.put(&key, &deadline.as_millis().to_be_bytes())?;
    txn.put(&expiry_key(home, deadline, &key), &[])?;
    Ok(Ok(()))
}

pub(super) fn release(txn: &mut Txn<'_>, owner: &str, tasks: &[TaskId]) -> Stepped<()> {
    remove_places(txn, &owner_hash(owner), tasks).map(drop)
}

/// Takes away a place whose time is over; tells when it has to be looked at again, if it is not.
pub(super) fn lapse_place(txn: &mut Txn<'_>, key: &[u8], now: Timestamp) -> Stepped<Option<Timestamp>> {
    let Some(until) = view::get(txn.table(), key, deadline_of)? else { return Ok(None) };
    if until > now {
        return Ok(Some(until));
    }
    let mut rest = Cursor(key, "place");
    rest.take(1)?;
    let (owner, task) = (rest.array()?, rest.task()?);
    remove_places(txn, &owner, &[task])?;
    Ok(None)
}

pub(super) fn load(table: &impl Table) -> Stepped<Option<StoredKeyring>> {
    view::get(table, KEYRING_KEY, |bytes| {
        let mut rest = Cursor(bytes, "keyring");
        Ok(StoredKeyring { version: rest.u64()?, document: rest.0.to_vec() })
    })
}

pub(super) fn compare_and_set(
    txn: &mut Txn<'_>,
    expected: Option<u64>,
    document: &[u8],
) -> Stepped<StoredKeyring> {
    let version = match (load(txn.table())?, expected) {
        (None, None) => 1,
        (None, Some(_)) => return Err(StoreError::Damaged("the keyring is gone".to_owned()).into()),
        (Some(stored), Some(expected)) if stored.version == expected => {
            stored.version.checked_add(1).ok_or_else(|| damaged("keyring"))?
        }
        (Some(stored), _) => return Ok(stored),
    };
    txn.put(KEYRING_KEY, &[version.to_be_bytes().as_slice(), document].concat())?;
    Ok(StoredKeyring { version, document: document.to_vec() })
}

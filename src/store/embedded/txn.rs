//! A writing transaction: many steps, one after the other, each on a partition whose history has been proved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use redb::ReadableTable as _;
use taskpass_verifier::ids::{PARTITIONS, Partition, TaskId};
use taskpass_verifier::view::MAX_BOUND;

use super::rows::*;
use super::view::{self, Bytes, Fault, Stepped, View};
use crate::ids::new_generation;
use crate::revoke::feed::HISTORY_MARGIN;
use crate::revoke::history::{Durability, History, Observed, Proof, judge};
use crate::task::TaskRecord;
use crate::task::store::{Position, StoreError};
use crate::time::Timestamp;

const TRIAL_KEY: &[u8] = b"Z";
/// More than all the pages together that an end changes.
const TRIAL: usize = 64 * 1024;

/// What steps need besides the rows.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) durability: Durability,
    pub(super) max_skew: Duration,
    pub(super) clocks: Arc<Clocks>,
    /// A transaction has failed, and none has been committed since.
    pub(super) failing: Arc<AtomicBool>,
}

impl Rules {
    pub(super) fn new(durability: Durability, max_skew: Duration) -> Self {
        Self { durability, max_skew, clocks: Arc::default(), failing: Arc::default() }
    }
}

/// The greatest `now` that each partition was asked to lapse at, as far as this process has seen: time that passed while there was nothing to write.
#[derive(Debug)]
pub(super) struct Clocks(Vec<AtomicU64>);

impl Default for Clocks {
    fn default() -> Self {
        Self((0..PARTITIONS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Clocks {
    pub(super) fn see(&self, partition: Partition, now: Timestamp) {
        if let Some(clock) = self.0.get(usize::from(partition.number())) {
            clock.fetch_max(now.as_millis(), Relaxed);
        }
    }

    /// The later of what was seen and what is stored.
    pub(super) fn latest(&self, partition: Partition, stored: Timestamp) -> Timestamp {
        let clock = self.0.get(usize::from(partition.number())).map_or(0, |clock| clock.load(Relaxed));
        stored.max(Timestamp::from_millis(clock))
    }

    fn correct(&self, partition: Partition, now: Timestamp) {
        if let Some(clock) = self.0.get(usize::from(partition.number())) {
            clock.store(now.as_millis(), Relaxed);
        }
    }
}

/// One transaction on the file. Dropped without [`Self::finish`], nothing has happened.
pub(super) struct Txn<'t> {
    table: redb::Table<'t, Bytes, Bytes>,
    history: &'t History,
    rules: &'t Rules,
    rows: Vec<Option<PartitionRow>>,
    stored: Vec<Option<PartitionRow>>,
    dirty: bool,
}

impl<'t> Txn<'t> {
    pub(super) fn new(table: redb::Table<'t, Bytes, Bytes>, history: &'t History, rules: &'t Rules) -> Self {
        let none = vec![None; usize::from(PARTITIONS)];
        Self { table, history, rules, rows: none.clone(), stored: none, dirty: false }
    }

    /// Writes the partitions' own rows. Returns whether anything was written at all, and the positions to remember once it is committed.
    pub(super) fn finish(mut self) -> Stepped<(bool, Vec<(Partition, Position)>)> {
        let mut positions = Vec::new();
        for (partition, (row, stored)) in Partition::all().zip(self.rows.iter().zip(&self.stored)) {
            let Some(row) = row else { continue };
            positions.push((partition, row.position));
            if Some(row) != stored.as_ref() {
                self.dirty = true;
                self.table.insert(partition_key(partition).as_slice(), row.encode().as_slice())?;
            }
        }
        Ok((self.dirty, positions))
    }

    pub(super) fn table(&self) -> &redb::Table<'t, Bytes, Bytes> {
        &self.table
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Stepped<()> {
        self.dirty = true;
        self.table.insert(key, value)?;
        Ok(())
    }

    /// Whether something was there.
    pub(super) fn remove(&mut self, key: &[u8]) -> Stepped<bool> {
        let there = self.table.remove(key)?.is_some();
        self.dirty |= there;
        Ok(there)
    }

    /// Where the last transaction failed, this one takes as much room as an end, gives it back, and is committed: so it fails for as long as no end can be written.
    pub(super) fn write_if_failing(&mut self) -> Stepped<()> {
        if self.rules.failing.load(Relaxed) {
            self.put(TRIAL_KEY, &[0; TRIAL])?;
            self.remove(TRIAL_KEY)?;
        }
        Ok(())
    }

    fn slot(&mut self, partition: Partition) -> Stepped<&mut Option<PartitionRow>> {
        let slot = self.rows.get_mut(usize::from(partition.number()));
        slot.ok_or_else(|| Fault::File(format!("no partition {partition}")))
    }

    /// Changes a partition's own row, once it is proved.
    pub(super) fn change(
        &mut self,
        partition: Partition,
        how: impl FnOnce(&mut PartitionRow),
    ) -> Stepped<()> {
        let row = self.slot(partition)?.as_mut();
        how(row.ok_or_else(|| Fault::File(format!("partition {partition} is not proved")))?);
        Ok(())
    }

    /// Proves that the partition's history is the one that is remembered, and lets a new generation begin where that cannot be shown, or where there is no history
    /// yet. Once per transaction.
    pub(super) fn prove(&mut self, partition: Partition, now: Timestamp) -> Stepped<PartitionRow> {
        if let Some(row) = *self.slot(partition)? {
            return Ok(row);
        }
        let stored = view::partition_row(&self.table, partition)?;
        let known = self.history.remembered(partition);
        if let Some(slot) = self.stored.get_mut(usize::from(partition.number())) {
            *slot = stored;
        }
        let observed = match stored {
            None => None,
            Some(row) => Some(Observed {
                present: row.position,
                chain_at_remembered: match known {
                    Some(known) if known != row.position => {
                        view::chain_at(&self.table, partition, known.seq)?
                    }
                    _ => None,
                },
            }),
        };
        match (stored, judge(known, observed, self.rules.durability)) {
            (Some(row), Proof::Covered) => {
                *self.slot(partition)? = Some(row);
                Ok(row)
            }
            (stored, _) => self.grow_from(partition, stored, known, now),
        }
    }

    /// Lets a new generation begin: every task of the partition ends.
    pub(super) fn grow(&mut self, partition: Partition, now: Timestamp) -> Stepped<()> {
        let row = self.prove(partition, now)?;
        self.grow_from(partition, Some(row), self.history.remembered(partition), now).map(drop)
    }

    /// Lets a new generation begin unless the history covers what was known once. Whether one did.
    pub(super) fn hold_against(
        &mut self,
        partition: Partition,
        known: Position,
        now: Timestamp,
    ) -> Stepped<bool> {
        let row = self.prove(partition, now)?;
        let chain_at_remembered = view::chain_at(&self.table, partition, known.seq)?;
        let observed = Observed { present: row.position, chain_at_remembered };
        if judge(Some(known), Some(observed), self.rules.durability) == Proof::Covered {
            return Ok(false);
        }
        self.grow_from(partition, Some(row), Some(known), now).map(|_| true)
    }

    fn grow_from(
        &mut self,
        partition: Partition,
        present: Option<PartitionRow>,
        known: Option<Position>,
        now: Timestamp,
    ) -> Stepped<PartitionRow> {
        let (known_generation, known_seq) =
            known.map_or((None, 0), |known| (Some(known.generation), known.seq));
        let before = present.map(|row| row.position);
        let after = known_generation.max(before.map(|position| position.generation));
        let random = |_| StoreError::Unavailable("the system's random source failed".to_owned());
        let generation = new_generation(now, after).map_err(random)?;
        let seq = known_seq.max(before.map_or(0, |position| position.seq));
        let chain = before.map_or([0; 20], |position| position.chain);
        // Everything that the partition ever knew ends here; so a `now` that ran far ahead of all clocks may be corrected, too.
        let earlier = self.rules.clocks.latest(partition, present.map_or(now, |row| row.now));
        let ahead = earlier.since(now) > self.rules.max_skew;
        if ahead {
            self.rules.clocks.correct(partition, now);
        }
        let row = PartitionRow {
            position: Position { generation, seq, chain },
            now: if ahead { now } else { earlier.max(now) },
            horizon: present.map_or(now, |row| row.horizon),
            fences: present.map_or(0, |row| row.fences),
        };
        *self.slot(partition)? = Some(row);
        // Receipts have to see it for as long as a follower whose registration was lost may be open.
        let over = row.horizon.max(now.saturating_add(MAX_BOUND));
        self.enter_history(partition, &Entry::Generation { new: generation, at: now }, over)?;
        self.prove(partition, now)
    }

    /// The first thing that a writing step does: proves the partition, and moves its time. Returns the moment to work with.
    pub(super) fn enter(&mut self, partition: Partition, now: Timestamp) -> Stepped<Timestamp> {
        let now = self.judge_clock(partition, now)?;
        self.change(partition, |row| row.now = now)?;
        Ok(now)
    }

    /// Proves the partition and refuses a clock that is too far behind; leaves no time.
    pub(super) fn judge_clock(&mut self, partition: Partition, now: Timestamp) -> Stepped<Timestamp> {
        let row = self.prove(partition, now)?;
        let seen = self.rules.clocks.latest(partition, row.now);
        check_skew(seen, now, self.rules.max_skew)?;
        Ok(now.max(seen))
    }

    /// What a step sees after [`Self::enter`].
    pub(super) fn view(
        &self,
        partition: Partition,
        now: Timestamp,
    ) -> Stepped<View<'_, redb::Table<'t, Bytes, Bytes>>> {
        let row = self.rows.get(usize::from(partition.number())).copied().flatten();
        let row = row.ok_or_else(|| Fault::File(format!("partition {partition} is not proved")))?;
        Ok(View { table: &self.table, partition, row, now })
    }

    /// Adds an entry to the partition's history, to be kept until nothing of what it has ended lives any more (`over`) and [`HISTORY_MARGIN`] longer, and returns its position.
    pub(super) fn enter_history(
        &mut self,
        partition: Partition,
        entry: &Entry<'_>,
        over: Timestamp,
    ) -> Stepped<Position> {
        let mut position = self
            .slot(partition)?
            .map(|row| row.position)
            .ok_or_else(|| Fault::File(format!("partition {partition} is not proved")))?;
        let entry = entry.encode();
        position.seq = position.seq.saturating_add(1);
        position.chain = truncated(&[&position.chain, &position.seq.to_be_bytes(), &entry]);
        let key = history_key(partition, position.seq);
        let forget_at = over.saturating_add(HISTORY_MARGIN);
        let times = forget_at.as_millis().to_be_bytes();
        self.put(&key, &[position.chain.as_slice(), &times, &entry].concat())?;
        self.put(&expiry_key(partition, forget_at, &key), &[])?;
        self.change(partition, |row| row.position = position)?;
        Ok(position)
    }

    /// Stores a task, whose record before this was `old`, with what leads to it.
    pub(super) fn put_task(&mut self, id: TaskId, old: Option<&TaskRecord>, new: &TaskRecord) -> Stepped<()> {
        let bytes = new.encode().map_err(|damage| StoreError::Damaged(format!("task {id}: {damage}")))?;
        self.put(&task_key(id), &bytes)?;
        let (before, after) = (old.map(due_at), due_at(new));
        if before != Some(after) {
            if let Some(before) = before {
                self.remove(&due_key(id.partition(), before, id))?;
            }
            self.put(&due_key(id.partition(), after, id), &[])?;
        }
        let horizon = new.head.deadline;
        self.change(id.partition(), |row| row.horizon = row.horizon.max(horizon))
    }

    /// Makes room for a task under an id that may have been used before: what is left of that one must not become the new one's.
    pub(super) fn clear_task(&mut self, id: TaskId) -> Stepped<()> {
        if let Some(leftover) = view::task(&self.table, id)? {
            self.forget_task(id, &leftover)?;
        }
        let chunks: Vec<Key> = {
            let (first, last) = (chunk_key(id, 0), chunk_key(id, u32::MAX));
            let rows = self.table.range(first.as_slice()..=last.as_slice())?;
            rows.map(|row| row.map(|(key, _)| key.value().to_vec())).collect::<Result<_, _>>()?
        };
        chunks.iter().try_for_each(|key| self.remove(key).map(drop))
    }

    /// Removes a task and what leads to it; its credentials go by themselves.
    pub(super) fn forget_task(&mut self, id: TaskId, record: &TaskRecord) -> Stepped<()> {
        self.remove(&task_key(id))?;
        self.remove(&due_key(id.partition(), due_at(record), id))?;
        self.remove(&owner_key(&owner_hash(&record.owner), id)).map(drop)
    }
}

/// When somebody has to look at the task again: to write its end, or to forget it.
pub(super) fn due_at(record: &TaskRecord) -> Timestamp {
    if record.head.end.is_some() { record.head.readable_until } else { record.head.deadline }
}

/// A clock that is so far behind what the partition has seen must be wrong.
pub(super) fn check_skew(seen: Timestamp, now: Timestamp, max_skew: Duration) -> Result<(), StoreError> {
    let behind = seen.since(now);
    if behind > max_skew { Err(StoreError::ClockSkew(behind)) } else { Ok(()) }
}

//! What is known of one partition.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem::size_of;
use std::time::Duration;

use super::entry::{Closed, Delta, Entry, FenceTarget, Position, Snapshot};
use crate::ids::{CredentialId, TaskId};
use crate::keyset::KeyId;
use crate::moment::Moment;
use crate::refusal::Refusal;
use crate::time::UnixSeconds;

/// How far the clocks of brokers may be apart, in milliseconds: no store takes a step of one that is further from its own than half of this.
const CLOCKS_APART: u64 = 10_000;

/// Where a fence stands, and for how long it is remembered.
#[derive(Clone, Copy)]
struct Fence {
    cut: u64,
    raised_at: u64,
    forget_at: UnixSeconds,
}

#[derive(Default)]
pub(super) struct Known {
    /// Where in the history this is; none before the first snapshot. It stays while the partition is closed, so that nothing older opens it.
    position: Option<Position>,
    closed: Option<Closed>,
    /// When the beat was sent that the newest heartbeat names.
    fresh_from: Option<Moment>,
    /// The bound that held then: a greater one that comes later makes nothing fresh again.
    fresh_for: Duration,
    tasks: HashMap<TaskId, UnixSeconds>,
    credentials: HashMap<CredentialId, UnixSeconds>,
    fences: HashMap<FenceTarget, Fence>,
    /// They outlive generations: with a stolen key somebody signs for any.
    keys: HashMap<KeyId, UnixSeconds>,
    /// Nothing may be forgotten before this.
    next_forget: Option<UnixSeconds>,
}

impl Known {
    pub(super) const fn position(&self) -> Option<Position> {
        self.position
    }

    pub(super) const fn fresh_from(&self) -> Option<Moment> {
        self.fresh_from
    }

    /// The first closing stays the reason.
    pub(super) fn close(&mut self, why: Closed) -> Closed {
        *self.closed.get_or_insert(why)
    }

    /// Takes what a snapshot says, and opens. What is known already stays until its time: an end that a snapshot lacks has ended all the same.
    pub(super) fn replace(&mut self, snapshot: &Snapshot<'_>, room: usize) -> Result<(), Closed> {
        let position = snapshot.position;
        if self.position.is_some_and(|known| position.is_before(&known) || position.forks_from(&known)) {
            // Whatever closed it first, this is what keeps it closed.
            self.closed = Some(Closed::Rollback);
            return Err(Closed::Rollback);
        }
        if self.position.is_some_and(|known| known.generation < position.generation) {
            self.fences.clear();
        }
        self.position = Some(position);
        self.closed = None;
        self.take(snapshot.entries.iter().filter(|entry| !matches!(entry, Entry::Generation { .. })), room)
    }

    /// Takes what a delta says, all of it or nothing.
    pub(super) fn apply(&mut self, delta: &Delta<'_>, room: usize) -> Result<(), Closed> {
        if let Some(closed) = self.closed {
            return Err(closed);
        }
        if let Err(why) = self.judge(delta) {
            return Err(self.close(why));
        }
        self.position = Some(delta.to);
        self.take(delta.entries.iter().map(|(_, entry)| entry), room)
    }

    /// Whether the delta continues exactly what is known, and is sound in itself.
    fn judge(&self, delta: &Delta<'_>) -> Result<(), Closed> {
        let known = self.position.ok_or(Closed::Gap)?;
        if delta.from.is_before(&known) || delta.from.forks_from(&known) {
            return Err(Closed::Rollback);
        }
        if delta.from != known {
            return Err(Closed::Gap);
        }
        let (mut seq, mut generation) = (known.seq, known.generation);
        for (at, entry) in delta.entries {
            if *at <= seq || *at > delta.to.seq {
                return Err(Closed::Gap);
            }
            seq = *at;
            if let Entry::Generation { new } = entry {
                if *new <= generation {
                    return Err(Closed::Rollback);
                }
                generation = *new;
            }
        }
        if delta.to.forks_from(&known) {
            return Err(Closed::Rollback);
        }
        if delta.to.generation == generation && delta.to.seq >= seq { Ok(()) } else { Err(Closed::Gap) }
    }

    fn take<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>, room: usize) -> Result<(), Closed> {
        for entry in entries {
            let forget_at = match *entry {
                Entry::TaskEnded { task, forget_at } => keep(&mut self.tasks, task, forget_at),
                Entry::CredentialRevoked { id, forget_at } => keep(&mut self.credentials, id, forget_at),
                Entry::Fence { target, cut, raised_at, forget_at } => {
                    let fence = self.fences.entry(target).or_insert(Fence { cut, raised_at, forget_at });
                    fence.cut = fence.cut.max(cut);
                    fence.raised_at = fence.raised_at.max(raised_at);
                    fence.forget_at = fence.forget_at.max(forget_at);
                    forget_at
                }
                Entry::KeyFenced { key, forget_at } => keep(&mut self.keys, key, forget_at),
                Entry::Generation { .. } => {
                    // Cuts are sequences of their generation, and all that began in it is void.
                    self.fences.clear();
                    continue;
                }
            };
            self.next_forget = Some(self.next_forget.map_or(forget_at, |next| next.min(forget_at)));
            if self.len() > room {
                return Err(self.close(Closed::Overflow));
            }
        }
        Ok(())
    }

    /// Whether it was taken: it is not if the position lies beyond what is known, for then something is still to come, nor if it is of an older generation.
    pub(super) fn heard(&mut self, position: &Position, sent: Moment, bound: Duration) -> bool {
        let Some(known) = self.position else { return false };
        if position.forks_from(&known) {
            self.close(Closed::Rollback);
        }
        if self.closed.is_some() || position.generation != known.generation || known.seq < position.seq {
            return false;
        }
        if self.fresh_from.is_none_or(|newest| newest <= sent) {
            (self.fresh_from, self.fresh_for) = (Some(sent), bound);
        }
        true
    }

    /// Why everything here is refused, if so: what is heard last counts from when its beat was sent, and a moment that lies as far before it is no
    /// better, for then the clock has run back.
    pub(super) fn state(&self, at: Moment, bound: Option<Duration>) -> Result<(), Refusal> {
        if let Some(closed) = self.closed {
            return Err(closed.into());
        }
        let (Some(_), Some(fresh_from), Some(bound)) = (self.position, self.fresh_from, bound) else {
            return Err(Refusal::NeverSynchronised);
        };
        if at.distance(fresh_from) <= bound.min(self.fresh_for) { Ok(()) } else { Err(Refusal::Stale) }
    }

    pub(super) fn has_ended(&self, task: &TaskId) -> bool {
        self.tasks.contains_key(task)
    }

    pub(super) fn has_revoked(&self, credential: &CredentialId) -> bool {
        !self.credentials.is_empty() && self.credentials.contains_key(credential)
    }

    pub(super) fn has_fenced_key(&self, key: &KeyId) -> bool {
        !self.keys.is_empty() && self.keys.contains_key(key)
    }

    /// Whether a fence stands on the target that cuts off a task that began at this sequence; without a sequence, one whose id was made before the fence was raised, or so shortly after that
    /// clocks that run apart may hide it.
    pub(super) fn has_fenced(&self, target: &FenceTarget, task: &TaskId, began_seq: Option<u64>) -> bool {
        if self.fences.is_empty() {
            return false;
        }
        let Some(fence) = self.fences.get(target) else { return false };
        match began_seq {
            Some(began_seq) => began_seq < fence.cut,
            None => task.unix_millis() <= fence.raised_at.saturating_add(CLOCKS_APART),
        }
    }

    pub(super) fn forget(&mut self, now: UnixSeconds) {
        if self.next_forget.is_none_or(|next| next > now) {
            return;
        }
        retain(&mut self.tasks, |forget_at| *forget_at > now);
        retain(&mut self.credentials, |forget_at| *forget_at > now);
        retain(&mut self.fences, |fence| fence.forget_at > now);
        retain(&mut self.keys, |forget_at| *forget_at > now);
        let ends = self.tasks.values().chain(self.credentials.values()).chain(self.keys.values()).copied();
        self.next_forget = ends.chain(self.fences.values().map(|fence| fence.forget_at)).min();
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len() + self.credentials.len() + self.fences.len() + self.keys.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let ends = table_bytes(&self.tasks) + table_bytes(&self.credentials);
        ends + table_bytes(&self.fences) + table_bytes(&self.keys)
    }
}

fn keep<K: Eq + Hash>(ends: &mut HashMap<K, UnixSeconds>, key: K, forget_at: UnixSeconds) -> UnixSeconds {
    let known = ends.entry(key).or_insert(forget_at);
    *known = forget_at.max(*known);
    forget_at
}

/// Gives memory back once three quarters are empty.
fn retain<K: Eq + Hash, V>(map: &mut HashMap<K, V>, keep: impl Fn(&V) -> bool) {
    map.retain(|_, value| keep(value));
    if map.capacity() / 4 > map.len() {
        map.shrink_to(map.len() * 2);
    }
}

/// What a table takes, from outside: its slots are a power of two of which seven eighths may be filled, with a byte of control each.
fn table_bytes<K, V>(map: &HashMap<K, V>) -> usize {
    if map.capacity() == 0 {
        return 0;
    }
    let slots = (map.capacity() * 8).div_ceil(7).next_power_of_two();
    slots * (size_of::<(K, V)>() + 1) + 16
}

impl From<Closed> for Refusal {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Gap => Self::FeedGap,
            Closed::Rollback => Self::FeedRolledBack,
            Closed::BadSignature => Self::FeedBadSignature,
            Closed::Overflow => Self::FeedOverflow,
        }
    }
}

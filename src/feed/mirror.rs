//! The unexpired part of each partition's history, as this broker has read it.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use taskpass_verifier::ids::{CredentialId, Generation, PARTITIONS, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;

use crate::revoke::feed::{FeedEntry, Happened};
use crate::revoke::fence::FenceTarget;
use crate::task::store::Position;
use crate::time::Timestamp;

/// Whom an entry concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Everybody: a fence, a generation, or a task that is no longer known.
    All,
    /// The audiences that the task has grants for.
    Audiences(Arc<[Arc<str>]>),
    /// The audiences of a trust domain: those that take tokens under its keys.
    TrustDomain(Arc<str>),
}

impl Concern {
    /// Whether those who verify for `audience`, which is one of the trust domain, are told. Where the trust domain is not known they are: one too many is no harm.
    pub fn covers(&self, audience: &str, trust_domain: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Audiences(audiences) => audiences.iter().any(|one| &**one == audience),
            Self::TrustDomain(name) => trust_domain.is_none_or(|of| of == &**name),
        }
    }
}

/// An entry, and whom it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// As read.
    pub entry: FeedEntry,
    /// Whom to tell.
    pub concern: Concern,
    /// From then on nobody need be told: nothing that it has ended could still be accepted. Never later than the entry's own time, by which it goes from the store.
    pub forget_at: Timestamp,
}

/// A partition as far as it was read.
#[derive(Debug, Default)]
struct Part {
    position: Option<Position>,
    items: VecDeque<Item>,
    /// Of what the items tell.
    tasks: HashSet<TaskId>,
    credentials: HashSet<CredentialId>,
    keys: HashSet<KeyId>,
}

/// Whether a new generation leaves it as it is: what is refused for its generation alone is not what somebody signs with a key that was stolen.
fn outlives_generations(item: &Item) -> bool {
    matches!(item.entry.what, Happened::Fence(FenceTarget::Key(_)))
}

impl Part {
    fn clear(&mut self) {
        *self = Self { position: self.position, ..Self::default() };
    }

    fn add(&mut self, item: Item) {
        match item.entry.what {
            // Whatever was before it is refused by the generation alone, but for keys.
            Happened::Generation => {
                let kept = std::mem::take(&mut self.items);
                self.clear();
                kept.into_iter().filter(outlives_generations).for_each(|item| self.add(item));
            }
            Happened::TaskEnded(task) => drop(self.tasks.insert(task)),
            Happened::CredentialRevoked(credential) => drop(self.credentials.insert(credential)),
            Happened::Fence(FenceTarget::Key(key)) => drop(self.keys.insert(key)),
            Happened::Fence(_) => {}
        }
        self.items.push_back(item);
    }

    fn trim(&mut self, now: Timestamp) {
        let before = self.items.len();
        self.items.retain(|item| item.forget_at > now);
        if self.items.len() == before {
            return;
        }
        let kept = std::mem::take(&mut self.items);
        self.clear();
        kept.into_iter().for_each(|item| self.add(item));
    }
}

/// How far somebody has come in a partition. A later generation is further, whatever its sequence: it refuses all that is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent {
    /// Of the partition.
    pub generation: Generation,
    /// Up to and with this entry.
    pub seq: u64,
}

impl From<Position> for Sent {
    fn from(position: Position) -> Self {
        Self { generation: position.generation, seq: position.seq }
    }
}

/// What a follower has still to be told of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Due {
    #[default]
    Nothing,
    /// It knows nothing of the partition, or what it knows is no part of this history.
    Snapshot { now: Position, entries: Vec<Item>, more: bool },
    /// What happened since.
    Delta { now: Position, entries: Vec<Item> },
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Mirror {
    parts: Vec<RwLock<Part>>,
    /// How often each part was changed: whoever has gone through it since need not look again.
    changes: Vec<AtomicU64>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            parts: (0..PARTITIONS).map(|_| RwLock::default()).collect(),
            changes: (0..PARTITIONS).map(|_| AtomicU64::new(1)).collect(),
        }
    }
}

impl Mirror {
    /// How far a partition has been read.
    pub(super) fn position(&self, partition: Partition) -> Option<Position> {
        self.with(partition, |part| part.position)
    }

    /// Counts the changes of a partition, never 0. Read before the partition is, it tells later whether there may be more to say of it.
    pub(super) fn changes(&self, partition: Partition) -> u64 {
        let changes = self.changes.get(usize::from(partition.number()));
        changes.map_or(0, |changes| changes.load(Ordering::Acquire))
    }

    /// Takes what was read after the present position. A position that does not follow on it (another history, or a lower one of the same) makes the partition begin
    /// anew with these items.
    pub(super) fn take(&self, partition: Partition, position: Position, items: Vec<Item>) {
        self.with_mut(partition, |part| {
            if part.position.is_some_and(|known| !follows(&known, &position)) {
                part.clear();
            }
            part.position = Some(position);
            items.into_iter().for_each(|item| part.add(item));
        });
    }

    /// The partition has to be read from its beginning.
    pub(super) fn forget(&self, partition: Partition) {
        self.with_mut(partition, |part| *part = Part::default());
    }

    /// Lets go of entries whose time is over.
    pub(super) fn trim(&self, now: Timestamp) {
        for partition in Partition::all() {
            self.with_mut(partition, |part| part.trim(now));
        }
    }

    /// Whether it has told of the end of a task, or of one of its ancestors, or of the credential itself.
    pub(super) fn speaks_against(&self, credential: &CredentialId, ancestors: &[TaskId]) -> bool {
        self.with(credential.task.partition(), |part| {
            part.tasks.contains(&credential.task)
                || ancestors.iter().any(|task| part.tasks.contains(task))
                || part.credentials.contains(credential)
        })
    }

    /// Whether it has told of a fence of the key in a partition.
    pub(super) fn has_fenced(&self, partition: Partition, key: &KeyId) -> bool {
        self.with(partition, |part| part.keys.contains(key))
    }

    /// The last place of this history at which the partition's followers were told what has happened: the entry itself, or a new generation, which says as much. `None` if nobody has to
    /// be told any more.
    pub(super) fn place_of(&self, partition: Partition, what: &Happened) -> Option<Sent> {
        self.with(partition, |part| {
            let generation = part.position?.generation;
            let says_so = |item: &&Item| item.entry.what == *what || item.entry.what == Happened::Generation;
            let item = part.items.iter().rev().find(says_so)?;
            Some(Sent { generation, seq: item.entry.seq })
        })
    }

    /// How many entries are kept.
    pub(super) fn len(&self) -> usize {
        Partition::all().map(|partition| self.with(partition, |part| part.items.len())).sum()
    }

    /// What a follower of `audience`, one of the trust domain, has to be told, at most `most` entries. `resume`: a snapshot of this partition that was cut off after this sequence.
    pub(super) fn due(
        &self,
        partition: Partition,
        sent: Option<Sent>,
        resume: Option<Sent>,
        (audience, trust_domain): (&str, &str),
        most: usize,
    ) -> Due {
        self.with(partition, |part| {
            let Some(position) = part.position else { return Due::Nothing };
            let of_this = |sent: &Sent| sent.generation == position.generation && sent.seq <= position.seq;
            // What was told of another generation is no part of this one.
            let (known, resume) = (sent.filter(of_this), resume.filter(of_this));
            if resume.is_none() && known.is_some_and(|known| known.seq == position.seq) {
                return Due::Nothing;
            }
            let after = resume.or(known).map_or(0, |known| known.seq);
            // Entries are in order of their sequence.
            let first = part.items.partition_point(|item| item.entry.seq <= after);
            let wanted = part
                .items
                .iter()
                .skip(first)
                .filter(|item| item.concern.covers(audience, Some(trust_domain)));
            let mut entries: Vec<_> = wanted.take(most.saturating_add(1)).cloned().collect();
            let more = entries.len() > most;
            entries.truncate(most);
            let now = match entries.last() {
                Some(Item { entry, .. }) if more => {
                    Position { seq: entry.seq, chain: entry.chain, ..position }
                }
                _ => position,
            };
            match resume.is_none() && known.is_some() {
                true => Due::Delta { now, entries },
                false => Due::Snapshot { now, entries, more },
            }
        })
    }

    fn with<T: Default>(&self, partition: Partition, look: impl FnOnce(&Part) -> T) -> T {
        let Some(part) = self.parts.get(usize::from(partition.number())) else { return T::default() };
        look(&part.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_mut(&self, partition: Partition, change: impl FnOnce(&mut Part)) {
        if let Some(part) = self.parts.get(usize::from(partition.number())) {
            let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
            change(&mut part);
            // While it is locked: whoever sees the new count sees the change.
            if let Some(changes) = self.changes.get(usize::from(partition.number())) {
                changes.fetch_add(1, Ordering::Release);
            }
        }
    }
}

/// Whether `later` is, or may be, a later place of the same history.
fn follows(known: &Position, later: &Position) -> bool {
    known.generation <= later.generation
        && (known.seq < later.seq || (known.seq == later.seq && known.chain == later.chain))
}

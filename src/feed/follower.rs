//! The sending half of a stream: what its follower has been told, and has still to be told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use taskpass_verifier::ids::{Generation, PARTITIONS, Partition};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::hub::{Hub, Look};
use super::mirror::{Due, Item, Sent};
use super::stream::{Reader, Shared};
use crate::task::store::Position;
use crate::time::Timestamp;

/// Entries in one frame.
const MOST_ENTRIES: usize = 256;
/// About what a frame takes, and an entry in it.
const FRAME_BYTES: usize = 300;
const ENTRY_BYTES: usize = 48;
/// A heartbeat is sent at a look if this share of the bound has gone by since the last one.
const HEARTBEATS_IN_A_BOUND: u32 = 5;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A partition as it stands.
    Snapshot {
        /// Which.
        partition: Partition,
        /// Its generation.
        generation: Generation,
        /// Up to where this part goes.
        seq: u64,
        /// The digest of the partition's history up to there.
        chain: [u8; 20],
        /// What is not yet to be forgotten, as far as it concerns the audience.
        entries: Vec<Item>,
        /// Another part of it follows.
        more: bool,
    },
    /// What happened in a partition since.
    Delta {
        /// Which.
        partition: Partition,
        /// Its generation.
        generation: Generation,
        /// After this sequence: where the last message about the partition ended.
        from: u64,
        /// Up to and with this one.
        to: u64,
        /// The digest of the partition's history up to there.
        chain: [u8; 20],
        /// As far as it concerns the audience.
        entries: Vec<Item>,
    },
    /// The follower is fresh, from when it sent the beat.
    Heartbeat {
        /// The newest that had come before the look; 0 if none.
        beat: u64,
        /// The broker's clock at the look.
        time: Timestamp,
        /// After how long without news the follower refuses.
        bound: Duration,
        /// Bit n: it holds for partition n.
        partitions: u64,
    },
    /// The issuer's key set.
    KeySet {
        /// Grows with each change.
        epoch: u64,
        /// `iss`.
        issuer: String,
        /// RFC 7517.
        jwks: String,
    },
}

/// One message to a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Of the stream, from 1, without a gap.
    pub sequence: u64,
    /// What it says.
    pub content: Content,
}

/// The sending half. Dropping it ends the stream.
pub struct Following {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    looks: watch::Receiver<Look>,
    look: Look,
    opening: VecDeque<Content>,
    /// How far each partition was gone through.
    seen: Vec<Option<Sent>>,
    /// The changes of the mirror, by which there was nothing left to say of each.
    done: Vec<u64>,
    /// Up to which entry of each the follower was told: less, where nothing since concerned it.
    told: Vec<u64>,
    /// A snapshot that was cut off.
    resume: Option<(Partition, Sent)>,
    /// Partitions to go through before the next heartbeat.
    to_do: VecDeque<Partition>,
    heartbeat: Option<Kept>,
    sequence: u64,
}

/// What the last heartbeat has kept fresh.
struct Kept {
    /// When the look began that it rests on.
    look: Instant,
    partitions: u64,
    /// 0: it named none, and kept nobody fresh.
    beat: u64,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.hub.left(self.shared.id);
    }
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Following({} by {} for {})", self.shared.id, self.shared.follower, self.shared.audience)
    }
}

/// What a frame takes, about.
fn about_bytes(content: &Content) -> usize {
    FRAME_BYTES
        + match content {
            Content::Snapshot { entries, .. } | Content::Delta { entries, .. } => entries.len() * ENTRY_BYTES,
            Content::KeySet { jwks, .. } => jwks.len(),
            Content::Heartbeat { .. } => 0,
        }
}

impl Following {
    pub(super) fn new(hub: Arc<Hub>, shared: Arc<Shared>, mut looks: watch::Receiver<Look>) -> Self {
        let look = *looks.borrow_and_update();
        Self {
            hub,
            shared,
            looks,
            look,
            opening: VecDeque::new(),
            seen: vec![None; usize::from(PARTITIONS)],
            done: vec![0; usize::from(PARTITIONS)],
            told: vec![0; usize::from(PARTITIONS)],
            resume: None,
            to_do: Partition::all().collect(),
            heartbeat: None,
            sequence: 0,
        }
    }

    /// Nothing of what was seen before this is told.
    pub(super) fn registered(mut self) -> Self {
        self.look = *self.looks.borrow_and_update();
        self
    }

    /// What is to be said before anything else.
    pub fn open_with(&mut self, content: Content) {
        self.opening.push_back(content);
    }

    /// The stream's id.
    pub fn id(&self) -> Uuid {
        self.shared.id
    }

    /// After how long without news it refuses.
    pub fn bound(&self) -> Duration {
        self.shared.bound
    }

    /// For whom it follows.
    pub fn audience(&self) -> &Arc<str> {
        &self.shared.audience
    }

    /// For what the follower says.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.hub), Arc::clone(&self.shared))
    }

    /// The next frame; waits until there is something to say. `None`: the follower acknowledges nothing, has not read for too long, or the hub is gone.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            self.shared.takes().then_some(())?;
            self.shared.has_room().await.then_some(())?;
            if let Some(content) = self.due() {
                self.sequence += 1;
                return self.note(&content).then_some(Frame { sequence: self.sequence, content });
            }
            self.looks.changed().await.ok()?;
            self.look = *self.looks.borrow_and_update();
            self.to_do = Partition::all().collect();
        }
    }

    fn due(&mut self) -> Option<Content> {
        if let Some(opening) = self.opening.pop_front() {
            return Some(opening);
        }
        while let Some(partition) = self.to_do.front().copied() {
            let place = usize::from(partition.number());
            let changes = self.hub.mirror.changes(partition);
            if self.done.get(place) != Some(&changes) {
                if let Some(content) = self.due_of(partition) {
                    return Some(content);
                }
                if let Some(done) = self.done.get_mut(place) {
                    *done = changes;
                }
            }
            // A snapshot that cannot go on, for its partition is being read anew, begins anew at a later look.
            self.resume = None;
            self.to_do.pop_front();
        }
        self.heartbeat()
    }

    fn due_of(&mut self, partition: Partition) -> Option<Content> {
        let place = usize::from(partition.number());
        let resume = self.resume.filter(|(of, _)| *of == partition).map(|(_, told)| told);
        let seen = self.seen.get(place).copied().flatten();
        let who = (&*self.shared.audience, &*self.shared.trust_domain);
        let due = self.hub.mirror.due(partition, seen, resume, who, MOST_ENTRIES);
        let now = match &due {
            Due::Nothing => return None,
            Due::Snapshot { now, .. } | Due::Delta { now, .. } => *now,
        };
        let told = self.told.get_mut(place)?;
        let content = match due {
            Due::Snapshot { entries, more, .. } => {
                self.resume = more.then_some((partition, now.into()));
                let Position { generation, seq, chain } = now;
                Some(Content::Snapshot { partition, generation, seq, chain, entries, more })
            }
            Due::Delta { entries, .. } if !entries.is_empty() => {
                let (Position { generation, seq: to, chain }, from) = (now, *told);
                Some(Content::Delta { partition, generation, from, to, chain, entries })
            }
            _ => None,
        };
        if self.resume.is_none() {
            if content.is_some() {
                *told = now.seq;
            }
            if let Some(seen) = self.seen.get_mut(place) {
                *seen = Some(now.into());
            }
        }
        content
    }

    /// After everything else of this look.
    fn heartbeat(&mut self) -> Option<Content> {
        let Look { began, time, partitions: looked_at, .. } = self.look;
        let beat = self.shared.beat_before(began);
        // The next one, or one that may open what the last one did not.
        let is_time = match &self.heartbeat {
            None => true,
            Some(last) if last.look >= began => return None,
            Some(last) => {
                let at_last = began - last.look >= self.shared.bound / HEARTBEATS_IN_A_BOUND;
                at_last || (last.beat == 0 && beat != 0)
            }
        };
        let kept = self.heartbeat.as_ref().map_or(0, |last| last.partitions);
        if !is_time && looked_at & !kept == 0 {
            return None;
        }
        let partitions =
            if self.shared.outlives(began, time) { looked_at & self.told_partitions() } else { 0 };
        if !is_time && partitions & !kept == 0 {
            return None;
        }
        self.heartbeat = Some(Kept { look: began, partitions, beat });
        Some(Content::Heartbeat { beat, time, bound: self.shared.bound, partitions })
    }

    /// The partitions whose present generation the follower knows of: no other is kept fresh.
    fn told_partitions(&self) -> u64 {
        let told = |partition: &Partition| {
            let seen = self.seen.get(usize::from(partition.number())).copied().flatten();
            let now = self.hub.mirror.position(*partition);
            seen.zip(now).is_some_and(|(seen, now)| seen.generation == now.generation)
        };
        Partition::all().filter(told).fold(0, |bits, partition| bits | 1 << partition.number())
    }

    /// Remembers what is told. False: too much is not acknowledged.
    fn note(&self, content: &Content) -> bool {
        let upto = match content {
            Content::Heartbeat { .. } => return true,
            Content::Snapshot { partition, generation, seq, more: false, .. }
            | Content::Delta { partition, generation, to: seq, .. } => {
                Some((*partition, Sent { generation: *generation, seq: *seq }))
            }
            Content::Snapshot { .. } | Content::KeySet { .. } => None,
        };
        self.shared.is_told(self.sequence, upto, about_bytes(content))
    }
}

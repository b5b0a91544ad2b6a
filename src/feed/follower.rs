//! One stream: what its follower has been told, has acknowledged, and has still to be told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use taskpass_verifier::ids::{Generation, PARTITIONS, Partition};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::hub::{CLOCKS_APART, Hub, Look, REGISTRATION_SLACK};
use super::mirror::{Due, Item, Sent};
use crate::task::store::Position;
use crate::time::Timestamp;

/// Entries in one frame.
const MOST_ENTRIES: usize = 256;
/// Frames that may wait for their acknowledgement; a follower that reads on without acknowledging is let go.
const MOST_UNACKNOWLEDGED: usize = 4_096;
/// A follower that takes or acknowledges nothing for longer than its bound, or this if it is more, is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of which so much room is kept when all are acknowledged.
const AT_REST: usize = 4;
/// Beats that are remembered: more than one that keeps the pace has under way.
const BEATS: usize = 16;
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

/// What both halves of a stream and the hub know of it.
pub(super) struct Shared {
    pub(super) id: Uuid,
    pub(super) follower: String,
    pub(super) audience: Arc<str>,
    /// Of the audience, as it was when the stream began.
    trust_domain: Arc<str>,
    pub(super) bound: Duration,
    heard: Mutex<Heard>,
}

struct Heard {
    /// The newest beats, and when each came.
    beats: VecDeque<(u64, Instant)>,
    /// When it last took a frame, or waited for the next.
    took: Instant,
    /// Frames that are not acknowledged, and how far each goes.
    unacknowledged: VecDeque<(u64, Partition, Sent)>,
    /// Since when it has acknowledged none of these.
    waited_for: Instant,
    /// It does not answer: nothing is told to it any more.
    given_up: bool,
    /// When its registration was last renewed.
    registered: Option<Instant>,
    /// When it ended.
    left: Option<Instant>,
}

impl Shared {
    pub(super) fn new(
        id: Uuid,
        follower: String,
        audience: Arc<str>,
        trust_domain: Arc<str>,
        bound: Duration,
    ) -> Self {
        let now = Instant::now();
        let heard = Heard {
            beats: VecDeque::new(),
            took: now,
            unacknowledged: VecDeque::new(),
            waited_for: now,
            given_up: false,
            registered: None,
            left: None,
        };
        Self { id, follower, audience, trust_domain, bound, heard: Mutex::new(heard) }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its registration was renewed at this moment.
    pub(super) fn is_registered(&self, at: Instant) {
        self.heard().registered = Some(at);
    }

    /// Its registration may have been lost.
    pub(super) fn is_unregistered(&self) {
        self.heard().registered = None;
    }

    /// It has ended.
    pub(super) fn leave(&self) {
        self.heard().left.get_or_insert_with(Instant::now);
    }

    pub(super) fn has_left(&self) -> bool {
        self.heard().left.is_some()
    }

    /// It wants the next frame; false if it is given up.
    fn takes(&self) -> bool {
        let mut heard = self.heard();
        heard.took = Instant::now();
        !heard.given_up
    }

    /// Whether it is open and there is somebody behind it. One that neither takes what is told nor acknowledges it is given up: nobody waits for it, its registration goes, and
    /// its stream ends as soon as it reads on. `looked`: when the last look began that it could have been told of.
    pub(super) fn answers(&self, looked: Instant) -> bool {
        let patience = self.bound.max(PATIENCE);
        let mut heard = self.heard();
        let is_slow = |since: Instant| looked.saturating_duration_since(since) > patience;
        let stalls = is_slow(heard.took) || (!heard.unacknowledged.is_empty() && is_slow(heard.waited_for));
        if stalls && !heard.given_up && heard.left.is_none() {
            heard.given_up = true;
            tracing::warn!(stream = %self.id, follower = %self.follower, "a follower does not read, or acknowledges nothing: it is given up");
        }
        heard.left.is_none() && !heard.given_up
    }

    /// Whether it has ended so long ago that it is registered no more.
    pub(super) fn is_over(&self) -> bool {
        self.heard().left.is_some_and(|left| left.elapsed() > self.bound + REGISTRATION_SLACK)
    }

    /// Whether its registration outlives what a look of this moment keeps fresh: if not, a receipt could leave out a follower that accepts.
    fn outlives(&self, look: Instant) -> bool {
        let registered = self.heard().registered;
        registered.is_some_and(|at| look.saturating_duration_since(at) < REGISTRATION_SLACK - CLOCKS_APART)
    }

    /// The newest beat that had come by then; 0 if none.
    fn beat_before(&self, moment: Instant) -> u64 {
        self.heard().beats.iter().rev().find(|(_, came)| *came <= moment).map_or(0, |(number, _)| *number)
    }
}

/// The reading half: what the follower says.
#[derive(Clone)]
pub struct Reader {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
}

impl Reader {
    /// A beat came in.
    pub fn beat(&self, number: u64) {
        let mut heard = self.shared.heard();
        if heard.beats.back().is_some_and(|(last, _)| *last >= number) {
            return;
        }
        if heard.beats.len() >= BEATS {
            heard.beats.pop_front();
        }
        let first = heard.beats.is_empty();
        heard.beats.push_back((number, Instant::now()));
        drop(heard);
        if first {
            // A look that began before it keeps nobody fresh: the next one is not waited for.
            self.hub.look_soon();
        }
    }

    /// The follower has applied everything up to this frame. What it was never sent it cannot have applied: that is passed over.
    pub fn acknowledge(&self, sequence: u64) {
        let mut applied = Vec::new();
        {
            let mut heard = self.shared.heard();
            while let Some((_, partition, told)) =
                heard.unacknowledged.pop_front_if(|(frame, ..)| *frame <= sequence)
            {
                applied.push((partition, told));
            }
            if !applied.is_empty() {
                heard.waited_for = Instant::now();
            }
            if heard.unacknowledged.is_empty() {
                heard.unacknowledged.shrink_to(AT_REST);
            }
        }
        if !applied.is_empty() {
            self.hub.acknowledged.applied_here(self.shared.id, &applied, self.hub.clock.now());
        }
    }
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
        Reader { hub: Arc::clone(&self.hub), shared: Arc::clone(&self.shared) }
    }

    /// The next frame; waits until there is something to say. `None`: the follower acknowledges nothing, has not read for too long, or the hub is gone.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            self.shared.takes().then_some(())?;
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
            if let Some(content) = self.due_of(partition) {
                return Some(content);
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
        let Look { began, time, partitions, .. } = self.look;
        let partitions = if self.shared.outlives(began) { partitions & self.told_partitions() } else { 0 };
        let beat = self.shared.beat_before(began);
        let due = match &self.heartbeat {
            None => true,
            Some(last) if last.look >= began => false,
            Some(last) => {
                let opens = partitions & !last.partitions != 0 || (last.beat == 0 && beat != 0);
                opens || began - last.look >= self.shared.bound / HEARTBEATS_IN_A_BOUND
            }
        };
        if !due {
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

    /// Remembers what is to be acknowledged. False: too much is not.
    fn note(&self, content: &Content) -> bool {
        let (partition, generation, seq) = match content {
            Content::Snapshot { partition, generation, seq, more: false, .. } => {
                (*partition, *generation, *seq)
            }
            Content::Delta { partition, generation, to, .. } => (*partition, *generation, *to),
            _ => return true,
        };
        let mut heard = self.shared.heard();
        if heard.unacknowledged.len() >= MOST_UNACKNOWLEDGED {
            return false;
        }
        if heard.unacknowledged.is_empty() {
            heard.waited_for = Instant::now();
        }
        heard.unacknowledged.push_back((self.sequence, partition, Sent { generation, seq }));
        true
    }
}

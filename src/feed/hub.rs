//! One hub for a broker: it looks at the store, keeps the mirror, and knows the followers of this broker.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use taskpass_verifier::ids::{CredentialId, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::follower::Following;
use super::mirror::{Concern, Item, Mirror};
use super::receipt::Acknowledged;
use super::registered::{RENEWAL, too_many};
use super::stream::Shared;
use crate::error::{Error, Reason, Result};
use crate::ids::random;
use crate::revoke::feed::{FeedEntry, FeedStore, Happened};
use crate::revoke::fence::FenceTarget;
use crate::task::store::{Position, StepResult, StoreError};
use crate::time::{Clock, Timestamp};

/// The least and the greatest bound of an audience.
pub const BOUNDS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// How many looks there are in a follower's bound.
const LOOKS_IN_A_BOUND: u32 = 4;
/// A look that takes longer is given up. Followers that it would have kept fresh close.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Entries that are read in one step.
const PAGE: usize = 512;
/// Partitions that are read at a time.
const READ_AT_ONCE: usize = 16;
/// How long a look takes at least, with the pause after it: what ends meanwhile is found by one look.
const LEAST_LOOK: Duration = Duration::from_millis(2);
/// Ends are told for so much longer than anything that they end lives, for clocks run apart.
const FORGET_SLACK: Duration = Duration::from_secs(10);
/// Tasks that are looked up at a time, to know whom their end concerns.
const LOOKED_UP_AT_ONCE: usize = 32;
/// How often entries whose time is over are let go.
const TRIM: Duration = Duration::from_secs(10);

/// Whom the end of a task, or of a key, concerns.
#[async_trait]
pub trait Concerns: Send + Sync {
    /// Its audiences, [`Concern::All`] if the task is not known, or not to be had; and when the last of all that it has minted expires, if that is known.
    async fn of(&self, task: TaskId, now: Timestamp) -> (Concern, Option<Timestamp>);

    /// Whoever may be shown what is signed under a key: the audiences of its trust domain, [`Concern::All`] for a key of the task CA or one that is not known.
    fn of_key(&self, key: &KeyId) -> Concern;

    /// The largest bound that anybody may go by now: of the audiences that are registered, and of those whose bound was lowered a moment ago.
    fn largest_bound(&self) -> Duration;
}

/// What the last look at the store has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Counts looks.
    pub(super) number: u64,
    /// When it began: what was heard before that may be called fresh by it.
    pub(super) began: Instant,
    /// The broker's clock at that moment.
    pub(super) time: Timestamp,
    /// Bit n: partition n was looked at, and the mirror has everything up to that look.
    pub(super) partitions: u64,
}

/// See the module's text.
pub struct Hub {
    pub(super) store: Arc<dyn FeedStore>,
    pub(super) clock: Arc<dyn Clock>,
    concerns: Arc<dyn Concerns>,
    pub(super) mirror: Mirror,
    pub(super) looks: watch::Sender<Look>,
    pub(super) streams: Mutex<HashMap<Uuid, Arc<Shared>>>,
    pub(super) acknowledged: Acknowledged,
    looked: AtomicU64,
    reading: tokio::sync::Mutex<()>,
    /// When the store was last out of reach, or this hub began.
    out_of_reach: Mutex<Instant>,
    /// A follower came, left, or waits for a look.
    pub(super) changed: tokio::sync::Notify,
    /// By what the store was when all streams were registered last, see [`FeedStore::proved_since`].
    pub(super) registered_by: Mutex<Option<Instant>>,
    /// What the last look has shown, as durable as any answer of the store.
    shown: Mutex<Vec<(Partition, Position)>>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("streams", &self.followers()).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub that has seen nothing yet.
    pub fn new(store: Arc<dyn FeedStore>, clock: Arc<dyn Clock>, concerns: Arc<dyn Concerns>) -> Self {
        let never = Look { number: 0, began: Instant::now(), time: clock.now(), partitions: 0 };
        Self {
            store,
            clock,
            concerns,
            mirror: Mirror::default(),
            looks: watch::Sender::new(never),
            streams: Mutex::default(),
            acknowledged: Acknowledged::default(),
            looked: AtomicU64::new(0),
            reading: tokio::sync::Mutex::default(),
            out_of_reach: Mutex::new(Instant::now()),
            changed: tokio::sync::Notify::new(),
            registered_by: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    /// How many streams this broker serves.
    pub fn followers(&self) -> usize {
        self.streams().len()
    }

    /// How many entries are kept for those who come.
    pub fn kept(&self) -> usize {
        self.mirror.len()
    }

    /// Lets a verifier follow. It is registered in the store before anything is read for it, so that an end either is in what it reads or finds it registered.
    pub async fn follow(
        self: &Arc<Self>,
        follower: String,
        audience: Arc<str>,
        trust_domain: Arc<str>,
        bound: Duration,
    ) -> Result<Following> {
        let bound = bound.clamp(*BOUNDS.start(), *BOUNDS.end());
        let id = Uuid::from_bytes(random()?);
        let shared = Arc::new(Shared::new(id, follower, audience, trust_domain, bound));
        let following = Following::new(Arc::clone(self), self.taken_in(&shared)?, self.looks.subscribe());
        let unregistered = self.register(std::slice::from_ref(&shared)).await.map_err(|error| {
            Error::new(Reason::StoreUnavailable, "The store does not answer. Try again.").with_detail(error)
        })?;
        if !unregistered.is_empty() {
            drop(following);
            self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            return Err(too_many(
                "There are too many streams of the feed at all brokers together. End some.",
            ));
        }
        self.changed.notify_one();
        // Not from what was seen before it was registered.
        self.look().await;
        Ok(following.registered())
    }

    /// Whether this broker has told its followers of an end that the store, if it says otherwise, has forgotten or was made to forget. Knows of nothing while nobody follows.
    pub fn speaks_against(&self, credential: &CredentialId, ancestors: &[TaskId]) -> bool {
        self.mirror.speaks_against(credential, ancestors)
    }

    /// Who is told of a fence of the key.
    pub fn concern_of(&self, key: &KeyId) -> Concern {
        self.concerns.of_key(key)
    }

    /// Whether this broker has told its followers of a fence of the key in a partition. Knows of nothing while nobody follows.
    pub fn has_fenced(&self, partition: Partition, key: &KeyId) -> bool {
        self.mirror.has_fenced(partition, key)
    }

    /// How far the history of each partition went at the last look. Nothing that a failover may rightly lose: where replicas count, the look has waited for them.
    pub fn positions(&self) -> Vec<(Partition, Position)> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Holds positions that some broker of this store has known against the store; where it does not cover them a new generation begins. In which partitions one did.
    pub async fn hold_against(&self, known: &[(Partition, Position)]) -> StepResult<Vec<Partition>> {
        let now = self.clock.now();
        let moved =
            known.iter().copied().filter(|(partition, at)| self.mirror.position(*partition) != Some(*at));
        let moved: Vec<_> = moved.collect();
        let held = moved.into_iter().map(|(partition, at)| async move {
            let grew = self.store.hold_against(partition, at, now).await?;
            Ok(grew.then_some(partition))
        });
        let held = futures_util::stream::iter(held).buffered(READ_AT_ONCE);
        let grown: Vec<_> = held.collect::<Vec<_>>().await.into_iter().collect::<StepResult<Vec<_>>>()?;
        let grown: Vec<_> = grown.into_iter().flatten().collect();
        if !grown.is_empty() {
            self.look().await;
        }
        Ok(grown)
    }

    /// Lets [`Self::run`] look now.
    pub(super) fn look_soon(&self) {
        self.changed.notify_one();
    }

    /// Looks at the store until `stop`: at news, and as often as the fastest follower needs it. While nobody follows, nothing is looked at.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut nudges = self.store.nudges();
        let (mut trimmed, mut registered) = (Instant::now(), Instant::now());
        while !stop.is_cancelled() {
            let Some(bound) = self.least_bound() else {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.changed.notified() => continue,
                    () = tokio::time::sleep(TRIM) => {
                        self.trim();
                        continue;
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause(bound)) => {}
                () = self.changed.notified() => {}
                changed = nudges.changed() => if changed.is_err() { return },
            }
            nudges.mark_unchanged();
            let began = Instant::now();
            self.look().await;
            // Before the next look would come too late for it.
            if registered.elapsed() + pause(bound) >= bound.min(RENEWAL) {
                registered = Instant::now();
                if let Err(error) = self.register(&self.streams()).await {
                    tracing::warn!(%error, "followers are not registered");
                }
            }
            if trimmed.elapsed() >= TRIM {
                trimmed = Instant::now();
                self.trim();
            }
            tokio::time::sleep_until(began + LEAST_LOOK).await;
        }
    }

    /// Lets go of what need not be known any more.
    fn trim(&self) {
        let now = self.clock.now();
        self.mirror.trim(now);
        self.acknowledged.trim(now);
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, stream| {
            let over = stream.is_over();
            if over {
                self.acknowledged.forget(*id);
            }
            !over
        });
        metrics::gauge!("taskpass_feed_entries").set(self.kept() as f64);
    }

    /// Looks at the store once, and tells the streams.
    pub async fn look(&self) {
        // One at a time: each goes on where the one before it ended.
        let _turn = self.reading.lock().await;
        let (began, time) = (Instant::now(), self.clock.now());
        let partitions = match tokio::time::timeout(LOOK_LIMIT, self.read(time)).await {
            Ok(Ok(partitions)) => partitions,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a look at the store for the feed failed");
                0
            }
            Err(_) => 0,
        };
        if partitions == 0 {
            metrics::counter!("taskpass_feed_looks_failed_total").increment(1);
            *self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        let number = self.looked.fetch_add(1, Ordering::Relaxed) + 1;
        self.looks.send_replace(Look { number, began, time, partitions });
    }

    async fn read(&self, now: Timestamp) -> StepResult<u64> {
        let positions = self.store.positions(now).await?;
        let positions: Vec<_> = Partition::all().zip(positions).collect();
        self.register_anew(&positions).await?;
        let shown = positions.iter().filter_map(|(partition, at)| Some((*partition, (*at)?))).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        let caught_up = positions.into_iter().map(|(partition, position)| async move {
            match self.catch_up(partition, position?, now).await {
                Ok(()) => Some(partition),
                Err(error) => {
                    tracing::debug!(%partition, %error, "a partition's history could not be read");
                    None
                }
            }
        });
        let caught_up = futures_util::stream::iter(caught_up).buffer_unordered(READ_AT_ONCE);
        let fresh = caught_up.fold(0_u64, |bits, partition| async move {
            partition.map_or(bits, |partition| bits | 1 << partition.number())
        });
        Ok(fresh.await)
    }

    /// Reads the partition's history up to `wanted`, or further.
    async fn catch_up(&self, partition: Partition, wanted: Position, now: Timestamp) -> StepResult<()> {
        loop {
            let known = self.mirror.position(partition);
            if known.is_some_and(|known| covers(&known, &wanted)) {
                return Ok(());
            }
            let page = self.store.entries(partition, known.map_or(0, |known| known.seq), PAGE, now).await?;
            if page.position.generation != wanted.generation {
                // It grew between the look and this: the next look registers the streams anew before it tells them.
                return Err(StoreError::Unavailable("the generation has just grown".to_owned()));
            }
            let other = known.is_some_and(|known| {
                let same_place = page.position.seq == known.seq && page.position.chain != known.chain;
                // A new generation may have any sequence beyond what the broker that grew it knew.
                page.position.generation != known.generation || page.position.seq < known.seq || same_place
            });
            if other {
                // Not the history that was read before: everything anew.
                self.mirror.forget(partition);
                continue;
            }
            let position = match page.entries.last() {
                Some(last) if page.more => Position { seq: last.seq, chain: last.chain, ..page.position },
                _ => page.position,
            };
            let items = self.concerned(page.entries, now).await;
            self.mirror.take(partition, position, items);
            if !page.more {
                return Ok(());
            }
        }
    }

    async fn concerned(&self, entries: Vec<FeedEntry>, now: Timestamp) -> Vec<Item> {
        let items = entries.into_iter().map(|entry| async move {
            let (concern, last) = match &entry.what {
                Happened::TaskEnded(task) => self.concerns.of(*task, now).await,
                Happened::CredentialRevoked(credential) => {
                    (self.concerns.of(credential.task, now).await.0, None)
                }
                Happened::Fence(FenceTarget::Key(key)) => (self.concerns.of_key(key), None),
                Happened::Fence(_) | Happened::Generation => (Concern::All, None),
            };
            let last = last.map(|last| last.max(entry.at).saturating_add(FORGET_SLACK));
            let forget_at = last.map_or(entry.forget_at, |last| last.min(entry.forget_at));
            Item { entry, concern, forget_at }
        });
        futures_util::stream::iter(items).buffered(LOOKED_UP_AT_ONCE).collect().await
    }

    pub(crate) fn largest_bound(&self) -> Duration {
        self.concerns.largest_bound()
    }

    /// Since when the store has been in reach without interruption; `None` if it loses nothing in between.
    pub(super) fn in_reach_since(&self) -> Option<Instant> {
        let seen = *self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.proved_since().map(|proved| proved.max(seen))
    }
}

/// Between two looks, while nothing is heard: a registration is renewed after a look, and by none that is older than [`RENEWAL`] anybody is kept fresh.
fn pause(bound: Duration) -> Duration {
    (bound / LOOKS_IN_A_BOUND).min(RENEWAL)
}

/// Whether what was read up to `known` has everything up to `wanted`.
fn covers(known: &Position, wanted: &Position) -> bool {
    known.generation == wanted.generation
        && (known.seq > wanted.seq || (known.seq == wanted.seq && known.chain == wanted.chain))
}

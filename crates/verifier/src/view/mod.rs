//! What a verifier knows of ends: pushed by the broker's feed, bounded, and honest about how old it is.
//!
//! A view opens no connection and verifies no signature of the feed: whoever follows the feed hands in what it has verified, and says so when it could
//! not ([`RevocationView::close_all`]). Nothing here reads a clock.
//!
//! What holds: an end that was taken stays until its time to be forgotten, whatever comes later. A partition that has not been heard of for longer than the
//! bound refuses; so does one that saw a gap, a rollback or a bad signature, until a snapshot that covers all it knew; and one that never had a snapshot (G5).

mod clock;
mod entry;
mod partition;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

pub use self::entry::{Closed, Delta, Entry, FenceTarget, Position, Snapshot};

use self::clock::Reading;
use self::partition::Known;
use crate::claims::Claims;
use crate::ids::{CredentialId, Generation, PARTITIONS, Partition, TaskId};
use crate::keyset::KeyId;
use crate::moment::Moment;
use crate::refusal::Refusal;
use crate::time::{Between, UnixSeconds};

/// The longest staleness bound; a longer one counts as this.
pub const MAX_BOUND: Duration = Duration::from_secs(300);
/// Ends that a view remembers in one partition if nothing else was said: two millions in all, about 100 MB.
pub const ENTRIES_PER_PARTITION: usize = 32 * 1024;
/// No bound was set.
const UNSET: u64 = u64::MAX;

/// The revocation view. Shared: every method takes `&self`, and partitions do not wait for each other.
pub struct RevocationView {
    partitions: Box<[RwLock<Known>]>,
    room: usize,
    /// Nanoseconds.
    bound: AtomicU64,
    /// Nanoseconds.
    own_bound: AtomicU64,
    reading: RwLock<Option<Reading>>,
    /// The audience's.
    trust_domain: RwLock<Option<Box<str>>>,
    /// Ends were forgotten up to this second: what expired before is judged as expired whatever the time is said to be.
    forgotten_to: AtomicU64,
}

/// What a view is asked about: a credential and the task behind it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The credential.
    pub credential: CredentialId,
    /// Under which it is signed: the key of a token, or that of the intermediate of a certificate.
    pub key: KeyId,
    /// The ancestors of its task, root first.
    pub ancestors: &'a [TaskId],
    /// On the owner of the task and on the owner's trust domain.
    pub fences: Fences,
    /// In which the task began; none where the credential does not say.
    pub generation: Option<Generation>,
    /// The sequence at which the task began; none where the credential does not say, and then a fence refuses what by its id is not younger than it by 10 s.
    pub began_seq: Option<u64>,
    /// When the credential expires.
    pub expires: UnixSeconds,
}

/// The fences that would end the tasks of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fences {
    workload: FenceTarget,
    trust_domain: FenceTarget,
}

impl Fences {
    /// For the owner's SPIFFE ID and the name of its trust domain.
    pub fn on(spiffe_id: &str, trust_domain: &str) -> Self {
        Self {
            workload: FenceTarget::workload(spiffe_id),
            trust_domain: FenceTarget::trust_domain(trust_domain),
        }
    }
}

impl<'a> Facts<'a> {
    /// Those of a token that is signed under `key`. `fences` must be those of its `client_id`; they cost two digests, so they are computed once for each token.
    pub fn of(claims: &'a Claims, key: KeyId, fences: Fences) -> Self {
        Self {
            credential: claims.jti,
            key,
            ancestors: claims.taskpass.lineage.ancestors(),
            fences,
            generation: Some(claims.taskpass.generation),
            began_seq: Some(claims.taskpass.seq),
            expires: claims.exp,
        }
    }
}

impl Default for RevocationView {
    fn default() -> Self {
        Self::new(ENTRIES_PER_PARTITION)
    }
}

impl RevocationView {
    /// An empty view, which refuses everything. It remembers at most `room` ends in each partition; with more that partition closes.
    pub fn new(room: usize) -> Self {
        Self {
            partitions: Partition::all().map(|_| RwLock::default()).collect(),
            room,
            bound: AtomicU64::new(UNSET),
            own_bound: AtomicU64::new(UNSET),
            reading: RwLock::new(None),
            trust_domain: RwLock::new(None),
            forgotten_to: AtomicU64::new(0),
        }
    }

    /// How long after the last word on a partition its credentials are still judged: the broker's word, from its signed messages. More than [`MAX_BOUND`]
    /// counts as that.
    pub fn set_bound(&self, bound: Duration) {
        self.bound.store(nanos(bound.min(MAX_BOUND)), Ordering::Relaxed);
    }

    /// The verifier's own bound: the lesser of both holds, so that this can lower what the broker says and never raise it. The least that was ever set stays.
    pub fn lower_bound_to(&self, bound: Duration) {
        self.own_bound.fetch_min(nanos(bound), Ordering::Relaxed);
    }

    /// The bound that holds; none before the broker named one, and then everything is refused.
    pub fn bound(&self) -> Option<Duration> {
        match self.bound.load(Ordering::Relaxed) {
            UNSET => None,
            bound => Some(Duration::from_nanos(bound.min(self.own_bound.load(Ordering::Relaxed)))),
        }
    }

    /// The trust domain of the audience whose ends these are, as whoever follows has been told: its feed keys sign them. Task certificates of agents of other trust domains are
    /// refused from then on, unless the verifier was told whose it takes ([`Verifier::with_agents_of`](crate::Verifier::with_agents_of)).
    pub fn set_trust_domain(&self, name: &str) {
        *self.trust_domain.write().unwrap_or_else(PoisonError::into_inner) = Some(name.into());
    }

    /// Whether agents of a trust domain are those of the audience's, as far as is known.
    pub(crate) fn is_at_home(&self, trust_domain: &str) -> bool {
        let home = self.trust_domain.read().unwrap_or_else(PoisonError::into_inner);
        home.as_deref().is_none_or(|home| home == trust_domain)
    }

    /// Takes a snapshot, which opens its partition. An older generation, a lower sequence of the same one, or another history at the same sequence than what
    /// is known is a rollback: it closes. Ends that are known and not in the snapshot stay.
    pub fn replace(&self, snapshot: &Snapshot<'_>) -> Result<(), Closed> {
        let taken = self.change(snapshot.partition, |known| known.replace(snapshot, self.room));
        taken.unwrap_or(Err(Closed::Gap))
    }

    /// Takes a delta, which must continue exactly what is known: else nothing of it is taken, and its partition closes until the next snapshot.
    pub fn apply(&self, delta: &Delta<'_>) -> Result<(), Closed> {
        let taken = self.change(delta.partition, |known| known.apply(delta, self.room));
        taken.unwrap_or(Err(Closed::Gap))
    }

    /// A heartbeat: the store, read after the beat that was sent at `sent` had arrived, was at `position` in this partition. Gives back whether the partition is
    /// fresh by it: a position beyond what is known leaves it as old as it is, since something is still to come.
    pub fn heard(&self, partition: Partition, position: &Position, sent: Moment) -> bool {
        // Before the broker has named a bound nothing is fresh; the first that it names holds.
        let bound = match self.bound.load(Ordering::Relaxed) {
            UNSET => MAX_BOUND,
            bound => Duration::from_nanos(bound),
        };
        self.change(partition, |known| known.heard(position, sent, bound)).unwrap_or(false)
    }

    /// Closes one partition until its next snapshot.
    pub fn close(&self, partition: Partition, why: Closed) {
        self.change(partition, |known| known.close(why));
    }

    /// Closes every partition, each until its next snapshot: for a message that is not signed as it must be, or whose place in the stream is wrong.
    pub fn close_all(&self, why: Closed) {
        Partition::all().for_each(|partition| self.close(partition, why));
    }

    /// The broker's clock, as a heartbeat told it: milliseconds since the epoch, read between `sent` (when the beat was sent that it names) and `received`. A
    /// reading for an older beat than that of the last is left aside.
    pub fn set_time(&self, broker_millis: u64, sent: Moment, received: Moment) {
        let mut reading = self.reading.write().unwrap_or_else(PoisonError::into_inner);
        if received >= sent && reading.is_none_or(|last| sent >= last.sent) {
            *reading = Some(Reading { broker_millis, sent, received });
        }
    }

    /// The broker's time at a moment; none before it was heard.
    pub fn time(&self, at: Moment) -> Option<Between> {
        let reading = (*self.reading.read().unwrap_or_else(PoisonError::into_inner))?;
        Some(reading.at(at))
    }

    /// Whether anything known or unknown speaks against a credential. What is known for certain comes first: an ended task is told as such by a stale view
    /// too. Of expiry it says only what it must know: a credential whose end may have been forgotten has expired.
    pub fn refusal(&self, facts: &Facts<'_>, at: Moment) -> Result<(), Refusal> {
        let task = facts.credential.task;
        let Some(Ok(known)) = self.slot(task.partition()).map(RwLock::read) else {
            return Err(Refusal::FeedGap);
        };
        let present = known.position().map(|position| position.generation);
        let generation = facts.generation;
        if generation.zip(present).is_some_and(|(of_task, present)| of_task < present) {
            return Err(Refusal::GenerationSuperseded);
        }
        if generation.is_none() && present.is_some_and(|g| task.unix_millis() < g.first_task_millis()) {
            return Err(Refusal::GenerationSuperseded);
        }
        if known.has_ended(&task) || facts.ancestors.iter().any(|task| known.has_ended(task)) {
            return Err(Refusal::TaskEnded);
        }
        if known.has_revoked(&facts.credential) {
            return Err(Refusal::CredentialRevoked);
        }
        let Fences { workload, trust_domain } = &facts.fences;
        if [workload, trust_domain].into_iter().any(|target| known.has_fenced(target, &task, facts.began_seq))
        {
            return Err(Refusal::Fenced);
        }
        if known.has_fenced_key(&facts.key) {
            return Err(Refusal::KeyFenced);
        }
        // Read after the look: what is not found any more was forgotten before.
        if facts.expires.0 <= self.forgotten_to.load(Ordering::SeqCst) {
            return Err(Refusal::Expired);
        }
        known.state(at, self.bound())?;
        if generation > present && generation.is_some() { Err(Refusal::GenerationUnknown) } else { Ok(()) }
    }

    /// Whether a key is known to be withdrawn, in whichever partition.
    pub fn has_withdrawn(&self, key: &KeyId) -> bool {
        Partition::all()
            .any(|partition| self.read(partition, |known| known.has_fenced_key(key)).unwrap_or(false))
    }

    /// Why every credential of a partition is refused at a moment, if so.
    pub fn state(&self, partition: Partition, at: Moment) -> Result<(), Refusal> {
        self.read(partition, |known| known.state(at, self.bound())).unwrap_or(Err(Refusal::FeedGap))
    }

    /// The position that a partition is known up to; none before its first snapshot.
    pub fn position(&self, partition: Partition) -> Option<Position> {
        self.read(partition, Known::position)?
    }

    /// When the beat was sent that the newest heartbeat on a partition named.
    pub fn fresh_from(&self, partition: Partition) -> Option<Moment> {
        self.read(partition, Known::fresh_from)?
    }

    /// Forgets the entries whose time has come for certain, by the broker's time. Cheap when there are none; to be called every few seconds.
    pub fn forget(&self, at: Moment) {
        let Some(Between { earliest, .. }) = self.time(at) else { return };
        // Before anything goes: whoever does not find an end any more must see this.
        self.forgotten_to.fetch_max(earliest.0, Ordering::SeqCst);
        Partition::all().for_each(|partition| {
            self.change(partition, |known| known.forget(earliest));
        });
    }

    /// How many ends and fences are remembered.
    pub fn len(&self) -> usize {
        Partition::all().filter_map(|partition| self.read(partition, Known::len)).sum()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how much memory it takes: the tables by their capacity, without what an allocator adds.
    pub fn memory_bytes(&self) -> usize {
        let tables = Partition::all().filter_map(|partition| self.read(partition, Known::memory_bytes));
        tables.sum::<usize>() + usize::from(PARTITIONS) * size_of::<RwLock<Known>>() + size_of::<Self>()
    }

    fn slot(&self, partition: Partition) -> Option<&RwLock<Known>> {
        self.partitions.get(usize::from(partition.number()))
    }

    fn read<T>(&self, partition: Partition, look: impl FnOnce(&Known) -> T) -> Option<T> {
        self.slot(partition)?.read().ok().map(|known| look(&known))
    }

    /// `None` if a thread died in the middle of a change: what is there cannot be trusted, and nobody reads it any more.
    fn change<T>(&self, partition: Partition, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        self.slot(partition)?.write().ok().map(|mut known| change(&mut known))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(UNSET - 1).min(UNSET - 1)
}

impl fmt::Debug for RevocationView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationView").field("len", &self.len()).field("bound", &self.bound()).finish()
    }
}

//! Who has applied an end, and when the others close by themselves.
//!
//! A follower that has not applied an end is fresh only by a heartbeat whose look at the store began before the end was written; and it counts its bound from a beat that it
//! had sent before that look. So it refuses, at the latest, its bound after the end was written.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use taskpass_verifier::ids::{Generation, Partition};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::hub::{BOUNDS, Hub};
use super::mirror::{Concern, Sent};
use super::registered::CLOCKS_APART;
use crate::revoke::feed::{Happened, Registration};
use crate::time::Timestamp;

/// An announcement is a list of these: stream 16, partition 1, generation 12, sequence 8.
const RECORD: usize = 37;
/// The first byte of an announcement of acknowledgements, and of one of streams that have ended: a list of these, 16 bytes each.
const FORMAT: u8 = 2;
const ENDED: u8 = 3;
/// The pause after an announcement: what is acknowledged meanwhile goes into one.
const BETWEEN_ANNOUNCEMENTS: Duration = Duration::from_millis(1);
/// Acknowledgements in one announcement.
const MOST_RECORDS: usize = 1_500;
/// Streams whose acknowledgements are remembered.
const MOST_STREAMS: usize = 20_000;
/// Of a stream that was not heard of for longer nothing is remembered.
const REMEMBERED: Duration = Duration::from_secs(900);
/// Clocks of followers may run slower than ours by as much of the bound: one part in so many.
const DRIFT: u32 = 100;
/// And this much beside.
const SLACK: Duration = Duration::from_millis(10);
/// How often, without news, it is looked whether those that are waited for may still answer.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Entries of a young partition's history that are looked through for its generations.
const LOOKED_THROUGH: usize = 512;
/// Times are told in these.
const MILLISECOND: Duration = Duration::from_millis(1);

/// A follower that is not known to have applied an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its stream.
    pub stream: Uuid,
    /// Its SPIFFE ID.
    pub follower: String,
    /// For which audience it follows.
    pub audience: String,
    /// It refuses from then on, unless it applies the end before.
    pub closes_at: Timestamp,
}

/// How far an end has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Followers that have applied it.
    pub applied: usize,
    /// The others.
    pub pending: Vec<Pending>,
    /// No follower accepts anything that the end has ended after this.
    pub closed_by: Timestamp,
    /// The store did not say who follows.
    pub unknown: bool,
}

type Places = BTreeMap<u8, Sent>;

/// How far each stream has applied each partition, of all brokers that were heard.
#[derive(Default)]
pub(super) struct Acknowledged {
    streams: Mutex<HashMap<Uuid, (Places, Timestamp)>>,
    outbox: Mutex<Vec<(Uuid, Partition, Sent)>>,
    /// Streams that have ended, here and elsewhere, as far as is known: nobody waits for them, and they stay pending.
    ended: Mutex<HashMap<Uuid, Timestamp>>,
    ended_here: Mutex<Vec<Uuid>>,
    to_send: Notify,
    news: watch::Sender<u64>,
}

impl Acknowledged {
    fn streams(&self) -> MutexGuard<'_, HashMap<Uuid, (Places, Timestamp)>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A follower of this broker has applied something.
    pub(super) fn applied_here(&self, stream: Uuid, applied: &[(Partition, Sent)], now: Timestamp) {
        self.note(applied.iter().map(|(partition, seq)| (stream, *partition, *seq)), now);
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.extend(applied.iter().map(|(partition, seq)| (stream, *partition, *seq)));
        self.to_send.notify_one();
    }

    /// A stream of this broker has ended.
    pub(super) fn left_here(&self, stream: Uuid) {
        self.ended_here.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        self.to_send.notify_one();
    }

    /// Whether another broker has said that a stream of its own has ended.
    pub(super) fn has_left(&self, stream: Uuid) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&stream)
    }

    fn note_ended(&self, streams: &[u8], now: Timestamp) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.as_chunks().0 {
            // What finds no room is waited for, as it was before.
            if ended.len() < MOST_STREAMS {
                ended.insert(Uuid::from_bytes(*stream), now);
            }
        }
        drop(ended);
        self.news.send_modify(|news| *news += 1);
    }

    fn note(&self, applied: impl Iterator<Item = (Uuid, Partition, Sent)>, now: Timestamp) {
        {
            let mut streams = self.streams();
            for (stream, partition, seq) in applied {
                if streams.len() >= MOST_STREAMS && !streams.contains_key(&stream) {
                    // The one that was not heard of for longest: those that have left are among the first.
                    let oldest = streams.iter().min_by_key(|(_, (_, heard))| *heard).map(|(id, _)| *id);
                    oldest.map(|oldest| streams.remove(&oldest));
                }
                let (places, heard) = streams.entry(stream).or_default();
                let place = places.entry(partition.number()).or_insert(seq);
                (*place, *heard) = ((*place).max(seq), now);
            }
        }
        self.news.send_modify(|news| *news += 1);
    }

    /// Takes what another broker announced. What cannot be read is passed over.
    fn heard(&self, message: &[u8], now: Timestamp) {
        let records = match message.split_first() {
            Some((&FORMAT, records)) => records,
            Some((&ENDED, streams)) => return self.note_ended(streams, now),
            _ => return,
        };
        let read = |record: &[u8]| {
            let (stream, rest) = record.split_first_chunk::<16>()?;
            let (&partition, rest) = rest.split_first()?;
            let (generation, seq) = rest.split_first_chunk::<12>()?;
            let generation = Generation::from_bytes(*generation);
            let partition = Partition::all().find(|one| one.number() == partition)?;
            let told = Sent { generation, seq: u64::from_be_bytes(seq.try_into().ok()?) };
            Some((Uuid::from_bytes(*stream), partition, told))
        };
        self.note(records.chunks_exact(RECORD).take(MOST_RECORDS).filter_map(read), now);
    }

    fn to_announce(&self) -> Vec<Vec<u8>> {
        let outbox = std::mem::take(&mut *self.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        let message = |records: &[(Uuid, Partition, Sent)]| {
            let mut message = Vec::with_capacity(1 + records.len() * RECORD);
            message.push(FORMAT);
            for (stream, partition, told) in records {
                message.extend(stream.as_bytes());
                message.push(partition.number());
                message.extend(told.generation.as_bytes());
                message.extend(told.seq.to_be_bytes());
            }
            message
        };
        let ended = std::mem::take(&mut *self.ended_here.lock().unwrap_or_else(PoisonError::into_inner));
        let ends = ended.chunks(MOST_RECORDS).map(|streams| {
            std::iter::once(ENDED).chain(streams.iter().flat_map(|stream| *stream.as_bytes())).collect()
        });
        outbox.chunks(MOST_RECORDS).map(message).chain(ends).collect()
    }

    fn has(&self, stream: Uuid, at: &[(Partition, Sent)]) -> bool {
        let streams = self.streams();
        let Some((places, _)) = streams.get(&stream) else { return false };
        at.iter().all(|(partition, seq)| places.get(&partition.number()).is_some_and(|place| place >= seq))
    }

    /// Forgets a stream that has ended and is registered no more.
    pub(super) fn forget(&self, stream: Uuid) {
        self.streams().remove(&stream);
    }

    /// Forgets streams that were not heard of for long.
    pub(super) fn trim(&self, now: Timestamp) {
        self.streams().retain(|_, (_, heard)| now.since(*heard) < REMEMBERED);
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|_, heard| now.since(*heard) < REMEMBERED);
    }
}

impl Hub {
    /// Where followers were told of something that had happened before: somewhere at or before `present`, a position that the store has shown since. No place: nobody has to be told any more, for
    /// nothing that it has ended could still be accepted. Where it cannot be known, `present` itself.
    pub async fn place_of(&self, partition: Partition, what: &Happened, present: Sent) -> Option<Sent> {
        let has_come = || self.mirror.position(partition).is_some_and(|known| Sent::from(known) >= present);
        if !has_come() {
            self.look().await;
        }
        if has_come() { self.mirror.place_of(partition, what) } else { Some(present) }
    }

    /// Tells the other brokers what followers of this one have applied, and listens to them, until `stop`.
    pub async fn exchange(&self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.announce() => {}
            () = self.hear() => {}
        }
    }

    async fn announce(&self) {
        loop {
            self.acknowledged.to_send.notified().await;
            for message in self.acknowledged.to_announce() {
                // Lost, it leaves a follower pending that is not.
                if let Err(error) = self.store.announce(&message).await {
                    tracing::debug!(%error, "acknowledgements were not announced");
                }
            }
            tokio::time::sleep(BETWEEN_ANNOUNCEMENTS).await;
        }
    }

    async fn hear(&self) {
        let mut announcements = self.store.announcements();
        loop {
            match announcements.recv().await {
                Ok(message) => self.acknowledged.heard(&message, self.clock.now()),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Waits, at most for `wait`, until every follower whom it concerns and who may still answer has applied what stands at these places, and which were written before this is called. To be called after that
    /// was acknowledged, never before: whoever registers from then on finds the end in its snapshot.
    ///
    /// Where the store does not say who follows, the answer holds for whoever might.
    pub async fn applied(&self, at: &[(Partition, Sent)], concern: &Concern, wait: Duration) -> Applied {
        let (written, began) = (self.clock.now(), Instant::now());
        let mut news = self.acknowledged.news.subscribe();
        let registered = match self.store.registrations(written).await {
            Ok(registered) => registered,
            Err(error) => {
                tracing::warn!(%error, "who follows is not known: an end is answered with the largest bound");
                let closed_by = closes(written, *BOUNDS.end());
                return Applied { applied: 0, pending: Vec::new(), closed_by, unknown: true };
            }
        };
        let mut pending: Vec<_> =
            registered.into_iter().filter(|stream| self.is_concerned(concern, stream)).collect();
        let all = pending.len();
        let give_up = Instant::now() + wait;
        let mut passed = Vec::new();
        loop {
            news.mark_unchanged();
            // All must have applied it, so any of them will do to wait for: with each news one is looked at, not all.
            let passes = |stream: &mut Registration| {
                self.acknowledged.has(stream.stream, at) || !self.may_answer(stream)
            };
            while let Some(stream) = pending.pop_if(passes) {
                passed.push(stream);
            }
            if pending.is_empty() || Instant::now() >= give_up {
                break;
            }
            let look_again = give_up.min(Instant::now() + LOOK_AGAIN);
            // The sender lives as long as this hub.
            drop(tokio::time::timeout_at(look_again, news.changed()).await);
        }
        pending.append(&mut passed);
        pending.retain(|stream| !self.acknowledged.has(stream.stream, at));
        metrics::histogram!("taskpass_end_applied_seconds").record(began.elapsed());
        metrics::counter!("taskpass_end_pending_total").increment(pending.len() as u64);
        let pending: Vec<_> = pending.iter().map(|stream| waited_for(stream, written)).collect();
        let latest = pending.iter().map(|pending| pending.closes_at).max();
        // Those that have applied it may have accepted until just now, whoever else is pending. Rounded up: what was accepted earlier in this millisecond was not accepted after it.
        let by_now = self.clock.now().saturating_add(MILLISECOND);
        let mut closed_by = latest.map_or(by_now, |latest| latest.max(by_now));
        if self.unsure(at).await {
            closed_by = closed_by.max(closes(written, self.largest_bound()));
        }
        Applied { applied: all - pending.len(), pending, closed_by, unknown: false }
    }

    /// Whether registrations may have been lost with the store, less than the largest bound ago: it was out of reach, or another broker, which noticed first, has begun a new generation.
    async fn unsure(&self, at: &[(Partition, Sent)]) -> bool {
        let bound = self.largest_bound();
        if self.in_reach_since().is_some_and(|since| since.elapsed() < bound) {
            return true;
        }
        let now = self.clock.now();
        let is_young = |began: u64| now.since(Timestamp::from_millis(began)) < bound + CLOCKS_APART;
        let young = at.iter().filter(|(_, sent)| is_young(sent.generation.unix_millis()));
        let grown = young.map(|(partition, _)| self.has_grown(*partition, now));
        join_all(grown).await.contains(&true)
    }

    /// Whether there was a generation before the present one, of which the history tells for the greatest bound at least. The first of all stands at its beginning. Where the history
    /// cannot be seen, or is long, there may have been.
    async fn has_grown(&self, partition: Partition, now: Timestamp) -> bool {
        let Ok(page) = self.store.entries(partition, 0, LOOKED_THROUGH, now).await else { return true };
        page.more || page.entries.iter().any(|entry| entry.what == Happened::Generation && entry.seq != 1)
    }
}

fn waited_for(stream: &Registration, written: Timestamp) -> Pending {
    Pending {
        stream: stream.stream,
        follower: stream.follower.clone(),
        audience: stream.audience.clone(),
        closes_at: closes(written, stream.bound),
    }
}

fn closes(written: Timestamp, bound: Duration) -> Timestamp {
    written.saturating_add(bound).saturating_add(bound / DRIFT).saturating_add(SLACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_more_than_is_remembered_takes_the_place_of_the_one_that_was_silent_longest() {
        let (acknowledged, partition) = (Acknowledged::default(), Partition::from_low_bits(5));
        let told = Sent { generation: Generation::from_parts(1, [0; 6]), seq: 7 };
        let stream = |number: usize| Uuid::from_u128(number as u128);
        let applied = |number: usize, at: usize| {
            let now = Timestamp::from_millis(at as u64);
            acknowledged.applied_here(stream(number), &[(partition, told)], now);
        };
        (0..MOST_STREAMS).for_each(|number| applied(number, number));
        applied(0, MOST_STREAMS);
        applied(MOST_STREAMS, MOST_STREAMS + 1);
        let has = |number| acknowledged.has(stream(number), &[(partition, told)]);
        assert!(has(0) && !has(1) && has(2) && has(MOST_STREAMS));
        assert_eq!(acknowledged.streams().len(), MOST_STREAMS);
    }

    #[test]
    fn another_broker_hears_which_streams_have_ended_and_waits_for_them_no_longer() {
        let (here, there) = (Acknowledged::default(), Acknowledged::default());
        let now = Timestamp::from_secs(1_790_000_000);
        let stream = |number: u128| Uuid::from_u128(number);
        (1..=3).for_each(|number| here.left_here(stream(number)));
        let told = here.to_announce();
        assert!(told.len() == 1 && here.to_announce().is_empty());
        there.heard(&told[0], now);
        there.heard(&told[0][..20], now);
        assert!((1..=3).all(|number| there.has_left(stream(number))) && !there.has_left(stream(4)));
        there.trim(now.saturating_add(REMEMBERED));
        assert!(!there.has_left(stream(1)));
    }
}

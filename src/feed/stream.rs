//! One stream, as both of its halves and the hub know it: what its follower says, what it has yet to acknowledge, and whether it is there at all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use taskpass_verifier::ids::Partition;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::hub::Hub;
use super::mirror::Sent;
use super::registered::{CLOCKS_APART, REGISTRATION_SLACK};
use crate::time::Timestamp;

/// About how many bytes of frames may be on their way to a follower that has yet to acknowledge some of them: what it does not read lies in the broker's buffers.
const MOST_ON_THE_WAY: usize = 64 * 1024;
/// A follower that takes or acknowledges nothing for longer than its bound, or this if it is more, is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Frames that may wait for their acknowledgement; a follower that reads on without acknowledging is let go.
const MOST_UNACKNOWLEDGED: usize = 4_096;
/// Of which so much room is kept when all are acknowledged.
const AT_REST: usize = 4;
/// Beats that are remembered: more than one that keeps the pace has under way.
const BEATS: usize = 16;

/// What both halves of a stream and the hub know of it.
pub(super) struct Shared {
    pub(super) id: Uuid,
    pub(super) follower: String,
    pub(super) audience: Arc<str>,
    /// Of the audience, as it was when the stream began.
    pub(super) trust_domain: Arc<str>,
    pub(super) bound: Duration,
    heard: Mutex<Heard>,
    /// The follower has acknowledged something.
    answered: Notify,
}

/// A frame that is to be acknowledged: how far it goes, and about how many bytes it took, with what came before it and is not acknowledged by itself.
struct Told {
    frame: u64,
    partition: Partition,
    upto: Sent,
    bytes: usize,
}

struct Heard {
    /// The newest beats, and when each came.
    beats: VecDeque<(u64, Instant)>,
    /// When it last took a frame, or waited for the next.
    took: Instant,
    /// Frames that are not acknowledged.
    unacknowledged: VecDeque<Told>,
    /// About how many bytes were told and are not acknowledged, and how many of these belong to the next frame that is to be.
    on_the_way: usize,
    unfinished: usize,
    /// Since when it has acknowledged none of these.
    waited_for: Instant,
    /// It does not answer: nothing is told to it any more.
    given_up: bool,
    /// When its registration was last renewed, by both clocks: it goes by the wall clock, which alone runs on in a suspension.
    registered: Option<(Instant, Timestamp)>,
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
            on_the_way: 0,
            unfinished: 0,
            waited_for: now,
            given_up: false,
            registered: None,
            left: None,
        };
        Self {
            id,
            follower,
            audience,
            trust_domain,
            bound,
            heard: Mutex::new(heard),
            answered: Notify::new(),
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its registration was renewed at this moment.
    pub(super) fn is_registered(&self, at: Instant, time: Timestamp) {
        self.heard().registered = Some((at, time));
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
    pub(super) fn takes(&self) -> bool {
        let mut heard = self.heard();
        heard.took = Instant::now();
        !heard.given_up
    }

    /// A frame of about so many bytes is told; if it is to be acknowledged, this is how far it goes. False: too many are not.
    pub(super) fn is_told(&self, frame: u64, upto: Option<(Partition, Sent)>, bytes: usize) -> bool {
        let mut heard = self.heard();
        heard.on_the_way += bytes;
        heard.unfinished += bytes;
        let Some((partition, upto)) = upto else { return true };
        if heard.unacknowledged.len() >= MOST_UNACKNOWLEDGED {
            return false;
        }
        if heard.unacknowledged.is_empty() {
            heard.waited_for = Instant::now();
        }
        let bytes = std::mem::take(&mut heard.unfinished);
        heard.unacknowledged.push_back(Told { frame, partition, upto, bytes });
        true
    }

    /// It has applied everything up to this frame: what was not known to be before.
    fn acknowledged(&self, sequence: u64) -> Vec<(Partition, Sent)> {
        let mut applied = Vec::new();
        let mut heard = self.heard();
        while let Some(told) = heard.unacknowledged.pop_front_if(|told| told.frame <= sequence) {
            heard.on_the_way = heard.on_the_way.saturating_sub(told.bytes);
            applied.push((told.partition, told.upto));
        }
        if heard.unacknowledged.is_empty() {
            heard.unacknowledged.shrink_to(AT_REST);
        }
        if !applied.is_empty() {
            heard.waited_for = Instant::now();
            self.answered.notify_one();
        }
        applied
    }

    /// Waits while too much is on its way. False if the follower acknowledges nothing for so long that it is given up.
    pub(super) async fn has_room(&self) -> bool {
        loop {
            let answered = self.answered.notified();
            let until = {
                let heard = self.heard();
                if heard.unacknowledged.is_empty() || heard.on_the_way < MOST_ON_THE_WAY {
                    return true;
                }
                heard.waited_for + self.bound.max(PATIENCE)
            };
            if tokio::time::timeout_at(until, answered).await.is_err() {
                return false;
            }
        }
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
    pub(super) fn outlives(&self, look: Instant, time: Timestamp) -> bool {
        let registered = self.heard().registered;
        registered.is_some_and(|(at, then)| {
            look.saturating_duration_since(at).max(time.since(then)) < REGISTRATION_SLACK - CLOCKS_APART
        })
    }

    /// The newest beat that had come by then; 0 if none.
    pub(super) fn beat_before(&self, moment: Instant) -> u64 {
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
    pub(super) const fn new(hub: Arc<Hub>, shared: Arc<Shared>) -> Self {
        Self { hub, shared }
    }

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
        let applied = self.shared.acknowledged(sequence);
        if !applied.is_empty() {
            self.hub.acknowledged.applied_here(self.shared.id, &applied, self.hub.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Generation;

    fn stream() -> Arc<Shared> {
        let bound = Duration::from_secs(2);
        Arc::new(Shared::new(Uuid::nil(), "verifier".to_owned(), "a".into(), "t".into(), bound))
    }

    fn upto(seq: u64) -> Option<(Partition, Sent)> {
        Some((Partition::from_low_bits(1), Sent { generation: Generation::from_bytes([1; 12]), seq }))
    }

    #[tokio::test]
    async fn too_much_on_the_way_holds_the_rest_back_until_some_of_it_is_acknowledged() {
        let stream = stream();
        assert!(stream.is_told(1, upto(1), MOST_ON_THE_WAY / 2) && stream.has_room().await);
        assert!(stream.is_told(2, upto(2), MOST_ON_THE_WAY / 2));
        let mut waiting = std::pin::pin!(stream.has_room());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(stream.acknowledged(1).len(), 1);
        assert!(waiting.await);
    }

    #[tokio::test]
    async fn what_needs_no_acknowledgement_by_itself_is_not_waited_for() {
        let stream = stream();
        assert!(
            stream.is_told(1, None, 10 * MOST_ON_THE_WAY) && stream.has_room().await,
            "a part of a snapshot"
        );
        assert!(stream.is_told(2, upto(1), 1));
        stream.acknowledged(2);
        assert!(
            stream.is_told(3, upto(2), 1) && stream.has_room().await,
            "the parts were acknowledged with the last"
        );
    }
}

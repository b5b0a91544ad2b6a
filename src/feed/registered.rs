//! The streams of a broker, and their registrations in the store: who is told, who may answer, and for how long a registration holds.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use taskpass_verifier::ids::Partition;
use tokio::time::Instant;
use uuid::Uuid;

use super::hub::Hub;
use super::mirror::Concern;
use super::stream::Shared;
use crate::error::{Error, Reason, Result};
use crate::revoke::feed::Registration;
use crate::task::store::{Position, StepResult};
use crate::time::Timestamp;

/// Streams of one broker, and of one SPIFFE ID at it, that are open.
const MOST_STREAMS: usize = 10_000;
const MOST_OF_ONE_FOLLOWER: usize = 2_000;
/// So that the verifiers of one audience leave room for others, here and in the store.
const MOST_OF_ONE_AUDIENCE: usize = 2_500;
/// With those that have ended, and are registered for some time yet, it may be so many times as many: all of a follower's processes may come again at once.
const WITH_ENDED: usize = 2;
/// A registration outlives the last heartbeat by the stream's bound and this.
pub(super) const REGISTRATION_SLACK: Duration = Duration::from_secs(15);
/// Whether a registration is over, another broker may see by so much sooner: more than the clocks of two brokers can be apart, of which each is within a second of the store's.
pub(super) const CLOCKS_APART: Duration = Duration::from_secs(5);
/// How often registrations are renewed, at least, and so how often the store is looked at, at least, while somebody follows.
pub(super) const RENEWAL: Duration = Duration::from_secs(5);

impl Hub {
    /// One more of the streams of this broker, if there is room. Those that have ended count too for as long as they are registered, so that nobody fills the store by coming and going.
    pub(super) fn taken_in(&self, stream: &Arc<Shared>) -> Result<Arc<Shared>> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |is_like: &dyn Fn(&Shared) -> bool, most: usize| {
            let like = || streams.values().filter(|one| is_like(one));
            like().count() >= most * WITH_ENDED || like().filter(|one| !one.has_left()).count() >= most
        };
        let of_it = full(&|one| one.follower == stream.follower, MOST_OF_ONE_FOLLOWER);
        let of_audience = full(&|one| one.audience == stream.audience, MOST_OF_ONE_AUDIENCE);
        if of_it || of_audience || full(&|_| true, MOST_STREAMS) {
            return Err(too_many(
                "There are too many streams of the feed. End some, or follow another broker.",
            ));
        }
        streams.insert(stream.id, Arc::clone(stream));
        count(&streams);
        Ok(Arc::clone(stream))
    }

    /// A stream has ended. Its registration stays: the follower may hold itself for fresh until its bound is over.
    pub(super) fn left(&self, id: Uuid) {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = streams.get(&id) {
            stream.leave();
        }
        count(&streams);
        drop(streams);
        // Others wait for it no longer, either.
        self.acknowledged.left_here(id);
        self.changed.notify_one();
    }

    /// Where the store may have lost registrations, all streams are registered again before they hear of anything later: an end of what began since must find them. What shows it is a store
    /// that had to be proved anew, or a new generation.
    pub(super) async fn register_anew(&self, positions: &[(Partition, Option<Position>)]) -> StepResult<()> {
        let proved = self.store.proved_since();
        let grown = positions.iter().any(|(partition, position)| {
            let known = self.mirror.position(*partition);
            known.zip(*position).is_some_and(|(known, now)| known.generation != now.generation)
        });
        if !grown && *self.registered_by.lock().unwrap_or_else(PoisonError::into_inner) == proved {
            return Ok(());
        }
        let streams = self.streams();
        streams.iter().for_each(|stream| stream.is_unregistered());
        self.register(&streams).await?;
        *self.registered_by.lock().unwrap_or_else(PoisonError::into_inner) = proved;
        Ok(())
    }

    /// Those for which there is no room are not registered, and so are kept fresh by nothing.
    pub(super) async fn register(&self, streams: &[Arc<Shared>]) -> StepResult<Vec<Uuid>> {
        let (began, now) = (Instant::now(), self.clock.now());
        let registrations: Vec<_> = streams.iter().map(|stream| stream.registration(now)).collect();
        if registrations.is_empty() {
            return Ok(Vec::new());
        }
        let refused = self.store.register(&registrations, now).await?;
        let stored = streams.iter().filter(|stream| !refused.contains(&stream.id));
        stored.for_each(|stream| stream.is_registered(began, now));
        Ok(refused)
    }

    /// Whether anybody is there behind a registration: its stream is open here, or some broker has renewed it of late. What is left of a stream that has ended cannot answer, and only counts as
    /// pending until its bound is over.
    pub(super) fn may_answer(&self, registration: &Registration) -> bool {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = streams.get(&registration.stream) {
            return stream.answers(self.looks.borrow().began);
        }
        if self.acknowledged.has_left(registration.stream) {
            return false;
        }
        let left = registration.until.since(self.clock.now());
        left + RENEWAL * 2 >= registration.bound + REGISTRATION_SLACK
    }

    /// Whether a follower by this or another broker is told of what concerns these.
    pub(super) fn is_concerned(&self, concern: &Concern, registration: &Registration) -> bool {
        // As its stream is told: the audience may be of another one by now.
        let known = Some(registration.trust_domain.as_str()).filter(|known| !known.is_empty());
        concern.covers(&registration.audience, known)
    }

    /// Those that are open, and answer.
    pub(super) fn streams(&self) -> Vec<Arc<Shared>> {
        let looked = self.looks.borrow().began;
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.values().filter(|stream| stream.answers(looked)).cloned().collect()
    }

    pub(super) fn least_bound(&self) -> Option<Duration> {
        let looked = self.looks.borrow().began;
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.values().filter(|stream| stream.answers(looked)).map(|stream| stream.bound).min()
    }
}

pub(super) fn too_many(sentence: &'static str) -> Error {
    metrics::counter!("taskpass_limit_reached_total", "limit" => "streams").increment(1);
    Error::new(Reason::TooManyStreams, sentence)
}

/// Tells how many are open.
fn count(streams: &HashMap<Uuid, Arc<Shared>>) {
    let open = streams.values().filter(|stream| !stream.has_left()).count();
    metrics::gauge!("taskpass_followers").set(open as f64);
}

impl Shared {
    fn registration(&self, now: Timestamp) -> Registration {
        Registration {
            stream: self.id,
            follower: self.follower.clone(),
            audience: self.audience.to_string(),
            trust_domain: self.trust_domain.to_string(),
            bound: self.bound,
            until: now.saturating_add(self.bound).saturating_add(REGISTRATION_SLACK),
        }
    }
}

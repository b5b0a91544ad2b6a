//! Verifiers that follow the feed, each as an MCP server would: a [`Follower`] with its own TLS connection, key set, view and [`Verifier`]. All of
//! them live in this process, so that one clock tells when each of them refused.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use taskpass_verifier::feed::{self, Event, Fed, Follower, ForVerifier, Violation};
use taskpass_verifier::verifier::{At, Expected};
use taskpass_verifier::{EnforcementProfile, KeySet, Presented, Refusal, RevocationView, Verifier};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::world::{AUDIENCE, ISSUER, Seat, World};
use crate::cli::failure::Failure;
use crate::cli::output::note;

/// Followers that connect at the same time.
const AT_ONCE: usize = 25;
/// What a follower may take to be synchronised, and a token to be accepted or refused by all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// How often to say how far it is.
const SAY: Duration = Duration::from_secs(2);

/// The followers of one or two brokers.
pub(super) struct Followers {
    all: Vec<One>,
    stage: Arc<Stage>,
}

struct One {
    verifier: Arc<Verifier>,
    follower: Follower,
}

impl Followers {
    /// `count` of them, in turn at each of these brokers, every one synchronised.
    pub(super) async fn start(
        world: &World,
        seats: &[Seat],
        count: usize,
        bound: Option<Duration>,
    ) -> Result<Self, Failure> {
        let mut these = Self { all: Vec::new(), stage: Arc::new(Stage::default()) };
        let (began, mut said) = (Instant::now(), Instant::now());
        let mut seats = seats.iter().copied().cycle();
        while these.all.len() < count {
            let from = these.all.len();
            for seat in seats.by_ref().take(AT_ONCE.min(count - from)) {
                these.add(world, seat, bound)?;
            }
            for one in these.all.iter().skip(from) {
                if timeout(PATIENCE, one.follower.wait_synchronised()).await.is_err() {
                    let status = one.follower.status();
                    let why = status.problem.unwrap_or_default();
                    return Err(Failure::failed(format_args!("a follower does not synchronise: {why}")));
                }
            }
            if said.elapsed() > SAY {
                said = Instant::now();
                note(format_args!("  {} of {count} followers in {:.0?}", these.all.len(), began.elapsed()));
            }
        }
        Ok(these)
    }

    fn add(&mut self, world: &World, seat: Seat, bound: Option<Duration>) -> Result<(), Failure> {
        let profile = EnforcementProfile::Bearer;
        let expected = Expected { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned(), profile };
        let verifier = Arc::new(Verifier::following(expected, Arc::default()));
        let fed = ForVerifier::new(Arc::clone(&verifier)).ok_or_else(|| Failure::failed("no view"))?;
        let watched = Watched {
            fed,
            verifier: Arc::clone(&verifier),
            number: self.all.len(),
            stage: Arc::clone(&self.stage),
        };
        let follower = Follower::start(world.follower(seat, bound)?, Arc::new(watched));
        self.all.push(One { verifier, follower: follower.map_err(Failure::failed)? });
        Ok(())
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// What a follower says of a token at this moment; those beyond the last begin anew.
    pub(super) fn judge(&self, number: usize, token: &str) -> Result<(), Refusal> {
        let one = self.all.get(number % self.all.len().max(1));
        one.map_or(Err(Refusal::NeverSynchronised), |one| judge(&one.verifier, token))
    }

    /// Every one of them accepts this token, and watches for its end from now on.
    pub(super) async fn watch(&self, token: &str) -> Result<Arc<Watch>, Failure> {
        let until = Instant::now() + PATIENCE;
        for number in 0..self.all.len() {
            while let Err(refusal) = self.judge(number, token) {
                if Instant::now() > until {
                    let why = refusal.as_str();
                    return Err(Failure::failed(format_args!("a token that lives is refused: {why}")));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        let watch = Arc::new(Watch::new(token.to_owned(), self.all.len()));
        *self.stage.watch.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&watch));
        Ok(watch)
    }

    /// Whether all of them still have the stream that they began with.
    pub(super) fn undisturbed(&self) -> Result<(), Failure> {
        let moved = self.all.iter().map(|one| one.follower.status()).find(|status| status.streams != 1);
        match moved.map(|status| status.problem.unwrap_or_default()) {
            Some(why) => Err(Failure::failed(format_args!("a follower lost its stream meanwhile: {why}"))),
            None => Ok(()),
        }
    }
}

fn judge(verifier: &Verifier, token: &str) -> Result<(), Refusal> {
    verifier.judge(token, &Presented::NOTHING, At::moment(feed::now())).map(drop)
}

/// What all followers watch for.
#[derive(Default)]
struct Stage {
    watch: RwLock<Option<Arc<Watch>>>,
}

/// A token, and when each follower refused it.
pub(super) struct Watch {
    token: String,
    began: Instant,
    /// Nanoseconds from `began`; 0: not yet.
    refused: Box<[AtomicU64]>,
    left: AtomicUsize,
    all: Notify,
}

impl Watch {
    fn new(token: String, followers: usize) -> Self {
        Self {
            token,
            began: Instant::now(),
            refused: (0..followers).map(|_| AtomicU64::new(0)).collect(),
            left: AtomicUsize::new(followers),
            all: Notify::new(),
        }
    }

    fn refuses(&self, follower: usize, at: Instant) {
        let nanos = u64::try_from((at - self.began).as_nanos()).unwrap_or(u64::MAX).max(1);
        let Some(slot) = self.refused.get(follower) else { return };
        if slot.compare_exchange(0, nanos, Ordering::AcqRel, Ordering::Acquire).is_ok()
            && self.left.fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.all.notify_one();
        }
    }

    /// Waits until every follower has refused, and gives how long after `sent` each did so, in order.
    pub(super) async fn refused(&self, sent: Instant) -> Result<Vec<Duration>, Failure> {
        let waited = timeout(PATIENCE, self.all.notified()).await;
        let left = self.left.load(Ordering::Acquire);
        if waited.is_err() {
            return Err(Failure::failed(format_args!(
                "{left} followers still accept a token whose task ended"
            )));
        }
        let since = |slot: &AtomicU64| {
            (self.began + Duration::from_nanos(slot.load(Ordering::Acquire))).saturating_duration_since(sent)
        };
        let mut refused: Vec<_> = self.refused.iter().map(since).collect();
        refused.sort_unstable();
        Ok(refused)
    }
}

/// A verifier's feed that judges whenever something was taken from it.
struct Watched {
    fed: ForVerifier,
    verifier: Arc<Verifier>,
    number: usize,
    stage: Arc<Stage>,
}

impl Fed for Watched {
    fn view(&self) -> &RevocationView {
        self.fed.view()
    }

    fn take_keys(&self, issuer: &str, epoch: u64, keys: &KeySet) -> Result<(), Violation> {
        self.fed.take_keys(issuer, epoch, keys)
    }

    fn happened(&self, event: &Event<'_>) {
        if !matches!(event, Event::Ended { .. } | Event::Synchronised { .. }) {
            return;
        }
        let watch = self.stage.watch.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(watch) = watch
            && judge(&self.verifier, &watch.token) == Err(Refusal::TaskEnded)
        {
            watch.refuses(self.number, Instant::now());
        }
    }
}

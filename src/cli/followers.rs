//! Verifiers that follow the feed, each as an MCP server would: a [`Follower`] with its own TLS connection, key set, view and [`Verifier`]. All of
//! them live in this process, so that one clock tells when each of them refused.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use taskpass_verifier::feed::{self, Event, Fed, Follower, FollowerConfig, ForVerifier, Violation};
use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::verifier::{At, Expected};
use taskpass_verifier::view::Entry;
use taskpass_verifier::{KeySet, Presented, Refusal, RevocationView, Verifier};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::cert::TaskChain;
use super::failure::Failure;
use super::output::note;

/// Followers that connect at the same time.
const AT_ONCE: usize = 25;
/// What a follower may take to be synchronised, and what is shown to be accepted or refused by all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// How often to say how far it is.
const SAY: Duration = Duration::from_secs(2);
/// A bit for each partition.
const EVERY_PARTITION: u64 = u64::MAX;

/// What followers are shown.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    Token(String),
    Certificate(Arc<TaskChain>),
}

/// What must end the acceptance of what is shown, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The end of its task.
    TaskEnded,
    /// This key was given up: a follower's key set has it no more, or its fence has come, whichever is first.
    KeyGivenUp(KeyId),
}

impl Cause {
    const fn explains(self, refusal: &Refusal) -> bool {
        match self {
            Self::TaskEnded => matches!(refusal, Refusal::TaskEnded),
            Self::KeyGivenUp(_) => matches!(refusal, Refusal::KeyFenced | Refusal::UnknownKey),
        }
    }
}

/// The followers of one or more brokers, for one audience.
pub(super) struct Followers {
    all: Vec<One>,
    stage: Arc<Stage>,
}

struct One {
    verifier: Arc<Verifier>,
    follower: Follower,
}

impl Followers {
    /// One for each of these, every one synchronised.
    pub(super) async fn start(expected: &Expected, configs: Vec<FollowerConfig>) -> Result<Self, Failure> {
        let mut these = Self { all: Vec::new(), stage: Arc::new(Stage::default()) };
        let (began, mut said) = (Instant::now(), Instant::now());
        let count = configs.len();
        let mut configs = configs.into_iter();
        while these.all.len() < count {
            let from = these.all.len();
            for config in configs.by_ref().take(AT_ONCE) {
                these.add(expected, config)?;
            }
            for one in these.all.iter().skip(from) {
                if timeout(PATIENCE, one.follower.wait_synchronised()).await.is_err() {
                    let status = one.follower.status();
                    let why = status.problem.unwrap_or_default();
                    return Err(Failure::failed(format_args!("a follower does not synchronise: {why}")));
                }
            }
            if said.elapsed() > SAY && these.all.len() < count {
                said = Instant::now();
                note(format_args!("  {} of {count} followers in {:.0?}", these.all.len(), began.elapsed()));
            }
        }
        Ok(these)
    }

    fn add(&mut self, expected: &Expected, config: FollowerConfig) -> Result<(), Failure> {
        let verifier = Arc::new(Verifier::following(expected.clone(), Arc::default()));
        let fed = ForVerifier::new(Arc::clone(&verifier)).ok_or_else(|| Failure::failed("no view"))?;
        let watched = Watched {
            fed,
            verifier: Arc::clone(&verifier),
            number: self.all.len(),
            stage: Arc::clone(&self.stage),
        };
        let follower = Follower::start(config, Arc::new(watched));
        self.all.push(One { verifier, follower: follower.map_err(Failure::failed)? });
        Ok(())
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// What a follower says at this moment of what it is shown; those beyond the last begin anew.
    pub(super) fn judge(&self, number: usize, shown: &Shown) -> Result<(), Refusal> {
        let one = self.all.get(number % self.all.len().max(1));
        one.map_or(Err(Refusal::NeverSynchronised), |one| judge(&one.verifier, shown))
    }

    /// How many accept it at this moment.
    pub(super) fn accepting(&self, shown: &Shown) -> usize {
        (0..self.all.len()).filter(|number| self.judge(*number, shown).is_ok()).count()
    }

    /// Waits until every one of them accepts it.
    pub(super) async fn accept(&self, shown: &Shown) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        for number in 0..self.all.len() {
            while let Err(refusal) = self.judge(number, shown) {
                if Instant::now() > until {
                    let why = refusal.as_str();
                    return Err(Failure::failed(format_args!("a credential that lives is refused: {why}")));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Every one of them accepts it, and so remembers a token as verified, and watches from now on for its end by this cause.
    pub(super) async fn watch(&self, shown: Shown, cause: Cause) -> Result<Arc<Watch>, Failure> {
        self.accept(&shown).await?;
        let watch = Arc::new(Watch::new(shown, cause, self.all.len()));
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

fn judge(verifier: &Verifier, shown: &Shown) -> Result<(), Refusal> {
    let at = At::moment(feed::now());
    match shown {
        Shown::Token(token) => verifier.judge(token, &Presented::NOTHING, at).map(drop),
        Shown::Certificate(chain) => verifier.judge_certificate(&chain.task_certificate(), at).map(drop),
    }
}

/// What all followers watch for.
#[derive(Default)]
struct Stage {
    watch: RwLock<Option<Arc<Watch>>>,
}

/// What all were shown, and when each follower refused it.
pub(super) struct Watch {
    shown: Shown,
    cause: Cause,
    seen: Box<[Seen]>,
    left: AtomicUsize,
    all: Notify,
}

/// What one follower has said and heard.
#[derive(Default)]
struct Seen {
    /// When it refused first, and why.
    refused: OnceLock<(Instant, Refusal)>,
    /// Which partitions have told it of the key's fence, a bit for each.
    partitions: AtomicU64,
    /// When the last of them had.
    fenced: OnceLock<Instant>,
    /// How often it has accepted again.
    relapses: AtomicUsize,
}

impl Watch {
    fn new(shown: Shown, cause: Cause, followers: usize) -> Self {
        Self {
            shown,
            cause,
            seen: (0..followers).map(|_| Seen::default()).collect(),
            left: AtomicUsize::new(followers),
            all: Notify::new(),
        }
    }

    /// A follower has taken something, and was asked right afterwards.
    fn answered(&self, follower: usize, verdict: Result<(), Refusal>, at: Instant) {
        let Some(seen) = self.seen.get(follower) else { return };
        match verdict {
            Ok(()) if seen.refused.get().is_some() => {
                seen.relapses.fetch_add(1, Ordering::AcqRel);
            }
            Err(refusal) if self.cause.explains(&refusal) => {
                let first = seen.refused.set((at, refusal)).is_ok();
                if first && self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.all.notify_one();
                }
            }
            _ => {}
        }
    }

    fn heard(&self, follower: usize, entry: &Entry, partition: u8, at: Instant) {
        let (Cause::KeyGivenUp(watched), Entry::KeyFenced { key, .. }) = (self.cause, entry) else { return };
        let Some(seen) = self.seen.get(follower).filter(|_| *key == watched) else { return };
        let bit = 1_u64.checked_shl(partition.into()).unwrap_or(0);
        if seen.partitions.fetch_or(bit, Ordering::AcqRel) | bit == EVERY_PARTITION {
            // Told once more: the first time is the one.
            let _ = seen.fenced.set(at);
        }
    }

    /// Waits until every follower has refused, and gives how long after `sent` each did so, in order.
    pub(super) async fn refused(&self, sent: Instant) -> Result<Vec<Duration>, Failure> {
        if timeout(PATIENCE, self.all.notified()).await.is_err() {
            let left = self.left.load(Ordering::Acquire);
            return Err(Failure::failed(format_args!("{left} followers still accept what nobody may")));
        }
        let refused = self.seen.iter().filter_map(|seen| seen.refused.get());
        let mut refused: Vec<_> = refused.map(|(at, _)| at.saturating_duration_since(sent)).collect();
        refused.sort_unstable();
        Ok(refused)
    }

    /// When a follower refused first, if it has; those beyond the last begin anew.
    pub(super) fn refused_at(&self, follower: usize) -> Option<Instant> {
        let seen = self.seen.get(follower % self.seen.len().max(1))?;
        seen.refused.get().map(|(at, _)| *at)
    }

    /// Why followers refused first: the names of the causes.
    pub(super) fn causes(&self) -> BTreeSet<&'static str> {
        let refused = self.seen.iter().filter_map(|seen| seen.refused.get());
        refused.map(|(_, refusal)| refusal.as_str()).collect()
    }

    /// When the last of the followers had heard from the last partition that the key is fenced there; `None`: not yet.
    pub(super) fn fenced_everywhere(&self) -> Option<Instant> {
        let fenced: Option<Vec<_>> = self.seen.iter().map(|seen| seen.fenced.get().copied()).collect();
        fenced?.into_iter().max()
    }

    /// How often a follower that had refused has accepted again.
    pub(super) fn relapses(&self) -> usize {
        self.seen.iter().map(|seen| seen.relapses.load(Ordering::Acquire)).sum()
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
        if !matches!(event, Event::Ended { .. } | Event::Synchronised { .. } | Event::Keys { .. }) {
            return;
        }
        let watch = self.stage.watch.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(watch) = watch else { return };
        let verdict = judge(&self.verifier, &watch.shown);
        let at = Instant::now();
        watch.answered(self.number, verdict, at);
        if let Event::Ended { partition, entry, .. } = event {
            watch.heard(self.number, entry, partition.number(), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(cause: Cause) -> Watch {
        Watch::new(Shown::Token(String::new()), cause, 2)
    }

    #[tokio::test]
    async fn a_refusal_for_another_reason_is_none_and_an_acceptance_afterwards_is_seen() {
        let watch = watched(Cause::KeyGivenUp(KeyId::from_bytes([7; 32])));
        watch.answered(0, Err(Refusal::KeysBehind), Instant::now());
        watch.answered(0, Err(Refusal::TaskEnded), Instant::now());
        assert_eq!(watch.refused_at(0), None);
        watch.answered(0, Ok(()), Instant::now());
        assert_eq!(watch.relapses(), 0, "it has not refused yet");
        let sent = Instant::now();
        watch.answered(0, Err(Refusal::KeyFenced), Instant::now());
        watch.answered(0, Err(Refusal::UnknownKey), Instant::now());
        watch.answered(1, Err(Refusal::UnknownKey), Instant::now());
        assert_eq!(watch.refused(sent).await.unwrap().len(), 2);
        assert_eq!(watch.causes(), BTreeSet::from(["key_fenced", "unknown_key"]));
        watch.answered(1, Ok(()), Instant::now());
        assert_eq!(watch.relapses(), 1);
    }

    #[test]
    fn a_fence_is_everywhere_when_the_last_follower_has_it_from_the_last_partition() {
        let key = KeyId::from_bytes([7; 32]);
        let fence = |key| Entry::KeyFenced { key, forget_at: taskpass_verifier::UnixSeconds(1) };
        let watch = watched(Cause::KeyGivenUp(key));
        for partition in 0..64 {
            watch.heard(0, &fence(key), partition, Instant::now());
            watch.heard(1, &fence(KeyId::from_bytes([8; 32])), partition, Instant::now());
        }
        for partition in 1..64 {
            watch.heard(1, &fence(key), partition, Instant::now());
        }
        assert_eq!(watch.fenced_everywhere(), None);
        watch.heard(1, &fence(key), 0, Instant::now());
        assert!(watch.fenced_everywhere().is_some());
    }
}

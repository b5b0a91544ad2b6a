//! The stored keyring, watched: what another broker has changed is in force here a moment later, what is due by itself is done, and a store that was flushed while this broker lives
//! gets its keyring back, so that the next broker makes no new keys.
//!
//! A broker that has moved a key announces it; who does not hear that finds it at the next look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::audit::{Outcome, Sink};
use crate::error::Result;
use crate::failpoint::{Place, reach};
use crate::ids::Partition;
use crate::keys::{
    Account, KeyState, KeyUse, KeyView, Keyring, KeyringError, Move, Moved, Seen, Step, Unasked,
};
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::task::state::Actor;
use crate::time::{Clock, Timestamp};

use super::Broker;
use super::keyring::keyring_error;
use super::task_ca::RenewalWarning;
use super::tasks::store_error;
use super::trail::{Trail, outcome};

/// The first byte of an announcement that the keyring has changed.
const ANNOUNCEMENT: u8 = 3;
/// The longest time between two looks, and the shortest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(20));

/// Watches for one broker.
#[derive(Debug)]
pub struct KeepKeyring {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
}

impl KeepKeyring {
    /// For a broker.
    pub fn new(broker: Arc<Broker>, clock: Arc<dyn Clock>) -> Self {
        Self { broker, clock }
    }

    /// Watches until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut announced = self.broker.store.announcements();
        let most = PAUSES.0.min(self.broker.keys.plan().times.agreement / 4).max(PAUSES.1);
        let (mut said, mut warned) = (String::new(), RenewalWarning::default());
        while !stop.is_cancelled() {
            let now = self.clock.now();
            let next = match self.broker.keep_keyring(now).await {
                Ok(next) => {
                    said.clear();
                    warned.look(self.broker.keys.renewal(now), now);
                    next
                }
                Err(error) => {
                    metrics::counter!("taskpass_sweep_failures_total", "step" => "keyring").increment(1);
                    if error.log_line() != said {
                        said = error.log_line();
                        tracing::warn!(error = said, "the stored keyring cannot be followed");
                    }
                    None
                }
            };
            let due = next.map_or(most, |next| next.since(self.clock.now())).clamp(PAUSES.1, most);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(due) => {}
                () = hear(&mut announced) => {}
            }
        }
    }
}

/// Waits until another broker says that the keyring has changed, or may have said so.
async fn hear(announced: &mut broadcast::Receiver<Arc<[u8]>>) {
    loop {
        match announced.recv().await {
            Ok(message) if message.first() == Some(&ANNOUNCEMENT) => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Broker {
    /// Looks at the stored keyring, and does what is due. When something is due next.
    pub(super) async fn keep_keyring(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let in_store = metrics::gauge!("taskpass_keyring_in_store");
        let seen = self.keys.look(now).await.inspect_err(|_| in_store.set(0.0)).map_err(keyring_error)?;
        match seen {
            Seen::Same => {}
            Seen::Changed => {
                let sequence = self.keyring().sequence();
                tracing::info!(sequence, "another broker has changed the keyring; it is in force here");
            }
            Seen::BegunAnew => {
                let keyring = self.keyring();
                tracing::error!(
                    sequence = keyring.sequence(),
                    "the store has lost the keyring, and this broker had not seen it there for long: every key but the task CA's root is made anew"
                );
                self.announce_keyring(&keyring).await;
            }
            Seen::Mended => {
                let keyring = self.keyring();
                tracing::warn!(
                    sequence = keyring.sequence(),
                    "something was amiss with the stored keyring; it is mended"
                );
                self.announce_keyring(&keyring).await;
            }
            Seen::WrittenBack(ours) => {
                tracing::error!(ours, "the store had lost the keyring; it has one again");
            }
        }
        let held = !matches!(seen, Seen::WrittenBack(false));
        if seen != Seen::Same {
            self.suspect_keys();
        }
        in_store.set(if held { 1.0 } else { 0.0 });
        if held && self.check_audit().is_ok() {
            // One that fails holds up no other.
            let given_up = self.give_up_what_is_fenced(now).await;
            let fenced = self.fence_what_is_given_up(now).await;
            let moved = self.move_what_is_due(now).await;
            given_up.and(fenced).and(moved)?;
        }
        let signing = self.signing()?;
        show(&signing.keyring, now);
        Ok(self.keys.due(now).1)
    }

    /// A key may be fenced that the keyring in force does not call compromised: the next look finds out.
    pub(super) fn suspect_keys(&self) {
        self.suspect_keys.store(true, Ordering::Relaxed);
    }

    /// Gives up again what is fenced: the keyring was put back from before. Looks after a start, after each change of the keyring, and when a key that signs is found fenced.
    async fn give_up_what_is_fenced(&self, now: Timestamp) -> Result<()> {
        if !self.suspect_keys.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let given_up = self.give_up_each_fenced(now).await;
        if given_up.is_err() {
            self.suspect_keys();
        }
        given_up
    }

    async fn give_up_each_fenced(&self, now: Timestamp) -> Result<()> {
        let standing =
            try_join_all(Partition::all().map(|partition| self.store.blocks(partition, now))).await;
        let fenced =
            standing.map_err(store_error)?.into_iter().flatten().filter_map(|fence| match fence.target {
                FenceTarget::Key(kid) => Some(kid),
                _ => None,
            });
        for kid in fenced.collect::<BTreeSet<_>>() {
            let state = self.keyring().keys().find(|key| key.kid == kid).map(|key| key.state);
            if state.is_none_or(|state| state == KeyState::Compromised) {
                continue;
            }
            tracing::error!(%kid, "a key is fenced that the keyring does not call compromised: it is given up again");
            let what = Move::Compromise(kid);
            let mut trail = Trail::new(name(&what), object(&what));
            trail.fact("by", "fence");
            self.intend(None, &trail, now).await?;
            let made = self.keys.make(&what, false, now).await.map_err(keyring_error);
            if let Ok(Ok(moved)) = &made {
                self.announce_keyring(&moved.keyring).await;
                trace(&mut trail, moved);
            }
            self.conclude(trail, made.map(drop), now).await?;
        }
        Ok(())
    }

    /// Raises the fence of each key that the keyring calls compromised and that is not known to be fenced: the broker that has moved it may have died before it came to that, or a store that came
    /// back may have forgotten it.
    async fn fence_what_is_given_up(&self, now: Timestamp) -> Result<()> {
        let keyring = self.keyring();
        let given_up = keyring.keys().filter(|key| key.state == KeyState::Compromised);
        let lacks = |key: &KeyView| {
            let ends = self.key_fence_ends(key);
            let known = self.blocks.until(&[FenceTarget::Key(key.kid)], now);
            ends > now && known.is_none_or(|known| known < ends)
        };
        let unknown: Vec<_> = given_up.filter(lacks).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        // One that another broker has raised stands in every partition; of one that does not, the intent may be lost.
        let standing =
            try_join_all(Partition::all().map(|partition| self.store.blocks(partition, now))).await;
        let standing = standing.map_err(store_error)?;
        let everywhere =
            |fence: &FenceIntent| standing.iter().all(|of| of.iter().any(|it| it.id == fence.id));
        let whole = standing.first().into_iter().flatten().filter(|fence| everywhere(fence)).cloned();
        self.blocks.remember(&whole.collect::<Vec<_>>(), now);
        for key in unknown.iter().filter(|key| lacks(key)) {
            let mut trail = Trail::new("FenceKey", key.kid);
            trail.fact("by", "keyring");
            trail.fact("compromised_at", key.since);
            trail.fact("forget_at", self.key_fence_ends(key));
            self.intend(None, &trail, now).await?;
            reach(Place::KeyUnfenced);
            let note = "the keyring says that the key is compromised".to_owned();
            let by = Actor { spiffe_id: format!("spiffe://{}", self.settings.trust_domain), note };
            let raised = self.fence_key(key, by, now).await;
            if let Ok((receipt, _)) = &raised {
                tracing::warn!(kid = %key.kid, "a compromised key was not fenced; it is now");
                trail.fact("fence", receipt.id);
            }
            reach(Place::KeyFenceKept);
            self.conclude(trail, raised.map(drop), now).await?;
        }
        Ok(())
    }

    /// Every broker finds it due, and one is first: the others see that it is done.
    async fn move_what_is_due(&self, now: Timestamp) -> Result<()> {
        for what in self.keys.due(now).0 {
            // Not tried again and again: the next look is near.
            if matches!(&what, Move::Prepare(key_use, _) if self.keys.cannot_make(*key_use)) {
                continue;
            }
            let mut trail = Trail::new(name(&what), object(&what));
            trail.fact("by", "schedule");
            self.intend(None, &trail, now).await?;
            let made = self.keys.make(&what, false, now).await.map_err(keyring_error);
            match &made {
                Ok(Ok(moved)) => {
                    if !moved.steps.is_empty() {
                        self.announce_keyring(&moved.keyring).await;
                    }
                    trace(&mut trail, moved);
                }
                // Another broker was first.
                Ok(Err(refusal)) => trail.fact("not_made", refusal),
                Err(_) => {}
            }
            self.conclude(trail, made.map(drop), now).await?;
        }
        Ok(())
    }

    /// Tells other brokers. Nothing rests on it: they look by themselves, too.
    pub(super) async fn announce_keyring(&self, keyring: &Keyring) {
        let message = [&[ANNOUNCEMENT], keyring.sequence().to_be_bytes().as_slice()].concat();
        if let Err(error) = self.store.announce(&message).await {
            tracing::debug!(%error, "a change of the keyring was not announced");
        }
    }
}

/// What a move is called in the audit log.
pub(super) const fn name(what: &Move) -> &'static str {
    match what {
        Move::Prepare(..) => "PrepareKey",
        Move::Rotate(..) => "RotateKey",
        Move::Activate(_) => "ActivateKey",
        Move::Retire(_) => "RetireKey",
        Move::Compromise(_) => "CompromiseKey",
        Move::Request => "RequestTaskCaCertificate",
        Move::Install(_) => "InstallTaskCaCertificate",
    }
}

/// What it is about.
pub(super) fn object(what: &Move) -> String {
    match what {
        Move::Prepare(key_use, trust_domain) | Move::Rotate(key_use, trust_domain) => {
            format!("{} of {trust_domain}", key_use.as_str())
        }
        Move::Activate(kid) | Move::Retire(kid) | Move::Compromise(kid) => kid.to_string(),
        Move::Request => KeyUse::TaskCaIntermediate.as_str().to_owned(),
        Move::Install(chain) => chain.key().map(|kid| kid.to_string()).unwrap_or_default(),
    }
}

/// What it did, into the audit line.
pub(super) fn trace(trail: &mut Trail, moved: &Moved) {
    trail.fact("steps", in_words(&moved.steps));
    trail.fact("keyring_sequence", moved.keyring.sequence());
}

fn in_words(steps: &[Step]) -> String {
    let steps = steps.iter().map(|step| {
        let kid = step.kid.map_or_else(|| "new".to_owned(), |kid| kid.to_string());
        let from = step.from.map_or("made", KeyState::as_str);
        format!("{kid} {from} to {}", step.to.as_str())
    });
    steps.collect::<Vec<_>>().join(", ")
}

/// Puts on record what is changed in the keyring without anybody having asked.
pub struct KeyringRecord(Arc<dyn Sink>);

impl KeyringRecord {
    /// In this audit log.
    pub fn new(audit: Arc<dyn Sink>) -> Self {
        Self(audit)
    }

    fn trail(change: &Unasked) -> Trail {
        let mut trail = Trail::new("KeepKeyring", "keyring");
        if change.written_back {
            trail.fact("written_back", true);
        }
        if change.begun_anew {
            trail.fact("begun_anew", true);
        }
        if change.rewrapped {
            trail.fact("rewrapped", "under the present key-encryption key");
        }
        if change.forked {
            trail.fact("forked", true);
        }
        if !change.steps.is_empty() {
            trail.fact("steps", in_words(&change.steps));
        }
        trail
    }
}

#[async_trait]
impl Account for KeyringRecord {
    async fn intend(&self, change: &Unasked, now: Timestamp) -> Result<()> {
        self.0.write(Self::trail(change).event(None, Outcome::Intended, now)).await
    }

    async fn outcome(
        &self,
        change: &Unasked,
        written: std::result::Result<bool, KeyringError>,
        now: Timestamp,
    ) -> Result<()> {
        let mut trail = Self::trail(change);
        if let Ok(false) = written {
            trail.fact("not_made", "another broker was first");
        }
        let outcome = outcome(&written.map_err(keyring_error));
        self.0.write(trail.event(None, outcome, now)).await
    }
}

/// What this broker goes by, for its gauges.
fn show(keyring: &Keyring, now: Timestamp) {
    metrics::gauge!("taskpass_keyring_sequence").set(keyring.sequence() as f64);
    metrics::gauge!("taskpass_keyring_version").set(keyring.version() as f64);
    let ends = keyring.task_ca().map_or(Duration::ZERO, |ca| ca.not_after().since(now));
    metrics::gauge!("taskpass_task_ca_remaining_seconds").set(ends.as_secs_f64());
    for key_use in [KeyUse::Jwt, KeyUse::Feed, KeyUse::TaskCaIntermediate] {
        for state in KeyState::ALL {
            let count = keyring.keys().filter(|key| key.key_use == key_use && key.state == state).count();
            metrics::gauge!("taskpass_keys", "use" => key_use.as_str(), "state" => state.as_str())
                .set(count as f64);
        }
    }
}

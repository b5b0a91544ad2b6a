//! The stored keyring, watched: what another broker has changed is in force here a moment later, what is due by itself is done, and a store that was flushed while this broker lives
//! gets its keyring back, so that the next broker makes no new keys.
//!
//! A broker that has moved a key announces it; who does not hear that finds it at the next look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::audit::Outcome;
use crate::error::Result;
use crate::keys::{KeyState, KeyUse, Keyring, Move, Moved, Seen};
use crate::time::{Clock, Timestamp};

use super::Broker;
use super::keyring::keyring_error;
use super::trail::Trail;

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
        let mut said = String::new();
        while !stop.is_cancelled() {
            let now = self.clock.now();
            let next = match self.broker.keep_keyring(now).await {
                Ok(next) => {
                    said.clear();
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
            Seen::Lost => {
                tracing::error!(
                    "the store has lost the keyring, and this broker has not seen it there for too long to write it back"
                );
            }
            Seen::WrittenBack(ours) => {
                tracing::error!(ours, "the store had lost the keyring; it has one again");
                let mut trail = Trail::new("KeepKeyring", "keyring");
                trail.fact("written_back", ours);
                self.write_audit(None, trail, Outcome::Done, now).await?;
            }
        }
        let held = matches!(seen, Seen::Same | Seen::Changed | Seen::WrittenBack(true));
        in_store.set(if held { 1.0 } else { 0.0 });
        if held && self.check_audit().is_ok() {
            self.move_what_is_due(now).await?;
        }
        let signing = self.signing()?;
        show(&signing.keyring, now);
        Ok(self.keys.due(now).1)
    }

    /// Every broker finds it due, and one is first: the others see that it is done.
    async fn move_what_is_due(&self, now: Timestamp) -> Result<()> {
        for what in self.keys.due(now).0 {
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
    }
}

/// What it is about.
pub(super) fn object(what: &Move) -> String {
    match what {
        Move::Prepare(key_use, trust_domain) | Move::Rotate(key_use, trust_domain) => {
            format!("{} of {trust_domain}", key_use.as_str())
        }
        Move::Activate(kid) | Move::Retire(kid) | Move::Compromise(kid) => kid.to_string(),
    }
}

/// What it did, into the audit line.
pub(super) fn trace(trail: &mut Trail, moved: &Moved) {
    let steps = moved.steps.iter().map(|step| {
        let kid = step.kid.map_or_else(|| "new".to_owned(), |kid| kid.to_string());
        let from = step.from.map_or("made", KeyState::as_str);
        format!("{kid} {from} to {}", step.to.as_str())
    });
    trail.fact("steps", steps.collect::<Vec<_>>().join(", "));
    trail.fact("keyring_sequence", moved.keyring.sequence());
}

/// What this broker goes by, for its gauges.
fn show(keyring: &Keyring, now: Timestamp) {
    metrics::gauge!("taskpass_keyring_sequence").set(keyring.sequence() as f64);
    metrics::gauge!("taskpass_keyring_version").set(keyring.version() as f64);
    let ends = keyring.task_ca().not_after().since(now);
    metrics::gauge!("taskpass_task_ca_remaining_seconds").set(ends.as_secs_f64());
    for key_use in [KeyUse::Jwt, KeyUse::Feed, KeyUse::TaskCaIntermediate] {
        for state in KeyState::ALL {
            let count = keyring.keys().filter(|key| key.key_use == key_use && key.state == state).count();
            metrics::gauge!("taskpass_keys", "use" => key_use.as_str(), "state" => state.as_str())
                .set(count as f64);
        }
    }
}

//! The recording step that every credential passes before it is made (G1).

use std::sync::Arc;
use std::time::Duration;

use taskpass_verifier::keyset::KeyId;

use crate::error::{Error, Reason, Result};
use crate::failpoint::{Place, reach};
use crate::ids::{CredentialId, Generation, TaskId};
use crate::task::Status;
use crate::task::lifetime::{self, Bounds, TooShort, Wanted};
use crate::task::store::{CheckOutcome, RecordCredential, RecordOutcome};
use crate::time::Timestamp;

use super::Broker;
use super::keyring::Signing;
use super::tasks::{Known, ended, not_found, store_error};

/// How often the facts may change under a mint before it gives up.
const ATTEMPTS: usize = 4;

/// No credential may be made, for want of time.
pub(super) struct Short {
    left: u64,
    cut_by: Cut,
}

/// Which of the bounds leaves so little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Deadline,
    Caller,
    Signer,
    Policy,
    Asked,
}

impl Short {
    /// What is left of these bounds, for those who may do something about it. Where two leave the same, the one that can be moved.
    fn of(short: TooShort, bounds: &Bounds, now: Timestamp) -> Self {
        let until = |lifetime| Some(now.floor_to_second().saturating_add(lifetime));
        let ends = [
            (Cut::Deadline, Some(bounds.deadline)),
            (Cut::Caller, Some(bounds.caller_end)),
            (Cut::Signer, bounds.signer_end),
            (Cut::Policy, until(bounds.policy_cap)),
            (Cut::Asked, until(bounds.asked)),
        ];
        let ends = ends.into_iter().filter_map(|(cut, end)| Some((cut, end?)));
        let first = ends.min_by_key(|(_, end)| *end);
        Self { left: short.left.as_secs(), cut_by: first.map_or(Cut::Asked, |(cut, _)| cut) }
    }

    fn sentence(&self) -> String {
        let left = self.left;
        let smaller = "ask for a smaller minimum_lifetime";
        match self.cut_by {
            Cut::Deadline => format!("Only {left} s are left of the task; extend it, or {smaller}."),
            Cut::Caller => format!("Only {left} s are left of your certificate; renew it, or {smaller}."),
            Cut::Signer => format!(
                "Only {left} s are left of the key that signs; its operators must replace it, or {smaller}."
            ),
            Cut::Policy => format!("Policy allows only {left} s; {smaller}."),
            Cut::Asked => format!(
                "You asked for {left} whole seconds, which is less than minimum_lifetime; ask for a longer lifetime, or {smaller}."
            ),
        }
    }
}

/// When a credential expires that is made at `now`; see [`lifetime::expiry`].
pub(super) fn expiry(
    now: Timestamp,
    bounds: &Bounds,
    minimum: Duration,
) -> std::result::Result<Timestamp, Short> {
    lifetime::expiry(now, bounds, minimum).map_err(|short| Short::of(short, bounds, now))
}

/// A credential that may be made now.
pub(super) struct Recorded {
    pub(super) id: CredentialId,
    pub(super) generation: Generation,
    pub(super) began_seq: u64,
    pub(super) expires_at: Timestamp,
}

/// How long a credential is to live.
pub(super) fn wanted(
    lifetime: Option<Duration>,
    minimum: Option<Duration>,
    default: Duration,
) -> Result<Wanted> {
    let contradiction =
        || Error::new(Reason::InvalidDuration, "minimum_lifetime: at most lifetime, which it is longer than");
    Wanted::new(lifetime, minimum, default).ok_or_else(contradiction)
}

impl Broker {
    /// Records what `plan` makes of the task's facts and of what signs. If the decision rested on facts that have changed, reads them and plans again; and if the key was withdrawn by another
    /// broker a moment ago, takes up the next: `signing` is then what follows from that.
    pub(super) async fn record(
        &self,
        known: &mut Known,
        signing: &mut Arc<Signing>,
        now: Timestamp,
        plan: impl Fn(&Known, &Signing) -> Result<std::result::Result<RecordCredential, Short>>,
    ) -> Result<Recorded> {
        let (id, mut fenced) = (known.facts.id, None);
        for _ in 0..ATTEMPTS {
            let credential = plan(known, signing)?.map_err(|short| self.too_short(known, &short, now))?;
            if fenced == Some(credential.key) {
                return Err(key_fenced(&credential.key));
            }
            reach(Place::CredentialDecided);
            match self.store.record(credential, now).await.map_err(store_error)? {
                RecordOutcome::Recorded { .. } if self.feed.has_fenced(id.partition(), &credential.key) => {
                    fenced = Some(credential.key);
                    self.take_up_the_next(signing, now).await?;
                }
                RecordOutcome::KeyFenced => {
                    fenced = Some(credential.key);
                    self.take_up_the_next(signing, now).await?;
                }
                RecordOutcome::Recorded { id: recorded, .. }
                    if self.is_contradicted(recorded, &known.facts.lineage, credential.key, now).await =>
                {
                    self.known.remove(&id);
                    return Err(Error::new(Reason::TaskEnded, "The task has ended. Begin another."));
                }
                RecordOutcome::Recorded { id, generation, began_seq } => {
                    return Ok(Recorded { id, generation, began_seq, expires_at: credential.expires_at });
                }
                RecordOutcome::Stale => {
                    *known = self.read_task(id, now).await?.ok_or_else(|| not_found(id))?.0
                }
                RecordOutcome::Ended(end) => {
                    self.known.remove(&id);
                    return Err(ended(&Status::Ended(end)));
                }
                RecordOutcome::BeyondDeadline(deadline) => {
                    return Err(Error::internal(format_args!(
                        "a credential beyond its task's deadline {deadline}"
                    )));
                }
                RecordOutcome::Exhausted => {
                    metrics::counter!("taskpass_limit_reached_total", "limit" => "credentials_per_task")
                        .increment(1);
                    let most = credential.limit;
                    let sentence = format!(
                        "The task has been issued {most} credentials, which is the limit. Begin another task."
                    );
                    return Err(Error::new(Reason::TooManyCredentials, sentence));
                }
                RecordOutcome::Unknown => {
                    self.known.remove(&id);
                    return Err(not_found(id));
                }
            }
        }
        Err(Error::store("the task changes faster than a credential can be recorded"))
    }

    /// Whether the feed has told of the end of a credential that the store calls good, or of that of its key. What was told stays. Where the store still says so, somebody has put its record back.
    pub(super) async fn is_contradicted(
        &self,
        credential: CredentialId,
        ancestors: &[TaskId],
        key: KeyId,
        now: Timestamp,
    ) -> bool {
        let fenced = self.feed.has_fenced(credential.task.partition(), &key);
        if !fenced && !self.feed.speaks_against(&credential, ancestors) {
            return false;
        }
        // It may have ended just now.
        if let Ok(CheckOutcome::Active { .. }) = self.store.check(credential, key, now).await {
            metrics::counter!("taskpass_forged_records_total").increment(1);
            tracing::error!(%credential, "the store calls a credential good whose end this broker has told");
        }
        true
    }

    /// This broker has yet to hear that its key is no longer to be signed with: it looks now.
    async fn take_up_the_next(&self, signing: &mut Arc<Signing>, now: Timestamp) -> Result<()> {
        metrics::counter!("taskpass_mints_under_fenced_keys_total").increment(1);
        match self.keys.look(now).await {
            Ok(_) => {
                *signing = self.signing_now(now).await?;
                self.suspect_keys();
            }
            Err(error) => tracing::warn!(%error, "the stored keyring cannot be read"),
        }
        Ok(())
    }

    fn too_short(&self, known: &Known, short: &Short, now: Timestamp) -> Error {
        if known.deadline <= now {
            self.known.remove(&known.facts.id);
            return Error::new(Reason::TaskEnded, "The task has ended (deadline). Begin another.");
        }
        Error::new(Reason::NoLifetimeLeft, short.sentence())
    }
}

fn key_fenced(key: &KeyId) -> Error {
    let sentence =
        "The key that this broker signs with was withdrawn just now. Try again: it takes up the next.";
    Error::new(Reason::KeyFenced, sentence).with_detail(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_500);

    fn said(bounds: &Bounds) -> String {
        expiry(NOW, bounds, Duration::from_secs(60)).expect_err("too short").sentence()
    }

    #[test]
    fn what_leaves_too_little_is_what_is_blamed() {
        let far = Timestamp::from_secs(10_000);
        let wide = Bounds {
            asked: Duration::from_secs(120),
            policy_cap: Duration::from_secs(900),
            deadline: far,
            signer_end: Some(far),
            caller_end: far,
        };
        let soon = Timestamp::from_secs(1_020);
        let of = |bounds| said(&bounds);
        assert!(of(Bounds { deadline: soon, ..wide }).starts_with("Only 20 s are left of the task;"));
        assert!(
            of(Bounds { caller_end: soon, ..wide }).starts_with("Only 20 s are left of your certificate;")
        );
        assert!(
            of(Bounds { signer_end: Some(soon), ..wide }).contains("20 s are left of the key that signs")
        );
        let cap = Bounds { policy_cap: Duration::from_secs(20), ..wide };
        assert!(of(cap).starts_with("Policy allows only 20 s;"));
        let asked = Bounds { asked: Duration::from_secs(20), ..wide };
        assert!(of(asked).starts_with("You asked for 20 whole seconds,"));
    }
}

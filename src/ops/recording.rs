//! The recording step that every credential passes before it is made (G1).

use std::sync::Arc;
use std::time::Duration;

use taskpass_verifier::keyset::KeyId;

use crate::error::{Error, Reason, Result};
use crate::failpoint::{Place, reach};
use crate::ids::{CredentialId, Generation, TaskId};
use crate::task::Status;
use crate::task::lifetime::{TooShort, Wanted};
use crate::task::store::{CheckOutcome, RecordCredential, RecordOutcome};
use crate::time::Timestamp;

use super::Broker;
use super::keyring::Signing;
use super::tasks::{Known, ended, not_found, store_error};

/// How often the facts may change under a mint before it gives up.
const ATTEMPTS: usize = 4;

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
        plan: impl Fn(&Known, &Signing) -> Result<std::result::Result<RecordCredential, TooShort>>,
    ) -> Result<Recorded> {
        let (id, mut fenced) = (known.facts.id, None);
        for _ in 0..ATTEMPTS {
            let credential = plan(known, signing)?.map_err(|short| self.too_short(known, short, now))?;
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
            Ok(_) => *signing = self.signing_now(now).await?,
            Err(error) => tracing::warn!(%error, "the stored keyring cannot be read"),
        }
        Ok(())
    }

    fn too_short(&self, known: &Known, short: TooShort, now: Timestamp) -> Error {
        if known.deadline <= now {
            self.known.remove(&known.facts.id);
            return Error::new(Reason::TaskEnded, "The task has ended (deadline). Begin another.");
        }
        let left = short.left.max(Duration::ZERO).as_secs();
        let sentence = format!(
            "Only {left} s are left of the task, your certificate or the policy's cap; extend the task, renew the certificate, or ask for a smaller minimum_lifetime."
        );
        Error::new(Reason::NoLifetimeLeft, sentence)
    }
}

fn key_fenced(key: &KeyId) -> Error {
    let sentence =
        "The key that this broker signs with was withdrawn just now. Try again: it takes up the next.";
    Error::new(Reason::KeyFenced, sentence).with_detail(key)
}

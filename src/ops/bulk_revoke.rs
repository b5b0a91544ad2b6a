//! The end of everything of a workload or a trust domain, and the way of any fence: an intent in one place, a fence in every partition, then success.

use futures_util::future::join_all;
use uuid::Uuid;

use crate::audit::Outcome;
use crate::error::{Error, Reason, Result};
use crate::failpoint::{Place, reach};
use crate::feed::{Applied, Concern, Sent};
use crate::ids::{self, PARTITIONS, Partition};
use crate::policy::action::{self, BlockFor};
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::task::state::Actor;
use crate::task::store::StepResult;
use crate::time::{Clock, Timestamp};

use super::command::{RevokeAll, RevokeTarget};
use super::propagation::Spread;
use super::tasks::store_error;
use super::trail::Trail;
use super::{Broker, Caller, answer};

impl Broker {
    /// Ends all tasks of a workload or of a trust domain. Success means that every partition has the fence; before that the error is
    /// one to retry, and the broker goes on by itself.
    pub async fn revoke_all(
        &self,
        caller: &Caller,
        command: RevokeAll,
        now: Timestamp,
    ) -> Result<(answer::FenceReceipt, Applied)> {
        let (action, object) = match &command.target {
            RevokeTarget::Workload(id) => ("RevokeWorkload", id.to_string()),
            RevokeTarget::TrustDomain(name) => ("RevokeTrustDomain", name.to_string()),
        };
        let mut trail = Trail::new(action, object);
        let wait = command.wish.wait;
        let result = self.fence(caller, command, now, &mut trail).await;
        let (receipt, spread) = self.finish(caller, trail, result, now).await?;
        Ok((receipt, self.propagated(&spread, wait).await))
    }

    async fn fence(
        &self,
        caller: &Caller,
        command: RevokeAll,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(answer::FenceReceipt, Spread)> {
        // One that is not served is ended all the same: it may have been taken out of the configuration, and its tasks are still in the store.
        let (target, served) = match &command.target {
            RevokeTarget::Workload(id) => {
                let _permit =
                    self.permit::<action::RevokeWorkload>(caller, id, BlockFor(command.block_for), trail)?;
                (FenceTarget::Workload(id.to_string()), self.serves(id.trust_domain()))
            }
            RevokeTarget::TrustDomain(name) => {
                let _permit = self.permit::<action::RevokeTrustDomain>(
                    caller,
                    name,
                    BlockFor(command.block_for),
                    trail,
                )?;
                (FenceTarget::TrustDomain(name.to_string()), self.serves(name))
            }
        };
        let block_until = now.saturating_add(command.block_for);
        let last_task = now.saturating_add(self.settings.lifetimes.max_task);
        let intent = FenceIntent {
            id: new_intent_id(now)?,
            target,
            at: now,
            block_until,
            forget_at: last_task.max(block_until),
            by: Actor { spiffe_id: caller.spiffe_id().to_string(), note: command.wish.note },
        };
        trail.fact("fence", intent.id);
        trail.fact("block_until", intent.block_until);
        trail.fact("served", served);
        self.raise_fence(&intent, served, now).await
    }

    /// The whole way of an intent that is decided.
    pub(super) async fn raise_fence(
        &self,
        intent: &FenceIntent,
        served: bool,
        now: Timestamp,
    ) -> Result<(answer::FenceReceipt, Spread)> {
        reach(Place::FenceDecided);
        self.store.intend(intent).await.map_err(store_error)?;
        reach(Place::FenceIntended);
        let at = self.raise_everywhere(intent, now).await?;
        self.finish_intent(intent).await?;
        let lifetimes = &self.settings.lifetimes;
        let receipt = answer::FenceReceipt {
            id: intent.id,
            ended_at: intent.at,
            blocked_until: Some(intent.block_until).filter(|until| *until > now),
            expires_by: now.saturating_add(lifetimes.max_token.max(lifetimes.max_certificate)),
            durability: self.store.durability(),
            partitions: PARTITIONS,
            served,
        };
        let concern = match &intent.target {
            FenceTarget::Workload(_) | FenceTarget::TrustDomain(_) => Concern::All,
            FenceTarget::Key(key) => self.feed.concern_of(key),
        };
        Ok((receipt, Spread { at, concern, again: None }))
    }

    /// Finishes every intent that is still there: our own that met a silent store, and those of brokers that died. One that cannot be finished now does not
    /// hold up the others; the first error is the answer.
    pub(super) async fn finish_intents(&self, clock: &dyn Clock) -> Result<()> {
        let mut result = Ok(());
        for intent in self.store.intents().await.map_err(store_error)? {
            tracing::info!(fence = %intent.id, target = intent.target.key(), "finishing a bulk end");
            let now = clock.now();
            let finished = async {
                self.raise_everywhere(&intent, now).await?;
                self.write_audit(None, finishing(&intent), Outcome::Done, now).await?;
                reach(Place::FenceFinishAudited);
                self.finish_intent(&intent).await
            };
            result = result.and(finished.await);
        }
        result
    }

    /// Idempotent: a partition that has the fence is left as it is.
    async fn raise_everywhere(&self, intent: &FenceIntent, now: Timestamp) -> Result<Vec<(Partition, Sent)>> {
        // What refuses new tasks does so here from the first partition on. The fence of a key follows from the keyring, for as long as it is not known to stand everywhere.
        let at_once = !matches!(intent.target, FenceTarget::Key(_));
        if at_once {
            self.blocks.remember(std::slice::from_ref(intent), now);
        }
        let raised = join_all(Partition::all().map(async |partition| {
            let raised = self.store.raise(partition, intent, now).await;
            reach(Place::FenceRaisedInSome);
            raised.map(|position| (partition, Sent::from(position)))
        }));
        let raised: StepResult<Vec<_>> = raised.await.into_iter().collect();
        let raised = raised.map_err(|error| {
            let sentence =
                "The end is recorded but not yet in force everywhere. Try again until this succeeds.";
            Error::new(Reason::NotFinished, sentence).with_detail(error)
        })?;
        if !at_once {
            self.blocks.remember(std::slice::from_ref(intent), now);
        }
        // Places of what has just died can be taken at once.
        self.full.clear();
        reach(Place::FenceRaised);
        Ok(raised)
    }

    async fn finish_intent(&self, intent: &FenceIntent) -> Result<()> {
        self.store.finish(intent.id).await.map_err(store_error)?;
        reach(Place::FenceFinished);
        Ok(())
    }
}

/// The line for an end that this broker finishes and somebody asked another for, or asked for before.
fn finishing(intent: &FenceIntent) -> Trail {
    let action = match intent.target {
        FenceTarget::Workload(_) | FenceTarget::TrustDomain(_) => "FinishRevocation",
        FenceTarget::Key(_) => "FinishKeyFence",
    };
    let mut trail = Trail::new(action, intent.target.name());
    trail.fact("fence", intent.id);
    trail.fact("by", &intent.by.spiffe_id);
    trail.fact("asked_at", intent.at);
    trail.fact("block_until", intent.block_until);
    trail
}

pub(super) fn new_intent_id(now: Timestamp) -> Result<Uuid> {
    Ok(uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &ids::random()?).into_uuid())
}

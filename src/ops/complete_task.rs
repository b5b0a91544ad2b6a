//! The end of one task: by its owner, or by an operator. One write; every credential of it and of all below it is dead when this returns.

use crate::error::{Reason, Result};
use crate::failpoint::{Place, reach};
use crate::feed::{Applied, Concern};
use crate::ids::TaskId;
use crate::policy::action::{self, TaskFacts as PolicyTask};
use crate::revoke::feed::Happened;
use crate::task::state::{Actor, EndReason};
use crate::task::store::{EndOutcome, EndTask, Position, TaskView};
use crate::task::{Status, TaskFacts};
use crate::time::Timestamp;

use super::command::EndWish;
use super::decide::for_policy;
use super::follow::{concern_of, may_lack_mints};
use super::propagation::Spread;
use super::tasks::{not_found, store_error};
use super::trail::Trail;
use super::{Broker, Caller, answer};

impl Broker {
    /// Completes the caller's own task. Idempotent: the first end stays, and later calls are told of it.
    pub async fn complete_task(
        &self,
        caller: &Caller,
        id: TaskId,
        wish: EndWish,
        now: Timestamp,
    ) -> Result<(answer::Task, answer::Receipt, Applied)> {
        let mut trail = Trail::new("CompleteTask", id);
        let result = self.complete(caller, id, wish.note, now, &mut trail).await;
        let (task, receipt) = self.finish(caller, trail, result, now).await?;
        let concern = concern_of(&task.facts, task.may_have_certificate);
        let spread = spread_of(id, &receipt, concern);
        let applied = self.propagated(&spread, wish.wait).await;
        let applied = until_clocks_agree(applied, &task);
        Ok((task, receipt, applied))
    }

    async fn complete(
        &self,
        caller: &Caller,
        id: TaskId,
        note: String,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(answer::Task, answer::Receipt)> {
        let known = self.known_task(id, now).await?.ok_or_else(|| not_found(id))?;
        let _permit = self.permit_on_task::<action::CompleteTask>(caller, &known.facts, (), trail)?;
        let end = self.end_of(caller, id, EndReason::Completed, note, None);
        match self.end_in_store(end, now).await? {
            EndOutcome::Ended(view, position) => {
                self.ended(id, &known.facts, &view, (position, false), now, trail).await
            }
            EndOutcome::AlreadyEnded(view, position) => {
                let again = has_entry(&view);
                self.ended(id, &known.facts, &view, (position, again), now, trail).await
            }
            EndOutcome::Buried(_) | EndOutcome::Unknown => {
                self.known.remove(&id);
                Err(not_found(id))
            }
        }
    }

    /// Ends anybody's task, for an operator; also one that the store has lost, or whose record was tampered with.
    pub async fn revoke_task(
        &self,
        caller: &Caller,
        id: TaskId,
        wish: EndWish,
        now: Timestamp,
    ) -> Result<(Option<answer::Task>, answer::Receipt, Applied)> {
        let mut trail = Trail::new("RevokeTask", id);
        let result = self.revoke_one(caller, id, wish.note, now, &mut trail).await;
        let (task, receipt) = self.finish(caller, trail, result, now).await?;
        let concern = match &task {
            Some(task) => concern_of(&task.facts, task.may_have_certificate),
            None => Concern::All,
        };
        let spread = spread_of(id, &receipt, concern);
        let applied = self.propagated(&spread, wish.wait).await;
        let applied = match &task {
            Some(task) => until_clocks_agree(applied, task),
            None => applied,
        };
        Ok((task, receipt, applied))
    }

    async fn revoke_one(
        &self,
        caller: &Caller,
        id: TaskId,
        note: String,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(Option<answer::Task>, answer::Receipt)> {
        // A record that nobody can read must not keep its task alive: it is ended as one that is lost.
        let known = match self.known_task(id, now).await {
            Err(error) if error.reason() == Reason::Internal => {
                trail.fact("unreadable", error.log_line());
                None
            }
            known => known?,
        };
        let task = known.as_ref().map_or(PolicyTask::unknown(id), |known| for_policy(&known.facts));
        let _permit = self.permit::<action::RevokeTask>(caller, task, (), trail)?;
        let bury = Some(self.settings.lifetimes.max_task);
        let end = self.end_of(caller, id, EndReason::Revoked, note, bury);
        let (view, position, again) = match self.end_in_store(end, now).await? {
            EndOutcome::Ended(view, position) => (Some(view), position, false),
            EndOutcome::AlreadyEnded(view, position) => {
                let again = has_entry(&view);
                (Some(view), position, again)
            }
            EndOutcome::Buried(position) => (None, position, false),
            EndOutcome::Unknown => return Err(not_found(id)),
        };
        let readable = view
            .filter(|view| !view.record.head.tombstone)
            .and_then(|view| Some((self.unseal(id, &view.record).ok()?, view)));
        let Some((known, view)) = readable else {
            return Ok((None, self.ended_unread(id, (position, again), now, trail)));
        };
        let (task, receipt) = self.ended(id, &known.facts, &view, (position, again), now, trail).await?;
        Ok((Some(task), receipt))
    }

    /// The receipt for a task of which nothing is known any more. What it may have minted dies by the ceilings at the latest.
    fn ended_unread(
        &self,
        id: TaskId,
        (position, again): (Position, bool),
        now: Timestamp,
        trail: &mut Trail,
    ) -> answer::Receipt {
        trail.fact("unknown_to_the_store", true);
        self.known.remove(&id);
        answer::Receipt {
            ended_at: now,
            expires_by: Some(self.longest_after(now)),
            durability: self.store.durability(),
            position,
            again,
        }
    }

    /// When the last of all that was issued until `end` has expired, whatever it was.
    fn longest_after(&self, end: Timestamp) -> Timestamp {
        end.saturating_add(self.settings.lifetimes.max_certificate.max(self.settings.lifetimes.max_token))
    }

    async fn end_in_store(&self, end: EndTask, now: Timestamp) -> Result<EndOutcome> {
        reach(Place::EndDecided);
        let outcome = self.store.end(end, now).await.map_err(store_error)?;
        reach(Place::EndStored);
        Ok(outcome)
    }

    fn end_of(
        &self,
        caller: &Caller,
        id: TaskId,
        reason: EndReason,
        note: String,
        bury_unknown: Option<std::time::Duration>,
    ) -> EndTask {
        let by = Actor { spiffe_id: caller.spiffe_id().to_string(), note };
        EndTask { id, reason, by, retention: self.settings.lifetimes.retention, bury_unknown }
    }

    async fn ended(
        &self,
        id: TaskId,
        facts: &std::sync::Arc<TaskFacts>,
        view: &TaskView,
        (position, again): (Position, bool),
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(answer::Task, answer::Receipt)> {
        self.known.remove(&id);
        // The place goes by itself at the deadline, or when it is missed: a failure here is no failure of the end.
        if let Err(error) = self.store.release(facts.owner.as_str(), &[id]).await {
            tracing::debug!(task = %id, %error, "the place of an ended task is not given back yet");
        }
        reach(Place::EndReleased);
        let ended_at = match &view.status {
            Status::Ended(end) => {
                trail.fact("end", end.reason.as_str());
                end.at
            }
            Status::Live => now,
        };
        trail.fact("seq", position.seq);
        let lacks = may_lack_mints(self.store.as_ref(), id, now);
        let unknown = lacks.then(|| self.longest_after(ended_at));
        let receipt = answer::Receipt {
            ended_at,
            expires_by: view.record.head.last_expiry.max(unknown).filter(|last| *last > now),
            durability: self.store.durability(),
            position,
            again,
        };
        let task = answer::Task {
            facts: std::sync::Arc::clone(facts),
            status: view.status.clone(),
            deadline: view.record.head.deadline,
            credentials: view.record.head.credentials,
            may_have_certificate: lacks || view.may_have_certificate(),
        };
        Ok((task, receipt))
    }
}

/// Whether the end of a task that had ended before is an entry of its own in the history, as a call like this one has written it.
fn has_entry(view: &TaskView) -> bool {
    view.record
        .head
        .end
        .is_some_and(|(reason, _)| matches!(reason, EndReason::Completed | EndReason::Revoked))
}

/// How far the clocks of two brokers may be apart.
pub(super) const CLOCKS_APART: std::time::Duration = std::time::Duration::from_secs(5);

/// A deadline is judged by each verifier by the clock of its broker, and nobody is told of it.
fn until_clocks_agree(applied: Applied, task: &answer::Task) -> Applied {
    match &task.status {
        Status::Ended(end) if end.reason == EndReason::Deadline => {
            let closed_by = applied.closed_by.max(end.at.saturating_add(CLOCKS_APART));
            Applied { closed_by, ..applied }
        }
        _ => applied,
    }
}

fn spread_of(id: TaskId, receipt: &answer::Receipt, concern: Concern) -> Spread {
    let spread = Spread::from(id.partition(), receipt.position, concern);
    if receipt.again { spread.again(Happened::TaskEnded(id)) } else { spread }
}

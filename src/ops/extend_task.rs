//! A later deadline, within the cap that policy set when the task began.

use std::time::Duration;

use crate::error::{Error, Reason, Result};
use crate::failpoint::{Place, reach};
use crate::ids::TaskId;
use crate::policy::action;
use crate::task::Status;
use crate::task::store::ExtendOutcome;
use crate::time::Timestamp;

use super::tasks::{ended, not_found, store_error};
use super::trail::Trail;
use super::{Broker, Caller, answer};

impl Broker {
    /// Moves the deadline to `lifetime` from now, cut to the task's latest deadline. A deadline that is later already stays.
    pub async fn extend_task(
        &self,
        caller: &Caller,
        id: TaskId,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<answer::Task> {
        let mut trail = Trail::new("ExtendTask", id);
        let result = self.extend(caller, id, lifetime, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn extend(
        &self,
        caller: &Caller,
        id: TaskId,
        lifetime: Duration,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<answer::Task> {
        let (known, view) = self.read_task(id, now).await?.ok_or_else(|| not_found(id))?;
        Self::owned(caller, &known.facts)?;
        let asked = action::Lifetime(lifetime);
        let _permit = self.permit_on_task::<action::ExtendTask>(caller, &known.facts, asked, trail)?;
        if !view.status.is_live() {
            return Err(ended(&view.status));
        }
        let deadline = now.saturating_add(lifetime).min(known.facts.latest_deadline);
        trail.fact("deadline", deadline);
        if deadline <= view.record.head.deadline {
            return Ok(Self::answer_task(&known, &view));
        }
        // The place first: it must not go before the task does.
        let limit = u32::MAX;
        let reserved = self.store.reserve(known.facts.owner.as_str(), id, deadline, limit, now).await;
        reserved.map_err(store_error)?.map_err(|_| Error::internal("a place without limit was refused"))?;
        reach(Place::ExtendReserved);
        let extended = self.store.extend(id, deadline, now).await.map_err(store_error)?;
        reach(Place::ExtendStored);
        match extended {
            ExtendOutcome::Extended(view) => {
                let known = self.unseal(id, &view.record)?;
                self.known.insert(id, known.clone());
                Ok(Self::answer_task(&known, &view))
            }
            ExtendOutcome::Ended(end) => Err(ended(&Status::Ended(end))),
            // Somebody else moved it further in the meantime.
            ExtendOutcome::NotLater(_) => {
                let (known, view) = self.read_task(id, now).await?.ok_or_else(|| not_found(id))?;
                Ok(Self::answer_task(&known, &view))
            }
            ExtendOutcome::BeyondParent(parent) => Err(Error::new(
                Reason::NoLifetimeLeft,
                format!("The task above it ends at {parent}; no task outlives the one above it."),
            )),
            ExtendOutcome::Unknown => Err(not_found(id)),
        }
    }
}

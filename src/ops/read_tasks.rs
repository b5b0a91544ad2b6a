//! Looking at tasks.

use std::collections::HashMap;

use crate::error::Result;
use crate::identity::SpiffeId;
use crate::ids::TaskId;
use crate::policy::action::{self, Owners};
use crate::task::store;
use crate::time::Timestamp;

use super::command::ListTasks;
use super::tasks::{not_found, store_error};
use super::trail::Trail;
use super::{Broker, Caller, answer};

impl Broker {
    /// One task.
    pub async fn get_task(&self, caller: &Caller, id: TaskId, now: Timestamp) -> Result<answer::Task> {
        let mut trail = Trail::new("GetTask", id);
        let result = self.get(caller, id, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn get(
        &self,
        caller: &Caller,
        id: TaskId,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<answer::Task> {
        let (known, view) = self.read_task(id, now).await?.ok_or_else(|| not_found(id))?;
        let _permit = self.permit_on_task::<action::GetTask>(caller, &known.facts, (), trail)?;
        Ok(Self::answer_task(&known, &view))
    }

    /// The caller's own tasks; for operators those of a workload, or of all workloads that policy lets them see. A record that was tampered with is
    /// left out, with an alarm. The second value is where to go on; there may be more after a page that is not full.
    pub async fn list_tasks(
        &self,
        caller: &Caller,
        command: ListTasks,
        now: Timestamp,
    ) -> Result<(Vec<answer::Task>, Option<TaskId>)> {
        let mut trail = Trail::new("ListTasks", "");
        let result = self.list(caller, command, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn list(
        &self,
        caller: &Caller,
        command: ListTasks,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(Vec<answer::Task>, Option<TaskId>)> {
        let own = caller.spiffe_id();
        let owner = match (command.all_owners, command.owner) {
            (true, _) => None,
            (false, Some(owner)) => Some(owner),
            (false, None) => Some(own.clone()),
        };
        trail.object(owner.as_ref().map_or("*", |o| o.as_str()));
        match &owner {
            Some(owner) if owner == own => {
                self.permit::<action::ListTasks>(caller, (), (), trail).map(drop)?
            }
            Some(owner) => {
                self.permit::<action::ListAllTasks>(caller, Owners::Of(owner), (), trail).map(drop)?
            }
            None => self.permit::<action::ListAllTasks>(caller, Owners::All, (), trail).map(drop)?,
        }
        let of_all = owner.is_none();
        let query = store::ListTasks {
            owner: owner.map(|o| o.to_string()),
            live_only: command.live_only,
            after: command.after,
            limit: command.limit,
        };
        let page = self.store.list(query, now).await.map_err(store_error)?;
        let (mut tasks, mut asked) = (Vec::with_capacity(page.tasks.len()), HashMap::new());
        for view in page.tasks.iter().filter(|view| !view.record.head.tombstone) {
            let Ok(known) = self.unseal(view.id, &view.record) else {
                // It is counted and logged as an error where it is found, and hides none of the others.
                trail.fact("unreadable", view.id);
                continue;
            };
            let owner = &known.facts.owner;
            let seen = !of_all
                || owner == own
                || *asked.entry(owner.clone()).or_insert_with(|| self.may_see(caller, owner));
            if seen {
                tasks.push(Self::answer_task(&known, view));
            }
        }
        Ok((tasks, page.next))
    }

    /// Whether the answer to a call for everybody's tasks may name those of `owner`.
    fn may_see(&self, caller: &Caller, owner: &SpiffeId) -> bool {
        // A refusal of one is no refusal of the call, and has no place in its line.
        let mut aside = Trail::new("ListTasks", "");
        self.permit::<action::ListAllTasks>(caller, Owners::Of(owner), (), &mut aside).is_ok()
    }
}

//! Looking at tasks.

use crate::error::Result;
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

    /// The caller's own tasks; for operators anybody's. A record that was tampered with is left out, with an alarm. The second value is where to go on.
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
        let query = store::ListTasks {
            owner: owner.map(|o| o.to_string()),
            live_only: command.live_only,
            after: command.after,
            limit: command.limit,
        };
        let page = self.store.list(query, now).await.map_err(store_error)?;
        let mut tasks = Vec::with_capacity(page.tasks.len());
        for view in page.tasks.iter().filter(|view| !view.record.head.tombstone) {
            match self.unseal(view.id, &view.record) {
                Ok(known) => tasks.push(Self::answer_task(&known, view)),
                // It is counted and logged as an error where it is found, and hides none of the others.
                Err(_) => trail.fact("unreadable", view.id),
            }
        }
        Ok((tasks, page.next))
    }
}

//! Looking at tasks.

use std::collections::HashMap;

use crate::error::Result;
use crate::identity::SpiffeId;
use crate::ids::TaskId;
use crate::keys::TaskList;
use crate::policy::action::{self, Owners};
use crate::task::store::{self, PAGE_BYTES, TaskView};
use crate::time::Timestamp;

use super::command::{ListTasks, unknown_page_token};
use super::tasks::{Known, not_found, store_error};
use super::trail::Trail;
use super::{Broker, Caller, answer};

/// How often a page goes to the store for more, before it is returned short.
const ROUNDS: usize = 8;
/// Tasks that it looks at in each round but the first.
const LOOK_AT: usize = 500;

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
    /// left out, with an alarm. The second value is the token to go on with; there may be more after a page that is not full, or empty.
    pub async fn list_tasks(
        &self,
        caller: &Caller,
        command: ListTasks,
        now: Timestamp,
    ) -> Result<(Vec<answer::Task>, Option<String>)> {
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
    ) -> Result<(Vec<answer::Task>, Option<String>)> {
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
        let (keyring, token) = (self.keyring(), command.page_token);
        let seal = keyring.page_seal();
        let list = TaskList { caller: own, owner: owner.as_ref(), live_only: command.live_only };
        let query = store::ListTasks {
            owner: owner.as_ref().map(ToString::to_string),
            within: None,
            live_only: command.live_only,
            after: match token.is_empty() {
                true => None,
                false => Some(seal.open(list, &token).ok_or_else(unknown_page_token)?),
            },
            limit: command.limit,
        };
        let (tasks, next) = self.gather(caller, query, now, trail).await?;
        Ok((tasks, next.map(|place| seal.seal(list, place)).transpose()?))
    }

    /// A page of what the caller may see, of at most about [`PAGE_BYTES`]. It looks past what is hidden from the caller, but not for ever: then the page is short,
    /// or empty, and not the last.
    async fn gather(
        &self,
        caller: &Caller,
        mut query: store::ListTasks,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(Vec<answer::Task>, Option<TaskId>)> {
        let (mut tasks, mut bytes, wanted) = (Vec::new(), 0, query.limit);
        let mut asked = HashMap::new();
        for _ in 0..ROUNDS {
            let page = self.store.list(query.clone(), now).await.map_err(store_error)?;
            let last = page.tasks.last().map(|view| view.id);
            for view in &page.tasks {
                let Some(known) = self.readable(view, trail) else { continue };
                let owner = &known.facts.owner;
                let seen = query.owner.is_some()
                    || owner == caller.spiffe_id()
                    || *asked.entry(owner.clone()).or_insert_with(|| self.may_see(caller, owner));
                if !seen {
                    continue;
                }
                tasks.push(Self::answer_task(&known, view));
                bytes += view.record.weight();
                if tasks.len() >= wanted || bytes >= PAGE_BYTES {
                    return Ok((tasks, if last == Some(view.id) { page.next } else { Some(view.id) }));
                }
            }
            if page.next.is_none() {
                return Ok((tasks, None));
            }
            (query.after, query.limit) = (page.next, LOOK_AT);
        }
        Ok((tasks, query.after))
    }

    /// What a listed task is, unless it is a tombstone or was tampered with.
    pub(super) fn readable(&self, view: &TaskView, trail: &mut Trail) -> Option<Known> {
        if view.record.head.tombstone {
            return None;
        }
        let known = self.unseal(view.id, &view.record);
        // It is counted and logged as an error where it is found, and hides none of the others.
        known.inspect_err(|_| trail.fact("unreadable", view.id)).ok()
    }

    /// Whether the answer to a call for everybody's tasks may name those of `owner`.
    pub(super) fn may_see(&self, caller: &Caller, owner: &SpiffeId) -> bool {
        // A refusal of one is no refusal of the call, and has no place in its line.
        let mut aside = Trail::new("ListTasks", "");
        self.permit::<action::ListAllTasks>(caller, Owners::Of(owner), (), &mut aside).is_ok()
    }
}

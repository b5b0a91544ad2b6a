//! Which tasks hold what a key has signed: for those who give it up, before and afterwards.
//!
//! Records of credentials do not name their key. But a key signs from one known moment to another, and each record says when it was made: what was made in between, for
//! the key's trust domain, was made under it; around those two moments, for as long as brokers may disagree, it may have been.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::ids::TaskId;
use crate::keys::{KeyUse, KeyView, TaskList};
use crate::policy::action::{self, Keys};
use crate::task::TaskFacts;
use crate::task::store::{self, CredentialKind, CredentialRecord};
use crate::time::Timestamp;

use super::command::{ListAffectedTasks, unknown_page_token};
use super::move_key::find;
use super::tasks::store_error;
use super::trail::Trail;
use super::{Broker, Caller, answer};

/// Credentials that are read at a time.
const CREDENTIALS: usize = 500;

impl Broker {
    /// A page of the live tasks with unexpired credentials that the key has signed, or may have, and the token to go on with.
    pub async fn list_affected_tasks(
        &self,
        caller: &Caller,
        command: ListAffectedTasks,
        now: Timestamp,
    ) -> Result<(Vec<answer::AffectedTask>, Option<String>)> {
        let mut trail = Trail::new("ListAffectedTasks", command.kid);
        let result = self.affected_tasks(caller, command, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn affected_tasks(
        &self,
        caller: &Caller,
        command: ListAffectedTasks,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(Vec<answer::AffectedTask>, Option<String>)> {
        let keyring = self.newest_keyring(now).await?;
        let key = find(&keyring, &command.kid);
        let of = key.as_ref().map_or(Keys::Any, |key| Keys::Of(&key.trust_domain));
        let _permit = self.permit::<action::ListAffectedTasks>(caller, of, (), trail)?;
        let key = key?;
        let list = TaskList { caller: caller.spiffe_id(), owner: None, live_only: true };
        let seal = keyring.page_seal();
        let after = match command.page_token.is_empty() {
            true => None,
            false => Some(seal.open(list, &command.page_token).ok_or_else(unknown_page_token)?),
        };
        if key.signed.is_none() || key.key_use == KeyUse::Feed {
            return Ok((Vec::new(), None));
        }
        let (tasks, next) = self.affected_page(caller, &key, after, command.limit, now, trail).await?;
        Ok((tasks, next.map(|place| seal.seal(list, place)).transpose()?))
    }

    async fn affected_page(
        &self,
        caller: &Caller,
        key: &KeyView,
        after: Option<TaskId>,
        limit: usize,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(Vec<answer::AffectedTask>, Option<TaskId>)> {
        let query = store::ListTasks { owner: None, within: None, live_only: true, after, limit };
        let page = self.store.list(query, now).await.map_err(store_error)?;
        let (mut affected, mut asked) = (Vec::new(), HashMap::new());
        for view in page.tasks.iter().filter(|view| view.record.head.credentials > 0) {
            let Some(known) = self.readable(view, trail) else { continue };
            let Some((credentials, expires_by)) = self.signed_under(key, &known.facts, now).await? else {
                continue;
            };
            let facts = Arc::clone(&known.facts);
            let sees =
                *asked.entry(facts.owner.clone()).or_insert_with(|| self.may_see(caller, &facts.owner));
            let task = sees.then(|| Self::answer_task(&known, view));
            affected.push(answer::AffectedTask { facts, task, credentials, expires_by });
        }
        Ok((affected, page.next))
    }

    /// How many unexpired credentials of the task the key has signed, or may have, and when the last of them expires.
    async fn signed_under(
        &self,
        key: &KeyView,
        facts: &TaskFacts,
        now: Timestamp,
    ) -> Result<Option<(u32, Timestamp)>> {
        let (mut found, mut from) = (None, Some(0));
        while let Some(at) = from {
            let (records, next) =
                self.store.credentials(facts.id, at, CREDENTIALS, now).await.map_err(store_error)?;
            for record in records.iter().filter(|record| self.may_have_signed(key, facts, record)) {
                let (count, last) = found.unwrap_or((0u32, record.expires_at));
                found = Some((count.saturating_add(1), last.max(record.expires_at)));
            }
            from = next;
        }
        Ok(found)
    }

    fn may_have_signed(&self, key: &KeyView, facts: &TaskFacts, record: &CredentialRecord) -> bool {
        let in_time = key.may_have_signed(record.issued_at, self.keys.plan().times.agreement);
        let of_its_use = match record.kind {
            CredentialKind::Certificate => key.key_use == KeyUse::TaskCaIntermediate,
            CredentialKind::Token => {
                let audience =
                    facts.grants.get(usize::from(record.grant)).map(|grant| grant.audience.as_str());
                // Of an audience that is registered no more nobody knows: it may be.
                let whose = audience.and_then(|uri| self.audience(uri).ok());
                let fits = whose.is_none_or(|audience| *audience.trust_domain() == key.trust_domain);
                key.key_use == KeyUse::Jwt && fits
            }
        };
        in_time && of_its_use && !record.revoked
    }
}

//! Looking at the credentials of a task, and ending one of them.

use std::time::Duration;

use crate::error::{Error, Reason, Result};
use crate::failpoint::{Place, reach};
use crate::feed::Applied;
use crate::ids::{CredentialId, TaskId};
use crate::policy::action;
use crate::revoke::feed::Happened;
use crate::task::store::{CredentialKind, CredentialRecord};
use crate::task::{Status, TaskFacts};
use crate::time::Timestamp;

use super::follow::concern_of;
use super::propagation::Spread;
use super::tasks::{not_found, store_error};
use super::trail::Trail;
use super::{Broker, Caller, answer};

impl Broker {
    /// The unexpired credentials of a task, and the number to go on from.
    pub async fn list_credentials(
        &self,
        caller: &Caller,
        task: TaskId,
        from: u32,
        limit: usize,
        now: Timestamp,
    ) -> Result<(Vec<answer::Credential>, Option<u32>)> {
        let mut trail = Trail::new("ListCredentials", task);
        let result = self.credentials_of(caller, task, from, limit, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn credentials_of(
        &self,
        caller: &Caller,
        task: TaskId,
        from: u32,
        limit: usize,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(Vec<answer::Credential>, Option<u32>)> {
        // What the broker remembers does not count: the store may have forgotten the task, and its credentials with it.
        let (known, view) = self.read_task(task, now).await?.ok_or_else(|| not_found(task))?;
        let _permit = self.permit_on_task::<action::ListCredentials>(caller, &known.facts, (), trail)?;
        let (records, next) = self.store.credentials(task, from, limit, now).await.map_err(store_error)?;
        let answered = records.into_iter().map(|record| answered(&known.facts, record, &view.status, now));
        Ok((answered.collect(), next))
    }

    /// Ends one credential and leaves its task alive.
    pub async fn revoke_credential(
        &self,
        caller: &Caller,
        id: CredentialId,
        wait: Option<Duration>,
        now: Timestamp,
    ) -> Result<(answer::Credential, Applied)> {
        let mut trail = Trail::new("RevokeCredential", id);
        let result = self.revoke_one_credential(caller, id, now, &mut trail).await;
        let (credential, spread) = self.finish(caller, trail, result, now).await?;
        Ok((credential, self.propagated(&spread, wait).await))
    }

    async fn revoke_one_credential(
        &self,
        caller: &Caller,
        id: CredentialId,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(answer::Credential, Spread)> {
        let missing = || {
            Error::new(
                Reason::CredentialNotFound,
                format!("There is no unexpired credential {id} that you may see."),
            )
        };
        let known = self.known_task(id.task, now).await?.ok_or_else(missing)?;
        if let Err(error) = self.permit_on_task::<action::RevokeCredential>(caller, &known.facts, (), trail) {
            let hidden = error.reason() == Reason::TaskNotFound;
            return Err(if hidden { missing().with_detail(error.log_line()) } else { error });
        }
        reach(Place::CredentialEndDecided);
        let (record, position) =
            self.store.revoke(id, now).await.map_err(store_error)?.ok_or_else(missing)?;
        reach(Place::CredentialRevoked);
        trail.fact("seq", position.seq);
        let concern = concern_of(&known.facts, record.kind == CredentialKind::Certificate);
        let spread = Spread::from(id.task.partition(), position, concern);
        let spread = spread.again(Happened::CredentialRevoked(id));
        // It is revoked now, which comes before all that may have ended its task.
        Ok((answered(&known.facts, record, &Status::Live, now), spread))
    }
}

fn answered(
    facts: &TaskFacts,
    record: CredentialRecord,
    task: &Status,
    now: Timestamp,
) -> answer::Credential {
    let audience = match record.kind {
        CredentialKind::Certificate => String::new(),
        CredentialKind::Token => {
            facts.grants.get(usize::from(record.grant)).map(|g| g.audience.clone()).unwrap_or_default()
        }
    };
    answer::Credential { record, audience, state: answer::CredentialState::of(&record, task, now) }
}

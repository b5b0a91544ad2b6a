//! Asking policy, and what its answer looks like from outside.

use std::sync::Arc;

use crate::audience::Audience;
use crate::error::{Error, Reason, Result};
use crate::identity::TrustDomain;
use crate::policy::action::{self, Action, Listed};
use crate::policy::{Denied, Permit, Principal};
use crate::task::TaskFacts;
use crate::time::Timestamp;

use super::tasks::not_found;
use super::trail::Trail;
use super::{Broker, Caller};

impl Broker {
    /// A permit, or a denial whose reason is public.
    pub(super) fn permit<'a, A: Action>(
        &self,
        caller: &Caller,
        resource: A::Resource<'a>,
        context: A::Context<'a>,
        trail: &mut Trail,
    ) -> Result<Permit<A>> {
        let decided = self.policy.decide::<A>(&Principal::of(&caller.peer), resource, context);
        noted(decided, trail)
    }

    /// A permit on a task. To a caller who does not own it a denial looks as if there were no such task.
    pub(super) fn permit_on_task<'a, A>(
        &self,
        caller: &Caller,
        task: &'a TaskFacts,
        context: A::Context<'a>,
        trail: &mut Trail,
    ) -> Result<Permit<A>>
    where
        A: Action<Resource<'a> = action::TaskFacts<'a>>,
    {
        self.permit::<A>(caller, for_policy(task), context, trail)
            .map_err(|error| hidden(caller, task, error))
    }

    /// Only its owner mints of a task, certifies for it or moves its deadline, whatever policy says. Before anything else is looked at, so that no other
    /// refusal tells a stranger that there is such a task.
    pub(super) fn owned(caller: &Caller, task: &TaskFacts) -> Result<()> {
        if task.owner == *caller.spiffe_id() {
            return Ok(());
        }
        Err(not_found(task.id).with_detail(format_args!("NOT_THE_OWNER: it is a task of {}", task.owner)))
    }

    /// Only those who are enrolled in the register verify for an audience, whatever policy says.
    pub(super) fn enrolled(caller: &Caller, audience: &Audience) -> Result<()> {
        if audience.is_verifier(caller.spiffe_id()) {
            return Ok(());
        }
        let sentence =
            "You are not enrolled as a verifier of this audience. Its declaration names those who are.";
        Err(Error::new(Reason::PolicyDenied, sentence))
    }

    /// A registered audience.
    pub(super) fn audience(&self, uri: &str) -> Result<Arc<Audience>> {
        let found = self.audiences.snapshot().get(uri).map(Arc::clone);
        found.map_err(|_| no_audience(uri))
    }

    /// Whether the caller may know that there is such an audience: who is enrolled for it, and whom ListAudiences names it to.
    pub(super) fn sees(&self, caller: &Caller, audience: &Audience) -> bool {
        let mut aside = Trail::new("ListAudiences", "");
        audience.is_verifier(caller.spiffe_id())
            || [Listed::Register, Listed::Audience(audience)]
                .into_iter()
                .all(|it| self.permit::<action::ListAudiences>(caller, it, (), &mut aside).is_ok())
    }

    /// A refusal at an audience. Where the caller may not see the audience, it looks as if there were none.
    pub(super) fn unless_hidden(&self, caller: &Caller, audience: &Audience, error: Error) -> Error {
        if self.sees(caller, audience) {
            return error;
        }
        no_audience(audience.uri().as_str()).with_detail(error.log_line())
    }

    /// Whether workloads of the trust domain may connect.
    pub(super) fn serves(&self, trust_domain: &TrustDomain) -> bool {
        self.settings.trust_domains.contains(trust_domain)
    }

    /// The `iss` of the tokens for an audience.
    pub(super) fn issuer(&self, audience: &Audience) -> Result<&str> {
        let issuer = self.settings.issuers.get(audience.trust_domain());
        issuer.map(String::as_str).ok_or_else(|| {
            Error::new(
                Reason::UnknownAudience,
                "The broker issues no tokens for the audience's trust domain.",
            )
            .with_detail(audience.trust_domain())
        })
    }

    /// May the caller use the health service?
    pub async fn permit_health(&self, caller: &Caller, now: Timestamp) -> Result<()> {
        self.permit_standard::<action::CheckHealth>(caller, now).await
    }

    /// May the caller use the reflection service?
    pub async fn permit_reflection(&self, caller: &Caller, now: Timestamp) -> Result<()> {
        self.permit_standard::<action::Reflect>(caller, now).await
    }

    async fn permit_standard<A>(&self, caller: &Caller, now: Timestamp) -> Result<()>
    where
        A: for<'a> Action<Resource<'a> = (), Context<'a> = ()>,
    {
        let mut trail = Trail::new(A::NAME, "");
        let permitted = self.permit::<A>(caller, (), (), &mut trail).map(drop);
        self.finish(caller, trail, permitted, now).await
    }
}

/// Puts what decided into the audit line.
pub(super) fn noted<A: Action>(
    decided: std::result::Result<Permit<A>, Denied>,
    trail: &mut Trail,
) -> Result<Permit<A>> {
    let basis = match &decided {
        Ok(permit) => permit.basis(),
        Err(denied) => {
            trail.why(denied.reason.as_str());
            &denied.basis
        }
    };
    basis.policies.iter().for_each(|policy| trail.why(policy));
    decided.map_err(Error::from)
}

/// What policy may know of a task.
pub(super) fn for_policy(task: &TaskFacts) -> action::TaskFacts<'_> {
    action::TaskFacts {
        id: task.id,
        root: task.root(),
        depth: u32::try_from(task.lineage.len()).unwrap_or(u32::MAX),
        owner: Some(&task.owner),
        subject: task.subject.as_deref(),
    }
}

/// The same words whether there is no such audience or the caller may not see it.
pub(super) fn no_audience(uri: &str) -> Error {
    let sentence =
        format!("There is no audience {uri:?} that you may see. ListAudiences names those that there are.");
    Error::new(Reason::UnknownAudience, sentence)
}

/// A denial on a task of somebody else must not tell that there is one.
fn hidden(caller: &Caller, task: &TaskFacts, error: Error) -> Error {
    let denied = error.reason() == Reason::PolicyDenied;
    if denied && task.owner != *caller.spiffe_id() {
        not_found(task.id).with_detail(error.log_line())
    } else {
        error
    }
}

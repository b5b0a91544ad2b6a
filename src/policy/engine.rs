//! The decision.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cedar_policy::{Authorizer, Decision, PolicyId, Request, Response};
use tokio_util::sync::CancellationToken;

use super::action::{Action, Facts, Resource};
use super::caps::Caps;
use super::contexts::context_of;
use super::decisions::Question;
use super::entities::unfit;
use super::permit::{Basis, Denial, Denied, Permit};
use super::set::PolicySet;
use crate::files::{Looked, Problems, Watched};
use crate::identity::{SpiffeId, VerifiedPeer};

/// A decision that takes longer is a denial. It takes microseconds; what takes this long is not well.
pub const TIME_LIMIT: Duration = Duration::from_millis(250);

/// Who asks: a caller whose identity has been proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(SpiffeId);

impl Principal {
    /// The peer of a connection.
    pub fn of(peer: &VerifiedPeer) -> Self {
        Self(peer.spiffe_id().clone())
    }

    /// A caller whom nobody has verified: for tests, benchmarks and the examination of policies.
    pub const fn assume_verified(id: SpiffeId) -> Self {
        Self(id)
    }

    /// The caller's SPIFFE ID.
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.0
    }
}

/// Decides by the policies in force. Cheap to clone.
#[derive(Clone)]
pub struct PolicyEngine {
    policies: Arc<Watched<PolicySet>>,
    authorizer: Authorizer,
    time_limit: Duration,
}

impl PolicyEngine {
    /// Reads the policies of a directory; every problem in one report. A directory without any policy is refused: though
    /// nothing would be permitted, it is surely not what was meant. Emptied later, it takes effect.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Problems> {
        Ok(Self::over(Watched::open(dir)?))
    }

    /// Policies that never change.
    pub fn fixed(policies: PolicySet) -> Self {
        Self::over(Watched::fixed(policies))
    }

    fn over(policies: Watched<PolicySet>) -> Self {
        Self { policies: Arc::new(policies), authorizer: Authorizer::new(), time_limit: TIME_LIMIT }
    }

    /// Sets another limit than [`TIME_LIMIT`].
    #[must_use]
    pub const fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// The policies in force.
    pub fn policies(&self) -> Arc<PolicySet> {
        self.policies.snapshot()
    }

    /// Reads the directory now; a change is taken when two looks find the same. May block on the disk.
    pub fn look(&self) -> Looked {
        self.policies.look()
    }

    /// Looks every `interval` until `stop`.
    pub async fn keep_looking(self, interval: Duration, stop: CancellationToken) {
        self.policies.keep_looking(interval, stop).await;
    }

    /// One decision. Pure but for the policies in force and a stopwatch.
    pub fn decide<'a, A: Action>(
        &self,
        caller: &Principal,
        resource: A::Resource<'a>,
        context: A::Context<'a>,
    ) -> Result<Permit<A>, Denied> {
        self.decide_in(&self.policies.get(), caller, &resource.into(), &context.into())
    }

    /// Several decisions by the same policies, all of which must be permits: the first denial is the answer. Their caps are
    /// combined to the least. Nothing to decide is a denial.
    pub fn decide_all<'a, A: Action>(
        &self,
        caller: &Principal,
        asked: impl IntoIterator<Item = (A::Resource<'a>, A::Context<'a>)>,
    ) -> Result<Permit<A>, Denied> {
        let policies = self.policies.get();
        let mut decided = None::<Permit<A>>;
        for (resource, context) in asked {
            let permit = self.decide_in(&policies, caller, &resource.into(), &context.into())?;
            decided = Some(match decided {
                Some(before) => before.and(permit),
                None => permit,
            });
        }
        decided.ok_or_else(|| Denied {
            reason: Denial::NotPermitted,
            basis: Box::new(basis::<A>(&policies, caller, Vec::new())),
        })
    }

    fn decide_in<A: Action>(
        &self,
        policies: &PolicySet,
        caller: &Principal,
        resource: &Resource<'_>,
        facts: &Facts<'_>,
    ) -> Result<Permit<A>, Denied> {
        let begin = Instant::now();
        let decide = || match self.evaluate(policies, A::PLACE, caller, resource, facts) {
            Ok(response) => judge(policies, &response),
            Err(denial) => Err((denial, Vec::new())),
        };
        let outcome = match Question::new(A::PLACE, caller.spiffe_id(), resource, facts) {
            Some(question) => policies.decisions.of(&question, decide),
            None => decide(),
        };
        let outcome = match begin.elapsed() > self.time_limit {
            true => Err((Denial::TooSlow, Vec::new())),
            false => outcome,
        };
        match outcome {
            Ok((caps, by)) => Ok(Permit::granted(basis::<A>(policies, caller, by), caps)),
            Err((reason, by)) => Err(Denied { reason, basis: Box::new(basis::<A>(policies, caller, by)) }),
        }
    }

    fn evaluate(
        &self,
        policies: &PolicySet,
        action: usize,
        caller: &Principal,
        resource: &Resource<'_>,
        facts: &Facts<'_>,
    ) -> Result<Response, Denial> {
        if policies.is_empty() {
            return Err(Denial::NoPolicies);
        }
        let principal = policies.caller(caller.spiffe_id())?;
        let target = policies.resource(resource)?;
        let chosen = policies.index.choose(action, &principal.known, &target)?;
        let context = context_of(caller.spiffe_id(), resource, facts)?;
        let action = policies.vocabulary.action(action).ok_or_else(|| unfit("an action without a name"))?;
        let (asks, about) = (principal.known.uid.clone(), target.uid.clone());
        let request = Request::new(asks, action.clone(), about, context, None).map_err(unfit)?;
        let entities = policies.entities(&principal, &target, resource)?;
        Ok(self.authorizer.is_authorized(&request, &chosen, &entities))
    }
}

/// What was decided, and the policies that determined it.
pub(super) type Judgement = Result<(Caps, Vec<Arc<str>>), (Denial, Vec<Arc<str>>)>;

/// Cedar skips a policy that fails; here it makes the decision a denial (A15).
fn judge(policies: &PolicySet, response: &Response) -> Judgement {
    let errors: Vec<_> = response.diagnostics().errors().collect();
    if let Some(first) = errors.first() {
        let failed = errors.iter().map(|error| match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(error) => error.policy_id(),
        });
        return Err((Denial::PolicyError(first.to_string()), names(policies, failed)));
    }
    let by = names(policies, response.diagnostics().reason());
    match response.decision() {
        Decision::Deny if by.is_empty() => Err((Denial::NotPermitted, by)),
        Decision::Deny => Err((Denial::Forbidden, by)),
        Decision::Allow => {
            let rules = response.diagnostics().reason().filter_map(|id| policies.rules.get(id));
            let caps = rules.map(|rule| rule.caps).reduce(Caps::either);
            caps.map(|caps| (caps, by)).ok_or((Denial::NotPermitted, Vec::new()))
        }
    }
}

fn names<'a>(policies: &PolicySet, ids: impl Iterator<Item = &'a PolicyId>) -> Vec<Arc<str>> {
    let mut names: Vec<_> =
        ids.filter_map(|id| policies.rules.get(id)).map(|rule| Arc::clone(&rule.id)).collect();
    names.sort();
    names
}

fn basis<A: Action>(policies: &PolicySet, caller: &Principal, by: Vec<Arc<str>>) -> Basis {
    Basis { caller: caller.spiffe_id().clone(), action: A::NAME, policies: by, policy_set: policies.digest() }
}

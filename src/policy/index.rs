//! Which policies can matter to a decision, by their scope alone.
//!
//! Cedar looks at every policy that it is handed, at more than a microsecond each. A policy's scope (principal, action,
//! resource) is compared first and cannot fail, so that a policy whose scope does not match neither decides nor errs: leaving
//! it out changes nothing. What is chosen here may be more than what matches, never less; a property test holds that.
//!
//! Sets of candidates are rows of bits, a bit for each policy. The sets of policies that the rows stand for are made on
//! first use and kept: how many there are depends on the policies, not on who asks, and is bounded all the same.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint,
};
use quick_cache::sync::Cache;

use super::entities::{Known, unfit};
use super::permit::Denial;

/// Sets of candidates that are kept.
const KEPT: usize = 1_024;

type Row = Box<[u64]>;

pub(super) struct Index {
    /// Without their scope, where it is compared here.
    policies: Vec<Policy>,
    actions: Vec<Row>,
    principals: Side,
    resources: Side,
    chosen: Cache<Row, Arc<PolicySet>>,
}

/// Policies by what they say of one side of the scope.
#[derive(Default)]
struct Side {
    any: Row,
    is: HashMap<EntityTypeName, Row>,
    equal: HashMap<EntityUid, Row>,
    within: HashMap<EntityUid, Row>,
}

/// What a policy says of one side of its scope.
enum Scope {
    Any,
    Is(EntityTypeName),
    Equal(EntityUid),
    /// In it or equal to it.
    Within(EntityUid),
    /// `is T in X`: here as `in X`, and compared again by Cedar.
    WithinAtLeast(EntityUid),
}

impl Index {
    pub(super) fn new(policies: Vec<Policy>, actions: &[EntityUid]) -> Self {
        let empty: Row = vec![0; policies.len().div_ceil(64)].into();
        let side = || Side { any: empty.clone(), ..Side::default() };
        let (mut principals, mut resources) = (side(), side());
        let mut rows = vec![empty.clone(); actions.len()];
        for (number, policy) in policies.iter().enumerate() {
            principals.add(Scope::from(policy.principal_constraint()), number, &empty);
            resources.add(Scope::from(policy.resource_constraint()), number, &empty);
            let constraint = policy.action_constraint();
            for (action, row) in actions.iter().zip(&mut rows) {
                let applies = match &constraint {
                    ActionConstraint::Any => true,
                    ActionConstraint::In(several) => several.contains(action),
                    ActionConstraint::Eq(one) => one == action,
                };
                if applies {
                    set(row, number);
                }
            }
        }
        let policies = policies.into_iter().map(|policy| without_scope(&policy).unwrap_or(policy)).collect();
        Self { policies, actions: rows, principals, resources, chosen: Cache::new(KEPT) }
    }

    /// The policies whose scope can match.
    pub(super) fn choose(
        &self,
        action: usize,
        principal: &Known,
        resource: &Known,
    ) -> Result<Arc<PolicySet>, Denial> {
        let row = self.actions.get(action).ok_or_else(|| unfit("an action without a place"))?;
        let (principals, resources) = (self.principals.row(principal), self.resources.row(resource));
        let both = principals.iter().zip(&resources);
        let row: Row = row.iter().zip(both).map(|(a, (p, r))| a & p & r).collect();
        self.chosen.get_or_insert_with(&row, || self.build(&row))
    }

    /// How many policies there are.
    pub(super) const fn len(&self) -> usize {
        self.policies.len()
    }

    fn build(&self, row: &Row) -> Result<Arc<PolicySet>, Denial> {
        let chosen = self.policies.iter().enumerate().filter(|(number, _)| is_set(row, *number));
        PolicySet::from_policies(chosen.map(|(_, policy)| policy.clone())).map(Arc::new).map_err(unfit)
    }
}

/// The policy for requests whose action matches its scope, and whose principal and resource do as far as they are compared here.
/// `None` where Cedar cannot write it down; then the policy stays as it is.
fn without_scope(policy: &Policy) -> Option<Policy> {
    let mut json = policy.to_json().ok()?;
    let parts = json.as_object_mut()?;
    let any = serde_json::json!({ "op": "All" });
    parts.insert("action".to_owned(), any.clone())?;
    if !matches!(policy.principal_constraint(), PrincipalConstraint::IsIn(..)) {
        parts.insert("principal".to_owned(), any.clone())?;
    }
    if !matches!(policy.resource_constraint(), ResourceConstraint::IsIn(..)) {
        parts.insert("resource".to_owned(), any)?;
    }
    Policy::from_json(Some(policy.id().clone()), json).ok()
}

impl Side {
    fn add(&mut self, scope: Scope, number: usize, empty: &Row) {
        let row = match scope {
            Scope::Any => &mut self.any,
            Scope::Is(kind) => self.is.entry(kind).or_insert_with(|| empty.clone()),
            Scope::Equal(uid) => self.equal.entry(uid).or_insert_with(|| empty.clone()),
            Scope::Within(uid) | Scope::WithinAtLeast(uid) => {
                self.within.entry(uid).or_insert_with(|| empty.clone())
            }
        };
        set(row, number);
    }

    fn row(&self, it: &Known) -> Row {
        let mut row = self.any.clone();
        let exact = [self.is.get(it.uid.type_name()), self.equal.get(&it.uid), self.within.get(&it.uid)];
        let above = it.ancestors.iter().map(|ancestor| self.within.get(ancestor));
        for more in exact.into_iter().chain(above).flatten() {
            row.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
        }
        row
    }
}

fn set(row: &mut Row, number: usize) {
    if let Some(word) = row.get_mut(number / 64) {
        *word |= 1 << (number % 64);
    }
}

fn is_set(row: &Row, number: usize) -> bool {
    row.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
}

impl From<PrincipalConstraint> for Scope {
    fn from(constraint: PrincipalConstraint) -> Self {
        match constraint {
            PrincipalConstraint::Any => Self::Any,
            PrincipalConstraint::In(uid) => Self::Within(uid),
            PrincipalConstraint::IsIn(_, uid) => Self::WithinAtLeast(uid),
            PrincipalConstraint::Eq(uid) => Self::Equal(uid),
            PrincipalConstraint::Is(kind) => Self::Is(kind),
        }
    }
}

impl From<ResourceConstraint> for Scope {
    fn from(constraint: ResourceConstraint) -> Self {
        match constraint {
            ResourceConstraint::Any => Self::Any,
            ResourceConstraint::In(uid) => Self::Within(uid),
            ResourceConstraint::IsIn(_, uid) => Self::WithinAtLeast(uid),
            ResourceConstraint::Eq(uid) => Self::Equal(uid),
            ResourceConstraint::Is(kind) => Self::Is(kind),
        }
    }
}

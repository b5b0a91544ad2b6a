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
    /// In it or equal to it. `is T in X` counts as `in X`.
    Within(EntityUid),
}

impl Index {
    pub(super) fn new(policies: Vec<Policy>, actions: &[EntityUid]) -> Self {
        let empty: Row = vec![0; policies.len().div_ceil(64)].into();
        let side = || Side { any: empty.clone(), ..Side::default() };
        let (mut principals, mut resources) = (side(), side());
        let mut rows = vec![empty.clone(); actions.len()];
        for (number, policy) in policies.iter().enumerate() {
            principals.add(policy.principal_constraint().into(), number, &empty);
            resources.add(policy.resource_constraint().into(), number, &empty);
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

    /// All policies.
    pub(super) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    fn build(&self, row: &Row) -> Result<Arc<PolicySet>, Denial> {
        let chosen = self.policies.iter().enumerate().filter(|(number, _)| is_set(row, *number));
        PolicySet::from_policies(chosen.map(|(_, policy)| policy.clone())).map(Arc::new).map_err(unfit)
    }
}

impl Side {
    fn add(&mut self, scope: Scope, number: usize, empty: &Row) {
        let row = match scope {
            Scope::Any => &mut self.any,
            Scope::Is(kind) => self.is.entry(kind).or_insert_with(|| empty.clone()),
            Scope::Equal(uid) => self.equal.entry(uid).or_insert_with(|| empty.clone()),
            Scope::Within(uid) => self.within.entry(uid).or_insert_with(|| empty.clone()),
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
            PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => Self::Within(uid),
            PrincipalConstraint::Eq(uid) => Self::Equal(uid),
            PrincipalConstraint::Is(kind) => Self::Is(kind),
        }
    }
}

impl From<ResourceConstraint> for Scope {
    fn from(constraint: ResourceConstraint) -> Self {
        match constraint {
            ResourceConstraint::Any => Self::Any,
            ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => Self::Within(uid),
            ResourceConstraint::Eq(uid) => Self::Equal(uid),
            ResourceConstraint::Is(kind) => Self::Is(kind),
        }
    }
}

//! Our things as Cedar's: uids, entities and contexts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use cedar_policy::{Context, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use taskpass_verifier::claims::ToolName;

use super::action::{self, Facts, Judged, Resource, TaskFacts};
use super::permit::Denial;
use crate::audience::Audience;
use crate::identity::{SpiffeId, TrustDomain};

/// The one [`Resource::Broker`].
const BROKER: &str = "taskpass";

/// The names of types and actions, parsed once.
pub(super) struct Vocabulary {
    pub(super) workload: EntityTypeName,
    pub(super) trust_domain: EntityTypeName,
    broker: EntityTypeName,
    subject: EntityTypeName,
    audience: EntityTypeName,
    task: EntityTypeName,
    actions: Vec<EntityUid>,
}

/// A thing that takes part in a decision.
pub(super) struct Known {
    pub(super) uid: EntityUid,
    /// What it is in.
    pub(super) ancestors: Vec<EntityUid>,
    pub(super) entity: Entity,
}

/// Something that Cedar did not take. Not to be expected: entities and contexts are made by the schema.
pub(super) fn unfit(why: impl Display) -> Denial {
    Denial::PolicyError(why.to_string())
}

impl Vocabulary {
    pub(super) fn new() -> Result<Self, String> {
        let name = |name: &str| {
            EntityTypeName::from_str(&format!("Taskpass::{name}")).map_err(|why| why.to_string())
        };
        let action = name("Action")?;
        Ok(Self {
            workload: name("Workload")?,
            trust_domain: name("TrustDomain")?,
            broker: name("Broker")?,
            subject: name("Subject")?,
            audience: name("Audience")?,
            task: name("Task")?,
            actions: action::ALL.iter().map(|name| uid(&action, name)).collect(),
        })
    }

    pub(super) fn action(&self, place: usize) -> Option<&EntityUid> {
        self.actions.get(place)
    }

    pub(super) fn actions(&self) -> &[EntityUid] {
        &self.actions
    }

    pub(super) fn workload(&self, id: &SpiffeId) -> Result<Known, Denial> {
        let attributes = [
            ("spiffe_id", text(id.as_str())),
            ("trust_domain", text(id.trust_domain().as_str())),
            ("path", text(id.path())),
        ];
        known(uid(&self.workload, id.as_str()), attributes, vec![self.domain(id.trust_domain())])
    }

    pub(super) fn resource(&self, resource: &Resource<'_>) -> Result<Known, Denial> {
        match resource {
            Resource::Broker => known(uid(&self.broker, BROKER), [], Vec::new()),
            Resource::TrustDomain(name) => known(self.domain(name), [], Vec::new()),
            Resource::Workload(id) => self.workload(id),
            Resource::Subject(name) => known(uid(&self.subject, name), [("name", text(name))], Vec::new()),
            Resource::Audience(audience) => self.audience(audience),
            Resource::Task(task) => self.task(task),
        }
    }

    fn domain(&self, name: &TrustDomain) -> EntityUid {
        uid(&self.trust_domain, name.as_str())
    }

    fn audience(&self, audience: &Audience) -> Result<Known, Denial> {
        let attributes = [
            ("uri", text(audience.uri().as_str())),
            ("trust_domain", text(audience.trust_domain().as_str())),
            ("profile", text(audience.profile().as_str())),
            ("labels", texts(audience.labels())),
        ];
        let ancestors = vec![self.domain(audience.trust_domain())];
        known(uid(&self.audience, audience.uri().as_str()), attributes, ancestors)
    }

    fn task(&self, task: &TaskFacts<'_>) -> Result<Known, Denial> {
        let owner = task.owner.map(|owner| uid(&self.workload, owner.as_str()));
        let attributes = [
            Some(("root", text(&task.root.to_string()))),
            Some(("depth", RestrictedExpression::new_long(task.depth.into()))),
            owner.clone().map(|owner| ("owner", RestrictedExpression::new_entity_uid(owner))),
            task.subject.map(|subject| ("subject", text(subject))),
        ];
        let domain = task.owner.map(|owner| self.domain(owner.trust_domain()));
        let ancestors = owner.into_iter().chain(domain).collect();
        known(uid(&self.task, &task.id.to_string()), attributes.into_iter().flatten(), ancestors)
    }
}

fn known(
    uid: EntityUid,
    attributes: impl IntoIterator<Item = (&'static str, RestrictedExpression)>,
    ancestors: Vec<EntityUid>,
) -> Result<Known, Denial> {
    let attributes: HashMap<_, _> =
        attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let parents: HashSet<_> = ancestors.iter().cloned().collect();
    let entity = Entity::new(uid.clone(), attributes, parents).map_err(unfit)?;
    Ok(Known { uid, ancestors, entity })
}

/// The context of a decision, as the schema has it for the action.
pub(super) fn context(
    caller: &SpiffeId,
    resource: &Resource<'_>,
    facts: &Facts<'_>,
) -> Result<Context, Denial> {
    let mut pairs = Vec::with_capacity(7);
    let mut put = |name: &str, value| pairs.push((name.to_owned(), value));
    if let Resource::Task(task) = resource {
        put("is_owner", RestrictedExpression::new_bool(task.owner == Some(caller)));
    }
    match (facts, resource) {
        (Facts::Nothing, _) => {}
        (Facts::Lifetime(asked), _) => put("lifetime_seconds", seconds(*asked)),
        (Facts::BlockFor(asked), _) => put("block_for_seconds", seconds(*asked)),
        (Facts::Begin(facts), Resource::Audience(audience)) => {
            put("tools", tools(facts.tools));
            put("labels", labels(audience, facts.tools)?);
            put("lifetime_seconds", seconds(facts.lifetime));
            put("has_subject", RestrictedExpression::new_bool(facts.has_subject));
            put("depth", RestrictedExpression::new_long(facts.depth.into()));
        }
        (Facts::Mint(facts), Resource::Audience(audience)) => {
            put("is_owner", RestrictedExpression::new_bool(facts.task.owner == Some(caller)));
            put("tools", tools(facts.tools));
            put("labels", labels(audience, facts.tools)?);
            put("lifetime_seconds", seconds(facts.lifetime));
            put("binding", text(facts.binding.as_str()));
            put("has_subject", RestrictedExpression::new_bool(facts.task.subject.is_some()));
            put("depth", RestrictedExpression::new_long(facts.task.depth.into()));
        }
        (Facts::Judged(what), Resource::Audience(audience)) => {
            put("is_verifier", RestrictedExpression::new_bool(audience.is_verifier(caller)));
            put("credential", text(if *what == Judged::Token { "token" } else { "certificate" }));
        }
        (Facts::Begin(_) | Facts::Mint(_) | Facts::Judged(_), _) => {
            return Err(unfit("facts of an audience without one"));
        }
    }
    Context::from_pairs(pairs).map_err(unfit)
}

fn tools(names: &[&ToolName]) -> RestrictedExpression {
    texts(names.iter().map(|name| name.as_str()))
}

/// The labels, in the register, of the tools asked for.
fn labels(audience: &Audience, names: &[&ToolName]) -> Result<RestrictedExpression, Denial> {
    let mut labels = BTreeSet::new();
    for name in names {
        labels.extend(audience.tool(name.as_str()).ok_or(Denial::UnknownTool)?.labels());
    }
    Ok(texts(labels))
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> RestrictedExpression {
    RestrictedExpression::new_set(values.into_iter().map(text))
}

/// Whole seconds, rounded up, so that a policy's limit is never passed by a fraction.
fn seconds(duration: Duration) -> RestrictedExpression {
    let rounded = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    RestrictedExpression::new_long(i64::try_from(rounded).unwrap_or(i64::MAX))
}

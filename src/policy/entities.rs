//! Our things as Cedar's entities.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::str::FromStr;

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use super::action::{self, Resource, TaskFacts};
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

/// A workload that asks, with the entities of a request that is about nothing else.
pub(super) struct Caller {
    pub(super) id: SpiffeId,
    pub(super) known: Known,
    alone: Entities,
}

impl Caller {
    /// The entities of a request that is about others too.
    pub(super) fn with<'a>(&self, others: impl IntoIterator<Item = &'a Known>) -> Result<Entities, Denial> {
        let others = others.into_iter().filter(|other| other.uid != self.known.uid);
        self.alone.clone().add_entities(others.map(|other| other.entity.clone()), None).map_err(unfit)
    }
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

    pub(super) fn caller(&self, id: &SpiffeId) -> Result<Caller, Denial> {
        let known = self.workload(id)?;
        let alone = Entities::from_entities([known.entity.clone()], None).map_err(unfit)?;
        Ok(Caller { id: id.clone(), known, alone })
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

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

pub(super) fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

pub(super) fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> RestrictedExpression {
    RestrictedExpression::new_set(values.into_iter().map(text))
}

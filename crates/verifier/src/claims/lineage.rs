use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use crate::ids::TaskId;
use crate::refusal::Refusal;
use crate::wire;

/// Most ancestors of a task.
pub const MAX_LINEAGE: usize = 8;

/// The ancestors of a task, root first, without the task itself; empty for a root task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Lineage(Vec<TaskId>);

impl Lineage {
    /// Refuses more than [`MAX_LINEAGE`] ancestors.
    pub fn new(ancestors: Vec<TaskId>) -> Result<Self, Refusal> {
        if ancestors.len() > MAX_LINEAGE { Err(Refusal::BrokenLineage) } else { Ok(Self(ancestors)) }
    }

    /// The ancestors, root first.
    pub fn ancestors(&self) -> &[TaskId] {
        &self.0
    }

    /// The root of the tree of a `task` with this lineage.
    pub fn root_of(&self, task: TaskId) -> TaskId {
        self.0.first().copied().unwrap_or(task)
    }

    /// Whether `task` can have this lineage: one partition, and no task twice.
    pub(super) fn fits(&self, task: TaskId) -> bool {
        let mut rest = self.0.as_slice();
        while let [first, others @ ..] = rest {
            if first.partition() != task.partition() || *first == task || others.contains(first) {
                return false;
            }
            rest = others;
        }
        true
    }
}

impl<'de> Deserialize<'de> for Lineage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LineageVisitor;
        impl<'de> Visitor<'de> for LineageVisitor {
            type Value = Lineage;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of task ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Lineage, A::Error> {
                let mut ancestors = Vec::new();
                while let Some(task) = seq.next_element()? {
                    if ancestors.len() == MAX_LINEAGE {
                        return Err(wire::refused(Refusal::BrokenLineage));
                    }
                    ancestors.push(task);
                }
                Ok(Lineage(ancestors))
            }
        }
        deserializer.deserialize_seq(LineageVisitor)
    }
}

//! What a task may do at one audience, and how it narrows.

use std::collections::BTreeMap;

use taskpass_verifier::claims::ToolName;
use taskpass_verifier::constraint::Constraints;

/// The most audiences of one task.
pub const MAX_GRANTS: usize = 16;
/// The most tools of one grant.
pub const MAX_TOOLS: usize = 128;

/// The most bytes of all grants of one task, as they are stored. With the longest goal, subject and owner the facts of a task stay below 16 KiB.
pub const MAX_GRANT_BYTES: usize = 8 * 1024;

/// What a task may do at one audience.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Canonical URI of the audience.
    pub audience: String,
    /// By name. Never empty.
    pub tools: BTreeMap<ToolName, Constraints>,
}

impl Grant {
    /// The part of the grant for `tools` alone, or the first of them that it does not hold. All of it if `tools` is empty.
    pub fn narrowed_to<'t>(
        &self,
        tools: &'t [ToolName],
    ) -> Result<Vec<(&ToolName, &Constraints)>, &'t ToolName> {
        if tools.is_empty() {
            return Ok(self.tools.iter().collect());
        }
        let mut narrowed = BTreeMap::new();
        for name in tools {
            let (name, limits) = self.tools.get_key_value(name).ok_or(name)?;
            narrowed.insert(name, limits);
        }
        Ok(narrowed.into_iter().collect())
    }

    /// True if everything that this grant permits, `other` permits too (G8). Sound, not complete: limits that cannot be compared count as wider.
    pub fn is_within(&self, other: &Self) -> bool {
        self.audience == other.audience
            && self.tools.iter().all(|(name, limits)| {
                other.tools.get(name).is_some_and(|others| others.is_empty() || limits.is_within(others))
            })
    }
}

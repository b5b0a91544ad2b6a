//! The context of a decision: what is asked for, and what the broker knows beside caller and resource.

use std::collections::BTreeSet;
use std::time::Duration;

use cedar_policy::{Context, RestrictedExpression};
use taskpass_verifier::claims::ToolName;

use super::action::{Facts, Judged, Resource};
use super::entities::{text, texts, unfit};
use super::permit::Denial;
use crate::audience::Audience;
use crate::identity::SpiffeId;

/// The facts of a task's beginning, or of a token, at one audience, beside the tools.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Plain {
    seconds: i64,
    /// For a token: what it is to be bound to, and whether the caller owns the task.
    mint: Option<(&'static str, bool)>,
    has_subject: bool,
    depth: u32,
}

impl Plain {
    /// `None` for facts of another kind.
    pub(super) fn of<'a>(caller: &SpiffeId, facts: &Facts<'a>) -> Option<(Self, &'a [&'a ToolName])> {
        match facts {
            Facts::Begin(facts) => {
                let seconds = seconds(facts.lifetime);
                let plain = Self { seconds, mint: None, has_subject: facts.has_subject, depth: facts.depth };
                Some((plain, facts.tools))
            }
            Facts::Mint(facts) => {
                let task = &facts.task;
                let plain = Self {
                    seconds: seconds(facts.lifetime),
                    mint: Some((facts.binding.as_str(), task.owner == Some(caller))),
                    has_subject: task.subject.is_some(),
                    depth: task.depth,
                };
                Some((plain, facts.tools))
            }
            _ => None,
        }
    }
}

/// The context that the schema has for the action of these facts.
pub(super) fn context_of(
    caller: &SpiffeId,
    resource: &Resource<'_>,
    facts: &Facts<'_>,
) -> Result<Context, Denial> {
    match (Plain::of(caller, facts), resource) {
        (Some((plain, tools)), Resource::Audience(audience)) => make(audience, plain, tools),
        _ => small(caller, resource, facts),
    }
}

fn make(audience: &Audience, plain: Plain, tools: &[&ToolName]) -> Result<Context, Denial> {
    let mut labels = BTreeSet::new();
    for name in tools {
        labels.extend(audience.tool(name.as_str()).ok_or(Denial::UnknownTool)?.labels());
    }
    let both = [
        ("tools", texts(tools.iter().map(|name| name.as_str()))),
        ("labels", texts(labels)),
        ("lifetime_seconds", RestrictedExpression::new_long(plain.seconds)),
        ("has_subject", RestrictedExpression::new_bool(plain.has_subject)),
        ("depth", RestrictedExpression::new_long(plain.depth.into())),
    ];
    let mint = plain.mint.map(|(binding, is_owner)| {
        [("binding", text(binding)), ("is_owner", RestrictedExpression::new_bool(is_owner))]
    });
    context(both.into_iter().chain(mint.into_iter().flatten()))
}

/// Contexts of few and simple facts.
fn small(caller: &SpiffeId, resource: &Resource<'_>, facts: &Facts<'_>) -> Result<Context, Denial> {
    let ownership = match resource {
        Resource::Task(task) => {
            Some(("is_owner", RestrictedExpression::new_bool(task.owner == Some(caller))))
        }
        _ => None,
    };
    let facts = match (facts, resource) {
        (Facts::Nothing, _) => [None, None],
        (Facts::Lifetime(asked), _) => [Some(("lifetime_seconds", long(*asked))), None],
        (Facts::BlockFor(asked), _) => [Some(("block_for_seconds", long(*asked))), None],
        (Facts::Judged(what), Resource::Audience(audience)) => [
            Some(("is_verifier", RestrictedExpression::new_bool(audience.is_verifier(caller)))),
            Some(("credential", text(if *what == Judged::Token { "token" } else { "certificate" }))),
        ],
        (Facts::Follows, Resource::Audience(audience)) => {
            [Some(("is_verifier", RestrictedExpression::new_bool(audience.is_verifier(caller)))), None]
        }
        (Facts::Key(facts), _) => [
            Some(("dry_run", RestrictedExpression::new_bool(facts.dry_run))),
            facts.key_use.map(|key_use| ("use", text(key_use))),
        ],
        (Facts::Begin(_) | Facts::Mint(_) | Facts::Judged(_) | Facts::Follows, _) => {
            return Err(unfit("facts of an audience without one"));
        }
    };
    context(ownership.into_iter().chain(facts.into_iter().flatten()))
}

fn context(pairs: impl Iterator<Item = (&'static str, RestrictedExpression)>) -> Result<Context, Denial> {
    Context::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value))).map_err(unfit)
}

fn long(duration: Duration) -> RestrictedExpression {
    RestrictedExpression::new_long(seconds(duration))
}

/// Whole seconds, rounded up, so that a policy's limit is never passed by a fraction.
fn seconds(duration: Duration) -> i64 {
    let rounded = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    i64::try_from(rounded).unwrap_or(i64::MAX)
}

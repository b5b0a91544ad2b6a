//! The context of a decision: what is asked for, and what the broker knows beside caller and resource.
//!
//! Making one costs as much as judging several policies, and agents ask for the same again and again, so that contexts are kept.
//! They follow from their key alone: nothing that can change is remembered, and no decision is.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::time::Duration;

use cedar_policy::{Context, RestrictedExpression};
use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use taskpass_verifier::claims::ToolName;

use super::action::{Facts, Judged, Resource};
use super::entities::{text, texts, unfit};
use super::permit::Denial;
use crate::audience::Audience;
use crate::files::ContentDigest;
use crate::identity::SpiffeId;

/// Contexts that are kept, of no more tools than this.
const KEPT: usize = 2_048;
const KEPT_TOOLS: usize = 16;

/// Makes contexts.
pub(super) struct Contexts(Cache<Kept, Context>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Plain {
    seconds: i64,
    /// For a token: what it is to be bound to, and whether the caller owns the task.
    mint: Option<(&'static str, bool)>,
    has_subject: bool,
    depth: u32,
}

/// The facts of a task's beginning, or of a token, at one audience.
#[derive(Hash)]
struct Asked<'a> {
    declared: ContentDigest,
    plain: Plain,
    tools: &'a [&'a ToolName],
}

/// [`Asked`], owned.
#[derive(PartialEq, Eq, Hash)]
struct Kept {
    declared: ContentDigest,
    plain: Plain,
    tools: Box<[ToolName]>,
}

impl Equivalent<Kept> for Asked<'_> {
    fn equivalent(&self, kept: &Kept) -> bool {
        self.declared == kept.declared
            && self.plain == kept.plain
            && self.tools.iter().copied().eq(kept.tools.iter())
    }
}

impl Contexts {
    pub(super) fn new() -> Self {
        Self(Cache::new(KEPT))
    }

    /// The context that the schema has for the action of these facts.
    pub(super) fn of(
        &self,
        caller: &SpiffeId,
        resource: &Resource<'_>,
        facts: &Facts<'_>,
    ) -> Result<Context, Denial> {
        match (facts, resource) {
            (Facts::Begin(facts), Resource::Audience(audience)) => {
                let seconds = seconds(facts.lifetime);
                let plain = Plain { seconds, mint: None, has_subject: facts.has_subject, depth: facts.depth };
                self.at_audience(audience, plain, facts.tools)
            }
            (Facts::Mint(facts), Resource::Audience(audience)) => {
                let task = &facts.task;
                let plain = Plain {
                    seconds: seconds(facts.lifetime),
                    mint: Some((facts.binding.as_str(), task.owner == Some(caller))),
                    has_subject: task.subject.is_some(),
                    depth: task.depth,
                };
                self.at_audience(audience, plain, facts.tools)
            }
            _ => small(caller, resource, facts),
        }
    }

    fn at_audience(&self, audience: &Audience, plain: Plain, tools: &[&ToolName]) -> Result<Context, Denial> {
        if tools.len() > KEPT_TOOLS {
            return make(audience, plain, tools);
        }
        let asked = Asked { declared: audience.declared(), plain, tools };
        if let Some(context) = self.0.get(&asked) {
            return Ok(context);
        }
        let context = make(audience, plain, tools)?;
        let tools = tools.iter().map(|name| (*name).clone()).collect();
        self.0.insert(Kept { declared: asked.declared, plain, tools }, context.clone());
        Ok(context)
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

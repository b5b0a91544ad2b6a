//! Decisions about audiences, kept for as long as the policies are in force.
//!
//! Agents mint again and again, and verifiers ask for each call. A decision follows from the policies and from what Cedar is shown: the action, the
//! caller's SPIFFE ID, the declaration of the audience, and the facts of the question. All of that is the key here, as it stands at the moment of the question; so
//! what is answered is what Cedar would answer. Whether a task lives, who is connected, what is declared is found out anew each time, before and after.

use std::hash::Hash;

use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use taskpass_verifier::claims::ToolName;

use super::action::{Facts, Judged, Resource};
use super::contexts::Plain;
use super::engine::Judgement;
use crate::files::ContentDigest;
use crate::identity::SpiffeId;

/// Decisions that are kept, of no more tools than this.
const KEPT: usize = 4_096;
const KEPT_TOOLS: usize = 16;

/// See the module's text. Belongs to one set of policies.
pub(super) struct Decisions(Cache<Kept, Judgement>);

/// Everything that a decision about an audience follows from, but the policies.
#[derive(Hash)]
pub(super) struct Question<'a> {
    action: usize,
    caller: &'a SpiffeId,
    declared: ContentDigest,
    said: Said,
    tools: &'a [&'a ToolName],
}

/// The facts of a question about an audience.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Said {
    Nothing,
    Plain(Plain),
    Judged(Judged),
    Follows,
}

/// [`Question`], owned.
#[derive(PartialEq, Eq, Hash)]
struct Kept {
    action: usize,
    caller: SpiffeId,
    declared: ContentDigest,
    said: Said,
    tools: Box<[ToolName]>,
}

impl<'a> Question<'a> {
    /// `None` where decisions are not kept.
    pub(super) fn new(
        action: usize,
        caller: &'a SpiffeId,
        resource: &Resource<'_>,
        facts: &Facts<'a>,
    ) -> Option<Self> {
        let Resource::Audience(audience) = resource else { return None };
        let (said, tools): (_, &[_]) = match facts {
            Facts::Nothing => (Said::Nothing, &[]),
            Facts::Judged(what) => (Said::Judged(*what), &[]),
            Facts::Follows => (Said::Follows, &[]),
            Facts::Begin(_) | Facts::Mint(_) => {
                let (plain, tools) = Plain::of(caller, facts)?;
                (Said::Plain(plain), tools)
            }
            Facts::Lifetime(_) | Facts::BlockFor(_) | Facts::Key(_) => return None,
        };
        (tools.len() <= KEPT_TOOLS).then(|| Self {
            action,
            caller,
            declared: audience.declared(),
            said,
            tools,
        })
    }
}

impl Equivalent<Kept> for Question<'_> {
    fn equivalent(&self, kept: &Kept) -> bool {
        self.action == kept.action
            && self.caller == &kept.caller
            && self.declared == kept.declared
            && self.said == kept.said
            && self.tools.iter().copied().eq(kept.tools.iter())
    }
}

impl Decisions {
    pub(super) fn new() -> Self {
        Self(Cache::new(KEPT))
    }

    /// The decision on a question, made by `decide` if it is not known.
    pub(super) fn of(&self, question: &Question<'_>, decide: impl FnOnce() -> Judgement) -> Judgement {
        if let Some(known) = self.0.get(question) {
            return known;
        }
        let decided = decide();
        let Question { action, caller, declared, said, tools } = question;
        let kept = Kept {
            action: *action,
            caller: (*caller).clone(),
            declared: *declared,
            said: *said,
            tools: tools.iter().map(|name| (*name).clone()).collect(),
        };
        self.0.insert(kept, decided.clone());
        decided
    }
}

//! What decisions must be, whatever the policies.

mod decisions;
mod indexing;
mod loading;
mod samples;
mod schema;

use std::path::{Path, PathBuf};
use std::time::Duration;

use taskpass_verifier::EnforcementProfile;
use taskpass_verifier::claims::ToolName;
use taskpass_verifier::ids::{Partition, TaskId};

use super::action::*;
use super::*;
use crate::audience::{Audience, Audiences};
use crate::files::{FromFiles, Listing, Problems};
use crate::identity::SpiffeId;

const AGENT: &str = "spiffe://example.org/agent/a1";
const OTHER_AGENT: &str = "spiffe://example.org/agent/a2";

fn sample_dir(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sample").join(kind)
}

/// The two sample audiences: docs (bearer) and payments (bound).
struct Register(Audiences);

impl Register {
    fn sample() -> Self {
        let listing = crate::files::list(&sample_dir("audiences"), "toml", Audiences::LIMITS).unwrap();
        Self(Audiences::from_files(&listing).unwrap())
    }

    fn docs(&self) -> &Audience {
        self.0.get("https://docs.example.org/mcp").unwrap()
    }

    fn payments(&self) -> &Audience {
        self.0.get("https://payments.example.org/mcp").unwrap()
    }
}

fn load(policies: &str) -> Result<PolicySet, Problems> {
    PolicySet::from_files(&Listing::of_texts(&[("test.cedar", policies)]))
}

fn engine(policies: &str) -> PolicyEngine {
    PolicyEngine::fixed(load(policies).unwrap_or_else(|problems| panic!("{problems}")))
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn caller(text: &str) -> Principal {
    Principal::assume_verified(id(text))
}

fn tool(name: &str) -> ToolName {
    name.parse().unwrap()
}

fn task_id() -> TaskId {
    TaskId::from_parts(1_790_000_000_000, Partition::from_low_bits(7), [7; 10])
}

fn task_of(owner: &SpiffeId) -> TaskFacts<'_> {
    TaskFacts { id: task_id(), root: task_id(), depth: 0, owner: Some(owner), subject: None }
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

fn begin<'a>(tools: &'a [&'a ToolName]) -> BeginFacts<'a> {
    BeginFacts { tools, lifetime: minutes(10), has_subject: false, depth: 0 }
}

fn mint<'a>(task: TaskFacts<'a>, tools: &'a [&'a ToolName]) -> MintFacts<'a> {
    MintFacts { task, tools, lifetime: minutes(2), binding: EnforcementProfile::Bearer }
}

/// The ids of the policies that a decision rests on.
fn by(basis: &permit::Basis) -> Vec<String> {
    basis.policies.iter().map(ToString::to_string).collect()
}

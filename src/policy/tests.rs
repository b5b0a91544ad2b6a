use std::path::Path;
use std::time::Duration;

use taskpass_verifier::EnforcementProfile;
use taskpass_verifier::claims::ToolName;
use taskpass_verifier::ids::{Partition, TaskId};

use super::action::*;
use super::*;
use crate::audience::Audiences;
use crate::files::FromFiles;
use crate::identity::SpiffeId;

fn sample(kind: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sample").join(kind)
}

fn audiences() -> Audiences {
    let dir = sample("audiences");
    Audiences::from_files(&crate::files::list(&dir, "toml", Audiences::LIMITS).unwrap()).unwrap()
}

fn caller(id: &str) -> Principal {
    Principal::assume_verified(id.parse().unwrap())
}

#[test]
fn an_agent_mints_for_its_own_task_by_the_samples() {
    let engine = PolicyEngine::open(sample("policy")).unwrap_or_else(|p| panic!("{p}"));
    let audiences = audiences();
    let docs = audiences.get("https://docs.example.org/mcp").unwrap();
    let search: ToolName = "search".parse().unwrap();
    let id: SpiffeId = "spiffe://example.org/agent/a1".parse().unwrap();
    let task = TaskId::from_parts(1, Partition::from_low_bits(1), [1; 10]);
    let task = TaskFacts { id: task, root: task, depth: 0, owner: Some(&id), subject: None };
    let facts = MintFacts {
        task,
        tools: &[&search],
        lifetime: Duration::from_secs(60),
        binding: EnforcementProfile::Bearer,
    };
    let permit = engine.decide::<MintToken>(&caller("spiffe://example.org/agent/a1"), docs, facts).unwrap();
    assert_eq!(permit.token_lifetime(Duration::from_secs(900)), Duration::from_secs(300));
}

//! What a decision costs: `cargo bench --bench policy`.

#![allow(clippy::unwrap_used, reason = "a benchmark may stop")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use taskpass::audience::Audiences;
use taskpass::files::{FromFiles, Listing};
use taskpass::identity::SpiffeId;
use taskpass::policy::action::{BeginFacts, BeginTask, CompleteTask, MintFacts, MintToken, TaskFacts};
use taskpass::policy::{PolicyEngine, PolicySet, Principal};
use taskpass_verifier::EnforcementProfile;
use taskpass_verifier::claims::ToolName;
use taskpass_verifier::ids::{Partition, TaskId};

const AUDIENCE: &str = r#"
uri = "https://payments.example.org/mcp"
trust_domain = "example.org"
profile = "bearer"
[[tools]]
name = "charges.list"
labels = ["pii"]
[[tools]]
name = "charges.refund"
labels = ["money", "pii"]
[[tools]]
name = "charges.search"
"#;

fn engine(policies: &str) -> PolicyEngine {
    PolicyEngine::fixed(PolicySet::from_files(&Listing::of_texts(&[("bench.cedar", policies)])).unwrap())
}

/// `count` permits to mint, each for another team by its path: their scopes all match.
fn by_condition(count: usize) -> String {
    let mut text = String::new();
    for team in 0..count {
        writeln!(
            text,
            r#"@id("team-{team}") @max_token_lifetime("5m")
            permit (principal in Taskpass::TrustDomain::"example.org", action == Taskpass::Action::"MintToken", resource)
            when {{ principal.path like "/agent/team-{team}/*" && context.is_owner }};"#
        )
        .unwrap();
    }
    text
}

/// `count` permits to mint, each for another audience: one scope matches.
fn by_scope(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let host = if n == 0 { "payments".to_owned() } else { format!("server-{n}") };
        writeln!(
            text,
            r#"@id("audience-{n}") @max_token_lifetime("5m")
            permit (
              principal in Taskpass::TrustDomain::"example.org",
              action in [Taskpass::Action::"BeginTask", Taskpass::Action::"MintToken"],
              resource == Taskpass::Audience::"https://{host}.example.org/mcp"
            )
            when {{ principal.path like "/agent/*" }};"#
        )
        .unwrap();
    }
    text
}

fn samples() -> String {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sample/policy");
    let listing = taskpass::files::list(&dir, "cedar", PolicySet::LIMITS).unwrap();
    listing.files.iter().map(|file| file.text.as_str()).collect()
}

fn decisions(c: &mut Criterion) {
    let audiences = Audiences::from_files(&Listing::of_texts(&[("payments.toml", AUDIENCE)])).unwrap();
    let audience = audiences.get("https://payments.example.org/mcp").unwrap();
    let agent: SpiffeId = "spiffe://example.org/agent/team-0/a1".parse().unwrap();
    let caller = Principal::assume_verified(agent.clone());
    let id = TaskId::from_parts(1, Partition::from_low_bits(1), [1; 10]);
    let task = TaskFacts { id, root: id, depth: 0, owner: Some(&agent), subject: None };
    let tools: [ToolName; 2] = ["charges.list".parse().unwrap(), "charges.search".parse().unwrap()];
    let tools: Vec<&ToolName> = tools.iter().collect();
    let lifetime = Duration::from_secs(120);
    let mint = MintFacts { task, tools: &tools, lifetime, binding: EnforcementProfile::Bearer };
    let begin = BeginFacts { tools: &tools, lifetime, has_subject: false, depth: 0 };

    let mut group = c.benchmark_group("policy");
    for (name, text) in [
        ("mint/samples", samples()),
        ("mint/20_by_scope", by_scope(20)),
        ("mint/20_by_condition", by_condition(20)),
        ("mint/1000_by_scope", by_scope(1_000)),
    ] {
        let engine = engine(&text);
        group.bench_function(name, |b| {
            b.iter(|| engine.decide::<MintToken>(black_box(&caller), audience, black_box(mint)).unwrap());
        });
    }
    let samples = engine(&samples());
    group.bench_function("begin/samples", |b| {
        b.iter(|| samples.decide::<BeginTask>(black_box(&caller), audience, black_box(begin)).unwrap());
    });
    group.bench_function("complete/samples", |b| {
        b.iter(|| samples.decide::<CompleteTask>(black_box(&caller), black_box(task), ()).unwrap());
    });
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);

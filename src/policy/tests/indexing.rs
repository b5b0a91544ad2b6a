//! Leaving out policies whose scope cannot match changes no decision.

use std::collections::BTreeSet;

use cedar_policy::{Authorizer, Entities, Request, Response};
use proptest::prelude::*;

use super::*;
use crate::policy::entities::{Known, Vocabulary};
use crate::policy::index::Index;

fn scope_of_principal() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "principal",
        r#"principal == Taskpass::Workload::"spiffe://a.example/x""#,
        r#"principal == Taskpass::Workload::"spiffe://b.example/x""#,
        r#"principal in Taskpass::Workload::"spiffe://a.example/x""#,
        r#"principal in Taskpass::TrustDomain::"a.example""#,
        r#"principal in Taskpass::TrustDomain::"b.example""#,
        "principal is Taskpass::Workload",
        "principal is Taskpass::Task",
        r#"principal is Taskpass::Workload in Taskpass::TrustDomain::"a.example""#,
        r#"principal is Taskpass::Audience in Taskpass::TrustDomain::"a.example""#,
    ])
}

fn scope_of_action() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "action",
        r#"action == Taskpass::Action::"MintToken""#,
        r#"action == Taskpass::Action::"GetTask""#,
        r#"action in [Taskpass::Action::"MintToken", Taskpass::Action::"ListAllTasks"]"#,
        r#"action in Taskpass::Action::"GetTask""#,
        "action in []",
    ])
}

fn scope_of_resource() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "resource",
        r#"resource == Taskpass::Audience::"https://docs.example.org/mcp""#,
        r#"resource == Taskpass::Workload::"spiffe://b.example/x""#,
        r#"resource == Taskpass::Broker::"taskpass""#,
        r#"resource in Taskpass::Workload::"spiffe://a.example/x""#,
        r#"resource in Taskpass::TrustDomain::"a.example""#,
        r#"resource in Taskpass::TrustDomain::"example.org""#,
        "resource is Taskpass::Audience",
        "resource is Taskpass::Task",
        r#"resource is Taskpass::Task in Taskpass::Workload::"spiffe://a.example/x""#,
        r#"resource is Taskpass::Task in Taskpass::TrustDomain::"b.example""#,
    ])
}

fn condition() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        r#"when { principal.path like "/x*" }"#,
        r#"unless { principal.trust_domain == "a.example" }"#,
        "when { 9223372036854775807 + 1 > 0 }",
        r#"when { resource.profile == "bearer" }"#,
        "when { context.is_owner }",
    ])
}

fn policy() -> impl Strategy<Value = String> {
    let effect = prop::sample::select(vec!["permit", "permit", "forbid"]);
    (effect, scope_of_principal(), scope_of_action(), scope_of_resource(), condition()).prop_map(
        |(effect, principal, action, resource, condition)| {
            format!("{effect} ({principal}, {action}, {resource}) {condition};")
        },
    )
}

fn decide(
    policies: &cedar_policy::PolicySet,
    action: &cedar_policy::EntityUid,
    who: &Known,
    what: &Known,
) -> Response {
    let same = who.uid == what.uid;
    let all = std::iter::once(who.entity.clone()).chain((!same).then(|| what.entity.clone()));
    let entities = Entities::from_entities(all, None).unwrap();
    let context = cedar_policy::Context::empty();
    let request = Request::new(who.uid.clone(), action.clone(), what.uid.clone(), context, None).unwrap();
    Authorizer::new().is_authorized(&request, policies, &entities)
}

fn summary(response: &Response) -> (cedar_policy::Decision, BTreeSet<String>, BTreeSet<String>) {
    let by = response.diagnostics().reason().map(ToString::to_string).collect();
    let errors = response.diagnostics().errors().map(ToString::to_string).collect();
    (response.decision(), by, errors)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_decision_over_the_chosen_policies_is_the_decision_over_all(texts in prop::collection::vec(policy(), 0..80)) {
        let all: cedar_policy::PolicySet = texts.concat().parse().unwrap();
        let vocabulary = Vocabulary::new().unwrap();
        let index = Index::new(all.policies().cloned().collect(), vocabulary.actions());
        let register = Register::sample();
        let (a, b) = (id("spiffe://a.example/x"), id("spiffe://b.example/x"));
        let resources = [
            Resource::Broker,
            Resource::Workload(&a),
            Resource::Workload(&b),
            Resource::Audience(register.docs()),
            Resource::Audience(register.payments()),
            Resource::Task(task_of(&a)),
            Resource::Task(task_of(&b)),
            Resource::Task(TaskFacts::unknown(task_id())),
            Resource::TrustDomain(a.trust_domain()),
            Resource::Subject("alice"),
        ];
        for who in [&a, &b].map(|id| vocabulary.workload(id).unwrap()) {
            for what in resources.iter().map(|resource| vocabulary.resource(resource).unwrap()) {
                for place in [MintToken::PLACE, GetTask::PLACE, ListAllTasks::PLACE, Reflect::PLACE] {
                    let action = vocabulary.action(place).unwrap();
                    let chosen = index.choose(place, &who, &what).unwrap();
                    let (some, whole) = (decide(&chosen, action, &who, &what), decide(&all, action, &who, &what));
                    prop_assert_eq!(summary(&some), summary(&whole));
                }
            }
        }
    }
}

#[test]
fn only_policies_whose_scope_can_match_are_looked_at() {
    let mut text = String::new();
    for n in 0..200 {
        text += &format!(
            r#"permit (principal in Taskpass::TrustDomain::"td{n}.example", action == Taskpass::Action::"GetTask", resource);"#
        );
    }
    text += r#"permit (principal, action, resource is Taskpass::Task);"#;
    let all: cedar_policy::PolicySet = text.parse().unwrap();
    let vocabulary = Vocabulary::new().unwrap();
    let index = Index::new(all.policies().cloned().collect(), vocabulary.actions());
    let who = vocabulary.workload(&id("spiffe://td77.example/x")).unwrap();
    let what = vocabulary.resource(&Resource::Task(TaskFacts::unknown(task_id()))).unwrap();
    assert_eq!(index.choose(GetTask::PLACE, &who, &what).unwrap().num_of_policies(), 2);
    assert_eq!(index.choose(CompleteTask::PLACE, &who, &what).unwrap().num_of_policies(), 1);
}

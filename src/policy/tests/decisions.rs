use super::*;
use crate::error::{Error, Reason};

const PERMIT_ALL: &str = r#"@id("all") permit (principal, action, resource);"#;
const HEALTH: &str = r#"permit (principal, action == Taskpass::Action::"CheckHealth", resource);"#;

/// Overflows for every caller.
const FAILS: &str = r#"@id("fails") permit (principal, action == Taskpass::Action::"CheckHealth", resource)
    when { 9223372036854775807 + 1 > 0 };"#;

fn health(policies: &str) -> Result<Permit<CheckHealth>, Denied> {
    engine(policies).decide(&caller(AGENT), (), ())
}

#[test]
fn a15_without_any_policy_everything_is_denied() {
    assert_eq!(health("").unwrap_err().reason, Denial::NoPolicies);
    assert_eq!(health("// nothing but words").unwrap_err().reason, Denial::NoPolicies);
}

#[test]
fn a15_with_policies_that_only_forbid_everything_is_denied() {
    let elsewhere = r#"forbid (principal, action == Taskpass::Action::"Reflect", resource);"#;
    assert_eq!(health(elsewhere).unwrap_err().reason, Denial::NotPermitted);
    let here = r#"@id("no") forbid (principal, action, resource);"#;
    let denied = health(here).unwrap_err();
    assert_eq!(denied.reason, Denial::Forbidden);
    assert_eq!(by(&denied.basis), ["no"]);
}

#[test]
fn a15_an_error_in_any_policy_that_is_looked_at_is_a_denial() {
    let denied = health(&format!("{FAILS} {PERMIT_ALL}")).unwrap_err();
    assert!(matches!(&denied.reason, Denial::PolicyError(why) if why.contains("overflow")), "{denied}");
    assert_eq!(by(&denied.basis), ["fails"]);
    let forbid = FAILS.replace("permit", "forbid");
    assert!(matches!(health(&format!("{forbid} {PERMIT_ALL}")).unwrap_err().reason, Denial::PolicyError(_)));
}

#[test]
fn an_error_in_a_policy_of_another_action_does_no_harm() {
    let elsewhere = FAILS.replace("CheckHealth", "Reflect");
    assert!(health(&format!("{elsewhere} {PERMIT_ALL}")).is_ok());
}

#[test]
fn a15_a_decision_that_takes_too_long_is_a_denial() {
    let engine = engine(PERMIT_ALL);
    assert!(engine.decide::<CheckHealth>(&caller(AGENT), (), ()).is_ok());
    let hurried = engine.with_time_limit(Duration::ZERO);
    assert_eq!(hurried.decide::<CheckHealth>(&caller(AGENT), (), ()).unwrap_err().reason, Denial::TooSlow);
}

#[test]
fn a15_an_unknown_audience_never_reaches_policy() {
    let error = Error::from(Register::sample().0.get("https://unknown.example.org/mcp").unwrap_err());
    assert_eq!(error.reason(), Reason::UnknownAudience);
}

#[test]
fn a_tool_that_the_audience_does_not_offer_is_denied() {
    let (register, engine, owner) = (Register::sample(), engine(PERMIT_ALL), id(AGENT));
    let (search, refund) = (tool("search"), tool("charges.refund"));
    let denied = |tools: &[&ToolName]| {
        let begun = engine.decide::<BeginTask>(&caller(AGENT), register.docs(), begin(tools));
        let minted =
            engine.decide::<MintToken>(&caller(AGENT), register.docs(), mint(task_of(&owner), tools));
        (begun.map_err(|it| it.reason).err(), minted.map_err(|it| it.reason).err())
    };
    assert_eq!(denied(&[&search]), (None, None));
    assert_eq!(denied(&[&search, &refund]), (Some(Denial::UnknownTool), Some(Denial::UnknownTool)));
}

#[test]
fn a_forbid_wins_over_every_permit() {
    let engine = engine(&format!(
        r#"{PERMIT_ALL} @id("trial") forbid (principal, action, resource) when {{ principal.path like "/trial/*" }};"#
    ));
    assert!(engine.decide::<ListTasks>(&caller(AGENT), (), ()).is_ok());
    let denied = engine.decide::<ListTasks>(&caller("spiffe://example.org/trial/a1"), (), ()).unwrap_err();
    assert_eq!((by(&denied.basis), denied.reason), (vec!["trial".to_owned()], Denial::Forbidden));
}

#[test]
fn ownership_is_what_the_store_says_and_not_what_the_caller_says() {
    let engine =
        engine(r#"permit (principal, action, resource is Taskpass::Task) when { context.is_owner };"#);
    let owner = id(AGENT);
    let decide = |who: &str, task| engine.decide::<CompleteTask>(&caller(who), task, ()).is_ok();
    assert!(decide(AGENT, task_of(&owner)));
    assert!(!decide(OTHER_AGENT, task_of(&owner)));
    assert!(!decide("spiffe://other.example/agent/a1", task_of(&owner)));
    assert!(!decide(AGENT, TaskFacts::unknown(task_id())));
}

#[test]
fn a_task_is_in_its_owner_and_in_its_owners_trust_domain() {
    let engine = engine(
        r#"
        permit (principal, action == Taskpass::Action::"GetTask",
            resource in Taskpass::Workload::"spiffe://example.org/agent/a1");
        permit (principal, action == Taskpass::Action::"RevokeTask",
            resource in Taskpass::TrustDomain::"example.org")
            when { resource has owner && resource.owner.path like "/agent/*" };
        "#,
    );
    let who = caller("spiffe://example.org/operator/o1");
    let (ours, other, foreign) = (id(AGENT), id(OTHER_AGENT), id("spiffe://other.example/agent/a1"));
    let get = |owner| engine.decide::<GetTask>(&who, task_of(owner), ()).is_ok();
    assert_eq!([get(&ours), get(&other), get(&foreign)], [true, false, false]);
    let revoke = |task| engine.decide::<RevokeTask>(&who, task, ()).is_ok();
    assert_eq!(
        [revoke(task_of(&ours)), revoke(task_of(&other)), revoke(task_of(&foreign))],
        [true, true, false]
    );
    assert!(!revoke(TaskFacts::unknown(task_id())));
}

#[test]
fn labels_are_those_of_the_tools_asked_for_as_the_register_has_them() {
    let engine = engine(
        r#"permit (principal, action == Taskpass::Action::"BeginTask", resource)
            unless { context.labels.contains("money") };"#,
    );
    let register = Register::sample();
    let (list, refund) = (tool("charges.list"), tool("charges.refund"));
    let decide = |tools: &[&ToolName]| {
        engine.decide::<BeginTask>(&caller(AGENT), register.payments(), begin(tools)).is_ok()
    };
    assert!(decide(&[&list]));
    assert!(!decide(&[&list, &refund]));
}

#[test]
fn a_fraction_of_a_second_does_not_slip_below_a_limit() {
    let engine = engine(
        r#"permit (principal, action == Taskpass::Action::"ExtendTask", resource)
            when { context.lifetime_seconds <= 60 };"#,
    );
    let owner = id(AGENT);
    let decide = |millis| {
        let lifetime = Lifetime(Duration::from_millis(millis));
        engine.decide::<ExtendTask>(&caller(AGENT), task_of(&owner), lifetime).is_ok()
    };
    assert_eq!([decide(60_000), decide(60_001), decide(u64::MAX)], [true, false, false]);
}

#[test]
fn only_enrolled_verifiers_are_verifiers_to_policy() {
    let engine = engine(
        r#"permit (principal, action == Taskpass::Action::"Validate", resource)
            when { context.is_verifier && context.credential == "token" };"#,
    );
    let register = Register::sample();
    let decide = |who: &str, what| engine.decide::<Validate>(&caller(who), register.docs(), what).is_ok();
    assert!(decide("spiffe://example.org/mcp/docs", Judged::Token));
    assert!(!decide("spiffe://example.org/mcp/docs", Judged::Certificate));
    assert!(!decide("spiffe://example.org/mcp/payments/1", Judged::Token));
}

#[test]
fn a_permit_says_what_it_rests_on() {
    let set = load(&format!("{PERMIT_ALL} {HEALTH}")).unwrap();
    let digest = set.digest();
    let permit = PolicyEngine::fixed(set).decide::<CheckHealth>(&caller(AGENT), (), ()).unwrap();
    assert_eq!(permit.caller().as_str(), AGENT);
    assert_eq!(permit.basis().action, "CheckHealth");
    assert_eq!(by(permit.basis()), ["all", "test#2"]);
    assert_eq!(permit.basis().policy_set, digest);
    assert_ne!(load(PERMIT_ALL).unwrap().digest(), digest);
}

#[test]
fn a_caller_learns_the_reason_id_and_not_the_policies() {
    let denied = health(r#"@id("secret-plan") forbid (principal, action, resource);"#).unwrap_err();
    let error = Error::from(denied);
    assert_eq!(error.reason(), Reason::PolicyDenied);
    assert!(
        error.public().contains("CheckHealth") && error.public().contains("(forbidden)"),
        "{}",
        error.public()
    );
    assert!(!error.public().contains("secret-plan"));
    assert!(error.log_line().contains("secret-plan"));
}

const TWO_CAPS: &str = r#"
    @id("short") @max_token_lifetime("2m") @max_task_lifetime("10m") @max_live_tasks("5")
    permit (principal, action in [Taskpass::Action::"BeginTask", Taskpass::Action::"MintToken"], resource);
    @id("long") @max_token_lifetime("10m") @max_task_lifetime("1h") @max_live_tasks("50")
    permit (principal, action in [Taskpass::Action::"BeginTask", Taskpass::Action::"MintToken"], resource)
    when { principal.path like "/agent/*" };
"#;

#[test]
fn the_greatest_cap_of_the_satisfied_permits_counts_below_the_ceiling() {
    let (register, owner, search) = (Register::sample(), id(AGENT), tool("search"));
    let cap = |policies: &str, who: &str| {
        let facts = mint(task_of(&owner), &[]);
        let facts = MintFacts { tools: &[&search], ..facts };
        engine(policies)
            .decide::<MintToken>(&caller(who), register.docs(), facts)
            .unwrap()
            .token_lifetime(minutes(15))
    };
    assert_eq!(cap(TWO_CAPS, "spiffe://example.org/job/j1"), minutes(2));
    assert_eq!(cap(TWO_CAPS, AGENT), minutes(10));
    assert_eq!(cap(&TWO_CAPS.replace("10m", "1h"), AGENT), minutes(15));
    assert_eq!(cap(&format!("{TWO_CAPS} {PERMIT_ALL}"), AGENT), minutes(15));
}

#[test]
fn certificates_have_a_cap_of_their_own() {
    let policies = r#"@max_certificate_lifetime("30m") permit (principal, action, resource);"#;
    let owner = id(AGENT);
    let lifetime = Lifetime(minutes(60));
    let permit =
        engine(policies).decide::<IssueCertificate>(&caller(AGENT), task_of(&owner), lifetime).unwrap();
    assert_eq!(permit.certificate_lifetime(minutes(60)), minutes(30));
    assert_eq!(permit.certificate_lifetime(minutes(5)), minutes(5));
}

#[test]
fn several_decisions_together_need_every_permit_and_take_the_least_caps() {
    let policies = r#"
        @id("docs") @max_task_lifetime("2h") @max_live_tasks("3")
        permit (principal, action, resource == Taskpass::Audience::"https://docs.example.org/mcp");
        @id("payments") @max_task_lifetime("20m")
        permit (principal, action == Taskpass::Action::"BeginTask",
            resource == Taskpass::Audience::"https://payments.example.org/mcp")
        when { principal.path like "/agent/*" };
    "#;
    let (register, engine) = (Register::sample(), engine(policies));
    let (search, list) = (tool("search"), tool("charges.list"));
    let (search, list) = ([&search], [&list]);
    let both = [(register.docs(), begin(&search)), (register.payments(), begin(&list))];
    let permit = engine.decide_all::<BeginTask>(&caller(AGENT), both).unwrap();
    assert_eq!(permit.task_lifetime(minutes(600)), minutes(20));
    assert_eq!(permit.live_tasks(100), 3);
    assert_eq!(by(permit.basis()), ["docs", "payments"]);
    let denied = engine.decide_all::<BeginTask>(&caller("spiffe://example.org/job/j1"), both).unwrap_err();
    assert_eq!(denied.reason, Denial::NotPermitted);
    let nothing = engine.decide_all::<BeginTask>(&caller(AGENT), []).unwrap_err();
    assert_eq!(nothing.reason, Denial::NotPermitted);
}

#[test]
fn nobody_needs_to_be_known_beforehand_but_names_are_compared_exactly() {
    let engine = engine(
        r#"permit (principal == Taskpass::Workload::"spiffe://example.org/agent/a1", action, resource);
           permit (principal in Taskpass::TrustDomain::"partner.example", action, resource);"#,
    );
    let decide = |who: &str| engine.decide::<ListTasks>(&caller(who), (), ()).is_ok();
    assert!(decide(AGENT));
    assert!(decide("spiffe://partner.example/anything"));
    for stranger in [
        "spiffe://example.org/agent/A1",
        "spiffe://example.org/agent/a1/x",
        "spiffe://example.org/agent",
        "spiffe://x.partner.example/anything",
        "spiffe://partner.example.org/anything",
    ] {
        assert!(!decide(stranger), "{stranger}");
    }
}

#[test]
fn a_change_of_the_register_counts_at_once() {
    let engine = engine(
        r#"permit (principal, action == Taskpass::Action::"BeginTask", resource)
            unless { context.labels.contains("pii") || resource.labels.contains("secret") };"#,
    );
    let declare = |labels: &str, more: &str| {
        let text = format!(
            r#"uri = "https://a.example.org/mcp"
               trust_domain = "example.org"
               profile = "bearer"
               tools = [{{ name = "read", labels = [{labels}] }} {more}]"#
        );
        Register(Audiences::from_files(&Listing::of_texts(&[("a.toml", &text)])).unwrap())
    };
    let read = tool("read");
    let decide = |register: &Register| {
        let audience = register.0.iter().next().unwrap();
        engine.decide::<BeginTask>(&caller(AGENT), audience, begin(&[&read])).is_ok()
    };
    let (plain, pii) = (declare("", ""), declare("\"pii\"", ""));
    let secret = declare("", ", { name = \"x\", labels = [\"secret\"] }");
    assert_eq!([decide(&plain), decide(&pii), decide(&secret), decide(&plain)], [true, false, false, true]);
}

#[test]
fn each_question_is_decided_by_its_own_facts_however_often_it_was_asked() {
    let engine = engine(
        r#"permit (principal, action == Taskpass::Action::"MintToken", resource)
            when { context.is_owner && context.tools == ["search"] && context.lifetime_seconds == 120
                && context.binding == "bearer" && !context.has_subject && context.depth == 0 };"#,
    );
    let (register, owner, other) = (Register::sample(), id(AGENT), id(OTHER_AGENT));
    let (search, read) = (tool("search"), tool("read"));
    let (one, two) = ([&search], [&search, &read]);
    let good = mint(task_of(&owner), &one);
    let questions = [
        (good, true),
        (MintFacts { tools: &two, ..good }, false),
        (MintFacts { tools: &[], ..good }, false),
        (MintFacts { lifetime: minutes(3), ..good }, false),
        (MintFacts { binding: EnforcementProfile::Jkt, ..good }, false),
        (MintFacts { task: task_of(&other), ..good }, false),
        (MintFacts { task: TaskFacts { subject: Some("alice"), ..task_of(&owner) }, ..good }, false),
        (MintFacts { task: TaskFacts { depth: 1, ..task_of(&owner) }, ..good }, false),
    ];
    for (facts, expected) in questions.iter().chain(questions.iter().rev()).chain(&questions) {
        let decided = engine.decide::<MintToken>(&caller(AGENT), register.docs(), *facts);
        assert_eq!(decided.is_ok(), *expected, "{facts:?}");
    }
}

#[test]
fn what_was_decided_of_one_caller_audience_or_action_is_not_said_of_another() {
    let engine = engine(
        r#"permit (principal == Taskpass::Workload::"spiffe://example.org/mcp/docs",
            action == Taskpass::Action::"Validate",
            resource == Taskpass::Audience::"https://docs.example.org/mcp")
            when { context.is_verifier && context.credential == "token" };
           @max_token_lifetime("1m")
           permit (principal, action == Taskpass::Action::"MintToken", resource);"#,
    );
    let (register, owner) = (Register::sample(), id(AGENT));
    let (docs, payments, search) = (register.docs(), register.payments(), tool("search"));
    let (verifier, other) =
        (caller("spiffe://example.org/mcp/docs"), caller("spiffe://example.org/mcp/payments/1"));
    let tools = [&search];
    let minted = MintFacts { tools: &tools, ..mint(task_of(&owner), &[]) };
    let begun = BeginFacts { lifetime: minted.lifetime, ..begin(&tools) };
    for _ in 0..3 {
        let validate = |who, audience, what| engine.decide::<Validate>(who, audience, what).is_ok();
        assert!(validate(&verifier, docs, Judged::Token));
        assert!(!validate(&verifier, docs, Judged::Certificate));
        assert!(!validate(&verifier, payments, Judged::Token));
        assert!(!validate(&other, docs, Judged::Token));
        assert!(engine.decide::<Follow>(&verifier, docs, AsVerifier).is_err());
        assert!(engine.decide::<BeginTask>(&caller(AGENT), docs, begun).is_err());
        let permit = engine.decide::<MintToken>(&caller(AGENT), docs, minted).unwrap();
        assert_eq!((permit.caller().as_str(), permit.token_lifetime(minutes(15))), (AGENT, minutes(1)));
        let permit = engine.decide::<MintToken>(&caller(OTHER_AGENT), docs, minted).unwrap();
        assert_eq!(permit.caller().as_str(), OTHER_AGENT);
    }
}

//! The sample policies decide as their comments say.

use super::*;

fn samples() -> PolicyEngine {
    PolicyEngine::open(sample_dir("policy")).unwrap_or_else(|problems| panic!("{problems}"))
}

const OPERATOR: &str = "spiffe://example.org/operator/alice";
const PLATFORM: &str = "spiffe://example.org/platform/root";
const VERIFIER: &str = "spiffe://example.org/mcp/docs";
const SUPPORT: &str = "spiffe://example.org/agent/support";
const TRIAL: &str = "spiffe://example.org/agent/trial/t1";
const STRANGER: &str = "spiffe://other.example/agent/a1";

const EVERYBODY: [&str; 7] = [AGENT, SUPPORT, TRIAL, OPERATOR, PLATFORM, VERIFIER, STRANGER];

/// Those of [`EVERYBODY`] who may.
fn who_may(may: impl Fn(&Principal) -> bool) -> Vec<&'static str> {
    EVERYBODY.into_iter().filter(|who| may(&caller(who))).collect()
}

#[test]
fn agents_of_the_trust_domain_begin_tasks_for_an_hour_at_most() {
    let (engine, register, search) = (samples(), Register::sample(), tool("search"));
    let tools = [&search];
    let may = |who: &Principal| engine.decide::<BeginTask>(who, register.docs(), begin(&tools)).is_ok();
    assert_eq!(who_may(may), [AGENT, SUPPORT, TRIAL]);
    let permit = engine.decide::<BeginTask>(&caller(AGENT), register.docs(), begin(&tools)).unwrap();
    assert_eq!((permit.task_lifetime(minutes(600)), permit.live_tasks(1_000)), (minutes(60), 50));
    assert_eq!(by(permit.basis()), ["agents-begin"]);
}

#[test]
fn agents_mint_for_their_own_tasks_alone() {
    let (engine, register, search) = (samples(), Register::sample(), tool("search"));
    let (tools, owner) = ([&search], id(AGENT));
    let may = |who: &Principal| {
        engine.decide::<MintToken>(who, register.docs(), mint(task_of(&owner), &tools)).is_ok()
    };
    assert_eq!(who_may(may), [AGENT]);
    let permit =
        engine.decide::<MintToken>(&caller(AGENT), register.docs(), mint(task_of(&owner), &tools)).unwrap();
    assert_eq!(permit.token_lifetime(minutes(15)), minutes(5));
    let may = |who: &Principal| {
        engine.decide::<IssueCertificate>(who, task_of(&owner), Lifetime(minutes(5))).is_ok()
    };
    assert_eq!(who_may(may), [AGENT]);
}

#[test]
fn money_moves_on_bound_and_short_tokens_alone() {
    let (engine, register, refund, owner) =
        (samples(), Register::sample(), tool("charges.refund"), id(AGENT));
    let tools = [&refund];
    let decide = |binding, lifetime| {
        let facts = MintFacts { binding, lifetime, ..mint(task_of(&owner), &tools) };
        engine.decide::<MintToken>(&caller(AGENT), register.payments(), facts).map_err(|it| by(&it.basis))
    };
    assert!(decide(EnforcementProfile::X5tS256, minutes(2)).is_ok());
    assert_eq!(decide(EnforcementProfile::Bearer, minutes(2)).unwrap_err(), ["money-needs-binding"]);
    assert_eq!(decide(EnforcementProfile::X5tS256, minutes(3)).unwrap_err(), ["money-needs-binding"]);
}

#[test]
fn agents_on_trial_touch_no_personal_data() {
    let (engine, register, list) = (samples(), Register::sample(), tool("charges.list"));
    let tools = [&list];
    let may = |who: &Principal| engine.decide::<BeginTask>(who, register.payments(), begin(&tools)).is_ok();
    assert_eq!(who_may(may), [AGENT, SUPPORT]);
}

#[test]
fn one_workload_acts_for_the_customers_of_one_provider() {
    let engine = samples();
    let may = |name: &'static str| {
        let engine = engine.clone();
        move |who: &Principal| engine.decide::<AssertSubject>(who, name, ()).is_ok()
    };
    assert_eq!(who_may(may("bob@customers.example.org")), [SUPPORT]);
    assert!(who_may(may("root@example.org")).is_empty());
}

#[test]
fn tasks_are_seen_and_ended_by_their_owner_and_revoked_by_operators() {
    let (engine, owner) = (samples(), id(AGENT));
    let task = task_of(&owner);
    assert_eq!(who_may(|who| engine.decide::<GetTask>(who, task, ()).is_ok()), [AGENT, OPERATOR]);
    assert_eq!(who_may(|who| engine.decide::<ListCredentials>(who, task, ()).is_ok()), [AGENT, OPERATOR]);
    assert_eq!(
        who_may(|who| engine.decide::<RevokeCredential>(who, task, ()).is_ok()),
        [AGENT, OPERATOR, PLATFORM]
    );
    assert_eq!(who_may(|who| engine.decide::<CompleteTask>(who, task, ()).is_ok()), [AGENT]);
    assert_eq!(who_may(|who| engine.decide::<ExtendTask>(who, task, Lifetime(minutes(5))).is_ok()), [AGENT]);
    assert_eq!(who_may(|who| engine.decide::<RevokeTask>(who, task, ()).is_ok()), [OPERATOR, PLATFORM]);
    let lost = TaskFacts::unknown(task_id());
    assert_eq!(who_may(|who| engine.decide::<RevokeTask>(who, lost, ()).is_ok()), [PLATFORM]);
    assert!(who_may(|who| engine.decide::<CompleteTask>(who, lost, ()).is_ok()).is_empty());
}

#[test]
fn lists_are_for_agents_and_all_of_them_for_operators() {
    let (engine, agent) = (samples(), id(AGENT));
    let own = |who: &Principal| engine.decide::<ListTasks>(who, (), ()).is_ok();
    assert_eq!(who_may(own), [AGENT, SUPPORT, TRIAL, OPERATOR]);
    assert_eq!(who_may(|who| engine.decide::<ListAllTasks>(who, Owners::All, ()).is_ok()), [OPERATOR]);
    assert_eq!(who_may(|who| engine.decide::<ListAllTasks>(who, Owners::Of(&agent), ()).is_ok()), [OPERATOR]);
}

#[test]
fn operators_stop_workloads_and_trust_domains() {
    let (engine, agent) = (samples(), id(AGENT));
    let block = BlockFor(minutes(60));
    assert_eq!(
        who_may(|who| engine.decide::<RevokeWorkload>(who, &agent, block).is_ok()),
        [OPERATOR, PLATFORM]
    );
    let domain = agent.trust_domain();
    assert_eq!(
        who_may(|who| engine.decide::<RevokeTrustDomain>(who, domain, block).is_ok()),
        [OPERATOR, PLATFORM]
    );
}

#[test]
fn operators_neither_see_nor_stop_what_is_anothers() {
    let (engine, foreign) = (samples(), id(STRANGER));
    let (operator, task, block) = (caller(OPERATOR), task_of(&foreign), BlockFor(minutes(60)));
    assert!(engine.decide::<GetTask>(&operator, task, ()).is_err());
    assert!(engine.decide::<ListCredentials>(&operator, task, ()).is_err());
    assert!(engine.decide::<ListAllTasks>(&operator, Owners::Of(&foreign), ()).is_err());
    assert!(engine.decide::<RevokeCredential>(&operator, task, ()).is_err());
    assert!(engine.decide::<RevokeTask>(&operator, task, ()).is_err());
    assert!(engine.decide::<RevokeWorkload>(&operator, &foreign, block).is_err());
    assert!(engine.decide::<RevokeTrustDomain>(&operator, foreign.trust_domain(), block).is_err());
}

#[test]
fn the_platform_stops_everything_of_everybody_and_sees_nothing() {
    let (engine, foreign) = (samples(), id(STRANGER));
    let (platform, task, block) = (caller(PLATFORM), task_of(&foreign), BlockFor(minutes(60)));
    assert!(engine.decide::<RevokeCredential>(&platform, task, ()).is_ok());
    assert!(engine.decide::<RevokeTask>(&platform, task, ()).is_ok());
    assert!(engine.decide::<RevokeWorkload>(&platform, &foreign, block).is_ok());
    assert!(engine.decide::<RevokeTrustDomain>(&platform, foreign.trust_domain(), block).is_ok());
    assert!(engine.decide::<GetTask>(&platform, task, ()).is_err());
    assert!(engine.decide::<ListAllTasks>(&platform, Owners::All, ()).is_err());
}

#[test]
fn verifiers_validate_for_the_audience_that_they_are_enrolled_for() {
    let (engine, register) = (samples(), Register::sample());
    assert_eq!(
        who_may(|who| engine.decide::<Validate>(who, register.docs(), Judged::Token).is_ok()),
        [VERIFIER]
    );
    let payments =
        |who: &Principal| engine.decide::<Validate>(who, register.payments(), Judged::Token).is_ok();
    assert!(who_may(payments).is_empty());
    assert!(payments(&caller("spiffe://example.org/mcp/payments/1")));
}

#[test]
fn everybody_learns_what_there_is_to_work_with() {
    let (engine, register, agent) = (samples(), Register::sample(), id(AGENT));
    let seen = |what| who_may(|who| engine.decide::<ListAudiences>(who, what, ()).is_ok());
    assert_eq!(seen(Listed::Register), EVERYBODY);
    assert_eq!(
        seen(Listed::Audience(register.docs())),
        [AGENT, SUPPORT, TRIAL, OPERATOR, PLATFORM, VERIFIER]
    );
    assert_eq!(who_may(|who| engine.decide::<GetKeySet>(who, agent.trust_domain(), ()).is_ok()), EVERYBODY);
    assert_eq!(who_may(|who| engine.decide::<GetTaskCaBundle>(who, (), ()).is_ok()), EVERYBODY);
    assert_eq!(who_may(|who| engine.decide::<GetRevocationList>(who, (), ()).is_ok()), EVERYBODY);
    assert_eq!(who_may(|who| engine.decide::<CheckHealth>(who, (), ()).is_ok()), EVERYBODY);
    assert_eq!(who_may(|who| engine.decide::<Reflect>(who, (), ()).is_ok()), EVERYBODY);
}

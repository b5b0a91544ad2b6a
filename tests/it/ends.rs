//! How tasks end: by completion, by an operator, by their deadline, all of a workload at once; and that each end is final.

use std::time::Duration;

use taskpass::proto::{self, EndReason};
use tonic::Code;

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::story::{
    begin, docs, end, is_live, millis, mint, mint_for, other_docs, refused, serial, shown,
};
use crate::support::world::{DOCS, OTHER_DOCS};
use crate::support::{Store, eventually};

const A1: &str = "spiffe://example.org/agent/a1";

async fn a_completed_task_takes_its_credentials_with_it(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.docs_task().await;
    let minted = agent.mint(mint(&task, DOCS)).await.unwrap();
    assert!(verifier.accepts(&minted.token).await);
    let done = agent.complete(&task.id).await.unwrap();
    assert!(!verifier.accepts(&minted.token).await);

    let (ended, receipt) = (done.task.unwrap(), done.receipt.unwrap());
    let how = end(&ended);
    assert_eq!((how.reason(), how.ended_by.as_str(), how.note.as_str()), (EndReason::Completed, A1, "done"));
    assert_eq!((receipt.ended_at, receipt.expires_by), (how.ended_at, minted.expires_at));
    assert_eq!(receipt.durability, "fsync");
    assert!(receipt.sequence > 0);
    assert_eq!(agent.get(&task.id).await.unwrap(), ended);

    refused(agent.mint(mint(&task, DOCS)).await, Code::FailedPrecondition, "TASK_ENDED");
    refused(agent.extend(&task.id, 900).await, Code::FailedPrecondition, "TASK_ENDED");
}

async fn a25_completing_again_answers_with_the_first_end(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let calls = futures_util::future::try_join_all((0..10).map(|_| agent.complete(&task.id))).await.unwrap();
    // How far the end has come among those who follow is as of each call.
    let as_it_ended = |mut answer: proto::CompleteTaskResponse| {
        answer.receipt.as_mut().unwrap().propagation = None;
        answer
    };
    let calls: Vec<_> = calls.into_iter().map(as_it_ended).collect();
    let first = calls[0].clone();
    assert!(calls.iter().all(|answer| *answer == first), "{calls:?}");
    // Another note changes nothing.
    let again =
        proto::CompleteTaskRequest { task_id: task.id.clone(), note: "something else".into(), wait: None };
    assert_eq!(as_it_ended(agent.tasks().complete_task(again).await.unwrap().into_inner()), first);
}

async fn a25_completing_a_task_that_was_revoked_or_is_over_tells_of_that_end(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let revoked = agent.docs_task().await;
    broker.operator().revoke(&revoked.id).await.unwrap();
    let answer = agent.complete(&revoked.id).await.unwrap();
    assert_eq!(end(&answer.task.unwrap()).reason(), EndReason::Revoked);

    let short = agent.short_task(Duration::from_secs(1)).await;
    eventually("the deadline", async || !is_live(&agent.get(&short.id).await.unwrap())).await;
    let answer = agent.complete(&short.id).await.unwrap();
    let ended = answer.task.unwrap();
    assert_eq!((end(&ended).reason(), end(&ended).ended_at), (EndReason::Deadline, short.deadline));
    let receipt = answer.receipt.unwrap();
    assert_eq!(receipt.ended_at, short.deadline);
    // Nobody is told of a deadline: each verifier judges it by the clock of its broker.
    let closed_by = millis(&receipt.propagation.unwrap().closed_by);
    assert!(closed_by >= millis(&short.deadline) + 5_000, "{closed_by}");
}

async fn a25_nobody_but_the_owner_completes_a_task(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let others = [
        broker.second_agent(),
        broker.workload("agent/a1/child"),
        broker.verifier(),
        broker.other_workload("agent/a1"),
    ];
    for other in others {
        refused(other.complete(&task.id).await, Code::NotFound, "TASK_NOT_FOUND");
    }
    refused(broker.operator().complete(&task.id).await, Code::NotFound, "TASK_NOT_FOUND");
    assert!(is_live(&agent.get(&task.id).await.unwrap()));
    let never_begun = "01890a5d-ac96-774b-bcce-b302099a8057";
    refused(agent.complete(never_begun).await, Code::NotFound, "TASK_NOT_FOUND");
}

async fn an_operator_ends_a_task_of_anybody(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, operator) = (broker.agent(), broker.operator());
    let task = agent.docs_task().await;
    let minted = agent.mint(mint(&task, DOCS)).await.unwrap();
    let answer = operator.revoke(&task.id).await.unwrap();
    let ended = answer.task.unwrap();
    let how = end(&ended);
    assert_eq!((how.reason(), how.note.as_str()), (EndReason::Revoked, "enough"));
    assert_eq!(how.ended_by, "spiffe://example.org/operator/alice");
    assert_eq!(answer.receipt.unwrap().expires_by, minted.expires_at);
    assert!(!broker.verifier().accepts(&minted.token).await);
    assert_eq!(agent.get(&task.id).await.unwrap(), ended);
    refused(agent.mint(mint(&task, DOCS)).await, Code::FailedPrecondition, "TASK_ENDED");
    // Again, and after a completion: the first end stays.
    assert_eq!(operator.revoke(&task.id).await.unwrap().task.unwrap(), ended);
    let done = agent.docs_task().await;
    agent.complete(&done.id).await.unwrap();
    assert_eq!(end(&operator.revoke(&done.id).await.unwrap().task.unwrap()).reason(), EndReason::Completed);
}

async fn the_platform_ends_an_id_that_the_store_does_not_know(store: Store) {
    let broker = Broker::start(store).await;
    let (operator, platform) = (broker.operator(), broker.platform());
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let answer = platform.revoke(id).await.unwrap();
    let receipt = answer.receipt.unwrap();
    assert!(answer.task.is_none());
    assert_eq!(receipt.durability, "fsync");
    assert!(millis(&receipt.expires_by) > millis(&receipt.ended_at));
    // It stays unknown to everybody, and ending it again is no error.
    refused(broker.agent().get(id).await, Code::NotFound, "TASK_NOT_FOUND");
    refused(operator.get(id).await, Code::NotFound, "TASK_NOT_FOUND");
    platform.revoke(id).await.unwrap();
    let all = proto::ListTasksRequest { all_owners: true, ..Default::default() };
    assert!(operator.list(all).await.unwrap().tasks.is_empty());
}

async fn a_task_ends_at_its_deadline_without_a_call(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.short_task(Duration::from_millis(2_500)).await;
    let minted = agent.mint(mint_for(&task, DOCS, 300)).await.unwrap();
    assert!(millis(&minted.expires_at) <= millis(&task.deadline), "{minted:?}");
    assert!(verifier.accepts(&minted.token).await);
    eventually("the deadline", async || !is_live(&agent.get(&task.id).await.unwrap())).await;
    assert!(!verifier.accepts(&minted.token).await);
    let ended = agent.get(&task.id).await.unwrap();
    let how = end(&ended);
    assert_eq!((how.reason(), how.ended_by.as_str()), (EndReason::Deadline, ""));
    assert_eq!(how.ended_at, task.deadline);
    refused(agent.mint(mint_for(&task, DOCS, 60)).await, Code::FailedPrecondition, "TASK_ENDED");
    refused(agent.extend(&task.id, 600).await, Code::FailedPrecondition, "TASK_ENDED");
    eventually("the sweep's audit line", async || {
        broker.audit().iter().any(|line| line["action"] == "Deadline" && line["object"] == task.id.as_str())
    })
    .await;
}

/// Tasks in several partitions, each with a token.
async fn tasks_with_tokens(agent: &Client, request: proto::BeginTaskRequest) -> Vec<(proto::Task, String)> {
    let audience = request.grants[0].audience.clone();
    let mut made = Vec::new();
    for _ in 0..4 {
        let task = agent.begin(request.clone()).await.unwrap();
        let token = agent.mint(mint(&task, &audience)).await.unwrap().token;
        made.push((task, token));
    }
    made
}

async fn assert_all_ended(agent: &Client, verifier: &Client, made: &[(proto::Task, String)], why: EndReason) {
    for (task, token) in made {
        let task = agent.get(&task.id).await.unwrap();
        let how = end(&task);
        assert_eq!((how.reason(), how.note.as_str()), (why, "enough"));
        assert_eq!(how.ended_by, "spiffe://example.org/operator/alice");
        assert!(!verifier.accepts(token).await);
        refused(agent.mint(mint(&task, DOCS)).await, Code::FailedPrecondition, "TASK_ENDED");
        let complete = agent.complete(&task.id).await.unwrap();
        assert_eq!(end(&complete.task.unwrap()).reason(), why);
    }
}

async fn an_operator_ends_all_tasks_of_a_workload_and_blocks_new_ones(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, second, verifier) = (broker.agent(), broker.second_agent(), broker.verifier());
    let theirs = tasks_with_tokens(&agent, begin(&[docs()])).await;
    let others = tasks_with_tokens(&second, begin(&[docs()])).await;
    let receipt = broker.operator().revoke_workload(A1, 2).await.unwrap();
    assert_eq!((receipt.partitions, receipt.durability.as_str()), (64, "fsync"));
    assert_eq!(millis(&receipt.blocked_until) - millis(&receipt.ended_at), 2_000);
    assert!(millis(&receipt.expires_by) > millis(&receipt.ended_at));
    refused(agent.begin(begin(&[docs()])).await, Code::FailedPrecondition, "BLOCKED");
    assert_all_ended(&agent, &verifier, &theirs, EndReason::WorkloadRevoked).await;
    for (task, token) in &others {
        assert!(is_live(&second.get(&task.id).await.unwrap()) && verifier.accepts(token).await);
    }
    eventually("the block to pass", async || agent.begin(begin(&[docs()])).await.is_ok()).await;
    assert!(broker_time_is_past(millis(&receipt.blocked_until)));
}

fn broker_time_is_past(at: i64) -> bool {
    i64::try_from(crate::support::now().as_millis()).unwrap() >= at
}

async fn an_operator_ends_everything_of_a_trust_domain(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, second, verifier) = (broker.agent(), broker.second_agent(), broker.verifier());
    let foreign = broker.other_workload("agent/a1");
    let first = tasks_with_tokens(&agent, begin(&[docs()])).await;
    let more = tasks_with_tokens(&second, begin(&[docs()])).await;
    let others = tasks_with_tokens(&foreign, begin(&[other_docs()])).await;
    let receipt = broker.operator().revoke_trust_domain("example.org", 60).await.unwrap();
    assert_eq!(receipt.partitions, 64);
    assert_all_ended(&agent, &verifier, &first, EndReason::TrustDomainRevoked).await;
    assert_all_ended(&second, &verifier, &more, EndReason::TrustDomainRevoked).await;
    refused(agent.begin(begin(&[docs()])).await, Code::FailedPrecondition, "BLOCKED");
    refused(broker.workload("agent/a9").begin(begin(&[docs()])).await, Code::FailedPrecondition, "BLOCKED");
    let their_verifier = broker.other_workload("mcp/docs");
    for (task, token) in &others {
        assert!(is_live(&foreign.get(&task.id).await.unwrap()));
        let request = shown(token, OTHER_DOCS);
        assert!(their_verifier.validate(request).await.unwrap().active);
    }
    foreign.begin(begin(&[other_docs()])).await.unwrap();
}

/// Agents of each tenant may use the documentation of both.
const BOTH: &str = r#"
    permit (principal, action in [Taskpass::Action::"BeginTask", Taskpass::Action::"MintToken"], resource)
    when { principal.path like "/agent/*" };
"#;

async fn a_bulk_end_of_somebody_whom_the_broker_does_not_serve_says_so(store: Store) {
    let broker = Broker::start(store).await;
    let (operator, task) = (broker.platform(), broker.agent().docs_task().await);
    for receipt in [
        operator.revoke_trust_domain("nowhere.test", 60).await.unwrap(),
        operator.revoke_trust_domain("broker.example.org", 60).await.unwrap(),
        operator.revoke_workload("spiffe://nowhere.test/agent/a1", 60).await.unwrap(),
    ] {
        assert!(!receipt.served && receipt.partitions == 64 && receipt.blocked_until.is_some());
    }
    assert!(is_live(&broker.agent().get(&task.id).await.unwrap()));
    let known = operator.revoke_workload("spiffe://example.org/agent/nobody", 0).await.unwrap();
    assert!(known.served);
    // Whoever may not revoke does not learn whom the broker serves.
    for name in ["nowhere.test", "other.example"] {
        let denied = broker.agent().revoke_trust_domain(name, 0).await;
        let status = refused(denied, Code::PermissionDenied, "POLICY_DENIED");
        assert!(!status.message().contains(name), "{status:?}");
    }
}

async fn a_tenant_that_was_taken_out_has_no_live_authority_and_can_be_revoked(store: Store) {
    let setup = Setup::on(store);
    setup.world.write("policy/both.cedar", BOTH);
    // The documentation server serves both tenants, and verifies for the other one's audience, too.
    let enrolled = setup
        .world
        .read("audiences/other-docs.toml")
        .replace("other.example/mcp/docs", "example.org/mcp/docs");
    setup.world.write("audiences/other-docs.toml", &enrolled);
    let broker = Broker::of(setup).await;
    let (theirs, ours) = (broker.other_workload("agent/a1"), broker.agent());
    let there = theirs.docs_task().await;
    let token = theirs.mint(mint_for(&there, DOCS, 300)).await.unwrap().token;
    let csr = rcgen::CertificateParams::default().serialize_request(&rcgen::KeyPair::generate().unwrap());
    let issue = proto::IssueCertificateRequest {
        task_id: there.id.clone(),
        key: Some(proto::issue_certificate_request::Key::CsrDer(csr.unwrap().der().to_vec().into())),
        ..Default::default()
    };
    let certificate = theirs.issue(issue).await.unwrap().credential_id;
    let here = ours.begin(begin(&[docs(), other_docs()])).await.unwrap();
    let abroad = ours.mint(mint_for(&here, OTHER_DOCS, 300)).await.unwrap().token;
    let own = ours.mint(mint_for(&here, DOCS, 300)).await.unwrap().token;
    let dead = [shown(&token, DOCS), serial(&certificate, DOCS), shown(&abroad, OTHER_DOCS)];
    let active = async |broker: &Broker, request: &proto::ValidateRequest| {
        broker.verifier().validate(request.clone()).await.unwrap().active
    };
    for request in &dead {
        assert!(active(&broker, request).await);
    }

    let config = broker.world.read("taskpass.toml");
    let without = config.split_once("[[trust_domains]]\nname = \"other.example\"").unwrap().0;
    broker.world.write("taskpass.toml", without);
    let broker = broker.restart().await;
    for request in &dead {
        assert!(!active(&broker, request).await, "{request:?}");
    }
    assert!(active(&broker, &shown(&own, DOCS)).await);
    let (ours, operator) = (broker.agent(), broker.platform());
    refused(ours.mint(mint(&here, OTHER_DOCS)).await, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    let receipt = operator.revoke_trust_domain("other.example", 0).await.unwrap();
    assert!(!receipt.served && receipt.partitions == 64);
    assert!(!operator.revoke_workload("spiffe://other.example/agent/a2", 0).await.unwrap().served);

    // Were it to come back, what was revoked would stay so.
    broker.world.write("taskpass.toml", &config);
    let broker = broker.restart().await;
    let [ended @ .., lives] = &dead;
    for request in ended {
        assert!(!active(&broker, request).await, "{request:?}");
    }
    assert!(active(&broker, lives).await);
    let there = broker.other_workload("agent/a1").get(&there.id).await.unwrap();
    assert_eq!(end(&there).reason(), EndReason::TrustDomainRevoked);
}

async fn a_task_that_the_store_has_forgotten_has_no_credentials_to_list(store: Store) {
    let broker = Broker::of(Setup::on(store).with("lifetimes", "retention = \"1s\"")).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    agent.mint(mint(&task, DOCS)).await.unwrap();
    agent.complete(&task.id).await.unwrap();
    eventually("it to be forgotten", async || agent.get(&task.id).await.is_err()).await;
    refused(agent.list_credentials(&task.id).await, Code::NotFound, "TASK_NOT_FOUND");
    let never = "01890a5d-ac96-774b-bcce-b302099a8057";
    refused(agent.list_credentials(never).await, Code::NotFound, "TASK_NOT_FOUND");
}

async fn what_begins_after_a_bulk_end_without_a_block_lives(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    for _ in 0..3 {
        let before = tasks_with_tokens(&agent, begin(&[docs()])).await;
        let receipt = broker.operator().revoke_workload(A1, 0).await.unwrap();
        assert!(receipt.blocked_until.is_none());
        // At once, in the same millisecond perhaps: a fence cuts at a place in the history, not at a time.
        for (task, token) in tasks_with_tokens(&agent, begin(&[docs()])).await {
            assert!(is_live(&agent.get(&task.id).await.unwrap()) && verifier.accepts(&token).await);
        }
        assert_all_ended(&agent, &verifier, &before, EndReason::WorkloadRevoked).await;
    }
}

async fn a_key_of_a_task_that_a_bulk_end_took_finds_that_end(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let request = proto::BeginTaskRequest { idempotency_key: "k".into(), ..begin(&[docs()]) };
    let task = agent.begin(request.clone()).await.unwrap();
    broker.operator().revoke_workload(A1, 0).await.unwrap();
    let again = agent.begin(request).await.unwrap();
    assert_eq!(again.id, task.id);
    assert_eq!(end(&again).reason(), EndReason::WorkloadRevoked);
}

on_both_stores!(
    a_completed_task_takes_its_credentials_with_it,
    a25_completing_again_answers_with_the_first_end,
    a25_completing_a_task_that_was_revoked_or_is_over_tells_of_that_end,
    a25_nobody_but_the_owner_completes_a_task,
    an_operator_ends_a_task_of_anybody,
    the_platform_ends_an_id_that_the_store_does_not_know,
    a_task_ends_at_its_deadline_without_a_call,
    an_operator_ends_all_tasks_of_a_workload_and_blocks_new_ones,
    an_operator_ends_everything_of_a_trust_domain,
    a_bulk_end_of_somebody_whom_the_broker_does_not_serve_says_so,
    a_tenant_that_was_taken_out_has_no_live_authority_and_can_be_revoked,
    a_task_that_the_store_has_forgotten_has_no_credentials_to_list,
    what_begins_after_a_bulk_end_without_a_block_lives,
    a_key_of_a_task_that_a_bulk_end_took_finds_that_end,
);

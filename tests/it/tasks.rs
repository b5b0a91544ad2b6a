//! Declaring a task, looking at it, moving its deadline, and the limits on all of that.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use taskpass::proto;
use tonic::Code;

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::story::{
    begin, docs, grant, is_live, mail, millis, mint, mint_for, other_docs, payments, read_token, refused,
    seconds, seen_from_outside,
};
use crate::support::world::{DOCS, OTHER_DOCS, PAYMENTS, STRANGER};
use crate::support::{Store, eventually};

fn keyed(key: &str) -> proto::BeginTaskRequest {
    proto::BeginTaskRequest { idempotency_key: key.into(), ..begin(&[docs()]) }
}

async fn a_task_says_what_was_declared(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let mut limited = grant(PAYMENTS, &["charges.list"]);
    let limit = proto::ArgumentConstraint {
        one_of_json: vec!["\"EUR\"".into(), "\"CHF\"".into()],
        max_length: Some(3),
        ..Default::default()
    };
    limited.tools[0].arguments.insert("currency".into(), limit);
    let request = begin(&[docs(), limited]);
    let task = agent.begin(request.clone()).await.unwrap();
    assert_eq!((task.root_id.as_str(), task.parent_id.as_str()), (task.id.as_str(), ""));
    assert_eq!((task.owner.as_str(), task.subject.as_str()), ("spiffe://example.org/agent/a1", ""));
    assert_eq!((&task.goal, &task.grants), (&request.goal, &request.grants));
    let digest = ring::digest::digest(&ring::digest::SHA256, request.goal.as_bytes());
    assert_eq!(task.goal_sha256, digest.as_ref());
    assert!(is_live(&task) && task.end.is_none() && task.credentials_issued == 0);
    assert_eq!(millis(&task.deadline) - millis(&task.began_at), 600_000);
    // The policy's cap on the task's lifetime, which extensions obey as well.
    assert_eq!(millis(&task.latest_deadline) - millis(&task.began_at), 3_600_000);
    assert_eq!(agent.get(&task.id).await.unwrap(), task);
    assert_eq!(broker.operator().get(&task.id).await.unwrap(), task);
}

async fn a_lifetime_is_cut_to_the_policys_cap(store: Store) {
    let broker = Broker::start(store).await;
    let task =
        broker.agent().begin(proto::BeginTaskRequest { lifetime: seconds(7_200), ..begin(&[docs()]) }).await;
    let task = task.unwrap();
    assert_eq!(millis(&task.deadline) - millis(&task.began_at), 3_600_000);
    assert_eq!(task.deadline, task.latest_deadline);
}

async fn a_retry_with_the_same_key_finds_the_task_that_the_first_call_began(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, second) = (broker.agent(), broker.second_agent());
    let first = agent.tasks().begin_task(keyed("k1")).await.unwrap().into_inner();
    let retry = agent.tasks().begin_task(keyed("k1")).await.unwrap().into_inner();
    assert!(!first.replayed && retry.replayed);
    assert_eq!(first.task, retry.task);
    // The key is the caller's own: another workload begins a task of its own with it.
    let theirs = second.tasks().begin_task(keyed("k1")).await.unwrap().into_inner();
    assert!(!theirs.replayed);
    assert_ne!(theirs.task.unwrap().id, first.task.as_ref().unwrap().id);
    // A retry that comes late learns of the end, and begins nothing.
    let id = first.task.unwrap().id;
    agent.complete(&id).await.unwrap();
    let late = agent.tasks().begin_task(keyed("k1")).await.unwrap().into_inner();
    assert!(late.replayed && late.task.as_ref().is_some_and(|task| task.id == id && !is_live(task)));
}

async fn the_same_key_with_another_body_is_refused(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let first = agent.begin(keyed("k1")).await.unwrap();
    let others = [
        proto::BeginTaskRequest { goal: "Delete the handbook".into(), ..keyed("k1") },
        proto::BeginTaskRequest { lifetime: seconds(601), ..keyed("k1") },
        proto::BeginTaskRequest { grants: vec![grant(DOCS, &["read"])], ..keyed("k1") },
    ];
    for other in others {
        refused(agent.begin(other).await, Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(agent.list(Default::default()).await.unwrap().tasks, [first]);
}

async fn retries_that_race_begin_one_task(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let calls = (0..12).map(|_| agent.begin(keyed("once")));
    let tasks = futures_util::future::try_join_all(calls).await.unwrap();
    let ids: BTreeSet<_> = tasks.into_iter().map(|task| task.id).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(agent.list(Default::default()).await.unwrap().tasks.len(), 1);
}

async fn a_deadline_moves_later_up_to_the_cap_and_never_earlier(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let longer = agent.extend(&task.id, 1_200).await.unwrap();
    assert!(millis(&longer.deadline) >= millis(&task.began_at) + 1_200_000);
    assert!(millis(&longer.deadline) < millis(&task.began_at) + 1_260_000);
    let shorter = agent.extend(&task.id, 30).await.unwrap();
    assert_eq!(shorter.deadline, longer.deadline);
    let longest = agent.extend(&task.id, 86_400).await.unwrap();
    assert_eq!(longest.deadline, task.latest_deadline);
    assert_eq!(agent.get(&task.id).await.unwrap().deadline, task.latest_deadline);
    // Credentials may now live as long as the new deadline allows.
    agent.mint(mint_for(&task, DOCS, 300)).await.unwrap();
}

/// In the register, but the broker issues no tokens for its trust domain.
const ISSUERLESS: &str = "https://docs.stranger.example/mcp";

async fn a12_tasks_of_others_look_like_no_tasks_at_all(store: Store) {
    let setup = Setup::on(store);
    let audience = format!(
        "uri = \"{ISSUERLESS}\"\ntrust_domain = \"{STRANGER}\"\nprofile = \"bearer\"\nverifiers = []\n"
    );
    setup.world.write("audiences/issuerless.toml", &format!("{audience}tools = [{{ name = \"read\" }}]\n"));
    let broker = Broker::of(setup).await;
    let owner = broker.agent();
    let (live, ended) = (owner.docs_task().await, owner.docs_task().await);
    let minted = owner.mint(mint(&live, DOCS)).await.unwrap();
    owner.complete(&ended.id).await.unwrap();
    let nothing = proto::Task { id: "01890a5d-ac96-774b-bcce-b302099a8057".into(), ..Default::default() };
    for stranger in
        [broker.second_agent(), broker.workload("batch/nightly"), broker.other_workload("agent/a1")]
    {
        let unknown = everything_refused(&stranger, &nothing).await;
        assert!(unknown.iter().all(|(code, ..)| *code == Code::NotFound), "{unknown:?}");
        assert_eq!(everything_refused(&stranger, &live).await, unknown);
        assert_eq!(everything_refused(&stranger, &ended).await, unknown);
    }
    assert_eq!(owner.get(&live.id).await.unwrap().credentials_issued, 1);
    assert!(broker.verifier().accepts(&minted.token).await);
    // For the audit the two are not the same.
    let stranger = "spiffe://other.example/agent/a1";
    let lines: Vec<_> = broker.audit().into_iter().filter(|line| line["who"] == stranger).collect();
    let about =
        |id: &str| lines.iter().find(|l| l["object"] == id && l["action"] == "GetTask").unwrap().clone();
    assert_eq!(about(&live.id)["outcome"], "TASK_NOT_FOUND");
    assert!(about(&live.id)["detail"].as_str().unwrap().contains("POLICY_DENIED"));
    assert!(!about(&nothing.id)["detail"].as_str().unwrap().contains("POLICY_DENIED"));
}

/// What a caller sees when it asks for all that can be done with a task.
async fn everything_refused(client: &Client, task: &proto::Task) -> Vec<(Code, String, Vec<u8>)> {
    let credential = format!("{}00000000", task.id.replace('-', ""));
    let issue = proto::IssueCertificateRequest {
        task_id: task.id.clone(),
        key: Some(proto::issue_certificate_request::Key::CsrPem(csr_pem())),
        ..Default::default()
    };
    let unproven = proto::IssueCertificateRequest {
        key: Some(proto::issue_certificate_request::Key::CsrPem("no request".into())),
        ..issue.clone()
    };
    let ungranted = proto::MintTokenRequest { tools: vec!["write".into()], ..mint(task, DOCS) };
    let answers = [
        client.get(&task.id).await.map(drop),
        client.extend(&task.id, 900).await.map(drop),
        client.complete(&task.id).await.map(drop),
        client.mint(mint(task, DOCS)).await.map(drop),
        client.mint(mint(task, "https://nobody.example.org/mcp")).await.map(drop),
        client.mint(mint(task, ISSUERLESS)).await.map(drop),
        client.mint(mint(task, OTHER_DOCS)).await.map(drop),
        client.mint(ungranted).await.map(drop),
        client.issue(issue).await.map(drop),
        client.issue(unproven).await.map(drop),
        client.list_credentials(&task.id).await.map(drop),
    ];
    let mut seen: Vec<_> =
        answers.into_iter().map(|a| seen_from_outside(&a.expect_err("a refusal"), &task.id)).collect();
    let revoked = client.revoke_credential(&credential).await.expect_err("a refusal");
    seen.push(seen_from_outside(&revoked, &credential));
    seen
}

fn csr_pem() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

async fn a12_an_operator_of_another_tenant_cannot_tell_which_tasks_there_are(store: Store) {
    let broker = Broker::start(store).await;
    let (ours, theirs) = (broker.agent(), broker.other_workload("agent/a1"));
    let (our_task, their_task) =
        (ours.docs_task().await, theirs.begin(begin(&[other_docs()])).await.unwrap());
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    // The second by the sample policies.
    for (operator, foreign) in
        [(broker.other_workload("operator/eve"), &our_task.id), (broker.operator(), &their_task.id)]
    {
        let unknown = operator.revoke(id).await.expect_err("nobody's");
        let foreign_one = operator.revoke(foreign).await.expect_err("not theirs");
        assert_eq!(seen_from_outside(&foreign_one, foreign), seen_from_outside(&unknown, id));
    }
    assert!(is_live(&ours.get(&our_task.id).await.unwrap()));
    assert!(is_live(&theirs.get(&their_task.id).await.unwrap()));
    // Who may end what is nobody's may end everything: nothing is left to learn.
    assert!(broker.platform().revoke(id).await.unwrap().task.is_none());
    assert!(broker.platform().revoke(&their_task.id).await.unwrap().task.is_some());
}

async fn an_operator_sees_and_stops_the_tasks_of_its_own_tenant_alone(store: Store) {
    let broker = Broker::start(store).await;
    let (operator, foreign) = (broker.operator(), broker.other_workload("agent/a1"));
    let (ours, theirs) =
        (broker.agent().docs_task().await, foreign.begin(begin(&[other_docs()])).await.unwrap());
    let all = proto::ListTasksRequest { all_owners: true, ..Default::default() };
    assert_eq!(operator.list(all).await.unwrap().tasks, [ours]);
    let of_them = proto::ListTasksRequest { owner: theirs.owner.clone(), ..Default::default() };
    refused(operator.list(of_them).await, Code::PermissionDenied, "POLICY_DENIED");
    refused(operator.get(&theirs.id).await, Code::NotFound, "TASK_NOT_FOUND");
    refused(operator.list_credentials(&theirs.id).await, Code::NotFound, "TASK_NOT_FOUND");
    refused(operator.revoke(&theirs.id).await, Code::PermissionDenied, "POLICY_DENIED");
    refused(operator.revoke_workload(&theirs.owner, 0).await, Code::PermissionDenied, "POLICY_DENIED");
    refused(operator.revoke_trust_domain("other.example", 0).await, Code::PermissionDenied, "POLICY_DENIED");
    assert!(is_live(&foreign.get(&theirs.id).await.unwrap()));
}

async fn each_workload_lists_its_own_tasks_in_pages(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, second) = (broker.agent(), broker.second_agent());
    let mut own = BTreeSet::new();
    for _ in 0..7 {
        own.insert(agent.docs_task().await.id);
    }
    let theirs = second.docs_task().await;
    let (mut seen, mut page_token, mut sizes) = (BTreeSet::new(), String::new(), Vec::new());
    loop {
        let request = proto::ListTasksRequest { page_size: 3, page_token, ..Default::default() };
        let page = agent.list(request).await.unwrap();
        sizes.push(page.tasks.len());
        seen.extend(page.tasks.into_iter().map(|task| task.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, own);
    assert!(sizes.iter().all(|size| *size <= 3) && sizes.iter().sum::<usize>() == 7, "{sizes:?}");

    let done = own.first().unwrap();
    agent.complete(done).await.unwrap();
    let live = proto::ListTasksRequest { live_only: true, ..Default::default() };
    let live: BTreeSet<_> = agent.list(live).await.unwrap().tasks.into_iter().map(|task| task.id).collect();
    assert_eq!(live, own.iter().filter(|id| *id != done).cloned().collect());

    let all = proto::ListTasksRequest { all_owners: true, ..Default::default() };
    refused(agent.list(all.clone()).await, Code::PermissionDenied, "POLICY_DENIED");
    let of_second = proto::ListTasksRequest { owner: theirs.owner.clone(), ..Default::default() };
    refused(agent.list(of_second.clone()).await, Code::PermissionDenied, "POLICY_DENIED");
    let operator = broker.operator();
    assert_eq!(operator.list(all).await.unwrap().tasks.len(), 8);
    assert_eq!(operator.list(of_second).await.unwrap().tasks, [theirs]);
}

async fn a_workload_has_so_many_live_tasks_and_no_more(store: Store) {
    let broker = Broker::of(Setup::on(store).with("limits", "live_tasks_per_workload = 3")).await;
    let agent = broker.agent();
    let answers = join_all((0..10).map(|_| agent.begin(begin(&[docs()])))).await;
    let (begun, over): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(begun.len(), 3);
    for answer in over {
        refused(answer, Code::ResourceExhausted, "TOO_MANY_TASKS");
    }
    assert_eq!(agent.list(Default::default()).await.unwrap().tasks.len(), 3);
    // Others have places of their own; an ended task gives its place back.
    broker.second_agent().docs_task().await;
    agent.complete(&begun[0].as_ref().unwrap().id).await.unwrap();
    agent.docs_task().await;
    refused(agent.begin(begin(&[docs()])).await, Code::ResourceExhausted, "TOO_MANY_TASKS");
}

async fn a_retry_at_the_limit_finds_its_task_also_when_that_has_ended(store: Store) {
    let broker = Broker::of(Setup::on(store).with("limits", "live_tasks_per_workload = 2")).await;
    let agent = broker.agent();
    let first = agent.begin(keyed("k1")).await.unwrap();
    agent.complete(&first.id).await.unwrap();
    agent.docs_task().await;
    agent.docs_task().await;
    let retry = agent.tasks().begin_task(keyed("k1")).await.unwrap().into_inner();
    assert!(retry.replayed && retry.task.is_some_and(|task| task.id == first.id && !is_live(&task)));
    let other = proto::BeginTaskRequest { goal: "Delete the handbook".into(), ..keyed("k1") };
    refused(agent.begin(other).await, Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED");
    refused(agent.begin(keyed("k2")).await, Code::ResourceExhausted, "TOO_MANY_TASKS");
}

async fn after_an_end_of_all_a_workload_begins_as_many_anew_at_once(store: Store) {
    let broker = Broker::of(Setup::on(store).with("limits", "live_tasks_per_workload = 50")).await;
    let agent = broker.agent();
    let fifty = async || join_all((0..50).map(|_| agent.begin(begin(&[docs()])))).await;
    assert!(fifty().await.iter().all(Result::is_ok));
    refused(agent.begin(begin(&[docs()])).await, Code::ResourceExhausted, "TOO_MANY_TASKS");
    broker.operator().revoke_workload("spiffe://example.org/agent/a1", 0).await.unwrap();
    let anew = fifty().await;
    assert_eq!(anew.iter().filter(|answer| answer.is_ok()).count(), 50, "{:?}", anew.last());
    refused(agent.begin(begin(&[docs()])).await, Code::ResourceExhausted, "TOO_MANY_TASKS");
}

#[tokio::test]
async fn calls_at_the_limit_make_little_work() {
    let broker = Broker::start(Store::Redis).await;
    let agent = broker.agent();
    futures_util::future::try_join_all((0..50).map(|_| agent.begin(begin(&[docs()])))).await.unwrap();
    let steps = || {
        let stats = broker.redis.as_ref().unwrap().info("cmdstat_evalsha");
        let calls = stats.trim().strip_prefix("calls=").unwrap().split(',').next().unwrap();
        calls.parse::<u64>().unwrap()
    };
    let (before, begun) = (steps(), std::time::Instant::now());
    for _ in 0..50 {
        refused(agent.begin(begin(&[docs()])).await, Code::ResourceExhausted, "TOO_MANY_TASKS");
    }
    // One step for each call, 32 for each second, and the sweep.
    let most = 50 + (32 + 64) * (begun.elapsed().as_secs() + 2);
    assert!(steps() - before <= most, "{} steps, at most {most}", steps() - before);
}

async fn tasks_that_lapse_or_are_revoked_give_their_places_back(store: Store) {
    let broker = Broker::of(Setup::on(store).with("limits", "live_tasks_per_workload = 2")).await;
    let agent = broker.agent();
    agent.short_task(Duration::from_secs(1)).await;
    agent.short_task(Duration::from_secs(1)).await;
    eventually("places of lapsed tasks", async || agent.begin(begin(&[docs()])).await.is_ok()).await;
    eventually("the second place", async || agent.begin(begin(&[docs()])).await.is_ok()).await;
    refused(agent.begin(begin(&[docs()])).await, Code::ResourceExhausted, "TOO_MANY_TASKS");
    broker.operator().revoke_workload("spiffe://example.org/agent/a1", 0).await.unwrap();
    agent.docs_task().await;
    agent.docs_task().await;
    refused(agent.begin(begin(&[docs()])).await, Code::ResourceExhausted, "TOO_MANY_TASKS");
}

async fn a_task_is_issued_so_many_credentials_and_no_more(store: Store) {
    let broker = Broker::of(Setup::on(store).with("limits", "credentials_per_task = 5")).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let answers = futures_util::future::join_all((0..12).map(|_| agent.mint(mint(&task, DOCS)))).await;
    let (minted, over): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(minted.len(), 5);
    for answer in over {
        refused(answer, Code::ResourceExhausted, "TOO_MANY_CREDENTIALS");
    }
    assert_eq!(agent.get(&task.id).await.unwrap().credentials_issued, 5);
    let another = agent.docs_task().await;
    agent.mint(mint(&another, DOCS)).await.unwrap();
}

async fn only_a_workload_that_policy_names_acts_for_a_human(store: Store) {
    let broker = Broker::start(store).await;
    let of = |subject: &str| proto::BeginTaskRequest { subject: subject.into(), ..begin(&[docs()]) };
    let support = broker.workload("agent/support");
    let task = support.begin(of("ann@customers.example.org")).await.unwrap();
    assert_eq!(task.subject, "ann@customers.example.org");
    let (_, claims) = read_token(&support.mint(mint(&task, DOCS)).await.unwrap().token);
    assert_eq!(claims["sub"], "ann@customers.example.org");
    assert_eq!(claims["client_id"], "spiffe://example.org/agent/support");
    assert_eq!(claims["act"]["sub"], "spiffe://example.org/agent/support");

    refused(support.begin(of("root@example.org")).await, Code::PermissionDenied, "POLICY_DENIED");
    let agent = broker.agent();
    refused(agent.begin(of("ann@customers.example.org")).await, Code::PermissionDenied, "POLICY_DENIED");
    assert!(agent.list(Default::default()).await.unwrap().tasks.is_empty());
}

async fn a_restart_keeps_tasks_credentials_and_keys(store: Store) {
    let broker = Broker::start(store).await;
    let svid = broker.world.svid("agent/a1");
    let agent = broker.client(&svid);
    let (live, done) =
        (agent.begin(begin(&[docs(), payments(), mail()])).await.unwrap(), agent.docs_task().await);
    let minted = agent.mint(mint(&live, DOCS)).await.unwrap();
    let lost = agent.mint(mint(&done, DOCS)).await.unwrap();
    let completed = agent.complete(&done.id).await.unwrap();
    let keys = proto::GetKeySetRequest { trust_domain: "example.org".into() };
    let before = agent.directory().get_key_set(keys.clone()).await.unwrap().into_inner();

    let broker = broker.restart().await;
    let agent = broker.client(&svid);
    assert_eq!(agent.directory().get_key_set(keys).await.unwrap().into_inner(), before);
    assert_eq!(agent.get(&live.id).await.unwrap(), proto::Task { credentials_issued: 1, ..live.clone() });
    assert_eq!(agent.get(&done.id).await.unwrap(), completed.task.clone().unwrap());
    assert_eq!(agent.complete(&done.id).await.unwrap().task, completed.task);
    let verifier = broker.verifier();
    assert!(verifier.accepts(&minted.token).await);
    assert!(!verifier.accepts(&lost.token).await);
    assert!(verifier.accepts(&agent.mint(mint(&live, DOCS)).await.unwrap().token).await);
}

on_both_stores!(
    a_task_says_what_was_declared,
    a_lifetime_is_cut_to_the_policys_cap,
    a_retry_with_the_same_key_finds_the_task_that_the_first_call_began,
    the_same_key_with_another_body_is_refused,
    retries_that_race_begin_one_task,
    a_deadline_moves_later_up_to_the_cap_and_never_earlier,
    a12_tasks_of_others_look_like_no_tasks_at_all,
    a12_an_operator_of_another_tenant_cannot_tell_which_tasks_there_are,
    an_operator_sees_and_stops_the_tasks_of_its_own_tenant_alone,
    each_workload_lists_its_own_tasks_in_pages,
    a_workload_has_so_many_live_tasks_and_no_more,
    after_an_end_of_all_a_workload_begins_as_many_anew_at_once,
    a_retry_at_the_limit_finds_its_task_also_when_that_has_ended,
    tasks_that_lapse_or_are_revoked_give_their_places_back,
    a_task_is_issued_so_many_credentials_and_no_more,
    only_a_workload_that_policy_names_acts_for_a_human,
    a_restart_keeps_tasks_credentials_and_keys,
);

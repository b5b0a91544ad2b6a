//! A Redis that is killed, paused, flushed, restarted or put back under a running broker: calls fail in time and work again in time, nothing
//! was acknowledged that is not stored, and nothing that has ended comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use taskpass::app;
use taskpass::proto::{self, EndReason};
use taskpass::time::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::load::{Load, insist};
use crate::support::story::{begin, docs, end, is_live, mail, mint, reason, refused, shown};
use crate::support::world::{DOCS, TENANT};
use crate::support::{Store, eventually};

/// A bulk end as a broker leaves it that dies right after it has stored the intent.
fn leave_intent(broker: &Broker, id: &[u8; 16], target: &str) {
    let at = SystemClock.now().as_millis();
    let mut value = vec![1];
    value.extend([at, at, at + 3_600_000].iter().flat_map(|time| time.to_be_bytes()));
    value.extend(u16::try_from(target.len()).unwrap().to_be_bytes());
    value.extend(target.as_bytes());
    value.extend(b"spiffe://example.org/operator/alice\nleft behind");
    let mut hset = redis::cmd("HSET");
    hset.arg("taskpass:{fences}").arg(id).arg(value);
    hset.exec(&mut broker.redis.as_ref().unwrap().client()).unwrap();
}

#[tokio::test]
async fn a_token_is_good_only_where_its_record_says() {
    let broker = Broker::start(Store::Redis).await;
    let agent = broker.agent();
    let task = agent.begin(begin(&[docs(), mail()])).await.unwrap();
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    let verifier = broker.verifier();
    assert!(verifier.accepts(&token).await);
    // The number stands for a token of the other audience now, as it may after numbers were lost and given out again.
    let mut client = broker.redis.as_ref().unwrap().client();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("taskpass:*}c:*").query(&mut client).unwrap();
    redis::cmd("SETRANGE").arg(&keys[0]).arg(1).arg(&[1u8]).exec(&mut client).unwrap();
    assert!(!verifier.accepts(&token).await);
    redis::cmd("SETRANGE").arg(&keys[0]).arg(1).arg(&[0u8]).exec(&mut client).unwrap();
    assert!(verifier.accepts(&token).await);
}

#[tokio::test]
async fn what_another_broker_left_is_finished_and_written_down_whatever_lies_beside_it() {
    let broker = Broker::start(Store::Redis).await;
    let (first, second) = (broker.agent(), broker.second_agent());
    let (broken, other) = (first.docs_task().await, second.docs_task().await);
    let redis = broker.redis.as_ref().unwrap();
    // Of a later version, it says; and a fence in one partition that nobody can raise.
    redis.command(&["HSET", "taskpass:{fences}", "garbage", "\u{2}garbage"]);
    let fence = format!("w:{A1}");
    redis.command(&["HSET", "taskpass:{p00}f", &fence, "garbage"]);
    leave_intent(&broker, &[1; 16], &fence);
    leave_intent(&broker, &[2; 16], "w:spiffe://example.org/agent/a2");
    eventually("the second end", async || !is_live(&second.get(&other.id).await.unwrap())).await;
    let finished = |line: &serde_json::Value| line["action"] == "FinishRevocation";
    eventually("its line", async || broker.audit().iter().any(finished)).await;
    let line = broker.audit().into_iter().find(finished).unwrap();
    assert_eq!(
        (&line["object"], &line["outcome"]),
        (&"spiffe://example.org/agent/a2".into(), &"done".into()),
        "{line}"
    );
    assert_eq!(line["facts"]["by"], "spiffe://example.org/operator/alice", "{line}");
    // The first is in force wherever it can be, and finished as soon as it can be.
    assert!(!broker.audit().iter().any(|line| finished(line) && line["object"] == A1));
    redis.command(&["HDEL", "taskpass:{p00}f", &fence]);
    eventually("the first end", async || {
        broker.audit().iter().any(|line| finished(line) && line["object"] == A1)
    })
    .await;
    assert!(!is_live(&first.get(&broken.id).await.unwrap()));
}

/// Calls fail within this time when the store is gone, and work again within it once it is back.
const SOON: Duration = Duration::from_secs(2);
/// How often a bound is tried before it counts as missed: the machine may have been busy with something else.
const ROUNDS: usize = 3;

const A1: &str = "spiffe://example.org/agent/a1";

async fn task_with_token(agent: &Client) -> (proto::Task, String) {
    let task = insist(async || agent.begin(begin(&[docs()])).await).await.unwrap();
    let minted = insist(async || agent.mint(mint(&task, DOCS)).await).await.unwrap();
    (task, minted.token)
}

async fn key_set(client: &Client) -> proto::GetKeySetResponse {
    let request = proto::GetKeySetRequest { trust_domain: TENANT.into() };
    client.directory().get_key_set(request).await.unwrap().into_inner()
}

async fn accepted(verifier: &Client, token: &str) -> bool {
    insist(async || verifier.validate(shown(token, DOCS)).await).await.unwrap().active
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, Status>) {
    refused(answer, Code::Unavailable, "STORE_UNAVAILABLE");
}

/// Calls every operation that needs the store, and returns how long the slowest took to say that it is not there.
async fn everything_fails(broker: &Broker, task: &proto::Task, token: &str, credential: &str) -> Duration {
    let (agent, operator, verifier) = (broker.agent(), broker.operator(), broker.verifier());
    let mut slowest = Duration::ZERO;
    macro_rules! fails {
        ($($call:expr),* $(,)?) => { $({
            let since = Instant::now();
            unavailable($call.await);
            slowest = slowest.max(since.elapsed());
        })* };
    }
    fails!(
        agent.complete(&task.id),
        operator.revoke(&task.id),
        agent.revoke_credential(credential),
        operator.revoke_workload(A1, 0),
        operator.revoke_trust_domain(TENANT, 0),
        agent.begin(begin(&[docs()])),
        agent.mint(mint(task, DOCS)),
        agent.extend(&task.id, 1_200),
        agent.get(&task.id),
        agent.list(proto::ListTasksRequest::default()),
        agent.list_credentials(&task.id),
        verifier.validate(shown(token, DOCS)),
    );
    slowest
}

async fn probes(broker: &Broker) -> (u16, u16) {
    (broker.page("/livez").await.0, broker.page("/readyz").await.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a26_an_end_that_a_dead_store_did_not_take_is_an_error_and_a_retry_works() {
    let mut broker = Broker::start(Store::Redis).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let (task, token) = task_with_token(&agent).await;
    let minted = agent.mint(mint(&task, DOCS)).await.unwrap();
    let mut bounds = Vec::new();
    for _ in 0..ROUNDS {
        broker.redis.as_mut().unwrap().kill();
        let slowest = everything_fails(&broker, &task, &token, &minted.credential_id).await;
        assert_eq!(probes(&broker).await, (200, 503));
        // What does not rest on the store goes on (G12).
        key_set(&verifier).await;
        broker.redis.as_mut().unwrap().restart();
        let since = Instant::now();
        let still = insist(async || agent.get(&task.id).await).await.unwrap();
        let back = since.elapsed();
        assert!(is_live(&still), "nobody was told that it has ended");
        assert!(accepted(&verifier, &token).await && accepted(&verifier, &minted.token).await);
        eventually("readiness", async || probes(&broker).await == (200, 200)).await;
        bounds.push((slowest, back));
        if slowest < SOON && back < SOON {
            break;
        }
    }
    assert!(bounds.iter().any(|(slowest, back)| *slowest < SOON && *back < SOON), "{bounds:?}");
    let ended = insist(async || agent.complete(&task.id).await).await.unwrap();
    assert_eq!(end(&ended.task.unwrap()).reason(), EndReason::Completed);
    assert!(!accepted(&verifier, &token).await && !accepted(&verifier, &minted.token).await);
    let audit = broker.audit();
    let of_the_end = |line: &&serde_json::Value| {
        line["action"] == "CompleteTask"
            && line["object"] == task.id.as_str()
            && line["outcome"] == "STORE_UNAVAILABLE"
    };
    assert!(audit.iter().any(|line| of_the_end(&line)), "{audit:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a26_an_end_that_a_paused_store_did_not_answer_is_an_error_and_a_retry_works() {
    let broker = Broker::start(Store::Redis).await;
    let redis = broker.redis.as_ref().unwrap();
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let mut bounds = Vec::new();
    for _ in 0..ROUNDS {
        let (task, token) = task_with_token(&agent).await;
        let (other, beside) = task_with_token(&agent).await;
        redis.pause();
        let since = Instant::now();
        unavailable(agent.complete(&task.id).await);
        unavailable(verifier.validate(shown(&beside, DOCS)).await);
        let failed = since.elapsed();
        assert_eq!(probes(&broker).await, (200, 503));
        redis.resume();
        let since = Instant::now();
        assert!(is_live(&insist(async || agent.get(&other.id).await).await.unwrap()));
        let back = since.elapsed();
        assert!(accepted(&verifier, &beside).await);
        // Whether the call that was given up has done it or not: the retry says that it is done, and it is.
        let ended = insist(async || agent.complete(&task.id).await).await.unwrap();
        assert_eq!(end(&ended.task.unwrap()).reason(), EndReason::Completed);
        assert!(!accepted(&verifier, &token).await);
        bounds.push((failed, back));
        if failed < SOON * 2 && back < SOON {
            break;
        }
    }
    // Two calls, one after the other.
    assert!(bounds.iter().any(|(failed, back)| *failed < SOON * 2 && *back < SOON), "{bounds:?}");
    eventually("readiness", async || probes(&broker).await == (200, 200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_fail_while_the_store_is_away_do_not_flood_the_log() {
    let mut broker = Broker::process(Setup::on(Store::Redis)).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let (_, token) = task_with_token(&agent).await;
    broker.redis.as_mut().unwrap().kill();
    let began = Instant::now();
    let failed = std::cell::Cell::new(0);
    let warnings = || -> Vec<u64> {
        let lines = broker.as_process().lines().into_iter();
        let warnings = lines.filter(|line| line["level"] == "WARN" && line["message"] == "a call failed");
        warnings.map(|line| line["left_out"].as_u64().unwrap_or_default()).collect()
    };
    eventually("a line that says how many were left out", async || {
        for answer in join_all((0..20).map(|_| verifier.validate(shown(&token, DOCS)))).await {
            assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
            failed.set(failed.get() + 1);
        }
        warnings().iter().sum::<u64>() > 0
    })
    .await;
    let (told, seconds) = (warnings(), began.elapsed().as_secs());
    assert!(told.len() as u64 <= seconds + 2 && failed.get() >= 20, "{told:?} in {seconds} s, of {failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_that_is_not_stored_whatever_happens_to_redis_under_load() {
    let mut broker = Broker::start(Store::Redis).await;
    let load = Load::of((0..4).map(|_| broker.agent()));
    let mut back = Vec::new();
    load.answers(40).await;
    for fault in ["kill", "pause", "kill", "restart"] {
        let redis = broker.redis.as_mut().unwrap();
        match fault {
            "kill" => {
                redis.kill();
                load.failures(4).await;
                redis.restart();
            }
            "pause" => {
                redis.pause();
                load.failures(4).await;
                redis.resume();
            }
            _ => redis.restart(),
        }
        let since = Instant::now();
        load.answers(1).await;
        back.push(since.elapsed());
        load.answers(40).await;
    }
    let slowest = load.slowest_failure();
    let mut word = load.stop().await;
    word.is_kept(&broker.agent(), &broker.verifier()).await;
    eprintln!("slowest failure {slowest:?}, back after {back:?}");
    assert!(back.iter().any(|back| *back < SOON), "{back:?}");
}

/// Another broker on the same files and the same store.
async fn second(broker: &Broker) -> (app::Running, Client) {
    let config = taskpass::config::load(&broker.world.path("taskpass.toml")).unwrap();
    let running = app::start(config, Arc::new(SystemClock), CancellationToken::new()).await.unwrap();
    let svid = broker.world.svid("agent/a1");
    let client = Client::new(running.bound().grpc, &broker.world.broker_ca, &svid);
    (running, client)
}

async fn nothing_comes_back_from_a_store_that_lost_everything(lose: impl FnOnce(&mut Broker)) {
    let mut broker = Broker::start(Store::Redis).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let keys = key_set(&agent).await;
    let keyring = ["HMGET", "taskpass:{keyring}", "version", "document"];
    let stored = broker.redis.as_ref().unwrap().command(&keyring);
    eventually("the sweep to have seen the keyring", async || {
        broker.page("/metrics").await.1.lines().any(|line| line.trim() == "taskpass_keyring_in_store 1")
    })
    .await;
    let (live, ended) = (task_with_token(&agent).await, task_with_token(&agent).await);
    agent.complete(&ended.0.id).await.unwrap();

    let load = Load::of([agent.clone()]);
    load.answers(10).await;
    let _of_the_lost_store = load.stop().await;
    lose(&mut broker);
    // A lost store revokes: what it does not know is dead, and stays dead.
    for (task, token) in [&live, &ended] {
        assert!(!accepted(&verifier, token).await);
        let answer = insist(async || agent.get(&task.id).await).await;
        refused(answer, Code::NotFound, "TASK_NOT_FOUND");
        let answer = insist(async || agent.mint(mint(task, DOCS)).await).await;
        refused(answer, Code::NotFound, "TASK_NOT_FOUND");
    }
    let (_, token) = task_with_token(&agent).await;
    assert!(accepted(&verifier, &token).await);

    // The living broker gives the store its keyring back, so that the next broker makes no new keys.
    let redis = broker.redis.as_ref().unwrap();
    eventually("the keyring", async || redis.command(&keyring) == stored).await;
    let (running, client) = second(&broker).await;
    assert_eq!(key_set(&client).await, keys);
    let (_, fresh) = task_with_token(&client).await;
    assert!(accepted(&verifier, &fresh).await && accepted(&verifier, &token).await);
    for (_, token) in [&live, &ended] {
        assert!(!accepted(&verifier, token).await);
    }
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_store_revokes_and_gets_its_keyring_back() {
    nothing_comes_back_from_a_store_that_lost_everything(|broker| broker.redis.as_ref().unwrap().flush())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_comes_back_empty_revokes_and_gets_its_keyring_back() {
    nothing_comes_back_from_a_store_that_lost_everything(|broker| {
        broker.redis.as_mut().unwrap().restart_empty()
    })
    .await;
}

/// Refused because an operator said so, as soon as the store answers.
async fn is_blocked(agent: &Client) {
    let answer = insist(async || agent.begin(begin(&[docs()])).await).await;
    refused(answer, Code::FailedPrecondition, "BLOCKED");
}

async fn is_blocked_by_the_store(agent: &Client) {
    eventually("the block", async || {
        let answer = insist(async || agent.begin(begin(&[docs()])).await).await;
        answer.is_err_and(|status| reason(&status) == "BLOCKED")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_store_gets_the_blocks_back_that_a_living_broker_knows_of() {
    let broker = Broker::start(Store::Redis).await;
    let (agent, other) = (broker.agent(), broker.second_agent());
    broker.operator().revoke_workload(A1, 3_600).await.unwrap();
    broker.redis.as_ref().unwrap().flush();
    // The broker refuses by its own memory at once; one that starts later, by the store's.
    is_blocked(&agent).await;
    let raised = |line: &serde_json::Value| line["action"] == "KeepBlock" && line["object"] == A1;
    eventually("the block to be raised again", async || broker.audit().iter().any(raised)).await;
    let line = broker.audit().into_iter().find(raised).unwrap();
    assert_eq!((&line["outcome"], &line["facts"]["partitions"]), (&"done".into(), &"64".into()), "{line}");
    assert_eq!(line["facts"]["by"], "spiffe://example.org/operator/alice", "{line}");
    let (running, client) = second(&broker).await;
    is_blocked(&client).await;
    running.drain().await.unwrap();
    is_blocked(&agent).await;
    assert!(is_live(&insist(async || other.begin(begin(&[docs()])).await).await.unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_an_older_copy_from_a_broker_that_did_not_raise_them_itself() {
    let first = Broker::process(Setup::on(Store::Redis)).await;
    let copy = first.redis.as_ref().unwrap().copy();
    first.operator().revoke_trust_domain(TENANT, 3_600).await.unwrap();
    let mut broker = first.restart().await;
    eventually("the block to be seen", async || {
        broker.page("/metrics").await.1.contains("taskpass_blocks_remembered 1")
    })
    .await;
    broker.redis.as_mut().unwrap().restore(&copy);
    is_blocked(&broker.agent()).await;
    let (running, client) = second(&broker).await;
    is_blocked_by_the_store(&client).await;
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_store_brings_nothing_back() {
    let mut broker = Broker::start(Store::Redis).await;
    let (agent, operator, verifier) = (broker.agent(), broker.operator(), broker.verifier());
    let keys = key_set(&agent).await;
    let request = proto::BeginTaskRequest { idempotency_key: "again".into(), ..begin(&[docs()]) };
    let first = agent.begin(request.clone()).await.unwrap();
    let (completed, revoked) = (task_with_token(&agent).await, task_with_token(&agent).await);
    let second_agent = broker.second_agent();
    let fenced = task_with_token(&second_agent).await;
    let copy = broker.redis.as_ref().unwrap().copy();

    agent.complete(&first.id).await.unwrap();
    agent.complete(&completed.0.id).await.unwrap();
    operator.revoke(&revoked.0.id).await.unwrap();
    operator.revoke_workload("spiffe://example.org/agent/a2", 0).await.unwrap();
    let later = task_with_token(&agent).await;
    broker.redis.as_mut().unwrap().restore(&copy);

    for (task, token) in [&completed, &revoked, &fenced, &later] {
        assert!(!accepted(&verifier, token).await);
        let owner = if *task == fenced.0 { &second_agent } else { &agent };
        match insist(async || owner.get(&task.id).await).await {
            Ok(task) => assert_eq!(end(&task).reason(), EndReason::GenerationChanged),
            Err(status) => {
                assert_eq!((status.code(), &task.id), (Code::NotFound, &later.0.id), "{status:?}");
            }
        }
        let answer = insist(async || owner.mint(mint(task, DOCS)).await).await;
        assert!(matches!(answer.unwrap_err().code(), Code::FailedPrecondition | Code::NotFound));
    }
    // Agents begin anew at once, by the same key if they like.
    let anew = insist(async || agent.begin(request.clone()).await).await.unwrap();
    assert!(is_live(&anew) && anew.id != first.id);
    let token = insist(async || agent.mint(mint(&anew, DOCS)).await).await.unwrap().token;
    assert!(accepted(&verifier, &token).await);
    let (running, client) = self::second(&broker).await;
    assert_eq!(key_set(&client).await, keys);
    assert!(is_live(&client.get(&anew.id).await.unwrap()));
    running.drain().await.unwrap();
}

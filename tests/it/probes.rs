//! What a platform sees of a broker: probes, metrics, health, reflection, the audit log, and how it goes when it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use taskpass::proto;
use taskpass::time::{Clock, SystemClock, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::raw::{is_full, silent};
use crate::support::story::{begin, docs, is_live, mint, reason, refused, shown};
use crate::support::world::{DOCS, MAIL};
use crate::support::{PATIENCE, Store, eventually};

#[tokio::test]
async fn the_plain_listener_has_probes_and_metrics_and_nothing_else() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    assert_eq!(broker.page("/livez").await, (200, "live\n".to_owned()));
    assert_eq!(broker.page("/readyz").await, (200, "ready\n".to_owned()));
    for path in ["/", "/metrics/", "/tasks", "/debug/pprof", "/taskpass.v1.TaskService/ListTasks"] {
        assert_eq!(broker.page(path).await.0, 404, "{path}");
    }
    let agent = broker.agent();
    let task = agent.docs_task().await;
    refused(agent.mint(mint(&task, MAIL)).await, Code::PermissionDenied, "BEYOND_GRANT");
    let (status, page) = broker.page("/metrics").await;
    assert_eq!(status, 200);
    let begun = "taskpass_calls_total{method=\"taskpass.v1.TaskService/BeginTask\",code=\"0\"} 1";
    let denied = "taskpass_calls_total{method=\"taskpass.v1.CredentialService/MintToken\",code=\"7\"} 1";
    assert!(page.contains(begun) && page.contains(denied), "{page}");
    // Paths that a caller makes up make no labels.
    for n in 0..20 {
        let path = format!("/taskpass.v1.TaskService/Made{n}");
        crate::support::raw::call(&agent, &path, Vec::new()).await.unwrap_err();
    }
    let (_, page) = broker.page("/metrics").await;
    assert!(!page.contains("Made"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_its_store_is_alive_and_not_ready() {
    let mut broker = Broker::start(Store::Redis).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    broker.redis.as_mut().unwrap().kill();
    eventually("not ready", async || broker.page("/readyz").await.0 == 503).await;
    let (_, why) = broker.page("/readyz").await;
    assert!(why.contains("store"), "{why}");
    assert_eq!(broker.page("/livez").await.0, 200);
    broker.redis.as_mut().unwrap().restart();
    eventually("ready again", async || broker.page("/readyz").await.0 == 200).await;
    assert!(is_live(&agent.get(&task.id).await.unwrap()));
}

#[tokio::test]
async fn a_broker_that_refuses_everybody_is_not_ready_and_one_that_refuses_some_says_whom() {
    let setup = Setup::on(Store::Embedded).with("", "denied_authorities = \"denied\"");
    setup.world.write("denied", "");
    let broker = Broker::of(setup).await;
    let page = async || broker.page("/readyz").await;
    assert_eq!(page().await, (200, "ready\n".to_owned()));
    broker.world.write("other.example.json", "{\"keys\": []}");
    let but = (200, "ready, but for callers of other.example: no authority of it is in force\n".to_owned());
    eventually("one that is shut out", async || page().await == but).await;
    // Denied is as good as not there.
    let spki = crate::identity::key_identifier(broker.world.tenant.der());
    broker.world.write("denied", &spki);
    let nobody =
        "not ready: every caller is refused: no trust domain has an authority that is in force\n".to_owned();
    eventually("nobody", async || page().await == (503, nobody.clone())).await;
    broker.world.write("denied", "");
    eventually("one again", async || page().await == but).await;
    broker.world.write("other.example.json", &broker.world.other_tenant.jwk_set());
    eventually("all again", async || page().await == (200, "ready\n".to_owned())).await;
}

#[tokio::test]
async fn an_authority_that_is_over_lets_nobody_in_and_readiness_knows() {
    let clock = Arc::new(Ahead::default());
    let broker = Broker::by_clock(Setup::on(Store::Embedded), clock.clone()).await;
    let far = broker.world.broker_ca.svid_with("broker", |it| {
        it.subject_alt_names.push(crate::support::ca::dns("localhost"));
        it.not_after = it.not_before + Duration::from_secs(400 * 365 * 24 * 3600);
    });
    far.write(broker.world.dir(), "broker");
    clock.0.store(200 * 365 * 24 * 3600, Ordering::SeqCst);
    eventually("the end", async || {
        let (status, why) = broker.page("/readyz").await;
        status == 503 && why.contains("every caller is refused")
    })
    .await;
}

#[tokio::test]
async fn health_is_told_to_all_who_have_an_identity() {
    let broker = Broker::start(Store::Embedded).await;
    for client in [broker.agent(), broker.verifier(), broker.other_workload("any/thing")] {
        let answer = client.health().check(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    for name in ["Task", "Credential", "Validation", "Operator", "Directory"] {
        let known = HealthCheckRequest { service: format!("taskpass.v1.{name}Service") };
        let answer = broker.agent().health().check(known).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name}");
    }
    let unknown = HealthCheckRequest { service: "taskpass.v1.CoffeeService".into() };
    let answer = broker.agent().health().check(unknown).await;
    refused(answer, Code::NotFound, "UNKNOWN_SERVICE");
}

async fn reflected(client: &Client, ask: MessageRequest) -> Result<ServerReflectionResponse, Status> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let answer = client.reflection().server_reflection_info(tokio_stream::once(request)).await?;
    Ok(answer.into_inner().message().await?.unwrap())
}

#[tokio::test]
async fn reflection_names_every_service_to_all_who_have_an_identity() {
    let broker = Broker::start(Store::Embedded).await;
    let operator = broker.operator();
    let others = ["agent/a1", "mcp/docs", "platform/root", "batch/nightly"].map(|path| broker.workload(path));
    for client in others.iter().chain([&broker.other_workload("any/thing")]) {
        let answer = reflected(client, MessageRequest::ListServices(String::new())).await.unwrap();
        assert!(matches!(answer.message_response, Some(MessageResponse::ListServicesResponse(_))));
    }
    let answer = reflected(&operator, MessageRequest::ListServices(String::new())).await.unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: BTreeSet<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["Task", "Credential", "Validation", "Operator", "Directory"] {
        assert!(names.contains(&format!("taskpass.v1.{name}Service")), "{name}: {names:?}");
    }
    assert!(names.contains("grpc.health.v1.Health"), "{names:?}");
    for symbol in
        ["taskpass.v1.TaskService", "taskpass.v1.BeginTaskRequest", "taskpass.v1.TaskService.CompleteTask"]
    {
        let answer = reflected(&operator, MessageRequest::FileContainingSymbol(symbol.into())).await.unwrap();
        let found = matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_)));
        assert!(found, "{symbol}: {answer:?}");
    }
}

/// The id that an answer gives its request, which is a UUID.
fn request_id(metadata: &tonic::metadata::MetadataMap) -> String {
    let id = metadata.get("x-request-id").expect("a request id").to_str().unwrap().to_owned();
    uuid::Uuid::parse_str(&id).unwrap();
    id
}

#[tokio::test]
async fn every_answer_names_its_request_and_so_does_its_audit_line() {
    let setup = Setup::on(Store::Embedded);
    let quiet = r#"@id("quiet") forbid (principal, action == Taskpass::Action::"Reflect", resource)
        when { principal.path like "/agent/*" };"#;
    setup.world.write("policy/quiet.cedar", quiet);
    let broker = Broker::of(setup).await;
    let (agent, batch) = (broker.agent(), broker.workload("batch/nightly"));
    let answer = agent.tasks().begin_task(begin(&[docs()])).await.unwrap();
    let good = request_id(answer.metadata());
    let denied = batch.begin(begin(&[docs()])).await.unwrap_err();
    let malformed = agent.begin(proto::BeginTaskRequest::default()).await.unwrap_err();
    let unknown =
        crate::support::raw::call(&agent, "/taskpass.v1.TaskService/X", Vec::new()).await.unwrap_err();
    let health = agent.health().check(HealthCheckRequest::default()).await.unwrap();
    let not_reflected = reflected(&agent, MessageRequest::ListServices(String::new())).await.unwrap_err();
    let ids = [&denied, &malformed, &unknown, &not_reflected].map(|status| request_id(status.metadata()));
    let all: BTreeSet<_> = ids.iter().chain([&good, &request_id(health.metadata())]).cloned().collect();
    assert_eq!(all.len(), 6, "two requests share an id");
    // What a caller calls its request does not count.
    let mut claimed = Request::new(begin(&[docs()]));
    claimed.metadata_mut().insert("x-request-id", good.parse().unwrap());
    let answer = agent.tasks().begin_task(claimed).await.unwrap();
    assert_ne!(request_id(answer.metadata()), good);

    let line = async |id: &String| {
        eventually("the audit line", async || {
            broker.audit().iter().any(|line| line["request"] == id.as_str())
        })
        .await;
        broker.audit().into_iter().find(|line| line["request"] == id.as_str()).unwrap()
    };
    let begun = line(&good).await;
    assert_eq!(
        (&begun["who"], &begun["action"]),
        (&"spiffe://example.org/agent/a1".into(), &"BeginTask".into())
    );
    assert_eq!((&begun["outcome"], &begun["why"]), (&"done".into(), &serde_json::json!(["agents-begin"])));
    let refusal = line(&ids[0]).await;
    assert_eq!(
        (&refusal["who"], &refusal["action"]),
        (&"spiffe://example.org/batch/nightly".into(), &"BeginTask".into())
    );
    assert_eq!(
        (&refusal["outcome"], &refusal["why"]),
        (&"POLICY_DENIED".into(), &serde_json::json!(["not_permitted"]))
    );
}

/// A clock that can be set forward.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        let ahead = Duration::from_secs(self.0.load(Ordering::SeqCst));
        SystemClock.now().saturating_add(ahead)
    }
}

#[tokio::test]
async fn a_call_that_the_gate_refuses_is_counted_too() {
    let clock = Arc::new(Ahead::default());
    let broker = Broker::by_clock(Setup::on(Store::Embedded), clock.clone()).await;
    let agent = broker.agent();
    agent.directory().list_audiences(proto::ListAudiencesRequest {}).await.unwrap();
    let refused = async || {
        let name = "taskpass_calls_total{method=\"taskpass.v1.DirectoryService/ListAudiences\",code=\"16\"} ";
        let (_, page) = broker.page("/metrics").await;
        page.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).unwrap_or(0)
    };
    let before: u64 = refused().await;
    clock.0.store(100 * 365 * 24 * 3600, Ordering::SeqCst);
    agent.directory().list_audiences(proto::ListAudiencesRequest {}).await.unwrap_err();
    eventually("the call in the count", async || refused().await > before).await;
}

#[tokio::test]
async fn every_decision_has_one_audit_line() {
    use proto::issue_certificate_request::Key;
    let broker = Broker::start(Store::Embedded).await;
    let (agent, operator) = (broker.agent(), broker.operator());
    let task = agent.docs_task().await;
    let minted = agent.mint(mint(&task, DOCS)).await.unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let key = Some(Key::CsrDer(csr.der().to_vec().into()));
    agent
        .issue(proto::IssueCertificateRequest { task_id: task.id.clone(), key, ..Default::default() })
        .await
        .unwrap();
    agent.get(&task.id).await.unwrap();
    agent.list(Default::default()).await.unwrap();
    operator.list(proto::ListTasksRequest { all_owners: true, ..Default::default() }).await.unwrap();
    agent.extend(&task.id, 900).await.unwrap();
    agent.list_credentials(&task.id).await.unwrap();
    broker.verifier().validate(shown(&minted.token, DOCS)).await.unwrap();
    agent.revoke_credential(&minted.credential_id).await.unwrap();
    agent.complete(&task.id).await.unwrap();
    operator.revoke(&task.id).await.unwrap();
    operator.revoke_workload(&task.owner, 0).await.unwrap();
    operator.revoke_trust_domain("example.org", 0).await.unwrap();
    let mut directory = agent.directory();
    directory.list_audiences(proto::ListAudiencesRequest {}).await.unwrap();
    directory.get_key_set(proto::GetKeySetRequest { trust_domain: "example.org".into() }).await.unwrap();
    directory.get_task_ca_bundle(proto::GetTaskCaBundleRequest {}).await.unwrap();
    directory.get_revocation_list(proto::GetRevocationListRequest::default()).await.unwrap();
    agent.health().check(HealthCheckRequest::default()).await.unwrap();
    reflected(&operator, MessageRequest::ListServices(String::new())).await.unwrap();

    let expected = [
        ("BeginTask", task.id.as_str()),
        ("MintToken", &task.id),
        ("IssueCertificate", &task.id),
        ("GetTask", &task.id),
        ("ListTasks", &task.owner),
        ("ListTasks", "*"),
        ("ExtendTask", &task.id),
        ("ListCredentials", &task.id),
        ("Validate", DOCS),
        ("RevokeCredential", &minted.credential_id),
        ("CompleteTask", &task.id),
        ("RevokeTask", &task.id),
        ("RevokeWorkload", &task.owner),
        ("RevokeTrustDomain", "example.org"),
        ("ListAudiences", ""),
        ("GetKeySet", "example.org"),
        ("GetTaskCaBundle", ""),
        ("GetRevocationList", ""),
        ("CheckHealth", ""),
        ("Reflect", ""),
    ];
    let mut wanted = BTreeMap::new();
    expected.iter().for_each(|(action, object)| *wanted.entry((*action, *object)).or_insert(0) += 1);
    eventually("as many lines as decisions", async || broker.audit().len() >= expected.len()).await;
    let lines = broker.audit();
    let mut found = BTreeMap::new();
    for line in &lines {
        let text = |name: &str| line[name].as_str().unwrap();
        *found.entry((text("action"), text("object"))).or_insert(0) += 1;
        assert_eq!((text("outcome"), line["v"].as_u64()), ("done", Some(1)), "{line}");
        assert!(text("who").starts_with("spiffe://example.org/") && text("at").ends_with('Z'), "{line}");
        let why = line["why"].as_array().unwrap();
        assert!(!why.is_empty() && why.iter().all(|policy| policy.is_string()), "{line}");
    }
    assert_eq!(found, wanted);
}

/// Whether anybody listens there still.
async fn listens(broker: &Broker) -> bool {
    TcpStream::connect(broker.grpc).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_calls_in_flight_finish_and_takes_no_more() {
    let setup = Setup::on(Store::Redis).with("store", "timeout = \"1500ms\"");
    let mut broker = Broker::process(setup).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let mut watching = agent.health().watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    // The store is slow, so that the call is in flight when the signal comes. Nothing outside shows that it has come in: give it a while.
    broker.redis.as_ref().unwrap().pause();
    let calling = tokio::spawn({
        let agent = agent.clone();
        async move { agent.mint(mint(&task, DOCS)).await }
    });
    let in_flight = || broker.as_process().lines().iter().any(|line| line["message"] == "draining");
    tokio::time::sleep(Duration::from_millis(200)).await;
    broker.as_process().signal("-TERM");
    eventually("draining", async || in_flight()).await;
    broker.redis.as_ref().unwrap().resume();
    let minted = calling.await.unwrap();
    assert!(minted.is_ok(), "a call in flight was lost: {minted:?}");
    eventually("the listener to close", async || !listens(&broker).await).await;
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    assert!(broker.as_process().lines().iter().any(|line| line["message"] == "drained"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_no_longer_than_it_was_told() {
    let setup =
        Setup::on(Store::Embedded).with("", "drain = \"1s\"").with("limits", "calls_per_workload = 1");
    let mut broker = Broker::process(setup).await;
    let agent = broker.agent();
    let _silence = silent(&agent);
    eventually("a call in flight", async || is_full(&agent).await).await;
    let began = Instant::now();
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "took {took:?}");
}

#[tokio::test]
async fn who_watches_health_is_told_of_a_drain_and_holds_up_none() {
    let setup = Setup::on(Store::Embedded).with("", "drain = \"60s\"");
    let mut broker = Broker::process(setup).await;
    let agent = broker.agent();
    let mut watching = Vec::new();
    for service in ["", "taskpass.v1.TaskService", "taskpass.v1.CoffeeService"] {
        let request = HealthCheckRequest { service: service.into() };
        let mut news = agent.health().watch(request).await.unwrap().into_inner();
        let first = news.message().await.unwrap().unwrap().status();
        watching.push((news, first));
    }
    let firsts: Vec<_> = watching.iter().map(|(_, first)| *first).collect();
    assert_eq!(firsts, [ServingStatus::Serving, ServingStatus::Serving, ServingStatus::ServiceUnknown]);
    let began = Instant::now();
    broker.as_process().signal("-TERM");
    for (mut news, first) in watching {
        if first == ServingStatus::Serving {
            assert_eq!(news.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        }
        assert_eq!(news.message().await.unwrap(), None, "the stream goes on");
    }
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
}

#[tokio::test]
async fn who_explores_the_broker_by_reflection_holds_up_no_drain() {
    let setup = Setup::on(Store::Embedded).with("", "drain = \"60s\"");
    let mut broker = Broker::process(setup).await;
    let operator = broker.operator();
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let questions = tokio_stream::once(request).chain(tokio_stream::pending());
    let answers = operator.reflection().server_reflection_info(questions).await;
    let mut answers = answers.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let began = Instant::now();
    broker.as_process().signal("-TERM");
    let rest = tokio::time::timeout(PATIENCE, answers.message()).await.expect("the stream goes on");
    assert_eq!(rest.unwrap(), None);
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_what_the_broker_depends_on() {
    let mut broker = Broker::start(Store::Redis).await;
    let agent = broker.agent();
    let mut news = agent.health().watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(news.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    broker.redis.as_mut().unwrap().kill();
    let told = tokio::time::timeout(PATIENCE, news.message()).await.expect("news").unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
    for service in ["", "taskpass.v1.ValidationService", "grpc.health.v1.Health"] {
        let answer = agent.health().check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::NotServing, "{service}");
    }
    broker.redis.as_mut().unwrap().restart();
    let told = tokio::time::timeout(PATIENCE, news.message()).await.expect("news").unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_plain_request_that_is_half_sent_keeps_no_broker_from_ending() {
    let setup = Setup::on(Store::Embedded).with("", "drain = \"1s\"");
    let mut broker = Broker::process(setup).await;
    let mut open = Vec::new();
    for half in ["", "GET /met", "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: "] {
        let mut tcp = TcpStream::connect(broker.ops).await.unwrap();
        tcp.write_all(half.as_bytes()).await.unwrap();
        open.push(tcp);
    }
    // They are accepted in order: whoever comes after them is served only when they are.
    assert_eq!(broker.page("/livez").await.0, 200);
    let began = Instant::now();
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
}

#[tokio::test]
async fn plain_connections_that_say_nothing_shut_nobody_out_for_long() {
    let broker = Broker::start(Store::Embedded).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(broker.ops).await.unwrap());
    }
    // Those beyond the limit are closed at once, the others when their time is up.
    eventually("a place", async || answers(broker.ops).await).await;
    for tcp in &mut silent {
        let mut nothing = [0; 1];
        let read = tokio::time::timeout(PATIENCE, tcp.read(&mut nothing)).await.expect("still open");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

/// Whether a probe is answered; a connection that is closed at once is no answer.
async fn answers(ops: SocketAddr) -> bool {
    let mut tcp = TcpStream::connect(ops).await.unwrap();
    let mut answer = String::new();
    let asked = tcp.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    asked.is_ok() && tcp.read_to_string(&mut answer).await.is_ok() && answer.starts_with("HTTP/1.1 200")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_broker_at_once() {
    let setup = Setup::on(Store::Embedded)
        .with("", "drain = \"60s\"")
        .with("limits", "calls_per_workload = 1")
        .with("limits", "call_timeout = \"60s\"");
    let mut broker = Broker::process(setup).await;
    let agent = broker.agent();
    let _silence = silent(&agent);
    eventually("a call in flight", async || is_full(&agent).await).await;
    broker.as_process().signal("-TERM");
    // By then it is another wish than the first.
    let waits = async || broker.as_process().log().contains("calls in flight, at most 1m");
    eventually("waiting for the call", waits).await;
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(1), "{}", broker.as_process().log());
}

async fn what_was_acknowledged_survives_kill_9(store: Store) {
    let mut broker = Broker::process(Setup::on(store)).await;
    let agent = broker.agent();
    let (live, done) = (agent.docs_task().await, agent.docs_task().await);
    let (good, dead) =
        (agent.mint(mint(&live, DOCS)).await.unwrap(), agent.mint(mint(&done, DOCS)).await.unwrap());
    agent.complete(&done.id).await.unwrap();
    broker.as_process().signal("-KILL");
    assert_eq!(broker.exit().await, None);
    let broker = broker.restart_killed().await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    assert!(is_live(&agent.get(&live.id).await.unwrap()));
    assert!(!is_live(&agent.get(&done.id).await.unwrap()));
    assert!(verifier.accepts(&good.token).await && !verifier.accepts(&dead.token).await);
    let late = agent.mint(mint(&done, DOCS)).await.unwrap_err();
    assert_eq!(reason(&late), "TASK_ENDED");
}

on_both_stores!(what_was_acknowledged_survives_kill_9);

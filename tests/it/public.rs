//! The listener for everybody: what strangers may read there, how current it is, and how little they can take.

use std::time::Duration;

use taskpass::proto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::broker::{Broker, Setup};
use crate::support::ca::{dns, valid};
use crate::support::https::{Answer, Stranger};
use crate::support::mortal::refusal;
use crate::support::story::{is_live, mint};
use crate::support::world::{DOCS, OTHER_TENANT, TENANT};
use crate::support::{Store, eventually, now};

const KEY_SET: &str = "/example.org/jwks.json";

async fn public(store: Store) -> Broker {
    Broker::of(Setup::on(store).public()).await
}

/// By RPC, from somebody whom the broker knows.
async fn key_set(broker: &Broker, trust_domain: &str) -> String {
    let client = match trust_domain {
        TENANT => broker.verifier(),
        _ => broker.other_workload("mcp/docs"),
    };
    let request = proto::GetKeySetRequest { trust_domain: trust_domain.into() };
    client.directory().get_key_set(request).await.unwrap().into_inner().jwks_json
}

fn is_refusal(answer: &Answer, status: u16) -> bool {
    answer.status == status
        && answer.header("cache-control") == Some("no-store")
        && answer.header("content-type") == Some("text/plain; charset=utf-8")
        && answer.header("x-content-type-options") == Some("nosniff")
}

async fn r9_a_stranger_reads_key_sets_and_knows_how_long_they_may_be_kept(store: Store) {
    let broker = Broker::of(Setup::on(store).public().with("keys", "jwks_max_age = \"90s\"")).await;
    let stranger = broker.stranger();
    for (trust_domain, path) in [(TENANT, KEY_SET), (OTHER_TENANT, "/other.example/jwks.json")] {
        let answer = stranger.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.text(), key_set(&broker, trust_domain).await);
        assert_eq!(answer.header("content-type"), Some("application/jwk-set+json"));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=90, must-revalidate"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let age: u64 = answer.header("age").unwrap().parse().unwrap();
        assert!(age <= 10, "brokers agree within ten seconds: {age}");
        let tag = answer.header("etag").unwrap();
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 40, "strong: {tag}");

        let head = stranger.ask("HEAD", path, &[]).await;
        assert_eq!((head.status, head.body.len(), head.header("etag")), (200, 0, Some(tag)));
        assert_eq!(head.header("content-length"), Some(answer.body.len().to_string().as_str()));
        for held in [format!("If-None-Match: {tag}"), format!("If-None-Match: \"x\", W/{tag}")] {
            let same = stranger.ask("GET", path, &[&held]).await;
            assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(tag)));
            assert_eq!(same.header("cache-control"), answer.header("cache-control"));
        }
        assert_eq!(stranger.ask("GET", path, &["If-None-Match: \"x\""]).await.status, 200);
    }
}

#[tokio::test]
async fn a_stranger_reads_the_task_cas_certificates() {
    let broker = public(Store::Embedded).await;
    let bundle = broker.agent().directory().get_task_ca_bundle(proto::GetTaskCaBundleRequest {}).await;
    let bundle = bundle.unwrap().into_inner();
    for (path, content_type, content) in [
        ("/task-ca/bundle.pem", "application/pem-certificate-chain", bundle.pem),
        ("/task-ca/bundle.json", "application/json", bundle.spiffe_bundle_json),
    ] {
        let answer = broker.stranger().get(path).await;
        assert_eq!((answer.status, answer.text()), (200, content.as_str()));
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=300, must-revalidate"));
        assert!(answer.header("etag").is_some());
    }
}

#[tokio::test]
async fn nothing_else_is_there_and_no_answer_tells_which_trust_domains_are() {
    let broker = public(Store::Embedded).await;
    let stranger = broker.stranger();
    let unknown = stranger.get("/stranger.example/jwks.json").await;
    assert!(is_refusal(&unknown, 404), "{unknown:?}");
    for path in [
        "/",
        "/jwks.json",
        "/example.org",
        "/example.org/",
        "/example.org/jwks.json/",
        "//example.org/jwks.json",
        "/x/../example.org/jwks.json",
        "/example.org%2fjwks.json",
        "/EXAMPLE.org/jwks.json",
        "/metrics",
        "/readyz",
        "/task-ca/",
        "/taskpass.v1.TaskService/ListTasks",
    ] {
        for method in ["GET", "POST"] {
            let answer = stranger.ask(method, path, &[]).await;
            let body = (answer.status, &answer.body);
            assert_eq!(body, (404, &unknown.body), "{method} {path}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
        let answer = stranger.ask(method, KEY_SET, &["Content-Length: 0"]).await;
        assert!(is_refusal(&answer, 405), "{method}: {answer:?}");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
    // What a stranger asks makes no labels.
    let (_, metrics) = broker.page("/metrics").await;
    assert!(metrics.contains("taskpass_public_requests_total{page=\"jwks\",code=\"405\"}"), "{metrics}");
    assert!(!metrics.contains("BREW") && !metrics.contains("stranger.example"), "{metrics}");
}

#[tokio::test]
async fn stock_clients_connect_without_a_certificate_and_others_get_no_further() {
    use rustls::version::{TLS12, TLS13};
    let broker = public(Store::Embedded).await;
    let stranger = broker.stranger();
    let of = |versions: &[_], protocols: &[&[u8]]| {
        Stranger::with(stranger.address, &broker.world, versions, protocols)
    };
    for versions in [[&TLS12], [&TLS13]] {
        for protocols in [&[][..], &[&b"http/1.1"[..]], &[b"h2", b"http/1.1"]] {
            assert_eq!(of(&versions, protocols).get(KEY_SET).await.status, 200, "{versions:?} {protocols:?}");
        }
    }
    let negotiated = stranger.connect().await.unwrap();
    assert_eq!(negotiated.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    of(&[&TLS13], &[b"h2"]).connect().await.unwrap_err();
    // gRPC is not to be had here, and this is not to be had there.
    let there = Stranger::at(broker.grpc, &broker.world);
    there.send("GET /example.org/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap_err();
    eventually("the failed handshake in the count", async || {
        broker.page("/metrics").await.1.contains("taskpass_public_handshakes_failed_total ")
    })
    .await;
}

#[tokio::test]
async fn a_new_key_is_read_at_once_and_has_another_tag() {
    let times = "rotate_every = \"1s\"\nrefresh_hint = \"1s\"\njwks_max_age = \"1s\"\nagree_within = \"1s\"";
    let broker = Broker::of(Setup::on(Store::Embedded).public().with("keys", times)).await;
    let stranger = broker.stranger();
    let first = stranger.get(KEY_SET).await;
    let held = format!("If-None-Match: {}", first.header("etag").unwrap());
    eventually("the next key set", async || stranger.ask("GET", KEY_SET, &[&held]).await.status == 200).await;
    let (now, known) = (stranger.get(KEY_SET).await, key_set(&broker, TENANT).await);
    assert_ne!(now.header("etag"), first.header("etag"));
    assert!(now.text() == known || stranger.get(KEY_SET).await.text() == key_set(&broker, TENANT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_that_may_be_an_old_one_is_not_given_out() {
    let setup = Setup::on(Store::Redis).public().with("keys", "agree_within = \"1s\"");
    let broker = Broker::of(setup).await;
    let stranger = broker.stranger();
    let held = stranger.get(KEY_SET).await.header("etag").unwrap().to_owned();
    let redis = broker.redis.as_ref().unwrap();
    redis.pause();
    eventually("no answer", async || stranger.get(KEY_SET).await.status == 503).await;
    let held = format!("If-None-Match: {held}");
    for line in ["Accept: */*", &held] {
        let answer = stranger.ask("GET", KEY_SET, &[line]).await;
        assert!(is_refusal(&answer, 503), "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(stranger.get("/task-ca/bundle.pem").await.status, 503);
    assert_eq!(stranger.get("/stranger.example/jwks.json").await.status, 404);
    // Many who ask do not wait for each other at the store.
    let since = tokio::time::Instant::now();
    let asked: Vec<_> = (0..30)
        .map(|_| {
            let stranger = stranger.clone();
            tokio::spawn(async move { stranger.get(KEY_SET).await.status })
        })
        .collect();
    for status in asked {
        assert_eq!(status.await.unwrap(), 503);
    }
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    redis.resume();
    eventually("an answer again", async || stranger.ask("GET", KEY_SET, &[&held]).await.status == 304).await;
}

#[tokio::test]
async fn the_certificate_for_strangers_is_followed() {
    let broker = public(Store::Embedded).await;
    let (world, stranger) = (&broker.world, broker.stranger());
    let next = world.renew_public_certificate();
    eventually("the new certificate", async || stranger.certificate().await == next.chain[0]).await;
    world.write("public.pem", "");
    let bad = async |value: &str| {
        let line = format!("taskpass_public_certificate_source_bad {value}\n");
        broker.page("/metrics").await.1.contains(&line)
    };
    eventually("the bad file to be noticed", async || bad("1").await).await;
    assert_eq!(stranger.certificate().await, next.chain[0], "the last good one stays");
    let next = world.renew_public_certificate();
    eventually("the next one", async || stranger.certificate().await == next.chain[0]).await;
    assert!(bad("0").await);
}

/// What comes over one connection for all that is sent over it, until it is silent or ends.
async fn pipelined(stranger: &Stranger, requests: &str) -> String {
    let mut stream = stranger.connect().await.unwrap();
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    answers
}

fn request(lines: &str) -> String {
    format!("GET {KEY_SET} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a46_a_flood_of_questions_for_keys_is_bounded_and_hurts_nobody_else() {
    let setup = Setup::on(Store::Redis).public().with("public", "requests_per_second = 20");
    let broker = Broker::of(setup).await;
    let (agent, stranger) = (broker.agent(), broker.stranger());
    let task = agent.docs_task().await;
    let tag = stranger.get(KEY_SET).await.header("etag").unwrap().to_owned();
    let reads = || broker.redis.as_ref().unwrap().info("total_commands_processed").parse::<u64>().unwrap();
    let before = reads();
    let held = request(&format!("If-None-Match: {tag}\r\n"));
    let flood = format!("{}{}", held.repeat(1_000), request("Connection: close\r\n"));
    let answers = pipelined(&stranger, &flood).await;
    let count = |status: &str| answers.matches(&format!("HTTP/1.1 {status} ")).count();
    assert_eq!(count("304") + count("200") + count("429"), 1_001);
    assert!((1..200).contains(&count("304")), "twenty a second: {}", count("304"));
    assert!(answers.matches("retry-after: 1").count() >= count("429"));
    assert!(reads() - before < 500, "answered from memory");
    agent.mint(mint(&task, DOCS)).await.unwrap();
    assert!(is_live(&agent.get(&task.id).await.unwrap()));
    eventually("a rate that is restored", async || stranger.get(KEY_SET).await.status == 200).await;
    let (_, metrics) = broker.page("/metrics").await;
    assert!(metrics.contains("taskpass_limit_reached_total{limit=\"public_request_rate\"}"), "{metrics}");
}

#[tokio::test]
async fn no_address_takes_all_connections_and_those_that_end_make_room() {
    let setup = Setup::on(Store::Embedded).public().with("public", "connections_per_address = 3");
    let broker = Broker::of(setup).await;
    let stranger = broker.stranger();
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(stranger.connect().await.unwrap());
    }
    stranger.connect().await.unwrap_err();
    idle.pop();
    eventually("room for one more", async || stranger.connect().await.is_ok()).await;
    let (_, metrics) = broker.page("/metrics").await;
    let reached = "taskpass_limit_reached_total{limit=\"public_connections_per_address\"}";
    assert!(metrics.contains(reached), "{metrics}");
}

#[tokio::test]
async fn no_more_than_a_head_is_read_and_no_body() {
    let broker = public(Store::Embedded).await;
    let stranger = broker.stranger();
    let huge = format!("X: {}\r\nConnection: close\r\n", "x".repeat(64 * 1024));
    assert_eq!(stranger.send(&request(&huge)).await.map_or(431, |answer| answer.status), 431);
    let many = "X: x\r\n".repeat(200);
    assert_eq!(stranger.send(&request(&many)).await.map_or(431, |answer| answer.status), 431);
    // The body never comes, and the answer does not wait for it.
    let answer = stranger.send(&request("Content-Length: 1000000\r\n")).await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    // Whoever says nothing in TLS, or no TLS, is cut off.
    let mut tcp = tokio::net::TcpStream::connect(stranger.address).await.unwrap();
    tcp.write_all(request("").as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let _ = tcp.read_to_end(&mut said).await;
    assert!(!String::from_utf8_lossy(&said).contains("HTTP"));
    let mut silent = tokio::net::TcpStream::connect(stranger.address).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_closes_the_public_listener_and_waits_for_no_stranger() {
    let mut broker = Broker::process(Setup::on(Store::Embedded).public()).await;
    let stranger = broker.stranger();
    assert_eq!(stranger.get(KEY_SET).await.status, 200);
    let mut idle = stranger.connect().await.unwrap();
    idle.write_all(request("").as_bytes()).await.unwrap();
    assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    assert!(broker.as_process().lines().iter().any(|line| line["message"] == "drained"));
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    stranger.connect().await.unwrap_err();
}

#[tokio::test]
async fn a_public_listener_that_cannot_be_is_no_start() {
    let setup = Setup::on(Store::Embedded).public();
    let refused = async |setup: &Setup, words: &[&str]| {
        setup.write_config();
        let (code, said) = refusal(&setup.world).await;
        assert!(code.is_some_and(|code| code != 0) && !said.contains("panicked"), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "no word of {word}: {said}"));
        code
    };
    let past = now().as_secs() - 10;
    let world = &setup.world;
    let expired = world.broker_ca.svid_with("web", |params| {
        params.subject_alt_names = vec![dns("localhost")];
        valid(params, 0, past);
    });
    expired.write(world.dir(), "public");
    assert_eq!(refused(&setup, &["public.pem", "expired"]).await, Some(2));
    world.broker_ca.svid("nameless").write(world.dir(), "public");
    refused(&setup, &["public.pem", "names no host"]).await;
    world.renew_public_certificate();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(world.path("public.key"), open).unwrap();
    refused(&setup, &["public.key", "open to others"]).await;
    world.remove("public.key");
    assert_eq!(refused(&setup, &["public.key", "no such file"]).await, Some(2));

    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap();
    let setup = Setup::on(Store::Embedded);
    setup.world.renew_public_certificate();
    let lines = format!("listen = \"{at}\"\ncertificate = \"public.pem\"\nkey = \"public.key\"");
    refused(&setup.with("public", lines), &[&at.to_string()]).await;
}

/// What an operator tries first, where it is there.
#[tokio::test]
async fn curl_reads_the_key_set() {
    let broker = public(Store::Embedded).await;
    broker.world.write("web-ca.pem", &broker.world.broker_ca.pem());
    let url = format!("https://localhost:{}{KEY_SET}", broker.stranger().address.port());
    for version in ["--tls-max=1.2", "--tlsv1.3"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "-4", version.split('=').next().unwrap()]);
        curl.args(version.split('=').skip(1)).arg("--cacert").arg(broker.world.path("web-ca.pem")).arg(&url);
        let Ok(said) = curl.output().await else { return };
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(String::from_utf8_lossy(&said.stdout), key_set(&broker, TENANT).await);
    }
}

on_both_stores!(r9_a_stranger_reads_key_sets_and_knows_how_long_they_may_be_kept);

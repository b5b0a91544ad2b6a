//! What followers refuse and what they may go on to accept, in cases that are no fault of anybody: many credentials, slow neighbours, bounds that change, bindings, certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use taskpass::proto::feed_service_client::FeedServiceClient;
use taskpass::proto::{self, follow_request};
use taskpass::revoke::feed::Registration;
use taskpass::time::{Clock, SystemClock, Timestamp};
use taskpass_verifier::claims::Thumbprint;
use taskpass_verifier::feed::{self, FollowerConfig};
use taskpass_verifier::ids::TaskId;
use taskpass_verifier::keyset::Algorithm;
use taskpass_verifier::verifier::TaskCertificate;
use taskpass_verifier::{At, Presented, Refusal, UnixSeconds, VerificationKey};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::behind::beside;
use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::follower::{
    BOUND, Counting, LATE, Server, complete, complete_within, config, config_of, minted,
};
use crate::support::site::Site;
use crate::support::story::{begin, millis, mint, payments, refused, seconds};
use crate::support::world::{DOCS, PAYMENTS};
use crate::support::{Store, eventually};

/// Of the task with many; the benchmark has the million.
const CREDENTIALS: usize = 2_000;

async fn a27_a_task_with_thousands_of_credentials_ends_by_one_entry(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let (heard, server) = Counting::start(config(&broker.world, &[broker.grpc]));
    server.synchronised().await;
    let task = agent.docs_task().await;
    let mints = (0..CREDENTIALS).map(|_| {
        let (agent, request) = (agent.clone(), mint(&task, DOCS));
        // A decision that takes too long, on a machine that has much else to do, is a denial.
        async move {
            loop {
                match agent.mint(request.clone()).await {
                    Ok(minted) => return minted.token,
                    Err(status) => assert!(status.message().contains("policy_timeout"), "{status:?}"),
                }
            }
        }
    });
    let tokens: Vec<String> = futures_util::stream::iter(mints).buffer_unordered(8).collect().await;
    let sample: Vec<_> = tokens.iter().step_by(CREDENTIALS / 250).collect();
    assert!(sample.iter().all(|token| server.judge(token).is_ok()));
    let spread = complete(&agent, &task).await;
    assert_eq!((spread.applied, spread.pending), (1, 0), "{spread:?}");
    assert!(sample.iter().all(|token| server.judge(token) == Err(Refusal::TaskEnded)));
    assert!(tokens.iter().step_by(101).all(|token| server.judge(token) == Err(Refusal::TaskEnded)));
    assert_eq!(heard.ends(), 1, "one entry, whatever it ends");
}

/// Says hello and beats; what comes is for the caller to read.
async fn opened(
    client: &Client,
) -> (mpsc::Sender<proto::FollowRequest>, tonic::Streaming<proto::FollowResponse>) {
    let (say, said) = mpsc::channel(8);
    let (nonce, bound) = (vec![9; 16].into(), seconds(2));
    let hello = proto::FollowHello { audience: DOCS.into(), bound, nonce, known: None };
    let hello = proto::FollowRequest { message: Some(follow_request::Message::Hello(hello)) };
    say.send(hello).await.unwrap();
    let frames = FeedServiceClient::new(client.channel.clone()).follow(ReceiverStream::new(said)).await;
    let beats = say.clone();
    tokio::spawn(async move {
        for number in 1.. {
            let beat = follow_request::Message::Beat(proto::FollowBeat { number });
            if beats.send(proto::FollowRequest { message: Some(beat) }).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    (say, frames.unwrap().into_inner())
}

/// Says hello and beats, and reads nothing.
async fn slow_loris(site: &Site, setup: &Setup) -> impl Sized + use<> {
    opened(&Client::narrow(site.grpc, &setup.world.broker_ca, &setup.world.svid("mcp/docs"), 4_096)).await
}

/// What a process has in memory, in KiB.
fn resident(site: &Site) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.process().id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn ends(agent: &Client, many: usize) {
    let ends = (0..many).map(|_| {
        let agent = agent.clone();
        async move { drop(complete_within(&agent, &agent.docs_task().await, 0).await) }
    });
    futures_util::stream::iter(ends).buffer_unordered(16).collect::<Vec<_>>().await;
}

async fn a33_a_follower_that_never_reads_slows_nobody_and_is_named_in_receipts(store: Store) {
    let setup = Setup::on(store);
    let site = Site::start(&setup, "broker").await;
    let agent = site.workload(&setup.world, "agent/a1");
    let server = Server::at(&setup.world, &[site.door.address]).await;
    let _slow = slow_loris(&site, &setup).await;
    let spread = complete_within(&agent, &agent.docs_task().await, 1).await;
    // What the other one left when it came back, if it had to, is pending as well.
    assert!(spread.applied == 1 && spread.pending >= 1, "{spread:?}");
    for pending in &spread.pending_followers {
        assert_eq!(pending.follower, "spiffe://example.org/mcp/docs");
        assert!(millis(&pending.closes_at) <= millis(&spread.closed_by), "{spread:?}");
    }
    ends(&agent, 400).await;
    let before = resident(&site);
    ends(&agent, 2_000).await;
    let (task, token) = minted(&agent).await;
    server.accepts_again(&token).await;
    // The other one is as fast as ever.
    let since = Instant::now();
    complete_within(&agent, &task, 0).await;
    while server.judge(&token).is_ok() {
        assert!(since.elapsed() < LATE, "it has not heard of the end after {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let grown = resident(&site).saturating_sub(before);
    assert!(grown < 24 * 1_024, "the broker has grown by {grown} KiB");
}

async fn a33_what_is_on_its_way_to_a_follower_that_acknowledges_nothing_is_bounded(store: Store) {
    let setup = Setup::on(store);
    let site = Site::start(&setup, "broker").await;
    let agent = site.workload(&setup.world, "agent/a1");
    // More than may be on its way.
    ends(&agent, 2_400).await;
    let client = Client::new(site.grpc, &setup.world.broker_ca, &setup.world.svid("mcp/docs"));
    let (_say, mut frames) = opened(&client).await;
    let mut bytes = 0;
    let all = async {
        while let Ok(Some(frame)) = frames.message().await {
            bytes += frame.payload.len();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("its stream ends");
    assert!((32 * 1_024..96 * 1_024).contains(&bytes), "{bytes} bytes");
    // One that acknowledges is told of everything.
    Server::at(&setup.world, &[site.door.address]).await.synchronised().await;
}

async fn a33_a_hello_is_as_large_as_its_positions_and_no_larger(store: Store) {
    let broker = Broker::start(store).await;
    let client = broker.verifier();
    let known = Some(proto::SignedPositions { payload: vec![7; 60_000].into(), ..Default::default() });
    let (nonce, audience) = (vec![9; 16].into(), DOCS.into());
    let hello = follow_request::Message::Hello(proto::FollowHello { audience, nonce, known, bound: None });
    let said = tokio_stream::once(proto::FollowRequest { message: Some(hello) });
    let answer = FeedServiceClient::new(client.channel.clone()).follow(said).await;
    refused(answer.map(drop), Code::InvalidArgument, "INVALID_ARGUMENT");
}

/// Verifiers that come and go leave registrations behind, which stay until nobody can hold itself for fresh by them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a45_a_registry_without_room_refuses_who_comes_and_keeps_who_is_there() {
    let setup = Setup::on(Store::Redis);
    let site = Site::start(&setup, "broker").await;
    let agent = site.workload(&setup.world, "agent/a1");
    let server = Server::at(&setup.world, &[site.door.address]).await;
    let (task, token) = minted(&agent).await;
    let store = beside(&setup).await;
    let left = |number: u128| Registration {
        stream: uuid::Uuid::from_u128(number),
        follower: "spiffe://example.org/mcp/payments/p1".to_owned(),
        audience: PAYMENTS.to_owned(),
        trust_domain: "example.org".to_owned(),
        bound: Duration::from_secs(300),
        until: SystemClock.now().saturating_add(Duration::from_secs(300)),
    };
    let all: Vec<_> = (0..20_000).map(left).collect();
    assert_eq!(store.register(&all, SystemClock.now()).await.unwrap().len(), 1, "one place was taken");
    let since = Instant::now();
    // For longer than a registration lasts beyond the bound.
    while since.elapsed() < Duration::from_secs(20) {
        let client = Client::new(site.grpc, &setup.world.broker_ca, &setup.world.svid("mcp/docs"));
        refused(follow(&client).await, Code::ResourceExhausted, "TOO_MANY_STREAMS");
        assert_eq!(server.judge(&token), Ok(()), "after {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(complete(&agent, &task).await.applied, 1);
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
}

/// Tries to follow.
async fn follow(client: &Client) -> Result<(), tonic::Status> {
    let (nonce, audience) = (vec![9; 16].into(), DOCS.into());
    let hello = proto::FollowHello { audience, nonce, known: None, bound: None };
    let said =
        tokio_stream::once(proto::FollowRequest { message: Some(follow_request::Message::Hello(hello)) });
    FeedServiceClient::new(client.channel.clone()).follow(said).await.map(drop)
}

/// Reads everything, beats, and acknowledges nothing.
async fn silent(site: &Site, setup: &Setup) -> impl Sized + use<> {
    let client = Client::new(site.grpc, &setup.world.broker_ca, &setup.world.svid("mcp/docs"));
    let (say, mut frames) = opened(&client).await;
    tokio::spawn(async move { while let Ok(Some(_)) = frames.message().await {} });
    say
}

async fn a33_a_follower_that_never_answers_is_given_up_and_no_end_waits_for_it(store: Store) {
    let setup = Setup::on(store);
    let site = Site::start(&setup, "broker").await;
    let agent = site.workload(&setup.world, "agent/a1");
    let (_slow, _silent) = (slow_loris(&site, &setup).await, silent(&site, &setup).await);
    let since = Instant::now();
    let spread = complete_within(&agent, &agent.docs_task().await, 60).await;
    assert!(since.elapsed() < Duration::from_secs(40), "{:?}", since.elapsed());
    let now = SystemClock.now().as_millis();
    assert!(
        u128::from(now) <= u128::try_from(millis(&spread.closed_by)).unwrap() + LATE.as_millis(),
        "who is given up has closed, and the one that applied it had until now"
    );
    assert_eq!((spread.applied, spread.pending), (0, 2), "{spread:?}");
    let since = Instant::now();
    let spread = complete_within(&agent, &agent.docs_task().await, 60).await;
    assert!(since.elapsed() < Duration::from_secs(20), "nobody is waited for: {:?}", since.elapsed());
    assert_eq!(spread.applied, 0, "{spread:?}");
    // It may come again, and is waited for again.
    let _server = Server::at(&setup.world, &[site.door.address]).await;
    let spread = complete(&agent, &agent.docs_task().await).await;
    assert_eq!(spread.applied, 1, "{spread:?}");
}

/// Frames of others in between move the partition on without telling this audience.
async fn a_repeated_end_is_answered_at_once_whatever_has_ended_since(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    let (task, token) = minted(&agent).await;
    assert_eq!(complete(&agent, &task).await.applied, 1);
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
    let partition = |task: &proto::Task| task.id.parse::<TaskId>().unwrap().partition();
    let mut others = 0;
    while others < 2 {
        let other = agent.begin(begin(&[payments()])).await.unwrap();
        complete_within(&agent, &other, 0).await;
        others += usize::from(partition(&other) == partition(&task));
    }
    let mut agents = vec![agent];
    if store == Store::Redis {
        let second = broker.beside().await;
        agents.push(Client::new(second, &broker.world.broker_ca, &broker.world.svid("agent/a1")));
        // It hears of acknowledgements from now on.
        let (task, _) = minted(&agents[1]).await;
        assert_eq!(complete(&agents[1], &task).await.applied, 1);
    }
    let since = Instant::now();
    let spread = complete(&agents[0], &task).await;
    assert_eq!((spread.applied, spread.pending), (1, 0), "{spread:?}");
    assert!(since.elapsed() < LATE * 3, "{:?}", since.elapsed());
}

async fn a_bound_that_is_lowered_is_kept_from_then_on_without_a_gap(store: Store) {
    let setup = Setup::on(store);
    let text = setup.world.read("audiences/docs.toml");
    let bounded = |bound: &str| text.replacen("uri =", &format!("bound = \"{bound}\"\nuri ="), 1);
    setup.world.write("audiences/docs.toml", &bounded("6s"));
    let broker = Broker::of(setup).await;
    let (_task, token) = minted(&broker.agent()).await;
    let server = Server::start(FollowerConfig { bound: None, ..config(&broker.world, &[broker.grpc]) });
    server.synchronised().await;
    let bound = || server.verifier.view().unwrap().bound();
    assert_eq!(bound(), Some(Duration::from_secs(6)));
    broker.world.write("audiences/docs.toml", &bounded("2s"));
    eventually("the new bound", async || {
        assert_eq!(server.judge(&token), Ok(()), "{:?}", server.follower.status());
        bound() == Some(BOUND)
    })
    .await;
    let status = server.follower.status();
    assert!(status.problem.is_some_and(|problem| problem.contains("bound was lowered")));
    assert_eq!((server.judge(&token), status.violation, status.streams), (Ok(()), None, 2));
}

async fn a08_a_bound_token_is_refused_with_another_certificate(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let server = Server::start(config_of(&broker.world, &[broker.grpc], PAYMENTS, "mcp/payments/p1"));
    server.synchronised().await;
    let task = agent.begin(begin(&[payments()])).await.unwrap();
    let token = agent.mint(mint(&task, PAYMENTS)).await.unwrap().token;
    let with = |of: &Client| {
        let certificate = Thumbprint::from_bytes(of.thumbprint.as_slice().try_into().unwrap());
        let presented = Presented { certificate: Some(certificate), jkt: None };
        server.verifier.judge(&token, &presented, At::moment(feed::now())).map(drop)
    };
    for _ in 0..2 {
        assert_eq!(with(&agent), Ok(()));
        // The thief has the token, a certificate of his own, and even one of the same agent's name.
        assert_eq!(with(&broker.second_agent()), Err(Refusal::ConfirmationMismatch));
        assert_eq!(with(&broker.agent()), Err(Refusal::ConfirmationMismatch));
        assert_eq!(server.judge(&token), Err(Refusal::ConfirmationNotPresented));
    }
    complete(&agent, &task).await;
    assert_eq!(with(&agent), Err(Refusal::TaskEnded));
}

/// What a server judges that has read the certificate which TLS has verified.
fn judge_certificate(server: &Server, issued: &proto::IssueCertificateResponse) -> Result<(), Refusal> {
    let (_, read) = x509_parser::parse_x509_certificate(&issued.chain_der[0]).unwrap();
    let at = |time: x509_parser::time::ASN1Time| UnixSeconds(u64::try_from(time.timestamp()).unwrap());
    let (_, intermediate) = x509_parser::parse_x509_certificate(&issued.chain_der[1]).unwrap();
    let point = &intermediate.public_key().subject_public_key.data;
    let authority = VerificationKey::from_public_bytes(Algorithm::Es256, point).unwrap().id();
    let certificate = TaskCertificate {
        serial: read.raw_serial(),
        spiffe_id: &issued.spiffe_id,
        authority,
        not_before: at(read.validity().not_before),
        not_after: at(read.validity().not_after),
    };
    server.verifier.judge_certificate(&certificate, At::moment(feed::now())).map(drop)
}

async fn issued(agent: &Client, task: &proto::Task) -> proto::IssueCertificateResponse {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let key = Some(proto::issue_certificate_request::Key::CsrPem(csr.pem().unwrap()));
    let request = proto::IssueCertificateRequest { task_id: task.id.clone(), key, ..Default::default() };
    agent.issue(request).await.unwrap()
}

/// Partitions that nobody has used yet get their generation with their first task, which must not look older than it.
async fn the_first_tasks_after_a_start_have_certificates_that_followers_take(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let first = futures_util::future::join_all((0..24).map(|_| agent.docs_task())).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    for task in &first {
        assert_eq!(judge_certificate(&server, &issued(&agent, task).await), Ok(()), "{}", task.id);
    }
}

async fn a55_a_task_certificate_is_refused_on_new_connections_once_its_task_has_ended(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    // It names no audience, so whoever sees it has to know: also who verifies for one that its task has no grant for.
    let elsewhere = Server::start(config_of(&broker.world, &[broker.grpc], PAYMENTS, "mcp/payments/p1"));
    elsewhere.synchronised().await;
    let tasks = [agent.docs_task().await, agent.docs_task().await];
    let issued = [issued(&agent, &tasks[0]).await, issued(&agent, &tasks[1]).await];
    for server in [&server, &elsewhere] {
        assert_eq!(
            (judge_certificate(server, &issued[0]), judge_certificate(server, &issued[1])),
            (Ok(()), Ok(()))
        );
    }
    let spread = complete(&agent, &tasks[0]).await;
    assert_eq!((spread.applied, spread.pending), (2, 0), "{spread:?}");
    for server in [&server, &elsewhere] {
        assert_eq!(judge_certificate(server, &issued[0]), Err(Refusal::TaskEnded));
        assert_eq!(judge_certificate(server, &issued[1]), Ok(()));
    }
    agent.revoke_credential(&issued[1].credential_id).await.unwrap();
    for server in [&server, &elsewhere] {
        eventually("its end", async || {
            judge_certificate(server, &issued[1]) == Err(Refusal::CredentialRevoked)
        })
        .await;
    }
}

async fn the_end_of_a_token_is_waited_for_at_its_audience_and_that_of_a_certificate_everywhere(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    let elsewhere = Server::start(config_of(&broker.world, &[broker.grpc], PAYMENTS, "mcp/payments/p1"));
    elsewhere.synchronised().await;
    let task = agent.docs_task().await;
    let certificate = issued(&agent, &task).await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap();
    let revoked = async |credential_id: &str| {
        let request =
            proto::RevokeCredentialRequest { credential_id: credential_id.to_owned(), wait: seconds(5) };
        let answer = agent.credentials().revoke_credential(request).await.unwrap().into_inner();
        let spread = answer.propagation.unwrap();
        (spread.applied, spread.pending)
    };
    assert_eq!(revoked(&token.credential_id).await, (1, 0));
    assert_eq!(server.judge(&token.token), Err(Refusal::CredentialRevoked));
    assert_eq!(judge_certificate(&elsewhere, &certificate), Ok(()));
    assert_eq!(revoked(&certificate.credential_id).await, (2, 0));
    for server in [&server, &elsewhere] {
        assert_eq!(judge_certificate(server, &certificate), Err(Refusal::CredentialRevoked));
    }
}

/// Whom an end concerns stands in the task's head: what becomes of the rows of its credentials changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a55_the_end_of_a_task_whose_certificate_the_store_has_lost_is_told_to_everybody() {
    let broker = Broker::start(Store::Redis).await;
    let agent = broker.agent();
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    let elsewhere = Server::start(config_of(&broker.world, &[broker.grpc], PAYMENTS, "mcp/payments/p1"));
    elsewhere.synchronised().await;
    let (tokens_alone, token) = minted(&agent).await;
    let (task, lost) = minted(&agent).await;
    let certificate = issued(&agent, &task).await;
    assert_eq!(judge_certificate(&elsewhere, &certificate), Ok(()));
    let mut redis = broker.redis.as_ref().unwrap().client();
    let chunks: Vec<Vec<u8>> = redis::cmd("KEYS").arg("taskpass:*}c:*").query(&mut redis).unwrap();
    assert_eq!(chunks.len(), 2);
    redis::cmd("DEL").arg(&chunks).exec(&mut redis).unwrap();

    let spread = complete(&agent, &task).await;
    assert_eq!((spread.applied, spread.pending), (2, 0), "{spread:?}");
    for server in [&server, &elsewhere] {
        assert_eq!(judge_certificate(server, &certificate), Err(Refusal::TaskEnded));
    }
    assert_eq!(server.judge(&lost), Err(Refusal::TaskEnded));
    // Nobody else has to know of a task that never had a certificate.
    let spread = complete(&agent, &tokens_alone).await;
    assert_eq!((spread.applied, spread.pending), (1, 0), "{spread:?}");
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
}

/// The machine's clock, and so many milliseconds beside it.
#[derive(Debug, Default)]
struct Off(AtomicI64);

impl Clock for Off {
    fn now(&self) -> Timestamp {
        let now = SystemClock.now().as_millis();
        Timestamp::from_millis(now.saturating_add_signed(self.0.load(Ordering::SeqCst)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a32_a_broker_whose_clock_is_not_the_stores_keeps_nobody_fresh() {
    let clock = Arc::new(Off::default());
    let broker = Broker::by_clock(Setup::on(Store::Redis), Arc::clone(&clock) as _).await;
    let agent = broker.agent();
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    let (task, token) = minted(&agent).await;
    for minutes in [10, -10] {
        server.accepts_again(&token).await;
        clock.0.store(minutes * 60_000, Ordering::SeqCst);
        server.goes_stale(&token).await;
        let request = proto::CompleteTaskRequest { task_id: task.id.clone(), ..Default::default() };
        refused(agent.tasks().complete_task(request).await, Code::Unavailable, "CLOCK_SKEW");
        clock.0.store(0, Ordering::SeqCst);
    }
    server.accepts_again(&token).await;
    complete(&agent, &task).await;
    assert_eq!(server.judge(&token), Err(Refusal::TaskEnded));
}

on_both_stores!(
    the_first_tasks_after_a_start_have_certificates_that_followers_take,
    a27_a_task_with_thousands_of_credentials_ends_by_one_entry,
    a33_what_is_on_its_way_to_a_follower_that_acknowledges_nothing_is_bounded,
    a33_a_hello_is_as_large_as_its_positions_and_no_larger,
    a33_a_follower_that_never_reads_slows_nobody_and_is_named_in_receipts,
    a33_a_follower_that_never_answers_is_given_up_and_no_end_waits_for_it,
    a_repeated_end_is_answered_at_once_whatever_has_ended_since,
    a_bound_that_is_lowered_is_kept_from_then_on_without_a_gap,
    a08_a_bound_token_is_refused_with_another_certificate,
    a55_a_task_certificate_is_refused_on_new_connections_once_its_task_has_ended,
    the_end_of_a_token_is_waited_for_at_its_audience_and_that_of_a_certificate_everywhere,
);

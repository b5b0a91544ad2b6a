//! The feed as it comes over the wire: what a stream says, in which order, to whom, and what a receipt makes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use taskpass::keys::Move;
use taskpass::proto::feed_service_client::FeedServiceClient;
use taskpass::proto::{self, feed_entry, feed_frame, follow_request};
use taskpass_verifier::KeySet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::support::behind::{keeper, on_redis};
use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::story::{begin, docs, mail, millis, mint, refused, seconds};
use crate::support::world::{DOCS, MAIL, OTHER_TENANT, PAYMENTS, TENANT};
use crate::support::{PATIENCE, Store, eventually, now};

const NONCE: [u8; 16] = [7; 16];

/// A follower that says what the test tells it to say.
struct Stream {
    say: mpsc::Sender<proto::FollowRequest>,
    frames: Streaming<proto::FollowResponse>,
    keys: KeySet,
    sequence: u64,
    /// What it was told of each partition.
    covered: BTreeMap<u32, u64>,
}

fn hello(audience: &str, known: Option<proto::SignedPositions>) -> proto::FollowRequest {
    let (bound, nonce) = (seconds(2), NONCE.to_vec().into());
    let hello = proto::FollowHello { audience: audience.into(), bound, nonce, known };
    proto::FollowRequest { message: Some(follow_request::Message::Hello(hello)) }
}

async fn follow(client: &Client, audience: &str) -> Result<Stream, Status> {
    follow_knowing(client, audience, None).await
}

/// The same, and it brings along what an earlier stream has told it.
async fn follow_knowing(
    client: &Client,
    audience: &str,
    known: Option<proto::SignedPositions>,
) -> Result<Stream, Status> {
    follow_saying(client, hello(audience, known)).await
}

async fn follow_saying(client: &Client, hello: proto::FollowRequest) -> Result<Stream, Status> {
    let request = proto::GetKeySetRequest { trust_domain: TENANT.into() };
    let keys = client.directory().get_key_set(request).await?.into_inner();
    let keys = KeySet::from_jwks(keys.feed_jwks_json.as_bytes()).unwrap();
    let (say, said) = mpsc::channel(64);
    say.send(hello).await.unwrap();
    let frames = FeedServiceClient::new(client.channel.clone()).follow(ReceiverStream::new(said)).await?;
    Ok(Stream { say, frames: frames.into_inner(), keys, sequence: 0, covered: BTreeMap::new() })
}

impl Stream {
    async fn say(&self, message: follow_request::Message) {
        self.say.send(proto::FollowRequest { message: Some(message) }).await.unwrap();
    }

    async fn beat(&self, number: u64) {
        self.say(follow_request::Message::Beat(proto::FollowBeat { number })).await;
    }

    async fn acknowledge(&self) {
        self.say(follow_request::Message::Ack(proto::FollowAck { sequence: self.sequence })).await;
    }

    /// The next frame, whose signature, nonce and place are as they must be.
    async fn frame(&mut self) -> feed_frame::Content {
        let next = tokio::time::timeout(PATIENCE, self.frames.message()).await.expect("a frame in time");
        self.sound(&next.unwrap().expect("the stream goes on"))
    }

    fn sound(&mut self, response: &proto::FollowResponse) -> feed_frame::Content {
        let key = self.keys.get(&response.key_id.parse().unwrap()).expect("a key of the feed");
        let signed = match &response.batch {
            None => [b"taskpass-feed-v1\0".as_slice(), &response.payload].concat(),
            Some(proto::FeedBatch { index, size, path }) => {
                let place = taskpass_verifier::feed::batch::Place { index: *index, size: *size, path };
                place.head(&response.payload).expect("a place among those that were signed")
            }
        };
        assert!(key.has_signed(&signed, response.signature.as_ref()));
        let frame = proto::FeedFrame::decode(response.payload.clone()).unwrap();
        self.sequence += 1;
        assert_eq!((frame.sequence, frame.nonce.as_ref()), (self.sequence, NONCE.as_slice()));
        let content = frame.content.unwrap();
        match &content {
            feed_frame::Content::Snapshot(part) => {
                self.covered.insert(part.partition, part.seq);
            }
            feed_frame::Content::Delta(delta) => {
                let covered = self.covered.insert(delta.partition, delta.to_seq);
                assert_eq!(covered, Some(delta.from_seq), "no gap: {delta:?}");
            }
            _ => {}
        }
        content
    }

    /// Everything up to the first heartbeat that keeps every partition fresh.
    async fn synchronised(&mut self) -> (Vec<feed_frame::Content>, proto::FeedHeartbeat) {
        let mut before = Vec::new();
        loop {
            match self.frame().await {
                feed_frame::Content::Heartbeat(heartbeat) if heartbeat.partitions == u64::MAX => {
                    return (before, heartbeat);
                }
                other => before.push(other),
            }
        }
    }

    /// The next delta with something in it.
    async fn delta(&mut self) -> Vec<proto::FeedEntry> {
        loop {
            if let feed_frame::Content::Delta(delta) = self.frame().await {
                return delta.entries;
            }
        }
    }
}

/// At the audience's own bound.
async fn follow_at_length(client: &Client, audience: &str) -> Stream {
    let mut hello = hello(audience, None);
    if let Some(follow_request::Message::Hello(hello)) = &mut hello.message {
        hello.bound = None;
    }
    follow_saying(client, hello).await.unwrap()
}

fn ended(entries: &[proto::FeedEntry]) -> Vec<Vec<u8>> {
    let ended = entries.iter().filter_map(|entry| match &entry.what {
        Some(feed_entry::What::TaskEnded(id)) => Some(id.to_vec()),
        _ => None,
    });
    ended.collect()
}

fn id_of(task: &proto::Task) -> Vec<u8> {
    task.id.parse::<taskpass_verifier::ids::TaskId>().unwrap().as_bytes().to_vec()
}

fn complete(task: &proto::Task, wait: i64) -> proto::CompleteTaskRequest {
    proto::CompleteTaskRequest { task_id: task.id.clone(), wait: seconds(wait), ..Default::default() }
}

/// Its registration has to be renewed more often than a heartbeat is due.
async fn a_follower_at_a_long_bound_is_kept_fresh_while_nothing_happens(store: Store) {
    let setup = Setup::on(store);
    let text = setup.world.read("audiences/payments.toml").replace("bound = \"5s\"", "bound = \"41s\"");
    setup.world.write("audiences/payments.toml", &text);
    let broker = Broker::of(setup).await;
    let mut stream = follow_at_length(&broker.workload("mcp/payments/p1"), PAYMENTS).await;
    let (_, first) = stream.synchronised().await;
    stream.beat(first.beat + 1).await;
    // The first answers the beat at once, the second comes when it is due.
    for _ in 0..2 {
        let feed_frame::Content::Heartbeat(next) = stream.frame().await else {
            panic!("nothing has happened")
        };
        assert_eq!(next.partitions, u64::MAX, "it would close though nothing is wrong");
    }
}

/// Whoever verifies for it may be shown what the old trust domain's keys have signed, until its bound is over.
async fn a_stream_whose_audience_moves_to_another_trust_domain_ends_and_counts_until_its_bound(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, operator) = (broker.agent(), broker.operator());
    let token = agent.mint(mint(&agent.docs_task().await, DOCS)).await.unwrap().token;
    let mut stream = follow(&broker.workload("mcp/payments/p1"), PAYMENTS).await.unwrap();
    stream.synchronised().await;
    let text = broker.world.read("audiences/payments.toml");
    broker.world.write("audiences/payments.toml", &text.replace("\"example.org\"", "\"other.example\""));
    let over = loop {
        stream.beat(1_000).await;
        match stream.frames.message().await {
            Ok(Some(_)) => {}
            over => break over,
        }
    };
    refused(over, Code::FailedPrecondition, "AUDIENCE_MOVED");
    let kid = crate::support::story::kid_of(&token);
    let request = proto::CompromiseKeyRequest { kid, ..Default::default() };
    let receipt = operator.keys().compromise_key(request).await.unwrap().into_inner().receipt.unwrap();
    let spread = receipt.propagation.unwrap();
    assert_eq!((spread.applied, spread.pending), (0, 1), "{spread:?}");
    assert!(millis(&spread.closed_by) > millis(&receipt.ended_at) + 1_900, "its bound is 2 s");
}

#[tokio::test]
async fn a_receipt_says_so_where_the_store_does_not_tell_who_follows() {
    let broker = Broker::start(Store::Redis).await;
    let agent = broker.agent();
    let [known, unknown] = [agent.docs_task().await, agent.docs_task().await];
    let of = async |task: &proto::Task| {
        let done = agent.tasks().complete_task(complete(task, 1)).await.unwrap().into_inner();
        let receipt = done.receipt.unwrap();
        (millis(&receipt.ended_at), receipt.propagation.unwrap())
    };
    assert!(!of(&known).await.1.followers_unknown);
    let redis = broker.redis.as_ref().unwrap();
    redis.command(&["HSET", "taskpass:{feed}r", "0123456789abcdef", "no registration"]);
    let (ended, spread) = of(&unknown).await;
    assert!(spread.followers_unknown && spread.applied == 0 && spread.pending == 0, "{spread:?}");
    assert!(millis(&spread.closed_by) >= ended + 300_000, "the largest bound that there can be");
}

async fn a_stream_begins_with_keys_and_snapshots_and_then_keeps_its_follower_fresh(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let before = agent.docs_task().await;
    agent.complete(&before.id).await.unwrap();
    let mut stream = follow(&verifier, DOCS).await.unwrap();
    let (opening, first) = stream.synchronised().await;
    let feed_frame::Content::KeySet(keys) = &opening[0] else { panic!("{opening:?}") };
    assert!(keys.epoch > 0 && KeySet::from_jwks(keys.jwks_json.as_bytes()).is_ok());
    let snapshots = opening.iter().filter_map(|content| match content {
        feed_frame::Content::Snapshot(part) => Some(part.entries.clone()),
        _ => None,
    });
    let entries: Vec<_> = snapshots.flatten().collect();
    assert_eq!(ended(&entries), [id_of(&before)], "what ended before is in the snapshot");
    assert_eq!((stream.covered.len(), first.beat), (64, 0));
    // A beat is named by a later heartbeat, and none that was not sent.
    stream.beat(1).await;
    loop {
        let (_, heartbeat) = stream.synchronised().await;
        assert!(heartbeat.beat <= 1);
        assert_eq!(heartbeat.bound, seconds(2));
        if heartbeat.beat == 1 {
            break;
        }
    }
}

async fn an_end_comes_as_a_delta_and_its_receipt_counts_who_applied_it(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let (task, other) = (agent.docs_task().await, agent.docs_task().await);
    let token = agent.mint(mint(&other, DOCS)).await.unwrap();
    let mut stream = follow(&verifier, DOCS).await.unwrap();
    stream.synchronised().await;
    stream.acknowledge().await;
    let completing = tokio::spawn({
        let (agent, request) = (broker.agent(), complete(&task, 5));
        async move { agent.tasks().complete_task(request).await.unwrap().into_inner() }
    });
    assert_eq!(ended(&stream.delta().await), [id_of(&task)]);
    stream.acknowledge().await;
    let spread = completing.await.unwrap().receipt.unwrap().propagation.unwrap();
    assert_eq!((spread.applied, spread.pending), (1, 0), "{spread:?}");
    // Told in whole milliseconds, rounded up.
    assert!(millis(&spread.closed_by) <= i64::try_from(now().as_millis()).unwrap() + 1);
    // One credential, and everything of a workload.
    agent.revoke_credential(&token.credential_id).await.unwrap();
    let entries = stream.delta().await;
    assert!(matches!(entries[0].what, Some(feed_entry::What::CredentialRevoked(_))), "{entries:?}");
    broker.operator().revoke_workload(&other.owner, 0).await.unwrap();
    let entries = stream.delta().await;
    assert!(matches!(entries[0].what, Some(feed_entry::What::Fence(_))), "{entries:?}");
}

async fn a_follower_that_says_nothing_is_pending_until_its_bound_is_over(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.docs_task().await;
    let mut stream = follow(&verifier, DOCS).await.unwrap();
    stream.synchronised().await;
    let before = i64::try_from(now().as_millis()).unwrap();
    let done = agent.tasks().complete_task(complete(&task, 0)).await.unwrap().into_inner();
    let spread = done.receipt.unwrap().propagation.unwrap();
    assert_eq!((spread.applied, spread.pending), (0, 1));
    let pending = &spread.pending_followers[0];
    assert_eq!(
        (pending.follower.as_str(), pending.audience.as_str()),
        ("spiffe://example.org/mcp/docs", DOCS)
    );
    let closes = millis(&pending.closes_at) - before;
    assert!((2_000..4_000).contains(&closes), "it closes its bound after the end: {closes} ms");
    assert_eq!(spread.closed_by, pending.closes_at);
    // Gone without a word it counts as pending still: it may hold itself for fresh.
    drop(stream);
    let task = agent.docs_task().await;
    let done = agent.tasks().complete_task(complete(&task, 0)).await.unwrap().into_inner();
    assert_eq!(done.receipt.unwrap().propagation.unwrap().pending, 1);
}

async fn nobody_is_told_of_what_is_not_for_their_audience(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.workload("mcp/mail"));
    let (docs_only, both) = (agent.docs_task().await, agent.begin(begin(&[docs(), mail()])).await.unwrap());
    let mut stream = follow(&verifier, MAIL).await.unwrap();
    stream.synchronised().await;
    let done = agent.tasks().complete_task(complete(&docs_only, 0)).await.unwrap().into_inner();
    assert_eq!(done.receipt.unwrap().propagation.unwrap().pending, 0, "it does not concern them");
    agent.complete(&both.id).await.unwrap();
    assert_eq!(ended(&stream.delta().await), [id_of(&both)]);
}

async fn only_an_enrolled_verifier_may_follow(store: Store) {
    let broker = Broker::start(store).await;
    for (client, audience) in
        [(broker.agent(), DOCS), (broker.verifier(), PAYMENTS), (broker.operator(), DOCS)]
    {
        refused(follow(&client, audience).await.map(drop), Code::PermissionDenied, "POLICY_DENIED");
    }
    let answer = follow(&broker.verifier(), "https://unknown.example.org/mcp").await.map(drop);
    refused(answer, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    let (say, said) = mpsc::channel(1);
    let beat = follow_request::Message::Beat(proto::FollowBeat { number: 1 });
    say.send(proto::FollowRequest { message: Some(beat) }).await.unwrap();
    let mut feed = FeedServiceClient::new(broker.verifier().channel.clone());
    refused(
        feed.follow(ReceiverStream::new(said)).await.map(drop),
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
}

async fn a_stream_ends_when_its_follower_is_enrolled_no_longer(store: Store) {
    let broker = Broker::start(store).await;
    let mut stream = follow(&broker.verifier(), DOCS).await.unwrap();
    stream.synchronised().await;
    let text = broker.world.read("audiences/docs.toml").replace("mcp/docs", "mcp/others");
    broker.world.write("audiences/docs.toml", &text);
    let ended = async {
        loop {
            match stream.frames.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("an end without a reason"),
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}

/// Positions beyond the store's: a broker that believed them would end everything.
async fn g6_positions_that_no_broker_has_signed_end_nothing(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    let mut stream = follow(&verifier, DOCS).await.unwrap();
    let (_, heartbeat) = stream.synchronised().await;
    let good = heartbeat.positions.expect("the first heartbeat brings them");
    let mut beyond = proto::FeedPositions::decode(good.payload.clone()).unwrap();
    beyond.positions.iter_mut().for_each(|position| position.seq += 1_000);
    let payload: prost::bytes::Bytes = beyond.encode_to_vec().into();
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let key = ring::signature::EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap();
    let signed = [b"taskpass-positions-v1\0".as_slice(), &payload].concat();
    let signature: prost::bytes::Bytes = key.sign(&random, &signed).unwrap().as_ref().to_vec().into();
    let altered = proto::SignedPositions { payload, ..good.clone() };
    let of_another = proto::SignedPositions { signature, ..altered.clone() };
    let of_a_stranger = proto::SignedPositions { key_id: "A".repeat(43), ..of_another.clone() };
    for known in [altered, of_another, of_a_stranger] {
        let mut stream = follow_knowing(&verifier, DOCS, Some(known)).await.unwrap();
        stream.synchronised().await;
        let line = broker.audit().into_iter().rfind(|line| line["action"] == "Follow").unwrap();
        assert_eq!(line["facts"]["known_positions"], "not signed by a feed key that is published", "{line}");
    }
    follow_knowing(&verifier, DOCS, Some(good)).await.unwrap().synchronised().await;
    let grown = |line: &serde_json::Value| !line["facts"]["generation_grew_in"].is_null();
    assert!(!broker.audit().iter().any(grown));
    assert!(verifier.accepts(&token).await);
}

async fn a_stream_whose_bound_was_lowered_ends_and_says_so(store: Store) {
    let broker = Broker::start(store).await;
    let mut stream = follow(&broker.verifier(), DOCS).await.unwrap();
    stream.synchronised().await;
    let text = broker.world.read("audiences/docs.toml").replacen("uri =", "bound = \"1s\"\nuri =", 1);
    broker.world.write("audiences/docs.toml", &text);
    let ended = async {
        loop {
            match stream.frames.message().await {
                Ok(frame) => assert!(frame.is_some(), "an end without a reason"),
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    refused(Err::<(), _>(status), Code::FailedPrecondition, "BOUND_LOWERED");
}

/// Whoever hangs up right after the hello is written down all the same: each stream that a receipt reckons with has its line.
async fn a_hello_that_is_reset_right_away_leaves_its_audit_line(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    assert!(verifier.accepts(&token).await, "the connection stands");
    // Each is reset a little later than the one before.
    for pause in 0..40 {
        let (say, said) = mpsc::channel(1);
        say.send(hello(DOCS, None)).await.unwrap();
        let mut feed = FeedServiceClient::new(verifier.channel.clone());
        let call = feed.follow(ReceiverStream::new(said));
        let _reset = tokio::time::timeout(Duration::from_micros(pause * 200), call).await.is_err();
    }
    let done = agent.tasks().complete_task(complete(&task, 0)).await.unwrap().into_inner();
    let spread = done.receipt.unwrap().propagation.unwrap();
    assert!(spread.pending >= 1 && spread.applied == 0, "{spread:?}");
    for pending in &spread.pending_followers {
        eventually("its line", async || {
            let of_it = |line: &serde_json::Value| line["facts"]["stream"] == pending.stream_id.as_str();
            broker.audit().iter().any(|line| of_it(line) && line["outcome"] == "done")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_through_one_broker_reaches_the_followers_of_another() {
    let first = Broker::start(Store::Redis).await;
    let (second, world) = (first.beside().await, &first.world);
    let verifier = Client::new(second, &world.broker_ca, &world.tenant.svid("mcp/docs"));
    let agent = first.agent();
    let task = agent.docs_task().await;
    let mut stream = follow(&verifier, DOCS).await.unwrap();
    stream.synchronised().await;
    stream.acknowledge().await;
    let completing = tokio::spawn({
        let (agent, request) = (first.agent(), complete(&task, 5));
        async move { agent.tasks().complete_task(request).await.unwrap().into_inner() }
    });
    assert_eq!(ended(&stream.delta().await), [id_of(&task)]);
    stream.acknowledge().await;
    let spread = completing.await.unwrap().receipt.unwrap().propagation.unwrap();
    assert_eq!((spread.applied, spread.pending), (1, 0), "{spread:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_cut_off_from_its_store_keeps_nobody_fresh() {
    let broker = Broker::start(Store::Redis).await;
    let redis = broker.redis.as_ref().unwrap();
    let mut stream = follow(&broker.verifier(), DOCS).await.unwrap();
    stream.synchronised().await;
    redis.pause();
    // What was under way may still come; then no heartbeat names a partition.
    tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let feed_frame::Content::Heartbeat(heartbeat) = stream.frame().await
                && heartbeat.partitions == 0
            {
                return;
            }
        }
    })
    .await
    .expect("a heartbeat that keeps nothing fresh");
    redis.resume();
    stream.synchronised().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_told_of_its_own_key_set_and_not_of_what_else_moves_in_the_keyring() {
    let broker = Broker::start(Store::Redis).await;
    let verifier = broker.verifier();
    let mut stream = follow(&verifier, DOCS).await.unwrap();
    stream.synchronised().await;
    let store = on_redis(&broker.redis.as_ref().unwrap().url()).await;
    let keeper = keeper(&broker.world, store).await;
    let key_set = async |name: &str| {
        let request = proto::GetKeySetRequest { trust_domain: name.into() };
        verifier.directory().get_key_set(request).await.unwrap().into_inner().jwks_json
    };
    let mut number = 1_000;
    for (name, told) in [(OTHER_TENANT, false), (TENANT, true), (OTHER_TENANT, false)] {
        let before = key_set(name).await;
        let kid = keeper.current().signer(&name.parse().unwrap()).unwrap().kid();
        keeper.make(&Move::Compromise(kid), false, now()).await.unwrap().unwrap();
        let (mut heard, mut changed) = (Vec::new(), false);
        // One heartbeat more than it takes: whatever there is to say comes first.
        while !std::mem::replace(&mut changed, key_set(name).await != before) {
            number += 1;
            stream.beat(number).await;
            loop {
                stream.acknowledge().await;
                match stream.frame().await {
                    feed_frame::Content::Heartbeat(heartbeat) if heartbeat.beat == number => break,
                    feed_frame::Content::KeySet(keys) => heard.push(keys.jwks_json),
                    _ => {}
                }
            }
        }
        let expected = if told { vec![key_set(name).await] } else { vec![] };
        assert_eq!(heard, expected, "{name}");
    }
}

on_both_stores!(
    a_follower_at_a_long_bound_is_kept_fresh_while_nothing_happens,
    a_stream_whose_audience_moves_to_another_trust_domain_ends_and_counts_until_its_bound,
    a_stream_begins_with_keys_and_snapshots_and_then_keeps_its_follower_fresh,
    an_end_comes_as_a_delta_and_its_receipt_counts_who_applied_it,
    a_follower_that_says_nothing_is_pending_until_its_bound_is_over,
    nobody_is_told_of_what_is_not_for_their_audience,
    only_an_enrolled_verifier_may_follow,
    a_stream_ends_when_its_follower_is_enrolled_no_longer,
    a_stream_whose_bound_was_lowered_ends_and_says_so,
    a_hello_that_is_reset_right_away_leaves_its_audit_line,
    g6_positions_that_no_broker_has_signed_end_nothing,
);

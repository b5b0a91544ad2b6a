//! Two minutes in which keys are replaced every few seconds while two brokers mint and everybody verifies: those who follow, those who ask, and those who only read
//! the published key set and keep it for as long as its headers say. No good token is refused by any of them.

use std::collections::{BTreeSet, VecDeque};

use taskpass::proto;
use taskpass_verifier::verifier::Expected;
use taskpass_verifier::{At, EnforcementProfile, KeySet, Presented, UnixSeconds, Verifier};
use tokio::time::{Duration, Instant};

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::follower::{Server, config};
use crate::support::https::Stranger;
use crate::support::story::{mint_for, read_token, shown};
use crate::support::world::{DOCS, ISSUER};
use crate::support::{Store, now};

/// What takes minutes and hours elsewhere: a standby waits for four seconds, a second longer than a copy of the key set may be kept, and a key is replaced as soon as its standby has waited.
const TIMES: &str =
    "rotate_every = \"2s\"\nrefresh_hint = \"1s\"\njwks_max_age = \"3s\"\nagree_within = \"1s\"";
const LENGTH: Duration = Duration::from_secs(120);
/// Between two mints.
const PAUSE: Duration = Duration::from_millis(20);
/// Tokens of before that are judged again with each new one.
const AGAIN: usize = 4;
/// A token lives longer than several keys sign.
const LIFETIME: i64 = 90;

/// A verifier with a JWT library: it reads the key set, and again when its copy is as old as it may be. Never for a key that it does not know.
struct Reader {
    stranger: Stranger,
    verifier: Verifier,
    epoch: u64,
    tag: String,
    stale_at: Instant,
    unchanged: usize,
}

impl Reader {
    async fn new(stranger: Stranger) -> Self {
        let expected =
            Expected { issuer: ISSUER.into(), audience: DOCS.into(), profile: EnforcementProfile::Bearer };
        let verifier = Verifier::offline(expected, KeySet::new([]).unwrap());
        let (tag, stale_at) = (String::new(), Instant::now());
        let mut reader = Self { stranger, verifier, epoch: 0, tag, stale_at, unchanged: 0 };
        reader.read().await;
        reader
    }

    /// RFC 9111: fresh until `max-age` from the moment of the question, less the age that it had.
    async fn read(&mut self) {
        let asked = Instant::now();
        let held = format!("If-None-Match: {}", self.tag);
        let answer = self.stranger.ask("GET", "/example.org/jwks.json", &[&held]).await;
        let seconds = |text: &str| Duration::from_secs(text.parse().unwrap());
        let most = answer.header("cache-control").unwrap();
        let most = most.split(", ").find_map(|it| it.strip_prefix("max-age=")).map(seconds).unwrap();
        let age = answer.header("age").map_or(Duration::ZERO, seconds);
        self.stale_at = asked + most.saturating_sub(age);
        match answer.status {
            200 => {
                self.tag = answer.header("etag").unwrap().to_owned();
                self.epoch += 1;
                self.verifier.replace_keys(self.epoch, KeySet::from_jwks(&answer.body).unwrap()).unwrap();
            }
            304 => self.unchanged += 1,
            status => panic!("{status}: {answer:?}"),
        }
    }

    async fn judge(&mut self, token: &str) {
        if Instant::now() >= self.stale_at {
            self.read().await;
        }
        let at = At::wall(UnixSeconds(now().as_secs()));
        let verdict = self.verifier.judge(token, &Presented::default(), at).map(drop);
        assert_eq!(verdict, Ok(()), "by a reader of key sets: {:?}", read_token(token));
    }
}

/// One broker's agents and verifiers.
struct Side {
    agent: Client,
    validating: Client,
    task: proto::Task,
    server: Server,
}

impl Side {
    async fn at(broker: &Broker, address: std::net::SocketAddr, agent: &str) -> Self {
        let client = |path: &str| Client::new(address, &broker.world.broker_ca, &broker.world.svid(path));
        // At the audience's own bound: nothing is told here of a machine that has much else to do.
        let server = Server::start(taskpass_verifier::feed::FollowerConfig {
            bound: None,
            ..config(&broker.world, &[address])
        });
        server.synchronised().await;
        let agent = client(agent);
        Self { task: agent.docs_task().await, agent, validating: client("mcp/docs"), server }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_two_minutes_of_rotations_under_load_refuse_no_good_token() {
    let broker = Broker::of(Setup::on(Store::Redis).public().with("keys", TIMES)).await;
    let beside = broker.beside().await;
    let sides =
        [Side::at(&broker, broker.grpc, "agent/a1").await, Side::at(&broker, beside, "agent/a2").await];
    let mut reader = Reader::new(broker.stranger()).await;
    let (mut held, mut kids) = (VecDeque::new(), BTreeSet::new());
    let (since, mut judged) = (Instant::now(), 0usize);
    for round in 0.. {
        if since.elapsed() >= LENGTH {
            break;
        }
        let (here, there) = (&sides[round % 2], &sides[(round + 1) % 2]);
        let token = here.agent.mint(mint_for(&here.task, DOCS, LIFETIME)).await.unwrap().token;
        kids.insert(read_token(&token).0["kid"].to_string());
        held.push_back((Instant::now(), token));
        // With some seconds left, so that it does not expire while it is asked about.
        let good = Duration::from_secs(LIFETIME.unsigned_abs() - 10);
        held.retain(|(minted, _)| minted.elapsed() < good);
        let again = (0..AGAIN).filter_map(|n| held.get((round * 7 + n * 31) % held.len()));
        for (_, token) in again.chain(held.back()) {
            for side in &sides {
                assert_eq!(side.server.judge(token), Ok(()), "by a follower: {:?}", read_token(token));
            }
            reader.judge(token).await;
            judged += 1;
        }
        let asked = there.validating.validate(shown(&held.back().unwrap().1, DOCS)).await.unwrap();
        assert!(asked.active, "by the other broker");
        tokio::time::sleep(PAUSE).await;
    }
    assert!(kids.len() >= 15, "a key signs for some four seconds: {}", kids.len());
    assert!(judged >= 1_000 && reader.epoch > 10 && reader.unchanged > 5, "{judged}");
}

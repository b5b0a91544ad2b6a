//! What operators do with keys: see them, replace them, and give up one that somebody else may have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde_json::json;
use taskpass::keys::{Keeper, KeyEncryptionKey, KeyPlan, Keyring, Move, Unaccounted};
use taskpass::proto::{self, KeyState, KeyUse};
use taskpass::store::embedded::{EmbeddedOptions, EmbeddedStore};
use taskpass::time::{Clock, SystemClock, Timestamp};
use taskpass_verifier::Refusal;
use taskpass_verifier::keyset::Algorithm;
use tonic::{Code, Status};

use crate::support::broker::{Broker, Setup, audit};
use crate::support::certificate::{authority, issued};
use crate::support::client::Client;
use crate::support::follower::{BOUND, Server, minted};
use crate::support::mortal::Mortal;
use crate::support::story::{
    begin, is_live, kid_of, mint, other_docs, reason, refused, seconds, seen_from_outside, serial,
};
use crate::support::world::{BROKER_DOMAIN, DOCS, OTHER_DOCS, OTHER_TENANT, TENANT, World};
use crate::support::{Store, eventually, now};

/// A standby may sign as soon as it was published for three seconds.
const SOON: &str = "refresh_hint = \"1s\"\njwks_max_age = \"1s\"\nagree_within = \"1s\"";

/// What operators ask for.
struct Operator(Client);

impl Operator {
    async fn list(&self, trust_domain: &str) -> Result<Vec<proto::Key>, Status> {
        let request = proto::ListKeysRequest { trust_domain: trust_domain.into() };
        Ok(self.0.keys().list_keys(request).await?.into_inner().keys)
    }

    async fn rotate(
        &self,
        key_use: KeyUse,
        trust_domain: &str,
        dry_run: bool,
    ) -> Result<proto::KeyMove, Status> {
        let (key_use, trust_domain) = (key_use.into(), trust_domain.into());
        let request =
            proto::RotateKeyRequest { r#use: key_use, trust_domain, dry_run, note: "as planned".into() };
        Ok(self.0.keys().rotate_key(request).await?.into_inner().r#move.unwrap())
    }

    async fn activate(&self, kid: &str) -> Result<proto::KeyMove, Status> {
        let request = proto::ActivateKeyRequest { kid: kid.into(), ..Default::default() };
        Ok(self.0.keys().activate_key(request).await?.into_inner().r#move.unwrap())
    }

    async fn retire(&self, kid: &str) -> Result<proto::KeyMove, Status> {
        let request = proto::RetireKeyRequest { kid: kid.into(), ..Default::default() };
        Ok(self.0.keys().retire_key(request).await?.into_inner().r#move.unwrap())
    }

    async fn compromise(&self, kid: &str) -> Result<proto::CompromiseKeyResponse, Status> {
        let request = proto::CompromiseKeyRequest {
            kid: kid.into(),
            dry_run: false,
            note: "seen in a log".into(),
            wait: seconds(4),
        };
        Ok(self.0.keys().compromise_key(request).await?.into_inner())
    }

    async fn affected(&self, kid: &str) -> Result<Vec<proto::AffectedTask>, Status> {
        let (mut tasks, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = proto::ListAffectedTasksRequest { kid: kid.into(), page_size: 2, page_token };
            let page = self.0.keys().list_affected_tasks(request).await?.into_inner();
            tasks.extend(page.tasks);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(tasks);
            }
        }
    }
}

fn in_state(keys: &[proto::Key], key_use: KeyUse, state: KeyState) -> Vec<String> {
    let of = keys.iter().filter(|key| key.r#use() == key_use && key.state() == state);
    of.map(|key| key.kid.clone()).collect()
}

/// The standbys of JWT keys, in the order in which they will sign.
fn standbys(keys: &[proto::Key]) -> Vec<String> {
    in_state(keys, KeyUse::Jwt, KeyState::Prepared)
}

/// By a follower. Its key set has the key no more, and beside it there is the fence, for those whose set is older.
#[track_caller]
fn assert_refused_for_its_key(server: &Server, token: &str) {
    let verdict = server.judge(token);
    assert!(matches!(verdict, Err(Refusal::KeyFenced | Refusal::UnknownKey)), "{verdict:?}");
}

async fn key_set(client: &Client) -> String {
    let request = proto::GetKeySetRequest { trust_domain: TENANT.into() };
    client.directory().get_key_set(request).await.unwrap().into_inner().jwks_json
}

async fn r4_a_compromised_key_is_refused_everywhere_at_once_and_its_tasks_live_on(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier, operator) = (broker.agent(), broker.verifier(), Operator(broker.operator()));
    let (task, token) = minted(&agent).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    assert!(server.judge(&token).is_ok() && verifier.accepts(&token).await, "and remembers it as verified");
    let kid = kid_of(&token);
    let standby = standbys(&operator.list(TENANT).await.unwrap());

    let answer = operator.compromise(&kid).await.unwrap();
    // Nothing is waited for: when success is said, it holds.
    assert!(!verifier.accepts(&token).await);
    assert_refused_for_its_key(&server, &token);
    let receipt = answer.receipt.unwrap();
    let spread = receipt.propagation.unwrap();
    assert_eq!((spread.applied, spread.pending, receipt.partitions), (1, 0, 64), "{spread:?}");
    assert!(!key_set(&verifier).await.contains(&kid), "verifiers that fetch key sets are told of it no more");

    // The standby signs, young as it is; the task goes on under it, and every verifier takes it.
    let minted = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    assert_eq!(kid_of(&minted), standby[0]);
    assert!(verifier.accepts(&minted).await);
    assert_eq!(server.judge(&minted), Ok(()));
    assert!(is_live(&agent.get(&task.id).await.unwrap()));

    // Asked again, nothing more happens, and the receipt is as true as before.
    let again = operator.compromise(&kid).await.unwrap();
    assert!(again.r#move.unwrap().steps.is_empty());
    let again = again.receipt.unwrap();
    assert_eq!((&again.fence_id, again.ended_at), (&receipt.fence_id, receipt.ended_at));
    assert_eq!(again.propagation.unwrap().applied, 1);
    let keys = operator.list(TENANT).await.unwrap();
    assert_eq!(in_state(&keys, KeyUse::Jwt, KeyState::Compromised), std::slice::from_ref(&kid));
    assert_eq!(standbys(&keys).len(), 2, "as many stand by as before");

    // Whoever comes later hears of it, too.
    let late = Server::at(&broker.world, &[broker.grpc]).await;
    assert_refused_for_its_key(&late, &token);
    let broker = broker.restart().await;
    assert!(!broker.verifier().accepts(&token).await);
    assert!(broker.verifier().accepts(&minted).await);
    let of = |line: &&serde_json::Value| line["action"] == "CompromiseKey" && line["object"] == kid;
    let lines: Vec<_> = broker.audit().into_iter().filter(|line| of(&line)).collect();
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["intended", "done", "intended", "done"], "{lines:?}");
    assert_eq!(lines[1]["facts"]["note"], "seen in a log");
}

async fn a38_certificates_under_a_compromised_intermediate_are_refused(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let (task, token) = minted(&agent).await;
    let certificate = issued(&agent, &task).await.unwrap();
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    assert_eq!(server.judge_certificate(&certificate), Ok(()));
    let mut elsewhere = certificate.clone();
    elsewhere.spiffe_id = certificate.spiffe_id.replace("/agent/example.org/", "/agent/other.example/");
    assert_eq!(server.judge_certificate(&elsewhere), Err(Refusal::AgentNotTaken), "another tenant's agent");
    let kid = authority(&certificate).to_string();
    // The task CA is the platform's: no tenant's operator moves its keys, nor learns of them.
    let operator = Operator(broker.operator());
    refused(operator.compromise(&kid).await, Code::PermissionDenied, "POLICY_DENIED");
    assert!(operator.list("").await.unwrap().iter().all(|key| key.trust_domain == TENANT));

    let platform = Operator(broker.platform());
    let answer = platform.compromise(&kid).await.unwrap();
    assert_eq!(server.judge_certificate(&certificate), Err(Refusal::KeyFenced));
    assert!(!verifier.validate(serial(&certificate.credential_id, DOCS)).await.unwrap().active);
    assert_eq!(answer.receipt.unwrap().propagation.unwrap().pending, 0);
    // Another intermediate has taken over, and tokens are none of its business.
    let next = issued(&agent, &task).await.unwrap();
    assert_ne!(authority(&next).to_string(), kid);
    assert_eq!(server.judge_certificate(&next), Ok(()));
    assert!(verifier.accepts(&token).await);
    assert_eq!(server.judge(&token), Ok(()));
}

#[tokio::test]
async fn r1_a_rotation_waits_until_every_verifier_knows_the_standby_and_says_until_when() {
    let broker = Broker::of(Setup::on(Store::Embedded).with("keys", SOON)).await;
    let operator = Operator(broker.operator());
    let before = operator.list(TENANT).await.unwrap();
    for dry_run in [true, false] {
        let status = refused(
            operator.rotate(KeyUse::Jwt, TENANT, dry_run).await,
            Code::FailedPrecondition,
            "KEY_WAITS",
        );
        let standby = &standbys(&before)[0];
        assert!(status.message().contains(standby) && status.message().contains("until 20"), "{status:?}");
    }
    assert_eq!(operator.list(TENANT).await.unwrap(), before, "nothing has moved");
    let rotated = async || operator.rotate(KeyUse::Jwt, TENANT, true).await.is_ok();
    eventually("the standby to be known", rotated).await;
    assert_eq!(operator.list(TENANT).await.unwrap(), before, "nor by asking what would");

    let (task, token) = minted(&broker.agent()).await;
    let moved = operator.rotate(KeyUse::Jwt, TENANT, false).await.unwrap();
    let steps: Vec<_> = moved.steps.iter().map(|step| (step.from(), step.to())).collect();
    assert_eq!(
        steps,
        [
            (KeyState::Active, KeyState::Retiring),
            (KeyState::Prepared, KeyState::Active),
            (KeyState::Unspecified, KeyState::Prepared),
        ]
    );
    assert_eq!((moved.dry_run, moved.keys.len(), moved.durability.as_str()), (false, 4, "fsync"));
    let next = broker.agent().mint(mint(&task, DOCS)).await.unwrap().token;
    assert_eq!(vec![kid_of(&next)], in_state(&moved.keys, KeyUse::Jwt, KeyState::Active));
    assert_eq!(vec![kid_of(&token)], in_state(&moved.keys, KeyUse::Jwt, KeyState::Retiring));
    let verifier = broker.verifier();
    assert!(verifier.accepts(&token).await && verifier.accepts(&next).await, "both keys are published");
    // The old one is needed for as long as a token under it may live.
    let refused = refused(operator.retire(&kid_of(&token)).await, Code::FailedPrecondition, "KEY_WAITS");
    assert!(refused.message().contains("until 20"), "{refused:?}");
}

/// The machine's clock, and so many milliseconds beside it.
#[derive(Default)]
struct Off(AtomicI64);

impl Clock for Off {
    fn now(&self) -> Timestamp {
        let off = self.0.load(Ordering::SeqCst);
        Timestamp::from_millis(SystemClock.now().as_millis().saturating_add_signed(off))
    }
}

#[tokio::test]
async fn r5_a_broker_whose_clock_is_off_moves_no_key() {
    let clock = Arc::new(Off::default());
    let setup = Setup::on(Store::Redis).with("keys", format!("{SOON}\nrotate_every = \"30s\""));
    let broker = Broker::by_clock(setup, Arc::clone(&clock) as _).await;
    let operator = Operator(broker.operator());
    let before = operator.list(TENANT).await.unwrap();
    let kid = in_state(&before, KeyUse::Jwt, KeyState::Active).remove(0);
    for minutes in [10, -10] {
        clock.0.store(minutes * 60_000, Ordering::SeqCst);
        for moved in [
            operator.compromise(&kid).await.map(drop),
            operator.rotate(KeyUse::Jwt, TENANT, false).await.map(drop),
        ] {
            // What has not waited long enough by that clock either is refused for that.
            let status = moved.unwrap_err();
            assert!(["CLOCK_SKEW", "KEY_WAITS"].contains(&reason(&status).as_str()), "{status:?}");
        }
        let not_ready = async || broker.page("/readyz").await.1.contains("clocks");
        eventually("its readiness to say so", not_ready).await;
        clock.0.store(0, Ordering::SeqCst);
    }
    let unmoved =
        |keys: &[proto::Key]| keys.iter().map(|key| (key.kid.clone(), key.state)).collect::<Vec<_>>();
    assert_eq!(unmoved(&operator.list(TENANT).await.unwrap()), unmoved(&before));
}

#[tokio::test]
async fn wrong_moves_are_refused_for_what_they_are_and_change_nothing() {
    let broker = Broker::of(Setup::on(Store::Embedded).with("keys", SOON)).await;
    let (operator, platform) = (Operator(broker.operator()), Operator(broker.platform()));
    let rotated = async || operator.rotate(KeyUse::Jwt, TENANT, false).await.is_ok();
    eventually("the standby to be known", rotated).await;
    let keys = platform.list("").await.unwrap();
    let one = |key_use, state| in_state(&keys, key_use, state).remove(0);
    let of_tenant: Vec<_> = keys.iter().filter(|key| key.trust_domain == TENANT).cloned().collect();
    let active = in_state(&of_tenant, KeyUse::Jwt, KeyState::Active).remove(0);
    let retiring = in_state(&of_tenant, KeyUse::Jwt, KeyState::Retiring).remove(0);
    let root = one(KeyUse::TaskCaRoot, KeyState::Active);

    refused(operator.activate(&retiring).await, Code::FailedPrecondition, "KEY_WRONG_STATE");
    refused(operator.retire(&active).await, Code::FailedPrecondition, "KEY_WRONG_STATE");
    let standby = standbys(&of_tenant).remove(0);
    refused(operator.retire(&standby).await, Code::FailedPrecondition, "KEY_WRONG_STATE");
    assert!(operator.activate(&active).await.unwrap().steps.is_empty(), "it signs already");
    for stays in [&root, &one(KeyUse::RecordMac, KeyState::Active)] {
        refused(platform.compromise(stays).await, Code::InvalidArgument, "KEY_WRONG_USE");
    }
    let unknown = "k".repeat(42) + "A";
    refused(platform.retire(&unknown).await, Code::NotFound, "KEY_NOT_FOUND");
    refused(platform.rotate(KeyUse::Jwt, "nowhere.test", false).await, Code::NotFound, "KEY_NOT_FOUND");
    for malformed in ["", "abc", &"!".repeat(43)] {
        refused(platform.retire(malformed).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    refused(
        platform.rotate(KeyUse::Unspecified, TENANT, false).await,
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
    refused(platform.rotate(KeyUse::Jwt, "", false).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(platform.list("").await.unwrap(), keys);

    // To an operator of one tenant, the key of another looks as one that is not there.
    let theirs = keys.iter().find(|key| key.trust_domain == OTHER_TENANT).unwrap();
    let foreign = operator.compromise(&theirs.kid).await.unwrap_err();
    let nowhere = operator.compromise(&unknown).await.unwrap_err();
    assert_eq!(seen_from_outside(&foreign, &theirs.kid), seen_from_outside(&nowhere, &unknown));
    refused(operator.list(BROKER_DOMAIN).await, Code::PermissionDenied, "POLICY_DENIED");
}

async fn r5_operators_who_rotate_at_once_make_one_active_key(store: Store) {
    let broker = Broker::of(Setup::on(store).with("keys", SOON)).await;
    let mut faces = vec![Operator(broker.operator()), Operator(broker.operator())];
    if store == Store::Redis {
        let beside = broker.beside().await;
        let svid = broker.world.svid("operator/bob");
        faces.push(Operator(Client::new(beside, &broker.world.broker_ca, &svid)));
    }
    let aged = async || faces[0].rotate(KeyUse::Jwt, TENANT, true).await.is_ok();
    eventually("the standby to be known", aged).await;
    let answers = join_all(faces.iter().map(|face| face.rotate(KeyUse::Jwt, TENANT, false))).await;
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(done, 1, "{answers:?}");
    for lost in answers.into_iter().filter(Result::is_err) {
        refused(lost, Code::FailedPrecondition, "KEY_WAITS");
    }
    let mut seen = BTreeSet::new();
    for face in &faces {
        let keys = face.list(TENANT).await.unwrap();
        let active = in_state(&keys, KeyUse::Jwt, KeyState::Active);
        assert_eq!(active.len(), 1, "{keys:?}");
        seen.extend(active);
    }
    assert_eq!(seen.len(), 1, "all brokers agree");
}

#[tokio::test]
async fn the_tasks_that_a_key_has_signed_for_are_named_before_and_after_it_is_given_up() {
    let broker = Broker::start(Store::Embedded).await;
    let (agent, second, operator) = (broker.agent(), broker.second_agent(), Operator(broker.operator()));
    let (first, token) = minted(&agent).await;
    agent.mint(mint(&first, DOCS)).await.unwrap();
    let (other, _) = minted(&second).await;
    let (ended, _) = minted(&agent).await;
    agent.complete(&ended.id).await.unwrap();
    let bare = agent.docs_task().await;
    issued(&agent, &bare).await.unwrap();
    let theirs = broker.other_workload("agent/a1");
    let foreign = theirs.begin(begin(&[other_docs()])).await.unwrap();
    theirs.mint(mint(&foreign, OTHER_DOCS)).await.unwrap();

    let kid = kid_of(&token);
    let named = |tasks: Vec<proto::AffectedTask>| -> BTreeSet<_> {
        tasks.into_iter().map(|it| (it.task.unwrap().id, it.credentials)).collect()
    };
    let expected = BTreeSet::from([(first.id.clone(), 2), (other.id.clone(), 1)]);
    // The platform is told which tasks and whose they are, and nothing of what they are for.
    let platform = Operator(broker.platform());
    let told = platform.affected(&kid).await.unwrap();
    assert_eq!(named(told.clone()), expected);
    let tasks: Vec<_> = told.into_iter().filter_map(|it| it.task).collect();
    assert!(
        tasks.iter().all(|it| !it.owner.is_empty() && it.goal.is_empty() && it.grants.is_empty()),
        "{tasks:?}"
    );
    let seen = operator.affected(&kid).await.unwrap();
    assert!(seen.iter().all(|it| !it.task.as_ref().unwrap().goal.is_empty()), "{seen:?}");
    assert_eq!(named(operator.affected(&kid).await.unwrap()), expected);
    operator.compromise(&kid).await.unwrap();
    assert_eq!(named(operator.affected(&kid).await.unwrap()), expected);
    // A standby has signed nothing.
    let keys = operator.list(TENANT).await.unwrap();
    for standby in in_state(&keys, KeyUse::Jwt, KeyState::Prepared) {
        assert!(operator.affected(&standby).await.unwrap().is_empty());
    }
    // Certificates are under the task CA.
    let keys = platform.list(BROKER_DOMAIN).await.unwrap();
    let intermediate = in_state(&keys, KeyUse::TaskCaIntermediate, KeyState::Active).remove(0);
    let certified = named(platform.affected(&intermediate).await.unwrap());
    assert_eq!(certified, BTreeSet::from([(bare.id.clone(), 1)]));
}

/// The keys of a copy of the store, as somebody has them who has stolen it and the key-encryption key: there the standby signs.
async fn stolen(world: &World) -> Arc<Keyring> {
    std::fs::copy(world.path("data/taskpass.redb"), world.path("stolen.redb")).unwrap();
    let options = EmbeddedOptions::at(world.path("stolen.redb"));
    let store = Arc::new(EmbeddedStore::open(options, Arc::default()).unwrap());
    let kek = KeyEncryptionKey::from_file(&world.path("kek")).unwrap();
    let issuers = [TENANT, OTHER_TENANT].map(|name| (name.parse().unwrap(), Algorithm::Es256));
    let plan = KeyPlan::new(BROKER_DOMAIN.parse().unwrap(), issuers.into());
    let keeper = Keeper::open(store, Arc::new(kek), plan, Arc::new(Unaccounted), now()).await.unwrap();
    let active = keeper.current().signer(&TENANT.parse().unwrap()).unwrap().kid();
    keeper.make(&Move::Compromise(active), false, now()).await.unwrap().unwrap().keyring
}

#[tokio::test]
async fn a36_what_a_standby_has_signed_before_its_time_is_inactive() {
    let broker = Mortal::start(Setup::on(Store::Embedded)).await;
    let (_, token) = minted(&broker.workload("agent/a1")).await;
    let setup = broker.killed().await;
    let thief = stolen(&setup.world).await;
    let broker = Mortal::start(setup).await;
    assert!(broker.verifier().accepts(&token).await);
    // The same claims, which are on record, under the other key.
    let signer = thief.signer(&TENANT.parse().unwrap()).unwrap();
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": signer.kid().to_string() });
    let payload = token.split('.').nth(1).unwrap();
    let input = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header.to_string()));
    let forged =
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signer.sign(input.as_bytes()).get().await.unwrap()));
    assert!(key_set(&broker.verifier()).await.contains(&kid_of(&forged)), "it is published");
    assert!(!broker.verifier().accepts(&forged).await);
    let mut lines = audit(&broker.setup.world);
    lines.retain(|line| line["action"] == "Validate");
    let said = lines.last().unwrap()["facts"]["because"].as_str().unwrap().to_owned();
    assert_eq!(said, "its key did not sign when it was issued");
    assert!(broker.verifier().accepts(&token).await);
}

#[tokio::test]
async fn a_compromise_while_the_store_is_away_is_an_error_and_succeeds_when_asked_again() {
    let broker = Broker::of(Setup::on(Store::Redis).with("store", "timeout = \"500ms\"")).await;
    let (agent, verifier, operator) = (broker.agent(), broker.verifier(), Operator(broker.operator()));
    let (task, token) = minted(&agent).await;
    let kid = kid_of(&token);
    let redis = broker.redis.as_ref().unwrap();
    redis.pause();
    let status = operator.compromise(&kid).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    redis.resume();
    eventually("the compromise", async || operator.compromise(&kid).await.is_ok()).await;
    assert!(!verifier.accepts(&token).await);
    let again = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    assert!(kid_of(&again) != kid && verifier.accepts(&again).await);
}

#[tokio::test]
async fn a_compromised_feed_key_signs_no_more_and_followers_go_on_under_the_next() {
    let broker = Broker::start(Store::Embedded).await;
    let operator = Operator(broker.operator());
    let (task, token) = minted(&broker.agent()).await;
    let server = Server::at(&broker.world, &[broker.grpc]).await;
    let keys = operator.list(TENANT).await.unwrap();
    let kid = in_state(&keys, KeyUse::Feed, KeyState::Active).remove(0);
    let answer = operator.compromise(&kid).await.unwrap();
    let spread = answer.receipt.unwrap().propagation.unwrap();
    assert_eq!((spread.applied, spread.pending), (1, 0), "{spread:?}");
    server.accepts_again(&token).await;
    broker.agent().complete(&task.id).await.unwrap();
    let ended = async || server.judge(&token).is_err();
    eventually("the end, under the next key", ended).await;
    assert!(server.follower.closed().is_none(), "by what it was told, not by silence of {BOUND:?}");
}

on_both_stores!(
    r4_a_compromised_key_is_refused_everywhere_at_once_and_its_tasks_live_on,
    a38_certificates_under_a_compromised_intermediate_are_refused,
    r5_operators_who_rotate_at_once_make_one_active_key,
);

//! A broker that dies in what nobody called for: the sweep, and the making of keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use taskpass::keys::store::{AsRead, StoredKeyring};
use taskpass::keys::{Keeper, KeyEncryptionKey, KeyPlan, KeyState, KeyUse, KeyView, Unaccounted};
use taskpass_verifier::keyset::{Algorithm, KeyId};

use super::*;
use crate::support::behind::{compromise, fenced_in, keyring};
use crate::support::now;
use crate::support::story::read_token;
use crate::support::world::{BROKER_DOMAIN, OTHER_TENANT};

async fn a28_a_bulk_end_whose_finisher_died_is_finished_again(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::FinishRevocation) {
        let theirs = task_with_token(&broker.workload(&name)).await;
        let id = spiffe_id(&name);
        broker = broker.restart_to_die_at(Place::FenceIntended).await;
        let caller = broker.operator();
        caller.revoke_workload(&id, 0).await.expect_err("an answer from the dead");
        broker.has_died().await;
        let setup = Mortal::dies_by_itself(broker.killed().await, place).await;
        broker = Mortal::start(setup).await;

        let lines = async || lines_of(&broker, "FinishRevocation", &id) == 2;
        eventually("the end to be finished again", lines).await;
        bystander.is_untouched(&broker).await;
        let agent = broker.workload(&name);
        assert_eq!(end(&found(&agent, &theirs.0).await).reason(), EndReason::WorkloadRevoked);
        assert!(!accepted(&broker, &theirs.1).await);
        has_places_for_all_but(0, &agent).await;
    }
}

fn lines_of(broker: &Mortal, action: &str, object: &str) -> usize {
    let of = |line: &&serde_json::Value| line["action"] == action && line["object"] == object;
    audit(&broker.setup.world).iter().filter(of).count()
}

async fn a28_a_deadline_stands_though_the_sweep_died_of_it(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::Lapse) {
        broker = broker.restart_to_die_at(place).await;
        let agent = broker.workload(&name);
        let request = proto::BeginTaskRequest { lifetime: seconds(5), ..begin(&[docs()]) };
        let task = agent.begin(request).await.unwrap();
        let token = agent.mint(mint_for(&task, DOCS, 5)).await.unwrap().token;
        broker.has_died().await;
        broker = broker.restart().await;

        bystander.is_untouched(&broker).await;
        let (agent, ended) = (broker.workload(&name), found(&broker.workload(&name), &task).await);
        assert_eq!((end(&ended).reason(), end(&ended).ended_at), (EndReason::Deadline, task.deadline));
        assert!(!accepted(&broker, &token).await);
        refused(a_token(&agent, &task).await, Code::FailedPrecondition, "TASK_ENDED");
        has_places_for_all_but(0, &agent).await;
    }
}

async fn a28_the_first_keys_are_made_once_however_often_the_maker_dies(store: Store) {
    for (place, name) in places(Operation::FirstStart) {
        let mut setup = Mortal::dies_by_itself(Setup::on(store), place).await;
        if place == Place::KeysMade {
            // None of them was stored, and so they are made again.
            setup = Mortal::dies_by_itself(setup, place).await;
            setup = Mortal::start(setup).await.killed().await;
        }
        // It would die if it made any.
        let broker = Mortal::with(setup, &[("TASKPASS_FAILPOINT", place.name())]).await;
        let keys = key_set(&broker.verifier()).await;
        let (task, token) = task_with_token(&broker.workload(&name)).await;
        let broker = broker.restart().await;
        assert_eq!(key_set(&broker.verifier()).await, keys);
        assert!(is_live(&found(&broker.workload(&name), &task).await) && accepted(&broker, &token).await);
    }
}

/// A broker to die at this place with a task of this workload, a token and the key set; its Redis has just lost everything.
async fn before_a_loss(place: Place, name: &str) -> (Mortal, String, proto::GetKeySetResponse) {
    let broker = Mortal::start(Setup::on(Store::Redis)).await;
    let (_, token) = task_with_token(&broker.workload(name)).await;
    let keys = key_set(&broker.verifier()).await;
    let broker = broker.restart_to_die_at(place).await;
    let operator = broker.operator();
    insist(async || operator.revoke_workload(&spiffe_id(name), 3_600).await).await.unwrap();
    broker.setup.redis.as_ref().unwrap().flush();
    (broker, token, keys)
}

async fn is_blocked(broker: &Mortal, name: &str) {
    refused(a_task(&broker.workload(name)).await, Code::FailedPrecondition, "BLOCKED");
}

/// An embedded store loses nothing while its broker lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a28_a_lost_block_whose_keeper_died_stands_or_is_raised_by_the_operator() {
    for (place, name) in places(Operation::KeepBlock) {
        let (mut broker, token, _) = before_a_loss(place, &name).await;
        broker.has_died().await;
        broker = broker.restart().await;
        assert!(!accepted(&broker, &token).await);
        if place == Place::BlockLost {
            let operator = broker.operator();
            insist(async || operator.revoke_workload(&spiffe_id(&name), 3_600).await).await.unwrap();
        }
        is_blocked(&broker, &name).await;
        is_blocked(&broker.restart().await, &name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a28_a_lost_keyring_whose_keeper_died_is_the_old_one_or_a_new_one() {
    for (place, name) in places(Operation::KeepKeyring) {
        let (mut broker, token, keys) = before_a_loss(place, &name).await;
        broker.has_died().await;
        broker = broker.restart().await;
        let left = key_set(&broker.verifier()).await;
        assert_eq!(left == keys, place == Place::KeyringKept, "{place:?}");
        assert!(!accepted(&broker, &token).await);
        let (task, fresh) = task_with_token(&broker.workload("agent/other")).await;
        broker = broker.restart().await;
        assert_eq!(key_set(&broker.verifier()).await, left);
        assert!(is_live(&found(&broker.workload("agent/other"), &task).await));
        assert!(accepted(&broker, &fresh).await);
    }
}

/// What a keyring document says of its keys, the times by this test's defaults.
async fn keys_in(setup: &Setup, document: &[u8]) -> Vec<KeyView> {
    let stored = StoredKeyring { version: 1, document: document.to_vec() };
    let issuers = [TENANT, OTHER_TENANT].map(|name| (name.parse().unwrap(), Algorithm::Es256));
    let plan = KeyPlan::new(BROKER_DOMAIN.parse().unwrap(), BTreeMap::from(issuers));
    let wrapper = Arc::new(KeyEncryptionKey::from_file(&setup.world.path("kek")).unwrap());
    let account = Arc::new(Unaccounted);
    let keeper = Keeper::open(Arc::new(AsRead(stored)), wrapper, plan, account, now()).await.unwrap();
    keeper.current().keys().collect()
}

fn count(keys: &[KeyView], state: KeyState) -> usize {
    let of_tenant = |key: &&KeyView| key.key_use == KeyUse::Jwt && key.trust_domain.as_str() == TENANT;
    keys.iter().filter(of_tenant).filter(|key| key.state == state).count()
}

async fn r10_a_rotation_whose_broker_died_of_it_is_made_whole_or_not_at_all(store: Store) {
    for (place, name) in places(Operation::MoveKey) {
        // Due at every start that comes three seconds after the one before.
        let times =
            "rotate_every = \"1s\"\nrefresh_hint = \"1s\"\njwks_max_age = \"1s\"\nagree_within = \"1s\"";
        let broker = Mortal::start(Setup::on(store).with("keys", times)).await;
        let (task, token) = task_with_token(&broker.workload(&name)).await;
        let mut setup = broker.killed().await;
        for _ in 0..2 {
            let before = keyring(&setup).await;
            setup = Mortal::dies_by_itself(setup, place).await;
            let after = keyring(&setup).await;
            assert_eq!(after == before, place == Place::KeyMoveDecided, "{place:?}");
            let keys = keys_in(&setup, &after).await;
            assert_eq!(
                (count(&keys, KeyState::Active), count(&keys, KeyState::Prepared)),
                (1, 2),
                "{keys:?}"
            );
        }
        let lines = audit(&setup.world);
        let of = |outcome: &str| {
            lines.iter().filter(|it| it["action"] == "RotateKey" && it["outcome"] == outcome).count()
        };
        assert!(of("intended") > of("done"), "what died is on record: {lines:?}");
        let broker = Mortal::start(setup).await;
        assert!(accepted(&broker, &token).await);
        let agent = broker.workload(&name);
        assert!(is_live(&found(&agent, &task).await));
        let minted = a_token(&agent, &task).await.unwrap().token;
        assert!(accepted(&broker, &minted).await);
    }
}

async fn a38_a_compromise_whose_broker_died_before_the_fence_is_finished_by_the_next(store: Store) {
    for (place, name) in places(Operation::FenceKey) {
        let broker = Mortal::start(Setup::on(store)).await;
        let (task, token) = task_with_token(&broker.workload(&name)).await;
        let kid: KeyId = read_token(&token).0["kid"].as_str().unwrap().parse().unwrap();
        let setup = broker.killed().await;
        compromise(&setup, kid).await;
        assert_eq!(fenced_in(&setup, kid).await, 0);
        // The one that finds it dies of it, too.
        let setup = Mortal::dies_by_itself(setup, place).await;
        let broker = Mortal::start(setup).await;
        let agent = broker.workload(&name);
        assert!(!accepted(&broker, &token).await);
        let minted = a_token(&agent, &task).await.unwrap().token;
        assert!(accepted(&broker, &minted).await, "the task goes on under the standby");
        let of = |outcome: &str| {
            let is = |line: &&serde_json::Value| {
                line["action"] == "FenceKey"
                    && line["object"] == kid.to_string()
                    && line["outcome"] == outcome
            };
            audit(&broker.setup.world).iter().filter(is).count()
        };
        if place == Place::KeyUnfenced {
            eventually("the fence", async || of("done") == 1).await;
            assert_eq!(of("intended"), 2);
        }
        let setup = broker.killed().await;
        assert_eq!(fenced_in(&setup, kid).await, 64, "{place:?}");
    }
}

on_both_stores!(
    r10_a_rotation_whose_broker_died_of_it_is_made_whole_or_not_at_all,
    a38_a_compromise_whose_broker_died_before_the_fence_is_finished_by_the_next,
    a28_a_bulk_end_whose_finisher_died_is_finished_again,
    a28_a_deadline_stands_though_the_sweep_died_of_it,
    a28_the_first_keys_are_made_once_however_often_the_maker_dies,
);

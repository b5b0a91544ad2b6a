//! A broker that dies in what nobody called for: the sweep, and the making of keys.

use super::*;

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

on_both_stores!(
    a28_a_bulk_end_whose_finisher_died_is_finished_again,
    a28_a_deadline_stands_though_the_sweep_died_of_it,
    a28_the_first_keys_are_made_once_however_often_the_maker_dies,
);

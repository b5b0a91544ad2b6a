//! A broker that dies: at each place where it can, and anywhere under load. Whoever comes after it finds nothing half done (A28).
//!
//! The real process runs with a place armed, reaches it in the one operation under test, and aborts there; a fresh one on the same store
//! is then asked what is left.

mod by_itself;

use taskpass::failpoint::Place;
use taskpass::proto::{self, EndReason};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::broker::{Setup, audit};
use crate::support::client::Client;
use crate::support::load::{Load, Word, insist};
use crate::support::mortal::Mortal;
use crate::support::story::{
    begin, docs, end, is_live, millis, mint, mint_for, refused, seconds, serial, shown,
};
use crate::support::world::{DOCS, TENANT};
use crate::support::{Store, eventually};

/// Few, so that a place that is not given back is missed at once.
const LIVE_TASKS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Begin,
    Extend,
    Mint,
    Issue,
    Complete,
    RevokeTask,
    RevokeCredential,
    RevokeWorkload,
    // What nobody calls for.
    FinishRevocation,
    Lapse,
    KeepBlock,
    KeepKeyring,
    FirstStart,
    MoveKey,
    FenceKey,
}

/// Those that end with an answer.
const CALLS: &[Operation] = &[
    Operation::Begin,
    Operation::Extend,
    Operation::Mint,
    Operation::Issue,
    Operation::Complete,
    Operation::RevokeTask,
    Operation::RevokeCredential,
    Operation::RevokeWorkload,
];

/// The operations that come by a place. A place without one does not compile.
const fn that_reach(place: Place) -> &'static [Operation] {
    match place {
        Place::BeginReserved | Place::BeginStored => &[Operation::Begin],
        Place::ExtendReserved | Place::ExtendStored => &[Operation::Extend],
        Place::CredentialDecided => &[Operation::Mint, Operation::Issue],
        Place::TokenRecorded | Place::TokenSigned => &[Operation::Mint],
        Place::CertificateRecorded | Place::CertificateSigned => &[Operation::Issue],
        Place::EndDecided | Place::EndStored | Place::EndReleased => {
            &[Operation::Complete, Operation::RevokeTask]
        }
        Place::CredentialEndDecided | Place::CredentialRevoked => &[Operation::RevokeCredential],
        Place::FenceDecided
        | Place::FenceIntended
        | Place::FenceRaisedInSome
        | Place::FenceRaised
        | Place::FenceFinished => &[Operation::RevokeWorkload],
        Place::Audited => CALLS,
        Place::FenceFinishAudited => &[Operation::FinishRevocation],
        Place::Lapsed => &[Operation::Lapse],
        Place::BlockLost | Place::BlockKept => &[Operation::KeepBlock],
        Place::KeyringLost | Place::KeyringKept => &[Operation::KeepKeyring],
        Place::KeysMade | Place::KeysStored => &[Operation::FirstStart],
        Place::KeyMoveDecided | Place::KeyMoveStored => &[Operation::MoveKey],
        Place::KeyUnfenced | Place::KeyFenceKept => &[Operation::FenceKey],
    }
}

/// The places that an operation comes by, with the name of a workload that nobody else is.
fn places(operation: Operation) -> impl Iterator<Item = (Place, String)> {
    let reached = Place::ALL.iter().copied().filter(move |place| that_reach(*place).contains(&operation));
    reached.map(|place| (place, format!("agent/{}", place.name())))
}

/// What was there before, and has nothing to do with the crash.
struct Bystander {
    live: (proto::Task, String),
    ended: (proto::Task, String),
    revoked: String,
    keys: proto::GetKeySetResponse,
}

const BYSTANDER: &str = "agent/bystander";

async fn key_set(client: &Client) -> proto::GetKeySetResponse {
    let request = proto::GetKeySetRequest { trust_domain: TENANT.into() };
    client.directory().get_key_set(request).await.unwrap().into_inner()
}

/// A task; begun once, however often it has to be asked for.
async fn a_task(agent: &Client) -> Result<proto::Task, Status> {
    let key = taskpass::ids::random::<8>().unwrap().map(|byte| format!("{byte:02x}")).concat();
    let request = proto::BeginTaskRequest { idempotency_key: key, ..begin(&[docs()]) };
    insist(async || agent.begin(request.clone()).await).await
}

async fn a_token(agent: &Client, task: &proto::Task) -> Result<proto::MintTokenResponse, Status> {
    insist(async || agent.mint(mint(task, DOCS)).await).await
}

async fn task_with_token(agent: &Client) -> (proto::Task, String) {
    let task = a_task(agent).await.unwrap();
    let token = a_token(agent, &task).await.unwrap().token;
    (task, token)
}

async fn found(agent: &Client, task: &proto::Task) -> proto::Task {
    insist(async || agent.get(&task.id).await).await.unwrap()
}

async fn accepted(broker: &Mortal, token: &str) -> bool {
    let verifier = broker.verifier();
    insist(async || verifier.validate(shown(token, DOCS)).await).await.unwrap().active
}

impl Bystander {
    async fn before(broker: &Mortal) -> Self {
        let agent = broker.workload(BYSTANDER);
        let (live, ended) = (task_with_token(&agent).await, task_with_token(&agent).await);
        insist(async || agent.complete(&ended.0.id).await).await.unwrap();
        let revoked = a_token(&agent, &live.0).await.unwrap();
        insist(async || agent.revoke_credential(&revoked.credential_id).await).await.unwrap();
        Self { live, ended, revoked: revoked.token, keys: key_set(&agent).await }
    }

    async fn is_untouched(&self, broker: &Mortal) {
        let agent = broker.workload(BYSTANDER);
        assert_eq!(key_set(&agent).await, self.keys);
        assert!(is_live(&found(&agent, &self.live.0).await));
        assert!(accepted(broker, &self.live.1).await);
        assert!(!accepted(broker, &self.revoked).await, "a revoked credential is back");
        assert_eq!(end(&found(&agent, &self.ended.0).await).reason(), EndReason::Completed);
        assert!(!accepted(broker, &self.ended.1).await, "a dead credential is back");
        refused(a_token(&agent, &self.ended.0).await, Code::FailedPrecondition, "TASK_ENDED");
    }
}

async fn first_start(store: Store) -> (Mortal, Bystander) {
    let limit = format!("live_tasks_per_workload = {LIVE_TASKS}");
    let broker = Mortal::start(Setup::on(store).with("limits", limit)).await;
    let bystander = Bystander::before(&broker).await;
    (broker, bystander)
}

/// Calls until the process has died where it was told to, which no call survives; the next one runs.
async fn after_the_death<T: std::fmt::Debug, F: Future<Output = Result<T, Status>>>(
    mut broker: Mortal,
    mut call: impl FnMut() -> F,
    bystander: &Bystander,
) -> Mortal {
    loop {
        let status = call().await.expect_err("an answer from the dead");
        assert!(matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{status:?}");
        // It may have been the store that was slow.
        if status.get_details_error_info().is_none() {
            break;
        }
    }
    broker.has_died().await;
    let broker = broker.restart().await;
    bystander.is_untouched(&broker).await;
    broker
}

fn spiffe_id(name: &str) -> String {
    format!("spiffe://example.org/{name}")
}

/// Whether the audit log says of this caller, or of this object, that it was done.
fn has_line(broker: &Mortal, action: &str, about: &str) -> bool {
    audit(&broker.setup.world).iter().any(|line| {
        line["action"] == action
            && line["outcome"] == "done"
            && (line["who"] == about || line["object"] == about)
    })
}

/// With so many live tasks, the workload may begin others up to the limit and no further. A place whose task never came is free after some seconds.
async fn has_places_for_all_but(live: usize, agent: &Client) {
    for _ in live..LIVE_TASKS {
        eventually("a place that is free", async || a_task(agent).await.is_ok()).await;
    }
    refused(a_task(agent).await, Code::ResourceExhausted, "TOO_MANY_TASKS");
}

async fn live_tasks(agent: &Client) -> Vec<proto::Task> {
    let all = insist(async || agent.list(proto::ListTasksRequest::default()).await).await.unwrap();
    all.tasks.into_iter().filter(is_live).collect()
}

async fn a28_a_begin_that_died_is_repeated(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::Begin) {
        let request = proto::BeginTaskRequest { idempotency_key: "once".into(), ..begin(&[docs()]) };
        broker = broker.restart_to_die_at(place).await;
        let caller = broker.workload(&name);
        broker = after_the_death(broker, async || caller.begin(request.clone()).await, &bystander).await;
        assert_eq!(has_line(&broker, "BeginTask", &spiffe_id(&name)), place == Place::Audited, "{place:?}");

        let agent = broker.workload(&name);
        let left = live_tasks(&agent).await;
        assert_eq!(left.len(), usize::from(place != Place::BeginReserved), "{place:?}");
        let task = insist(async || agent.begin(request.clone()).await).await.unwrap();
        assert!(is_live(&task) && left.iter().all(|found| found.id == task.id), "{place:?}");
        assert_eq!(insist(async || agent.begin(request.clone()).await).await.unwrap().id, task.id);
        assert_eq!(insist(async || agent.list_credentials(&task.id).await).await.unwrap(), []);
        has_places_for_all_but(1, &agent).await;
    }
}

async fn a28_an_extension_that_died_is_repeated(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::Extend) {
        let (task, token) = task_with_token(&broker.workload(&name)).await;
        broker = broker.restart_to_die_at(place).await;
        let caller = broker.workload(&name);
        broker = after_the_death(broker, async || caller.extend(&task.id, 1_200).await, &bystander).await;
        assert_eq!(has_line(&broker, "ExtendTask", &task.id), place == Place::Audited, "{place:?}");

        let agent = broker.workload(&name);
        let found = found(&agent, &task).await;
        assert!(is_live(&found) && accepted(&broker, &token).await);
        let moved = millis(&found.deadline) > millis(&task.deadline);
        assert_eq!(moved, place != Place::ExtendReserved);
        let extended = insist(async || agent.extend(&task.id, 1_200).await).await.unwrap();
        assert!(millis(&extended.deadline) > millis(&task.deadline) + 500_000);
        has_places_for_all_but(1, &agent).await;
    }
}

async fn a28_a_mint_that_died_leaves_at_most_an_id(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::Mint) {
        let task = a_task(&broker.workload(&name)).await.unwrap();
        broker = broker.restart_to_die_at(place).await;
        let caller = broker.workload(&name);
        broker = after_the_death(broker, async || caller.mint(mint(&task, DOCS)).await, &bystander).await;
        assert_eq!(has_line(&broker, "MintToken", &spiffe_id(&name)), place == Place::Audited, "{place:?}");

        let agent = broker.workload(&name);
        let left = insist(async || agent.list_credentials(&task.id).await).await.unwrap();
        assert_eq!(left.is_empty(), place == Place::CredentialDecided, "{place:?}");
        let minted = a_token(&agent, &task).await.unwrap();
        assert!(accepted(&broker, &minted.token).await);
        let listed = insist(async || agent.list_credentials(&task.id).await).await.unwrap();
        assert!(
            listed.starts_with(&left) && listed[left.len()..].iter().any(|it| it.id == minted.credential_id)
        );
        // What nobody holds can be ended like any other.
        for credential in &listed {
            insist(async || agent.revoke_credential(&credential.id).await).await.unwrap();
        }
        assert!(!accepted(&broker, &minted.token).await);
        assert!(is_live(&found(&agent, &task).await));
    }
}

async fn a28_an_issue_that_died_leaves_at_most_a_serial_number(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::Issue) {
        let task = a_task(&broker.workload(&name)).await.unwrap();
        broker = broker.restart_to_die_at(place).await;
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let request = proto::IssueCertificateRequest {
            task_id: task.id.clone(),
            key: Some(proto::issue_certificate_request::Key::CsrPem(csr.pem().unwrap())),
            ..Default::default()
        };
        let caller = broker.workload(&name);
        broker = after_the_death(broker, async || caller.issue(request.clone()).await, &bystander).await;
        assert_eq!(
            has_line(&broker, "IssueCertificate", &spiffe_id(&name)),
            place == Place::Audited,
            "{place:?}"
        );

        let agent = broker.workload(&name);
        let left = insist(async || agent.list_credentials(&task.id).await).await.unwrap();
        assert_eq!(left.is_empty(), place == Place::CredentialDecided, "{place:?}");
        let issued = insist(async || agent.issue(request.clone()).await).await.unwrap();
        let listed = insist(async || agent.list_credentials(&task.id).await).await.unwrap();
        assert!(listed[left.len()..].iter().any(|it| it.id == issued.credential_id));
        let (verifier, asked) = (broker.verifier(), serial(&issued.credential_id, DOCS));
        assert!(insist(async || verifier.validate(asked.clone()).await).await.unwrap().active);
        insist(async || agent.complete(&task.id).await).await.unwrap();
        assert!(!insist(async || verifier.validate(asked.clone()).await).await.unwrap().active);
    }
}

async fn a28_a_completion_that_died_is_repeated(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::Complete) {
        let (task, token) = task_with_token(&broker.workload(&name)).await;
        broker = broker.restart_to_die_at(place).await;
        let caller = broker.workload(&name);
        broker = after_the_death(broker, async || caller.complete(&task.id).await, &bystander).await;
        assert_eq!(has_line(&broker, "CompleteTask", &task.id), place == Place::Audited, "{place:?}");

        let agent = broker.workload(&name);
        let live = place == Place::EndDecided;
        assert_eq!(is_live(&found(&agent, &task).await), live, "{place:?}");
        assert_eq!(accepted(&broker, &token).await, live, "{place:?}");
        let ended = insist(async || agent.complete(&task.id).await).await.unwrap().task.unwrap();
        assert_eq!(end(&ended).reason(), EndReason::Completed);
        assert!(!accepted(&broker, &token).await);
        has_places_for_all_but(0, &agent).await;
    }
}

async fn a28_a_revocation_that_died_is_repeated(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::RevokeTask) {
        let (task, token) = task_with_token(&broker.workload(&name)).await;
        broker = broker.restart_to_die_at(place).await;
        let caller = broker.operator();
        broker = after_the_death(broker, async || caller.revoke(&task.id).await, &bystander).await;
        assert_eq!(has_line(&broker, "RevokeTask", &task.id), place == Place::Audited, "{place:?}");

        let agent = broker.workload(&name);
        let live = place == Place::EndDecided;
        assert_eq!(is_live(&found(&agent, &task).await), live, "{place:?}");
        assert_eq!(accepted(&broker, &token).await, live, "{place:?}");
        let operator = broker.operator();
        let ended = insist(async || operator.revoke(&task.id).await).await.unwrap().task.unwrap();
        assert_eq!(end(&ended).reason(), EndReason::Revoked);
        assert!(!accepted(&broker, &token).await);
        has_places_for_all_but(0, &agent).await;
    }
}

async fn a28_a_credential_whose_revocation_died_is_dead_alone(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::RevokeCredential) {
        let (task, other) = task_with_token(&broker.workload(&name)).await;
        let minted = a_token(&broker.workload(&name), &task).await.unwrap();
        broker = broker.restart_to_die_at(place).await;
        let caller = broker.workload(&name);
        broker = after_the_death(
            broker,
            async || caller.revoke_credential(&minted.credential_id).await,
            &bystander,
        )
        .await;

        assert_eq!(has_line(&broker, "RevokeCredential", &minted.credential_id), place == Place::Audited);

        let agent = broker.workload(&name);
        let live = place == Place::CredentialEndDecided;
        assert_eq!(accepted(&broker, &minted.token).await, live, "{place:?}");
        assert!(accepted(&broker, &other).await);
        insist(async || agent.revoke_credential(&minted.credential_id).await).await.unwrap();
        assert!(!accepted(&broker, &minted.token).await && accepted(&broker, &other).await);
        assert!(is_live(&found(&agent, &task).await));
    }
}

async fn a28_a_bulk_end_that_died_is_finished_by_the_next_broker(store: Store) {
    let (mut broker, bystander) = first_start(store).await;
    for (place, name) in places(Operation::RevokeWorkload) {
        let id = spiffe_id(&name);
        let agent = broker.workload(&name);
        let theirs = [task_with_token(&agent).await, task_with_token(&agent).await];
        broker = broker.restart_to_die_at(place).await;
        let caller = broker.operator();
        broker = after_the_death(broker, async || caller.revoke_workload(&id, 0).await, &bystander).await;
        assert_eq!(has_line(&broker, "RevokeWorkload", &id), place == Place::Audited, "{place:?}");

        let (agent, operator) = (broker.workload(&name), broker.operator());
        if place == Place::FenceDecided {
            for (task, token) in &theirs {
                assert!(is_live(&found(&agent, task).await) && accepted(&broker, token).await);
            }
            insist(async || operator.revoke_workload(&id, 0).await).await.unwrap();
        }
        for (task, token) in &theirs {
            eventually("the fence", async || !accepted(&broker, token).await).await;
            eventually("the fence", async || !is_live(&found(&agent, task).await)).await;
            let ended = found(&agent, task).await;
            assert_eq!(end(&ended).reason(), EndReason::WorkloadRevoked, "{place:?}");
            refused(a_token(&agent, task).await, Code::FailedPrecondition, "TASK_ENDED");
        }
        insist(async || operator.revoke_workload(&id, 0).await).await.unwrap();
        // What begins after it lives, also under the next broker.
        let (task, token) = task_with_token(&agent).await;
        broker = broker.restart().await;
        let agent = broker.workload(&name);
        assert!(is_live(&found(&agent, &task).await) && accepted(&broker, &token).await);
        has_places_for_all_but(1, &agent).await;
    }
}

async fn a28_a_broker_killed_under_load_keeps_its_word(store: Store) {
    let mut broker = Mortal::start(Setup::on(store)).await;
    let keys = key_set(&broker.verifier()).await;
    let mut given: Vec<(String, Word)> = Vec::new();
    for round in 0..4 {
        // Each round by a workload of its own: what earlier ones left alive is looked at again, and policy counts live tasks.
        let name = format!("agent/round-{round}");
        let load = Load::of((0..4).map(|_| broker.workload(&name)));
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        load.answers(usize::try_from(random % 120).unwrap() + 20).await;
        let setup = broker.killed().await;
        given.push((name, load.stop().await));
        broker = Mortal::start(setup).await;
        assert_eq!(key_set(&broker.verifier()).await, keys);
        let verifier = broker.verifier();
        for (name, word) in &mut given {
            word.is_kept(&broker.workload(name), &verifier).await;
        }
    }
}

on_both_stores!(
    a28_a_begin_that_died_is_repeated,
    a28_an_extension_that_died_is_repeated,
    a28_a_mint_that_died_leaves_at_most_an_id,
    a28_an_issue_that_died_leaves_at_most_a_serial_number,
    a28_a_completion_that_died_is_repeated,
    a28_a_revocation_that_died_is_repeated,
    a28_a_credential_whose_revocation_died_is_dead_alone,
    a28_a_bulk_end_that_died_is_finished_by_the_next_broker,
    a28_a_broker_killed_under_load_keeps_its_word,
);

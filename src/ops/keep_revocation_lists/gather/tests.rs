//! On a store, with tasks below tasks, which no RPC makes yet.

use std::sync::Arc;
use std::time::Duration;

use taskpass_verifier::keyset::KeyId;
use uuid::Uuid;

use super::*;
use crate::ids::{new_task_id, random};
use crate::revoke::fence::FenceIntent;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::task::SealedFacts;
use crate::task::state::Actor;
use crate::task::store::{BeginOutcome, BeginTask, EndTask, RecordCredential, RecordOutcome};
use crate::time::{Clock as _, SystemClock};

const OWNER: &str = "spiffe://acme.test/agent";
const OTHER: &str = "spiffe://acme.test/other";
const PLACE: Partition = Partition::from_low_bits(3);
const LIFE: Duration = Duration::from_secs(120);

fn now() -> Timestamp {
    SystemClock.now()
}

struct World {
    store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions::at(dir.path().join("taskpass.redb"));
        Self { store: Arc::new(EmbeddedStore::open(options, Arc::default()).unwrap()), _dir: dir }
    }

    async fn task(&self, owner: &str, lineage: &[TaskId]) -> TaskId {
        self.task_called(new_task_id(now(), PLACE).unwrap(), owner, lineage).await
    }

    async fn task_called(&self, id: TaskId, owner: &str, lineage: &[TaskId]) -> TaskId {
        let task = BeginTask {
            id,
            lineage: lineage.to_vec(),
            owner: owner.to_owned(),
            facts: SealedFacts(b"facts".to_vec()),
            deadline: now().saturating_add(Duration::from_secs(600)),
            retention: Duration::from_secs(60),
            idempotency: None,
        };
        let begun = self.store.begin(task, now()).await.unwrap();
        assert!(matches!(begun, BeginOutcome::Begun(_)), "{begun:?}");
        id
    }

    async fn record(&self, task: TaskId, kind: CredentialKind) -> CredentialId {
        let asked = RecordCredential {
            task,
            version: 1,
            kind,
            key: KeyId::from_bytes([1; 32]),
            grant: 0,
            issued_at: now().floor_to_second(),
            expires_at: now().floor_to_second().saturating_add(LIFE),
            limit: 10,
        };
        match self.store.record(asked, now()).await.unwrap() {
            RecordOutcome::Recorded { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    /// A task with a certificate and a token.
    async fn certified(&self, owner: &str, lineage: &[TaskId]) -> (TaskId, CredentialId) {
        let task = self.task(owner, lineage).await;
        self.record(task, CredentialKind::Token).await;
        (task, self.record(task, CredentialKind::Certificate).await)
    }

    async fn end(&self, id: TaskId) {
        let by = Actor { spiffe_id: OWNER.to_owned(), note: String::new() };
        let retention = Duration::from_secs(60);
        let end = EndTask { id, reason: EndReason::Completed, by, retention, bury_unknown: None };
        self.store.end(end, now()).await.unwrap();
    }

    async fn fence(&self, target: FenceTarget) {
        let intent = FenceIntent {
            id: Uuid::from_bytes(random().unwrap()),
            target,
            at: now(),
            block_until: now(),
            forget_at: now().saturating_add(Duration::from_secs(900)),
            by: Actor::default(),
        };
        self.store.raise(PLACE, &intent, now()).await.unwrap();
    }

    /// Looks until nothing is left to be walked through.
    async fn look(&self, gathered: &mut Gathered) -> Vec<(CredentialId, Why)> {
        loop {
            gathered.look(self.store.as_ref(), now()).await.unwrap();
            if gathered.is_complete() {
                return found(gathered, now());
            }
        }
    }
}

fn found(gathered: &Gathered, at: Timestamp) -> Vec<(CredentialId, Why)> {
    let revoked = gathered.revoked(at).into_iter();
    let named =
        revoked.map(|one| (CredentialId::from_bytes(one.serial.try_into().unwrap()).unwrap(), one.why));
    let mut named: Vec<_> = named.collect();
    named.sort_by_key(|(id, _)| id.to_bytes());
    named
}

fn sorted(mut expected: Vec<(CredentialId, Why)>) -> Vec<(CredentialId, Why)> {
    expected.sort_by_key(|(id, _)| id.to_bytes());
    expected
}

#[tokio::test]
async fn what_ended_with_a_task_is_found_down_to_its_last_grandchild_and_nothing_beside() {
    let (world, mut gathered) = (World::new(), Gathered::default());
    let (root, of_root) = world.certified(OWNER, &[]).await;
    let (child, of_child) = world.certified(OTHER, &[root]).await;
    let (_, of_grandchild) = world.certified(OWNER, &[root, child]).await;
    world.certified(OWNER, &[]).await;
    assert_eq!(world.look(&mut gathered).await, []);
    world.end(child).await;
    let first = sorted(vec![(of_child, Why::Ceased), (of_grandchild, Why::Unsaid)]);
    assert_eq!(world.look(&mut gathered).await, first);
    assert!(gathered.untold);
    gathered.is_told();
    assert_eq!(world.look(&mut gathered).await, first);
    assert!(!gathered.untold, "nothing has happened since");
    world.end(root).await;
    let all = sorted(vec![(of_root, Why::Ceased), (of_child, Why::Ceased), (of_grandchild, Why::Unsaid)]);
    assert_eq!(world.look(&mut gathered).await, all);
    // Whoever begins now finds the same.
    assert_eq!(
        world.look(&mut Gathered::default()).await.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        all.iter().map(|(id, _)| *id).collect::<Vec<_>>()
    );
    assert_eq!(found(&gathered, now().saturating_add(LIFE)), [], "what has expired leaves");
}

/// Ids of one millisecond are in no order, and the clocks of brokers are apart.
#[tokio::test]
async fn a_child_whose_id_lies_before_that_of_its_parent_is_found() {
    let at = now().as_millis();
    for earlier in [0, 1, 2_000] {
        let (world, mut gathered) = (World::new(), Gathered::default());
        let parent = world.task_called(TaskId::from_parts(at, PLACE, [9; 10]), OWNER, &[]).await;
        let child = TaskId::from_parts(at - earlier, PLACE, [1; 10]);
        assert!(child < parent);
        world.task_called(child, OTHER, &[parent]).await;
        let of_child = world.record(child, CredentialKind::Certificate).await;
        world.end(parent).await;
        assert_eq!(world.look(&mut gathered).await, [(of_child, Why::Unsaid)], "{earlier} ms");
    }
}

#[tokio::test]
async fn a_fence_is_followed_through_all_tasks_of_its_workload_and_below_and_one_of_a_key_is_not() {
    let (world, mut gathered) = (World::new(), Gathered::default());
    let mut expected = Vec::new();
    for _ in 0..=PAGE {
        world.task(OTHER, &[]).await;
    }
    let (parent, of_parent) = world.certified(OWNER, &[]).await;
    let (_, of_child) = world.certified(OTHER, &[parent]).await;
    world.certified(OTHER, &[]).await;
    expected.extend([(of_parent, Why::Withdrawn), (of_child, Why::Unsaid)]);
    world.fence(FenceTarget::Key(KeyId::from_bytes([7; 32]))).await;
    assert_eq!(world.look(&mut gathered).await, []);
    world.fence(FenceTarget::Workload(OWNER.to_owned())).await;
    assert_eq!(world.look(&mut gathered).await, sorted(expected));
}

#[tokio::test]
async fn one_certificate_that_was_revoked_is_found_and_a_token_is_not() {
    let (world, mut gathered) = (World::new(), Gathered::default());
    let task = world.task(OWNER, &[]).await;
    let (token, certificate) = (
        world.record(task, CredentialKind::Token).await,
        world.record(task, CredentialKind::Certificate).await,
    );
    world.record(task, CredentialKind::Certificate).await;
    for id in [token, certificate] {
        world.store.revoke(id, now()).await.unwrap().unwrap();
    }
    assert_eq!(world.look(&mut gathered).await, [(certificate, Why::Unsaid)]);
}

#[tokio::test]
async fn another_history_is_read_from_its_beginning_and_what_was_found_stays() {
    let (world, mut gathered) = (World::new(), Gathered::default());
    let (before, of_before) = world.certified(OWNER, &[]).await;
    world.end(before).await;
    let (_, of_live) = world.certified(OWNER, &[]).await;
    assert_eq!(world.look(&mut gathered).await, [(of_before, Why::Ceased)]);
    world.store.declare_restored(now()).await.unwrap();
    let expected = sorted(vec![(of_before, Why::Ceased), (of_live, Why::Unsaid)]);
    assert_eq!(world.look(&mut gathered).await, expected, "the new generation has ended the other");
    // A store of which nothing is left.
    let empty = World::new();
    empty.task(OWNER, &[]).await;
    assert_eq!(empty.look(&mut gathered).await, expected);
}

#[tokio::test]
async fn a_full_list_takes_no_more_and_says_so_until_there_is_room() {
    let (world, mut gathered) = (World::new(), Gathered::default());
    let expires_at = now().saturating_add(LIFE);
    for number in 0..u32::try_from(MOST).unwrap() {
        let id = CredentialId { task: new_task_id(now(), PLACE).unwrap(), number };
        gathered.found.insert(id, Found { expires_at, at: now(), why: Why::Ceased });
    }
    let (task, certificate) = world.certified(OWNER, &[]).await;
    world.end(task).await;
    for _ in 0..2 {
        gathered.look(world.store.as_ref(), now()).await.unwrap_err();
        assert_eq!(gathered.len(), MOST);
    }
    gathered.found.clear();
    assert_eq!(world.look(&mut gathered).await, [(certificate, Why::Ceased)], "nothing was passed over");
}

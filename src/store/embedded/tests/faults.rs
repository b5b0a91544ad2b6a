//! The disk fails, or a stored row is damaged, while steps are taken.

use std::sync::Arc;
use std::time::Duration;

use redb::ReadableTable as _;

use super::super::rows::task_key;
use super::super::{EmbeddedOptions, EmbeddedStore, TABLE};
use super::harness::{Embedded, InMemory, SharedBytes, options};
use crate::revoke::history::{Durability, History};
use crate::store::contract::{AGENT, Begun, HOUR, KEY, MINUTE, OTHER, World};
use crate::task::state::EndReason;
use crate::task::store::*;

fn fail(bytes: &SharedBytes, fails: bool) {
    bytes.with(|disk| disk.fails = fails);
}

fn unavailable<T: std::fmt::Debug>(answer: StepResult<T>) {
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_an_end_that_cannot_be_written_is_an_error_and_works_when_sent_again() {
    let bytes = SharedBytes::default();
    let mut h = Embedded::on(bytes.clone());
    let mut w = World::new(&mut h);
    let task = w.begun(AGENT).await;
    let credential = w.minted(&task).await;
    fail(&bytes, true);
    for _ in 0..3 {
        unavailable(w.store().end(w.ending(task.id, EndReason::Completed), w.now).await);
        unavailable(w.store().revoke(credential, w.now).await);
        unavailable(w.store().record(w.request(&task), w.now).await);
    }
    fail(&bytes, false);
    assert!(w.status(&task).await.is_live(), "what was refused has not happened");
    assert!(w.is_active(credential).await);
    let position = w.complete(&task).await;
    assert!(!w.status(&task).await.is_live());
    // Not a new generation either: nothing was lost.
    assert_eq!(position.generation, task.record.head.generation);
    w.h.crash(w.now).await;
    assert!(!w.status(&task).await.is_live());
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_nothing_that_was_refused_while_the_disk_failed_is_there_afterwards() {
    let bytes = SharedBytes::default();
    let mut h = Embedded::on(bytes.clone());
    let mut w = World::new(&mut h);
    let kept = w.begun(AGENT).await;
    let (store, now) = (w.store(), w.now);
    let drafts: Vec<_> = (0..200).map(|_| w.draft(OTHER)).collect();
    let asked: Vec<_> = drafts
        .iter()
        .cloned()
        .enumerate()
        .map(|(number, draft)| {
            let (store, bytes) = (Arc::clone(&store), bytes.clone());
            tokio::spawn(async move {
                if number == 100 {
                    fail(&bytes, true);
                }
                store.begin(draft, now).await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await.unwrap());
    }
    drop(store);
    fail(&bytes, false);
    assert!(answers.iter().any(Result::is_err), "the disk failed in the middle");
    for (draft, answer) in drafts.iter().zip(&answers) {
        let view = w.read(draft.id).await;
        assert_eq!(view.is_some(), answer.is_ok(), "{answer:?}");
    }
    assert!(w.status(&kept).await.is_live());
    w.begun(AGENT).await;
}

/// Puts bytes where a task's record was.
fn spoil(store: Embedded, bytes: &SharedBytes, task: &Begun) -> Embedded {
    drop(store);
    let image = SharedBytes::new(bytes.with(|disk| disk.bytes.clone()));
    let database = redb::Database::builder().create_with_backend(image.clone()).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(TABLE).unwrap();
        let key = task_key(task.id);
        let mut record = table.get(key.as_slice()).unwrap().unwrap().value().to_vec();
        record[0] = 77;
        table.insert(key.as_slice(), record.as_slice()).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    Embedded::on(image)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_fails_its_own_steps_alone() {
    let bytes = SharedBytes::default();
    let mut h = Embedded::on(bytes.clone());
    let mut w = World::new(&mut h);
    let [damaged, sound] = [w.begun(AGENT).await, w.begun(AGENT).await];
    let now = w.now;
    let mut h = spoil(h, &bytes, &damaged);
    let mut w = World::new(&mut h);
    w.now = now;
    let told = w.store().read(damaged.id, now).await;
    assert!(
        matches!(&told, Err(StoreError::Damaged(text)) if text.contains(&damaged.id.to_string())),
        "{told:?}"
    );
    let asked: Vec<_> = (0..60)
        .map(|number| {
            let task = if number % 3 == 0 { &damaged } else { &sound };
            let (store, request) = (w.store(), w.request(task));
            tokio::spawn(async move { (number % 3 == 0, store.record(request, now).await) })
        })
        .collect();
    for asked in asked {
        match asked.await.unwrap() {
            (true, answer) => assert!(matches!(answer, Err(StoreError::Damaged(_))), "{answer:?}"),
            (false, answer) => assert!(matches!(answer, Ok(RecordOutcome::Recorded { .. })), "{answer:?}"),
        }
    }
    let head = w.read(sound.id).await.unwrap().record.head;
    assert_eq!(head.credentials, 40, "each once, however often its transaction was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_clock_is_far_behind_is_refused_and_nothing_is_done() {
    let mut h = Embedded::in_memory();
    let mut w = World::new(&mut h);
    let task = w.begun(AGENT).await;
    w.pass(MINUTE);
    let credential = w.minted(&task).await;
    let behind = w.now.saturating_sub(Duration::from_secs(6));
    let skew = StoreError::ClockSkew(Duration::from_secs(6));
    assert_eq!(w.store().record(w.request(&task), behind).await, Err(skew.clone()));
    assert_eq!(w.store().read(task.id, behind).await, Err(skew.clone()));
    assert_eq!(w.store().check(credential, KEY, behind).await, Err(skew));
    assert_eq!(w.read(task.id).await.unwrap().record.head.credentials, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_ran_far_ahead_can_be_corrected_by_declaring_a_restore() {
    let mut h = Embedded::in_memory();
    let mut w = World::new(&mut h);
    let task = w.begun(AGENT).await;
    let right = w.now;
    w.pass(1_000 * HOUR);
    w.mint(&task).await;
    assert!(matches!(w.store().read(task.id, right).await, Err(StoreError::ClockSkew(_))));
    w.now = right;
    w.store().declare_restored(w.now).await.unwrap();
    let new = w.begun(AGENT).await;
    assert!(w.status(&new).await.is_live());
    assert!(!w.status(&task).await.is_live());
}

async fn restarted(durability: Durability) -> EndReason {
    let bytes = SharedBytes::default();
    let options = EmbeddedOptions { durability, ..options() };
    let open = |bytes: &SharedBytes| {
        let medium = Box::new(InMemory(bytes.clone()));
        EmbeddedStore::on(medium, &options, Arc::new(History::default())).unwrap()
    };
    let store = open(&bytes);
    let mut h = Embedded::in_memory();
    let mut w = World::new(&mut h);
    let draft = w.draft(AGENT);
    store.begin(draft.clone(), w.now).await.unwrap();
    drop(store);
    let store = open(&bytes);
    match store.read(draft.id, w.now).await.unwrap().map(|view| view.status) {
        Some(crate::task::Status::Ended(end)) => end.reason,
        Some(crate::task::Status::Live) => EndReason::Completed,
        None => panic!("a store that is closed in good order keeps what it has"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_ends_every_task_where_writes_are_not_synced_and_none_where_they_are() {
    assert_eq!(restarted(Durability::Memory).await, EndReason::GenerationChanged);
    assert_eq!(restarted(Durability::Fsync).await, EndReason::Completed, "that is: live");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_kept_in_memory_are_on_disk_soon_after() {
    let bytes = SharedBytes::default();
    let options = EmbeddedOptions { durability: Durability::Memory, ..options() };
    let history = Arc::new(History::default());
    let medium = Box::new(InMemory(bytes.clone()));
    let store = EmbeddedStore::on(medium, &options, Arc::clone(&history)).unwrap();
    let mut h = Embedded::in_memory();
    let mut w = World::new(&mut h);
    let draft = w.draft(AGENT);
    store.begin(draft.clone(), w.now).await.unwrap();
    // Nobody asks for anything any more; the broker's memory survives the crash of its store.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let image = SharedBytes::new(bytes.with(|disk| disk.bytes.clone()));
        let medium = Box::new(InMemory(image));
        // Each with a memory of its own: what one of them finds missing is not the others' matter.
        let remembered = Arc::new(History::default());
        let partition = draft.id.partition();
        remembered.acknowledge(partition, history.remembered(partition).unwrap());
        let copy = EmbeddedStore::on(medium, &options, remembered).unwrap();
        if let Ok(Some(view)) = copy.read(draft.id, w.now).await {
            assert!(view.status.is_live());
            return;
        }
    }
    panic!("never synced");
}

//! The file: who may read it, who may open it, and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use redb::TableDefinition;

use super::super::{EmbeddedOptions, EmbeddedStore};
use super::harness::{SharedBytes, options};
use crate::revoke::history::{Durability, History};
use crate::store::contract::{AGENT, World};
use crate::store::embedded::tests::harness::Embedded;
use crate::store::{KeyringStore as _, Maintenance as _};
use crate::task::store::{StepResult, StoreError};

fn open(path: &Path) -> StepResult<EmbeddedStore> {
    EmbeddedStore::open(EmbeddedOptions::at(path), Arc::new(History::default()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_file_and_the_directories_made_for_it_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one/two/store.redb");
    let store = open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!((mode(&dir.path().join("one")), mode(&dir.path().join("one/two"))), (0o700, 0o700));
    let names: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"], "nothing is left of the making");
    drop(store);
}

#[test]
fn a_file_that_another_has_open_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let first = open(&path).unwrap();
    let refused = open(&path).unwrap_err();
    let StoreError::Unavailable(text) = &refused else { panic!("{refused:?}") };
    assert!(text.contains("in use by another process") && text.contains("store.redb"), "{text}");
    drop(first);
    open(&path).unwrap();
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    for content in [b"hello".to_vec(), vec![0; 10_000], b"{}".repeat(5_000)] {
        fs::write(&path, &content).unwrap();
        let refused = open(&path).unwrap_err();
        assert!(matches!(refused, StoreError::Damaged(_)), "{refused:?}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    let other: TableDefinition<'_, u64, u64> = TableDefinition::new("somebody's");
    let database = redb::Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(other).unwrap().insert(1, 1).unwrap();
    write.commit().unwrap();
    drop(database);
    let refused = open(&path).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Damaged(text) if text.contains("no store of Taskpass")),
        "{refused:?}"
    );
}

#[test]
fn a_file_of_a_later_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    drop(open(&path).unwrap());
    let database = redb::Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    let later = 2u32.to_be_bytes();
    write.open_table(super::super::TABLE).unwrap().insert(b"M".as_slice(), later.as_slice()).unwrap();
    write.commit().unwrap();
    drop(database);
    let refused = open(&path).unwrap_err();
    assert!(matches!(&refused, StoreError::Damaged(text) if text.contains("format 2")), "{refused:?}");
}

#[test]
fn a_directory_that_cannot_be_written_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let refused = open(&dir.path().join("file/store.redb")).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Unavailable(text) if text.contains("cannot be opened")),
        "{refused:?}"
    );
}

#[test]
fn there_are_no_replicas() {
    let options = EmbeddedOptions { durability: Durability::Replicas, ..EmbeddedOptions::at("/nowhere") };
    assert!(EmbeddedStore::open(options, Arc::default()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_still_taken_when_nobody_waits_for_it_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = open(&path).unwrap();
    {
        let asked = store.compare_and_set(None, b"keys");
        // Polled once, so that it is on its way, and given up.
        let _ = futures_util::future::select(asked, futures_util::future::ready(())).await;
    }
    drop(store);
    let store = open(&path).unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().document, b"keys");
    assert_eq!(store.durability(), Durability::Fsync);
    store.probe().await.unwrap();
}

/// Damage anywhere in the file: an error or an answer, never the end of the process, and never a task that lives though it was ended.
#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_file_is_an_error_and_revives_nothing() {
    let bytes = SharedBytes::default();
    let mut h = Embedded::on(bytes.clone());
    let mut w = World::new(&mut h);
    let mut done = Vec::new();
    for _ in 0..20 {
        let task = w.begun(AGENT).await;
        w.minted(&task).await;
        w.complete(&task).await;
        done.push(task.id);
    }
    let now = w.now;
    drop(h);
    let image = bytes.with(|disk| disk.bytes.clone());
    let used: Vec<_> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    let mut refused = 0;
    for round in 0..150 {
        let mut image = image.clone();
        let at = used[round * used.len() / 150];
        image[at] ^= 1 << (round % 8);
        let medium = Box::new(super::harness::InMemory(SharedBytes::new(image)));
        let Ok(store) = EmbeddedStore::on(medium, &options(), Arc::default()) else {
            refused += 1;
            continue;
        };
        for id in &done {
            match crate::task::store::TaskStore::read(&store, *id, now).await {
                Ok(view) => assert!(view.is_none_or(|view| !view.status.is_live()), "byte {at}"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 0);
}

//! The one document of wrapped keys.

use super::*;
use crate::keys::store::StoredKeyring;

fn stored(version: u64, document: &[u8]) -> StoredKeyring {
    StoredKeyring { version, document: document.to_vec() }
}

pub(crate) async fn nothing_is_stored_at_first(h: &mut dyn Harness) {
    let w = World::new(h);
    assert_eq!(w.store().load().await.unwrap(), None);
}

pub(crate) async fn compare_and_set_writes_only_over_what_was_expected(h: &mut dyn Harness) {
    let w = World::new(h);
    let store = w.store();
    let first = store.compare_and_set(None, b"one").await.unwrap();
    assert_eq!(first, stored(1, b"one"));
    assert_eq!(store.compare_and_set(None, b"other").await.unwrap(), first, "whoever was first");
    let second = store.compare_and_set(Some(first.version), b"two").await.unwrap();
    assert_eq!(second, stored(first.version + 1, b"two"));
    for wrong in [None, Some(first.version), Some(second.version + 1), Some(0), Some(u64::MAX)] {
        assert_eq!(store.compare_and_set(wrong, b"other").await.unwrap(), second);
    }
    assert_eq!(store.load().await.unwrap(), Some(second));
}

pub(crate) async fn compare_and_set_has_one_winner(h: &mut dyn Harness) {
    let w = World::new(h);
    let mut expected = None;
    for _ in 0..10 {
        let racers: Vec<_> = (0..8u8)
            .map(|racer| {
                let store = w.store();
                tokio::spawn(async move { store.compare_and_set(expected, &[racer; 40]).await.unwrap() })
            })
            .collect();
        let mut answers = Vec::new();
        for racer in racers {
            answers.push(racer.await.unwrap());
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "all are told of the same winner");
        assert_eq!(w.store().load().await.unwrap().as_ref(), answers.first());
        assert!(expected.is_none_or(|before| answers[0].version == before + 1));
        expected = Some(answers[0].version);
    }
}

pub(crate) async fn the_keyring_is_there_after_a_crash(h: &mut dyn Harness) {
    let w = World::new(h);
    let large = vec![0xa5; 100_000];
    let written = w.store().compare_and_set(None, &large).await.unwrap();
    w.h.crash(w.now).await;
    assert_eq!(w.store().load().await.unwrap(), Some(written));
}

pub(crate) async fn a_keyring_that_is_gone_is_not_written_over(h: &mut dyn Harness) {
    let w = World::new(h);
    let refused = w.store().compare_and_set(Some(1), b"two").await;
    assert!(matches!(refused, Err(StoreError::Damaged(_))), "{refused:?}");
    assert_eq!(w.store().load().await.unwrap(), None);
}

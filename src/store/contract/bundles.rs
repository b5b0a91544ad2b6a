//! What bundle endpoints have given: a slot for each trust domain.

use super::*;
use crate::keys::store::{Slot, slot_mark};

const LIMIT: u32 = 1_000;
const ONE: &str = "one.example";

fn slot(document: &[u8]) -> Option<Slot> {
    Some(Slot { document: Some(document.to_vec()), mark: slot_mark(document) })
}

pub(crate) async fn a_slot_is_written_only_over_what_was_expected_and_emptied_likewise(h: &mut dyn Harness) {
    let w = World::new(h);
    let store = w.store();
    assert_eq!(store.kept_bundle(ONE, LIMIT).await.unwrap(), None);
    assert!(!store.keep_bundle(ONE, Some(slot_mark(b"")), Some(b"one")).await.unwrap());
    assert!(store.keep_bundle(ONE, None, Some(b"one")).await.unwrap());
    assert!(store.keep_bundle("two.example", None, Some(b"another's")).await.unwrap());
    for wrong in [None, Some(slot_mark(b"two")), Some([0; 20])] {
        assert!(!store.keep_bundle(ONE, wrong, Some(b"two")).await.unwrap());
        assert!(!store.keep_bundle(ONE, wrong, None).await.unwrap());
    }
    assert_eq!(store.kept_bundle(ONE, LIMIT).await.unwrap(), slot(b"one"));
    assert!(store.keep_bundle(ONE, Some(slot_mark(b"one")), Some(b"two")).await.unwrap());
    assert_eq!(store.kept_bundle(ONE, LIMIT).await.unwrap(), slot(b"two"));
    let mut names = store.kept_bundles().await.unwrap();
    names.sort();
    assert_eq!(names, [ONE, "two.example"]);
    assert!(store.keep_bundle(ONE, Some(slot_mark(b"two")), None).await.unwrap());
    assert_eq!(store.kept_bundle(ONE, LIMIT).await.unwrap(), None);
    assert_eq!(store.kept_bundles().await.unwrap(), ["two.example"]);
    assert!(store.keep_bundle(ONE, None, None).await.unwrap(), "what is empty can be emptied");
}

pub(crate) async fn one_that_is_too_long_is_told_of_and_can_be_replaced(h: &mut dyn Harness) {
    let w = World::new(h);
    let store = w.store();
    let fits = vec![0xa5; 1_000];
    let long = vec![0xa5; 1_001];
    assert!(store.keep_bundle(ONE, None, Some(&fits)).await.unwrap());
    assert_eq!(store.kept_bundle(ONE, LIMIT).await.unwrap(), slot(&fits));
    assert!(store.keep_bundle(ONE, Some(slot_mark(&fits)), Some(&long)).await.unwrap());
    let too_long = Slot { document: None, mark: slot_mark(&long) };
    assert_eq!(store.kept_bundle(ONE, LIMIT).await.unwrap(), Some(too_long));
    assert!(store.keep_bundle(ONE, Some(slot_mark(&long)), Some(b"two")).await.unwrap());
    assert_eq!(store.kept_bundle(ONE, LIMIT).await.unwrap(), slot(b"two"));
}

pub(crate) async fn a_slot_has_one_winner_and_is_there_after_a_crash(h: &mut dyn Harness) {
    let w = World::new(h);
    let mut expected = None;
    for round in 0..10u8 {
        let racers: Vec<_> = (0..8u8)
            .map(|racer| {
                let store = w.store();
                let document = vec![round * 8 + racer; 40_000];
                tokio::spawn(async move { store.keep_bundle(ONE, expected, Some(&document)).await.unwrap() })
            })
            .collect();
        let mut won = 0;
        for racer in racers {
            won += usize::from(racer.await.unwrap());
        }
        assert_eq!(won, 1);
        expected = w.store().kept_bundle(ONE, 1 << 20).await.unwrap().map(|slot| slot.mark);
    }
    let before = w.store().kept_bundle(ONE, 1 << 20).await.unwrap();
    w.h.crash(w.now).await;
    assert_eq!(w.store().kept_bundle(ONE, 1 << 20).await.unwrap(), before);
    assert_eq!(w.store().kept_bundles().await.unwrap(), [ONE]);
}

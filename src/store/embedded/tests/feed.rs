//! What followers rest on, where the disk fails, stalls, or has nothing to do.

use std::time::Duration;

use proptest::prelude::*;

use super::super::feed::{decode, encode, entry, registration_key};
use super::super::{EmbeddedOptions, EmbeddedStore};
use super::harness::{Embedded, InMemory, SharedBytes, options};
use crate::revoke::feed::{FeedStore, Registration};
use crate::revoke::history::{Durability, History};
use crate::store::contract::{AGENT, HOUR, World, start};
use crate::task::state::EndReason;
use crate::task::store::*;
use crate::time::Timestamp;

fn fail(bytes: &SharedBytes, fails: bool) {
    bytes.with(|disk| disk.fails = fails);
}

fn on(bytes: &SharedBytes, changed: impl FnOnce(EmbeddedOptions) -> EmbeddedOptions) -> EmbeddedStore {
    let medium = Box::new(InMemory(bytes.clone()));
    EmbeddedStore::on(medium, &changed(options()), std::sync::Arc::new(History::default())).unwrap()
}

async fn positions_stop_while_the_disk_fails(durability: Durability) {
    let bytes = SharedBytes::default();
    let store = on(&bytes, |options| EmbeddedOptions { durability, ..options });
    let mut h = Embedded::in_memory();
    let mut w = World::new(&mut h);
    let draft = w.draft(AGENT);
    store.begin(draft.clone(), w.now).await.unwrap();
    let before = store.positions(w.now).await.unwrap();
    assert!(before.iter().all(Option::is_some));
    fail(&bytes, true);
    let refused = store.begin(w.draft(AGENT), w.now).await;
    if durability == Durability::Fsync {
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    } else {
        // It fails when it is synced.
        while store.positions(w.now).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    for _ in 0..3 {
        let refused = store.positions(w.now).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
    fail(&bytes, false);
    let after = store.positions(w.now).await.unwrap();
    if durability == Durability::Fsync {
        assert_eq!(after, before, "nothing was lost");
    }
    assert!(after.iter().all(Option::is_some));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_positions_while_the_disk_takes_no_writes() {
    positions_stop_while_the_disk_fails(Durability::Fsync).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_positions_while_the_disk_takes_no_writes_that_are_synced_later() {
    positions_stop_while_the_disk_fails(Durability::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_positions_while_the_disk_stalls() {
    let bytes = SharedBytes::default();
    let limit = Duration::from_millis(300);
    let store = std::sync::Arc::new(on(&bytes, |options| EmbeddedOptions { step_limit: limit, ..options }));
    let mut h = Embedded::in_memory();
    let mut w = World::new(&mut h);
    store.positions(w.now).await.unwrap();
    let (stalled, stall) = std::sync::mpsc::channel();
    let (go_on, stalls) = std::sync::mpsc::channel::<()>();
    let disk = std::thread::spawn(move || {
        bytes.with(|_| {
            stalled.send(()).unwrap();
            stalls.recv().unwrap();
        });
    });
    stall.recv().unwrap();
    let unknown = w.draft(AGENT).id;
    let end = w.ending(unknown, EndReason::Revoked);
    let end = EndTask { bury_unknown: Some(HOUR), ..end };
    assert!(store.end(end.clone(), w.now).await.is_err());
    let refused = store.positions(w.now).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    go_on.send(()).unwrap();
    disk.join().unwrap();
    assert!(store.positions(w.now).await.unwrap().iter().all(Option::is_some));
    assert!(
        matches!(store.end(end, w.now).await.unwrap(), EndOutcome::AlreadyEnded(..)),
        "it was written late"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_write_nothing() {
    let bytes = SharedBytes::default();
    let store = on(&bytes, |options| options);
    let now = start();
    store.positions(now).await.unwrap();
    let follower = Registration {
        stream: uuid::Uuid::from_u128(1),
        follower: "spiffe://one.example/server".to_owned(),
        audience: "https://tools.example/mcp".to_owned(),
        trust_domain: "one.example".to_owned(),
        bound: Duration::from_secs(2),
        until: now.saturating_add(HOUR),
    };
    store.register(std::slice::from_ref(&follower), now).await.unwrap();
    bytes.with(|disk| disk.done = Some(Vec::new()));
    let mut nudges = store.nudges();
    nudges.mark_unchanged();
    for _ in 0..20 {
        assert!(store.positions(now).await.unwrap().iter().all(Option::is_some));
        store.register(std::slice::from_ref(&follower), now).await.unwrap();
        assert_eq!(store.registrations(now).await.unwrap(), std::slice::from_ref(&follower));
    }
    assert_eq!(bytes.with(|disk| disk.done.take().unwrap().len()), 0);
    assert!(!nudges.has_changed().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_positions_while_the_disk_is_too_full_for_an_end() {
    let bytes = SharedBytes::default();
    let store = on(&bytes, |options| options);
    let mut h = Embedded::in_memory();
    let mut w = World::new(&mut h);
    let before = store.positions(w.now).await.unwrap();
    bytes.with(|disk| disk.full = true);
    let unknown = w.draft(AGENT).id;
    let end = EndTask { bury_unknown: Some(HOUR), ..w.ending(unknown, EndReason::Revoked) };
    for _ in 0..3 {
        let refused = store.end(end.clone(), w.now).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        let refused = store.positions(w.now).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
    bytes.with(|disk| disk.full = false);
    assert_eq!(store.positions(w.now).await.unwrap(), before);
    assert!(matches!(store.end(end, w.now).await.unwrap(), EndOutcome::Buried(_)));
}

proptest! {
    #[test]
    fn a_registration_comes_back(stream: u128, follower in ".{0,60}", audience in ".{0,60}", trust_domain in ".{0,60}", bound: u32, until: u64) {
        let (bound, until) = (Duration::from_millis(bound.into()), Timestamp::from_millis(until));
        let all = Registration { stream: uuid::Uuid::from_u128(stream), follower, audience, trust_domain, bound, until };
        let value = encode(&all, until).unwrap();
        prop_assert_eq!(decode(&registration_key(all.stream), &value), Ok(all));
    }

    #[test]
    fn what_does_not_parse_does_no_harm(key: Vec<u8>, bytes: Vec<u8>, kind in 0..7u8) {
        let _ = decode(&key, &bytes);
        let _ = entry(&key, &bytes);
        let _ = entry(&[0; 10], &[[0; 28].as_slice(), &[kind, 0], &[0; 8], &bytes].concat());
    }
}

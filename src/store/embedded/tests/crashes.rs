//! The process is killed, or the power goes, between any two writes to the file: what was acknowledged is there.

use std::sync::Arc;

use super::super::EmbeddedStore;
use super::harness::{Done, Embedded, InMemory, SharedBytes, after, options};
use crate::revoke::history::History;
use crate::store::contract::{AGENT, Begun, KEY, World};
use crate::task::store::*;
use crate::time::Timestamp;
use taskpass_verifier::ids::CredentialId;

/// What was known to the outside when so much had been done to the disk.
#[derive(Clone, Debug, Default)]
struct Known {
    done: usize,
    begun: Vec<Begun>,
    ended: Vec<Begun>,
    minted: Vec<CredentialId>,
}

async fn a_day_of_work(bytes: &SharedBytes) -> (Vec<Known>, Timestamp) {
    bytes.with(|disk| disk.done = Some(Vec::new()));
    let mut h = Embedded::on(bytes.clone());
    let mut w = World::new(&mut h);
    let mut known = vec![Known::default()];
    for round in 0..12 {
        let mut next = known.last().unwrap().clone();
        let task = w.begun(AGENT).await;
        next.begun.push(task.clone());
        next.done = bytes.with(|disk| disk.done.as_ref().unwrap().len());
        known.push(next.clone());
        next.minted.push(w.minted(&task).await);
        next.done = bytes.with(|disk| disk.done.as_ref().unwrap().len());
        known.push(next.clone());
        if round % 2 == 0 {
            w.complete(&task).await;
            next.ended.push(task);
            next.done = bytes.with(|disk| disk.done.as_ref().unwrap().len());
            known.push(next);
        }
    }
    (known, w.now)
}

async fn nothing_acknowledged_is_lost(image: Vec<u8>, known: &Known, now: Timestamp, what: &str) {
    let medium = Box::new(InMemory(SharedBytes::new(image)));
    let store = EmbeddedStore::on(medium, &options(), Arc::new(History::default()));
    let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
    for task in &known.begun {
        let view = store.read(task.id, now).await.unwrap();
        let view = view.unwrap_or_else(|| panic!("{what}: {} is lost", task.id));
        let ended = known.ended.iter().any(|ended| ended.id == task.id);
        assert!(!(ended && view.status.is_live()), "{what}: {} lives again", task.id);
        assert_eq!(view.record.head.generation, task.record.head.generation, "{what}");
    }
    for id in &known.minted {
        let check = store.check(*id, KEY, now).await.unwrap();
        assert_ne!(check, CheckOutcome::Unknown, "{what}: {id} is lost");
    }
}

fn known_at(known: &[Known], done: usize) -> &Known {
    known.iter().rev().find(|known| known.done <= done).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_any_two_writes_nothing_acknowledged_is_lost() {
    let bytes = SharedBytes::default();
    let (known, now) = a_day_of_work(&bytes).await;
    let log = bytes.with(|disk| disk.done.take().unwrap());
    // Before that the file is being made, beside its place.
    let first = known[1].done;
    assert!(log.len() > first + 30, "{} writes", log.len());
    for done in first..=log.len() {
        let image = after(&log[..done]);
        nothing_acknowledged_is_lost(image, known_at(&known, done), now, &format!("after {done}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_power_goes_what_was_not_synced_may_be_lost_in_any_part_and_nothing_else_is() {
    let bytes = SharedBytes::default();
    let (known, now) = a_day_of_work(&bytes).await;
    let log = bytes.with(|disk| disk.done.take().unwrap());
    let mut seed = 7u64;
    for done in (known[1].done..=log.len()).step_by(3) {
        let synced = log[..done].iter().rposition(|done| matches!(done, Done::Sync)).map_or(0, |at| at + 1);
        // Of what came after the last sync, some is on the disk.
        let some = log[synced..done].iter().filter(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 63 == 1
        });
        let image = after(&log[..synced].iter().chain(some).cloned().collect::<Vec<_>>());
        nothing_acknowledged_is_lost(image, known_at(&known, synced), now, &format!("synced {synced}")).await;
    }
}

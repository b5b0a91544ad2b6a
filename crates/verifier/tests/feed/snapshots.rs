//! What an honest feed brings, and one that has run back.

use taskpass_verifier::feed::Violation;
use taskpass_verifier::ids::{CredentialId, Partition};
use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::view::{Facts, Fences};
use taskpass_verifier::{Refusal, UnixSeconds};

use crate::support::proto::feed_frame;
use crate::support::*;

fn refusal(world: &World, number: u8, generation_of_task: u64) -> Result<(), Refusal> {
    let facts = Facts {
        credential: CredentialId { task: task(3, number), number: 0 },
        key: KeyId::from_bytes([1; 32]),
        ancestors: &[],
        fences: Fences::on("spiffe://a.test/x", "a.test"),
        generation: Some(generation(generation_of_task)),
        began_seq: Some(5),
        expires: UnixSeconds(NOW + 100),
    };
    world.fed.view.refusal(&facts, at(100))
}

#[test]
fn a_delta_ends_a_task_and_is_to_be_acknowledged() {
    let mut world = World::synchronised();
    assert_eq!(refusal(&world, 1, 1), Ok(()));
    let taken = world.say(delta(3, 10, 17, vec![ended(task(3, 1))])).unwrap();
    assert!(taken.applied && !taken.behind);
    assert_eq!(taken.sequence, 3);
    assert_eq!(refusal(&world, 1, 1), Err(Refusal::TaskEnded));
    assert_eq!(refusal(&world, 2, 1), Ok(()));
    world.say(delta(3, 17, 18, vec![revoked(CredentialId { task: task(3, 2), number: 0 })])).unwrap();
    assert_eq!(refusal(&world, 2, 1), Err(Refusal::CredentialRevoked));
}

#[test]
fn a_fence_ends_what_began_before_it() {
    let mut world = World::synchronised();
    let target = taskpass_verifier::view::FenceTarget::workload("spiffe://a.test/x");
    let fence = |cut| {
        let target_sha256 = target.as_bytes().to_vec().into();
        entry(proto::feed_entry::What::Fence(proto::FeedFence { target_sha256, cut, raised_at: 0 }))
    };
    world.say(delta(3, 10, 11, vec![fence(5)])).unwrap();
    assert_eq!(refusal(&world, 1, 1), Ok(()));
    world.say(delta(3, 11, 12, vec![fence(12)])).unwrap();
    assert_eq!(refusal(&world, 1, 1), Err(Refusal::Fenced));
}

#[test]
fn a38_a_withdrawn_key_is_refused_in_its_partition_through_generations() {
    let mut world = World::synchronised();
    let withdrawn = |byte| {
        let key_id = vec![byte; 32].into();
        entry(proto::feed_entry::What::KeyFence(proto::FeedKeyFence { key_id }))
    };
    world.say(delta(3, 10, 11, vec![withdrawn(2)])).unwrap();
    assert_eq!(refusal(&world, 1, 1), Ok(()));
    world.say(delta(3, 11, 12, vec![withdrawn(1)])).unwrap();
    assert_eq!(refusal(&world, 1, 1), Err(Refusal::KeyFenced));
    world.say(delta(3, 12, 13, vec![new_generation(2)])).unwrap();
    assert_eq!(refusal(&world, 1, 2), Err(Refusal::KeyFenced));
}

#[test]
fn a_new_generation_refuses_what_is_older_and_stays_open() {
    let mut world = World::synchronised();
    world.say(delta(3, 10, 12, vec![new_generation(2), ended(task(3, 1))])).unwrap();
    assert_eq!(refusal(&world, 2, 1), Err(Refusal::GenerationSuperseded));
    world.frames.beat(at(50));
    assert!(world.say(heartbeat(2, 1 << 3)).unwrap().fresher);
    assert_eq!(refusal(&world, 2, 2), Ok(()));
    assert_eq!(refusal(&world, 1, 2), Err(Refusal::TaskEnded));
}

#[test]
fn a_snapshot_in_parts_opens_with_its_last() {
    let mut world = World::new();
    world.frames.beat(at(0));
    let first = world.say(part(3, 1, 4, vec![ended(task(3, 1))], true)).unwrap();
    assert!(!first.applied, "half a snapshot is nothing to acknowledge");
    assert!(!world.say(heartbeat(1, 1 << 3)).unwrap().fresher);
    assert_eq!(world.state(3), Err(Refusal::NeverSynchronised));
    assert!(world.say(part(3, 1, 9, vec![ended(task(3, 2))], false)).unwrap().applied);
    world.frames.beat(at(10));
    assert!(world.say(heartbeat(2, 1 << 3)).unwrap().fresher);
    assert_eq!(refusal(&world, 1, 1), Err(Refusal::TaskEnded));
    assert_eq!(refusal(&world, 2, 1), Err(Refusal::TaskEnded));
    assert_eq!(refusal(&world, 3, 1), Ok(()));
}

#[test]
fn parts_of_a_snapshot_that_do_not_join_close_everything() {
    let others = [part(4, 1, 20, vec![], false), part(3, 1, 11, vec![], true), part(3, 0, 20, vec![], false)];
    for other in others.into_iter().chain([delta(3, 10, 11, vec![])]) {
        let mut world = World::synchronised();
        world.say(part(3, 1, 12, vec![], true)).unwrap();
        let got = world.say(other);
        world.assert_broken(got, Violation::Gap, Refusal::FeedGap);
    }
}

#[test]
fn a_snapshot_of_more_than_is_kept_closes_its_partition_and_no_other() {
    let mut world = World::synchronised();
    world.say(snapshot(4, 1, 1, vec![])).unwrap();
    for seq in 11..30 {
        let taken = world.say(part(3, 1, seq, vec![ended(task(3, 1)); 4_096], seq < 29)).unwrap();
        assert_eq!(taken.behind, seq == 29, "{seq}");
    }
    world.frames.beat(at(10));
    world.say(heartbeat(2, 0b11 << 3)).unwrap();
    assert_eq!(world.state(3), Err(Refusal::FeedOverflow));
    world.assert_open(4);
}

#[test]
fn a30_a_rolled_back_snapshot_closes_its_partition_until_one_that_is_not_behind_on_whichever_stream() {
    let mut world = World::synchronised();
    world.say(snapshot(4, 1, 1, vec![])).unwrap();
    world.frames.beat(at(10));
    world.say(heartbeat(2, 0b11 << 3)).unwrap();
    world.say(delta(3, 10, 11, vec![ended(task(3, 1))])).unwrap();
    world.reconnect(2);
    let behind = world.say(snapshot(3, 1, 10, vec![])).unwrap();
    assert!(behind.behind && !behind.applied, "what is behind is not acknowledged");
    assert_eq!(world.state(3), Err(Refusal::FeedRolledBack));
    world.assert_open(4);
    let other = world.say(snapshot(4, 1, 1, vec![])).unwrap();
    assert!(!other.applied, "nothing after it on this stream either");
    assert!(world.say(delta(3, 10, 11, vec![ended(task(3, 2))])).unwrap().behind);
    world.frames.beat(at(20));
    world.say(heartbeat(1, 0b11 << 3)).unwrap();
    assert_eq!(world.state(3), Err(Refusal::FeedRolledBack), "a heartbeat does not open it");
    world.reconnect(3);
    assert!(world.say(snapshot(3, 0, 99, vec![])).unwrap().behind, "an older generation is behind");
    world.reconnect(4);
    assert!(!world.say(snapshot(3, 1, 11, vec![])).unwrap().behind);
    world.assert_open(3);
    assert_eq!(refusal(&world, 1, 1), Err(Refusal::TaskEnded), "an end that was heard stays");
}

#[test]
fn a_view_without_room_closes_its_partition_and_says_why() {
    let mut world = World::new();
    world.fed.view = taskpass_verifier::RevocationView::new(2);
    let three = (1..4).map(|n| ended(task(3, n))).collect();
    assert!(world.say(snapshot(3, 1, 10, three)).unwrap().behind);
    assert_eq!(world.state(3), Err(Refusal::FeedOverflow));
}

#[test]
fn the_lesser_of_both_bounds_holds() {
    let mut world = World::synchronised();
    let here = Partition::new(3).unwrap();
    world.fed.view.lower_bound_to(std::time::Duration::from_secs(1));
    assert_eq!(world.fed.view.state(here, at(1_001)), Err(Refusal::Stale));
    world.frames.beat(at(500));
    world.say(heartbeat_of(2, 1 << 3, std::time::Duration::from_millis(700))).unwrap();
    assert_eq!(world.fed.view.state(here, at(1_150)), Ok(()));
    assert_eq!(world.fed.view.state(here, at(1_250)), Err(Refusal::Stale));
}

#[test]
fn a_bound_that_was_lowered_holds_from_the_first_beat_that_is_fresh_by_it() {
    let mut world = World::synchronised();
    let here = Partition::new(3).unwrap();
    let lower = std::time::Duration::from_secs(1);
    world.reconnect(2);
    world.say(snapshot(3, 1, 10, vec![])).unwrap();
    // The first heartbeat of a stream names no beat: what was fresh by the bound of the stream before it is that still, and no longer.
    world.say(heartbeat_of(0, 1 << 3, lower)).unwrap();
    assert_eq!(world.fed.view.state(here, at(1_900)), Ok(()));
    assert_eq!(world.fed.view.state(here, at(2_100)), Err(Refusal::Stale));
    world.frames.beat(at(1_500));
    world.say(heartbeat_of(1, 1 << 3, lower)).unwrap();
    assert_eq!(world.fed.view.state(here, at(2_400)), Ok(()));
    assert_eq!(world.fed.view.state(here, at(2_600)), Err(Refusal::Stale));
}

#[test]
fn a32_a_heartbeat_that_keeps_nothing_fresh_tells_no_time() {
    let mut world = World::synchronised();
    let told = world.fed.view.time(at(1_000));
    for minutes in [-10, 10] {
        world.frames.beat(at(1_000));
        let feed_frame::Content::Heartbeat(mut off) = heartbeat(2, 0) else { panic!("a heartbeat") };
        off.broker_time.as_mut().unwrap().seconds += minutes * 60;
        world.say(feed_frame::Content::Heartbeat(off)).unwrap();
        assert_eq!(world.fed.view.time(at(1_000)), told);
    }
}

#[test]
fn whoever_watches_is_told_what_was_taken_in_order() {
    let mut world = World::synchronised();
    world.say(delta(3, 10, 12, vec![ended(task(3, 1)), ended(task(3, 2))])).unwrap();
    let _ = world.say(delta(3, 10, 12, vec![]));
    let events = world.fed.events.lock().unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event.split(' ').next().unwrap()).collect();
    assert_eq!(kinds, ["Synchronised", "Heartbeat", "Ended", "Ended", "Closed"]);
}

//! Frames that somebody has tampered with, held back, moved, repeated or made up.

use std::time::Duration;

use prost::Message as _;
use taskpass_verifier::feed::batch::{Batch, Place, leaf};
use taskpass_verifier::feed::frame::{MAX_ENTRIES, MAX_PAYLOAD_BYTES};
use taskpass_verifier::feed::{SignedFrame, Violation};
use taskpass_verifier::ids::CredentialId;
use taskpass_verifier::{Refusal, view};

use crate::support::*;

#[test]
fn a30_a_tampered_payload_closes_everything() {
    let mut world = World::synchronised();
    let frame = world.frame(delta(3, 10, 11, vec![ended(task(3, 1))]));
    let mut payload = frame.encode_to_vec();
    let signature = world.key.sign(&payload);
    *payload.last_mut().unwrap() ^= 1;
    let got = world.hand_in_bytes(&payload, &signature);
    world.assert_broken(got, Violation::BadSignature, Refusal::FeedBadSignature);
}

#[test]
fn a_signature_that_is_not_over_the_prefix_of_the_feed_is_none() {
    let mut world = World::synchronised();
    let payload = world.frame(heartbeat(1, u64::MAX)).encode_to_vec();
    let bare = world.key.sign_bare(&payload);
    let got = world.hand_in_bytes(&payload, &bare);
    world.assert_broken(got, Violation::BadSignature, Refusal::FeedBadSignature);
}

#[test]
fn a30_a_frame_signed_by_another_key_under_the_name_of_the_feeds_key_closes_everything() {
    let mut world = World::synchronised();
    let payload = world.frame(heartbeat(1, u64::MAX)).encode_to_vec();
    let signature = Key::new().sign(&payload);
    let got = world.hand_in_bytes(&payload, &signature);
    world.assert_broken(got, Violation::BadSignature, Refusal::FeedBadSignature);
}

#[test]
fn an_unknown_key_changes_nothing_so_that_newer_keys_can_be_asked_for() {
    let mut world = World::synchronised();
    let new = Key::new();
    let payload = world.frame(snapshot(4, 1, 1, vec![])).encode_to_vec();
    let (signature, key_id) = (new.sign(&payload), new.public().id().to_string());
    let frame = SignedFrame { payload: &payload, signature: &signature, key_id: &key_id, place: None };
    let got = world.frames.take(frame, &world.known_keys, &world.fed, at(5));
    assert_eq!(got, Err(Violation::UnknownKey));
    world.assert_open(3);
    world.frames.take(frame, &new.set(), &world.fed, at(5)).expect("the same frame with the newer keys");
    world.frames.refuse(Violation::UnknownKey, &world.fed);
    assert_eq!(world.state(3), Err(Refusal::FeedBadSignature));
}

/// Whoever has stolen the key signs on with it, and the key set that this stream began with has it still.
#[test]
fn a38_nothing_more_is_taken_under_a_feed_key_that_the_feed_has_called_withdrawn() {
    let mut world = World::synchronised();
    let thief = world.frame(delta(3, 10, 11, vec![withdrawn(&world.key)]));
    world.hand_in(&thief).expect("until then it is the feed's");
    let got = world.say(heartbeat(1, u64::MAX));
    assert_eq!(got, Err(Violation::KeyWithdrawn));
    assert_eq!(world.state(3), Err(Refusal::FeedBadSignature));
    // A new stream has the next key, and nothing of the old one.
    let old = std::mem::replace(&mut world.key, Key::new());
    world.known_keys = world.key.set();
    world.reconnect(2);
    let first = world.say(snapshot(3, 1, 11, vec![withdrawn(&old)]));
    assert_eq!(first.map(|taken| taken.applied), Ok(true));
}

#[test]
fn a30_a_replayed_frame_closes_everything() {
    let mut world = World::synchronised();
    let frame = world.frame(delta(3, 10, 11, vec![]));
    world.hand_in(&frame).unwrap();
    let got = world.hand_in(&frame);
    world.assert_broken(got, Violation::OutOfOrder, Refusal::FeedGap);
}

#[test]
fn a30_a_dropped_frame_closes_everything() {
    let mut world = World::synchronised();
    let _dropped = world.frame(delta(3, 10, 11, vec![ended(task(3, 1))]));
    world.frames.beat(at(50));
    let got = world.say(heartbeat(2, 1 << 3));
    world.assert_broken(got, Violation::OutOfOrder, Refusal::FeedGap);
}

#[test]
fn a30_frames_in_another_order_close_everything() {
    let mut world = World::synchronised();
    let first = world.frame(delta(3, 10, 11, vec![ended(task(3, 1))]));
    let second = world.frame(heartbeat(1, 1 << 3));
    let got = world.hand_in(&second);
    assert_eq!(world.hand_in(&first), Err(Violation::OutOfOrder));
    world.assert_broken(got, Violation::OutOfOrder, Refusal::FeedGap);
}

#[test]
fn a30_a_frame_of_another_stream_of_the_same_follower_closes_everything() {
    let mut world = World::synchronised();
    let mut recorded = world.frame(heartbeat(1, 1 << 3));
    recorded.nonce = vec![0xee; 16].into();
    let got = world.hand_in(&recorded);
    world.assert_broken(got, Violation::OtherStream, Refusal::FeedBadSignature);
}

#[test]
fn a_frame_for_another_audience_closes_everything() {
    let mut world = World::synchronised();
    let mut other = world.frame(heartbeat(1, 1 << 3));
    other.audience = "https://docs.example.org/mcp/".to_owned();
    let got = world.hand_in(&other);
    world.assert_broken(got, Violation::OtherStream, Refusal::FeedBadSignature);
}

#[test]
fn the_name_of_a_stream_stays_what_it_was() {
    let mut world = World::synchronised();
    let mut other = world.frame(heartbeat(1, 1 << 3));
    other.stream_id = "stream-2".to_owned();
    let got = world.hand_in(&other);
    world.assert_broken(got, Violation::OtherStream, Refusal::FeedBadSignature);
    for name in [String::new(), "x".repeat(129)] {
        world.reconnect(2);
        world.stream_id = name;
        assert_eq!(world.say(snapshot(3, 1, 20, vec![])), Err(Violation::OtherStream));
    }
}

#[test]
fn a30_a_heartbeat_for_a_beat_that_was_never_sent_closes_everything() {
    let mut world = World::synchronised();
    let got = world.say(heartbeat(2, 1 << 3));
    world.assert_broken(got, Violation::UnknownBeat, Refusal::FeedBadSignature);
}

#[test]
fn a_heartbeat_for_an_old_beat_keeps_nobody_fresh() {
    let mut world = World::synchronised();
    let here = taskpass_verifier::ids::Partition::new(3).unwrap();
    world.frames.beat(at(600));
    world.frames.beat(at(1_200));
    assert!(world.say(heartbeat(3, 1 << 3)).unwrap().fresher);
    assert!(!world.say(heartbeat(2, 1 << 3)).unwrap().fresher, "one that was overtaken");
    assert!(!world.say(heartbeat(3, 1 << 3)).unwrap().fresher, "the same one again");
    assert!(!world.say(heartbeat(0, 1 << 3)).unwrap().fresher, "none at all");
    assert_eq!(world.fed.view.fresh_from(here), Some(at(1_200)));
}

#[test]
fn the_beats_of_one_stream_say_nothing_on_the_next() {
    let mut world = World::synchronised();
    world.frames.beat(at(60));
    world.reconnect(2);
    world.say(snapshot(3, 1, 10, vec![])).unwrap();
    let got = world.say(heartbeat(2, 1 << 3));
    world.assert_broken(got, Violation::UnknownBeat, Refusal::FeedBadSignature);
}

#[test]
fn a_broker_that_answers_after_too_many_beats_keeps_nobody_fresh() {
    let mut world = World::synchronised();
    for _ in 0..100 {
        world.frames.beat(at(50));
    }
    assert!(!world.say(heartbeat(2, 1 << 3)).unwrap().fresher);
}

#[test]
fn a_heartbeat_names_what_is_fresh_and_the_rest_grows_old() {
    let mut world = World::synchronised();
    world.say(snapshot(4, 1, 1, vec![])).unwrap();
    assert_eq!(world.state(4), Err(Refusal::NeverSynchronised));
    world.frames.beat(at(50));
    world.say(heartbeat(2, 1 << 4 | 1 << 60)).unwrap();
    world.assert_open(4);
    assert_eq!(world.state(60), Err(Refusal::NeverSynchronised), "without a snapshot no heartbeat opens");
    let late = at(2_020);
    let [three, four] = [3, 4].map(|n| taskpass_verifier::ids::Partition::new(n).unwrap());
    assert_eq!(world.fed.view.state(three, late), Err(Refusal::Stale));
    assert_eq!(world.fed.view.state(four, late), Ok(()));
}

#[test]
fn a_bound_that_is_none_or_too_long_closes_everything() {
    for bound in [Duration::ZERO, view::MAX_BOUND + Duration::from_nanos(1)] {
        let mut world = World::synchronised();
        let got = world.say(heartbeat_of(1, 1 << 3, bound));
        world.assert_broken(got, Violation::Malformed, Refusal::FeedBadSignature);
    }
}

#[test]
fn a30_a_delta_with_a_gap_closes_everything() {
    for (from, to) in [(11, 12), (9, 11), (10, 9)] {
        let mut world = World::synchronised();
        let got = world.say(delta(3, from, to, vec![]));
        world.assert_broken(got, Violation::Gap, Refusal::FeedGap);
    }
}

#[test]
fn a_delta_with_more_entries_than_it_covers_closes_everything() {
    let mut world = World::synchronised();
    let got = world.say(delta(3, 10, 11, vec![ended(task(3, 1)), ended(task(3, 2))]));
    world.assert_broken(got, Violation::Gap, Refusal::FeedGap);
}

#[test]
fn a_delta_before_its_snapshot_closes_everything() {
    let mut world = World::synchronised();
    let got = world.say(delta(4, 0, 1, vec![]));
    world.assert_broken(got, Violation::Gap, Refusal::FeedGap);
}

#[test]
fn a_delta_of_another_stream_does_not_continue_this_one() {
    let mut world = World::synchronised();
    world.reconnect(2);
    let got = world.say(delta(3, 10, 11, vec![]));
    world.assert_broken(got, Violation::Gap, Refusal::FeedGap);
}

#[test]
fn a_key_set_whose_epoch_falls_closes_everything_on_a_later_stream_too() {
    let set = Key::new().set();
    let mut world = World::synchronised();
    world.say(keys(5, ISSUER, &set)).unwrap();
    world.say(keys(5, ISSUER, &set)).expect("the same again is no harm");
    let got = world.say(keys(5, ISSUER, &Key::new().set()));
    world.assert_broken(got, Violation::KeysRanBack, Refusal::FeedRolledBack);
    world.reconnect(2);
    let got = world.say(keys(4, ISSUER, &Key::new().set()));
    world.assert_broken(got, Violation::KeysRanBack, Refusal::FeedRolledBack);
}

#[test]
fn a_key_set_of_another_issuer_or_none_at_all_closes_everything() {
    let mut world = World::synchronised();
    let got = world.say(keys(5, "https://other.example.org", &Key::new().set()));
    world.assert_broken(got, Violation::BadKeySet, Refusal::FeedBadSignature);
    let mut world = World::synchronised();
    let no_set = proto::FeedKeySet { epoch: 1, issuer: ISSUER.to_owned(), jwks_json: "{}".to_owned() };
    let got = world.say(proto::feed_frame::Content::KeySet(no_set));
    world.assert_broken(got, Violation::BadKeySet, Refusal::FeedBadSignature);
}

#[test]
fn what_is_too_large_is_not_even_verified() {
    let mut world = World::synchronised();
    let got = world.hand_in_bytes(&vec![0; MAX_PAYLOAD_BYTES + 1], &[0; 64]);
    world.assert_broken(got, Violation::TooLarge, Refusal::FeedBadSignature);
    let mut world = World::synchronised();
    let many = vec![ended(task(3, 1)); MAX_ENTRIES + 1];
    let got = world.say(delta(3, 10, 100_000, many));
    world.assert_broken(got, Violation::TooLarge, Refusal::FeedBadSignature);
}

#[test]
fn what_this_version_does_not_know_closes_everything() {
    // What is left of an entry of a later kind, once it is decoded.
    let nothing = proto::FeedEntry { what: None, forget_at: NOW };
    let no_key = entry(proto::feed_entry::What::KeyFence(proto::FeedKeyFence { key_id: vec![0; 31].into() }));
    let short = entry(proto::feed_entry::What::TaskEnded(vec![0; 15].into()));
    let no_task = entry(proto::feed_entry::What::TaskEnded(vec![0; 16].into()));
    let elsewhere = ended(task(4, 1));
    let revoked_elsewhere = revoked(CredentialId { task: task(4, 1), number: 1 });
    for unknown in [nothing, no_key, short, no_task, elsewhere, revoked_elsewhere] {
        let mut world = World::synchronised();
        let got = world.say(delta(3, 10, 11, vec![unknown]));
        world.assert_broken(got, Violation::Malformed, Refusal::FeedBadSignature);
    }
    let mut world = World::synchronised();
    let mut empty = world.frame(heartbeat(1, 0));
    empty.content = None;
    let got = world.hand_in(&empty);
    world.assert_broken(got, Violation::Malformed, Refusal::FeedBadSignature);
    let mut world = World::synchronised();
    let got = world.say(snapshot(64, 1, 1, vec![]));
    world.assert_broken(got, Violation::Malformed, Refusal::FeedBadSignature);
}

#[test]
fn nothing_is_taken_before_a_stream_begins() {
    let mut world = World::new();
    world.frames = taskpass_verifier::feed::Frames::new(AUDIENCE);
    world.nonce = Vec::new();
    assert!(world.say(snapshot(3, 1, 1, vec![])).is_err());
    assert_eq!(world.state(3), Err(Refusal::NeverSynchronised));
}

proptest::proptest! {
    /// Whatever a broker signs: no panic, and what is not taken closes.
    #[test]
    fn signed_rubbish_never_panics(payload in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let mut world = World::synchronised();
        let signature = world.key.sign(&payload);
        if world.hand_in_bytes(&payload, &signature).is_err() {
            proptest::prop_assert!(world.state(3).is_err());
        }
    }
}

/// Frames of five streams, of which the third is this one's.
fn among_others(world: &mut World, content: proto::feed_frame::Content) -> (Batch, Vec<u8>) {
    let payload = world.frame(content).encode_to_vec();
    let others = [&b"of"[..], b"other", &payload, b"streams", b"entirely"];
    (Batch::new(others.map(leaf).to_vec()).unwrap(), payload)
}

#[test]
fn a_frame_that_was_signed_together_with_others_is_taken() {
    let mut world = World::synchronised();
    let (batch, payload) = among_others(&mut world, delta(3, 10, 11, vec![ended(task(3, 1))]));
    let (path, signature) = (batch.path(2), world.key.sign_bare(&batch.head()));
    let place = Place { index: 2, size: 5, path: &path };
    assert!(world.hand_in_at(&payload, place, &signature).expect("as the broker signed it").to_acknowledge);
}

#[test]
fn a30_a_frame_that_was_not_among_those_that_were_signed_together_closes_everything() {
    type Tamper = fn(&mut Vec<u8>, &mut Vec<u8>, &mut u64, &mut u64);
    let tampers: [(&str, Tamper); 7] = [
        ("the payload", |payload, _, _, _| *payload.last_mut().unwrap() ^= 1),
        ("the way", |_, path, _, _| path[40] ^= 1),
        ("a shorter way", |_, path, _, _| path.truncate(64)),
        ("a longer way", |_, path, _, _| path.extend([0; 32])),
        ("a way that is no nodes", |_, path, _, _| path.truncate(95)),
        ("its place", |_, _, index, _| *index = 3),
        ("their number", |_, _, _, size| *size = 6),
    ];
    for (what, tamper) in tampers {
        let mut world = World::synchronised();
        let (batch, mut payload) = among_others(&mut world, delta(3, 10, 11, vec![ended(task(3, 1))]));
        let signature = world.key.sign_bare(&batch.head());
        let (mut path, mut index, mut size) = (batch.path(2), 2, 5);
        tamper(&mut payload, &mut path, &mut index, &mut size);
        let got = world.hand_in_at(&payload, Place { index, size, path: &path }, &signature);
        assert_eq!(got, Err(Violation::BadSignature), "{what}");
        world.assert_broken(got, Violation::BadSignature, Refusal::FeedBadSignature);
    }
}

#[test]
fn a30_a_frame_signed_for_another_stream_beside_this_ones_is_not_this_ones() {
    let mut world = World::synchronised();
    let own = world.frame(heartbeat(1, u64::MAX));
    let other = proto::FeedFrame { stream_id: "another".to_owned(), ..own.clone() };
    let (own, other) = (own.encode_to_vec(), other.encode_to_vec());
    let batch = Batch::new(vec![leaf(&own), leaf(&other)]).unwrap();
    let (path, signature) = (batch.path(1), world.key.sign_bare(&batch.head()));
    let got = world.hand_in_at(&other, Place { index: 1, size: 2, path: &path }, &signature);
    world.assert_broken(got, Violation::OtherStream, Refusal::FeedBadSignature);
}

#[test]
fn a_signature_of_one_payload_is_none_of_a_batch_and_the_other_way_round() {
    let mut world = World::synchronised();
    let payload = world.frame(heartbeat(1, u64::MAX)).encode_to_vec();
    let alone = world.key.sign(&payload);
    let got = world.hand_in_at(&payload, Place { index: 0, size: 1, path: &[] }, &alone);
    world.assert_broken(got, Violation::BadSignature, Refusal::FeedBadSignature);
    let mut world = World::synchronised();
    let payload = world.frame(heartbeat(1, u64::MAX)).encode_to_vec();
    let together = world.key.sign_bare(&Batch::new(vec![leaf(&payload)]).unwrap().head());
    let got = world.hand_in_bytes(&payload, &together);
    world.assert_broken(got, Violation::BadSignature, Refusal::FeedBadSignature);
}

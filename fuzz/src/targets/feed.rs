//! Frames of the feed, signed by the feed's key: what a follower must stand of a broker that has gone mad.

use std::time::Duration;

use prost::Message as _;
use ring::signature::Ed25519KeyPair;
use taskpass::proto::{
    FeedDelta, FeedEntry, FeedFence, FeedFrame, FeedHeartbeat, FeedKeyFence, FeedKeySet, FeedSnapshot,
    feed_entry, feed_frame,
};
use taskpass_verifier::feed::batch::{self, Batch, Place, leaf};
use taskpass_verifier::feed::{Fed, Frames, SignedFrame, Violation};
use taskpass_verifier::ids::{CredentialId, Generation, PARTITIONS, Partition, TaskId};
use taskpass_verifier::view::{ENTRIES_PER_PARTITION, MAX_BOUND};
use taskpass_verifier::{KeySet, Moment, RevocationView};

const AUDIENCE: &str = "https://docs.example.org/mcp";
const NONCE: [u8; 16] = [5; 16];
const STREAM: &str = "stream-1";
/// The broker's clock, in seconds.
const NOW: u64 = 1_790_000_000;

/// Frames, one after the other. A part that reads as a frame gets the envelope that is due, so that its content is reached; one that does not is signed as it is.
pub fn run(input: &[u8]) {
    let signer = super::signer();
    let keys = super::keys_of(&signer);
    let view = RevocationView::default();
    let mut frames = Frames::new(AUDIENCE);
    frames.begin(&NONCE);
    let (mut sequence, mut broken) = (0, None);
    for (number, part) in super::parts(input).into_iter().take(64).enumerate() {
        somewhere(part);
        let now = Moment::from_nanos(1_000_000_000 * (number as u64 + 1));
        frames.beat(now);
        let payload = in_place(part, sequence + 1);
        match hand_in(&mut frames, &signer, &keys, &payload, &view, now) {
            Ok(taken) => {
                assert_eq!((broken, taken), (None, sequence + 1), "a broken stream takes nothing more");
                sequence = taken;
            }
            Err(why) => {
                assert_eq!(*broken.get_or_insert(why), why, "what was wrong first stays the reason");
                closed(&view, now);
            }
        }
        bounded(&view);
        view.forget(now);
    }
}

fn in_place(part: &[u8], sequence: u64) -> Vec<u8> {
    match FeedFrame::decode(part) {
        Ok(frame) => {
            let (stream_id, audience) = (STREAM.to_owned(), AUDIENCE.to_owned());
            FeedFrame { stream_id, nonce: NONCE.to_vec().into(), audience, sequence, ..frame }.encode_to_vec()
        }
        Err(_) => part.to_vec(),
    }
}

fn hand_in(
    frames: &mut Frames,
    signer: &Ed25519KeyPair,
    keys: &KeySet,
    payload: &[u8],
    view: &RevocationView,
    now: Moment,
) -> Result<u64, Violation> {
    let signature = signer.sign(&[b"taskpass-feed-v1\0", payload].concat());
    let key_id = super::verification_key(signer).id().to_string();
    let frame = SignedFrame { payload, signature: signature.as_ref(), key_id: &key_id, place: None };
    frames.take(frame, keys, view as &dyn Fed, now).map(|taken| taken.sequence)
}

/// Reads a part as a place among others: index and size, 8 bytes each, and nodes.
fn somewhere(part: &[u8]) {
    let Some((index, rest)) = part.split_first_chunk() else { return };
    let Some((size, path)) = rest.split_first_chunk() else { return };
    let (index, size) = (u64::from_be_bytes(*index), u64::from_be_bytes(*size));
    let place = Place { index, size, path };
    if place.head(b"payload").is_some() {
        assert!(index < size && size <= batch::MOST && path.len() <= 16 * 32 && path.len() % 32 == 0);
    }
}

/// After a violation nothing is believed.
fn closed(view: &RevocationView, now: Moment) {
    for partition in Partition::all() {
        assert!(view.state(partition, now).is_err(), "partition {partition} is open");
    }
}

fn bounded(view: &RevocationView) {
    assert!(view.len() <= ENTRIES_PER_PARTITION * usize::from(PARTITIONS));
    assert!(view.bound().is_none_or(|bound| bound <= MAX_BOUND));
}

fn generation() -> Generation {
    Generation::from_parts(NOW * 1_000 - 60_000, [7; 6])
}

fn task(number: u8) -> TaskId {
    TaskId::from_parts(NOW * 1_000, Partition::from_low_bits(3), [number; 10])
}

fn entries() -> Vec<FeedEntry> {
    let credential = CredentialId { task: task(2), number: 1 };
    [
        feed_entry::What::TaskEnded(task(1).as_bytes().to_vec().into()),
        feed_entry::What::CredentialRevoked(credential.to_bytes().to_vec().into()),
        feed_entry::What::Fence(FeedFence {
            target_sha256: vec![9; 32].into(),
            cut: 12,
            raised_at: NOW * 1_000,
        }),
        feed_entry::What::KeyFence(FeedKeyFence { key_id: vec![8; 32].into() }),
    ]
    .map(|what| FeedEntry { what: Some(what), forget_at: NOW + 900 })
    .to_vec()
}

fn snapshot(more: bool) -> feed_frame::Content {
    let generation = generation().as_bytes().to_vec().into();
    feed_frame::Content::Snapshot(FeedSnapshot {
        partition: 3,
        generation,
        seq: 10,
        entries: entries(),
        more,
        chain: vec![10; 20].into(),
    })
}

fn delta(from_seq: u64, entries: Vec<FeedEntry>) -> feed_frame::Content {
    let chain = vec![11; 20].into();
    feed_frame::Content::Delta(FeedDelta { partition: 3, from_seq, to_seq: from_seq + 1, entries, chain })
}

fn new_generation() -> feed_frame::Content {
    let newer = Generation::from_parts(NOW * 1_000, [8; 6]);
    let what = Some(feed_entry::What::Generation(newer.as_bytes().to_vec().into()));
    delta(11, vec![FeedEntry { what, forget_at: NOW + 900 }])
}

fn heartbeat(beat: u64) -> feed_frame::Content {
    feed_frame::Content::Heartbeat(FeedHeartbeat {
        beat,
        broker_time: Some(prost_types::Timestamp { seconds: NOW as i64, nanos: 5 }),
        bound: Duration::from_secs(15).try_into().ok(),
        partitions: 1 << 3,
        positions: Some(taskpass::proto::SignedPositions {
            payload: vec![1; 64].into(),
            signature: vec![2; 64].into(),
            key_id: "key".into(),
        }),
    })
}

fn key_set() -> feed_frame::Content {
    let jwks_json = super::keys_of(&super::signer()).to_jwks();
    feed_frame::Content::KeySet(FeedKeySet {
        epoch: 4,
        issuer: "https://broker.example.org".into(),
        jwks_json,
    })
}

/// As [`somewhere`] reads them.
fn places() -> impl Iterator<Item = Vec<u8>> {
    let batch = Batch::new((0..5_u8).map(|payload| leaf(&[payload])).collect());
    (0..5_u64).zip(std::iter::repeat(batch)).filter_map(|(index, batch)| {
        let path = batch?.path(index as usize);
        Some([&index.to_be_bytes()[..], &5_u64.to_be_bytes(), &path].concat())
    })
}

/// Streams as brokers tell them, and each of their frames alone.
pub fn seeds() -> Vec<Vec<u8>> {
    let whole =
        [key_set(), snapshot(false), heartbeat(1), delta(10, entries()), heartbeat(2), new_generation()];
    let in_parts = [snapshot(true), snapshot(true), snapshot(false), heartbeat(3), delta(10, Vec::new())];
    let stream = |contents: &[feed_frame::Content]| {
        super::join(contents.iter().map(|content| {
            FeedFrame { content: Some(content.clone()), ..FeedFrame::default() }.encode_to_vec()
        }))
    };
    let mut seeds = vec![stream(&whole), stream(&in_parts), super::join(places())];
    seeds.extend(whole.iter().map(|content| stream(std::slice::from_ref(content))));
    seeds
}

//! A broker's side of one stream, which signs whatever a test wants to say.

use std::sync::Mutex;
use std::time::Duration;

use prost::Message as _;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use taskpass_verifier::feed::batch::Place;
use taskpass_verifier::feed::{Event, Fed, Frames, SignedFrame, Taken, Violation};
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use taskpass_verifier::keyset::Algorithm;
use taskpass_verifier::{KeySet, Moment, Refusal, RevocationView, VerificationKey};

#[allow(dead_code, unreachable_pub, missing_docs, clippy::all, clippy::too_many_lines)]
pub(crate) mod proto {
    tonic::include_proto!("taskpass.v1");
}

use proto::{
    FeedDelta, FeedEntry, FeedFrame, FeedHeartbeat, FeedKeySet, FeedSnapshot, feed_entry, feed_frame,
};

pub(crate) const AUDIENCE: &str = "https://docs.example.org/mcp";
pub(crate) const ISSUER: &str = "https://broker.example.org";
pub(crate) const BOUND: Duration = Duration::from_secs(2);
/// The broker's clock.
pub(crate) const NOW: u64 = 1_790_000_000;

pub(crate) fn at(millis: u64) -> Moment {
    Moment::from_nanos(1_000_000_000_000 + millis * 1_000_000)
}

pub(crate) fn generation(number: u64) -> Generation {
    Generation::from_parts(number, [7; 6])
}

pub(crate) fn task(partition: u8, number: u8) -> TaskId {
    TaskId::from_parts(NOW * 1_000, Partition::new(partition).unwrap(), [number; 10])
}

pub(crate) struct Key(Ed25519KeyPair);

impl Key {
    pub(crate) fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    pub(crate) fn public(&self) -> VerificationKey {
        VerificationKey::from_public_bytes(Algorithm::EdDsa, self.0.public_key().as_ref()).unwrap()
    }

    pub(crate) fn set(&self) -> KeySet {
        KeySet::new([self.public()]).unwrap()
    }

    pub(crate) fn sign(&self, payload: &[u8]) -> Vec<u8> {
        self.sign_bare(&[b"taskpass-feed-v1\0", payload].concat())
    }

    /// As something else than a frame of the feed.
    pub(crate) fn sign_bare(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).as_ref().to_vec()
    }
}

/// The view, and all that was told of it.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) view: RevocationView,
    pub(crate) events: Mutex<Vec<String>>,
}

impl Fed for Watched {
    fn view(&self) -> &RevocationView {
        &self.view
    }

    fn take_keys(&self, issuer: &str, _: u64, _: &KeySet) -> Result<(), Violation> {
        if issuer == ISSUER { Ok(()) } else { Err(Violation::BadKeySet) }
    }

    fn happened(&self, event: &Event<'_>) {
        self.events.lock().unwrap().push(format!("{event:?}"));
    }
}

/// Both ends of a stream.
pub(crate) struct World {
    pub(crate) key: Key,
    pub(crate) known_keys: KeySet,
    pub(crate) frames: Frames,
    pub(crate) fed: Watched,
    pub(crate) stream_id: String,
    pub(crate) nonce: Vec<u8>,
    pub(crate) sequence: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let key = Key::new();
        let known_keys = key.set();
        let mut world = Self {
            key,
            known_keys,
            frames: Frames::new(AUDIENCE),
            fed: Watched::default(),
            stream_id: String::new(),
            nonce: Vec::new(),
            sequence: 0,
        };
        world.reconnect(1);
        world
    }

    /// A world whose partition 3 has been synchronised at 10 with nothing in it, and is fresh from 0 ms.
    pub(crate) fn synchronised() -> Self {
        let mut world = Self::new();
        world.say(snapshot(3, 1, 10, vec![])).unwrap();
        assert_eq!(world.frames.beat(at(0)), 1);
        world.say(heartbeat(1, 1 << 3)).unwrap();
        world.assert_open(3);
        world
    }

    /// The next stream.
    pub(crate) fn reconnect(&mut self, number: u8) {
        self.nonce = vec![number; 16];
        self.stream_id = format!("stream-{number}");
        self.sequence = 0;
        self.frames.begin(&self.nonce);
    }

    /// The next frame of the stream, not signed.
    pub(crate) fn frame(&mut self, content: feed_frame::Content) -> FeedFrame {
        self.sequence += 1;
        FeedFrame {
            stream_id: self.stream_id.clone(),
            nonce: self.nonce.clone().into(),
            audience: AUDIENCE.to_owned(),
            sequence: self.sequence,
            content: Some(content),
        }
    }

    /// Signs and hands in.
    pub(crate) fn hand_in(&mut self, frame: &FeedFrame) -> Result<Taken, Violation> {
        let payload = frame.encode_to_vec();
        let signature = self.key.sign(&payload);
        self.hand_in_bytes(&payload, &signature)
    }

    pub(crate) fn hand_in_bytes(&mut self, payload: &[u8], signature: &[u8]) -> Result<Taken, Violation> {
        let key_id = self.key.public().id().to_string();
        let signed = SignedFrame { payload, signature, key_id: &key_id, place: None };
        self.frames.take(signed, &self.known_keys, &self.fed, at(5))
    }

    /// As one that was signed with others.
    pub(crate) fn hand_in_at(
        &mut self,
        payload: &[u8],
        place: Place<'_>,
        signature: &[u8],
    ) -> Result<Taken, Violation> {
        let key_id = self.key.public().id().to_string();
        let signed = SignedFrame { payload, signature, key_id: &key_id, place: Some(place) };
        self.frames.take(signed, &self.known_keys, &self.fed, at(5))
    }

    pub(crate) fn say(&mut self, content: feed_frame::Content) -> Result<Taken, Violation> {
        let frame = self.frame(content);
        self.hand_in(&frame)
    }

    pub(crate) fn state(&self, partition: u8) -> Result<(), Refusal> {
        self.fed.view.state(Partition::new(partition).unwrap(), at(100))
    }

    #[track_caller]
    pub(crate) fn assert_open(&self, partition: u8) {
        assert_eq!(self.state(partition), Ok(()));
    }

    /// What was violated, and what verdicts say now. Nothing more of this stream is taken, and the next one's snapshot heals it.
    #[track_caller]
    pub(crate) fn assert_broken(&mut self, got: Result<Taken, Violation>, why: Violation, verdicts: Refusal) {
        assert_eq!(got, Err(why));
        assert_eq!(self.state(3), Err(verdicts));
        assert_eq!(self.say(snapshot(3, 1, 20, vec![])), Err(why), "a broken stream takes nothing more");
        assert_eq!(self.state(3), Err(verdicts));
        self.reconnect(9);
        self.say(snapshot(3, 1, 20, vec![])).expect("another stream opens it");
        self.assert_open(3);
    }
}

pub(crate) fn snapshot(partition: u32, of: u64, seq: u64, entries: Vec<FeedEntry>) -> feed_frame::Content {
    part(partition, of, seq, entries, false)
}

pub(crate) fn part(
    partition: u32,
    of: u64,
    seq: u64,
    entries: Vec<FeedEntry>,
    more: bool,
) -> feed_frame::Content {
    let generation = generation(of).as_bytes().to_vec().into();
    let chain = chain(seq);
    feed_frame::Content::Snapshot(FeedSnapshot { partition, generation, seq, chain, entries, more })
}

/// The digest of the one history that there is, up to a sequence.
pub(crate) fn chain(seq: u64) -> prost::bytes::Bytes {
    [seq.to_be_bytes(); 3].concat().split_off(4).into()
}

pub(crate) fn delta(partition: u32, from: u64, to: u64, entries: Vec<FeedEntry>) -> feed_frame::Content {
    let chain = chain(to);
    feed_frame::Content::Delta(FeedDelta { partition, from_seq: from, to_seq: to, chain, entries })
}

pub(crate) fn heartbeat(beat: u64, partitions: u64) -> feed_frame::Content {
    heartbeat_of(beat, partitions, BOUND)
}

pub(crate) fn heartbeat_of(beat: u64, partitions: u64, bound: Duration) -> feed_frame::Content {
    feed_frame::Content::Heartbeat(FeedHeartbeat {
        beat,
        broker_time: Some(prost_types::Timestamp { seconds: NOW as i64, nanos: 0 }),
        bound: Some(bound.try_into().unwrap()),
        partitions,
        positions: None,
    })
}

pub(crate) fn keys(epoch: u64, issuer: &str, set: &KeySet) -> feed_frame::Content {
    feed_frame::Content::KeySet(FeedKeySet { epoch, issuer: issuer.to_owned(), jwks_json: set.to_jwks() })
}

pub(crate) fn entry(what: feed_entry::What) -> FeedEntry {
    FeedEntry { what: Some(what), forget_at: NOW + 900 }
}

pub(crate) fn ended(task: TaskId) -> FeedEntry {
    entry(feed_entry::What::TaskEnded(task.as_bytes().to_vec().into()))
}

pub(crate) fn revoked(credential: CredentialId) -> FeedEntry {
    entry(feed_entry::What::CredentialRevoked(credential.to_bytes().to_vec().into()))
}

pub(crate) fn withdrawn(key: &Key) -> FeedEntry {
    let key_id = key.public().id().as_bytes().to_vec().into();
    entry(feed_entry::What::KeyFence(proto::FeedKeyFence { key_id }))
}

pub(crate) fn new_generation(number: u64) -> FeedEntry {
    entry(feed_entry::What::Generation(generation(number).as_bytes().to_vec().into()))
}

//! The feed as a gRPC stream: frames are encoded and signed here, and what the follower says is read beside them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use prost::Message as _;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

use crate::error::{Error, Result};
use crate::feed::{Content, Frame, Item, Reader};
use crate::ops::command::Follow;
use crate::ops::{Broker, Caller, Followed, FrameSignature, Place};
use crate::proto::{self, feed_entry, feed_frame, follow_request};
use crate::revoke::feed::Happened;
use crate::revoke::fence::FenceTarget;
use crate::time::{Clock, Timestamp};

use super::gate::Admitted;
use super::operations::Operations;
use super::positions::{self, SignedPositions};
use super::status::{self, Failures};
use super::{parse, render};

/// How long a follower may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// What is signed and encoded at a stretch, in bytes. Then it is on its way and others have their turn: the snapshots of a new stream take milliseconds,
/// and what gathers them would keep the room for all of them for as long as the stream lasts.
const STRETCH: usize = 4 * 1024;
/// What a nonce may be, in bytes.
const NONCE: std::ops::RangeInclusive<usize> = 16..=32;

/// Frames, until the follower leaves or may no longer follow.
pub(super) type Frames =
    Pin<Box<dyn Stream<Item = std::result::Result<proto::FollowResponse, Status>> + Send>>;

/// Serves the feed.
#[derive(Clone, Debug)]
pub(super) struct FeedFace {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    operations: Operations,
    positions: Arc<SignedPositions>,
    stop: CancellationToken,
}

impl FeedFace {
    /// For a broker. Each decision is one of `operations`, whatever becomes of the call. Streams end at `stop`, so that their followers go to another broker.
    pub(super) fn new(
        broker: Arc<Broker>,
        clock: Arc<dyn Clock>,
        operations: Operations,
        stop: CancellationToken,
    ) -> Self {
        Self { broker, clock, operations, positions: Arc::default(), stop }
    }

    async fn begin(
        &self,
        caller: Caller,
        mut said: Streaming<proto::FollowRequest>,
        failures: Arc<Failures>,
    ) -> Result<Frames> {
        let hello = tokio::time::timeout(HELLO, said.message()).await;
        let hello = hello.map_err(|_| Error::invalid("hello", "it did not come within 5 s"))?;
        let hello = hello.map_err(|why| Error::invalid("hello", why.message()))?;
        let Some(follow_request::Message::Hello(hello)) = hello.and_then(|said| said.message) else {
            return Err(Error::invalid("hello", "the first message of a follower must be its hello"));
        };
        if !NONCE.contains(&hello.nonce.len()) {
            return Err(Error::invalid("hello.nonce", "16 to 32 random bytes, new for each stream"));
        }
        let bound = parse::duration("hello.bound", hello.bound.as_ref())?;
        let known = hello.known.map(|known| positions::known("hello.known", known)).transpose()?;
        let command = Follow { audience: parse::audience("hello.audience", hello.audience)?, bound, known };
        let (broker, now, asking) = (Arc::clone(&self.broker), self.clock.now(), caller.clone());
        let decided = self.operations.run(async move { broker.follow(&asking, command, now).await });
        let followed = decided.await??;
        let ended = self.stop.child_token();
        tokio::spawn(listen(said, followed.following.reader(), ended.clone()));
        let sender = Sender {
            broker: Arc::clone(&self.broker),
            caller,
            failures,
            told: followed.key_set.clone(),
            followed,
            // Of its own: the one in the message holds all of it.
            nonce: prost::bytes::Bytes::copy_from_slice(&hello.nonce),
            positions: Arc::clone(&self.positions),
            brought: prost::bytes::Bytes::new(),
            stretch: 0,
            stop: self.stop.clone(),
            ended: ended.clone(),
            _ends_the_listener: ended.drop_guard(),
        };
        Ok(Box::pin(futures_util::stream::unfold(Some(sender), Sender::step)))
    }
}

#[tonic::async_trait]
impl proto::feed_service_server::FeedService for FeedFace {
    type FollowStream = Frames;

    async fn follow(
        &self,
        request: Request<Streaming<proto::FollowRequest>>,
    ) -> std::result::Result<Response<Frames>, Status> {
        let admitted = request.extensions().get::<Admitted>().cloned();
        let Admitted { caller, slot, failures } =
            admitted.ok_or_else(|| status::to_status(&Error::internal("a call passed no gate")))?;
        let begun = self.begin(caller.clone(), request.into_inner(), Arc::clone(&failures)).await;
        // A stream is no call in flight: it has its own limit.
        drop(slot);
        begun.map(Response::new).map_err(|error| failures.refuse(&caller, "Follow", &error))
    }
}

/// Reads what the follower says until it leaves.
async fn listen(mut said: Streaming<proto::FollowRequest>, reader: Reader, ended: CancellationToken) {
    let _ends_the_stream = ended.clone().drop_guard();
    while let Some(Ok(Some(said))) = ended.run_until_cancelled(said.message()).await {
        match said.message {
            Some(follow_request::Message::Beat(beat)) => reader.beat(beat.number),
            Some(follow_request::Message::Ack(ack)) => reader.acknowledge(ack.sequence),
            // A second hello, or what a later version says.
            Some(follow_request::Message::Hello(_)) | None => return,
        }
    }
}

struct Sender {
    broker: Arc<Broker>,
    caller: Caller,
    failures: Arc<Failures>,
    followed: Followed,
    nonce: prost::bytes::Bytes,
    positions: Arc<SignedPositions>,
    /// The signature of the positions that the follower has.
    brought: prost::bytes::Bytes,
    /// The key set that was told last.
    told: String,
    /// Bytes that were encoded since others had their turn.
    stretch: usize,
    stop: CancellationToken,
    ended: CancellationToken,
    _ends_the_listener: DropGuard,
}

type Stepped = Option<(std::result::Result<proto::FollowResponse, Status>, Option<Sender>)>;

impl Sender {
    /// The next frame, or the end.
    async fn step(this: Option<Self>) -> Stepped {
        let mut this = this?;
        let ended = this.ended.clone();
        if this.stretch >= STRETCH {
            this.stretch = 0;
            tokio::task::yield_now().await;
        }
        // What is there to say comes first: a follower that says nothing more is told that much.
        let frame = loop {
            let Followed { following, keys, .. } = &mut this.followed;
            tokio::select! {
                biased;
                changed = keys.changed() => match changed {
                    Ok(()) => this.tell_of_keys(),
                    Err(_) => break None,
                },
                frame = following.next() => break frame,
                () = ended.cancelled() => break None,
            }
        };
        let Some(frame) = frame else {
            let goes_down = this.stop.is_cancelled();
            return goes_down
                .then(|| (Err(Status::unavailable("The broker is going down. Follow another.")), None));
        };
        match this.signed(&frame).await {
            Ok(signed) => {
                this.stretch += signed.payload.len();
                Some((Ok(signed), Some(this)))
            }
            Err(error) => Some((Err(this.failures.refuse(&this.caller, "Follow", &error)), None)),
        }
    }

    /// The key set is the next thing to be said, unless this very one was told last: then what changed is elsewhere in the keyring.
    fn tell_of_keys(&mut self) {
        let followed = &mut self.followed;
        // Where it cannot be had, the next frame is not signed either, and says so.
        if let Ok(content) = self.broker.key_set_content(&followed.trust_domain)
            && let Content::KeySet { jwks, .. } = &content
            && *jwks != self.told
        {
            self.told = jwks.clone();
            followed.following.open_with(content);
        }
    }

    async fn signed(&mut self, frame: &Frame) -> Result<proto::FollowResponse> {
        let following = &self.followed.following;
        let mut said = content(&frame.content);
        if let feed_frame::Content::Heartbeat(heartbeat) = &mut said {
            self.broker.may_still_follow(&self.caller, &self.followed)?;
            let signer = self.broker.feed_signer(&self.followed.trust_domain)?;
            let signed = self
                .positions
                .of(self.broker.feed_positions(), signer.kid(), |input| signer.sign_now(input))?;
            if signed.signature != self.brought {
                self.brought = signed.signature.clone();
                heartbeat.positions = Some(signed);
            }
        }
        let payload = proto::FeedFrame {
            stream_id: following.id().to_string(),
            nonce: self.nonce.clone(),
            audience: following.audience().to_string(),
            sequence: frame.sequence,
            content: Some(said),
        };
        let payload = prost::bytes::Bytes::from(payload.encode_to_vec());
        let FrameSignature { signature, kid, place } =
            self.broker.sign_frame(&self.followed.trust_domain, payload.clone()).await?;
        let batch =
            place.map(|Place { index, size, path }| proto::FeedBatch { index, size, path: path.into() });
        Ok(proto::FollowResponse {
            payload,
            signature: signature.to_vec().into(),
            key_id: kid.to_string(),
            batch,
        })
    }
}

fn content(content: &Content) -> feed_frame::Content {
    match content {
        Content::Snapshot { partition, generation, seq, chain, entries, more } => {
            feed_frame::Content::Snapshot(proto::FeedSnapshot {
                partition: partition.number().into(),
                generation: generation.as_bytes().to_vec().into(),
                seq: *seq,
                chain: chain.to_vec().into(),
                entries: entries.iter().map(|item| entry(item, generation.as_bytes())).collect(),
                more: *more,
            })
        }
        Content::Delta { partition, generation, from, to, chain, entries } => {
            feed_frame::Content::Delta(proto::FeedDelta {
                partition: partition.number().into(),
                from_seq: *from,
                to_seq: *to,
                chain: chain.to_vec().into(),
                entries: entries.iter().map(|item| entry(item, generation.as_bytes())).collect(),
            })
        }
        Content::Heartbeat { beat, time, bound, partitions } => {
            feed_frame::Content::Heartbeat(proto::FeedHeartbeat {
                beat: *beat,
                broker_time: Some(render::timestamp(*time)),
                bound: prost_types::Duration::try_from(*bound).ok(),
                partitions: *partitions,
                positions: None,
            })
        }
        Content::KeySet { epoch, issuer, jwks } => feed_frame::Content::KeySet(proto::FeedKeySet {
            epoch: *epoch,
            issuer: issuer.clone(),
            jwks_json: jwks.clone(),
        }),
    }
}

fn entry(item: &Item, generation: &[u8]) -> proto::FeedEntry {
    let what = match &item.entry.what {
        Happened::TaskEnded(task) => feed_entry::What::TaskEnded(task.as_bytes().to_vec().into()),
        Happened::CredentialRevoked(id) => feed_entry::What::CredentialRevoked(id.to_bytes().to_vec().into()),
        Happened::Fence(FenceTarget::Key(key)) => {
            feed_entry::What::KeyFence(proto::FeedKeyFence { key_id: key.as_bytes().to_vec().into() })
        }
        Happened::Fence(target) => {
            let digest = ring::digest::digest(&ring::digest::SHA256, target.key().as_bytes());
            let target_sha256 = digest.as_ref().to_vec().into();
            feed_entry::What::Fence(proto::FeedFence {
                target_sha256,
                cut: item.entry.seq,
                raised_at: item.entry.at.as_millis(),
            })
        }
        Happened::Generation => feed_entry::What::Generation(generation.to_vec().into()),
    };
    proto::FeedEntry { forget_at: seconds_up(item.forget_at), what: Some(what) }
}

/// Rounded up: never forgotten too early.
fn seconds_up(moment: Timestamp) -> u64 {
    moment.as_millis().div_ceil(1_000)
}

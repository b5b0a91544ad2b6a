//! The frames of a stream, judged: what is not signed by the feed's key, not of this very stream, or not exactly the next is not taken, and closes the view.
//!
//! Nothing here does I/O or reads a clock. That the feed's keys are the broker's is for the caller to know: they come over a connection on which the broker has proven its
//! SPIFFE ID.

use std::sync::Arc;

use prost::Message as _;

use super::batch::Place;
use super::beats::Beats;
use super::content::{Delta, Heartbeat, Keys, Snapshot};
use super::event::Event;
use super::proto::{FeedFrame, SignedPositions, feed_frame};
use super::violation::Violation;
use crate::ids::{PARTITIONS, Partition};
use crate::keyset::KeySet;
use crate::moment::Moment;
use crate::verifier::Verifier;
use crate::view::{self, Closed, ENTRIES_PER_PARTITION, Entry, Position, RevocationView};

/// The longest payload of a frame that is looked at, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;
/// Most entries in one frame.
pub const MAX_ENTRIES: usize = 4_096;
/// The longest name of a stream, in bytes.
const MAX_STREAM_ID: usize = 128;
/// What is signed is this and the payload.
const SIGNED_AS: &[u8] = b"taskpass-feed-v1\0";

/// What a feed keeps up to date, and who watches.
pub trait Fed: Send + Sync {
    /// Where ends go.
    fn view(&self) -> &RevocationView;

    /// Takes the issuer's key set. Its epoch has not fallen since this feed began. An error closes the view.
    fn take_keys(&self, issuer: &str, epoch: u64, keys: &KeySet) -> Result<(), Violation>;

    /// Called after something was taken, in order. To return soon: what comes next waits.
    fn happened(&self, event: &Event<'_>) {
        let _ = event;
    }
}

/// Ends alone: the key set is passed over.
impl Fed for RevocationView {
    fn view(&self) -> &RevocationView {
        self
    }

    fn take_keys(&self, _: &str, _: u64, _: &KeySet) -> Result<(), Violation> {
        Ok(())
    }
}

/// Ends go to the verifier's view, keys to itself. Keys of another issuer than the one it expects close the view.
#[derive(Clone, Debug)]
pub struct ForVerifier {
    verifier: Arc<Verifier>,
    view: Arc<RevocationView>,
}

impl ForVerifier {
    /// None for a verifier that is offline.
    pub fn new(verifier: Arc<Verifier>) -> Option<Self> {
        let view = Arc::clone(verifier.view()?);
        Some(Self { verifier, view })
    }
}

impl Fed for ForVerifier {
    fn view(&self) -> &RevocationView {
        &self.view
    }

    fn take_keys(&self, issuer: &str, epoch: u64, keys: &KeySet) -> Result<(), Violation> {
        if issuer != self.verifier.expected().issuer {
            return Err(Violation::BadKeySet);
        }
        self.verifier.replace_keys(epoch, keys.clone()).map_err(|_| Violation::KeysRanBack)
    }
}

/// One frame as it came. Nothing of it is believed yet.
#[derive(Clone, Copy, Debug)]
pub struct SignedFrame<'a> {
    /// A `FeedFrame`.
    pub payload: &'a [u8],
    /// Over `taskpass-feed-v1`, a zero byte and the payload; or over the head that its place among others leads to.
    pub signature: &'a [u8],
    /// RFC 7638 thumbprint of the key.
    pub key_id: &'a str,
    /// Where it was signed together with others.
    pub place: Option<Place<'a>>,
}

impl SignedFrame<'_> {
    /// What must have been signed; `None` if its place is nowhere.
    fn signed(&self) -> Option<Vec<u8>> {
        match &self.place {
            Some(place) => place.head(self.payload),
            None => Some([SIGNED_AS, self.payload].concat()),
        }
    }
}

/// A frame that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its place in the stream.
    pub sequence: u64,
    /// Whether everything up to it is applied and so may be acknowledged. Once a partition could not be taken, nothing of this stream may be.
    pub applied: bool,
    /// Whether the broker waits for an acknowledgement: it has changed what is known.
    pub to_acknowledge: bool,
    /// Whether it has made a partition fresher.
    pub fresher: bool,
    /// Whether a partition could not be taken: it stays closed until another stream's snapshot.
    pub behind: bool,
}

/// A snapshot of which more is to come.
struct Partial {
    partition: Partition,
    position: Position,
    entries: Vec<Entry>,
    /// More than is kept of a partition: what there was is let go, and it will be closed.
    too_many: bool,
}

/// What is known of one stream.
struct Stream {
    nonce: Vec<u8>,
    id: Option<String>,
    sequence: u64,
    /// How far this stream has told each partition.
    told: [Option<Position>; PARTITIONS as usize],
    partial: Option<Partial>,
    beats: Beats,
    behind: bool,
    broken: Option<Violation>,
}

/// Judges the frames of one audience's feed, stream after stream. What was known stays from one to the next.
pub struct Frames {
    audience: String,
    /// Of the newest key set.
    keys: Option<(u64, KeySet)>,
    /// What the next stream begins with.
    positions: Option<SignedPositions>,
    stream: Stream,
}

impl Stream {
    fn new(nonce: Vec<u8>) -> Self {
        Self {
            nonce,
            id: None,
            sequence: 0,
            told: [None; PARTITIONS as usize],
            partial: None,
            beats: Beats::default(),
            behind: false,
            broken: None,
        }
    }
}

impl Frames {
    /// For the feed of an audience: its canonical URI. [`Self::begin`] comes before anything else.
    pub fn new(audience: impl Into<String>) -> Self {
        let nothing = Stream { broken: Some(Violation::OtherStream), ..Stream::new(Vec::new()) };
        Self { audience: audience.into(), keys: None, positions: None, stream: nothing }
    }

    /// A new stream, whose hello carries this nonce: 16 to 32 bytes that were never used before.
    pub fn begin(&mut self, nonce: &[u8]) {
        self.stream = Stream::new(nonce.to_vec());
    }

    /// How far the store's histories went, as a broker has signed it: to be said with the next hello, so that a broker whose store was restored to an older state finds out.
    pub(super) fn positions(&self) -> Option<SignedPositions> {
        self.positions.clone()
    }

    /// The number of the next beat. `now` must be read before the beat is sent: freshness is counted from it.
    pub fn beat(&mut self, now: Moment) -> u64 {
        self.stream.beats.send(now)
    }

    /// Judges a frame that came at `received`, and takes what it says. A violation closes every partition of the view and ends the stream: each later frame is refused for the
    /// same reason. Except [`Violation::UnknownKey`]: nothing has happened then, and the same frame may be tried with newer keys before [`Self::refuse`] is called.
    pub fn take(
        &mut self,
        frame: SignedFrame<'_>,
        feed_keys: &KeySet,
        fed: &dyn Fed,
        received: Moment,
    ) -> Result<Taken, Violation> {
        if let Some(broken) = self.stream.broken {
            return Err(broken);
        }
        match self
            .judge(frame, feed_keys, fed.view())
            .and_then(|(sequence, said)| self.apply(sequence, said, fed, received))
        {
            Err(why) if why != Violation::UnknownKey => Err(self.refuse(why, fed)),
            taken => taken,
        }
    }

    /// Ends the stream and closes the view. Once is enough: what was wrong first stays the reason.
    pub fn refuse(&mut self, why: Violation, fed: &dyn Fed) -> Violation {
        if let Some(broken) = self.stream.broken {
            return broken;
        }
        self.stream.broken = Some(why);
        fed.view().close_all(why.closes());
        fed.happened(&Event::Closed { why });
        why
    }

    /// The signature first: nothing is parsed that the feed's key has not signed.
    fn judge(
        &mut self,
        frame: SignedFrame<'_>,
        feed_keys: &KeySet,
        view: &RevocationView,
    ) -> Result<(u64, feed_frame::Content), Violation> {
        let SignedFrame { payload, signature, key_id, .. } = frame;
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Violation::TooLarge);
        }
        let id = key_id.parse().map_err(|_| Violation::UnknownKey)?;
        if view.has_withdrawn(&id) {
            return Err(Violation::KeyWithdrawn);
        }
        let key = feed_keys.get(&id).ok_or(Violation::UnknownKey)?;
        if !frame.signed().is_some_and(|signed| key.has_signed(&signed, signature)) {
            return Err(Violation::BadSignature);
        }
        let said = FeedFrame::decode(payload).map_err(|_| Violation::Malformed)?;
        let stream = &mut self.stream;
        let same_stream = match &stream.id {
            Some(id) => *id == said.stream_id,
            None => !said.stream_id.is_empty() && said.stream_id.len() <= MAX_STREAM_ID,
        };
        if !same_stream || said.nonce != stream.nonce || said.audience != self.audience {
            return Err(Violation::OtherStream);
        }
        if stream.sequence.checked_add(1) != Some(said.sequence) {
            return Err(Violation::OutOfOrder);
        }
        let content = said.content.ok_or(Violation::Malformed)?;
        stream.id.get_or_insert(said.stream_id);
        stream.sequence = said.sequence;
        Ok((said.sequence, content))
    }

    fn apply(
        &mut self,
        sequence: u64,
        said: feed_frame::Content,
        fed: &dyn Fed,
        received: Moment,
    ) -> Result<Taken, Violation> {
        let mut fresher = false;
        let to_acknowledge = !matches!(said, feed_frame::Content::Heartbeat(_));
        match said {
            feed_frame::Content::Snapshot(part) => self.stream.snapshot(part.try_into()?, fed)?,
            feed_frame::Content::Delta(delta) => self.stream.delta(delta.try_into()?, fed)?,
            feed_frame::Content::Heartbeat(heartbeat) => {
                let mut heartbeat: Heartbeat = heartbeat.try_into()?;
                let positions = heartbeat.positions.take();
                fresher = self.stream.heartbeat(&heartbeat, fed, received)?;
                self.positions = positions.or_else(|| self.positions.take());
            }
            feed_frame::Content::KeySet(keys) => self.take_keys(keys.try_into()?, fed)?,
        }
        let Stream { behind, ref partial, .. } = self.stream;
        Ok(Taken { sequence, applied: !behind && partial.is_none(), to_acknowledge, fresher, behind })
    }

    fn take_keys(&mut self, new: Keys, fed: &dyn Fed) -> Result<(), Violation> {
        let Keys { epoch, issuer, set } = new;
        let ran_back = |(known, keys): &(u64, KeySet)| epoch < *known || (epoch == *known && set != *keys);
        if self.keys.as_ref().is_some_and(ran_back) {
            return Err(Violation::KeysRanBack);
        }
        fed.take_keys(&issuer, epoch, &set)?;
        fed.happened(&Event::Keys { epoch, issuer: &issuer, keys: set.iter().count() });
        self.keys = Some((epoch, set));
        Ok(())
    }
}

impl Stream {
    fn told(&mut self, partition: Partition) -> Result<&mut Option<Position>, Violation> {
        self.told.get_mut(usize::from(partition.number())).ok_or(Violation::Malformed)
    }

    /// Parts are gathered, and taken with the last: a partition is not open before all of it is there.
    fn snapshot(&mut self, part: Snapshot, fed: &dyn Fed) -> Result<(), Violation> {
        let Snapshot { partition, generation, seq, chain, mut entries, more } = part;
        let position = Position { generation, seq, chain };
        let mut too_many = false;
        if let Some(before) = self.partial.take() {
            too_many = before.too_many;
            let earlier = before.position;
            let joins = before.partition == partition
                && (earlier.generation, earlier.seq) <= (position.generation, position.seq);
            if !joins {
                return Err(Violation::Gap);
            }
            let mut all = before.entries;
            all.append(&mut entries);
            entries = all;
        }
        too_many |= entries.len() > ENTRIES_PER_PARTITION;
        if too_many {
            entries = Vec::new();
        }
        if more {
            self.partial = Some(Partial { partition, position, entries, too_many });
            return Ok(());
        }
        let taken = if too_many {
            // This partition alone: the others do not pay for what was crowded into it.
            fed.view().close(partition, Closed::Overflow);
            Err(Closed::Overflow)
        } else {
            fed.view().replace(&view::Snapshot { partition, position, entries: &entries })
        };
        *self.told(partition)? = Some(position);
        match taken {
            Ok(()) => fed.happened(&Event::Synchronised { partition, generation, seq, entries: &entries }),
            Err(why) => self.fell_behind(partition, why, fed),
        }
        Ok(())
    }

    fn delta(&mut self, delta: Delta, fed: &dyn Fed) -> Result<(), Violation> {
        let Delta { partition, from, to, chain, entries } = delta;
        let known = (*self.told(partition)?).filter(|known| known.seq == from).ok_or(Violation::Gap)?;
        if self.partial.is_some() || to < from {
            return Err(Violation::Gap);
        }
        let generation = entries.iter().fold(known.generation, |before, entry| match entry {
            Entry::Generation { new } => *new,
            _ => before,
        });
        let position = Position { generation, seq: to, chain };
        // The feed leaves out what does not concern the audience, and with it the exact sequences.
        let places = (0_u64..).map(|place| from.saturating_add(1).saturating_add(place));
        let numbered: Vec<_> = places.zip(entries).collect();
        let taken =
            fed.view().apply(&view::Delta { partition, from: known, to: position, entries: &numbered });
        *self.told(partition)? = Some(position);
        match taken {
            Ok(()) => {
                for (_, entry) in &numbered {
                    fed.happened(&Event::Ended { partition, seq: to, entry });
                }
                Ok(())
            }
            Err(Closed::Gap) => Err(Violation::Gap),
            Err(why) => {
                self.fell_behind(partition, why, fed);
                Ok(())
            }
        }
    }

    /// The view has closed the partition, and this stream cannot open it.
    fn fell_behind(&mut self, partition: Partition, why: Closed, fed: &dyn Fed) {
        self.behind = true;
        fed.happened(&Event::Behind { partition, why });
    }

    fn heartbeat(&mut self, said: &Heartbeat, fed: &dyn Fed, received: Moment) -> Result<bool, Violation> {
        let Heartbeat { beat, broker_millis, bound, partitions, .. } = *said;
        let sent = self.beats.sent_at(beat)?;
        let view = fed.view();
        let mut fresher = false;
        // A greater one makes nothing fresh again that was heard under a lower.
        if view.bound().is_none_or(|known| known < bound) {
            view.set_bound(bound);
        }
        if let Some(sent) = sent {
            // A broker whose look has failed knows no time that its store agrees with.
            if partitions != 0 {
                view.set_time(broker_millis, sent, received);
            }
            for (partition, told) in Partition::all().zip(&self.told) {
                let whole = self.partial.as_ref().is_none_or(|partial| partial.partition != partition);
                let Some(told) = told.filter(|_| whole && partitions >> partition.number() & 1 == 1) else {
                    continue;
                };
                let before = view.fresh_from(partition);
                // What this stream has told is all that there was at that look, and it is taken.
                fresher |= view.heard(partition, &told, sent) && before < Some(sent);
            }
        }
        // What an earlier stream keeps fresh by a greater bound stays so until this one keeps something fresh by the lower: it is registered with that bound still.
        if fresher {
            view.set_bound(bound);
        }
        fed.happened(&Event::Heartbeat { beat, broker_millis, bound, partitions });
        Ok(fresher)
    }
}

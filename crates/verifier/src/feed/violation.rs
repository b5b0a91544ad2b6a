//! What can be wrong with a stream.

use crate::view::Closed;

/// What is wrong with a stream. It closes the view, and nothing more of the stream is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The payload is longer than [`super::frame::MAX_PAYLOAD_BYTES`], or more than [`super::frame::MAX_ENTRIES`] are in it.
    #[error("a frame of the feed is too large")]
    TooLarge,
    /// The frame names a key that the feed does not have.
    #[error("a frame of the feed was signed with an unknown key")]
    UnknownKey,
    /// The frame is signed with a key that the feed has called withdrawn. A new stream, whose keys are asked for anew, has another.
    #[error("a frame of the feed was signed with a key that was withdrawn")]
    KeyWithdrawn,
    /// The signature is not that key's over this payload.
    #[error("the signature of a frame of the feed is wrong")]
    BadSignature,
    /// The payload is not a frame as this version knows it.
    #[error("a frame of the feed is malformed, or of a later version")]
    Malformed,
    /// Another nonce, audience or stream id than this stream's.
    #[error("a frame of the feed belongs to another stream")]
    OtherStream,
    /// Not the next sequence: a frame was dropped, replayed or moved.
    #[error("a frame of the feed is missing, or came twice or too early")]
    OutOfOrder,
    /// A delta that does not begin where the partition is known up to, or a snapshot whose parts do not join.
    #[error("a part of a partition's history is missing")]
    Gap,
    /// A heartbeat for a beat that was never sent.
    #[error("the feed answers a beat that was never sent")]
    UnknownBeat,
    /// The key set's epoch fell, or another set came under the same one.
    #[error("the issuer's key set ran back")]
    KeysRanBack,
    /// The key set is not one, or of another issuer than this verifier's.
    #[error("the issuer's key set cannot be used")]
    BadKeySet,
}

impl Violation {
    /// What verdicts say while it lasts.
    pub const fn closes(self) -> Closed {
        match self {
            Self::OutOfOrder | Self::Gap => Closed::Gap,
            Self::KeysRanBack => Closed::Rollback,
            Self::TooLarge
            | Self::UnknownKey
            | Self::KeyWithdrawn
            | Self::BadSignature
            | Self::Malformed
            | Self::OtherStream
            | Self::UnknownBeat
            | Self::BadKeySet => Closed::BadSignature,
        }
    }
}

//! Follows the broker's feed: what keeps a [`Verifier`](crate::Verifier) knowing of ends. With the feature `feed` alone; nothing else of this crate needs a runtime or I/O.
//!
//! - [`frame`]: one stream's frames, judged: signature, place, and what they say, before any of it is taken. Pure.
//! - [`event`]: what was taken, for whoever watches.

pub mod event;
pub mod frame;

mod beats;
mod content;
mod violation;

/// Messages as generated from `proto/`.
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated; documented in proto/"
)]
pub(crate) mod proto {
    tonic::include_proto!("taskpass.v1");
}

pub use event::Event;
pub use frame::{Fed, ForVerifier, Frames, SignedFrame, Taken};
pub use violation::Violation;

//! Follows the broker's feed: what keeps a [`Verifier`](crate::Verifier) knowing of ends. With the feature `feed` alone; nothing else of this crate needs a runtime or I/O.
//!
//! - [`batch`]: one signature for many frames.
//! - [`frame`]: one stream's frames, judged: signature, place, and what they say, before any of it is taken. Pure.
//! - [`follower`]: follows it over mTLS on tokio, broker after broker.
//! - [`clock`]: the clock to ask for verdicts by.
//! - [`event`]: what was taken, for whoever watches.

pub mod batch;
pub mod clock;
pub mod event;
pub mod follower;
pub mod frame;

mod beats;
mod connection;
mod content;
mod session;
mod tls;
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

pub use clock::now;
pub use event::Event;
pub use follower::{CannotFollow, Follower, FollowerConfig, Reconnect, Status};
pub use frame::{Fed, ForVerifier, Frames, SignedFrame, Taken};
pub use tls::IdentityFiles;
pub use violation::Violation;

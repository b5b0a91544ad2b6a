//! Judges Taskpass tokens: bytes in, verdict out. No runtime, no I/O, no clock; with the feature `feed` the room `feed` has all three.
//!
//! ```text
//! text --UnverifiedToken::parse--> UnverifiedToken --verify(keys, expectations, now)--> VerifiedToken --permits_tool--> verdict
//! ```
//!
//! [`Verifier`] does all of it at once, remembers what it has verified, and asks a [`RevocationView`] what has ended.
//!
//! Every refusal has its cause ([`refusal::Refusal`]). The broker makes its tokens from the same [`claims`] and judges them by the
//! same rules before they leave.

mod agent;
pub mod claims;
pub mod constraint;
mod digest;
pub mod expectations;
#[cfg(feature = "feed")]
pub mod feed;
pub mod header;
pub mod ids;
pub mod keyset;
mod moment;
pub mod refusal;
mod time;
pub mod token;
#[cfg(feature = "tower")]
pub mod tower;
pub mod verifier;
pub mod view;
mod wire;

pub use claims::Claims;
pub use expectations::{EnforcementProfile, Expectations, Presented};
pub use keyset::{KeySet, VerificationKey};
pub use moment::Moment;
pub use refusal::Refusal;
pub use time::{Between, UnixSeconds};
pub use token::{UnverifiedToken, VerifiedToken};
pub use verifier::{At, Grant, Verifier};
pub use view::RevocationView;

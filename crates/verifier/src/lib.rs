//! Judges Taskpass tokens: bytes in, verdict out. No runtime, no I/O, no clock; with the feature `feed` the room `feed` has all three.
//!
//! ```text
//! text --UnverifiedToken::parse--> UnverifiedToken --verify(keys, expectations, now)--> VerifiedToken --permits_tool--> verdict
//! ```
//!
//! [`Verifier`] does all of it at once, remembers what it has verified, and asks a [`RevocationView`] what has ended.
//!
//! ```
//! use taskpass_verifier::verifier::Expected;
//! use taskpass_verifier::{At, EnforcementProfile, KeySet, Presented, Refusal, UnixSeconds, Verifier};
//! # let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/");
//! # let read = |name| std::fs::read(format!("{corpus}{name}")).map(|it| serde_json::from_slice::<serde_json::Value>(&it).unwrap());
//! # let (keys, cases) = (read("keys.json")?, read("cases.json")?);
//! # let jwks = keys["acme"].to_string().into_bytes();
//! # let case = cases["cases"].as_array().unwrap().iter().find(|case| case["name"] == "good_es256").unwrap();
//! # let (token, now) = (case["shown"]["token"].as_str().unwrap(), 1_790_000_000);
//!
//! let expected = Expected {
//!     issuer: "https://taskpass.example/acme".into(),
//!     audience: "https://files.example/mcp".into(),
//!     profile: EnforcementProfile::Bearer,
//! };
//! // Offline: it does not know of ends. `Verifier::following` does.
//! let verifier = Verifier::offline(expected, KeySet::from_jwks(&jwks)?);
//! let grant = verifier.judge(token, &Presented::NOTHING, At::wall(UnixSeconds(now)))?;
//! assert_eq!(grant.claims().client_id.as_str(), "spiffe://acme.example/agent/researcher");
//!
//! let arguments = |path: &str| serde_json::Map::from_iter([("path".to_owned(), path.into())]);
//! assert_eq!(grant.permits_tool("files.read", Some(&arguments("/srv/reports/a"))), Ok(()));
//! assert_eq!(grant.permits_tool("files.read", Some(&arguments("/etc/passwd"))), Err(Refusal::ArgumentNotPermitted));
//! assert_eq!(grant.permits_tool("files.write", None), Err(Refusal::ToolNotGranted));
//!
//! let later = verifier.judge(token, &Presented::NOTHING, At::wall(UnixSeconds(now + 120)));
//! assert_eq!(later.map(drop), Err(Refusal::Expired));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A server that follows a broker by `feed` and stands behind `tower` is in the crate's README, and a whole MCP server in `examples/mcp-server` of the repository.
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

/// The examples of the README compile.
#[cfg(all(doctest, feature = "feed", feature = "tower"))]
#[doc = include_str!("../README.md")]
struct Readme;

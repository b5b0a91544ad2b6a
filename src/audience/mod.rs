//! The register of audiences: which resource servers there are, what they offer, and who may verify for them.
//!
//! - [`uri`]: canonical URIs, one spelling each.
//! - [`pattern`]: which SPIFFE IDs.
//! - [`register`]: all of them, read from a directory of TOML files and read again when it changes.
//!
//! One file declares one audience:
//!
//! ```toml
//! uri          = "https://payments.example.org/mcp"  # canonical; it is the `aud` of tokens
//! trust_domain = "example.org"                       # whose issuer signs its tokens
//! description  = "Payments of the shop"              # optional
//! profile      = "x5t#S256"                          # "bearer", "x5t#S256" or "jkt"
//! verifiers    = ["spiffe://example.org/mcp/payments/**"]
//! bound        = "15s"                               # optional: how stale a follower of the feed may be; 1s to 5m
//!
//! [[tools]]
//! name          = "refund"
//! schema_sha256 = "..."                              # optional: 64 hexadecimal digits
//! labels        = ["money", "pii"]                   # optional
//! ```
//!
//! Absent here: who may use an audience (that is `policy`), and whether its trust domain is one that the broker serves
//! (that is configuration).

mod declaration;
pub mod pattern;
pub mod register;
pub mod uri;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use taskpass_verifier::EnforcementProfile;
use taskpass_verifier::claims::ToolName;

use crate::files::ContentDigest;
use crate::identity::{SpiffeId, TrustDomain};
pub use pattern::{InvalidPattern, SpiffeIdPattern};
pub use register::{AudienceRegister, Audiences, UnknownAudience};
pub use uri::{AudienceUri, InvalidAudienceUri};

/// How stale a follower of the feed may be, where the declaration does not say.
pub const DEFAULT_BOUND: Duration = Duration::from_secs(15);
/// The least bound that may be declared.
pub const MIN_BOUND: Duration = Duration::from_secs(1);
/// The largest bound that may be declared.
pub const MAX_BOUND: Duration = Duration::from_secs(5 * 60);

/// A registered resource server. Comes from a checked declaration only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    uri: AudienceUri,
    trust_domain: TrustDomain,
    description: String,
    profile: EnforcementProfile,
    verifiers: Vec<SpiffeIdPattern>,
    bound: Duration,
    tools: BTreeMap<ToolName, Tool>,
    labels: BTreeSet<Label>,
    declared: ContentDigest,
}

/// A tool that an audience offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tool {
    schema_sha256: Option<String>,
    labels: BTreeSet<Label>,
}

/// A data label of a tool: 1 to 64 of `a-z 0-9 . _ : -`, beginning with a letter or digit.
pub type Label = Box<str>;

impl Audience {
    /// Its one name.
    pub const fn uri(&self) -> &AudienceUri {
        &self.uri
    }

    /// Whose issuer signs its tokens.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// For people; may be empty.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What binding its tokens have.
    pub const fn profile(&self) -> EnforcementProfile {
        self.profile
    }

    /// How stale a follower of the feed may be: [`MIN_BOUND`] to [`MAX_BOUND`].
    pub const fn bound(&self) -> Duration {
        self.bound
    }

    /// Whether `id` is enrolled to verify for this audience. That the caller *is* `id` is not checked here.
    pub fn is_verifier(&self, id: &SpiffeId) -> bool {
        self.verifiers.iter().any(|pattern| pattern.matches(id))
    }

    /// Who may verify for it.
    pub fn verifiers(&self) -> &[SpiffeIdPattern] {
        &self.verifiers
    }

    /// A tool by its exact name.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.get(name)
    }

    /// All tools, in the order of their names. At least one.
    pub fn tools(&self) -> impl Iterator<Item = (&ToolName, &Tool)> {
        self.tools.iter()
    }

    /// Of its declaration, name of the file included: audiences that differ in anything differ in this.
    pub const fn declared(&self) -> ContentDigest {
        self.declared
    }

    /// The labels of all of its tools.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(AsRef::as_ref)
    }
}

impl Tool {
    /// SHA-256 of the tool's schema in 64 hexadecimal digits, if declared.
    pub fn schema_sha256(&self) -> Option<&str> {
        self.schema_sha256.as_deref()
    }

    /// Its data labels, sorted.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests;

//! What callers ask for, parsed once: every field has been judged for form, none for authority.

use std::time::Duration;

use taskpass_verifier::claims::{Thumbprint, ToolName};
use taskpass_verifier::keyset::KeyId;

use crate::error::Error;
use crate::identity::{SpiffeId, TrustDomain};
use crate::ids::{CredentialId, Partition, TaskId};
use crate::keys::KeyUse;
use crate::secret::Secret;
use crate::task::Grant;
use crate::task::store::Position;

/// The longest note, in bytes.
pub const MAX_NOTE: usize = 1024;
/// The longest idempotency key, in bytes.
pub const MAX_IDEMPOTENCY_KEY: usize = 128;
/// The longest time that an operator may block new tasks for.
pub const MAX_BLOCK: Duration = Duration::from_secs(30 * 24 * 3600);

/// Declares a task.
#[derive(Clone, Debug)]
pub struct BeginTask {
    /// 1 to 4096 bytes.
    pub goal: String,
    /// 1 to 16, each audience once.
    pub grants: Vec<Grant>,
    /// A second or more.
    pub lifetime: Duration,
    /// On whose behalf.
    pub subject: Option<String>,
    /// 1 to 128 bytes.
    pub idempotency_key: Option<String>,
}

/// Which tasks to list.
#[derive(Clone, Debug)]
pub struct ListTasks {
    /// Tasks of all workloads.
    pub all_owners: bool,
    /// Tasks of this workload; the caller's own if neither is set.
    pub owner: Option<SpiffeId>,
    /// Not the ended ones.
    pub live_only: bool,
    /// From the page before, as it came; empty for the first.
    pub page_token: String,
    /// 1 to 500.
    pub limit: usize,
}

/// What is said of a page token that goes on with no such list of this caller's, whether it was made up, altered, or given for another.
pub fn unknown_page_token() -> Error {
    let what = "is none that the broker gave you for this list; leave it out to begin with the first page";
    Error::invalid("page_token", what)
}

/// Asks for a token.
#[derive(Clone, Debug)]
pub struct MintToken {
    /// Of which task.
    pub task: TaskId,
    /// For which audience.
    pub audience: String,
    /// A subset of the granted tools; all if empty.
    pub tools: Vec<ToolName>,
    /// `None`: the default.
    pub lifetime: Option<Duration>,
    /// `None`: 60 s.
    pub minimum_lifetime: Option<Duration>,
    /// The certificate that will be shown, in DER; `None`: the one of this connection.
    pub certificate: Option<Vec<u8>>,
    /// The DPoP key.
    pub jkt: Option<Thumbprint>,
}

/// What a certificate is asked for with.
#[derive(Clone, Debug)]
pub enum KeyRequest {
    /// PKCS#10 in DER.
    CsrDer(Vec<u8>),
    /// PKCS#10 in PEM.
    CsrPem(String),
    /// A public key and a proof of possession.
    Proven {
        /// SubjectPublicKeyInfo in DER.
        spki_der: Vec<u8>,
        /// See the proto file for what is signed.
        signature: Vec<u8>,
    },
}

/// Asks for a certificate.
#[derive(Clone, Debug)]
pub struct IssueCertificate {
    /// Of which task.
    pub task: TaskId,
    /// The key.
    pub key: KeyRequest,
    /// `None`: the default.
    pub lifetime: Option<Duration>,
    /// `None`: 60 s.
    pub minimum_lifetime: Option<Duration>,
}

/// What a verifier was shown.
#[derive(Clone, Debug)]
pub enum Shown {
    /// A token; not yet judged in any way but its length.
    Token(Secret<String>),
    /// A certificate's serial number; its chain is the verifier's affair.
    Serial {
        /// The number.
        id: CredentialId,
        /// Of the intermediate that has signed it, where the verifier says so.
        authority: Option<KeyId>,
    },
    /// Something that cannot be a credential of ours: inactive.
    Nothing,
}

/// Asks whether a credential is good.
#[derive(Clone, Debug)]
pub struct Validate {
    /// The verifier's own audience.
    pub audience: String,
    /// What it was shown.
    pub shown: Shown,
    /// The certificate that the presenter showed.
    pub certificate: Option<Thumbprint>,
    /// The DPoP key whose proof the verifier checked.
    pub jkt: Option<Thumbprint>,
}

/// What is said with an end.
#[derive(Clone, Debug, Default)]
pub struct EndWish {
    /// About the outcome, or why.
    pub note: String,
    /// How long to wait for those who follow; `None`: a second.
    pub wait: Option<Duration>,
}

/// Asks to be told of ends.
#[derive(Clone, Debug)]
pub struct Follow {
    /// The verifier's own audience.
    pub audience: String,
    /// After how long without news it refuses; `None`: the audience's bound.
    pub bound: Option<Duration>,
    /// What an earlier stream has left with it.
    pub known: Option<Known>,
}

/// Positions that some broker has signed, as a follower says: not believed before the signature is verified.
#[derive(Clone, Debug)]
pub struct Known {
    /// How far histories went.
    pub positions: Vec<(Partition, Position)>,
    /// The bytes that were signed.
    pub signed: Vec<u8>,
    /// Over them.
    pub signature: Vec<u8>,
    /// Whose it is said to be.
    pub key_id: KeyId,
}

/// Ends everything of a workload or a trust domain.
#[derive(Clone, Debug)]
pub struct RevokeAll {
    /// Whose.
    pub target: RevokeTarget,
    /// New tasks are refused for so long; zero: not at all. At most [`MAX_BLOCK`].
    pub block_for: Duration,
    /// Why, and how long to wait.
    pub wish: EndWish,
}

/// Whose tasks an operator ends.
#[derive(Clone, Debug)]
pub enum RevokeTarget {
    /// One workload's.
    Workload(SpiffeId),
    /// A whole trust domain's.
    TrustDomain(TrustDomain),
}

/// Moves a key.
#[derive(Clone, Debug)]
pub struct MoveKey {
    /// Which, and where to.
    pub wish: KeyWish,
    /// Only say what it would do.
    pub dry_run: bool,
    /// Why.
    pub note: String,
}

/// What an operator wants of a key.
#[derive(Clone, Debug)]
pub enum KeyWish {
    /// The standby signs.
    Rotate {
        /// Of this use,
        key_use: KeyUse,
        /// and trust domain; `None`: the broker's own.
        trust_domain: Option<TrustDomain>,
    },
    /// This standby signs.
    Activate(KeyId),
    /// It is over, or withdrawn.
    Retire(KeyId),
}

/// Gives a key up.
#[derive(Clone, Debug)]
pub struct CompromiseKey {
    /// Which.
    pub kid: KeyId,
    /// Only say what it would do.
    pub dry_run: bool,
    /// Why, and how long to wait.
    pub wish: EndWish,
}

/// Asks for the request that the task CA is signed by from outside.
#[derive(Clone, Debug)]
pub struct RequestTaskCaCertificate {
    /// Why.
    pub note: String,
}

/// Installs what came for such a request.
#[derive(Clone, Debug)]
pub struct InstallTaskCaCertificate {
    /// The certificate, then what is above it; PEM, not judged in any way.
    pub chain_pem: String,
    /// Only say what it would do.
    pub dry_run: bool,
    /// Why.
    pub note: String,
}

/// Asks which tasks hold what a key has signed.
#[derive(Clone, Debug)]
pub struct ListAffectedTasks {
    /// Which key.
    pub kid: KeyId,
    /// From the page before, as it came; empty for the first.
    pub page_token: String,
    /// 1 to 500.
    pub limit: usize,
}

//! What operations answer with, before a face turns it into a message.

use std::sync::Arc;

use taskpass_verifier::claims::Thumbprint;
use taskpass_verifier::keyset::KeyId;
use uuid::Uuid;

pub use crate::cert::Described;
use crate::identity::{SpiffeId, TrustDomain};
use crate::ids::CredentialId;
pub use crate::keys::{KeyState, KeyUse, KeyView, Renewal, Step as KeyStep};
use crate::revoke::history::Durability;
use crate::secret::Secret;
use crate::task::TaskFacts;
use crate::task::state::Status;
use crate::task::store::{CredentialRecord, Position};
use crate::time::Timestamp;

/// A task as it stands.
#[derive(Clone, Debug)]
pub struct Task {
    /// What of it never changes.
    pub facts: Arc<TaskFacts>,
    /// As it is in effect.
    pub status: Status,
    /// When it ends by itself, or would have.
    pub deadline: Timestamp,
    /// How many credentials were issued.
    pub credentials: u32,
    /// Whether a certificate may be among them, or among those that the store has lost.
    pub may_have_certificate: bool,
}

/// The answer to an end.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// When it took effect.
    pub ended_at: Timestamp,
    /// When the last unexpired credential dies by itself.
    pub expires_by: Option<Timestamp>,
    /// How sure the end is.
    pub durability: Durability,
    /// Its place in the partition's history.
    pub position: Position,
    /// The task had ended before, by an entry somewhere before `position`.
    pub again: bool,
}

/// The answer to a bulk end.
#[derive(Clone, Debug)]
pub struct FenceReceipt {
    /// The fence.
    pub id: Uuid,
    /// When it took effect.
    pub ended_at: Timestamp,
    /// New tasks are refused before this.
    pub blocked_until: Option<Timestamp>,
    /// No credential that it ended lives longer.
    pub expires_by: Timestamp,
    /// How sure it is.
    pub durability: Durability,
    /// How many partitions have it: all.
    pub partitions: u8,
    /// Whether workloads of that trust domain may connect. If not, the name may be a slip of the pen.
    pub served: bool,
}

/// Keys as they stand.
#[derive(Clone, Debug)]
pub struct Keys {
    /// By trust domain, use and state, the newest first.
    pub keys: Vec<KeyView>,
    /// Of the keyring.
    pub sequence: u64,
}

/// A move of a key that was made, or would be.
#[derive(Clone, Debug)]
pub struct KeyMove {
    /// Nothing was changed.
    pub dry_run: bool,
    /// What it does; nothing if it had been made before.
    pub steps: Vec<KeyStep>,
    /// The keys of the same use and trust domain: after it, or as they are for a dry run.
    pub after: Keys,
    /// How sure it is.
    pub durability: Durability,
}

/// What the task CA is to be signed by from outside.
#[derive(Clone, Debug)]
pub struct TaskCaRequest {
    /// The key that waits.
    pub kid: KeyId,
    /// PKCS#10.
    pub pem: String,
    /// What was done for it.
    pub moved: KeyMove,
}

/// The task CA as it stands.
#[derive(Clone, Debug)]
pub struct TaskCa {
    /// The broker's own.
    pub trust_domain: TrustDomain,
    /// Signed from outside, as this broker is configured.
    pub upstream: bool,
    /// Each key with its certificate and what is above it; in the order of a key's life.
    pub intermediates: Vec<(KeyView, Vec<Described>)>,
    /// What verifiers trust.
    pub anchors: Vec<Described>,
    /// Whether it has to be signed from outside soon, or should have been.
    pub renewal: Option<Renewal>,
}

/// A task that holds what a key has signed, or may have.
#[derive(Clone, Debug)]
pub struct AffectedTask {
    /// What of it never changes. Id and owner are for everybody who may ask, the rest for those who may list tasks of the owner.
    pub facts: Arc<TaskFacts>,
    /// All of it, for those.
    pub task: Option<Task>,
    /// How many unexpired credentials.
    pub credentials: u32,
    /// When the last of them expires.
    pub expires_by: Timestamp,
}

/// A new token. The one thing that leaves with a secret in it.
#[derive(Clone, Debug)]
pub struct Token {
    /// JWS compact serialisation.
    pub token: Secret<String>,
    /// Its `jti`.
    pub id: CredentialId,
    /// As in the token.
    pub scope: String,
    /// Time to renew it.
    pub renew_after: Timestamp,
    /// Its `exp`.
    pub expires_at: Timestamp,
    /// `Bearer` or `DPoP`.
    pub token_type: &'static str,
}

/// A new certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, then the intermediate.
    pub chain: Vec<Vec<u8>>,
    /// The same in PEM.
    pub chain_pem: String,
    /// Its serial number.
    pub id: CredentialId,
    /// Its one URI name.
    pub spiffe_id: SpiffeId,
    /// SHA-256 of its DER.
    pub thumbprint: Thumbprint,
    /// Time to renew it.
    pub renew_after: Timestamp,
    /// Its `notAfter`.
    pub expires_at: Timestamp,
}

/// A credential as recorded.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The record.
    pub record: CredentialRecord,
    /// Empty for certificates.
    pub audience: String,
    /// As the records have it.
    pub state: CredentialState,
}

/// What the records of a credential and of its task say of it. No verdict: which key signed it, and what it is bound to, is not in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialState {
    /// Nothing in them has ended it.
    Active,
    /// Ended by itself.
    Revoked,
    /// Its task has ended.
    TaskEnded,
    /// Its time is over.
    Expired,
}

impl CredentialState {
    /// Of a record, at `now`, beside its task. What was done to the credential itself comes first.
    pub fn of(record: &CredentialRecord, task: &Status, now: Timestamp) -> Self {
        match task {
            _ if record.revoked => Self::Revoked,
            _ if record.expires_at <= now => Self::Expired,
            Status::Ended(_) => Self::TaskEnded,
            Status::Live => Self::Active,
        }
    }
}

/// A verdict on what a verifier was shown.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// And nothing more.
    Inactive,
    /// Good, now.
    Active(Box<ActiveCredential>),
}

/// What a verifier may know of a good credential.
#[derive(Clone, Debug)]
pub struct ActiveCredential {
    /// The claims as signed; empty for a certificate.
    pub claims_json: String,
    /// `jti` or serial number.
    pub id: CredentialId,
    /// SPIFFE ID of the agent.
    pub client_id: String,
    /// The subject, or the agent.
    pub subject: String,
    /// What it permits at this audience.
    pub tools: Vec<String>,
    /// Limits on the arguments of those tools.
    pub authorization_details_json: String,
    /// When it expires.
    pub expires_at: Timestamp,
}

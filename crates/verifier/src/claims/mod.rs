//! The claims of a token, as the profile has them: the broker writes these types, verifiers read them.
//!
//! Reading is strict: a member that is missing, unknown, repeated or of another JSON type is an error, and so is `null`.
//! Writing gives the members in the order of the fields. The types hold what one claim must be; what the claims must be
//! to each other and to the moment is judged when a token is verified (see [`crate::token`]).

mod confirmation;
mod delegation;
mod details;
pub(crate) mod judge;
mod lineage;
mod scope;

use serde::{Deserialize, Serialize};

pub use self::confirmation::Confirmation;
pub use self::delegation::{Actor, MAX_ACTORS};
pub use self::details::{AuthorizationDetail, AuthorizationDetails, DETAIL_TYPE};
pub use self::lineage::{Lineage, MAX_LINEAGE};
#[cfg(feature = "tower")]
pub(crate) use self::scope::ADMISSION;
pub use self::scope::{InvalidToolName, MAX_SCOPE_ITEMS, MAX_TOOL_NAME_BYTES, Scope, ToolName};
pub use crate::agent::{AgentId, InvalidAgentId, MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES};
pub use crate::digest::{GoalDigest, InvalidDigest, Thumbprint};
use crate::ids::{CredentialId, Generation, TaskId};
use crate::refusal::Refusal;
pub use crate::time::UnixSeconds;
use crate::wire;

/// The longest lifetime of a token: `exp - iat`.
pub const MAX_LIFETIME_SECONDS: u64 = 900;
/// How far `nbf` and `iat` may lie ahead of the verifier's clock. There is no leeway for `exp`.
pub const NOT_BEFORE_LEEWAY_SECONDS: u64 = 5;

/// The payload of a token (RFC 9068, section 2.2, with the claims of this profile).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Claims {
    /// The issuer of the trust domain.
    pub iss: String,
    /// On whose behalf: a person, else the agent itself.
    pub sub: String,
    /// The one audience: its canonical URI.
    pub aud: String,
    /// The agent.
    pub client_id: AgentId,
    /// The credential.
    pub jti: CredentialId,
    /// When it was issued.
    pub iat: UnixSeconds,
    /// When it begins to be valid.
    pub nbf: UnixSeconds,
    /// The first second in which it is no longer valid.
    pub exp: UnixSeconds,
    /// What it admits to.
    pub scope: Scope,
    /// Limits on the arguments of tools that `scope` names. Absent when there are none.
    #[serde(default, skip_serializing_if = "AuthorizationDetails::is_empty")]
    pub authorization_details: AuthorizationDetails,
    /// The key that its bearer must hold.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::present")]
    pub cnf: Option<Confirmation>,
    /// The root of the task's tree.
    pub txn: TaskId,
    /// The actors, the agent first; only when `sub` is somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::present")]
    pub act: Option<Actor>,
    /// The task.
    pub taskpass: TaskClaims,
}

/// The claim `taskpass`: which task a token belongs to, and which history that task belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct TaskClaims {
    /// The task.
    pub task: TaskId,
    /// Its ancestors.
    pub lineage: Lineage,
    /// The digest of its goal text.
    pub goal: GoalDigest,
    /// The generation of its partition in which it began.
    #[serde(rename = "gen")]
    pub generation: Generation,
    /// The sequence of its partition at which its tree began to exist.
    pub seq: u64,
}

wire::object_only!(Claims TaskClaims);

impl Claims {
    /// Reads a decoded payload.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(json).map_err(|error| Refusal::from_claims_error(&error))
    }
}

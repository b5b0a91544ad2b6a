//! What a token is to say, and the claims that say it.

use taskpass_verifier::claims::{
    Actor, AgentId, AuthorizationDetails, Claims, Confirmation, GoalDigest, Lineage, Scope, TaskClaims,
    ToolName, UnixSeconds,
};
use taskpass_verifier::constraint::Constraints;
use taskpass_verifier::{EnforcementProfile, Refusal};

use crate::error::{Error, Result};
use crate::identity::SpiffeId;
use crate::ids::{CredentialId, Generation, TaskId};
use crate::time::Timestamp;

/// All that a token says beside its issuer. Decided before: nothing in it is judged here but whether it makes a well-formed token.
#[derive(Clone, Copy, Debug)]
pub struct TokenGrant<'a> {
    /// The audience's canonical URI: `aud`.
    pub audience: &'a str,
    /// How the audience wants tokens bound. The confirmation has to fit.
    pub profile: EnforcementProfile,
    /// The owner of the task: `client_id`.
    pub agent: &'a SpiffeId,
    /// On whose behalf, if not the agent's own: `sub`, and then `act` names the agent.
    pub subject: Option<&'a str>,
    /// The task.
    pub task: TaskId,
    /// Its ancestors, root first: `txn` is the first.
    pub lineage: &'a [TaskId],
    /// The digest of its goal.
    pub goal: GoalDigest,
    /// Of the partition, as the record step said.
    pub generation: Generation,
    /// The sequence at which the task began, as the record step said.
    pub began_seq: u64,
    /// The recorded credential: `jti`.
    pub credential: CredentialId,
    /// In whole seconds: `iat` and `nbf`.
    pub issued_at: Timestamp,
    /// In whole seconds: `exp`, the least of the lifetimes (G7).
    pub expires_at: Timestamp,
    /// The granted tools with the limits on their arguments (none: not limited), in the order of `scope`.
    pub tools: &'a [(&'a ToolName, &'a Constraints)],
    /// The key that the bearer must hold: `cnf`.
    pub confirmation: Option<Confirmation>,
}

impl TokenGrant<'_> {
    /// The claims, by the profile (RFC 9068; RFC 8693 for `act`; RFC 9396 for `authorization_details`).
    pub(super) fn claims(&self, issuer: &str) -> Result<Claims> {
        let client_id: AgentId =
            self.agent.as_str().parse().map_err(|_| Error::internal("a task owner without a path"))?;
        // A subject that is the agent itself is no delegation.
        let subject = self.subject.filter(|subject| *subject != client_id.as_str());
        let lineage = Lineage::new(self.lineage.to_vec()).map_err(internal)?;
        let limited = self.tools.iter().filter(|(_, limits)| !limits.is_empty());
        let details = limited.map(|(tool, limits)| ((*tool).clone(), (*limits).clone()));
        let iat = UnixSeconds(self.issued_at.as_secs());
        Ok(Claims {
            iss: issuer.to_owned(),
            sub: subject.unwrap_or(client_id.as_str()).to_owned(),
            aud: self.audience.to_owned(),
            jti: self.credential,
            iat,
            nbf: iat,
            exp: UnixSeconds(self.expires_at.as_secs()),
            scope: Scope::new(self.tools.iter().map(|(tool, _)| *tool)).map_err(internal)?,
            authorization_details: AuthorizationDetails::new(details).map_err(internal)?,
            cnf: self.confirmation,
            txn: lineage.root_of(self.task),
            act: subject.map(|_| Actor { sub: client_id.as_str().to_owned(), act: None }),
            client_id,
            taskpass: TaskClaims {
                task: self.task,
                lineage,
                goal: self.goal,
                generation: self.generation,
                seq: self.began_seq,
            },
        })
    }
}

pub(super) fn internal(refusal: Refusal) -> Error {
    Error::internal(format!("our own token would be refused: {}", refusal.as_str()))
}

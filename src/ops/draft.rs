//! What a token of a task will say, judged before anything is recorded of it: what cannot become a token leaves no trace.

use std::sync::Arc;

use taskpass_verifier::EnforcementProfile;
use taskpass_verifier::claims::{Confirmation, Thumbprint, ToolName};
use taskpass_verifier::constraint::Constraints;

use crate::audience::Audience;
use crate::error::{Error, Reason, Result};
use crate::ids::{CredentialId, Generation};
use crate::task::TaskFacts;
use crate::time::Timestamp;
use crate::token::{TokenGrant, TokenIssuer};

use super::Broker;
use super::keyring::Signing;

impl Broker {
    /// What signs the tokens for an audience.
    pub(super) fn token_issuer<'a>(signing: &'a Signing, audience: &Audience) -> Result<&'a TokenIssuer> {
        let trust_domain = audience.trust_domain();
        signing.tokens.get(trust_domain).map(Arc::as_ref).ok_or_else(|| {
            let sentence = "The broker issues no tokens for the audience's trust domain.";
            Error::new(Reason::UnknownAudience, sentence).with_detail(trust_domain)
        })
    }

    /// Each grant as a whole must fit in one token: an agent learns at the begin what it could not mint later.
    pub(super) fn grants_fit(&self, facts: &TaskFacts, now: Timestamp) -> Result<()> {
        let signing = self.signing()?;
        for grant in &facts.grants {
            let audience = self.audience(&grant.audience)?;
            let tools: Vec<_> = grant.tools.iter().collect();
            let token = draft(facts, &audience, &tools, any_key(audience.profile()), now);
            if !Self::token_issuer(&signing, &audience)?.fits(&token)? {
                let sentence = format!(
                    "the tools and limits for {} make a token longer than verifiers take; ask for fewer in one task",
                    grant.audience
                );
                return Err(Error::invalid("grants", sentence));
            }
        }
        Ok(())
    }
}

/// The words of a token, with stand-ins for what only the record step knows: none of them will be longer.
pub(super) fn draft<'a>(
    facts: &'a TaskFacts,
    audience: &'a Audience,
    tools: &'a [(&'a ToolName, &'a Constraints)],
    confirmation: Option<Confirmation>,
    now: Timestamp,
) -> TokenGrant<'a> {
    TokenGrant {
        audience: audience.uri().as_str(),
        profile: audience.profile(),
        agent: &facts.owner,
        subject: facts.subject.as_deref(),
        task: facts.id,
        lineage: &facts.lineage,
        goal: facts.goal_digest(),
        generation: Generation::from_bytes([0; 12]),
        began_seq: u64::MAX,
        credential: CredentialId { task: facts.id, number: u32::MAX },
        issued_at: now.floor_to_second(),
        expires_at: facts.latest_deadline.floor_to_second(),
        tools,
        confirmation,
    }
}

/// A key as tokens of this profile name one; all are of one length.
const fn any_key(profile: EnforcementProfile) -> Option<Confirmation> {
    let key = Thumbprint::from_bytes([0; 32]);
    match profile {
        EnforcementProfile::Bearer => None,
        EnforcementProfile::X5tS256 => Some(Confirmation::X5tS256(key)),
        EnforcementProfile::Jkt => Some(Confirmation::Jkt(key)),
    }
}

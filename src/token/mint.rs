//! Signing claims, and judging what comes out.

use std::fmt;
use std::sync::Arc;

use taskpass_verifier::claims::{Claims, Confirmation, MAX_LINEAGE, Scope, UnixSeconds};
use taskpass_verifier::header::Header;
use taskpass_verifier::token::{
    MAX_TOKEN_BYTES, assemble, judge_own_output_without_signature, signing_input,
};
use taskpass_verifier::{Expectations, KeySet, Presented, Refusal, UnverifiedToken};

use super::grant::{TokenGrant, internal};
use crate::error::{Error, Result};
use crate::ids::CredentialId;
use crate::keys::{Signer, SpotCheck};
use crate::secret::Secret;
use crate::time::Timestamp;

/// What a token holds beside the texts of [`TokenIssuer::surely_fits`], in bytes before base64 and with room to spare: header, signature, names of claims,
/// ids, digests, times.
const FRAME: usize = 2 * 1024;
/// `mcp:tool:` and a space; a task id and its quotes.
const SCOPE_ITEM: usize = 10;
const LINEAGE_ITEM: usize = 48;
/// Tools of a scope, of which it holds more.
const FEW: usize = 16;

/// Mints the tokens of one issuer with its active key. Made anew when another key becomes active.
pub struct TokenIssuer {
    issuer: String,
    signer: Arc<dyn Signer>,
    keys: KeySet,
    spot_check: SpotCheck,
}

/// A token that was judged and may leave.
#[derive(Debug)]
pub struct MintedToken {
    /// JWS compact serialisation.
    pub token: Secret<String>,
    /// Its `jti`.
    pub id: CredentialId,
    /// Its `scope`.
    pub scope: Scope,
    /// How it is presented.
    pub token_type: TokenType,
    /// Its `exp`.
    pub expires_at: Timestamp,
}

/// How a token is presented: the `token_type` of RFC 6749, section 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// RFC 6750; also where the token is bound to a certificate (RFC 8705, section 3).
    Bearer,
    /// With a proof for each request (RFC 9449, section 5).
    Dpop,
}

impl TokenType {
    /// As in token responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::Dpop => "DPoP",
        }
    }
}

impl TokenIssuer {
    /// Mints with `signer` as `issuer`: the `iss` of the trust domain that the key belongs to.
    pub fn new(issuer: String, signer: Arc<dyn Signer>) -> Result<Self> {
        let keys = KeySet::new([signer.public().clone()]).map_err(Error::internal)?;
        Ok(Self { issuer, signer, keys, spot_check: SpotCheck::new() })
    }

    /// `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The signing key: its [`Signer::not_after`] is one of the lifetimes whose least a token gets.
    pub fn signer(&self) -> &dyn Signer {
        self.signer.as_ref()
    }

    /// Whether the token would be short enough for verifiers to take. Nothing else is judged, and nothing is signed: to be asked before a credential is
    /// recorded, with stand-ins for what is not known yet.
    pub fn fits(&self, grant: &TokenGrant<'_>) -> Result<bool> {
        if self.surely_fits(grant) {
            return Ok(true);
        }
        match signing_input(&self.header(), &grant.claims(&self.issuer)?) {
            Ok(_) => Ok(true),
            Err(Refusal::TooLong) => Ok(false),
            Err(refusal) => Err(internal(refusal)),
        }
    }

    /// Whether the texts of a token without limits on arguments are so few and short that nothing need be written down to see that it fits. None of them
    /// holds a character that JSON escapes, but for the subject, where each may become six.
    pub(super) fn surely_fits(&self, grant: &TokenGrant<'_>) -> bool {
        let (agent, subject) = (grant.agent.as_str().len(), grant.subject.map_or(0, str::len));
        let scope: usize = grant.tools.iter().map(|(tool, _)| tool.as_str().len() + SCOPE_ITEM).sum();
        let texts = self.issuer.len() + grant.audience.len() + 3 * agent + 6 * subject;
        let bytes = FRAME + texts + scope + grant.lineage.len() * LINEAGE_ITEM;
        grant.tools.len() <= FEW
            && grant.lineage.len() <= MAX_LINEAGE
            && grant.tools.iter().all(|(_, limits)| limits.is_empty())
            && bytes.saturating_mul(4) < MAX_TOKEN_BYTES * 3
    }

    /// Makes one token. Every error is ours, and then nothing leaves: the grant does not fit in a token ([`Self::fits`]), breaks the profile (lifetime,
    /// lineage, binding), would outlive its key, its key does not answer, or what came out is not what was to be signed.
    pub async fn mint(&self, grant: &TokenGrant<'_>) -> Result<MintedToken> {
        if self.signer.not_after().is_some_and(|end| grant.expires_at > end) {
            return Err(Error::internal(format!("token {} would outlive its key", grant.credential)));
        }
        let claims = grant.claims(&self.issuer)?;
        let text = signing_input(&self.header(), &claims).map_err(internal)?;
        let signature = self.signer.sign(text.as_bytes()).get().await?;
        let token = Secret::new(assemble(text, &signature));
        self.judge(token.expose(), grant, &claims)?;
        let token_type = match grant.confirmation {
            Some(Confirmation::Jkt(_)) => TokenType::Dpop,
            Some(Confirmation::X5tS256(_)) | None => TokenType::Bearer,
        };
        let Claims { jti, scope, .. } = claims;
        Ok(MintedToken { token, id: jti, scope, token_type, expires_at: grant.expires_at })
    }

    fn header(&self) -> Header {
        Header { algorithm: self.signer.algorithm(), key_id: self.signer.kid() }
    }

    /// As a verifier of the audience would, at the moment of issue, shown the key that the grant names.
    fn judge(&self, token: &str, grant: &TokenGrant<'_>, claims: &Claims) -> Result<()> {
        let presented = match grant.confirmation {
            None => Presented::NOTHING,
            Some(Confirmation::X5tS256(thumbprint)) => Presented::certificate(thumbprint),
            Some(Confirmation::Jkt(thumbprint)) => Presented::jkt(thumbprint),
        };
        let (audience, profile) = (grant.audience, grant.profile);
        let expectations = Expectations { issuer: &self.issuer, audience, profile, presented };
        let now = UnixSeconds(grant.issued_at.as_secs());
        if !self.spot_check.is_due() {
            return judge_own_output_without_signature(token, &self.keys, &expectations, now)
                .map_err(internal);
        }
        let finding = UnverifiedToken::parse(token)
            .and_then(|token| token.verify(&self.keys, &expectations, now))
            .map_err(internal)
            .and_then(|verified| match verified.claims() == claims {
                true => Ok(()),
                false => Err(Error::internal(format!("token {} does not say what was signed", claims.jti))),
            });
        self.spot_check.found(finding)
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenIssuer({} with {} {})", self.issuer, self.signer.algorithm(), self.signer.kid())
    }
}

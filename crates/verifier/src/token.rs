//! Tokens: JWS in compact form (RFC 7515, section 7.1) in the JWT access token profile (RFC 9068).
//!
//! [`UnverifiedToken`] and [`VerifiedToken`] are different types, and only the second has claims. What verification does not
//! say: whether the task has ended, and whether the generation still stands. A view of ends and generations is a further argument
//! of the verdict; without one, ask the broker.
//!
//! ECDSA signatures come in pairs (`s` and the group order less `s`), and both are valid: an ES256 token has a twin with another text and the
//! same claims. So a credential is known by its `jti`, never by its text.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::claims::{Claims, judge};
use crate::expectations::Expectations;
use crate::header::{Header, MAX_HEADER_BYTES};
use crate::keyset::{KeyId, KeySet, VerificationKey};
use crate::refusal::Refusal;
use crate::time::Between;
use crate::wire;

/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// ES256 and EdDSA signatures have the same length.
const SIGNATURE_BYTES: usize = 64;
/// The base64url text of the longest header.
const MAX_HEADER_TEXT: usize = (MAX_HEADER_BYTES * 4).div_ceil(3);

/// A token whose parts have the right form, of which nothing is believed. It borrows the text and holds its header.
pub struct UnverifiedToken<'a> {
    header: Header,
    /// Header and payload with the dot between: what is signed.
    signing_input: &'a str,
    payload: &'a str,
    signature: [u8; SIGNATURE_BYTES],
}

impl<'a> UnverifiedToken<'a> {
    /// Takes a token apart and reads its header. The payload is not decoded before the signature is verified. Lengths are
    /// checked first: no more than [`MAX_TOKEN_BYTES`] is looked at.
    pub fn parse(token: &'a str) -> Result<Self, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::TooLong);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(Refusal::NotCompact)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Refusal::NotCompact)?;
        if payload.contains('.') {
            return Err(Refusal::NotCompact);
        }
        Ok(Self {
            header: read_header(header)?,
            signing_input,
            payload,
            signature: read_signature(signature)?,
        })
    }

    /// The key that the token *says* it is signed with. Good for picking or fetching a key, for nothing else.
    pub const fn unverified_key_id(&self) -> KeyId {
        self.header.key_id
    }

    /// Verifies the signature with the key that `kid` names, then judges the claims: the form of each, what they must be to each
    /// other, issuer, audience, times and binding. `keys` must be the key set of `expectations.issuer`; `now` may be a second or what
    /// is known of it ([`Between`]).
    pub fn verify(
        self,
        keys: &KeySet,
        expectations: &Expectations<'_>,
        now: impl Into<Between>,
    ) -> Result<VerifiedToken, Refusal> {
        let key = self.key(keys)?;
        if !key.has_signed(self.signing_input.as_bytes(), &self.signature) {
            return Err(Refusal::BadSignature);
        }
        let claims = self.judged_claims(expectations, now.into())?;
        Ok(VerifiedToken { claims, key_id: self.header.key_id })
    }

    /// The key that `kid` names, if it is for `alg`.
    fn key<'k>(&self, keys: &'k KeySet) -> Result<&'k VerificationKey, Refusal> {
        let key = keys.get(&self.header.key_id).ok_or(Refusal::UnknownKey)?;
        if key.algorithm() == self.header.algorithm { Ok(key) } else { Err(Refusal::AlgorithmMismatch) }
    }

    fn judged_claims(&self, expectations: &Expectations<'_>, now: Between) -> Result<Claims, Refusal> {
        let json = URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| Refusal::NotBase64Url)?;
        let claims = Claims::parse(&json)?;
        judge::form(&claims)?;
        judge::at(&claims, expectations, now)?;
        Ok(claims)
    }
}

fn read_header(text: &str) -> Result<Header, Refusal> {
    // Room for whole groups of three, as the decoder wants it.
    let mut json = [0; MAX_HEADER_BYTES + 4];
    if text.len() > MAX_HEADER_TEXT {
        return Err(Refusal::HeaderTooLong);
    }
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut json).map_err(|_| Refusal::NotBase64Url)?;
    Header::parse(json.get(..length).unwrap_or_default())
}

fn read_signature(text: &str) -> Result<[u8; SIGNATURE_BYTES], Refusal> {
    // 64 bytes are 86 characters.
    if text.len() != (SIGNATURE_BYTES * 4).div_ceil(3) {
        return Err(Refusal::MalformedSignature);
    }
    wire::decode_exact(text).ok_or(Refusal::NotBase64Url)
}

impl fmt::Debug for UnverifiedToken<'_> {
    /// Shows neither claims nor signature.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnverifiedToken(kid {})", self.header.key_id)
    }
}

/// The claims of a token whose signature was verified and whose claims were judged, at one moment, for one audience. Made by
/// [`UnverifiedToken::verify`] alone. It holds neither the token nor its signature; one that is kept must pass
/// [`VerifiedToken::recheck`] at each further sight of the same token.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    claims: Claims,
    key_id: KeyId,
}

impl VerifiedToken {
    /// The claims.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The key that signed it.
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Judges a kept token again: whether its key is still in the key set, issuer, audience, times and binding. Spares the
    /// signature, which cannot change. The caller must have kept it under the whole token's text or digest, since a second token
    /// may have the same claims and a wrong signature.
    pub fn recheck(
        &self,
        keys: &KeySet,
        expectations: &Expectations<'_>,
        now: impl Into<Between>,
    ) -> Result<(), Refusal> {
        keys.get(&self.key_id).ok_or(Refusal::UnknownKey)?;
        judge::at(&self.claims, expectations, now.into())
    }

    /// Whether `scope` names the tool and the arguments of the call satisfy `authorization_details`: each constrained argument must
    /// be there. `None` stands for a call without arguments.
    pub fn permits_tool(&self, tool: &str, arguments: Option<&Map<String, Value>>) -> Result<(), Refusal> {
        if !self.claims.scope.has_tool(tool) {
            return Err(Refusal::ToolNotGranted);
        }
        let Some(constraints) = self.claims.authorization_details.get(tool) else { return Ok(()) };
        if arguments.is_some_and(|arguments| constraints.permits_call(arguments)) {
            Ok(())
        } else {
            Err(Refusal::ArgumentNotPermitted)
        }
    }
}

impl fmt::Debug for VerifiedToken {
    /// Names the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedToken(jti {})", self.claims.jti)
    }
}

/// For issuers: what is to be signed, header and claims in base64url with a dot between (RFC 7515, section 5.1). An error if the
/// token would be longer than any verifier takes. The claims are not judged here.
pub fn signing_input(header: &Header, claims: &Claims) -> Result<String, Refusal> {
    let header = serde_json::to_vec(header).map_err(|_| Refusal::MalformedHeader)?;
    let claims = serde_json::to_vec(claims).map_err(|_| Refusal::MalformedClaim)?;
    let length = [header.len(), claims.len(), SIGNATURE_BYTES].map(|n| n.saturating_mul(4).div_ceil(3));
    let length = length.iter().sum::<usize>() + 2;
    if length > MAX_TOKEN_BYTES {
        return Err(Refusal::TooLong);
    }
    let mut text = String::with_capacity(length);
    URL_SAFE_NO_PAD.encode_string(header, &mut text);
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut text);
    Ok(text)
}

/// For issuers: the token, from what was signed and its signature (`r || s` for ES256).
pub fn assemble(mut signing_input: String, signature: &[u8]) -> String {
    signing_input.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut signing_input);
    signing_input
}

/// For issuers: judges a token that they have just made by every rule but the signature, so as not to pay for that. **Not a
/// verification**: a forged token passes. It gives no claims back, so nothing can be done with the answer but to withhold the
/// token.
pub fn judge_own_output_without_signature(
    token: &str,
    keys: &KeySet,
    expectations: &Expectations<'_>,
    now: impl Into<Between>,
) -> Result<(), Refusal> {
    let token = UnverifiedToken::parse(token)?;
    token.key(keys)?;
    token.judged_claims(expectations, now.into()).map(drop)
}

//! Why a token is refused.

use std::fmt;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $sentence:literal;)*) => {
        /// The cause of a refusal, one variant for each. It carries nothing of the token, so it may be logged and counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The `snake_case` name; stable across versions.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

refusals! {
    /// Longer than [`crate::token::MAX_TOKEN_BYTES`].
    TooLong = "too_long", "The token is longer than 8192 bytes.";
    /// Not three parts with two dots (RFC 7515, section 7.1).
    NotCompact = "not_compact", "The token is not a JWS in compact form.";
    /// A part is not canonical base64url without padding (RFC 7515, section 2).
    NotBase64Url = "not_base64url", "A part of the token is not canonical base64url without padding.";
    /// The header is longer than [`crate::header::MAX_HEADER_BYTES`].
    HeaderTooLong = "header_too_long", "The token's header is longer than 512 bytes.";
    /// The header is not a JSON object, or lacks `alg` or `kid`.
    MalformedHeader = "malformed_header", "The token's header is not what the profile asks for.";
    /// The header has a member beyond `alg`, `kid` and `typ`, such as `crit`, `jku`, `jwk` or `x5u`.
    HeaderMemberNotAllowed = "header_member_not_allowed",
        "The token's header has a member other than alg, kid and typ.";
    /// `typ` is not `at+jwt` (RFC 9068, section 2.1).
    WrongType = "wrong_type", "The token's typ is not at+jwt.";
    /// `alg` is neither ES256 nor EdDSA.
    AlgorithmNotAllowed = "algorithm_not_allowed", "The token's alg is neither ES256 nor EdDSA.";
    /// `kid` names no key of the key set.
    UnknownKey = "unknown_key", "The token's kid names no key of the issuer.";
    /// `alg` is not the algorithm of the key that `kid` names.
    AlgorithmMismatch = "algorithm_mismatch", "The token's alg is not the algorithm of its key.";
    /// The signature is not 64 bytes long.
    MalformedSignature = "malformed_signature", "The token's signature does not have 64 bytes.";
    /// The signature does not fit the token and the key.
    BadSignature = "bad_signature", "The token's signature is wrong.";

    /// The payload is not JSON.
    ClaimsNotJson = "claims_not_json", "The token's payload is not JSON.";
    /// A claim that the profile demands is missing.
    ClaimMissing = "claim_missing", "The token lacks a claim that the profile demands.";
    /// A claim that the profile does not know; it could be a restriction.
    ClaimNotAllowed = "claim_not_allowed", "The token has a claim that the profile does not know.";
    /// An object has two members of one name.
    DuplicateMember = "duplicate_member", "The token has two members of the same name in one object.";
    /// A claim has another JSON type or another form than the profile says.
    MalformedClaim = "malformed_claim", "A claim of the token does not have the form that the profile says.";
    /// `client_id` is not a SPIFFE ID with a path.
    MalformedClientId = "malformed_client_id", "The token's client_id is not a SPIFFE ID of a workload.";
    /// `scope` is not `mcp` followed by `mcp:tool:<name>` items.
    MalformedScope = "malformed_scope", "The token's scope is not mcp followed by mcp:tool:<name> items.";
    /// `scope` has more than [`crate::claims::MAX_SCOPE_ITEMS`] items.
    TooManyScopeItems = "too_many_scope_items", "The token's scope has more than 256 items.";
    /// `authorization_details` is empty, too long, of another type, names a tool twice or one that `scope` lacks.
    MalformedDetails = "malformed_details", "The token's authorization_details are not what the profile asks for.";
    /// `cnf` has more than one member.
    SeveralConfirmations = "several_confirmations", "The token's cnf names more than one key.";
    /// `act` is nested too deep, is there though `sub` is the agent itself, or does not name the agent first.
    MalformedActor = "malformed_actor", "The token's act does not fit its sub and client_id.";

    /// `jti` names another task than the claim `taskpass` does.
    JtiOfAnotherTask = "jti_of_another_task", "The token's jti does not belong to its task.";
    /// The lineage is too long, crosses partitions, repeats a task, or `txn` is not its root.
    BrokenLineage = "broken_lineage", "The token's lineage does not fit its task and txn.";
    /// `exp` is not after `iat` and `nbf`.
    EmptyLifetime = "empty_lifetime", "The token's exp is not after its iat and nbf.";
    /// `exp` is more than [`crate::claims::MAX_LIFETIME_SECONDS`] after `iat`.
    LifetimeTooLong = "lifetime_too_long", "The token was issued for longer than 900 seconds.";
    /// `iat` lies in the future.
    IssuedInFuture = "issued_in_future", "The token's iat lies in the future.";
    /// `nbf` lies in the future.
    NotYetValid = "not_yet_valid", "The credential is not valid yet.";
    /// `exp` has come.
    Expired = "expired", "The credential has expired.";

    /// `iss` is not the expected issuer.
    WrongIssuer = "wrong_issuer", "The token was issued by another issuer.";
    /// `aud` is not this audience.
    WrongAudience = "wrong_audience", "The token is for another audience.";
    /// The audience demands a confirmation and the token has none.
    ConfirmationMissing = "confirmation_missing", "The audience demands a bound token and this one is not.";
    /// The token came by the authentication scheme `DPoP` and is not bound to a DPoP key (RFC 9449, section 7.1).
    SchemeNeedsBinding = "scheme_needs_binding",
        "By the scheme DPoP comes a token that is bound to a DPoP key, and this one is not.";
    /// The token is bound in another way than the audience demands.
    ConfirmationKind = "confirmation_kind", "The token is bound to another kind of key than the audience demands.";
    /// The token is bound, and nothing was presented that could be compared.
    ConfirmationNotPresented = "confirmation_not_presented",
        "The token is bound to a key, and no such key was presented with it.";
    /// The token is bound to another key than the one presented.
    ConfirmationMismatch = "confirmation_mismatch", "The token is bound to another key than the one presented.";

    /// No snapshot, no heartbeat or no bound has come yet for the task's partition, or no time (G5).
    NeverSynchronised = "never_synchronised", "This verifier has not heard of ends yet.";
    /// The task's partition was last heard of longer ago than the bound (G5).
    Stale = "stale", "This verifier has not heard of ends for longer than its bound.";
    /// Something is missing in what was heard of the task's partition (G5).
    FeedGap = "feed_gap", "This verifier missed a part of the feed.";
    /// What was heard last lies before what was known, or tells another history (G5).
    FeedRolledBack = "feed_rolled_back", "The feed ran back, or told another history.";
    /// The feed was not signed as it must be (G5).
    FeedBadSignature = "feed_bad_signature", "A message of the feed was not signed by the broker.";
    /// More ends than the view has room for.
    FeedOverflow = "feed_overflow", "This verifier has no room to remember all ends.";
    /// The key set at hand is older than the one that the feed names.
    KeysBehind = "keys_behind", "This verifier's key set is older than the issuer's.";
    /// The verdict was asked for without the time of the clock that this verifier judges by.
    NoClock = "no_clock", "The verdict was asked for without a time to judge by.";
    /// The history of the task's partition began anew after the task.
    GenerationSuperseded = "generation_superseded",
        "The task belongs to a history of the broker that is no longer trusted.";
    /// The task's generation is newer than the one that was heard of.
    GenerationUnknown = "generation_unknown", "The task belongs to a history that this verifier has not heard of.";
    /// The task or one of its ancestors has ended.
    TaskEnded = "task_ended", "The task has ended.";
    /// The credential was revoked, its task not.
    CredentialRevoked = "credential_revoked", "The credential was revoked.";
    /// All tasks of the agent or of its trust domain that began before a moment have ended.
    Fenced = "fenced", "All tasks of the agent, or of its trust domain, were ended.";
    /// The key under which the credential is signed was withdrawn; its task goes on.
    KeyFenced = "key_fenced", "The key under which the credential is signed was withdrawn.";

    /// The serial number or the name is not that of a task certificate, or they name different tasks.
    NotATaskCertificate = "not_a_task_certificate", "The certificate is not a task certificate.";
    /// The certificate's agent is of a trust domain whose agents this verifier does not take.
    AgentNotTaken = "agent_not_taken", "The certificate is of an agent of another trust domain than this verifier takes.";

    /// `scope` does not name the tool.
    ToolNotGranted = "tool_not_granted", "The token does not grant this tool.";
    /// An argument of the call is missing or beyond its constraint.
    ArgumentNotPermitted = "argument_not_permitted",
        "An argument of the call is missing or beyond what the token permits.";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Whether the cause lies with the verifier and not with the credential: the same credential may be good in a moment, or elsewhere. To be answered
    /// with "try again" rather than with "get another".
    pub const fn is_of_the_verifier(self) -> bool {
        matches!(
            self,
            Self::NeverSynchronised
                | Self::Stale
                | Self::FeedGap
                | Self::FeedRolledBack
                | Self::FeedBadSignature
                | Self::FeedOverflow
                | Self::KeysBehind
                | Self::NoClock
                | Self::GenerationUnknown
        )
    }

    /// Names the cause of a failed reading of claims. Deserialisers of this crate put their cause's name in front of the
    /// message, serde names the rest; a message that this does not know is [`Refusal::MalformedClaim`], so that acceptance
    /// never rests on a text.
    pub(crate) fn from_claims_error(error: &serde_json::Error) -> Self {
        if !error.is_data() {
            return Self::ClaimsNotJson;
        }
        let message = error.to_string();
        let starts = |prefix: &str| message.starts_with(prefix);
        if starts("missing field") {
            Self::ClaimMissing
        } else if starts("duplicate field") {
            Self::DuplicateMember
        } else if starts("unknown field") {
            Self::ClaimNotAllowed
        } else {
            Self::named_in(&message).unwrap_or(Self::MalformedClaim)
        }
    }

    /// The cause whose name is the first word of `message`.
    pub(crate) fn named_in(message: &str) -> Option<Self> {
        let name = message.split(' ').next()?;
        Self::ALL.iter().copied().find(|refusal| refusal.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_snake_case_name_and_a_sentence() {
        for (i, one) in Refusal::ALL.iter().enumerate() {
            assert!(one.as_str().bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_'));
            assert!(one.sentence().ends_with('.'));
            assert!(Refusal::ALL.iter().skip(i + 1).all(|other| other.as_str() != one.as_str()));
        }
    }
}

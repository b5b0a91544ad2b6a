//! Validate: is what a verifier was shown good, now? Every answer rests on a read of the store; inactive says nothing more.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use taskpass_verifier::claims::{AuthorizationDetails, UnixSeconds};
use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::token::{UnverifiedToken, VerifiedToken};
use taskpass_verifier::{Expectations, Presented, Refusal};

use crate::audience::Audience;
use crate::error::{Error, Result};
use crate::identity::TrustDomain;
use crate::ids::CredentialId;
use crate::keys::{KeyState, KeyUse, KeyView};
use crate::policy::action::{self, Judged};
use crate::task::Grant;
use crate::task::store::{CheckOutcome, CredentialKind};
use crate::time::Timestamp;

use super::command::{Shown, Validate};
use super::tasks::store_error;
use super::trail::Trail;
use super::{Broker, Caller, answer};

/// A token whose signature was verified, with its claims as they were signed.
#[derive(Debug)]
pub(super) struct Seen {
    token: VerifiedToken,
    pub(super) claims_json: String,
}

/// Why a credential is inactive; for the audit line alone.
struct Inactive(String);

impl Broker {
    /// A verdict for an enrolled verifier of the audience.
    pub async fn validate(
        &self,
        caller: &Caller,
        command: Validate,
        now: Timestamp,
    ) -> Result<answer::Verdict> {
        let mut trail = Trail::new("Validate", &command.audience);
        let result = self.judge_shown(caller, command, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn judge_shown(
        &self,
        caller: &Caller,
        command: Validate,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<answer::Verdict> {
        let audience = self.audience(&command.audience)?;
        let judged =
            if matches!(command.shown, Shown::Token(_)) { Judged::Token } else { Judged::Certificate };
        self.permit::<action::Validate>(caller, &audience, judged, trail)
            .and_then(|_permit| Self::enrolled(caller, &audience))
            .map_err(|error| self.unless_hidden(caller, &audience, error))?;
        let presented = Presented { certificate: command.certificate, jkt: command.jkt };
        let verdict = match &command.shown {
            // A trust domain that was taken out of the configuration has no live authority.
            _ if self.issuer(&audience).is_err() => Err(unserved(audience.trust_domain())),
            Shown::Token(token) => self.judge_token(token.expose(), &audience, presented, now, trail).await?,
            Shown::Serial { id, authority } => {
                self.judge_certificate(*id, *authority, &audience, now, trail).await?
            }
            Shown::Nothing => Err(Inactive("not a serial number of ours".to_owned())),
        };
        match verdict {
            Ok(active) => {
                trail.fact("verdict", "active");
                Ok(answer::Verdict::Active(Box::new(active)))
            }
            Err(Inactive(why)) => {
                metrics::counter!("taskpass_inactive_total").increment(1);
                trail.fact("verdict", "inactive");
                trail.fact("because", why);
                Ok(answer::Verdict::Inactive)
            }
        }
    }

    async fn judge_token(
        &self,
        token: &str,
        audience: &Audience,
        presented: Presented,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<std::result::Result<answer::ActiveCredential, Inactive>> {
        let expectations = Expectations {
            issuer: self.issuer(audience)?,
            audience: audience.uri().as_str(),
            profile: audience.profile(),
            presented,
        };
        let seen = match self.verified(token, audience, &expectations, now)? {
            Ok(seen) => seen,
            Err(refusal) => return Ok(Err(Inactive(refusal.as_str().to_owned()))),
        };
        let claims = seen.token.claims();
        trail.fact("jti", claims.jti);
        let key = seen.token.key_id();
        if !self.signed_in_its_time(key, Timestamp::from_secs(claims.iat.0), now).await? {
            return Ok(Err(Inactive("its key did not sign when it was issued".to_owned())));
        }
        let record = match self.store.check(claims.jti, key, now).await.map_err(store_error)? {
            CheckOutcome::Active { record, generation, began_seq }
                if record.kind == CredentialKind::Token
                    && record.expires_at == Timestamp::from_secs(claims.exp.0)
                    && record.issued_at == Timestamp::from_secs(claims.iat.0)
                    && generation == claims.taskpass.generation
                    && began_seq == claims.taskpass.seq =>
            {
                record
            }
            other => return Ok(Err(Inactive(describe(&other)))),
        };
        if self.is_contradicted(claims.jti, claims.taskpass.lineage.ancestors(), key, now).await {
            return Ok(Err(Inactive("the feed has told of its end".to_owned())));
        }
        let Some(known) = self.known_task(claims.jti.task, now).await? else {
            return Ok(Err(Inactive("unknown task".to_owned())));
        };
        if !self.serves(known.facts.owner.trust_domain()) {
            return Ok(Err(unserved(known.facts.owner.trust_domain())));
        }
        let granted = known.facts.grants.get(usize::from(record.grant));
        if granted.is_none_or(|grant| grant.audience != audience.uri().as_str()) {
            return Ok(Err(Inactive("recorded for another audience".to_owned())));
        }
        Ok(Ok(answer::ActiveCredential {
            claims_json: seen.claims_json.clone(),
            id: claims.jti,
            client_id: claims.client_id.to_string(),
            subject: claims.sub.clone(),
            tools: claims.scope.tools().map(ToString::to_string).collect(),
            authorization_details_json: serde_json::to_string(&claims.authorization_details)
                .map_err(Error::internal)?,
            expires_at: Timestamp::from_secs(claims.exp.0),
        }))
    }

    /// Whether the key could sign when the token says that it was issued: a standby that was stolen signs before its time, one that has stopped after it (A36). Another broker may have moved it
    /// a moment ago, so that a no is given only by the stored keyring.
    async fn signed_in_its_time(&self, key: KeyId, issued_at: Timestamp, now: Timestamp) -> Result<bool> {
        let agreement = self.keys.plan().times.agreement;
        Ok(self.keyring().may_have_signed(&key, issued_at, agreement)
            || self.newest_keyring(now).await?.may_have_signed(&key, issued_at, agreement))
    }

    /// The signature is verified at first sight; issuer, audience, times and binding each time.
    fn verified(
        &self,
        token: &str,
        audience: &Audience,
        expectations: &Expectations<'_>,
        now: Timestamp,
    ) -> Result<std::result::Result<Arc<Seen>, Refusal>> {
        let keyring = self.keyring();
        let keys = keyring.key_set(audience.trust_domain());
        let keys = keys.ok_or_else(|| Error::internal("an audience of a trust domain without a key set"))?;
        let now = UnixSeconds(now.as_secs());
        let digest = sha256(token.as_bytes());
        if let Some(seen) = self.seen.get(&digest) {
            return Ok(seen.token.recheck(keys, expectations, now).map(|()| seen));
        }
        let first_sight = || {
            let token_verified = UnverifiedToken::parse(token)?.verify(keys, expectations, now)?;
            let payload = token.split('.').nth(1).unwrap_or_default();
            let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Refusal::NotBase64Url)?;
            let claims_json = String::from_utf8(json).map_err(|_| Refusal::MalformedClaim)?;
            Ok(Arc::new(Seen { token: token_verified, claims_json }))
        };
        let seen = first_sight();
        if let Ok(seen) = &seen {
            self.seen.insert(digest, Arc::clone(seen));
        }
        Ok(seen)
    }

    /// Under whose keys a certificate may be signed that has not expired yet, with where each stands: a standby among them, which another broker may have begun to
    /// sign with, and those that were given up. One that has no certificate yet has signed nothing.
    fn intermediates(&self, now: Timestamp) -> BTreeMap<KeyId, KeyState> {
        let signed = |key: &KeyView| {
            key.key_use == KeyUse::TaskCaIntermediate
                && key.state != KeyState::Retired
                && key.not_after.is_some_and(|end| end > now)
        };
        self.keyring().keys().filter(signed).map(|key| (key.kid, key.state)).collect()
    }

    async fn judge_certificate(
        &self,
        id: CredentialId,
        authority: Option<KeyId>,
        audience: &Audience,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<std::result::Result<answer::ActiveCredential, Inactive>> {
        trail.fact("serial", id);
        let intermediates = self.intermediates(now);
        let asked = match authority {
            Some(named) => match intermediates.get(&named) {
                Some(state) => BTreeMap::from([(named, *state)]),
                None => return Ok(Err(Inactive("no intermediate of ours".to_owned()))),
            },
            // A serial number alone does not say which has signed it: then none of them may be given up.
            None => intermediates,
        };
        if asked.values().any(|state| *state == KeyState::Compromised) {
            return Ok(Err(Inactive("under an intermediate that was given up".to_owned())));
        }
        let keys: Vec<_> = asked.into_keys().collect();
        let mut expires_at = None;
        for key in &keys {
            match self.store.check(id, *key, now).await.map_err(store_error)? {
                CheckOutcome::Active { record, .. } if record.kind == CredentialKind::Certificate => {
                    expires_at = Some(record.expires_at);
                }
                other => return Ok(Err(Inactive(describe(&other)))),
            }
        }
        let expires_at = expires_at.ok_or_else(|| Error::internal("a task CA without an intermediate"))?;
        let Some(known) = self.known_task(id.task, now).await? else {
            return Ok(Err(Inactive("unknown task".to_owned())));
        };
        for key in keys {
            if self.is_contradicted(id, &known.facts.lineage, key, now).await {
                return Ok(Err(Inactive("the feed has told of its end".to_owned())));
            }
        }
        if !self.serves(known.facts.owner.trust_domain()) {
            return Ok(Err(unserved(known.facts.owner.trust_domain())));
        }
        let Some((_, grant)) = known.facts.grant(audience.uri().as_str()) else {
            return Ok(Err(Inactive("no grant for this audience".to_owned())));
        };
        let owner = known.facts.owner.to_string();
        Ok(Ok(answer::ActiveCredential {
            claims_json: String::new(),
            id,
            subject: known.facts.subject.clone().unwrap_or_else(|| owner.clone()),
            client_id: owner,
            tools: grant.tools.keys().map(ToString::to_string).collect(),
            authorization_details_json: serde_json::to_string(&details(grant)?).map_err(Error::internal)?,
            expires_at,
        }))
    }
}

/// Limits on arguments as a token would carry them.
fn details(grant: &Grant) -> Result<AuthorizationDetails> {
    let limited = grant.tools.iter().filter(|(_, limits)| !limits.is_empty());
    AuthorizationDetails::new(limited.map(|(name, limits)| (name.clone(), limits.clone())))
        .map_err(|refusal| Error::internal(refusal.as_str()))
}

fn unserved(trust_domain: &TrustDomain) -> Inactive {
    Inactive(format!("trust domain {trust_domain} is not served"))
}

fn describe(outcome: &CheckOutcome) -> String {
    match outcome {
        CheckOutcome::Active { .. } => "recorded otherwise".to_owned(),
        CheckOutcome::TaskEnded(end) => format!("task ended: {}", end.reason.as_str()),
        CheckOutcome::Revoked => "revoked".to_owned(),
        CheckOutcome::KeyFenced => "its key is fenced".to_owned(),
        CheckOutcome::Unknown => "not recorded".to_owned(),
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

//! Mint: a token for one audience of a live task. Recorded before it is signed, judged before it leaves.

use std::sync::Arc;
use std::time::Duration;

use taskpass_verifier::EnforcementProfile;
use taskpass_verifier::claims::{Confirmation, Thumbprint, ToolName};

use crate::audience::Audience;
use crate::cert;
use crate::error::{Error, Reason, Result};
use crate::failpoint::{Place, reach};
use crate::policy::action;
use crate::task::lifetime::{self, Bounds};
use crate::task::store::{CredentialKind, RecordCredential};
use crate::time::Timestamp;
use crate::token::TokenGrant;

use super::command::MintToken;
use super::decide::for_policy;
use super::draft::draft;
use super::keyring::Signing;
use super::recording::{Recorded, expiry, wanted};
use super::tasks::{Known, not_found};
use super::trail::Trail;
use super::{Broker, Caller, answer};

/// What the token will be bound to, and until when that is good.
struct Binding {
    confirmation: Option<Confirmation>,
    until: Timestamp,
}

impl Broker {
    /// A token of the caller's own task.
    pub async fn mint_token(
        &self,
        caller: &Caller,
        command: MintToken,
        now: Timestamp,
    ) -> Result<answer::Token> {
        let mut trail = Trail::new("MintToken", command.task);
        trail.fact("audience", &command.audience);
        let result = self.mint(caller, command, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn mint(
        &self,
        caller: &Caller,
        command: MintToken,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<answer::Token> {
        let mut known = self.known_task(command.task, now).await?.ok_or_else(|| not_found(command.task))?;
        Self::owned(caller, &known.facts)?;
        let audience = self.audience(&command.audience)?;
        let wanted =
            wanted(command.lifetime, command.minimum_lifetime, self.settings.lifetimes.default_token)?;
        let facts = Arc::clone(&known.facts);
        let cap = self.permit_mint(caller, &command, &known, &audience, wanted.lifetime, trail);
        let cap = cap.map_err(|error| match facts.grant(&command.audience) {
            // Whoever was granted it knows of it.
            Some(_) => error,
            None => self.unless_hidden(caller, &audience, error),
        })?;
        let (index, grant) = facts.grant(&command.audience).ok_or_else(|| beyond(&command.audience))?;
        let tools = grant.narrowed_to(&command.tools).map_err(beyond)?;
        let binding = self.binding(caller, &command, &audience, now).await?;
        let mut signing = self.signing_now(now).await?;
        // Nothing is recorded that is known not to be signed.
        Self::token_issuer(&signing, &audience)?.signer().check()?;
        let draft = draft(&facts, &audience, &tools, binding.confirmation, now);
        if !Self::token_issuer(&signing, &audience)?.fits(&draft)? {
            return Err(too_long());
        }
        let Recorded { id, generation, began_seq, expires_at } = self
            .record(&mut known, &mut signing, now, |known: &Known, signing: &Signing| {
                let signer = Self::token_issuer(signing, &audience)?.signer();
                let bounds = Bounds {
                    asked: wanted.lifetime,
                    policy_cap: cap,
                    deadline: known.deadline,
                    signer_end: signer.not_after(),
                    caller_end: binding.until,
                };
                let minimum = wanted.minimum(known.deadline.since(known.facts.began_at));
                Ok(expiry(now, &bounds, minimum).map(|expires_at| RecordCredential {
                    task: known.facts.id,
                    version: known.version,
                    kind: CredentialKind::Token,
                    key: signer.kid(),
                    grant: index,
                    issued_at: now.floor_to_second(),
                    expires_at,
                    limit: self.settings.limits.credentials_per_task,
                }))
            })
            .await?;
        reach(Place::TokenRecorded);
        trail.fact("jti", id);
        trail.fact("expires_at", expires_at);
        let issuer = Self::token_issuer(&signing, &audience)?;
        let minted =
            issuer.mint(&TokenGrant { generation, began_seq, credential: id, expires_at, ..draft }).await?;
        reach(Place::TokenSigned);
        Ok(answer::Token {
            token: minted.token,
            id,
            scope: minted.scope.as_str().to_owned(),
            renew_after: lifetime::half_life(now.floor_to_second(), expires_at),
            expires_at,
            token_type: minted.token_type.as_str(),
        })
    }

    fn permit_mint(
        &self,
        caller: &Caller,
        command: &MintToken,
        known: &Known,
        audience: &Audience,
        asked: Duration,
        trail: &mut Trail,
    ) -> Result<Duration> {
        let granted = known.facts.grant(&command.audience);
        let tools: Vec<&ToolName> = match command.tools.is_empty() {
            true => granted.iter().flat_map(|(_, grant)| grant.tools.keys()).collect(),
            false => command.tools.iter().collect(),
        };
        let facts = action::MintFacts {
            task: for_policy(&known.facts),
            tools: &tools,
            lifetime: asked,
            binding: audience.profile(),
        };
        let permit = self.permit::<action::MintToken>(caller, audience, facts, trail)?;
        Ok(permit.token_lifetime(self.settings.lifetimes.max_token))
    }

    /// What the audience's profile asks for, and whether the caller may have it.
    async fn binding(
        &self,
        caller: &Caller,
        command: &MintToken,
        audience: &Audience,
        now: Timestamp,
    ) -> Result<Binding> {
        let own_end = caller.peer.valid_until();
        let mismatch = |what: &str| Err(Error::new(Reason::BindingMismatch, what));
        match (audience.profile(), &command.certificate, command.jkt) {
            (EnforcementProfile::Bearer, None, None) => Ok(Binding { confirmation: None, until: own_end }),
            (EnforcementProfile::Bearer, ..) => {
                mismatch("This audience takes bearer tokens: send no certificate_der and no dpop_jwk_sha256.")
            }
            (EnforcementProfile::X5tS256, None, None) => {
                let own = Thumbprint::from_bytes(caller.peer.thumbprint_s256());
                Ok(Binding { confirmation: Some(Confirmation::X5tS256(own)), until: own_end })
            }
            (EnforcementProfile::X5tS256, Some(der), None) => {
                let certificate = self.own_certificate(command.task, der, now).await?;
                let until = own_end.min(certificate.not_after);
                Ok(Binding { confirmation: Some(Confirmation::X5tS256(certificate.thumbprint)), until })
            }
            (EnforcementProfile::X5tS256, _, Some(_)) => {
                mismatch("This audience binds tokens to a certificate: send no dpop_jwk_sha256.")
            }
            (EnforcementProfile::Jkt, None, Some(jkt)) => {
                Ok(Binding { confirmation: Some(Confirmation::Jkt(jkt)), until: own_end })
            }
            (EnforcementProfile::Jkt, ..) => mismatch(
                "This audience binds tokens to a DPoP key: send its dpop_jwk_sha256 and no certificate_der.",
            ),
        }
    }

    /// A certificate that the caller says it will show: signed by our task CA, of this task, recorded and not revoked.
    async fn own_certificate(
        &self,
        task: crate::ids::TaskId,
        der: &[u8],
        now: Timestamp,
    ) -> Result<cert::OwnCertificate> {
        let refused = || {
            Error::new(
                Reason::BindingMismatch,
                "certificate_der must be an unexpired certificate of this task.",
            )
        };
        let certificate = cert::recognise(self.keyring().task_authorities(), der, now).ok_or_else(refused)?;
        if certificate.id.task != task {
            return Err(refused().with_detail("a certificate of another task"));
        }
        let check = self.store.check(certificate.id, certificate.authority, now).await;
        match check.map_err(super::tasks::store_error)? {
            crate::task::store::CheckOutcome::Active { .. } => Ok(certificate),
            other => Err(refused().with_detail(format_args!("{other:?}"))),
        }
    }
}

/// The words for a wish that fits in no token.
fn too_long() -> Error {
    let what =
        "these tools and limits make a token longer than verifiers take; ask for fewer of the granted tools";
    Error::invalid("tools", what)
}

/// The words for a wish that the task does not grant.
fn beyond(what: impl std::fmt::Display) -> Error {
    let sentence = format!("The task does not grant {what}. Begin a task that does.");
    Error::new(Reason::BeyondGrant, sentence)
}

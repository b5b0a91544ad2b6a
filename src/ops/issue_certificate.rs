//! Issue: an X.509 certificate that names the task. Recorded before it is signed, judged before it leaves.

use std::time::Duration;

use crate::cert::{LeafRequest, ProvenPublicKey, task_spiffe_id};
use crate::error::Result;
use crate::failpoint::{Place, reach};
use crate::policy::action;
use crate::task::lifetime::{self, Bounds};
use crate::task::store::{CredentialKind, RecordCredential};
use crate::time::Timestamp;

use super::command::{IssueCertificate, KeyRequest};
use super::keyring::{Signing, certificates};
use super::recording::{Recorded, expiry, wanted};
use super::tasks::{Known, not_found};
use super::trail::Trail;
use super::{Broker, Caller, answer};

impl Broker {
    /// A certificate of the caller's own task.
    pub async fn issue_certificate(
        &self,
        caller: &Caller,
        command: IssueCertificate,
        now: Timestamp,
    ) -> Result<answer::Certificate> {
        let mut trail = Trail::new("IssueCertificate", command.task);
        let result = self.issue(caller, command, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn issue(
        &self,
        caller: &Caller,
        command: IssueCertificate,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<answer::Certificate> {
        let mut known = self.known_task(command.task, now).await?.ok_or_else(|| not_found(command.task))?;
        Self::owned(caller, &known.facts)?;
        let wanted =
            wanted(command.lifetime, command.minimum_lifetime, self.settings.lifetimes.default_certificate)?;
        let permit = self.permit_on_task::<action::IssueCertificate>(
            caller,
            &known.facts,
            action::Lifetime(wanted.lifetime),
            trail,
        )?;
        let cap = permit.certificate_lifetime(self.settings.lifetimes.max_certificate);
        let key = match &command.key {
            KeyRequest::CsrDer(der) => ProvenPublicKey::from_csr_der(der)?,
            KeyRequest::CsrPem(pem) => ProvenPublicKey::from_csr_pem(pem)?,
            KeyRequest::Proven { spki_der, signature } => {
                ProvenPublicKey::from_proof(spki_der, signature, command.task, caller.spiffe_id())?
            }
        };
        let mut signing = self.signing_now(now).await?;
        // What cannot be named in a certificate is refused before anything is recorded.
        let _name = task_spiffe_id(&self.settings.trust_domain, known.facts.id, &known.facts.owner)?;
        let recorded = self
            .record(&mut known, &mut signing, now, |known: &Known, signing: &Signing| {
                let minimum = wanted.minimum(known.deadline.since(known.facts.began_at));
                let ca = certificates(signing, now, minimum)?.ca();
                let bounds = Bounds {
                    asked: wanted.lifetime,
                    policy_cap: cap,
                    // notAfter is the last second in which a certificate is good (RFC 5280 4.1.2.5); a deadline is the first in which it is not.
                    deadline: known.deadline.saturating_sub(Duration::from_secs(1)),
                    signer_end: Some(ca.not_after()),
                    caller_end: caller.peer.valid_until(),
                };
                Ok(expiry(now, &bounds, minimum).map(|expires_at| RecordCredential {
                    task: known.facts.id,
                    version: known.version,
                    kind: CredentialKind::Certificate,
                    key: ca.key_id(),
                    grant: 0,
                    issued_at: now.floor_to_second(),
                    expires_at,
                    limit: self.settings.limits.credentials_per_task,
                }))
            })
            .await?;
        reach(Place::CertificateRecorded);
        let Recorded { id, expires_at, .. } = recorded;
        trail.fact("serial", id);
        trail.fact("expires_at", expires_at);
        let issued_at = now.floor_to_second();
        let leaf = LeafRequest { id, agent: &known.facts.owner, key: &key, issued_at, expires_at };
        let issued = certificates(&signing, now, Duration::ZERO)?.issue(&leaf)?;
        reach(Place::CertificateSigned);
        Ok(answer::Certificate {
            chain_pem: issued.chain_pem(),
            chain: issued.chain.iter().map(|der| der.to_vec()).collect(),
            id,
            spiffe_id: issued.spiffe_id,
            thumbprint: issued.thumbprint,
            renew_after: lifetime::half_life(issued_at, expires_at),
            expires_at,
        })
    }
}

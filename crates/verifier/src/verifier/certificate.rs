//! Task certificates: what they are called, and how long they are good.

use crate::claims::AgentId;
use crate::ids::{CredentialId, TaskId};
use crate::keyset::KeyId;
use crate::refusal::Refusal;
use crate::time::{Between, UnixSeconds};
use crate::view::{Facts, Fences};

/// What a certificate says that was presented and chained by the caller's TLS layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskCertificate<'a> {
    /// The octets of its serial number.
    pub serial: &'a [u8],
    /// Its one URI subject alternative name.
    pub spiffe_id: &'a str,
    /// RFC 7638 thumbprint of the key of the intermediate that has signed it, out of the chain that was verified:
    /// [`VerificationKey::from_public_bytes`](crate::VerificationKey::from_public_bytes) makes it of the point in that certificate.
    pub authority: KeyId,
    /// notBefore.
    pub not_before: UnixSeconds,
    /// notAfter.
    pub not_after: UnixSeconds,
}

/// The verdict that a task certificate is good, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateGrant {
    credential: CredentialId,
    authority: KeyId,
    agent: AgentId,
    expires: UnixSeconds,
}

impl TaskCertificate<'_> {
    /// Names and validity. Like a token it is no longer good in its last second, which RFC 5280, section 4.1.2.5 would still include.
    pub(super) fn judge(&self, now: Between) -> Result<CertificateGrant, Refusal> {
        let serial = self.serial.try_into().map_err(|_| Refusal::NotATaskCertificate)?;
        let credential = CredentialId::from_bytes(serial).map_err(|_| Refusal::NotATaskCertificate)?;
        let (task, agent) = names(self.spiffe_id).ok_or(Refusal::NotATaskCertificate)?;
        if task != credential.task {
            return Err(Refusal::NotATaskCertificate);
        }
        if self.not_before > now.earliest {
            return Err(Refusal::NotYetValid);
        }
        if self.not_after <= now.latest {
            return Err(Refusal::Expired);
        }
        Ok(CertificateGrant { credential, authority: self.authority, agent, expires: self.not_after })
    }
}

/// `spiffe://<the broker's trust domain>/task/<task>/agent/<the agent's trust domain>/<the agent's path>`
fn names(spiffe_id: &str) -> Option<(TaskId, AgentId)> {
    let whole: AgentId = spiffe_id.parse().ok()?;
    let (task, agent) = whole.path().strip_prefix("task/")?.split_once("/agent/")?;
    Some((task.parse().ok()?, format!("spiffe://{agent}").parse().ok()?))
}

impl CertificateGrant {
    /// The credential, which names the task.
    pub const fn credential(&self) -> CredentialId {
        self.credential
    }

    /// The agent that owns the task.
    pub const fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The first second in which it is no longer good.
    pub const fn expires(&self) -> UnixSeconds {
        self.expires
    }

    pub(super) fn facts(&self) -> Facts<'static> {
        Facts {
            credential: self.credential,
            key: self.authority,
            ancestors: &[],
            fences: Fences::on(self.agent.as_str(), self.agent.trust_domain()),
            generation: None,
            began_seq: None,
            expires: self.expires,
        }
    }
}

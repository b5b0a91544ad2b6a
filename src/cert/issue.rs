//! Signing what the template says, and judging it.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use taskpass_verifier::claims::Thumbprint;

use super::judge;
use super::template::{LeafRequest, params, task_spiffe_id};
use crate::error::Result;
use crate::identity::SpiffeId;
use crate::ids::CredentialId;
use crate::keys::publish::pem;
use crate::keys::{SpotCheck, TaskCa};
use crate::time::Timestamp;

/// Issues certificates under one task CA.
#[derive(Debug)]
pub struct CertIssuer {
    ca: Arc<TaskCa>,
    spot_check: SpotCheck,
}

/// A certificate that was judged and may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// Its serial number.
    pub id: CredentialId,
    /// Its one URI name.
    pub spiffe_id: SpiffeId,
    /// The certificate, then the intermediate, then what is between that and its anchor.
    pub chain: Vec<CertificateDer<'static>>,
    /// SHA-256 of the certificate in DER: `x5t#S256` (RFC 8705, section 3.1).
    pub thumbprint: Thumbprint,
    /// Its notAfter.
    pub expires_at: Timestamp,
}

impl CertIssuer {
    /// Issues under `ca`.
    pub const fn new(ca: Arc<TaskCa>) -> Self {
        Self { ca, spot_check: SpotCheck::new() }
    }

    /// The CA: its [`TaskCa::not_after`] is one of the lifetimes whose least a certificate gets.
    pub const fn ca(&self) -> &Arc<TaskCa> {
        &self.ca
    }

    /// Makes one certificate. Errors with the caller's fault only where its SPIFFE ID is too long to be named; all else is ours, and then nothing leaves: it would
    /// outlive the CA, or what came out is not what the template says.
    pub fn issue(&self, leaf: &LeafRequest<'_>) -> Result<IssuedCertificate> {
        let spiffe_id = task_spiffe_id(self.ca.trust_domain(), leaf.id.task, leaf.agent)?;
        let certificate = self.ca.sign(&params(&self.ca, leaf, &spiffe_id)?, leaf.key)?;
        judge::against_template(&self.ca, leaf, &spiffe_id, &certificate)?;
        if self.spot_check.is_due() {
            self.spot_check.found(judge::chain(&self.ca, leaf.issued_at, &certificate))?;
        }
        Ok(IssuedCertificate {
            id: leaf.id,
            spiffe_id,
            thumbprint: Thumbprint::of_certificate(&certificate),
            chain: std::iter::once(certificate).chain(self.ca.chain().iter().cloned()).collect(),
            expires_at: leaf.expires_at,
        })
    }
}

impl IssuedCertificate {
    /// The chain in PEM, the certificate first.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }
}

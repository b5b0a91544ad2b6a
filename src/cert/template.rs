//! What a task certificate says. The broker chooses every field but the public key.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    SerialNumber,
};

use super::request::ProvenPublicKey;
use crate::error::{Error, Result};
use crate::identity::{SpiffeId, TrustDomain};
use crate::ids::{CredentialId, TaskId};
use crate::keys::TaskCa;
use crate::keys::ca::asn1_time;
use crate::time::Timestamp;

/// How far before its issue a certificate begins to be valid: peers whose clocks are a little behind accept it at once. It gives nobody anything, since before
/// its issue it does not exist; its end is exact.
pub const BACKDATE: Duration = Duration::from_secs(30);

/// One certificate to be made. The record of `id` must be in the store before.
#[derive(Clone, Copy, Debug)]
pub struct LeafRequest<'a> {
    /// Its serial number.
    pub id: CredentialId,
    /// Who will hold it.
    pub agent: &'a SpiffeId,
    /// Its key.
    pub key: &'a ProvenPublicKey,
    /// In whole seconds.
    pub issued_at: Timestamp,
    /// In whole seconds: its notAfter, the least of the lifetimes (G7).
    pub expires_at: Timestamp,
}

/// The one name of a task certificate: `spiffe://<broker>/task/<task>/agent/<agent's trust domain>/<agent's path>`. Names of two agents never meet, nor does one
/// look like a workload's own. An error if it were longer than a SPIFFE ID may be (C10), or the agent's trust domain cannot be a path segment (`.` and `..`).
pub fn task_spiffe_id(broker: &TrustDomain, task: TaskId, agent: &SpiffeId) -> Result<SpiffeId> {
    let task = task.to_string();
    let mut segments = vec!["task", &task, "agent", agent.trust_domain().as_str()];
    segments.extend(agent.path().split('/').skip(1));
    SpiffeId::from_segments(broker, &segments).map_err(|why| {
        Error::invalid(
            "spiffe_id",
            format!(
                "your SPIFFE ID cannot be named in a task certificate: the name that it would have {why}"
            ),
        )
    })
}

/// All that is signed beside the key.
pub(super) fn params(ca: &TaskCa, leaf: &LeafRequest<'_>, name: &SpiffeId) -> Result<CertificateParams> {
    let internal = |what: &str| Error::internal(format!("certificate {}: {what}", leaf.id));
    if leaf.expires_at <= leaf.issued_at {
        return Err(internal("it would never be valid"));
    }
    if leaf.expires_at > ca.not_after() {
        return Err(internal("it would outlive the task CA"));
    }
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&leaf.id.to_bytes()));
    params.not_before = asn1_time(leaf.issued_at.saturating_sub(BACKDATE))?.to_datetime();
    params.not_after = asn1_time(leaf.expires_at)?.to_datetime();
    // An empty subject makes the alternative names critical (RFC 5280, 4.1.2.6; C27).
    params.distinguished_name = DistinguishedName::new();
    let name = name.as_str().try_into().map_err(|_| internal("its name is not ASCII"))?;
    params.subject_alt_names = vec![SanType::URI(name)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

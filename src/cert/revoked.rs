//! Lists of certificates that are good no longer though their time is not over (RFC 5280, section 5).

use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateRevocationListDer;
use taskpass_verifier::keyset::KeyId;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::error::{Error, Result};
use crate::keys::ListSigner;
use crate::keys::ca::asn1_time;
use crate::time::Timestamp;

/// How far before its making a list begins to be valid, for verifiers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(60);

/// Why a certificate is on a list, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// What it was for is done.
    Ceased,
    /// Somebody has taken back what it stood for.
    Withdrawn,
    /// Others may have the key.
    KeyCompromised,
    /// Nobody said: no reason is given.
    Unsaid,
}

impl Why {
    const fn code(self) -> Option<RevocationReason> {
        match self {
            Self::Ceased => Some(RevocationReason::CessationOfOperation),
            Self::Withdrawn => Some(RevocationReason::PrivilegeWithdrawn),
            Self::KeyCompromised => Some(RevocationReason::KeyCompromise),
            Self::Unsaid => None,
        }
    }
}

/// One certificate on a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number, a positive INTEGER, big-endian.
    pub serial: Vec<u8>,
    /// Since when it is good no longer.
    pub at: Timestamp,
    /// Why.
    pub why: Why,
}

/// A list that was judged and may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// The key that has signed it.
    pub authority: KeyId,
    /// Version 2, in DER.
    pub der: CertificateRevocationListDer<'static>,
    /// SHA-256 of it.
    pub sha256: [u8; 32],
    /// `crlNumber`: greater than that of every list of this authority before.
    pub number: u64,
    /// As of when it is complete, but for what its keeper has not heard of yet.
    pub this_update: Timestamp,
    /// Nobody should go by it any more from then on.
    pub next_update: Timestamp,
    /// How many certificates it names.
    pub entries: usize,
}

/// Signs a list of `revoked`, as of `now`, that is good for `validity`, and judges it. Errors are ours, and then nothing leaves.
pub fn sign_list(
    signer: &ListSigner,
    revoked: &[Revoked],
    number: u64,
    now: Timestamp,
    validity: Duration,
) -> Result<RevocationList> {
    let (this_update, next_update) =
        (now.saturating_sub(BACKDATE).floor_to_second(), now.saturating_add(validity).floor_to_second());
    let time = |at: Timestamp| asn1_time(at.floor_to_second()).map(|at| at.to_datetime());
    let entries = revoked.iter().map(|one| {
        Ok(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&one.serial),
            // Never after the list itself, whatever a clock elsewhere said.
            revocation_time: time(one.at.min(now))?,
            reason_code: one.why.code(),
            invalidity_date: None,
        })
    });
    let digits = number.to_be_bytes();
    let leading = digits.iter().take_while(|digit| **digit == 0).count().min(digits.len() - 1);
    let params = CertificateRevocationListParams {
        this_update: time(this_update)?,
        next_update: time(next_update)?,
        crl_number: SerialNumber::from_slice(digits.get(leading..).unwrap_or_default()),
        issuing_distribution_point: None,
        revoked_certs: entries.collect::<Result<_>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let der = signer.sign(params)?;
    let list = RevocationList {
        authority: signer.key_id(),
        sha256: digest(&SHA256, &der).as_ref().try_into().unwrap_or_default(),
        der,
        number,
        this_update,
        next_update,
        entries: revoked.len(),
    };
    judge(signer, &list, revoked)?;
    Ok(list)
}

/// Parses it by a parser that did not make it, compares, and verifies the signature.
fn judge(signer: &ListSigner, list: &RevocationList, revoked: &[Revoked]) -> Result<()> {
    let mismatch = |what: &str| {
        Error::internal(format!("the revocation list {} of {}: {what}", list.number, list.authority))
    };
    let demand = |holds: bool, what: &str| if holds { Ok(()) } else { Err(mismatch(what)) };
    let Ok(([], parsed)) = CertificateRevocationList::from_der(&list.der) else {
        return Err(mismatch("it does not parse"));
    };
    let Ok((_, authority)) = X509Certificate::from_der(signer.certificate()) else {
        return Err(mismatch("its authority does not parse"));
    };
    let seconds = |at: Timestamp| i64::try_from(at.as_secs()).ok();
    demand(parsed.version() == Some(x509_parser::x509::X509Version(1)), "version")?;
    demand(parsed.issuer().as_raw() == authority.subject().as_raw(), "issuer")?;
    demand(Some(parsed.last_update().timestamp()) == seconds(list.this_update), "thisUpdate")?;
    let next = parsed.next_update().map(|next| next.timestamp());
    demand(next.is_some() && next == seconds(list.next_update), "nextUpdate")?;
    let number = parsed.crl_number().and_then(|number| u64::try_from(number.clone()).ok());
    demand(number == Some(list.number), "crlNumber")?;
    let mut named = parsed.iter_revoked_certificates();
    let same = revoked.iter().all(|one| named.next().is_some_and(|it| it.raw_serial() == one.serial));
    demand(same && named.next().is_none(), "serial numbers")?;
    demand(parsed.verify_signature(authority.public_key()).is_ok(), "signature")
}

#[cfg(test)]
mod tests;

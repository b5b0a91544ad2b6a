//! A bundle as its publisher gives it out: in the SPIFFE bundle format, with what belongs to its order and its renewal.

use super::{InvalidBundle, OtherKey, TrustBundle, parse};
use crate::identity::spiffe_id::TrustDomain;

/// A bundle, and what its publisher says of it.
#[derive(Clone)]
pub struct Published {
    /// The authorities for X509-SVIDs.
    pub bundle: TrustBundle,
    /// `spiffe_sequence` (C70).
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint`, in seconds (C71).
    pub refresh_hint: Option<u64>,
    /// Its keys for anything else: they are told, and used for nothing.
    pub others: Vec<OtherKey>,
}

impl TrustBundle {
    /// From a document in the SPIFFE bundle format and in no other. It is of `trust_domain` because it was asked for there: it never names itself (C72).
    pub fn published(trust_domain: TrustDomain, text: &[u8]) -> Result<Published, InvalidBundle> {
        let document = parse::document(text)?;
        let (sequence, refresh_hint) = (document.sequence, document.refresh_hint);
        let (bundle, others) =
            (Self::from_elements(trust_domain, document.certificates())?, document.others());
        Ok(Published { bundle, sequence, refresh_hint, others })
    }

    /// Whether every authority of this one is one of the other's.
    pub(in crate::identity) fn is_part_of(&self, other: &Self) -> bool {
        self.certificates.iter().all(|certificate| other.certificates.contains(certificate))
    }
}

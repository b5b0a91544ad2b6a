//! What one message of a Workload API says, each part by itself: one that cannot be read says nothing of the others.

use std::collections::BTreeMap;

use prost::Message as _;
use prost::bytes::Bytes;
use rustls_pki_types::CertificateDer;
use spiffe::{SpiffeId, X509Bundle, X509SvidError};

use super::wire::{NamedBundle, X509BundlesResponse, X509Svid, X509SvidResponse};
use crate::identity::bundle::TrustBundle;
use crate::identity::spiffe_id::TrustDomain;

/// The most SVIDs and bundles that one message has.
const MAX_PARTS: usize = 4096;

/// What one message says. Whatever is not asked for is not read either.
#[derive(Default)]
pub(super) struct State {
    /// By the name of the trust domain, all that is said to be its bundle; `None`: it should be there, and is not.
    bundles: BTreeMap<String, Vec<Option<Bytes>>>,
    svids: Vec<Offer>,
    unnamed: bool,
}

/// An SVID that is offered to us.
pub(super) struct Offer {
    id: SpiffeId,
    said: X509Svid,
}

/// A message that is of no use at all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoState {
    /// A field that has to be there is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An SVID of which nobody can say whose it is, and whose the bundle that comes with it.
    #[error("X509SVID.spiffe_id cannot be read")]
    Nobody,
    /// It has more SVIDs and bundles than [`MAX_PARTS`].
    #[error("it has more than {MAX_PARTS} SVIDs and bundles")]
    TooMany,
}

impl State {
    /// From the answer to `FetchX509SVID`.
    pub(super) fn of_svids(message: &X509SvidResponse) -> Result<Self, NoState> {
        let X509SvidResponse { svids, federated_bundles } = message;
        if svids.is_empty() {
            return Err(NoState::Missing("X509SVIDResponse.svids"));
        }
        if svids.len().saturating_add(federated_bundles.len()) > MAX_PARTS {
            return Err(NoState::TooMany);
        }
        let mut state = Self::default();
        for svid in svids {
            let said = X509Svid::decode(svid.clone()).map_err(|_| NoState::Nobody)?;
            let id = SpiffeId::new(&said.spiffe_id).map_err(|_| NoState::Nobody)?;
            let bundle = Some(said.bundle.clone()).filter(|it| !it.is_empty());
            state.add(id.trust_domain_name(), bundle);
            state.svids.push(Offer { id, said });
        }
        state.add_named(federated_bundles);
        Ok(state)
    }

    /// From the answer to `FetchX509Bundles`.
    pub(super) fn of_bundles(message: &X509BundlesResponse) -> Result<Self, NoState> {
        if message.bundles.is_empty() {
            return Err(NoState::Missing("X509BundlesResponse.bundles"));
        }
        if message.bundles.len() > MAX_PARTS {
            return Err(NoState::TooMany);
        }
        let mut state = Self::default();
        state.add_named(&message.bundles);
        Ok(state)
    }

    fn add_named(&mut self, bundles: &[Bytes]) {
        for named in bundles {
            let named = NamedBundle::decode(named.clone()).ok();
            let named =
                named.and_then(|it| Some((spiffe::TrustDomain::new(it.trust_domain).ok()?, it.bundle)));
            match named {
                Some((trust_domain, bundle)) => self.add(trust_domain.as_str(), Some(bundle)),
                None => self.unnamed = true,
            }
        }
    }

    fn add(&mut self, trust_domain: &str, bundle: Option<Bytes>) {
        self.bundles.entry(trust_domain.to_owned()).or_default().push(bundle);
    }

    /// Whether there is a bundle whose trust domain cannot be read: it is nobody's.
    pub(super) const fn has_unnamed(&self) -> bool {
        self.unnamed
    }

    /// What is offered to us, in order.
    pub(super) fn svids(&self) -> &[Offer] {
        &self.svids
    }

    /// The bundle of a trust domain, or why what is said to be it is none. `None`: it names none.
    pub(super) fn bundle(&self, of: &TrustDomain) -> Option<Result<TrustBundle, String>> {
        let mut all = self.bundles.get(of.as_str())?.iter().map(|said| read(of, said.as_ref()));
        let one = all.next()?;
        Some(all.fold(one, |one, other| {
            let (one, other) = (one?, other?);
            if !one.trusts_the_same(&other) {
                return Err("the Workload API gives two bundles of it that differ".to_owned());
            }
            Ok(one)
        }))
    }
}

fn read(of: &TrustDomain, said: Option<&Bytes>) -> Result<TrustBundle, String> {
    let none = |why: &dyn std::fmt::Display| format!("what the Workload API gives is no bundle: {why}");
    let said = said.ok_or_else(|| none(&"X509SVID.bundle is missing"))?;
    let named = spiffe::TrustDomain::new(of.as_str()).map_err(|why| none(&why))?;
    let bundle = X509Bundle::parse_from_der(named, said).map_err(|why| none(&why))?;
    let authorities = bundle.authorities().iter().map(|it| CertificateDer::from(it.as_bytes().to_vec()));
    TrustBundle::from_certificates(of.clone(), authorities).map_err(|why| none(&why))
}

impl Offer {
    /// Whose it is said to be.
    pub(super) const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What it is said to be for.
    pub(super) fn hint(&self) -> &str {
        &self.said.hint
    }

    /// The SVID, if it is one, and of the id that is said.
    pub(super) fn read(&self) -> Result<spiffe::X509Svid, String> {
        let svid = spiffe::X509Svid::parse_from_der(&self.said.x509_svid, &self.said.x509_svid_key);
        let svid = svid.map_err(|why| match why {
            // Never the library's own words on a private key.
            X509SvidError::PrivateKey(_) => "the private key cannot be used".to_owned(),
            other => other.to_string(),
        })?;
        if *svid.spiffe_id() != self.id {
            return Err("its certificate names another SPIFFE ID than X509SVID.spiffe_id".to_owned());
        }
        Ok(svid)
    }
}

#[cfg(test)]
mod tests;

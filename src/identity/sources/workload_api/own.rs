//! Our own SVID as a Workload API gives it.

use std::collections::BTreeSet;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;

use crate::identity::own::{self, CurrentSvid, OwnSvid};
use crate::identity::sources::holder::Confirmed;
use crate::identity::sources::settings::Wanted;
use crate::identity::spiffe_id::TrustDomain;
use crate::time::Timestamp;

use super::few;
use super::message::Offer;

/// What is said where it is missing.
const NOT_GIVEN: &str = "the Workload API gives no SVID that is ours";

/// Keeps our SVID in force while its source says so, and for `keep_for` after it was last heard. Without one no handshake comes about.
pub(in crate::identity::sources) struct OwnHolder {
    current: CurrentSvid,
    wanted: Wanted,
    keep_for: Duration,
    domains: BTreeSet<TrustDomain>,
    provider: CryptoProvider,
    confirmed: Confirmed,
    trouble: Option<String>,
    warned: bool,
}

impl OwnHolder {
    /// `domains`: of which trust domain it may be.
    pub(super) fn new(
        current: CurrentSvid,
        wanted: Wanted,
        keep_for: Duration,
        domains: BTreeSet<TrustDomain>,
    ) -> Self {
        let provider = rustls::crypto::ring::default_provider();
        let confirmed = Confirmed::new(Timestamp::EPOCH);
        Self { current, wanted, keep_for, domains, provider, confirmed, trouble: None, warned: false }
    }

    /// Takes the one that is ours; true: it is good. Where it is missing it is withdrawn; one that is not as it must be is left out, and the one before stays.
    pub(super) fn take(&mut self, svids: &[Offer], now: Timestamp) -> bool {
        let Some(svid) = pick(&self.wanted, svids) else {
            self.withdraw(NOT_GIVEN);
            self.trouble(NOT_GIVEN);
            return false;
        };
        match offered(svid, &self.domains, &self.provider, now) {
            Ok(svid) => {
                let news = self.current.load().is_none_or(|it| it.chain() != svid.chain());
                if news {
                    tracing::info!(spiffe_id = %svid.spiffe_id(), not_after = %svid.not_after(), "own certificate in force");
                }
                if !svid.has_dns_name() && !self.warned {
                    svid.warn_of_clients();
                    self.warned = true;
                }
                self.current.put(Some(svid));
                self.confirmed.set(now, now);
                if self.trouble.take().is_some() {
                    tracing::info!("the source of our own certificate is well again");
                }
                bad(false);
                true
            }
            Err(why) => {
                self.trouble(&format!("our own SVID from the Workload API cannot be used: {why}"));
                false
            }
        }
    }

    /// See `Holder::confirm`.
    pub(super) const fn confirm(&mut self, now: Timestamp) {
        if self.trouble.is_none() {
            self.confirmed.set(now, now);
        }
    }

    /// The same trouble is told once.
    pub(super) fn trouble(&mut self, why: &str) {
        if self.trouble.as_deref() != Some(why) {
            let held = self.current.load().is_some();
            tracing::error!(
                problem = why,
                held,
                "our own certificate could not be had; the last good one counts until its time is over"
            );
            self.trouble = Some(why.to_owned());
        }
        bad(true);
    }

    pub(super) fn withdraw(&mut self, why: &str) {
        if self.current.load().is_some() {
            tracing::error!(
                why,
                "the broker has no certificate any longer, and nobody can connect until it has one"
            );
            self.current.put(None);
        }
        bad(true);
    }

    pub(super) fn look(&mut self, now: Timestamp) {
        if self.confirmed.since(now) >= self.keep_for {
            self.withdraw("the Workload API was not heard for as long as its last word counts (keep_for)");
        }
    }
}

/// The one that is ours, if it is as it must be.
pub(super) fn judged(
    wanted: &Wanted,
    svids: &[Offer],
    domains: &BTreeSet<TrustDomain>,
    now: Timestamp,
) -> Result<OwnSvid, String> {
    let svid = pick(wanted, svids).ok_or(NOT_GIVEN)?;
    offered(svid, domains, &rustls::crypto::ring::default_provider(), now)
}

fn offered(
    svid: &Offer,
    domains: &BTreeSet<TrustDomain>,
    provider: &CryptoProvider,
    now: Timestamp,
) -> Result<OwnSvid, String> {
    let svid = svid.read().map_err(|why| few(&why))?;
    let chain = svid.cert_chain().iter().map(|it| CertificateDer::from(it.as_bytes().to_vec())).collect();
    own::offered(chain, svid.private_key().as_bytes(), domains, provider, now)
}

/// Of two with the same hint the first counts (C90).
fn pick<'a>(wanted: &Wanted, svids: &'a [Offer]) -> Option<&'a Offer> {
    svids.iter().find(|svid| match wanted {
        Wanted::First => true,
        Wanted::Hint(hint) => svid.hint() == hint,
        Wanted::Id(id) => svid.id().to_string() == id.as_str(),
    })
}

fn bad(bad: bool) {
    metrics::gauge!("taskpass_own_svid_source_bad").set(if bad { 1.0 } else { 0.0 });
}

//! The judgement, rule by rule. Nothing here opens a socket.

mod chain;
mod leaf;
mod trust;

use super::*;
use crate::identity::bundle::TrustBundle;
use crate::identity::test_ca::Ca;

/// In May 2026, inside the validity of what [`Ca`] makes.
const NOW: Timestamp = Timestamp::from_secs(1_780_000_000);

/// A judge of clients who knows the trust domain `td.test`.
struct Court {
    ca: Ca,
    bundles: Arc<TrustBundles>,
    judge: PeerJudge,
}

impl Court {
    fn new() -> Self {
        Self::of(Ca::new("td.test"))
    }

    fn of(ca: Ca) -> Self {
        let bundles = Arc::new(TrustBundles::new([bundle(&ca)]));
        let judge = PeerJudge::new(Arc::clone(&bundles), Side::Client);
        Self { ca, bundles, judge }
    }

    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<VerifiedPeer, PeerRefusal> {
        self.judge.judge(chain, NOW)
    }

    /// The verdict on `spiffe://td.test/agent` with something changed.
    fn on(&self, edit: impl FnOnce(&mut rcgen::CertificateParams)) -> Result<VerifiedPeer, PeerRefusal> {
        self.judge(&self.ca.svid_with("agent", edit).chain)
    }

    /// The verdict on a regular leaf below an intermediate with something changed.
    fn below(&self, edit: impl FnOnce(&mut rcgen::CertificateParams)) -> Result<VerifiedPeer, PeerRefusal> {
        self.judge(&self.ca.intermediate_with(edit).svid("agent").chain)
    }
}

fn bundle(ca: &Ca) -> TrustBundle {
    TrustBundle::parse(ca.trust_domain.parse().unwrap(), ca.pem().as_bytes()).unwrap()
}

#[track_caller]
fn accepted(verdict: Result<VerifiedPeer, PeerRefusal>) {
    assert_eq!(verdict.unwrap().spiffe_id().as_str(), "spiffe://td.test/agent");
}

#[track_caller]
fn refused(verdict: Result<VerifiedPeer, PeerRefusal>, why: PeerRefusal) {
    assert_eq!(verdict.unwrap_err(), why);
}

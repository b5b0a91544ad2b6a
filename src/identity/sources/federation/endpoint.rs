//! One bundle endpoint: whom it has to be, what it gave last, and whether what it gives next may follow that.

use std::path::PathBuf;
use std::sync::Arc;

use crate::identity::bundle::{Published, TrustBundle, TrustBundles};
use crate::identity::peer::{PeerJudge, Side};
use crate::identity::sources::settings::{EndpointUrl, Federation, Profile};
use crate::identity::spiffe_id::{SpiffeId, TrustDomain};
use crate::identity::tls::ClientTls;
use crate::time::Clock;

use super::fetch::{self, FetchError, Fetched, Tls, fetch};

/// Who says that an endpoint is the one that we want.
enum Judge {
    /// HTTPS authorities.
    Web(Option<PathBuf>),
    /// The bundle of the endpoint's own trust domain, which has a source of its own.
    Other(SpiffeId, Arc<TrustBundles>),
    /// The last bundle that it gave us itself: in its time or after it, for else there would be no way back (C79).
    Itself(SpiffeId, Arc<TrustBundles>),
}

/// A SPIFFE bundle endpoint that is asked again and again, with every rule and limit that a broker has for it. When to ask is the caller's.
pub struct BundleEndpoint {
    trust_domain: TrustDomain,
    endpoint: Federation,
    judge: Judge,
    held: Option<Published>,
    clock: Arc<dyn Clock>,
}

impl BundleEndpoint {
    /// One of several, beside the bundles in force, by which the endpoint of another trust domain is checked. `at_first`: what one that vouches for itself is checked by until it has answered.
    pub(in crate::identity::sources) fn beside(
        trust_domain: TrustDomain,
        endpoint: Federation,
        at_first: Option<TrustBundle>,
        bundles: &Arc<TrustBundles>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let judge = match &endpoint.profile {
            Profile::Web { ca_file } => Judge::Web(ca_file.clone()),
            Profile::Spiffe { endpoint: id } if *id.trust_domain() == trust_domain => {
                Judge::Itself(id.clone(), Arc::new(bundles.apart(at_first)))
            }
            Profile::Spiffe { endpoint: id } => Judge::Other(id.clone(), Arc::clone(bundles)),
        };
        Self { trust_domain, endpoint, judge, held: None, clock: Arc::clone(clock) }
    }

    /// One by itself. `by`: the bundle of the trust domain that the endpoint's SVID is of; `None` for `https_web`.
    pub fn alone(
        trust_domain: TrustDomain,
        endpoint: Federation,
        by: Option<TrustBundle>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let bundles = Arc::new(TrustBundles::new(by.clone()));
        Self::beside(trust_domain, endpoint, by, &bundles, clock)
    }

    pub(super) const fn configured(&self) -> &Federation {
        &self.endpoint
    }

    /// Where it is.
    pub const fn url(&self) -> &EndpointUrl {
        &self.endpoint.url
    }

    /// The other trust domain by whose bundle it is checked, if that is so.
    pub(in crate::identity::sources) fn checked_by(&self) -> Option<&TrustDomain> {
        match &self.judge {
            Judge::Other(id, _) => Some(id.trust_domain()),
            Judge::Web(_) | Judge::Itself(..) => None,
        }
    }

    /// Whether it is checked by what it gave last.
    pub(in crate::identity::sources) const fn vouches_for_itself(&self) -> bool {
        matches!(self.judge, Judge::Itself(..))
    }

    /// Asks it once. What comes is not looked at yet: that is [`Self::take`]'s.
    pub async fn ask(&self) -> Result<Fetched, FetchError> {
        let tls = match &self.judge {
            Judge::Web(ca_file) => {
                let file = ca_file.clone();
                // Read each time, so that they are followed.
                let roots = tokio::task::spawn_blocking(move || fetch::roots(file.as_deref())).await;
                Tls::web(roots.map_err(|_| FetchError::Stopped)??)?
            }
            Judge::Other(id, bundles) | Judge::Itself(id, bundles) => {
                let judge = Arc::new(PeerJudge::new(Arc::clone(bundles), Side::Server));
                let client = ClientTls::unnamed(judge, id.clone(), Arc::clone(&self.clock));
                Tls::spiffe(client.map_err(FetchError::Tls)?)
            }
        };
        fetch(&self.endpoint.url, self.endpoint.follow_redirects, &tls).await
    }

    /// Takes what it gave before this process began, or gave another broker, for what it gave last.
    pub(super) fn recall(&mut self, published: &Published) {
        if let Judge::Itself(_, bundles) = &self.judge {
            bundles.set(published.bundle.clone());
        }
        self.held = Some(published.clone());
    }

    /// Forgets what it gave: what comes next may be of any sequence, and one that vouches for itself is checked by this.
    pub(super) fn begin_anew(&mut self, by: &TrustBundle) {
        self.held = None;
        if let Judge::Itself(_, bundles) = &self.judge {
            bundles.set(by.clone());
        }
    }

    /// Reads what it gave. An error says why that is no bundle, or cannot follow the one before (C70, C71); then that one stays.
    pub fn take(&mut self, text: &[u8]) -> Result<Published, String> {
        let new = TrustBundle::published(self.trust_domain.clone(), text).map_err(|why| why.to_string())?;
        self.held.as_ref().map_or(Ok(()), |held| new.follows(held))?;
        if let Judge::Itself(_, bundles) = &self.judge {
            bundles.set(new.bundle.clone());
        }
        self.held = Some(new.clone());
        Ok(new)
    }
}

impl Published {
    /// Whether it may follow `held`, which the same source gave before (C70, C71). An error says why not.
    pub fn follows(&self, held: &Self) -> Result<(), String> {
        match order(held.sequence.map(|it| (it, &held.bundle)), self.sequence, &self.bundle) {
            Order::Next => Ok(()),
            Order::Stale { held, came } => {
                Err(format!("it gave a bundle of sequence {came}, older than the one of {held} that is held"))
            }
            Order::Unordered { both } => Err(format!(
                "it gave another bundle of the sequence {both} that is held, which adds authorities: nobody can say which is newer"
            )),
        }
    }
}

/// Whether a bundle follows the one that is held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It does.
    Next,
    /// It is an older one (C71).
    Stale { held: u64, came: u64 },
    /// Nobody can say.
    Unordered { both: u64 },
}

/// A lower sequence is stale and not applied (Federation, section 4.2). The sequence must change with the content (Trust Domain and Bundle, section 4.1.1), so that of
/// two contents of one sequence nobody can say which is newer. What only withdraws authorities is taken even then, since a withdrawal must not be missed; what adds
/// any is not. A bundle without a sequence, or after one without, is taken as it comes: there is no order to keep.
pub(super) fn order(held: Option<(u64, &TrustBundle)>, came: Option<u64>, bundle: &TrustBundle) -> Order {
    match (held, came) {
        (Some((held, _)), Some(came)) if came < held => Order::Stale { held, came },
        (Some((held, old)), Some(came)) if came == held && !bundle.is_part_of(old) => {
            Order::Unordered { both: came }
        }
        _ => Order::Next,
    }
}

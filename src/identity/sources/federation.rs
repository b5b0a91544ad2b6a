//! The bundle of a trust domain from a SPIFFE bundle endpoint (SPIFFE Federation).
//!
//! What order bundles come in and when to ask again are functions of their arguments; [`Federated::run`] asks and does as they say. What the operator writes beside it
//! (`local`) begins the order anew. What an endpoint gave that vouches for itself outlives the process (`keeping`, ADR 0024); after a restart
//! the configured bundle counts again for every other one, until the first fetch.

mod endpoint;
mod fetch;
mod keeping;
mod local;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::identity::bundle::{TrustBundle, TrustBundles};
use crate::identity::sources::files;
use crate::identity::sources::holder::{Holder, meanwhile};
use crate::identity::sources::kept::Shelf;
use crate::identity::sources::settings::{Federation, Profile};
use crate::identity::sources::{BadSetting, MIN_PAUSE};
use crate::identity::spiffe_id::TrustDomain;
use crate::time::{Clock, Timestamp};

use keeping::{Given, Keeping, Recalled};
use local::{LocalFiles, Updates};

pub use endpoint::BundleEndpoint;
pub use fetch::{FetchError, Fetched};

/// How often an endpoint is asked that does not say (C71).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(300);
/// The longest that an endpoint may ask us to wait.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How many tries fit into the time that a bundle is kept: one that is missed harms nobody (C82).
const TRIES: u32 = 3;

/// Reads what is trusted at first, and tries the authorities of the endpoint. `None`: nothing is trusted at first.
pub(super) fn examine(
    trust_domain: &TrustDomain,
    at_first: &[PathBuf],
    endpoint: &Federation,
) -> Result<Option<TrustBundle>, Vec<BadSetting>> {
    let mut problems = Vec::new();
    let mut bad = |setting, problem| problems.push(BadSetting { setting, problem });
    let bundle = (!at_first.is_empty()).then(|| files::read(trust_domain, at_first)).transpose();
    let bundle =
        bundle.map_err(|all| all.into_iter().for_each(|why| bad("bundles", why))).unwrap_or_default();
    if let Profile::Web { ca_file: Some(file) } = &endpoint.profile {
        let _ = fetch::roots(Some(file)).map_err(|why| bad("federation.ca_file", why.to_string()));
    }
    if problems.is_empty() { Ok(bundle) } else { Err(problems) }
}

/// One trust domain whose bundle is fetched.
pub(super) struct Federated {
    endpoint: BundleEndpoint,
    keep_for: Duration,
    holder: Holder,
    hint: Option<u64>,
    failures: u32,
    local: Option<LocalFiles>,
    updates: Updates,
    /// Of what the operator's files hold.
    beside: [u8; 32],
    given: Option<Given>,
    keeping: Option<Keeping>,
    clock: Arc<dyn Clock>,
}

impl Federated {
    pub(super) fn new(
        trust_domain: TrustDomain,
        endpoint: Federation,
        (at_first, files): (Option<TrustBundle>, Vec<PathBuf>),
        bundles: &Arc<TrustBundles>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let beside = local::mark(&files);
        let (local, updates) = LocalFiles::new(trust_domain.clone(), files);
        let keep_for = endpoint.keep_for;
        let kept = (trust_domain.clone(), keep_for);
        let holder = Holder::new(kept, Arc::clone(bundles), at_first.clone(), clock.now());
        let endpoint = BundleEndpoint::beside(trust_domain, endpoint, at_first, bundles, clock);
        let clock = Arc::clone(clock);
        Self {
            endpoint,
            keep_for,
            holder,
            hint: None,
            failures: 0,
            local,
            updates,
            beside,
            given: None,
            keeping: None,
            clock,
        }
    }

    /// Goes on with what is kept on this shelf, if it is an endpoint that vouches for itself: whether it is. A shelf that is out of reach is tried again while it runs.
    pub(super) async fn recall(&mut self, shelf: &Arc<dyn Shelf>) -> Option<TrustDomain> {
        let trust_domain = self.holder.trust_domain().clone();
        self.keeping = Keeping::new(&trust_domain, self.endpoint.configured(), Arc::clone(shelf));
        let newer = self.keeping.as_mut()?.settle(None, self.beside, self.clock.now()).await;
        newer.into_iter().for_each(|newer| self.adopt(newer, self.clock.now()));
        Some(trust_domain)
    }

    /// Fetches when it is time, until `stop`; what the operator says meanwhile is looked for every `interval`.
    pub(super) async fn run(mut self, interval: Duration, stop: CancellationToken) {
        let local = self.local.take().map(|it| tokio::spawn(it.run(interval, stop.clone())));
        let _local = local.map(AbortOnDropHandle::new);
        let mut pause = Duration::ZERO;
        loop {
            let (holder, clock) = (&mut self.holder, &self.clock);
            if let Some(keeping) = &mut self.keeping {
                let settling = keeping.settle(self.given.as_ref(), self.beside, clock.now());
                match meanwhile(settling, || holder.look(clock.now()), &stop).await {
                    Some(newer) => newer.into_iter().for_each(|newer| self.adopt(newer, self.clock.now())),
                    None => return,
                }
            }
            let asking = async {
                tokio::time::sleep(pause).await;
                self.endpoint.ask().await
            };
            let (holder, clock) = (&mut self.holder, &self.clock);
            let next = tokio::select! {
                biased;
                updated = self.updates.next() => Ok(updated),
                got = meanwhile(asking, || holder.look(clock.now()), &stop) => Err(got),
            };
            pause = match next {
                Ok((updated, beside)) => {
                    self.beside = beside;
                    self.update(updated, self.clock.now())
                }
                Err(Some(got)) => self.settle(got.map(|it| it.body), self.clock.now()),
                Err(None) => return,
            };
        }
    }

    /// Takes what the operator says, whatever was held: it is the latest until the endpoint's next answer, which may be of any sequence. Says when to ask: now.
    fn update(&mut self, bundle: TrustBundle, now: Timestamp) -> Duration {
        tracing::warn!(trust_domain = %self.holder.trust_domain(),
            "the bundle that is configured beside an endpoint has changed: it counts until the next answer, whatever the sequence of that");
        self.endpoint.begin_anew(&bundle);
        self.holder.put_by_hand(bundle, now);
        self.given = None;
        self.keeping.iter_mut().for_each(|it| it.outdate(now));
        self.failures = 0;
        Duration::ZERO
    }

    /// Takes what the endpoint gave an earlier process, or another broker after what it gave this one.
    fn adopt(&mut self, newer: Recalled, now: Timestamp) {
        tracing::info!(trust_domain = %self.holder.trust_domain(), sequence = newer.published.sequence,
            confirmed = newer.confirmed.map(tracing::field::display),
            "what the bundle endpoint gave last is taken from the store, where it was kept");
        self.endpoint.recall(&newer.published);
        self.hint = newer.published.refresh_hint;
        self.holder.recall(newer.published.bundle, newer.confirmed, now);
        self.given = None;
    }

    /// Takes what came or does not, and says when to ask again.
    fn settle(&mut self, got: Result<Vec<u8>, FetchError>, now: Timestamp) -> Duration {
        let outcome = got.map_err(|why| why.to_string());
        let outcome = outcome.and_then(|text| self.endpoint.take(&text).map(|published| (text, published)));
        self.failures = match outcome {
            Ok((document, published)) => {
                self.hint = published.refresh_hint;
                self.holder.take(published.bundle.clone(), now);
                self.given = Some(Given { document, published, confirmed: now });
                0
            }
            Err(why) => {
                self.holder.trouble(&format!("{}: {why}", self.endpoint.url()));
                self.failures.saturating_add(1)
            }
        };
        pause(self.hint, self.keep_for, self.holder.is_in_force(), self.failures)
    }
}

/// How long to wait before asking again. After a success and, where a bundle is in force, after a failure, too: what the endpoint hints at (C82), within
/// bounds, and never so long that fewer than three tries fit into the time that a bundle is kept. Where none is in force, sooner.
fn pause(hint: Option<u64>, keep_for: Duration, in_force: bool, failures: u32) -> Duration {
    let interval = hint.map_or(DEFAULT_INTERVAL, Duration::from_secs);
    let interval = interval.min(MAX_INTERVAL).min(keep_for / TRIES).max(MIN_PAUSE);
    if in_force || failures == 0 {
        return interval;
    }
    let soon = MIN_PAUSE.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
    soon.min(interval)
}

#[cfg(test)]
mod tests;

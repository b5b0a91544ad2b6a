//! The bundle of a trust domain from a SPIFFE bundle endpoint (SPIFFE Federation).
//!
//! What order bundles come in and when to ask again are functions of their arguments; [`Federated::run`] asks and does as they say. Nothing
//! is kept on disk: after a restart the configured bundle counts again, until the first fetch.

mod fetch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::identity::bundle::{Published, TrustBundle, TrustBundles};
use crate::identity::peer::{PeerJudge, Side};
use crate::identity::sources::files;
use crate::identity::sources::holder::{Holder, meanwhile};
use crate::identity::sources::settings::{Federation, Profile};
use crate::identity::sources::{BadSetting, MIN_PAUSE};
use crate::identity::spiffe_id::{SpiffeId, TrustDomain};
use crate::identity::tls::ClientTls;
use crate::time::{Clock, Timestamp};

use fetch::{FetchError, Tls, fetch};

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
    endpoint: Federation,
    holder: Holder,
    judge: Judge,
    sequence: Option<u64>,
    hint: Option<u64>,
    failures: u32,
    clock: Arc<dyn Clock>,
}

/// Who says that an endpoint is the one that we want.
enum Judge {
    /// HTTPS authorities.
    Web(Option<PathBuf>),
    /// The bundle of the endpoint's own trust domain, which has a source of its own.
    Other(SpiffeId, Arc<TrustBundles>),
    /// The last bundle that it gave us itself: in its time or after it, for else there would be no way back (C79).
    Itself(SpiffeId, Arc<TrustBundles>),
}

impl Federated {
    pub(super) fn new(
        trust_domain: TrustDomain,
        endpoint: Federation,
        at_first: Option<TrustBundle>,
        bundles: &Arc<TrustBundles>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let judge = match &endpoint.profile {
            Profile::Web { ca_file } => Judge::Web(ca_file.clone()),
            Profile::Spiffe { endpoint: id } if *id.trust_domain() == trust_domain => {
                Judge::Itself(id.clone(), Arc::new(TrustBundles::new(at_first.clone())))
            }
            Profile::Spiffe { endpoint: id } => Judge::Other(id.clone(), Arc::clone(bundles)),
        };
        let kept = (trust_domain, endpoint.keep_for);
        let holder = Holder::new(kept, Arc::clone(bundles), at_first, clock.now());
        Self { endpoint, holder, judge, sequence: None, hint: None, failures: 0, clock: Arc::clone(clock) }
    }

    /// Fetches when it is time, until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let asking = ask(&self.endpoint, &self.judge, &self.clock);
            let (holder, clock) = (&mut self.holder, &self.clock);
            let Some(got) = meanwhile(asking, || holder.look(clock.now()), &stop).await else { return };
            let pause = self.settle(got, self.clock.now());
            let (holder, clock) = (&mut self.holder, &self.clock);
            let pausing = tokio::time::sleep(pause);
            if meanwhile(pausing, || holder.look(clock.now()), &stop).await.is_none() {
                return;
            }
        }
    }

    /// Takes what came or does not, and says when to ask again.
    fn settle(&mut self, got: Result<Vec<u8>, FetchError>, now: Timestamp) -> Duration {
        let parsed = got.map_err(|why| why.to_string()).and_then(|text| {
            TrustBundle::published(self.holder.trust_domain().clone(), &text).map_err(|why| why.to_string())
        });
        let outcome = parsed.and_then(|published| self.take(published, now));
        self.failures = match outcome {
            Ok(()) => 0,
            Err(why) => {
                self.holder.trouble(&format!("{}: {why}", self.endpoint.url));
                self.failures.saturating_add(1)
            }
        };
        pause(self.hint, self.endpoint.keep_for, self.holder.is_in_force(), self.failures)
    }

    fn take(&mut self, new: Published, now: Timestamp) -> Result<(), String> {
        let held = self.sequence.and_then(|sequence| Some((sequence, self.holder.last()?)));
        match order(held, new.sequence, &new.bundle) {
            Order::Next => {}
            Order::Stale { held, came } => {
                return Err(format!(
                    "it gave a bundle of sequence {came}, older than the one of {held} that is held"
                ));
            }
            Order::Unordered { both } => {
                return Err(format!(
                    "it gave another bundle of the sequence {both} that is held, which adds authorities: nobody can say which is newer"
                ));
            }
        }
        (self.sequence, self.hint) = (new.sequence, new.refresh_hint);
        if let Judge::Itself(_, bundles) = &self.judge {
            bundles.set(new.bundle.clone());
        }
        self.holder.take(new.bundle, now);
        Ok(())
    }
}

/// Whether a bundle follows the one that is held.
#[derive(Debug, PartialEq, Eq)]
enum Order {
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
fn order(held: Option<(u64, &TrustBundle)>, came: Option<u64>, bundle: &TrustBundle) -> Order {
    match (held, came) {
        (Some((held, _)), Some(came)) if came < held => Order::Stale { held, came },
        (Some((held, old)), Some(came)) if came == held && !bundle.is_part_of(old) => {
            Order::Unordered { both: came }
        }
        _ => Order::Next,
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

async fn ask(endpoint: &Federation, judge: &Judge, clock: &Arc<dyn Clock>) -> Result<Vec<u8>, FetchError> {
    let tls = match judge {
        Judge::Web(ca_file) => {
            let file = ca_file.clone();
            // Read each time, so that they are followed.
            let roots = tokio::task::spawn_blocking(move || fetch::roots(file.as_deref())).await;
            Tls::web(roots.map_err(|_| FetchError::Stopped)??)?
        }
        Judge::Other(id, bundles) | Judge::Itself(id, bundles) => {
            let judge = Arc::new(PeerJudge::new(Arc::clone(bundles), Side::Server));
            Tls::spiffe(ClientTls::unnamed(judge, id.clone(), Arc::clone(clock)).map_err(FetchError::Tls)?)
        }
    };
    fetch(&endpoint.url, endpoint.follow_redirects, &tls).await
}

#[cfg(test)]
mod tests;

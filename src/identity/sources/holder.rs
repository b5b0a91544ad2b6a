//! The bundle of one trust domain that comes from elsewhere: the last good one is in force, for as long as it may be without news.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::identity::bundle::{TrustBundle, TrustBundles};
use crate::identity::spiffe_id::TrustDomain;
use crate::time::Timestamp;

/// How often a holder is asked to look at the time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the last good bundle of a trust domain in force until `keep_for` after it was last confirmed; from then on every SVID of the trust domain
/// is refused, until there is a good one again. So is it before there was one.
///
/// `now` is an argument: whoever holds this asks [`Holder::look`] about once a second.
pub(super) struct Holder {
    trust_domain: TrustDomain,
    keep_for: Duration,
    bundles: Arc<TrustBundles>,
    last: Option<TrustBundle>,
    confirmed: Confirmed,
    in_force: bool,
    trouble: Option<String>,
}

impl Holder {
    /// With a bundle that is trusted from the start, if there is one.
    pub(super) fn new(
        (trust_domain, keep_for): (TrustDomain, Duration),
        bundles: Arc<TrustBundles>,
        at_first: Option<TrustBundle>,
        now: Timestamp,
    ) -> Self {
        let mut new = Self {
            trust_domain,
            keep_for,
            bundles,
            last: at_first,
            confirmed: Confirmed::new(now),
            in_force: false,
            trouble: None,
        };
        match new.last.clone() {
            Some(bundle) => {
                tell(&bundle);
                new.confirm_at(now, now);
                new.put(bundle);
            }
            None => new.refuse("there is no bundle yet"),
        }
        new
    }

    /// Whose bundle.
    pub(super) const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether what is held counts.
    pub(super) const fn is_in_force(&self) -> bool {
        self.in_force
    }

    /// A good bundle came: it is in force from now on.
    pub(super) fn take(&mut self, bundle: TrustBundle, now: Timestamp) {
        let same = self.in_force && self.last.as_ref().is_some_and(|last| last.trusts_the_same(&bundle));
        if !same {
            tell(&bundle);
        }
        self.last = Some(bundle.clone());
        self.confirm_at(now, now);
        self.put(bundle);
        self.well();
    }

    /// The source gave this before, when this process was not asking: it counts from then on, as if it had been. `None`: nobody can say from when, so it does not.
    pub(super) fn recall(&mut self, bundle: TrustBundle, confirmed: Option<Timestamp>, now: Timestamp) {
        self.last = Some(bundle.clone());
        match confirmed {
            Some(confirmed) if now.since(confirmed) < self.keep_for => {
                tell(&bundle);
                self.confirm_at(confirmed, now);
                self.put(bundle);
            }
            _ => {
                let confirmed = confirmed.map_or_else(|| "in the future".to_owned(), |it| it.to_string());
                let kept = humantime::format_duration(self.keep_for);
                self.refuse(&format!("what its source gave last counts for {kept} (keep_for), and was last confirmed {confirmed}"));
                self.bad(true);
            }
        }
    }

    fn confirm_at(&mut self, at: Timestamp, now: Timestamp) {
        self.confirmed.set(at, now);
        metrics::gauge!("taskpass_bundle_confirmed_timestamp_seconds",
            "trust_domain" => self.trust_domain.to_string())
        .set(at.as_secs() as f64);
    }

    /// The operator gives one: it is in force from now on. Of the source that says nothing.
    pub(super) fn put_by_hand(&mut self, bundle: TrustBundle, now: Timestamp) {
        tell(&bundle);
        self.last = Some(bundle.clone());
        self.confirm_at(now, now);
        self.put(bundle);
    }

    /// What is held was good until now, the source being there; unless the last that it gave was not good.
    pub(super) fn confirm(&mut self, now: Timestamp) {
        if self.trouble.is_none() {
            self.confirm_at(now, now);
        }
    }

    /// Nothing good came. What is held stays until its time is over. The same trouble is told once.
    pub(super) fn trouble(&mut self, why: &str) {
        if self.trouble.as_deref() != Some(why) {
            tracing::error!(trust_domain = %self.trust_domain, problem = why, held = self.in_force,
                "no trust bundle could be had; the last good one counts until its time is over");
            self.trouble = Some(why.to_owned());
        }
        self.bad(true);
    }

    /// The source has taken the bundle back: it is forgotten.
    pub(super) fn withdraw(&mut self, why: &str) {
        if self.last.take().is_some() || self.in_force {
            self.refuse(why);
        }
        self.bad(true);
    }

    /// Lets go of what was not confirmed for too long.
    pub(super) fn look(&mut self, now: Timestamp) {
        let since = self.confirmed.since(now);
        if self.in_force && since >= self.keep_for {
            let why = format!(
                "its source was not heard for {} (keep_for), last at {}",
                humantime::format_duration(self.keep_for),
                self.confirmed.at
            );
            self.refuse(&why);
            self.bad(true);
        }
    }

    fn well(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(trust_domain = %self.trust_domain, "the trust bundle's source is well again");
        }
        self.bad(false);
    }

    fn bad(&self, bad: bool) {
        metrics::gauge!("taskpass_bundle_source_bad", "trust_domain" => self.trust_domain.to_string())
            .set(if bad { 1.0 } else { 0.0 });
    }

    fn put(&mut self, bundle: TrustBundle) {
        count(&bundle);
        self.bundles.set(bundle);
        self.in_force = true;
    }

    fn refuse(&mut self, why: &str) {
        tracing::error!(trust_domain = %self.trust_domain, why,
            "every SVID of this trust domain is refused until a trust bundle can be had");
        if let Ok(nothing) = TrustBundle::from_certificates(self.trust_domain.clone(), []) {
            count(&nothing);
            self.bundles.set(nothing);
        }
        self.in_force = false;
    }
}

/// When something was confirmed last. A clock that is set back takes nothing from the time that has passed since, as far as it was looked at before.
pub(super) struct Confirmed {
    at: Timestamp,
    seen: Timestamp,
}

impl Confirmed {
    pub(super) const fn new(now: Timestamp) -> Self {
        Self { at: now, seen: now }
    }

    pub(super) const fn set(&mut self, at: Timestamp, now: Timestamp) {
        (self.at, self.seen) = (at, now);
    }

    /// How long ago that is; to be asked often.
    pub(super) fn since(&mut self, now: Timestamp) -> Duration {
        self.at = self.at.saturating_sub(self.seen.since(now));
        self.seen = now;
        now.since(self.at)
    }
}

/// Waits for `future`, and does `look` at once and about once a second meanwhile, whatever comes. `None`: stopped before.
pub(super) async fn meanwhile<T>(
    future: impl Future<Output = T>,
    mut look: impl FnMut(),
    stop: &CancellationToken,
) -> Option<T> {
    if stop.is_cancelled() {
        return None;
    }
    // What is waited for may be there each time, and what is held has an end all the same.
    look();
    let mut ticks = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(future);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            done = &mut future => return Some(done),
            _ = ticks.tick() => look(),
        }
    }
}

/// Says how many authorities are in force.
pub(super) fn count(bundle: &TrustBundle) {
    metrics::gauge!("taskpass_bundle_authorities", "trust_domain" => bundle.trust_domain().to_string())
        .set(u32::try_from(bundle.len()).unwrap_or(u32::MAX));
}

/// Says what came into force, and what of it was left out.
pub(super) fn tell(bundle: &TrustBundle) {
    for refusal in bundle.skipped() {
        tracing::error!(trust_domain = %bundle.trust_domain(), reason = refusal.as_str(),
            "a certificate of a trust bundle is left out: {refusal}");
    }
    if bundle.is_empty() {
        tracing::warn!(trust_domain = %bundle.trust_domain(),
            "the trust bundle is empty: every SVID of this trust domain is refused");
    } else {
        tracing::info!(trust_domain = %bundle.trust_domain(), anchors = bundle.len(), "trust bundle in force");
    }
}

#[cfg(test)]
mod tests;

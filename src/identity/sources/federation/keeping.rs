//! What an endpoint that vouches for itself gave, kept beyond this process: when to write it, and which of two counts.

use std::sync::Arc;
use std::time::Duration;

use crate::identity::bundle::{Published, TrustBundle};
use crate::identity::sources::kept::{Found, Kept, KeptMark, OutOfReach, Shelf, TURNS};
use crate::identity::sources::settings::{Federation, Profile};
use crate::identity::spiffe_id::TrustDomain;
use crate::time::Timestamp;

/// A confirmation alone is written when so much of the time has passed that a bundle is kept: eight writes in `keep_for` at most, and after a restart a bundle counts for an eighth less.
const PARTS: u32 = 8;
/// What clocks of brokers may be apart. What was confirmed later than that from now was not confirmed.
const MAX_AHEAD: Duration = Duration::from_secs(5);

/// A good answer of this process.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) document: Vec<u8>,
    pub(super) published: Published,
    pub(super) confirmed: Timestamp,
}

/// A good answer of an earlier one, or of another broker.
pub(super) struct Recalled {
    pub(super) published: Published,
    /// `None`: nobody can say when.
    pub(super) confirmed: Option<Timestamp>,
}

/// Keeps what one endpoint gave.
pub(super) struct Keeping {
    trust_domain: TrustDomain,
    url: String,
    endpoint: String,
    every: Duration,
    shelf: Arc<dyn Shelf>,
    /// What lies there, as far as this broker knows.
    at_rest: Option<(Given, [u8; 32])>,
    looked: bool,
    /// The operator has spoken, and what lies there has not been looked at since: it is older than that.
    outdated: bool,
    /// When the operator spoke last, while this process ran: what was confirmed before that does not count, wherever it comes from.
    spoken: Option<Timestamp>,
    troubled: bool,
    told: Option<KeptMark>,
}

impl Keeping {
    /// Of an endpoint that proves itself by an SVID of `trust_domain`; `None` for every other one.
    pub(super) fn new(
        trust_domain: &TrustDomain,
        endpoint: &Federation,
        shelf: Arc<dyn Shelf>,
    ) -> Option<Self> {
        let Profile::Spiffe { endpoint: id } = &endpoint.profile else { return None };
        (id.trust_domain() == trust_domain).then(|| Self {
            trust_domain: trust_domain.clone(),
            url: endpoint.url.to_string(),
            endpoint: id.to_string(),
            every: endpoint.keep_for / PARTS,
            shelf,
            at_rest: None,
            looked: false,
            outdated: false,
            spoken: None,
            troubled: false,
            told: None,
        })
    }

    /// What lies there does not count any more, nor does whatever of that time is put there again.
    pub(super) const fn outdate(&mut self, now: Timestamp) {
        (self.outdated, self.spoken) = (true, Some(now));
    }

    /// Does what is due: looks what lies there, takes away what does not count any more, writes what is new. `beside`: the digest of the operator's files. What comes back is newer than `given`, and counts in its place.
    /// What cannot be done now is done the next time.
    pub(super) async fn settle(
        &mut self,
        given: Option<&Given>,
        beside: [u8; 32],
        now: Timestamp,
    ) -> Option<Recalled> {
        if self.looked && !self.outdated && given.is_none_or(|given| !self.is_due(given, beside)) {
            return None;
        }
        match self.turn(given, beside, now).await {
            Ok(newer) => {
                (self.looked, self.outdated) = (true, false);
                if std::mem::take(&mut self.troubled) {
                    tracing::info!(trust_domain = %self.trust_domain, "what a bundle endpoint gives is kept in the store again");
                }
                newer
            }
            Err(why) => {
                if !std::mem::replace(&mut self.troubled, true) {
                    tracing::warn!(trust_domain = %self.trust_domain, %why,
                        "what a bundle endpoint gives cannot be kept in the store now: a broker that starts would begin with the configured bundle");
                }
                None
            }
        }
    }

    fn is_due(&self, given: &Given, beside: [u8; 32]) -> bool {
        let Some((at_rest, by)) = &self.at_rest else { return true };
        *by != beside
            || !says_the_same(&at_rest.published, &given.published)
            || given.confirmed.since(at_rest.confirmed) >= self.every
    }

    async fn turn(
        &mut self,
        given: Option<&Given>,
        beside: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<Recalled>, OutOfReach> {
        for _ in 0..TURNS {
            let found = self.shelf.look(&self.trust_domain).await?;
            let mark = found.as_ref().map(|it| it.mark);
            let stored = found.and_then(|it| self.counts(it, beside));
            if let Some(stored) = stored
                && let Some(newer) = self.yields(given, stored, beside, now)
            {
                return Ok(newer);
            }
            if given.is_none() && mark.is_none() {
                return Ok(None);
            }
            let kept = given.map(|given| self.kept(given, beside));
            if self.shelf.put(&self.trust_domain, mark, kept.as_ref()).await? {
                self.at_rest = given.cloned().map(|given| (given, beside));
                return Ok(None);
            }
        }
        Err(OutOfReach("other brokers write it all the time".to_owned()))
    }

    /// What was kept for this very endpoint, beside what the operator's files hold now.
    fn counts(&mut self, found: Found, beside: [u8; 32]) -> Option<Given> {
        let read = found.kept.and_then(|kept| {
            let published = TrustBundle::published(self.trust_domain.clone(), &kept.document);
            published.map(|it| (kept, it)).map_err(|why| why.to_string())
        });
        let (kept, published) = match read {
            Ok(read) => read,
            Err(why) => {
                if self.told.replace(found.mark) != Some(found.mark) {
                    tracing::warn!(trust_domain = %self.trust_domain, why,
                        "what is kept of a bundle endpoint is not to be trusted: the configured bundle counts, as if there were nothing");
                }
                return None;
            }
        };
        let same = kept.url == self.url && kept.endpoint == self.endpoint && kept.beside == beside;
        let later = self.spoken.is_none_or(|spoken| kept.confirmed > spoken);
        (same && later && !self.outdated).then_some(Given {
            document: kept.document,
            published,
            confirmed: kept.confirmed,
        })
    }

    /// Whether what lies there stays. What of it is newer than what this process has.
    fn yields(
        &mut self,
        given: Option<&Given>,
        stored: Given,
        beside: [u8; 32],
        now: Timestamp,
    ) -> Option<Option<Recalled>> {
        let ahead = stored.confirmed > now.saturating_add(MAX_AHEAD);
        let recalled = |stored: &Given| Recalled {
            published: stored.published.clone(),
            confirmed: (!ahead).then_some(stored.confirmed.min(now)),
        };
        let newer = match given {
            // Already looked at: this process has it, or what came after it.
            None => (!self.looked).then(|| recalled(&stored)),
            Some(given) if given.published.follows(&stored.published).is_err() => Some(recalled(&stored)),
            Some(given) => {
                let same = says_the_same(&given.published, &stored.published);
                let since = given.confirmed.since(stored.confirmed);
                let higher = given.published.sequence > stored.published.sequence;
                if ahead || higher || !(since.is_zero() || (same && since < self.every)) {
                    return None;
                }
                None
            }
        };
        self.at_rest = Some((stored, beside));
        Some(newer)
    }

    fn kept(&self, given: &Given, beside: [u8; 32]) -> Kept {
        Kept {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            beside,
            document: given.document.clone(),
            confirmed: given.confirmed,
        }
    }
}

/// Whether nothing but the time tells them apart.
fn says_the_same(one: &Published, other: &Published) -> bool {
    one.sequence == other.sequence
        && one.refresh_hint == other.refresh_hint
        && one.bundle.trusts_the_same(&other.bundle)
}

#[cfg(test)]
mod tests;

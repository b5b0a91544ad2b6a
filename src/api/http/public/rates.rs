//! How often one address may ask. Of as many addresses as may be remembered each has a rate of its own; beyond that the one that has not come for the longest time begins anew, so
//! that many addresses can neither fill the memory nor shut out others.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;

use crate::identity::Origin;

/// Addresses that are remembered, for each kind of asking.
const ADDRESSES: usize = 16 * 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// A handshake, which is what costs most.
    Connection,
    /// A page.
    Request,
}

/// The rates of all addresses.
pub(super) struct Rates {
    quota: Quota,
    connections: Cache<Origin, Arc<DefaultDirectRateLimiter>>,
    requests: Cache<Origin, Arc<DefaultDirectRateLimiter>>,
}

impl Rates {
    /// So many of each kind in a second; as many at once after a pause.
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self {
            quota: Quota::per_second(per_second),
            connections: Cache::new(ADDRESSES),
            requests: Cache::new(ADDRESSES),
        }
    }

    /// Whether one more is to be had; it counts.
    pub(super) fn admit(&self, ask: Ask, from: Origin) -> bool {
        let known = match ask {
            Ask::Connection => &self.connections,
            Ask::Request => &self.requests,
        };
        let fresh = || Ok::<_, Infallible>(Arc::new(RateLimiter::direct(self.quota)));
        let Ok(rate) = known.get_or_insert_with(&from, fresh);
        rate.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_address_has_a_rate_of_its_own_and_no_more_are_remembered_than_may_be() {
        let rates = Rates::new(NonZeroU32::new(3).unwrap());
        let from = |n: u32| Origin::V4(Ipv4Addr::from(n));
        let admitted = |n| (0..9).filter(|_| rates.admit(Ask::Request, from(n))).count();
        assert_eq!((admitted(1), admitted(2)), (3, 3));
        assert!(!rates.admit(Ask::Request, from(1)));
        assert!(rates.admit(Ask::Connection, from(1)), "connections are counted apart");
        for n in 0..3 * u32::try_from(ADDRESSES).unwrap() {
            rates.admit(Ask::Request, from(n));
        }
        assert!(rates.requests.len() <= ADDRESSES);
        assert!(rates.admit(Ask::Request, from(u32::MAX)), "others are not shut out");
    }
}

//! How much of something scarce each workload, or whoever else is told apart, holds at the moment, so that none takes it all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SpiffeId;

/// Counts by holder. Forgets one that holds nothing, so that it is as large as what is held.
#[derive(Debug)]
pub struct Shares<K = SpiffeId> {
    most: usize,
    held: Mutex<HashMap<K, usize>>,
}

/// One of the things that somebody may hold; dropping it gives it back.
#[derive(Debug)]
pub struct Share<K: Eq + Hash = SpiffeId> {
    of: Arc<Shares<K>>,
    who: K,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// At most `most` for each.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// One more for `who`; nothing if it holds as many as it may.
    pub fn take(self: &Arc<Self>, who: &K) -> Option<Share<K>> {
        let mut held = self.held();
        match held.get_mut(who) {
            Some(count) if *count >= self.most => return None,
            Some(count) => *count += 1,
            None if self.most == 0 => return None,
            None => drop(held.insert(who.clone(), 1)),
        }
        Some(Share { of: Arc::clone(self), who: who.clone() })
    }
}

impl<K> Shares<K> {
    fn held(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // Whoever panicked has left whole numbers.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.of.held();
        match held.get_mut(&self.who) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.who)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_workload_has_a_share_of_its_own_and_nobody_is_remembered() {
        let shares = Shares::new(2);
        let (a, b): (SpiffeId, SpiffeId) =
            ("spiffe://a.test/a".parse().unwrap(), "spiffe://a.test/b".parse().unwrap());
        let (first, second) = (shares.take(&a).unwrap(), shares.take(&a).unwrap());
        assert!(shares.take(&a).is_none());
        let other = shares.take(&b).unwrap();
        drop(first);
        let third = shares.take(&a).unwrap();
        assert!(shares.take(&a).is_none());
        drop((second, third, other));
        assert!(shares.held().is_empty());
    }
}

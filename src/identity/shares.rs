//! How much of something scarce each workload holds at the moment, so that none takes it all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SpiffeId;

/// Counts by workload. Forgets a workload that holds nothing, so that it is as large as what is held.
#[derive(Debug)]
pub struct Shares {
    most: usize,
    held: Mutex<HashMap<SpiffeId, usize>>,
}

/// One of the things that a workload may hold; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    who: SpiffeId,
}

impl Shares {
    /// At most `most` for each workload.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// One more for `who`; nothing if it holds as many as it may.
    pub fn take(self: &Arc<Self>, who: &SpiffeId) -> Option<Share> {
        let mut held = self.held();
        match held.get_mut(who) {
            Some(count) if *count >= self.most => return None,
            Some(count) => *count += 1,
            None if self.most == 0 => return None,
            None => drop(held.insert(who.clone(), 1)),
        }
        Some(Share { of: Arc::clone(self), who: who.clone() })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<SpiffeId, usize>> {
        // Whoever panicked has left whole numbers.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
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

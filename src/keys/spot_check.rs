//! When our own signatures are verified before they leave.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One in so many signatures is verified, once the key has proven itself.
const SAMPLE: u64 = 256;

/// Verifying costs three times the signing, so not every signature is verified: each one until the first is found good, then a sample, and again each one
/// after a bad one. One for each active key and process.
#[derive(Debug, Default)]
pub struct SpotCheck {
    proven: AtomicBool,
    count: AtomicU64,
}

impl SpotCheck {
    /// For a key that has not signed yet in this process.
    pub const fn new() -> Self {
        Self { proven: AtomicBool::new(false), count: AtomicU64::new(0) }
    }

    /// Whether this signature is to be verified.
    pub fn is_due(&self) -> bool {
        let sampled = self.count.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE);
        sampled || !self.proven.load(Ordering::Relaxed)
    }

    /// What verifying found; hands the finding through.
    pub fn found<T, E>(&self, finding: Result<T, E>) -> Result<T, E> {
        self.proven.store(finding.is_ok(), Ordering::Relaxed);
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signature_is_verified_until_one_is_good_and_then_one_in_256() {
        let check = SpotCheck::new();
        for _ in 0..3 {
            assert!(check.is_due());
            check.found(Err::<(), _>(())).unwrap_err();
        }
        assert!(check.is_due());
        check.found(Ok::<_, ()>(())).unwrap();
        let due = (0..2560).filter(|_| check.is_due()).count();
        assert_eq!(due, 10);
        check.found(Err::<(), _>(())).unwrap_err();
        assert!(check.is_due() && check.is_due());
    }
}

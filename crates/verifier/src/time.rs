//! Moments as tokens carry them.

use serde::{Deserialize, Serialize};

/// Whole seconds since the Unix epoch, in UTC; a `NumericDate` (RFC 7519, section 2) without a fraction. In JSON an integer:
/// a fraction, an exponent, a sign or a string is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// Later by `seconds`; saturates.
    pub const fn saturating_add(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// How many seconds after `earlier` this is; `None` if it is before.
    pub const fn since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

/// What is known of the present: it is not before one second and not after another. What begins is judged by the first, what ends by the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    /// It is not before this.
    pub earliest: UnixSeconds,
    /// It is not after this.
    pub latest: UnixSeconds,
}

impl Between {
    /// The present is known exactly.
    pub const fn exactly(now: UnixSeconds) -> Self {
        Self { earliest: now, latest: now }
    }
}

impl From<UnixSeconds> for Between {
    fn from(now: UnixSeconds) -> Self {
        Self::exactly(now)
    }
}

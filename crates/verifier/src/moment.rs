//! Moments on a clock that nobody sets.

use std::time::Duration;

/// Nanoseconds of a monotonic clock that runs on while the machine is suspended: on Linux `CLOCK_BOOTTIME`. Only differences mean
/// anything. Nothing in this crate reads a clock: whoever reads another one, such as one that stands still through a suspension, makes
/// a verifier believe that what it heard is newer than it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// From nanoseconds since any fixed point, such as the machine's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Later by `duration`; saturates after five centuries.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How far apart two moments are, whichever is the later.
    pub const fn distance(self, other: Self) -> Duration {
        Duration::from_nanos(self.0.abs_diff(other.0))
    }
}

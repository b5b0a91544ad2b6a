//! The broker's time, carried forward on the verifier's monotonic clock.

use crate::moment::Moment;
use crate::time::{Between, UnixSeconds};

/// One hearing of the broker's clock: it was read after a beat was sent and before the answer came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) broker_millis: u64,
    pub(super) sent: Moment,
    pub(super) received: Moment,
}

impl Reading {
    /// What the broker's clock shows at a moment: between what it would if it was read just before the answer came, and what it would if it was
    /// read just after the beat was sent. A delayed message only widens this, downwards for the beginning of a validity and upwards for its end.
    pub(super) fn at(&self, at: Moment) -> Between {
        let carried = |from: Moment| {
            let past = i128::from(at.as_nanos()) - i128::from(from.as_nanos());
            let millis = i128::from(self.broker_millis) + past.div_euclid(1_000_000);
            u64::try_from(millis.max(0)).unwrap_or(u64::MAX)
        };
        let seconds = |millis: u64| UnixSeconds(millis / 1_000);
        Between { earliest: seconds(carried(self.received)), latest: seconds(carried(self.sent)) }
    }
}

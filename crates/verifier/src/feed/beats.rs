//! The follower's own beats: freshness is counted from when they were sent.

use std::collections::VecDeque;

use super::violation::Violation;
use crate::moment::Moment;

/// Beats that are remembered. A broker that names an older one says nothing that would keep anybody fresh.
const REMEMBERED: usize = 64;

/// Of one stream.
#[derive(Debug, Default)]
pub(super) struct Beats {
    sent: VecDeque<(u64, Moment)>,
    last: u64,
}

impl Beats {
    /// The number of a beat that is sent now, or later.
    pub(super) fn send(&mut self, now: Moment) -> u64 {
        self.last = self.last.saturating_add(1);
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.last, now));
        self.last
    }

    /// When the beat was sent that a heartbeat names. None: no beat at all, one that an earlier heartbeat has gone beyond, or one that is no longer
    /// remembered; it keeps nobody fresh. An error: it was never sent.
    pub(super) fn sent_at(&mut self, number: u64) -> Result<Option<Moment>, Violation> {
        if number > self.last {
            return Err(Violation::UnknownBeat);
        }
        while self.sent.front().is_some_and(|(sent, _)| *sent < number) {
            self.sent.pop_front();
        }
        Ok(self.sent.front().filter(|(sent, _)| *sent == number).map(|(_, moment)| *moment))
    }
}

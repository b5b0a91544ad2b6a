//! Refused peers in the log: the first of each reason in each second, with the number of those that were left out before it. Whoever knocks without
//! end fills no disk; the metrics count all of them.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines of one reason.
const SPACING: Duration = Duration::from_secs(1);

/// What was logged lately, by reason; there are as many reasons as the code names.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<&'static str, Logged>>);

#[derive(Clone, Copy, Debug)]
struct Logged {
    at: Instant,
    left_out: u64,
}

impl Refusals {
    /// Counts a caller that gets no connection, and logs it if it is its turn.
    pub(super) fn add(&self, remote: SocketAddr, reason: &'static str, why: &dyn Display) {
        metrics::counter!("taskpass_peer_refused_total", "reason" => reason).increment(1);
        if let Some(left_out) = self.turn(reason, Instant::now()) {
            tracing::info!(%remote, reason, left_out, "peer refused: {why}");
        }
    }

    /// How many of this reason were left out since the last one that was logged, if this one is to be.
    fn turn(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match logged.get_mut(reason) {
            Some(last) if now.duration_since(last.at) < SPACING => {
                last.left_out += 1;
                None
            }
            last => {
                let left_out = last.map_or(0, |last| last.left_out);
                logged.insert(reason, Logged { at: now, left_out: 0 });
                Some(left_out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_of_each_reason_is_logged_a_second_and_says_how_many_were_not() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.turn("tls", now), Some(0));
        for _ in 0..1_000 {
            assert_eq!(refusals.turn("tls", now + SPACING / 2), None);
        }
        assert_eq!(refusals.turn("expired", now + SPACING / 2), Some(0));
        assert_eq!(refusals.turn("tls", now + SPACING), Some(1_000));
        assert_eq!(refusals.turn("tls", now + SPACING * 3), Some(0));
    }
}

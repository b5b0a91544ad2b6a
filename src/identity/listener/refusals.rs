//! Refused peers in the log: a line a second for each reason. Whoever knocks without end fills no disk; the metrics count all of them.

use std::fmt::Display;
use std::net::SocketAddr;

use tokio::time::Instant;

use crate::sampled::Sampled;

/// What was logged lately, by reason.
#[derive(Debug, Default)]
pub(super) struct Refusals(Sampled);

impl Refusals {
    /// Counts a caller that gets no connection, and logs it if it is its turn.
    pub(super) fn add(&self, remote: SocketAddr, reason: &'static str, why: &dyn Display) {
        metrics::counter!("taskpass_peer_refused_total", "reason" => reason).increment(1);
        if let Some(left_out) = self.0.turn(reason, Instant::now()) {
            tracing::info!(%remote, reason, left_out, "peer refused: {why}");
        }
    }
}

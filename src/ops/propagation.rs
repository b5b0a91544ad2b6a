//! How far an end has come among those who follow: the part of a receipt that others have to answer for.

use std::time::Duration;

use taskpass_verifier::ids::Partition;

use super::Broker;
use crate::feed::{Applied, Concern, Sent};
use crate::task::store::Position;

/// How long an end waits for followers if the caller does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);

/// An end that the store has acknowledged, on its way.
#[derive(Debug)]
pub(super) struct Spread {
    /// Its places in the histories of partitions.
    pub(super) at: Vec<(Partition, Sent)>,
    /// Whom it concerns.
    pub(super) concern: Concern,
}

impl Spread {
    /// Of one entry.
    pub(super) fn from(partition: Partition, position: Position, concern: Concern) -> Self {
        Self { at: vec![(partition, position.into())], concern }
    }
}

impl Broker {
    /// Waits until every follower whom it concerns has applied an end, for as long as the caller likes, and at most half of what a call may take. After the audit line: the end
    /// is done, whoever waits.
    pub(super) async fn propagated(&self, spread: &Spread, wait: Option<Duration>) -> Applied {
        let most = self.settings.limits.call_timeout / 2;
        self.feed.applied(&spread.at, &spread.concern, wait.unwrap_or(DEFAULT_WAIT).min(most)).await
    }
}

//! How far an end has come among those who follow: the part of a receipt that others have to answer for.

use std::time::Duration;

use taskpass_verifier::ids::Partition;

use super::Broker;
use crate::feed::{Applied, Concern, Sent};
use crate::revoke::feed::Happened;
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
    /// What had happened before, and is only told again: then `at` is a later place than its own.
    pub(super) again: Option<Happened>,
}

impl Spread {
    /// Of one entry.
    pub(super) fn from(partition: Partition, position: Position, concern: Concern) -> Self {
        Self { at: vec![(partition, position.into())], concern, again: None }
    }

    /// It happened at this place, or had happened before it.
    pub(super) fn again(self, what: Happened) -> Self {
        Self { again: Some(what), ..self }
    }
}

impl Broker {
    /// Waits until every follower whom it concerns has applied an end, for as long as the caller likes, and at most half of what a call may take. After the audit line: the end
    /// is done, whoever waits.
    pub(super) async fn propagated(&self, spread: &Spread, wait: Option<Duration>) -> Applied {
        let most = self.settings.limits.call_timeout / 2;
        let at = match (&spread.again, spread.at.as_slice()) {
            (Some(what), &[(partition, present)]) => {
                let place = self.feed.place_of(partition, what, present).await;
                place.map(|place| (partition, place)).into_iter().collect()
            }
            _ => spread.at.clone(),
        };
        self.feed.applied(&at, &spread.concern, wait.unwrap_or(DEFAULT_WAIT).min(most)).await
    }
}

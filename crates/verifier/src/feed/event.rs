//! What a feed said, once it was taken.

use std::time::Duration;

use super::violation::Violation;
use crate::ids::{Generation, Partition};
use crate::view::{Closed, Entry};

/// Something that was taken from the feed, or that happened to the stream.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A stream was opened.
    Connected {
        /// The broker's address, as it was configured.
        broker: &'a str,
    },
    /// The stream is over; the view is as it was, and grows old.
    Disconnected {
        /// The broker's address, as it was configured.
        broker: &'a str,
        /// For people. It may hold text that the broker sent.
        why: &'a str,
        /// The broker has refused the stream or the feed's keys, so that trying again helps only once somebody has changed something: whoever follows is not enrolled for the audience, or
        /// the audience or its trust domain is not known. It is tried again all the same.
        refused: bool,
    },
    /// A partition's snapshot is complete.
    Synchronised {
        /// Which.
        partition: Partition,
        /// Its generation.
        generation: Generation,
        /// Where in its history.
        seq: u64,
        /// What has ended there and is not yet to be forgotten.
        entries: &'a [Entry],
    },
    /// Something happened in a partition.
    Ended {
        /// Which.
        partition: Partition,
        /// Up to where its history is known now.
        seq: u64,
        /// What.
        entry: &'a Entry,
    },
    /// A partition could not be taken, and is closed until a later stream's snapshot covers what was known of it.
    Behind {
        /// Which.
        partition: Partition,
        /// Why.
        why: Closed,
    },
    /// The issuer's key set.
    Keys {
        /// It never falls.
        epoch: u64,
        /// `iss`.
        issuer: &'a str,
        /// How many keys.
        keys: usize,
    },
    /// The partitions are fresh, from when the beat was sent.
    Heartbeat {
        /// The newest beat that had come to the broker before its look at the store; 0 if none.
        beat: u64,
        /// The broker's clock at that look, in milliseconds since the epoch.
        broker_millis: u64,
        /// After how long without news everything is refused.
        bound: Duration,
        /// Bit n: it holds for partition n.
        partitions: u64,
    },
    /// Every partition is open and fresh.
    Opened,
    /// Not every partition is open and fresh any more: what is not, refuses.
    Stale,
    /// Everything is closed, until the next stream's snapshots.
    Closed {
        /// What was wrong.
        why: Violation,
    },
}

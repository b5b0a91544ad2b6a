//! The names of keys. What a partition holds shares one hash tag, so that a step stays in one slot.

use std::fmt::Display;

use taskpass_verifier::ids::Partition;

use super::scripts::sha1_hex;

/// All names begin with the configured prefix.
pub(super) struct Names {
    prefix: String,
    metas: Vec<String>,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        let metas = Partition::all().map(|partition| format!("{prefix}{{p{partition}}}m")).collect();
        Self { prefix: prefix.to_owned(), metas }
    }

    /// The partition's meta key, from which the scripts derive the others.
    pub(super) fn meta(&self, partition: Partition) -> &str {
        self.metas.get(usize::from(partition.number())).map_or("", String::as_str)
    }

    /// Another key of the partition.
    pub(super) fn of(&self, partition: Partition, what: impl Display) -> String {
        format!("{}{{p{partition}}}{what}", self.prefix)
    }

    /// The due index of a partition: it knows every task.
    pub(super) fn due(&self, partition: Partition) -> String {
        self.of(partition, 'd')
    }

    /// The index of an owner's tasks in a partition. Two owners may share one, so what it names is looked at again.
    pub(super) fn owner(&self, partition: Partition, owner: &str) -> String {
        let digest = sha1_hex(owner.as_bytes());
        self.of(partition, format_args!("o:{}", digest.get(..16).unwrap_or_default()))
    }

    /// The places of a workload.
    pub(super) fn places(&self, owner: &str) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, owner.as_bytes());
        let digest: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{}{{q:{digest}}}", self.prefix)
    }

    /// Intents of fences.
    pub(super) fn intents(&self) -> String {
        format!("{}{{fences}}", self.prefix)
    }

    /// Who follows; beside it, until when, under the same name with a `u` at its end.
    pub(super) fn followers(&self) -> String {
        format!("{}{{feed}}r", self.prefix)
    }

    /// The channel of nudges; append.lua derives it from the partition's meta key.
    pub(super) fn nudges(&self) -> String {
        format!("{}nudge", self.prefix)
    }

    /// The channel on which brokers announce.
    pub(super) fn announcements(&self) -> String {
        format!("{}brokers", self.prefix)
    }

    /// The keyring.
    pub(super) fn keyring(&self) -> String {
        format!("{}{{keyring}}", self.prefix)
    }

    /// Whose bundles are kept; beside it each of them, under the same name with a colon and the trust domain at its end.
    pub(super) fn bundles(&self) -> String {
        format!("{}{{bundles}}", self.prefix)
    }

    /// The run id and replication id of the server to which the store's content belongs.
    pub(super) fn run(&self) -> String {
        format!("{}{{run}}", self.prefix)
    }

    /// Brokers on record.
    pub(super) fn witnesses(&self) -> String {
        format!("{}{{run}}b", self.prefix)
    }

    /// Written before each `WAIT`, so that there is something of this connection to wait for.
    pub(super) fn mark(&self) -> String {
        format!("{}{{run}}mark", self.prefix)
    }
}

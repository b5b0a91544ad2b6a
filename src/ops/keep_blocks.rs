//! Blocks, watched: a store that lost its fences gets back those whose block is not over, from any broker that lives and knows of them.
//!
//! A broker knows of those that it has raised, of those that stood when it started, and of those that others have raised since: each fence is in every
//! partition, so one partition tells of all. A partition is looked at when its generation is not the one that it had, which is what a loss leaves
//! behind. Until the fences stand again the broker refuses by its own memory.

use std::collections::{BTreeMap, HashMap};

use futures_util::future::try_join_all;

use crate::audit::Outcome;
use crate::error::Result;
use crate::identity::SpiffeId;
use crate::ids::Partition;
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::task::store::{BeginOutcome, Position};
use crate::time::Timestamp;

use super::Broker;
use super::tasks::store_error;
use super::trail::Trail;

/// Where each partition stood when its blocks were last found in order.
#[derive(Debug, Default)]
pub(super) struct Kept(BTreeMap<Partition, Position>);

impl Kept {
    /// Whether its blocks are to be looked at. One partition is looked at whenever anything happened in it, for what other brokers have raised.
    fn is_news(&self, partition: Partition, at: &Position) -> bool {
        let Some(known) = self.0.get(&partition) else { return true };
        known.generation != at.generation || (partition.number() == 0 && known.seq != at.seq)
    }
}

impl Broker {
    /// What this broker itself says to a task that is to begin, whatever the store has forgotten.
    pub(super) fn blocked(&self, owner: &SpiffeId, now: Timestamp) -> Option<BeginOutcome> {
        let workload = FenceTarget::Workload(owner.to_string());
        let trust_domain = FenceTarget::TrustDomain(owner.trust_domain().to_string());
        self.blocks.until(&[workload, trust_domain], now).map(BeginOutcome::Blocked)
    }

    /// Learns of new blocks, and raises again what a partition has lost. What cannot be done now is done the next time.
    pub(super) async fn keep_blocks(&self, kept: &mut Kept, now: Timestamp) -> Result<()> {
        let positions = self.store.positions(now).await.map_err(store_error)?;
        let present = Partition::all().zip(positions).filter_map(|(partition, at)| Some((partition, at?)));
        let news: Vec<_> = present.filter(|(partition, at)| kept.is_news(*partition, at)).collect();
        let standing = news.iter().map(|(partition, _)| self.store.blocks(*partition, now));
        let standing = try_join_all(standing).await.map_err(store_error)?;
        for blocks in &standing {
            self.blocks.remember(blocks, now);
        }
        let mut lost: HashMap<FenceTarget, (FenceIntent, Vec<Partition>)> = HashMap::new();
        for ((partition, _), standing) in news.iter().zip(&standing) {
            for block in self.blocks.missing(standing, now) {
                let entry = lost.entry(block.target.clone());
                entry.or_insert_with(|| (block, Vec::new())).1.push(*partition);
            }
        }
        for (block, partitions) in lost.into_values() {
            self.raise_again(&block, &partitions, now).await?;
        }
        kept.0.extend(news);
        metrics::gauge!("taskpass_blocks_remembered").set(self.blocks.count(now) as f64);
        Ok(())
    }

    async fn raise_again(&self, block: &FenceIntent, lost_in: &[Partition], now: Timestamp) -> Result<()> {
        let (FenceTarget::Workload(target) | FenceTarget::TrustDomain(target)) = &block.target;
        tracing::warn!(target, partitions = lost_in.len(), "the store had lost a block; it is raised again");
        let raised = lost_in.iter().map(|partition| self.store.raise(*partition, block, now));
        try_join_all(raised).await.map_err(store_error)?;
        let mut trail = Trail::new("KeepBlock", target);
        trail.fact("fence", block.id);
        trail.fact("by", &block.by.spiffe_id);
        trail.fact("block_until", block.block_until);
        trail.fact("partitions", lost_in.len());
        self.write_audit(None, trail, Outcome::Done, now).await
    }
}

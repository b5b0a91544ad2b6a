//! Blocks, watched: a store that lost its fences gets back those whose block is not over, from any broker that lives and knows of them.
//!
//! A broker knows of those that it has raised, of those that stood when it started, and of those that others have raised since: each fence is in every
//! partition, so one partition tells of all. A partition is looked at when its generation is not the one that it had, which is what a loss leaves
//! behind. Until the fences stand again the broker refuses by its own memory.

use std::collections::{BTreeMap, HashMap};

use futures_util::future::join_all;

use crate::audit::Outcome;
use crate::error::Result;
use crate::failpoint::{Place, reach};
use crate::identity::SpiffeId;
use crate::ids::Partition;
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::task::store::{BeginOutcome, Position, StepResult};
use crate::time::{Clock, Timestamp};

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

    /// Learns of new blocks, and raises again what a partition has lost. What cannot be done now is done the next time, and holds up nothing else; the first error
    /// is the answer.
    pub(super) async fn keep_blocks(&self, kept: &mut Kept, clock: &dyn Clock) -> Result<()> {
        let positions = self.store.positions(clock.now()).await.map_err(store_error)?;
        let present = Partition::all().zip(positions).filter_map(|(partition, at)| Some((partition, at?)));
        let news = present.filter(|(partition, at)| kept.is_news(*partition, at));
        let now = clock.now();
        let looked =
            news.map(async |(partition, at)| (partition, at, self.store.blocks(partition, now).await));
        let (mut result, mut found) = (Ok(()), Vec::new());
        for (partition, at, standing) in join_all(looked.collect::<Vec<_>>()).await {
            match standing {
                Ok(standing) => {
                    self.blocks.remember(&standing, now);
                    found.push((partition, at, standing));
                }
                Err(error) => result = result.and(Err(store_error(error))),
            }
        }
        let mut lost: HashMap<FenceTarget, (FenceIntent, Vec<Partition>)> = HashMap::new();
        for (partition, _, standing) in &found {
            for block in self.blocks.missing(standing, now) {
                let entry = lost.entry(block.target.clone());
                entry.or_insert_with(|| (block, Vec::new())).1.push(*partition);
            }
        }
        kept.0.extend(found.into_iter().map(|(partition, at, _)| (partition, at)));
        for (block, partitions) in lost.into_values() {
            let raised = self.raise_again(&block, &partitions, clock.now()).await;
            if raised.is_err() {
                kept.0.retain(|partition, _| !partitions.contains(partition));
            }
            result = result.and(raised);
        }
        metrics::gauge!("taskpass_blocks_remembered").set(self.blocks.count(now) as f64);
        result
    }

    async fn raise_again(&self, block: &FenceIntent, lost_in: &[Partition], now: Timestamp) -> Result<()> {
        let target = block.target.name();
        tracing::warn!(target, partitions = lost_in.len(), "the store had lost a block; it is raised again");
        reach(Place::BlockLost);
        let raised = lost_in.iter().map(|partition| self.store.raise(*partition, block, now));
        let raised = join_all(raised).await;
        reach(Place::BlockKept);
        let stands_in = raised.iter().filter(|raised| raised.is_ok()).count();
        let raised: StepResult<Vec<_>> = raised.into_iter().collect();
        let raised = raised.map(drop).map_err(store_error);
        if stands_in == 0 {
            return raised;
        }
        let action = match block.target {
            FenceTarget::Workload(_) | FenceTarget::TrustDomain(_) => "KeepBlock",
            FenceTarget::Key(_) => "KeepKeyFence",
        };
        let mut trail = Trail::new(action, target);
        trail.fact("fence", block.id);
        trail.fact("by", &block.by.spiffe_id);
        trail.fact("block_until", block.block_until);
        trail.fact("partitions", stands_in);
        self.write_audit(None, trail, Outcome::Done, now).await?;
        raised
    }
}

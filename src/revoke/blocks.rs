//! Blocks: what a broker remembers of the fences that refuse new tasks for a time, so that a store that lost them gets them back.
//!
//! Nothing that is older can bring a dead task back: a lost store has a new generation. But what an operator has forbidden to begin must not begin because
//! the store forgot it, while a broker lives that knows better.

use std::collections::HashMap;

use arc_swap::ArcSwap;

use super::fence::{FenceIntent, FenceTarget};
use crate::time::Timestamp;

/// The blocks that are not over, by target. Reading takes no lock.
#[derive(Debug, Default)]
pub struct Blocks(ArcSwap<HashMap<FenceTarget, FenceIntent>>);

impl Blocks {
    /// Remembers fences that were raised here or seen in the store; of one target the longest block. Forgets what is over.
    pub fn remember(&self, seen: &[FenceIntent], now: Timestamp) {
        let refuses = |fence: &FenceIntent| fence.block_until > now;
        self.0.rcu(|known| {
            let mut blocks = HashMap::clone(known);
            blocks.retain(|_, fence| refuses(fence));
            for fence in seen.iter().filter(|fence| refuses(fence)) {
                let longer = |known: &FenceIntent| known.block_until >= fence.block_until;
                if !blocks.get(&fence.target).is_some_and(longer) {
                    blocks.insert(fence.target.clone(), fence.clone());
                }
            }
            blocks
        });
    }

    /// Until when new tasks are refused for one of these targets: the latest.
    pub fn until(&self, targets: &[FenceTarget], now: Timestamp) -> Option<Timestamp> {
        let blocks = self.0.load();
        let until = targets.iter().filter_map(|target| blocks.get(target).map(|fence| fence.block_until));
        until.filter(|until| *until > now).max()
    }

    /// How many are not over.
    pub fn count(&self, now: Timestamp) -> usize {
        self.0.load().values().filter(|fence| fence.block_until > now).count()
    }

    /// Those that what stands in a partition does not cover: they are to be raised there.
    pub fn missing(&self, standing: &[FenceIntent], now: Timestamp) -> Vec<FenceIntent> {
        let blocks = self.0.load();
        let covered = |block: &FenceIntent| {
            standing.iter().any(|it| it.target == block.target && it.block_until >= block.block_until)
        };
        let due = blocks.values().filter(|block| block.block_until > now && !covered(block));
        due.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::task::state::Actor;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn workload(id: &str) -> FenceTarget {
        FenceTarget::Workload(id.to_owned())
    }

    fn block(id: &str, until: u64) -> FenceIntent {
        FenceIntent {
            id: Uuid::from_u128(u128::from(until)),
            target: workload(id),
            at: at(1),
            block_until: at(until),
            forget_at: at(until),
            by: Actor { spiffe_id: String::new(), note: String::new() },
        }
    }

    #[test]
    fn the_longest_block_of_a_target_refuses_until_it_is_over() {
        let blocks = Blocks::default();
        blocks.remember(&[block("a", 100), block("a", 50), block("b", 10)], at(5));
        blocks.remember(&[block("a", 60)], at(6));
        assert_eq!(blocks.until(&[workload("a"), workload("b")], at(7)), Some(at(100)));
        assert_eq!(blocks.until(&[workload("b")], at(10)), None);
        assert_eq!((blocks.until(&[workload("c")], at(7)), blocks.count(at(7))), (None, 2));
        assert_eq!(blocks.until(&[workload("a")], at(100)), None);
        assert_eq!(blocks.missing(&[], at(100)), []);
    }

    #[test]
    fn what_stands_as_long_is_not_missing_whoever_raised_it() {
        let blocks = Blocks::default();
        blocks.remember(&[block("a", 100), block("b", 100)], at(5));
        let other = FenceIntent { id: Uuid::nil(), ..block("a", 100) };
        assert_eq!(blocks.missing(&[other, block("b", 99)], at(6)), [block("b", 100)]);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let blocks = Blocks::default();
        blocks.remember(&[block("a", 100)], at(5));
        blocks.remember(&[], at(100));
        assert!(blocks.0.load().is_empty() && blocks.count(at(100)) == 0);
    }
}

//! Chance that can be had again: everything follows from one seed, which the test prints.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Numbers by SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

/// The seed in `TASKPASS_TEST_SEED`, or a new one; printed, so that a failure can be played again as far as the machine plays along.
pub fn seed() -> u64 {
    let set = std::env::var("TASKPASS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = set.unwrap_or_else(|| RandomState::new().hash_one(0_u8));
    eprintln!("TASKPASS_TEST_SEED={seed}");
    seed
}

impl Dice {
    /// The `number`-th of those that follow from a seed.
    pub fn of(seed: u64, number: usize) -> Self {
        let mut dice = Self(seed ^ (number as u64).wrapping_mul(0xA076_1D64_78BD_642F));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.next() % sides as u64).unwrap()
    }

    /// From `least` to `most` milliseconds.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.next() % (most - least + 1))
    }
}

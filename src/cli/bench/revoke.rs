//! `taskpass bench revoke`: the distribution behind the figures of ends.

use std::path::PathBuf;

use clap::Args;

use super::distribution::{self, Words};
use super::ends::End;
use super::spread::{self, Plan};
use super::{interruptible, warn_of_debug};
use crate::cli::args::at_least_one;
use crate::cli::failure::{Exit, Outcome};
use crate::cli::output::Output;

const WORDS: Words = Words { rounds: "ends", what: "ends", from: "the agent's call" };

/// Measure how long the end of a task takes until every follower refuses its token: two brokers on one Redis, half of the followers at each
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// Followers, each with a connection of its own
    #[arg(long, value_name = "N", default_value = "100", value_parser = at_least_one)]
    followers: usize,

    /// Ends, one after another, through either broker in turn
    #[arg(long, value_name = "N", default_value = "300", value_parser = at_least_one)]
    ends: usize,
}

impl Revoke {
    pub(super) async fn run(self, dir: PathBuf, out: Output) -> Outcome {
        warn_of_debug();
        let plan = Plan { followers: self.followers, rounds: self.ends };
        let spread = interruptible(spread::of::<End>(&dir, plan)).await?;
        out.answer(|| distribution::to_json(&spread, &WORDS), || distribution::to_text(&spread, &WORDS))?;
        Ok(Exit::Done)
    }
}

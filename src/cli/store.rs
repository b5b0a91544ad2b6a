//! `taskpass store ...`: what an operator must tell the store.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Exit, Failure, Outcome};
use super::host::bad_config;
use super::output::Output;
use crate::app;
use crate::config::{self, StoreConfig};
use crate::time::SystemClock;

/// Tell the store what it cannot know
#[derive(Debug, Args)]
pub(super) struct Store {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The content was restored from a backup or a snapshot: end every task that is in it
    ///
    /// Run it after restoring and before a broker starts. What was completed or revoked after the backup was made must not come
    /// back to life, and nobody can tell which tasks those are: so all of them end, with the reason GENERATION_CHANGED. Agents
    /// begin anew at once.
    Restored {
        /// The configuration of the broker
        #[arg(long, value_name = "FILE", env = "TASKPASS_CONFIG")]
        config: PathBuf,
        /// Yes, end every task
        #[arg(long)]
        yes: bool,
    },
}

impl Store {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let Verb::Restored { config, yes } = self.verb;
        let config = config::load(&config).map_err(|problems| bad_config(&problems))?;
        if !yes {
            return Err(Failure::usage(
                "this ends every task in the store: say --yes if that is what you want",
            ));
        }
        let clock = Arc::new(SystemClock);
        let open = out.patiently("the store", app::open_store(&config, clock.clone())).await;
        let store = open.map_err(|why| match config.store {
            StoreConfig::Embedded { .. } => {
                Failure::from(why).hint("The embedded store belongs to one process: stop the broker first.")
            }
            StoreConfig::Redis(_) => Failure::from(why),
        })?;
        let declared = app::declare_restored(&config, store.as_ref(), clock.as_ref());
        out.patiently("the store", declared).await.map_err(Failure::from)?;
        store.leave().await;
        let text = || "Every task in the store has ended.".to_owned();
        out.answer(|| json!({ "declared": "restored" }), text).map(|()| Exit::Done)
    }
}

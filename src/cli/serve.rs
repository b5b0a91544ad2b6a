//! `taskpass serve`: a broker.

use std::path::PathBuf;

use clap::Args;

use super::failure::Outcome;
use super::host::{self, bad_config};
use super::logging::Logging;
use super::output::Output;
use crate::config;

/// Run a broker. SIGTERM or Ctrl-C drains it; a second one ends it at once
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The configuration; `taskpass config example` shows one
    #[arg(long, value_name = "FILE", env = "TASKPASS_CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    logging: Logging,
}

impl Serve {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let out = Output::new(out.is_json() || self.logging.is_json());
        self.logging.start("info", out.is_json())?;
        let config = config::load(&self.config).map_err(|problems| bad_config(&problems))?;
        // That it is ready is in the log; standard output may be the audit log's.
        host::run(config, out, |_| Ok(())).await
    }
}

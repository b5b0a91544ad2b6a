//! `taskpass doctor`: looks at everything that a broker needs, and says what to do. Changes nothing, and shows no secret.

mod broker;
mod files;
mod finding;
mod metrics;
mod store;
mod trust;

use std::fs::File;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::args::duration;
use super::config::check;
use super::connect::Connection;
use super::failure::{Exit, Outcome};
use super::output::{Output, note};
use crate::app;
use crate::config::{self, Config};
use crate::time::{Clock as _, SystemClock};
use finding::{Finding, Limits};

/// Each kind of check has so long: longer than all that it waits for.
const PATIENCE: Duration = Duration::from_secs(45);

const EXIT_CODES: &str = "Exit codes:
  0  all well, or nothing worse than a warning
  1  there is a problem
  2  the command line is wrong
  3  there is no problem, but something could not be looked at
  5  with --strict: nothing worse, and there is a warning";

/// Look at everything that a broker needs, and say what to do: configuration, certificates, bundles and their sources, clocks, the store; and the broker, where one runs
///
/// Run it on the broker's machine, as the user that the broker runs as. Nothing is changed.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Doctor {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "TASKPASS_CONFIG")]
    config: PathBuf,
    /// Exit code 5 where there is nothing worse than a warning
    #[arg(long)]
    strict: bool,
    /// Warn when less is left of something; of what is short-lived, when a quarter of its life is left
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30d")]
    warn: Duration,
    /// A problem, when less is left of it; of what is short-lived, a twentieth of its life
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2d")]
    problem: Duration,
    /// Where the running broker has its plain listener, if not where the configuration says: then one must run
    #[arg(long, value_name = "ADDRESS")]
    ops: Option<SocketAddr>,
    #[command(flatten)]
    connection: Connection,
}

impl Doctor {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let target = self.connection.is_given().then(|| self.connection.resolve()).transpose()?;
        let found = match File::open(&self.config) {
            Ok(_) => self.look(target, out).await,
            Err(why) => {
                vec![
                    Finding::unknown(
                        "config",
                        self.config.display().to_string(),
                        format!("it cannot be read: {why}"),
                    )
                    .todo("run this as the user that the broker runs as, or name another file"),
                ]
            }
        };
        out.answer(|| finding::document(&found), || finding::text(&found))?;
        let count = finding::count(&found);
        Ok(match () {
            () if count.problems > 0 => Exit::Failed,
            () if count.unknown > 0 => Exit::Unavailable,
            () if count.warnings > 0 && self.strict => Exit::Warnings,
            () => Exit::Done,
        })
    }

    async fn look(&self, target: Option<super::connect::Target>, out: Output) -> Vec<Finding> {
        let limits = Limits { warn: self.warn, problem: self.problem };
        let file = self.config.clone();
        let files = tokio::task::spawn_blocking(move || {
            let now = SystemClock.now();
            let problems = check::all(&file, now);
            let (draft, _) = config::draft(&file);
            files::look(&file, draft.as_ref(), &problems, limits, now)
        });
        let files =
            async { files.await.unwrap_or_else(|why| vec![Finding::unknown("config", "", why.to_string())]) };
        let task_ca = async {
            match &target {
                Some(target) => broker::task_ca(target, limits, SystemClock.now(), out).await,
                None => Vec::new(),
            }
        };
        let config = config::load(&self.config).map_err(drop);
        let (mut found, store, trust, running, task_ca) = tokio::join!(
            within("config", "configuration and files", out, files),
            within("store", "the store", out, of(&config, "store", async |config| store::look(config).await)),
            within(
                "source",
                "the sources of trust",
                out,
                of(&config, "source", async |config| trust(config, limits).await)
            ),
            within(
                "broker",
                "the broker",
                out,
                of(&config, "broker", async |config| self.running(config).await)
            ),
            within("task-ca", "the task CA", out, task_ca),
        );
        // By RPC it is told in full.
        let told = task_ca.iter().any(|it| it.id == "task-ca" && it.severity != finding::Severity::Skipped);
        let running = running.into_iter().filter(|it| !(told && it.id == "task-ca"));
        found.extend(store.into_iter().chain(trust).chain(running).chain(task_ca));
        found
    }

    async fn running(&self, config: &Config) -> Vec<Finding> {
        match broker::plain_listener(config, self.ops) {
            Some(at) => broker::look(config, at, self.ops.is_some(), SystemClock.now()).await,
            None => vec![Finding::skipped(
                "broker",
                "listen.ops",
                "its port is chosen at each start: name it by --ops",
            )],
        }
    }
}

async fn trust(config: &Config, limits: Limits) -> Vec<Finding> {
    match app::probe_sources(config, Arc::new(SystemClock)).await {
        Ok(probed) => trust::judge(config, &probed, limits, SystemClock.now()),
        Err(why) => vec![Finding::problem("source", "", why.to_string())],
    }
}

/// Nothing that is named in a configuration with mistakes in it is asked.
async fn of(
    config: &Result<Config, ()>,
    id: &'static str,
    look: impl AsyncFnOnce(&Config) -> Vec<Finding>,
) -> Vec<Finding> {
    match config {
        Ok(config) => look(config).await,
        Err(()) => vec![Finding::skipped(id, "", "not asked: the configuration is wrong")],
    }
}

/// What comes of a check in its time; and says to people that it was done.
async fn within(
    id: &'static str,
    what: &str,
    out: Output,
    look: impl Future<Output = Vec<Finding>>,
) -> Vec<Finding> {
    let found = tokio::time::timeout(PATIENCE, look)
        .await
        .unwrap_or_else(|_| vec![Finding::unknown(id, what, format!("it took longer than {PATIENCE:?}"))]);
    if !out.is_json() && !found.is_empty() && std::io::stderr().is_terminal() {
        note(format_args!("looked at {what}"));
    }
    found
}

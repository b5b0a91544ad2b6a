//! `taskpass config ...`: everything that is wrong with a configuration, and what one looks like.

mod check;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Exit, Failure, Outcome};
use super::host::bad_config;
use super::output::{Output, plain};
use crate::app::{self, StartFault};
use crate::config::{self, Problem, Problems};
use crate::time::{Clock as _, SystemClock};

/// The sample that `taskpass config example` prints.
const EXAMPLE: &str = include_str!("../../deploy/sample/taskpass.toml");

/// Check a configuration, or show what one looks like
#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Name every problem: the file, and all files that it names. Exit code 2 if there is one
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE", env = "TASKPASS_CONFIG")]
        config: PathBuf,
        /// Reach Redis, too: that the broker may log in, that the server keeps what is configured, that its clock is right and
        /// that the key-encryption key opens what is stored there. Nothing is changed. Exit code 3 if it cannot be reached
        #[arg(long)]
        connect: bool,
    },
    /// Print a sample with every setting, its meaning and its default
    Example,
}

impl Config {
    pub(super) async fn run(self, out: Output) -> Outcome {
        match self.verb {
            Verb::Example => {
                out.answer(|| json!({ "toml": EXAMPLE }), || EXAMPLE.to_owned()).map(|()| Exit::Done)
            }
            Verb::Check { config, connect } => {
                let mut problems = check::all(&config, SystemClock.now());
                // A store is not asked by a configuration that is wrong.
                if connect && problems.0.is_empty() {
                    examine_store(&config, &mut problems, out).await?;
                }
                report(&problems.0, out)
            }
        }
    }
}

/// Adds what is wrong between the configuration and the store that it names. An error if that does not answer.
async fn examine_store(file: &Path, problems: &mut Problems, out: Output) -> Result<(), Failure> {
    let config = config::load(file).map_err(|problems| bad_config(&problems))?;
    let examined = app::examine_store(&config, Arc::new(SystemClock));
    match out.patiently("the store", examined).await {
        Err(why) if why.fault() == StartFault::Configuration => problems.add("store", why),
        examined => examined?,
    }
    Ok(())
}

fn report(problems: &[Problem], out: Output) -> Outcome {
    let document = || {
        let problems: Vec<_> = problems.iter().map(|p| json!({ "key": p.key, "problem": p.what })).collect();
        json!({ "ok": problems.is_empty(), "problems": problems })
    };
    let text = || match problems {
        [] => "No problem found.".to_owned(),
        some => text_of(some),
    };
    out.answer(document, text)?;
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Usage })
}

/// A line for each problem, and how many there are.
pub(super) fn text_of(problems: &[Problem]) -> String {
    let lines: String =
        problems.iter().map(|p| format!("{}: {}\n", plain(&p.key), plain(p.what.trim_end()))).collect();
    let many =
        if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) };
    format!("{lines}{many}")
}

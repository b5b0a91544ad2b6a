//! `taskpass config ...`: everything that is wrong with a configuration, and what one looks like.

mod check;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Exit, Outcome};
use super::output::{Output, plain};
use crate::config::Problem;
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
    },
    /// Print a sample with every setting, its meaning and its default
    Example,
}

impl Config {
    pub(super) fn run(self, out: Output) -> Outcome {
        match self.verb {
            Verb::Example => {
                out.answer(|| json!({ "toml": EXAMPLE }), || EXAMPLE.to_owned()).map(|()| Exit::Done)
            }
            Verb::Check { config } => report(&check::all(&config, SystemClock.now()).0, out),
        }
    }
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

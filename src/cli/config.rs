//! `taskpass config ...`: everything that is wrong with a configuration, and what one looks like.

pub(super) mod check;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Exit, Failure, Outcome};
use super::host::bad_config;
use super::output::{Output, plain};
use crate::app::{self, StartError, StartFault};
use crate::config::{self, Problem, Problems};
use crate::identity::Unsaid;
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
        /// Reach what the broker will ask, too. Redis: that it may log in, that the server keeps what is configured, that its clock is right and
        /// that the key-encryption key opens what is stored there. Bundle endpoints and Workload APIs: that they answer, and well. A PKCS#11
        /// token: that it lets the broker in, which is one login, and has the keys that are named. Nothing is changed. Exit code 3 if one cannot be reached
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
                // Nobody is asked by a configuration that is wrong.
                let asked = match connect && problems.0.is_empty() {
                    true => reach(&config, &mut problems, out).await?,
                    false => Asked::default(),
                };
                report(&problems.0, &asked, out)
            }
        }
    }
}

/// What was heard of those that the configuration names, beside problems.
#[derive(Default)]
struct Asked {
    /// They do not answer.
    absent: Problems,
    /// They answer, and a broker that starts may not be able to make use of it.
    warnings: Problems,
}

/// Adds what is wrong between the configuration and those that it names, and gives the rest.
async fn reach(file: &Path, problems: &mut Problems, out: Output) -> Result<Asked, Failure> {
    let config = config::load(file).map_err(|problems| bad_config(&problems))?;
    let store = app::examine_store_and_token(&config, Arc::new(SystemClock));
    let sources = app::probe_sources(&config, Arc::new(SystemClock));
    let what = "the store, the token and the sources of trust";
    let (store, sources) = out.patiently(what, async { tokio::join!(store, sources) }).await;
    let (mut absent, mut warnings) = (Problems::default(), Problems::default());
    for it in sources? {
        let Err(Unsaid { absent: is_absent, outdated, why }) = it.said else { continue };
        if outdated {
            let key = check::source_key(&config, it.trust_domain.as_ref(), "bundles");
            let what = format!(
                "what {} shows does not lead to it ({why}): {}. A broker that has the endpoint's last answer in its store goes on",
                it.from,
                check::CARRY_OVER
            );
            warnings.add(key, what);
            continue;
        }
        let key = check::source_key(&config, it.trust_domain.as_ref(), it.setting);
        let what = format!("{}: {why}", it.from);
        if is_absent { absent.add(key, what) } else { problems.add(key, what) }
    }
    let told = |why: &StartError| match why.of_token() {
        Some(of_token) => ("keys.pkcs11", of_token.to_owned()),
        None => ("store", why.to_string()),
    };
    match store {
        Err(why) if why.fault() == StartFault::Configuration => {
            let (key, what) = told(&why);
            problems.add(key, what);
        }
        Err(why) => {
            let (key, what) = told(&why);
            absent.add(key, what);
        }
        Ok(()) => {}
    }
    Ok(Asked { absent, warnings })
}

fn report(problems: &[Problem], asked: &Asked, out: Output) -> Outcome {
    let (absent, warnings) = (asked.absent.0.as_slice(), asked.warnings.0.as_slice());
    let list = |all: &[Problem]| -> Vec<_> {
        all.iter().map(|p| json!({ "key": p.key, "problem": p.what })).collect()
    };
    let document = || {
        let ok = problems.is_empty() && absent.is_empty();
        json!({ "ok": ok, "problems": list(problems), "unreachable": list(absent), "warnings": list(warnings) })
    };
    let text = || match (problems, absent) {
        ([], []) => "No problem found.".to_owned(),
        (some, []) => text_of(some),
        ([], away) => format!("These do not answer:\n{}", text_of(away)),
        (some, away) => format!("{}\nThese do not answer:\n{}", text_of(some), text_of(away)),
    };
    let text = || match warnings {
        [] => text(),
        some => format!("{}\nOf these nothing is wrong yet:\n{}", text(), lines_of(some).trim_end()),
    };
    out.answer(document, text)?;
    Ok(match (problems, absent) {
        ([], []) => Exit::Done,
        ([], _) => Exit::Unavailable,
        _ => Exit::Usage,
    })
}

/// A line for each problem, and how many there are.
pub(super) fn text_of(problems: &[Problem]) -> String {
    let lines = lines_of(problems);
    let many =
        if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) };
    format!("{lines}{many}")
}

fn lines_of(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("{}: {}\n", plain(&p.key), plain(p.what.trim_end()))).collect()
}

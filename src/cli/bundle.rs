//! `taskpass bundle ...`: what verifiers trust, looked at, written to a file, and followed.

mod source;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::args::some_time;
use super::connect::Client;
use super::failure::{Exit, Failure, Outcome};
use super::output::{Output, say};
use super::{input, render};
use crate::time::{Clock as _, SystemClock};

use source::{From, Read};

/// Whoever reads a bundle: it is public.
const FILE_MODE: u32 = 0o644;

/// Trust bundles: the broker's own, which verifiers of task certificates trust, or that of any bundle endpoint or file
#[derive(Debug, Args)]
pub(super) struct Bundle {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The authorities of a bundle, with their times; its sequence and refresh hint
    Show(From),
    /// Write a bundle to standard output or to a file, whole
    Export(Export),
    /// Say what changes in a bundle, until you say stop; with --out, keep a file up to date
    Watch(Watch),
}

#[derive(Debug, Args)]
struct Export {
    #[command(flatten)]
    form: Form,
    /// Write it here, at once. A file that holds something else is left alone
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace a file that holds something else
    #[arg(long, requires = "out")]
    force: bool,
    #[command(flatten)]
    from: From,
}

#[derive(Debug, Args)]
struct Watch {
    #[command(flatten)]
    form: Form,
    /// Ask this often, at least every second [default: as often as the bundle hints, from 1s to 1h]
    #[arg(long, value_name = "DURATION", value_parser = at_least_a_second)]
    every: Option<Duration>,
    /// Keep this file up to date: replaced at once with each change
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    from: From,
}

#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Form {
    /// PEM certificates, or the SPIFFE bundle format (JWK Set)
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "pem")]
    format: Format,
}

/// How a bundle is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Pem,
    Spiffe,
}

fn at_least_a_second(text: &str) -> Result<Duration, String> {
    match some_time(text)? {
        short if short < Duration::from_secs(1) => Err("at least 1s".to_owned()),
        given => Ok(given),
    }
}

impl Bundle {
    pub(super) async fn run(self, out: Output) -> Outcome {
        match self.verb {
            Verb::Show(from) => show(from, out).await,
            Verb::Export(export) => export.run(out).await,
            Verb::Watch(Watch { from, form, every, out: file }) => {
                watch::run(from.source()?, (file, form.format), every, out).await
            }
        }
    }
}

async fn show(from: From, out: Output) -> Outcome {
    let mut source = from.source()?;
    let read = source.read(out).await?;
    let issuers = source.issuers(out).await;
    let now = SystemClock.now();
    let document = || {
        let mut document = render::bundle(&read.trust_domain, &read.published, now);
        if let Some(document) = document.as_object_mut() {
            document.insert("from".to_owned(), Value::String(source.name()));
            let keys = issuers.iter().map(|(trust_domain, issuer)| {
                json!({ "trust_domain": trust_domain, "issuer": issuer, "jwks_uri": format!("{issuer}/jwks.json") })
            });
            document.insert("token_keys".to_owned(), keys.collect());
        }
        document
    };
    let text = || {
        let text = render::bundle_text(&read.trust_domain, &source.name(), &read.published, now);
        if source.is_broker() { text + &render::token_keys_text(&issuers) } else { text }
    };
    out.answer(document, text).map(|()| Exit::Done)
}

impl Export {
    async fn run(self, out: Output) -> Outcome {
        let mut source = self.from.source()?;
        let read = source.read(out).await?;
        let text = read.text(self.form.format)?;
        let Some(file) = self.out else { return print(&read, self.form.format, out) };
        let same = holds(&file, &text);
        if !same {
            if !self.force && file.symlink_metadata().is_ok() {
                return Err(Failure::at(file.display(), "it is there, and holds something else")
                    .hint("Say --force to replace it."));
            }
            input::replace(&file, &text, FILE_MODE)?;
        }
        let document = || {
            json!({
                "trust_domain": read.trust_domain.as_str(),
                "sequence": read.published.sequence,
                "file": file.display().to_string(),
                "written": !same,
            })
        };
        out.answer(document, || format!("{}\n", file.display())).map(|()| Exit::Done)
    }
}

/// Whether the file is this already.
fn holds(file: &Path, text: &str) -> bool {
    file.metadata().is_ok_and(|it| it.is_file())
        && std::fs::read(file).is_ok_and(|there| there == text.as_bytes())
}

fn print(read: &Read, format: Format, out: Output) -> Outcome {
    if out.is_json() {
        let spiffe = read.spiffe().map(render::embedded);
        let document = || json!({ "trust_domain": read.trust_domain.as_str(), "pem": read.pem(), "spiffe_bundle": spiffe });
        return out.answer(document, String::new).map(|()| Exit::Done);
    }
    say(&read.shown(format)?).map(|()| Exit::Done)
}

/// The broker's own bundle on standard output.
pub(super) async fn export_of(client: &Client, format: Format, out: Output) -> Outcome {
    print(&source::of_broker(client).await?, format, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_asks_more_often_than_every_second() {
        assert_eq!(at_least_a_second("1s"), Ok(Duration::from_secs(1)));
        for wrong in ["0s", "999ms", "x"] {
            at_least_a_second(wrong).unwrap_err();
        }
    }
}

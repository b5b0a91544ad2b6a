//! `taskpass bench`: how fast and how large it is, end to end. Client (this process), broker and Redis are processes of their own, and all
//! that goes between them goes over real sockets. `docs/benchmarks.md` says what each figure means.

mod calls;
mod complete;
mod compromise;
mod distribution;
mod ends;
mod idle;
mod lapse;
mod load;
mod million;
mod process;
mod ratios;
mod report;
mod revoke;
mod seed;
mod spread;
mod start;
mod verdicts;
mod view;
mod world;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::{Exit, Failure, Outcome};
use super::host::{self, bad_config};
use super::logging::Logging;
use super::output::{Output, note};
use crate::config;
use process::Redis;
use report::{Figure, Report};
use world::StoreKind;

/// Measure how fast and how large broker and verifier are: calls against an empty RPC through the same listener
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Bench {
    #[command(subcommand)]
    alone: Option<Alone>,

    /// Also what takes minutes: 1,000,000 credentials, 100,000 tasks, 1,000 followers
    #[arg(long)]
    full: bool,

    /// How long to measure each ratio, half of it with empty calls
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,

    /// Only these figures
    #[arg(long, value_name = "NAME", value_enum, num_args = 1..)]
    only: Vec<Figure>,

    /// Where the stores lie while they are measured; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
}

/// One thing, and more of it than a figure.
#[derive(Debug, Subcommand)]
enum Alone {
    Revoke(revoke::Revoke),
    Compromise(compromise::Compromise),
}

/// What is to be done, and where.
struct Setup {
    full: bool,
    only: Vec<Figure>,
    length: Duration,
    dir: PathBuf,
}

impl Setup {
    fn wants(&self, figure: Figure) -> bool {
        if self.only.is_empty() { self.full || !figure.is_long() } else { self.only.contains(&figure) }
    }

    /// A server, if this store is one.
    fn redis(&self, kind: StoreKind) -> Result<Option<Redis>, Failure> {
        (kind == StoreKind::Redis).then(|| Redis::start(&self.dir)).transpose()
    }
}

impl Bench {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let dir = self.dir.unwrap_or_else(std::env::temp_dir);
        match self.alone {
            Some(Alone::Revoke(revoke)) => return revoke.run(dir, out).await,
            Some(Alone::Compromise(compromise)) => return compromise.run(dir, out).await,
            None => {}
        }
        let length = Duration::from_secs(self.seconds.into());
        let setup = Setup { full: self.full, only: self.only, length, dir };
        warn_of_debug();
        let report = interruptible(measure(&setup)).await?;
        out.answer(|| report.to_json(), || report.to_text())?;
        Ok(Exit::Done)
    }
}

fn warn_of_debug() {
    if cfg!(debug_assertions) {
        note("This is a debug build: the figures say little. Build with --release.");
    }
}

/// Until it is done or interrupted; either way what it started ends with it.
async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|why| Failure::at("waiting for signals", why))?;
            Err(Failure::failed("interrupted"))
        }
    }
}

async fn measure(setup: &Setup) -> Result<Report, Failure> {
    let mut report = Report::default();
    for kind in StoreKind::BOTH {
        ratios::measure(setup, kind, &mut report).await?;
    }
    view::measure(setup, &mut report)?;
    verdicts::measure(setup, &mut report).await?;
    start::measure(setup, &mut report).await?;
    ends::measure(setup, &mut report).await?;
    compromise::measure(setup, &mut report).await?;
    idle::measure(setup, &mut report).await?;
    complete::measure(setup, &mut report).await?;
    million::measure(setup, &mut report).await?;
    lapse::measure(setup, &mut report).await?;
    if !setup.full && setup.only.is_empty() {
        note("The figures that take minutes were left out; --full measures them.");
    }
    Ok(report)
}

/// The broker that is measured: as `serve` runs it, with the empty RPC that the others are measured against
#[derive(Debug, Args)]
pub(super) struct BenchBroker {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    logging: Logging,
}

impl BenchBroker {
    pub(super) async fn run(self, out: Output) -> Outcome {
        self.logging.start("info", out.is_json())?;
        let config = config::load(&self.config).map_err(|problems| bad_config(&problems))?;
        host::run(config::Config { empty_rpc: true, ..config }, out, |_| Ok(())).await
    }
}

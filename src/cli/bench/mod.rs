//! `taskpass bench`: how fast and how large it is, end to end. Client (this process), broker and Redis are processes of their own, and all
//! that goes between them goes over real sockets. `docs/benchmarks.md` says what each figure means.

mod calls;
mod complete;
mod lapse;
mod load;
mod million;
mod process;
mod ratios;
mod report;
mod seed;
mod start;
mod verdicts;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

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
pub(super) struct Bench {
    /// Also what takes minutes: 1,000,000 credentials, 100,000 tasks
    #[arg(long)]
    full: bool,

    /// How long to measure each ratio, half of it with empty calls
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,

    /// Only these figures
    #[arg(long, value_name = "NAME", value_enum, num_args = 1..)]
    only: Vec<Figure>,

    /// Where the stores lie while they are measured; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
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
        let length = Duration::from_secs(self.seconds.into());
        let setup = Setup { full: self.full, only: self.only, length, dir };
        if cfg!(debug_assertions) {
            note("This is a debug build: the figures say little. Build with --release.");
        }
        let report = tokio::select! {
            report = measure(&setup) => report?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(|why| Failure::at("waiting for signals", why))?;
                return Err(Failure::failed("interrupted"));
            }
        };
        out.answer(|| report.to_json(), || report.to_text())?;
        Ok(Exit::Done)
    }
}

async fn measure(setup: &Setup) -> Result<Report, Failure> {
    let mut report = Report::default();
    for kind in StoreKind::BOTH {
        ratios::measure(setup, kind, &mut report).await?;
    }
    verdicts::measure(setup, &mut report).await?;
    start::measure(setup, &mut report).await?;
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

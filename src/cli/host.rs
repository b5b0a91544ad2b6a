//! A broker in this process, until somebody says stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::failure::{Exit, Failure, Outcome};
use super::output::Output;
use crate::app::{self, Bound};
use crate::config::{Config, StoreConfig};
use crate::time::SystemClock;

/// Signals that come within so long of the first are the same wish: who signals a process and then its group (`timeout`, shells, supervisors) says it twice.
const ONE_WISH: Duration = Duration::from_millis(100);

/// SIGTERM and SIGINT, from the moment that this is made.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on both are ours.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|why| Failure::at("listening for signals", why));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for either.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for one that is another wish than the one that has just come.
    async fn another(&mut self) {
        let first = Instant::now();
        loop {
            self.next().await;
            if first.elapsed() >= ONE_WISH {
                return;
            }
        }
    }
}

/// Starts a broker, says so by `ready`, and runs it until the first signal, which drains it, or the second (not of the same moment), which
/// does not wait for that. A broker that ends by itself has failed.
pub(super) async fn run(
    config: Config,
    out: Output,
    ready: impl FnOnce(Bound) -> Result<(), Failure>,
) -> Outcome {
    dump_nothing();
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let (waiting_for, patience) = (store_of(&config), config.drain);
    let running = tokio::select! {
        started = out.patiently(&waiting_for, app::start(config, Arc::new(SystemClock), stop.clone())) => {
            started?
        }
        () = signals.next() => return Ok(Exit::Done),
    };
    ready(running.bound())?;
    let ended = running.ended();
    tokio::pin!(ended);
    tokio::select! {
        ended = &mut ended => {
            ended?;
            return Err(Failure::failed("the broker has ended by itself"));
        }
        () = signals.next() => {}
    }
    stop.cancel();
    let draining = format!(
        "calls in flight, at most {}; a second signal ends them",
        humantime::format_duration(patience)
    );
    tokio::select! {
        ended = out.patiently(&draining, ended) => ended.map(|()| Exit::Done).map_err(Failure::from),
        () = signals.another() => Err(Failure::failed("ended at once, by a second signal")),
    }
}

/// A broker's memory holds private keys: nothing of it goes into a core dump, nor to another process of the same user (A44). Where the system refuses, the broker runs all the same.
fn dump_nothing() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let done = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    let done =
        done.and(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable));
    if let Err(error) = done {
        tracing::warn!(%error, "core dumps of this process cannot be forbidden");
    }
}

/// What a start may have to wait for.
fn store_of(config: &Config) -> String {
    match &config.store {
        StoreConfig::Embedded { path, .. } => format!("the store {}", path.display()),
        StoreConfig::Redis(redis) => format!("the store {}", redis.url),
    }
}

/// Says what is wrong with a configuration, all of it.
pub(super) fn bad_config(problems: &crate::config::Problems) -> Failure {
    let problems = super::config::text_of(&problems.0);
    Failure::usage(format_args!("the configuration is wrong:\n{problems}"))
        .hint("`taskpass config check` looks into the files that it names, too.")
}

//! Structured logs on standard error.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::failure::Failure;

/// How much is logged, and in what form.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs")]
pub(super) struct Logging {
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,taskpass::store=debug
    #[arg(long, value_name = "LEVEL", env = "TASKPASS_LOG")]
    log: Option<String>,

    /// One JSON object a line, or text for people
    #[arg(long, value_name = "FORMAT", env = "TASKPASS_LOG_FORMAT", default_value = "text")]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Json,
    Text,
}

impl Logging {
    /// Whether programs will read the logs.
    pub(super) fn is_json(&self) -> bool {
        self.log_format == Format::Json
    }

    /// Begins to log, `level` and above if nothing else was asked for; as JSON if `json`, whatever was asked for. Once in a process.
    pub(super) fn start(&self, level: &str, json: bool) -> Result<(), Failure> {
        let filter = EnvFilter::try_new(self.log.as_deref().unwrap_or(level))
            .map_err(|why| Failure::usage(format_args!("--log: {why}")))?;
        let logs = fmt::layer().with_writer(std::io::stderr);
        let registry = tracing_subscriber::registry().with(filter);
        match if json { Format::Json } else { self.log_format } {
            Format::Json => {
                registry.with(logs.json().flatten_event(true).with_current_span(false)).try_init()
            }
            Format::Text => {
                let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
                registry.with(logs.with_ansi(ansi).with_target(false)).try_init()
            }
        }
        .map_err(|why| Failure::at("logging", why))?;
        log_panics();
        Ok(())
    }
}

/// A panic is a bug; it goes where the other lines go, so that it is found there.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("a panic without words");
        tracing::error!(at, what, "a bug: panicked");
    }));
}

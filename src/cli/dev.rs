//! `taskpass dev`: a broker for one's own machine, with identities to play every part.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::failure::{Exit, Failure, Outcome};
use super::host::{self, bad_config};
use super::logging::Logging;
use super::output::{Output, note};
use super::sandbox::{BROKER_ID, CONFIG, DEFAULT_DIR, IDENTITIES, Sandbox};
use crate::app::Bound;
use crate::config;
use crate::time::{Clock as _, SystemClock};

/// How often certificates are looked at. The machine may sleep for hours in between.
const LOOK: Duration = Duration::from_secs(60);

/// Run a broker for this machine, with identities, audiences and policies to try it with
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Where everything is kept; made if it is missing
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR, env = "TASKPASS_DIR")]
    dir: PathBuf,
    /// Listen here instead of where broker.toml in the directory says; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<std::net::SocketAddr>,
    /// The same for metrics and probes
    #[arg(long, value_name = "HOST:PORT")]
    listen_ops: Option<std::net::SocketAddr>,
    #[command(flatten)]
    logging: Logging,
}

impl Dev {
    pub(super) async fn run(self, out: Output) -> Outcome {
        self.logging.start("warn", false)?;
        let sandbox = Sandbox::open(&self.dir, SystemClock.now())?;
        let mut config = config::load(&sandbox.config()).map_err(|problems| bad_config(&problems))?;
        config.listen.grpc = self.listen.unwrap_or(config.listen.grpc);
        config.listen.ops = self.listen_ops.unwrap_or(config.listen.ops);
        let told = |bound: Bound| {
            sandbox.write_profile(bound.grpc)?;
            let document = || {
                json!({ "dir": self.dir, "broker": format!("https://{}", bound.grpc),
                "broker_id": BROKER_ID, "ops": format!("http://{}", bound.ops) })
            };
            let said = out.line(document, || guide(&program(), &self.dir, bound));
            // Nobody reads it: the broker runs all the same.
            said.or_else(|failure| if failure.exit() == Exit::Done { Ok(()) } else { Err(failure) })
        };
        tokio::select! {
            outcome = host::run(config, out, told) => outcome.map_err(port_taken),
            () = keep_renewing(&sandbox) => Ok(Exit::Done),
        }
    }
}

fn port_taken(failure: Failure) -> Failure {
    let taken = failure.to_string().contains("listening on");
    if taken {
        failure.hint("Say --listen 127.0.0.1:0 --listen-ops 127.0.0.1:0 to take free ports.")
    } else {
        failure
    }
}

/// Never ends.
async fn keep_renewing(sandbox: &Sandbox) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match sandbox.renew(SystemClock.now()) {
            Ok(0) => {}
            Ok(renewed) => tracing::info!(renewed, "certificates renewed"),
            Err(failure) => note(failure),
        }
    }
}

/// How this program was called, so that what is printed can be copied.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    let path = Path::new(&called);
    path.strip_prefix(here).map_or(called.clone(), |relative| format!("./{}", relative.display()))
}

/// What there is, and what to try.
fn guide(program: &str, dir: &Path, bound: Bound) -> String {
    let audience = "https://docs.example.org/mcp";
    let at = match dir == Path::new(DEFAULT_DIR) {
        true => String::new(),
        false => format!(" --dir {}", quoted(&dir.display().to_string())),
    };
    let files = format!("{}/$TASK", quoted(&dir.display().to_string()));
    let tp = |command: &str, who: &str| format!("{} {command} --as {who}{at}", quoted(program));
    let lines = [
        format!("A broker for this machine: https://{}", bound.grpc),
        format!("It keeps everything in {}. Ctrl-C stops it.", dir.display()),
        String::new(),
        "In a second terminal, in this directory:".to_owned(),
        String::new(),
        "  # What is there to work with?".to_owned(),
        format!("  {}", tp("audience list", "agent")),
        String::new(),
        "  # The agent declares a task, and gets a token and a certificate for that task alone.".to_owned(),
        format!(
            "  TASK=$({} --quiet --goal \"Answer a question from the handbook\" \\",
            tp("task begin", "agent")
        ),
        format!("    --grant {audience}=search,read)"),
        format!("  TOKEN=$({} --task $TASK --audience {audience})", tp("token mint", "agent")),
        format!("  {} --task $TASK --key {files}.key --out {files}.pem", tp("cert issue", "agent")),
        String::new(),
        "  # The documentation server asks: are they good?".to_owned(),
        format!("  echo $TOKEN | {} --audience {audience}", tp("token validate", "verifier")),
        format!("  {} --audience {audience} --cert {files}.pem", tp("cert validate", "verifier")),
        String::new(),
        "  # The task is done. From now on both are inactive, and there will be no others.".to_owned(),
        format!("  {} $TASK", tp("task complete", "agent")),
        format!("  echo $TOKEN | {} --audience {audience}", tp("token validate", "verifier")),
        String::new(),
        "  # The operator sees everything, and can stop a workload: here for a minute.".to_owned(),
        format!("  {} --all", tp("task list", "operator")),
        format!("  {} --block-for 1m spiffe://example.org/agent/support", tp("workload revoke", "operator")),
        String::new(),
    ];
    lines.join("\n") + "\n" + &places(dir, bound)
}

fn places(dir: &Path, bound: Bound) -> String {
    let here = |name: &str| dir.join(name).display().to_string();
    let mut places = vec![
        ("policies".to_owned(), format!("{}, in force as soon as they are saved", here("policy/*.cedar"))),
        ("audiences".to_owned(), here("audiences/*.toml")),
        ("decisions".to_owned(), format!("{}, a line for each", here("audit.jsonl"))),
        ("settings".to_owned(), here(CONFIG)),
        ("metrics".to_owned(), format!("http://{}/metrics", bound.ops)),
    ];
    places.extend(IDENTITIES.map(|(name, id)| (format!("--as {name}"), id.to_owned())));
    places.iter().map(|(name, what)| format!("{name:<16}{what}\n")).collect()
}

/// For the shell, as it is if that is safe.
fn quoted(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./+:,@".contains(c);
    if !text.is_empty() && text.chars().all(safe) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_survives_a_shell() {
        assert_eq!(quoted("./target/debug/taskpass"), "./target/debug/taskpass");
        assert_eq!(quoted("it's here"), "'it'\\''s here'");
    }

    #[test]
    fn the_directory_is_named_only_when_it_is_not_the_usual_one() {
        let bound =
            Bound { grpc: "127.0.0.1:1".parse().unwrap(), ops: "127.0.0.1:2".parse().unwrap(), public: None };
        assert!(!guide("taskpass", Path::new(DEFAULT_DIR), bound).contains("--dir"));
        assert!(guide("taskpass", Path::new("my dir"), bound).contains(" --dir 'my dir'"));
    }
}

//! The command line: `taskpass demo | dev | serve`, then a noun and a verb. One file for each noun.
//!
//! Answers go to standard output, as text for people or as one JSON document (`--json`); everything else, errors too, goes to
//! standard error. Exit codes are in [`failure::Exit`] and in `taskpass --help`.
//!
//! Absent here: decisions. What a command may do is for the broker to say.

mod args;
mod bench;
mod bundle;
mod ca;
mod cert;
mod config;
mod connect;
mod credential;
mod demo;
mod dev;
mod directory;
mod doctor;
mod failure;
mod follow;
mod followers;
mod host;
mod hsm;
mod input;
mod key;
mod logging;
mod narrator;
mod output;
mod pki;
mod render;
mod sandbox;
mod scenes;
mod scratch;
mod serve;
mod store;
mod task;
mod token;
mod verify;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};
use serde_json::json;

use failure::{Exit, Failure, Outcome};
use output::Output;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  refused, or failed
  2  the command line or a configuration is wrong
  3  the broker or its store cannot be reached: the same command may be tried again
  4  validate: the credential is inactive
  5  doctor --strict: there is nothing worse than a warning";

/// Ephemeral credentials for AI agents: they end with the task
#[derive(Debug, Parser)]
#[command(name = "taskpass", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct CommandLine {
    /// Answer with one JSON document on standard output, and errors as JSON on standard error
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Dev(dev::Dev),
    Serve(serve::Serve),
    Config(config::Config),
    Doctor(doctor::Doctor),
    Task(task::Task),
    Token(token::Token),
    Cert(cert::Cert),
    Credential(credential::Credential),
    Follow(follow::Follow),
    Audience(directory::Audience),
    Key(key::Key),
    Ca(ca::Ca),
    Bundle(bundle::Bundle),
    Hsm(hsm::Hsm),
    Workload(workload::Workload),
    TrustDomain(workload::TrustDomain),
    Store(store::Store),
    Bench(bench::Bench),
    #[command(hide = true)]
    BenchBroker(bench::BenchBroker),
    /// Print the version
    Version,
}

/// Reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(said) => return not_a_command(only_shown(said)),
    };
    let out = Output::new(line.json);
    let outcome = run(line.command, out).unwrap_or_else(|failure| {
        if failure.exit() != Exit::Done {
            out.failure(&failure);
        }
        failure.exit()
    });
    outcome.into()
}

/// Help and versions are answers; everything else is wrong usage, told to programs in the form that they asked for.
fn not_a_command(said: clap::Error) -> ExitCode {
    if said.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
        let said = said.to_string();
        let (message, more) = said.split_once("\n\n").unwrap_or((&said, ""));
        let failure = Failure::usage(message.trim_end().trim_start_matches("error: "));
        let failure = if more.is_empty() { failure } else { failure.hint(more.trim_end()) };
        Output::new(true).failure(&failure);
        return Exit::Usage.into();
    }
    // Nobody reads it: there is nothing else to do.
    drop(said.print());
    if said.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// Takes the commands that are hidden out of the list of those that there are.
fn only_shown(mut said: clap::Error) -> clap::Error {
    use clap::CommandFactory as _;
    let line = CommandLine::command();
    let hidden: Vec<_> =
        line.get_subcommands().filter(|it| it.is_hide_set()).map(clap::Command::get_name).collect();
    if let Some(ContextValue::Strings(names)) = said.remove(ContextKind::ValidSubcommand) {
        let shown = names.into_iter().filter(|name| !hidden.contains(&name.as_str())).collect();
        said.insert(ContextKind::ValidSubcommand, ContextValue::Strings(shown));
    }
    said
}

fn run(command: Command, out: Output) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|why| Failure::at("starting", why))?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Demo(demo) => demo.run(out).await,
            Command::Dev(dev) => dev.run(out).await,
            Command::Serve(serve) => serve.run(out).await,
            Command::Store(store) => store.run(out).await,
            Command::Hsm(hsm) => hsm.run(out).await,
            Command::Config(config) => config.run(out).await,
            Command::Doctor(doctor) => doctor.run(out).await,
            Command::Task(task) => task.run(out).await,
            Command::Token(token) => token.run(out).await,
            Command::Cert(cert) => cert.run(out).await,
            Command::Credential(credential) => credential.run(out).await,
            Command::Follow(follow) => follow.run(out).await,
            Command::Audience(audience) => audience.run(out).await,
            Command::Key(key) => key.run(out).await,
            Command::Ca(ca) => ca.run(out).await,
            Command::Bundle(bundle) => bundle.run(out).await,
            Command::Workload(workload) => workload.run(out).await,
            Command::TrustDomain(trust_domain) => trust_domain.run(out).await,
            Command::Bench(bench) => bench.run(out).await,
            Command::BenchBroker(broker) => broker.run(out).await,
            Command::Version => {
                let version = env!("CARGO_PKG_VERSION");
                let text = || format!("taskpass {version}");
                out.answer(|| json!({ "version": version }), text).map(|()| Exit::Done)
            }
        }
    });
    // What still runs by then has nothing to say any more.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

//! `taskpass ca ...`: the task CA, and its certificates where an authority outside signs it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::connect::{Client, Connection};
use super::failure::{Exit, Outcome};
use super::output::{Output, inline, note};
use super::{input, render};
use crate::proto;
use crate::time::{Clock as _, SystemClock};

/// For operators: the task CA, which signs certificates of tasks, and who signs it
#[derive(Debug, Args)]
pub(super) struct Ca {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The request that an authority outside signs: the same one until its certificate is installed
    Csr {
        /// Write it (PEM) here instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        note: String,
    },
    /// Install the certificate that came for the request, with what is above it
    Install {
        /// PEM, the certificate of the task CA first, each issued by the one that follows it; `-` is standard input
        #[arg(value_name = "CHAIN")]
        chain: PathBuf,
        /// Only show what it would do
        #[arg(long)]
        dry_run: bool,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        note: String,
    },
    /// The chains with their times, keys and states, and what verifiers trust
    Show,
}

impl Ca {
    pub(super) async fn run(self, out: Output) -> Outcome {
        // What cannot be read is said before anybody is asked.
        let chain = match &self.verb {
            Verb::Install { chain, .. } => Some(input::text(chain, "the chain")?),
            Verb::Csr { .. } | Verb::Show => None,
        };
        let client = self.connection.open(out).await?;
        match self.verb {
            Verb::Csr { out: file, note } => csr(&client, out, file, note).await,
            Verb::Install { dry_run, note, .. } => {
                let chain_pem = chain.map(|chain| chain.to_string()).unwrap_or_default();
                let request = proto::InstallTaskCaCertificateRequest { chain_pem, dry_run, note };
                let moved = client.install_task_ca_certificate(request).await?.r#move.unwrap_or_default();
                let now = SystemClock.now();
                out.answer(|| render::key_move(&moved), || render::key_move_text(&moved, now))
                    .map(|()| Exit::Done)
            }
            Verb::Show => {
                let answer = client.show_task_ca(proto::ShowTaskCaRequest {}).await?;
                let now = SystemClock.now();
                out.answer(|| render::task_ca(&answer), || render::task_ca_text(&answer, now))
                    .map(|()| Exit::Done)
            }
        }
    }
}

async fn csr(client: &Client, out: Output, file: Option<PathBuf>, why: String) -> Outcome {
    let request = proto::RequestTaskCaCertificateRequest { note: why };
    let answer = client.request_task_ca_certificate(request).await?;
    if let Some(path) = &file {
        input::replace(path, &answer.csr_pem, 0o644)?;
    }
    if !out.is_json() {
        note(format_args!(
            "Have it signed as a CA with path length 0, and install what comes back: taskpass ca install CHAIN. Its key is {}.",
            inline(&answer.kid)
        ));
    }
    let document = || json!({ "kid": answer.kid, "csr_pem": answer.csr_pem });
    let text =
        || file.as_ref().map_or_else(|| answer.csr_pem.clone(), |path| format!("{}\n", path.display()));
    out.answer(document, text).map(|()| Exit::Done)
}

//! `taskpass credential ...`: the credentials of a task, of either kind.

use clap::{Args, Subcommand};
use serde_json::json;

use super::args::{Wait, at_least_one};
use super::connect::{Client, Connection};
use super::failure::{Exit, Outcome};
use super::output::Output;
use super::render;
use crate::proto;
use crate::time::{Clock as _, SystemClock};

/// List the credentials of a task, revoke one
#[derive(Debug, Args)]
pub(super) struct Credential {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The unexpired credentials of a task, each with its state: active, revoked, task ended. `validate` gives verdicts; this list does not know whether the key
    /// that signed them was given up
    List {
        /// The task
        #[arg(long, value_name = "TASK")]
        task: String,
        /// At most so many
        #[arg(long, value_name = "N", default_value = "100", value_parser = at_least_one)]
        limit: usize,
    },
    /// End one credential and leave its task alive. Tokens that are bound to a certificate do not end with it: revoke those of the list too, or end the task
    Revoke {
        /// Its `jti` or serial number
        #[arg(value_name = "CREDENTIAL")]
        credential: String,
        #[command(flatten)]
        wait: Wait,
    },
}

impl Credential {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let client = self.connection.open(out).await?;
        match self.verb {
            Verb::List { task, limit } => list(&client, &task, limit, out).await,
            Verb::Revoke { credential, wait } => revoke(&client, credential, &wait, out).await,
        }
    }
}

async fn list(client: &Client, task: &str, limit: usize, out: Output) -> Outcome {
    let (mut credentials, mut page_token, mut more) = (Vec::new(), String::new(), true);
    while more && credentials.len() < limit {
        let left = i32::try_from(limit - credentials.len()).unwrap_or(i32::MAX);
        let request =
            proto::ListCredentialsRequest { task_id: task.to_owned(), page_size: left.min(500), page_token };
        let page = client.list_credentials(request).await?;
        credentials.extend(page.credentials);
        page_token = page.next_page_token;
        more = !page_token.is_empty();
    }
    let now = SystemClock.now();
    let document = || {
        let credentials: Vec<_> = credentials.iter().map(render::credential).collect();
        json!({ "credentials": credentials, "more": more })
    };
    let text = || {
        let rows: Vec<_> = credentials.iter().map(|it| render::credential_row(it, now)).collect();
        let end = if more { "There are more: raise --limit.\n" } else { "" };
        render::table(["CREDENTIAL", "KIND", "STATE", "LEFT", "AUDIENCE"], &rows) + end
    };
    out.answer(document, text).map(|()| Exit::Done)
}

/// Ends one credential.
pub(super) async fn revoke(client: &Client, credential: String, wait: &Wait, out: Output) -> Outcome {
    let request = proto::RevokeCredentialRequest { credential_id: credential, wait: wait.to_proto() };
    let answer = client.revoke_credential(request).await?;
    let (credential, spread) = (answer.credential.unwrap_or_default(), answer.propagation);
    let row = || render::credential_row(&credential, SystemClock.now());
    let text = || {
        let table = render::table(["CREDENTIAL", "KIND", "STATE", "LEFT", "AUDIENCE"], &[row()]);
        table + &render::propagation_text(spread.as_ref(), SystemClock.now())
    };
    let document = || {
        let mut document = render::credential(&credential);
        if let Some(fields) = document.as_object_mut() {
            fields.insert("propagation".to_owned(), render::propagation(spread.as_ref()));
        }
        document
    };
    out.answer(document, text).map(|()| Exit::Done)
}

//! `taskpass key ...`: the keys, their public halves, and their moves.

mod drill;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::args::{Wait, at_least_one};
use super::bundle::{self, Format};
use super::connect::{Client, Connection};
use super::failure::{Exit, Failure, Outcome};
use super::output::{Output, inline, say};
use super::render;
use crate::proto;
use crate::time::{Clock as _, SystemClock, Timestamp};

/// How many affected tasks are shown after a compromise; `key affected` shows them all.
const AFFECTED_SHOWN: usize = 100;
/// How many tasks the broker looks at for a page.
const PAGE: i32 = 100;
/// How long a compromise goes on looking for them, when the receipt is there.
const AFFECTED_WAIT: Duration = Duration::from_secs(5);

/// The broker's keys: their public halves, where they stand, and their moves
#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(subcommand)]
    verb: Verb,
}

/// All but the drill ask a broker.
#[derive(Debug, Subcommand)]
enum Verb {
    /// The JWK Set that tokens for a trust domain's audiences are verified with
    Set(Of<Set>),
    /// The same as `bundle export`, under its earlier name
    #[command(hide = true)]
    CaBundle(Of<CaBundle>),
    /// For operators: the keys, where each stands, and what it waits for
    List(Of<List>),
    /// For operators: let the standby sign, once every verifier knows it
    Rotate(Of<Rotate>),
    /// For operators: the same, with the standby named
    Activate(Of<Named>),
    /// For operators: let a retiring key go when nothing under it lives, or withdraw a standby
    Retire(Of<Named>),
    /// For operators: give up a key that somebody else may have. It cannot be undone
    Compromise(Of<Compromise>),
    /// For operators: the live tasks with credentials that a key has signed, or may have
    Affected(Of<Affected>),
    Drill(drill::Drill),
}

/// What is asked of a broker, and of which.
#[derive(Debug, Args)]
struct Of<T: Args> {
    #[command(flatten)]
    asked: T,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct Set {
    /// Whose issuer
    #[arg(long, value_name = "NAME")]
    trust_domain: String,
}

#[derive(Debug, Args)]
struct CaBundle {
    /// As a SPIFFE trust bundle (JWK Set) instead of PEM
    #[arg(long)]
    spiffe: bool,
}

#[derive(Debug, Args)]
struct List {
    /// Of this trust domain only
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    trust_domain: String,
}

#[derive(Debug, Args)]
struct Rotate {
    /// What the key is for
    #[arg(long = "use", value_name = "USE", value_enum, default_value = "jwt")]
    key_use: Use,
    /// Whose key; for the task CA it may be left out
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    trust_domain: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct Named {
    /// Its name
    #[arg(value_name = "KID", allow_hyphen_values = true)]
    kid: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct Compromise {
    #[command(flatten)]
    key: Named,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
struct Affected {
    /// Its name
    #[arg(value_name = "KID", allow_hyphen_values = true)]
    kid: String,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "1000", value_parser = at_least_one)]
    limit: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Use {
    Jwt,
    Feed,
    TaskCaIntermediate,
}

impl From<Use> for proto::KeyUse {
    fn from(key_use: Use) -> Self {
        match key_use {
            Use::Jwt => Self::Jwt,
            Use::Feed => Self::Feed,
            Use::TaskCaIntermediate => Self::TaskCaIntermediate,
        }
    }
}

#[derive(Debug, Args)]
struct How {
    /// Only show what it would do
    #[arg(long)]
    dry_run: bool,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
}

impl<T: Args> Of<T> {
    async fn open(self, out: Output) -> Result<(Client, T), Failure> {
        Ok((self.connection.open(out).await?, self.asked))
    }
}

impl Key {
    pub(super) async fn run(self, out: Output) -> Outcome {
        match self.verb {
            Verb::Set(of) => {
                let (client, Set { trust_domain }) = of.open(out).await?;
                set(&client, out, trust_domain).await
            }
            Verb::CaBundle(of) => {
                let (client, CaBundle { spiffe }) = of.open(out).await?;
                bundle::export_of(&client, if spiffe { Format::Spiffe } else { Format::Pem }, out).await
            }
            Verb::List(of) => {
                let (client, List { trust_domain }) = of.open(out).await?;
                list(&client, out, trust_domain).await
            }
            Verb::Rotate(of) => {
                if of.asked.trust_domain.is_empty() && !matches!(of.asked.key_use, Use::TaskCaIntermediate) {
                    return Err(Failure::usage("--trust-domain NAME is missing: whose key?"));
                }
                let (client, Rotate { key_use, trust_domain, how: How { dry_run, note } }) =
                    of.open(out).await?;
                let key_use = proto::KeyUse::from(key_use).into();
                let request = proto::RotateKeyRequest { r#use: key_use, trust_domain, dry_run, note };
                moved(out, client.rotate_key(request).await?.r#move)
            }
            Verb::Activate(of) => {
                let (client, Named { kid, how: How { dry_run, note } }) = of.open(out).await?;
                let request = proto::ActivateKeyRequest { kid, dry_run, note };
                moved(out, client.activate_key(request).await?.r#move)
            }
            Verb::Retire(of) => {
                let (client, Named { kid, how: How { dry_run, note } }) = of.open(out).await?;
                let request = proto::RetireKeyRequest { kid, dry_run, note };
                moved(out, client.retire_key(request).await?.r#move)
            }
            Verb::Compromise(of) => {
                let (client, asked) = of.open(out).await?;
                compromise(&client, out, asked).await
            }
            Verb::Affected(of) => {
                let (client, Affected { kid, limit }) = of.open(out).await?;
                let (tasks, more) = affected(&client, &kid, limit).await?;
                let now = SystemClock.now();
                let document = || json!({ "affected_tasks": tasks.iter().map(render::affected).collect::<Vec<_>>(), "more": more });
                out.answer(document, || affected_text(&tasks, more, now)).map(|()| Exit::Done)
            }
            Verb::Drill(drill) => drill.run(out).await,
        }
    }
}

async fn list(client: &Client, out: Output, trust_domain: String) -> Outcome {
    let answer = client.list_keys(proto::ListKeysRequest { trust_domain }).await?;
    let document = || {
        json!({
            "keys": answer.keys.iter().map(render::key).collect::<Vec<_>>(),
            "keyring_sequence": answer.keyring_sequence,
        })
    };
    out.answer(document, || render::keys_text(&answer.keys, SystemClock.now())).map(|()| Exit::Done)
}

async fn set(client: &Client, out: Output, trust_domain: String) -> Outcome {
    let answer = client.get_key_set(proto::GetKeySetRequest { trust_domain }).await?;
    let document = || json!({ "issuer": answer.issuer, "jwks": render::embedded(&answer.jwks_json) });
    out.answer(document, || answer.jwks_json.clone()).map(|()| Exit::Done)
}

fn moved(out: Output, moved: Option<proto::KeyMove>) -> Outcome {
    let (moved, now) = (moved.unwrap_or_default(), SystemClock.now());
    out.answer(|| render::key_move(&moved), || render::key_move_text(&moved, now)).map(|()| Exit::Done)
}

/// The receipt first, whatever becomes of the question who is affected: the key is given up by then.
async fn compromise(client: &Client, out: Output, asked: Compromise) -> Outcome {
    let Compromise { key: Named { kid, how: How { dry_run, note } }, wait } = asked;
    let request = proto::CompromiseKeyRequest { kid: kid.clone(), dry_run, note, wait: wait.to_proto() };
    let answer = client.compromise_key(request).await?;
    let (moved, receipt) = (answer.r#move.unwrap_or_default(), answer.receipt);
    let now = SystemClock.now();
    if !out.is_json() {
        let receipt = receipt.as_ref().map(|receipt| render::key_fence_text(receipt, now));
        say(&(render::key_move_text(&moved, now) + &receipt.unwrap_or_default() + "\n"))?;
    }
    let asking = tokio::time::timeout(AFFECTED_WAIT, affected(client, &kid, AFFECTED_SHOWN)).await;
    let said = asking
        .map_err(|_| "it takes longer than is waited for here; `taskpass key affected` waits".to_owned());
    let said = said.and_then(|said| said.map_err(|failure| failure.to_string()));
    let (tasks, more) = said.unwrap_or_else(|why| {
        out.warn(&format!("not all tasks that are affected are known: {why}"));
        (Vec::new(), true)
    });
    let document = || {
        json!({
            "move": render::key_move(&moved),
            "receipt": receipt.as_ref().map(render::fence),
            "affected_tasks": tasks.iter().map(render::affected).collect::<Vec<_>>(),
            "more_affected": more,
        })
    };
    out.answer(document, || affected_text(&tasks, more, now)).map(|()| Exit::Done)
}

/// At most so many, and whether there are more.
async fn affected(
    client: &Client,
    kid: &str,
    limit: usize,
) -> Result<(Vec<proto::AffectedTask>, bool), Failure> {
    let (mut tasks, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = proto::ListAffectedTasksRequest { kid: kid.to_owned(), page_size: PAGE, page_token };
        let page = client.list_affected_tasks(request).await?;
        tasks.extend(page.tasks);
        page_token = page.next_page_token;
        if tasks.len() > limit {
            tasks.truncate(limit);
            return Ok((tasks, true));
        }
        if page_token.is_empty() {
            return Ok((tasks, false));
        }
    }
}

fn affected_text(tasks: &[proto::AffectedTask], more: bool, now: Timestamp) -> String {
    if tasks.is_empty() && !more {
        return "No live task that you may see has a credential under it.\n".to_owned();
    }
    let row = |it: &proto::AffectedTask| {
        let task = it.task.clone().unwrap_or_default();
        let left = render::left(it.expires_by.as_ref(), now);
        [inline(&task.id), inline(&task.owner), it.credentials.to_string(), left]
    };
    let rows: Vec<_> = tasks.iter().map(row).collect();
    let end = if more { "There are more: `taskpass key affected` shows them.\n" } else { "" };
    render::table(["TASK", "OWNER", "CREDENTIALS", "LAST EXPIRES IN"], &rows) + end
}

//! `taskpass audience list`, `taskpass key set`, `taskpass key ca-bundle`: what everybody must know to work with the broker.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::connect::Connection;
use super::failure::{Exit, Outcome};
use super::output::{Output, inline};
use super::render;
use crate::proto;

/// What tasks can be granted
#[derive(Debug, Args)]
pub(super) struct Audience {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: AudienceVerb,
}

#[derive(Debug, Subcommand)]
enum AudienceVerb {
    /// The audiences that you may see, with their tools
    List,
}

/// The public halves of the broker's keys
#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
enum KeyVerb {
    /// The JWK Set that tokens for a trust domain's audiences are verified with
    Set {
        /// Whose issuer
        #[arg(long, value_name = "NAME")]
        trust_domain: String,
    },
    /// The root certificates that task certificates chain to
    CaBundle {
        /// As a SPIFFE trust bundle (JWK Set) instead of PEM
        #[arg(long)]
        spiffe: bool,
    },
}

impl Audience {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let AudienceVerb::List = self.verb;
        let client = self.connection.open(out).await?;
        let request = proto::ListAudiencesRequest {};
        let answer = client.list_audiences(request).await?;
        let document = || json!({ "audiences": answer.audiences.iter().map(audience).collect::<Vec<_>>() });
        let text = || answer.audiences.iter().map(audience_text).collect::<Vec<_>>().join("\n");
        out.answer(document, text).map(|()| Exit::Done)
    }
}

fn audience(it: &proto::Audience) -> Value {
    let tool = |tool: &proto::Tool| json!({ "name": tool.name, "schema_sha256": render::text(&tool.schema_sha256), "labels": tool.labels });
    json!({
        "uri": it.uri,
        "trust_domain": it.trust_domain,
        "profile": it.profile,
        "tools": it.tools.iter().map(tool).collect::<Vec<_>>(),
        "issuer": it.issuer,
        "description": render::text(&it.description),
    })
}

fn audience_text(it: &proto::Audience) -> String {
    let tool = |tool: &proto::Tool| match tool.labels.is_empty() {
        true => inline(&tool.name),
        false => inline(&format!("{} ({})", tool.name, tool.labels.join(", "))),
    };
    render::fields(&[
        ("audience", inline(&it.uri)),
        ("what", inline(&it.description)),
        ("tools", it.tools.iter().map(tool).collect::<Vec<_>>().join(", ")),
        ("tokens", format!("{} by {}", inline(&it.profile), inline(&it.issuer))),
    ])
}

impl Key {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let client = self.connection.open(out).await?;
        match self.verb {
            KeyVerb::Set { trust_domain } => {
                let request = proto::GetKeySetRequest { trust_domain };
                let answer = client.get_key_set(request).await?;
                let document =
                    || json!({ "issuer": answer.issuer, "jwks": render::embedded(&answer.jwks_json) });
                out.answer(document, || answer.jwks_json.clone())
            }
            KeyVerb::CaBundle { spiffe } => {
                let request = proto::GetTaskCaBundleRequest {};
                let answer = client.get_task_ca_bundle(request).await?;
                let document = || {
                    json!({
                        "trust_domain": answer.trust_domain,
                        "pem": answer.pem,
                        "spiffe_bundle": render::embedded(&answer.spiffe_bundle_json),
                    })
                };
                out.answer(document, || {
                    if spiffe { answer.spiffe_bundle_json.clone() } else { answer.pem.clone() }
                })
            }
        }
        .map(|()| Exit::Done)
    }
}

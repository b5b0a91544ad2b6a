//! `taskpass audience list`: what there is to work with.

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

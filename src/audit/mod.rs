//! Who did what, why they might, and what came of it: one line for each decision.
//!
//! A line never holds a credential, a key or a proof. The hash chain and signed checkpoints grow here.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::error::Result;
use crate::ids::RequestId;
use crate::time::Timestamp;

mod lines;

pub use lines::LineSink;

/// How long a full sink may hold up a call before the call fails: no effect without its record, and no stalled broker either.
pub const SINK_PATIENCE: Duration = Duration::from_secs(1);

/// One decision and what came of it.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it was decided.
    pub at: Timestamp,
    /// The request, if one led to it.
    pub request: Option<RequestId>,
    /// SPIFFE ID; empty for the broker itself.
    pub who: String,
    /// The policy action, or what the broker did by itself.
    pub action: &'static str,
    /// Task id, credential id, audience or SPIFFE ID that it was about.
    pub object: String,
    /// Why: ids of the policies that decided, or the reason of a refusal before policy.
    pub why: Vec<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// More about the object, never a secret: `task`, `audience`, `expires_at`, ...
    pub facts: Vec<(&'static str, String)>,
}

/// What came of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Permitted, and about to be done: a second line says what came of it. Where none does, somebody has to look: the effect may be there or not.
    Intended,
    /// Permitted and done.
    Done,
    /// Refused: the reason that is public, and the one that is not.
    Refused {
        /// As the caller saw it.
        reason: &'static str,
        /// What really was the matter.
        detail: String,
    },
}

/// Takes audit lines.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Hands a line over, so that it is there even if this process is killed the next moment. An error if that takes longer than [`SINK_PATIENCE`], or if lines cannot be
    /// written at present; then the line may come later.
    async fn write(&self, event: Event) -> Result<()>;

    /// Whether lines can be written, as far as is known: to be asked before an effect, which must not be without its line.
    fn check(&self) -> Result<()>;

    /// Waits until every line taken so far is written.
    async fn flush(&self) -> Result<()>;
}

/// The line as written. Fields are only ever added.
#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    who: &'a str,
    action: &'a str,
    object: &'a str,
    why: &'a [String],
    outcome: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    facts: std::collections::BTreeMap<&'a str, &'a str>,
}

impl Event {
    /// The line, with its line feed.
    fn to_line(&self) -> Vec<u8> {
        let (outcome, detail) = match &self.outcome {
            Outcome::Intended => ("intended", ""),
            Outcome::Done => ("done", ""),
            Outcome::Refused { reason, detail } => (*reason, detail.as_str()),
        };
        let line = Line {
            v: 1,
            at: self.at.to_string(),
            request: self.request.map(|id| id.to_string()),
            who: &self.who,
            action: self.action,
            object: &self.object,
            why: &self.why,
            outcome,
            detail,
            facts: self.facts.iter().map(|(k, v)| (*k, v.as_str())).collect(),
        };
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

//! What of a task never changes. Stored sealed: a store that was tampered with cannot give a task another owner or a wider grant.

use std::collections::BTreeMap;

use prost::Message;
use taskpass_verifier::claims::{GoalDigest, ToolName};
use taskpass_verifier::constraint::Constraints;
use taskpass_verifier::ids::TaskId;

use super::grant::Grant;
use super::record::Damaged;
use crate::identity::SpiffeId;
use crate::time::Timestamp;

/// The longest goal, in bytes.
pub const MAX_GOAL: usize = 4096;
/// The longest subject, in bytes.
pub const MAX_SUBJECT: usize = 256;

/// What of a task never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFacts {
    /// Its name.
    pub id: TaskId,
    /// Root first, without itself; empty for a root task.
    pub lineage: Vec<TaskId>,
    /// The workload that began it.
    pub owner: SpiffeId,
    /// On whose behalf.
    pub subject: Option<String>,
    /// In plain words.
    pub goal: String,
    /// What it may do; at least one, each audience once.
    pub grants: Vec<Grant>,
    /// When it began.
    pub began_at: Timestamp,
    /// An extension never goes beyond.
    pub latest_deadline: Timestamp,
    /// [`super::store::Idempotency::key`] that it was begun with.
    pub idempotency_key: Option<[u8; 32]>,
}

/// The stored form. Fields are only ever added.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    lineage: Vec<Vec<u8>>,
    #[prost(string, tag = "3")]
    owner: String,
    #[prost(string, optional, tag = "4")]
    subject: Option<String>,
    #[prost(string, tag = "5")]
    goal: String,
    #[prost(message, repeated, tag = "6")]
    grants: Vec<StoredGrant>,
    #[prost(uint64, tag = "7")]
    began_at_ms: u64,
    #[prost(uint64, tag = "8")]
    latest_deadline_ms: u64,
    #[prost(bytes = "vec", optional, tag = "9")]
    idempotency_key: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredGrant {
    #[prost(string, tag = "1")]
    audience: String,
    #[prost(message, repeated, tag = "2")]
    tools: Vec<StoredTool>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredTool {
    #[prost(string, tag = "1")]
    name: String,
    /// As in `authorization_details`; empty if there are none.
    #[prost(string, tag = "2")]
    constraints_json: String,
}

impl TaskFacts {
    /// The task at the top of its tree.
    pub fn root(&self) -> TaskId {
        self.lineage.first().copied().unwrap_or(self.id)
    }

    /// SHA-256 of the goal's text.
    pub fn goal_digest(&self) -> GoalDigest {
        GoalDigest::of(&self.goal)
    }

    /// The grant for an audience, with its index.
    pub fn grant(&self, audience: &str) -> Option<(u8, &Grant)> {
        let (index, grant) = self.grants.iter().enumerate().find(|(_, grant)| grant.audience == audience)?;
        Some((u8::try_from(index).ok()?, grant))
    }

    /// As stored, before sealing.
    pub fn encode(&self) -> Vec<u8> {
        Stored {
            id: self.id.as_bytes().to_vec(),
            lineage: self.lineage.iter().map(|id| id.as_bytes().to_vec()).collect(),
            owner: self.owner.to_string(),
            subject: self.subject.clone(),
            goal: self.goal.clone(),
            grants: self.grants.iter().map(stored_grant).collect(),
            began_at_ms: self.began_at.as_millis(),
            latest_deadline_ms: self.latest_deadline.as_millis(),
            idempotency_key: self.idempotency_key.map(Vec::from),
        }
        .encode_to_vec()
    }

    /// Grants alone, in one unambiguous form: what a retry must repeat.
    pub fn encode_grants(grants: &[Grant]) -> Vec<u8> {
        grants.iter().flat_map(|grant| stored_grant(grant).encode_length_delimited_to_vec()).collect()
    }

    /// From what was stored, after the seal was checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let stored = Stored::decode(bytes).map_err(|_| Damaged)?;
        let id = |bytes: &Vec<u8>| {
            TaskId::from_bytes(bytes.as_slice().try_into().map_err(|_| Damaged)?).map_err(|_| Damaged)
        };
        Ok(Self {
            id: id(&stored.id)?,
            lineage: stored.lineage.iter().map(id).collect::<Result<_, _>>()?,
            owner: stored.owner.parse().map_err(|_| Damaged)?,
            subject: stored.subject,
            goal: stored.goal,
            grants: stored.grants.into_iter().map(grant).collect::<Result<_, _>>()?,
            began_at: Timestamp::from_millis(stored.began_at_ms),
            latest_deadline: Timestamp::from_millis(stored.latest_deadline_ms),
            idempotency_key: stored.idempotency_key.map(|k| k.try_into().map_err(|_| Damaged)).transpose()?,
        })
    }
}

fn stored_grant(grant: &Grant) -> StoredGrant {
    StoredGrant {
        audience: grant.audience.clone(),
        tools: grant.tools.iter().map(|(name, limits)| stored_tool(name, limits)).collect(),
    }
}

fn stored_tool(name: &ToolName, limits: &Constraints) -> StoredTool {
    let constraints_json = match limits.is_empty() {
        true => String::new(),
        // A constraint is made of strings and integers: it always has a JSON form, and an empty text would widen.
        false => serde_json::to_string(limits).unwrap_or_else(|_| "damaged".to_owned()),
    };
    StoredTool { name: name.to_string(), constraints_json }
}

fn grant(stored: StoredGrant) -> Result<Grant, Damaged> {
    let mut tools = BTreeMap::new();
    for tool in stored.tools {
        let limits = match tool.constraints_json.is_empty() {
            true => Constraints::default(),
            false => serde_json::from_str(&tool.constraints_json).map_err(|_| Damaged)?,
        };
        tools.insert(tool.name.parse().map_err(|_| Damaged)?, limits);
    }
    Ok(Grant { audience: stored.audience, tools })
}

//! Tasks, their grants and their ends.

use serde_json::{Map, Value, json};

use super::{at, embedded, fields, hex, left, moment, text, when};
use crate::cli::output::inline;
use crate::proto::{
    ArgumentConstraint, EndReason, FenceReceipt, Grant, Propagation, Receipt, Task, TaskEnd, TaskState,
    ToolGrant,
};
use crate::time::Timestamp;

/// A task as a JSON document.
pub(in crate::cli) fn task(task: &Task) -> Value {
    json!({
        "id": task.id,
        "root_id": task.root_id,
        "parent_id": text(&task.parent_id),
        "owner": task.owner,
        "subject": text(&task.subject),
        "goal": task.goal,
        "goal_sha256": hex(&task.goal_sha256),
        "grants": task.grants.iter().map(grant).collect::<Vec<_>>(),
        "began_at": at(task.began_at.as_ref()),
        "deadline": at(task.deadline.as_ref()),
        "latest_deadline": at(task.latest_deadline.as_ref()),
        "state": state(task),
        "end": task.end.as_ref().map(end),
        "credentials_issued": task.credentials_issued,
    })
}

fn grant(grant: &Grant) -> Value {
    json!({ "audience": grant.audience, "tools": grant.tools.iter().map(tool).collect::<Vec<_>>() })
}

fn tool(tool: &ToolGrant) -> Value {
    let limits = tool.arguments.iter().map(|(name, limit)| (name.clone(), constraint(limit)));
    json!({ "name": tool.name, "arguments": limits.collect::<Map<_, _>>() })
}

/// As `--grants-file` reads it: only the limits that are set.
fn constraint(limit: &ArgumentConstraint) -> Value {
    let mut out = Map::new();
    if !limit.one_of_json.is_empty() {
        out.insert("one_of".into(), limit.one_of_json.iter().map(|scalar| embedded(scalar)).collect());
    }
    let mut put = |name: &str, value: Option<Value>| value.map(|value| out.insert(name.into(), value));
    put("prefix", limit.prefix.as_ref().map(|it| json!(it)));
    put("minimum", limit.minimum.map(|it| json!(it)));
    put("maximum", limit.maximum.map(|it| json!(it)));
    put("max_length", limit.max_length.map(|it| json!(it)));
    Value::Object(out)
}

fn end(end: &TaskEnd) -> Value {
    json!({
        "ended_at": at(end.ended_at.as_ref()),
        "reason": reason(end),
        "ended_by": text(&end.ended_by),
        "note": text(&end.note),
        "ancestor_id": text(&end.ancestor_id),
    })
}

/// The receipt of an end.
pub(in crate::cli) fn receipt(receipt: &Receipt) -> Value {
    json!({
        "ended_at": at(receipt.ended_at.as_ref()),
        "expires_by": at(receipt.expires_by.as_ref()),
        "durability": receipt.durability,
        "sequence": receipt.sequence,
        "propagation": propagation(receipt.propagation.as_ref()),
    })
}

/// The receipt of a fence.
pub(in crate::cli) fn fence(receipt: &FenceReceipt) -> Value {
    json!({
        "fence_id": receipt.fence_id,
        "ended_at": at(receipt.ended_at.as_ref()),
        "blocked_until": at(receipt.blocked_until.as_ref()),
        "expires_by": at(receipt.expires_by.as_ref()),
        "durability": receipt.durability,
        "partitions": receipt.partitions,
        "served": receipt.served,
        "propagation": propagation(receipt.propagation.as_ref()),
    })
}

fn state(task: &Task) -> &'static str {
    match task.state() {
        TaskState::Live => "live",
        TaskState::Ended => "ended",
        TaskState::Unspecified => "unknown",
    }
}

fn reason(end: &TaskEnd) -> &'static str {
    match end.reason() {
        EndReason::Unspecified => "unknown",
        EndReason::Completed => "completed",
        EndReason::Revoked => "revoked",
        EndReason::Deadline => "deadline",
        EndReason::AncestorEnded => "ancestor_ended",
        EndReason::WorkloadRevoked => "workload_revoked",
        EndReason::TrustDomainRevoked => "trust_domain_revoked",
        EndReason::GenerationChanged => "generation_changed",
    }
}

/// A task for people.
pub(in crate::cli) fn task_text(task: &Task, now: Timestamp) -> String {
    let mut lines = vec![
        ("task", inline(&task.id)),
        ("state", state_text(task, now)),
        ("goal", inline(&task.goal)),
        ("owner", inline(&task.owner)),
        ("on behalf of", inline(&task.subject)),
        ("parent", inline(&task.parent_id)),
    ];
    lines.extend(task.grants.iter().map(|grant| ("may use", grant_text(grant))));
    if task.end.is_none() {
        lines.push(("deadline", when(task.deadline.as_ref(), now)));
    }
    lines.push(("credentials", format!("{} issued", task.credentials_issued)));
    fields(&lines)
}

fn state_text(task: &Task, now: Timestamp) -> String {
    let Some(end) = &task.end else { return state(task).to_owned() };
    let by = if end.ended_by.is_empty() { String::new() } else { format!(" by {}", inline(&end.ended_by)) };
    let note = if end.note.is_empty() { String::new() } else { format!(": {}", inline(&end.note)) };
    format!("ended, {}{by}, {}{note}", reason(end).replace('_', " "), when(end.ended_at.as_ref(), now))
}

fn grant_text(grant: &Grant) -> String {
    let tools: Vec<_> = grant.tools.iter().map(tool_text).collect();
    format!("{} at {}", tools.join(", "), inline(&grant.audience))
}

fn tool_text(tool: &ToolGrant) -> String {
    if tool.arguments.is_empty() {
        return inline(&tool.name);
    }
    let mut limits: Vec<_> =
        tool.arguments.iter().map(|(name, limit)| format!("{name}: {}", constraint(limit))).collect();
    limits.sort();
    inline(&format!("{} ({})", tool.name, limits.join(", ")))
}

/// A task as a row: id, state, owner, time left, goal.
pub(in crate::cli) fn task_row(task: &Task, now: Timestamp) -> [String; 5] {
    let state = task.end.as_ref().map_or(state(task), reason).to_owned();
    let left = if task.end.is_some() { "-".to_owned() } else { left(task.deadline.as_ref(), now) };
    let goal: String = inline(&task.goal).chars().take(60).collect();
    [inline(&task.id), state, inline(&task.owner), left, goal]
}

/// The receipt of an end for people.
pub(in crate::cli) fn receipt_text(receipt: &Receipt, now: Timestamp) -> String {
    fields(&[
        ("recorded", inline(&receipt.durability)),
        ("offline verifiers", offline(receipt.expires_by.as_ref(), now)),
    ]) + &propagation_text(receipt.propagation.as_ref(), now)
}

/// The receipt of a fence for people.
pub(in crate::cli) fn fence_text(receipt: &FenceReceipt, now: Timestamp) -> String {
    let blocked = receipt.blocked_until.as_ref().map(|until| when(Some(until), now));
    fields(&[
        ("ended", when(receipt.ended_at.as_ref(), now)),
        (
            "new tasks",
            blocked
                .map_or_else(|| "allowed".to_owned(), |until| format!("refused, and allowed again {until}")),
        ),
        ("recorded", format!("{}, in {} partitions", inline(&receipt.durability), receipt.partitions)),
        ("offline verifiers", offline(receipt.expires_by.as_ref(), now)),
    ]) + &propagation_text(receipt.propagation.as_ref(), now)
}

/// How far an end has come among those who follow.
pub(in crate::cli) fn propagation(spread: Option<&Propagation>) -> Value {
    let Some(spread) = spread else { return Value::Null };
    let pending = spread.pending_followers.iter().map(|pending| {
        json!({
            "stream_id": pending.stream_id,
            "follower": pending.follower,
            "audience": pending.audience,
            "closes_at": at(pending.closes_at.as_ref()),
        })
    });
    json!({
        "applied": spread.applied,
        "pending": spread.pending,
        "pending_followers": pending.collect::<Vec<_>>(),
        "closed_by": at(spread.closed_by.as_ref()),
        "followers_unknown": spread.followers_unknown,
    })
}

/// The same for people. That nobody is pending does not yet say that all is closed: there may be followers that are not known.
pub(in crate::cli) fn propagation_text(spread: Option<&Propagation>, now: Timestamp) -> String {
    let Some(spread) = spread else { return String::new() };
    let closes_later = moment(spread.closed_by.as_ref()).is_some_and(|at| at > now);
    let pending = match spread.pending {
        0 if closes_later => {
            format!(", none is known to be pending: closed {}", when(spread.closed_by.as_ref(), now))
        }
        0 => String::new(),
        pending => format!(", {pending} pending: closed {}", when(spread.closed_by.as_ref(), now)),
    };
    let known = format!("{} have applied it{pending}", spread.applied);
    let unknown = || {
        let closed = when(spread.closed_by.as_ref(), now);
        format!("not known, for the store did not say who follows: closed {closed}")
    };
    let mut rows = vec![("followers", if spread.followers_unknown { unknown() } else { known })];
    for pending in &spread.pending_followers {
        let closes = when(pending.closes_at.as_ref(), now);
        rows.push((
            "pending",
            format!("{} for {}, closes {closes}", inline(&pending.follower), inline(&pending.audience)),
        ));
    }
    fields(&rows)
}

pub(super) fn offline(expires_by: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    match moment(expires_by) {
        Some(at) if at > now => format!("refuse by themselves {}", when(expires_by, now)),
        _ => "hold nothing that is still good".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn a_task() -> Task {
        let limit = ArgumentConstraint {
            maximum: Some(5),
            one_of_json: vec!["\"EUR\"".into()],
            ..Default::default()
        };
        Task {
            id: "t".into(),
            goal: "say \u{1b}[31mred\nand more".into(),
            grants: vec![Grant {
                audience: "https://a.test/mcp".into(),
                tools: vec![ToolGrant {
                    name: "pay".into(),
                    arguments: [("amount".to_owned(), limit)].into(),
                }],
            }],
            state: TaskState::Ended.into(),
            end: Some(TaskEnd {
                ended_at: stamp(90),
                reason: EndReason::WorkloadRevoked.into(),
                ended_by: "spiffe://a.test/op".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn the_grants_of_a_task_are_shown_as_they_are_read() {
        let json = task(&a_task());
        assert_eq!(
            json["grants"][0]["tools"][0]["arguments"]["amount"],
            json!({ "maximum": 5, "one_of": ["EUR"] })
        );
        assert_eq!(json["end"]["reason"], "workload_revoked");
        assert_eq!(json["parent_id"], Value::Null);
        let again = serde_json::to_string(&json["grants"]).unwrap();
        assert!(crate::cli::args::parse_grants(&again).is_ok());
    }

    #[test]
    fn a_receipt_says_when_all_is_closed_though_nobody_is_pending() {
        let (propagation, now) = (
            Some(Propagation { applied: 3, closed_by: stamp(130), ..Default::default() }),
            Timestamp::from_secs(100),
        );
        let task = Receipt { propagation: propagation.clone(), ..Default::default() };
        let fence = FenceReceipt { propagation, ..Default::default() };
        let closed =
            "3 have applied it, none is known to be pending: closed in 30s (1970-01-01T00:02:10.000Z)";
        for shown in [receipt_text(&task, now), fence_text(&fence, now)] {
            assert!(shown.contains(closed), "{shown}");
        }
        let shown = receipt_text(&task, Timestamp::from_secs(130));
        assert!(shown.contains("3 have applied it\n"), "{shown}");
    }

    #[test]
    fn a_goal_cannot_steer_the_terminal_nor_add_lines() {
        let shown = task_text(&a_task(), Timestamp::from_secs(100));
        assert!(!shown.contains('\u{1b}'));
        assert!(shown.contains("red\\nand more"));
        assert!(shown.contains("ended, workload revoked by spiffe://a.test/op, 10s ago"), "{shown}");
    }
}

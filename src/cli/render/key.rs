//! Keys and their moves.

use serde_json::{Value, json};

use super::super::output::inline;
use super::task::{offline, propagation_text, task};
use super::{at, fields, left, table, text, when};
use crate::proto::{AffectedTask, FenceReceipt, Key, KeyMove, KeyState, KeyStep, KeyUse};
use crate::time::Timestamp;

/// A key.
pub(in crate::cli) fn key(key: &Key) -> Value {
    json!({
        "kid": key.kid,
        "use": use_of(key.r#use()),
        "trust_domain": key.trust_domain,
        "algorithm": text(&key.algorithm),
        "state": state(key.state()),
        "state_since": at(key.state_since.as_ref()),
        "created_at": at(key.created_at.as_ref()),
        "waits_until": at(key.waits_until.as_ref()),
        "not_after": at(key.not_after.as_ref()),
        "signed_from": at(key.signed_from.as_ref()),
        "signed_until": at(key.signed_until.as_ref()),
        "held_in": text(&key.held_in),
    })
}

/// A move.
pub(in crate::cli) fn key_move(moved: &KeyMove) -> Value {
    let step = |step: &KeyStep| {
        json!({
            "kid": text(&step.kid),
            "use": use_of(step.r#use()),
            "trust_domain": step.trust_domain,
            "from": state(step.from()),
            "to": state(step.to()),
            "until": at(step.until.as_ref()),
        })
    };
    json!({
        "dry_run": moved.dry_run,
        "steps": moved.steps.iter().map(step).collect::<Vec<_>>(),
        "keys": moved.keys.iter().map(key).collect::<Vec<_>>(),
        "keyring_sequence": moved.keyring_sequence,
        "durability": moved.durability,
    })
}

/// A task that holds what a key has signed.
pub(in crate::cli) fn affected(it: &AffectedTask) -> Value {
    json!({
        "task": it.task.as_ref().map(task),
        "credentials": it.credentials,
        "expires_by": at(it.expires_by.as_ref()),
    })
}

/// Keys for people, with what each waits for.
pub(in crate::cli) fn keys_text(keys: &[Key], now: Timestamp) -> String {
    let row = |key: &Key| {
        let since = left_since(key.state_since.as_ref(), now);
        let (kid, trust_domain) = (inline(&key.kid), inline(&key.trust_domain));
        [
            kid,
            if key.held_in.is_empty() {
                use_of(key.r#use()).to_owned()
            } else {
                format!("{} (pkcs11)", use_of(key.r#use()))
            },
            trust_domain,
            word(key.state()).to_owned(),
            since,
            waits(key, now),
        ]
    };
    table(
        ["KID", "USE", "TRUST DOMAIN", "STATE", "SINCE", "WHAT NEXT"],
        &keys.iter().map(row).collect::<Vec<_>>(),
    )
}

/// A move for people.
pub(in crate::cli) fn key_move_text(moved: &KeyMove, now: Timestamp) -> String {
    let heading = match (moved.dry_run, moved.steps.is_empty()) {
        (true, true) => "It was made before: it would change nothing.",
        (true, false) => "It would do this:",
        (false, true) => "It was made before; nothing was changed.",
        (false, false) => "Done:",
    };
    let steps = moved.steps.iter().map(|step| {
        let kid = if step.kid.is_empty() { "a new key".to_owned() } else { inline(&step.kid) };
        let from = match step.from() {
            KeyState::Unspecified => "is made,".to_owned(),
            from => format!("{} to", word(from)),
        };
        let until = step.until.as_ref().map(|until| format!(", published for {}", left(Some(until), now)));
        format!("  {kid}  {from} {}{}\n", word(step.to()), until.unwrap_or_default())
    });
    let keys = if moved.dry_run { "As they are:" } else { "As they are now:" };
    format!("{heading}\n{}\n{keys}\n{}", steps.collect::<String>(), keys_text(&moved.keys, now))
}

/// The receipt of a key's fence for people.
pub(in crate::cli) fn key_fence_text(receipt: &FenceReceipt, now: Timestamp) -> String {
    let recorded = format!("{}, in {} partitions", inline(&receipt.durability), receipt.partitions);
    String::from("\n")
        + &fields(&[
            ("refused", when(receipt.ended_at.as_ref(), now)),
            ("recorded", recorded),
            ("offline verifiers", offline(receipt.expires_by.as_ref(), now)),
        ])
        + &propagation_text(receipt.propagation.as_ref(), now)
}

pub(super) fn waits(key: &Key, now: Timestamp) -> String {
    let left = left(key.waits_until.as_ref(), now);
    let due = left == "over";
    match key.state() {
        KeyState::Prepared if due => "may sign".to_owned(),
        KeyState::Prepared => format!("may sign in {left}"),
        KeyState::Retiring if due => "goes".to_owned(),
        KeyState::Retiring => format!("goes in {left}"),
        KeyState::Active => match key.not_after.as_ref() {
            Some(end) => format!("signs, its certificate ends in {}", super::left(Some(end), now)),
            None => "signs".to_owned(),
        },
        KeyState::Requested => "waits for a certificate".to_owned(),
        KeyState::Retired | KeyState::Compromised | KeyState::Unspecified => "-".to_owned(),
    }
}

fn left_since(since: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    let Some(since) = super::moment(since) else { return "-".to_owned() };
    let seconds = std::time::Duration::from_secs(now.since(since).as_secs());
    format!("{} ago", humantime::format_duration(seconds))
}

/// As in the keyring, and in policies.
const fn use_of(key_use: KeyUse) -> &'static str {
    match key_use {
        KeyUse::Unspecified => "unknown",
        KeyUse::Jwt => "jwt",
        KeyUse::Feed => "feed",
        KeyUse::TaskCaRoot => "task-ca-root",
        KeyUse::TaskCaIntermediate => "task-ca-intermediate",
        KeyUse::RecordMac => "record-mac",
    }
}

fn state(state: KeyState) -> Value {
    if state == KeyState::Unspecified { Value::Null } else { Value::String(word(state).to_owned()) }
}

/// Where it stands.
pub(super) fn state_word(key: &Key) -> &'static str {
    word(key.state())
}

const fn word(state: KeyState) -> &'static str {
    match state {
        KeyState::Unspecified => "unknown",
        KeyState::Requested => "requested",
        KeyState::Prepared => "prepared",
        KeyState::Active => "active",
        KeyState::Retiring => "retiring",
        KeyState::Retired => "retired",
        KeyState::Compromised => "compromised",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn a_key_shows_what_it_waits_for() {
        let now = Timestamp::from_secs(1_000);
        let standby = Key {
            kid: "k".into(),
            r#use: KeyUse::Jwt.into(),
            state: KeyState::Prepared.into(),
            state_since: stamp(940),
            waits_until: stamp(1_090),
            ..Default::default()
        };
        let shown = keys_text(std::slice::from_ref(&standby), now);
        assert!(shown.contains("may sign in 1m 30s") && shown.contains("1m ago"), "{shown}");
        let aged = Key { waits_until: stamp(999), ..standby.clone() };
        assert!(keys_text(&[aged], now).contains("may sign\n"));
        assert_eq!(key(&standby)["state"], "prepared");
        assert_eq!(key(&standby)["signed_from"], Value::Null);
    }

    #[test]
    fn a_move_says_what_it_does_to_each_key() {
        let steps = vec![
            KeyStep { kid: "old".into(), from: 2, to: 3, until: stamp(2_000), ..Default::default() },
            KeyStep { to: 1, ..Default::default() },
        ];
        let moved = KeyMove { dry_run: true, steps, ..Default::default() };
        let shown = key_move_text(&moved, Timestamp::from_secs(1_000));
        assert!(shown.starts_with("It would do this:"), "{shown}");
        assert!(shown.contains("old  active to retiring, published for 16m 40s"), "{shown}");
        assert!(shown.contains("a new key  is made, prepared"), "{shown}");
    }
}

//! Messages as JSON documents, and as text for people. Field names are those of the protocol; times are RFC 3339 in UTC, digests
//! are hexadecimal, and what is not set is `null`.

mod bundle;
mod ca;
mod credential;
mod key;
mod task;

pub(super) use bundle::{authority, authority_name, bundle, bundle_text, other_key, token_keys_text};
pub(super) use ca::{task_ca, task_ca_text};
pub(super) use credential::{
    certificate, credential, credential_row, revocation_list, token, verdict, verdict_text,
};
pub(super) use key::{affected, key, key_fence_text, key_move, key_move_text, keys_text};
pub(super) use task::{
    fence, fence_text, propagation, propagation_text, receipt, receipt_text, task, task_row, task_text,
};

use serde_json::Value;

use crate::time::Timestamp;

/// The moment that a message names; `None` if it names none, or one that no clock shows.
pub(super) fn moment(at: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let at = at?;
    let millis = u64::try_from(at.seconds).ok()?.checked_mul(1_000)?;
    millis.checked_add(u64::try_from(at.nanos).ok()? / 1_000_000).map(Timestamp::from_millis)
}

/// RFC 3339, or `null`.
pub(super) fn at(moment_of: Option<&prost_types::Timestamp>) -> Value {
    moment(moment_of).map_or(Value::Null, |at| Value::String(at.to_string()))
}

/// The text, or `null` if there is none.
pub(super) fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::String(text.to_owned()) }
}

/// Hexadecimal digits, or `null` if there are no bytes.
pub(super) fn hex(bytes: &[u8]) -> Value {
    text(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// JSON that came as text; the text itself if it is none.
pub(super) fn embedded(json: &str) -> Value {
    if json.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned()))
}

/// A moment as people read it: how far from now, then when exactly.
pub(super) fn when(at: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    moment(at).map_or("-".to_owned(), |at| when_at(at, now))
}

/// The same for a moment that is known.
pub(super) fn when_at(at: Timestamp, now: Timestamp) -> String {
    let far =
        |d: std::time::Duration| humantime::format_duration(std::time::Duration::from_secs(d.as_secs()));
    match at > now {
        true => format!("in {} ({at})", far(at.since(now))),
        false => format!("{} ago ({at})", far(now.since(at))),
    }
}

/// The same, short: for tables.
pub(super) fn left(at: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    match moment(at) {
        None => "-".to_owned(),
        Some(at) if at > now => {
            humantime::format_duration(std::time::Duration::from_secs(at.since(now).as_secs())).to_string()
        }
        Some(_) => "over".to_owned(),
    }
}

/// Names and values, one line each, values under each other. Empty values are left out.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let lines = fields.iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("{name:width$}{value}\n")).collect()
}

/// Rows under a heading, columns as wide as they must be; the last one as it is.
pub(super) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(|name| name.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
        padded.collect::<String>().trim_end().to_owned() + "\n"
    };
    let heading = heading.map(str::to_owned);
    std::iter::once(&heading).chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: i64, nanos: i32) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos }
    }

    #[test]
    fn moments_that_no_clock_shows_are_none() {
        assert_eq!(moment(Some(&stamp(1, 5_000_000))), Some(Timestamp::from_millis(1_005)));
        for odd in [stamp(-1, 0), stamp(0, -1), stamp(i64::MAX, 0)] {
            assert_eq!(moment(Some(&odd)), None);
        }
    }

    #[test]
    fn people_read_how_far_a_moment_is() {
        let now = Timestamp::from_secs(1_000);
        assert!(when(Some(&stamp(1_090, 0)), now).starts_with("in 1m 30s ("));
        assert!(when(Some(&stamp(990, 0)), now).starts_with("10s ago ("));
        assert_eq!(left(Some(&stamp(990, 0)), now), "over");
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long name".to_owned(), "2".to_owned()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME       N\na          1\nlong name  2\n");
    }
}

//! The distribution of how long something takes to reach everybody, for programs and for people.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::spread::{Plan, Spread, ms};

/// What is shown of each distribution.
const SHOWN: [(&str, f64); 5] =
    [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p99.9_ms", 0.999), ("most_ms", 1.0)];
/// Upper ends of the bars, in milliseconds.
const BARS: [u64; 12] = [2, 4, 6, 8, 10, 15, 20, 30, 50, 100, 250, 1_000];
/// The longest bar, in characters.
const LONGEST: u64 = 40;

/// What was done.
pub(super) struct Words {
    /// The name of their number, for programs.
    pub(super) rounds: &'static str,
    /// What it is called, many times.
    pub(super) what: &'static str,
    /// Since when time runs.
    pub(super) from: &'static str,
}

const fn rows(spread: &Spread) -> [(&'static str, &'static str, &Histogram<u64>); 4] {
    [
        ("first_refused", "the first follower refuses", &spread.first),
        ("half_refused", "half of them refuse", &spread.half),
        ("all_refused", "all of them refuse", &spread.last),
        ("receipt", "the receipt, nobody pending", &spread.receipt),
    ]
}

/// One object.
pub(super) fn to_json(spread: &Spread, words: &Words) -> Value {
    let shown = |took: &Histogram<u64>| -> Value {
        SHOWN.iter().map(|(name, quantile)| ((*name).to_owned(), json!(ms(took, *quantile)))).collect()
    };
    let mut all: serde_json::Map<_, _> =
        rows(spread).into_iter().map(|(name, _, took)| (name.to_owned(), shown(took))).collect();
    all.insert("followers".to_owned(), json!(spread.plan.followers));
    all.insert(words.rounds.to_owned(), json!(spread.plan.rounds));
    all.insert("causes".to_owned(), json!(spread.causes));
    all.insert("verdicts_asked".to_owned(), json!(spread.asked));
    all.insert("verdicts_accepted".to_owned(), json!(spread.accepted));
    Value::Object(all)
}

/// A table and bars.
pub(super) fn to_text(spread: &Spread, words: &Words) -> String {
    let Plan { followers, rounds } = spread.plan;
    let Words { what, from, .. } = words;
    let mut text = format!("{followers} followers at two brokers, {rounds} {what}; ms from {from}\n\n");
    let heads = SHOWN.map(|(name, _)| format!("{:>9}", name.trim_end_matches("_ms"))).concat();
    text.push_str(&format!("{:<28}{heads}\n", ""));
    for (_, what, took) in rows(spread) {
        let values = SHOWN.map(|(_, quantile)| format!("{:>9.1}", ms(took, quantile))).concat();
        text.push_str(&format!("{what:<28}{values}\n"));
    }
    text.push_str("\nuntil all of them refuse\n");
    text.push_str(&bars(&spread.last));
    text.push_str(&format!(
        "\nasked meanwhile, 1 verdict at a time: {}; still accepted: {}; accepted after closed_by: 0\n",
        spread.asked, spread.accepted
    ));
    text
}

/// A line for each range from the first to the last that has something in it.
fn bars(took: &Histogram<u64>) -> String {
    let mut from = 0;
    let mut lines = Vec::new();
    for to in BARS.into_iter().chain([u64::MAX / 1_000]) {
        let count = took.count_between(from * 1_000, (to * 1_000).saturating_sub(1));
        let to_text = if to > 1_000 { String::new() } else { to.to_string() };
        let bar = "#".repeat(usize::try_from((count * LONGEST).div_ceil(took.len().max(1))).unwrap_or(0));
        lines.push((count, format!("  {from:>5} to {to_text:<5} {count:>6}  {bar}\n")));
        from = to;
    }
    let filled = |(count, _): &(u64, String)| *count > 0;
    let first = lines.iter().position(filled).unwrap_or(0);
    let last = lines.iter().rposition(filled).unwrap_or(0);
    lines.into_iter().skip(first).take(last - first + 1).map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::load::histogram;
    use super::*;

    #[test]
    fn every_end_is_in_one_bar_and_empty_ones_show_between_others_alone() {
        let mut took = histogram().unwrap();
        for micros in [4_100, 5_900, 14_000] {
            took.record(micros).unwrap();
        }
        let bars = bars(&took);
        let counts: Vec<u64> =
            bars.lines().map(|line| line.split_whitespace().nth(3).unwrap().parse().unwrap()).collect();
        assert_eq!(counts, [2, 0, 0, 1], "{bars}");
        assert!(bars.starts_with("      4 to 6 "), "{bars}");
    }
}

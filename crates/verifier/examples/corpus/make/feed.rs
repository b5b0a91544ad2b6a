//! What a verifier that follows the feed knows of ends.

use taskpass_verifier::ids::{CredentialId, TaskId};
use taskpass_verifier::keyset::KeyId;

use super::case::{
    AGENT, Case, NOW, case, child, generation, jti, part, payload, quoted, root, task, taskpass,
};
use super::signers::{By, Signers};

/// Nothing is forgotten before.
const LATER: u64 = NOW + 900;

/// A position in the `n`-th generation.
fn position(n: u64, seq: u64) -> String {
    forked(n, seq, "01")
}

fn forked(n: u64, seq: u64, byte: &str) -> String {
    format!(r#"{{"generation": "{}", "seq": {seq}, "chain": "{}"}}"#, generation(n), byte.repeat(20))
}

fn snapshot(position: &str, entries: &[String]) -> String {
    format!(
        r#"{{"snapshot": {{"partition": {}, "position": {position}, "entries": [{}]}}}}"#,
        part().number(),
        entries.join(", ")
    )
}

fn delta(from: &str, to: &str, entries: &[String]) -> String {
    format!(
        r#"{{"delta": {{"partition": {}, "from": {from}, "to": {to}, "entries": [{}]}}}}"#,
        part().number(),
        entries.join(", ")
    )
}

fn heard(position: &str, sent_ms: u64) -> String {
    format!(
        r#"{{"heard": {{"partition": {}, "position": {position}, "sent_ms": {sent_ms}}}}}"#,
        part().number()
    )
}

fn time(broker_ms: u64, sent_ms: u64, received_ms: u64) -> String {
    format!(r#"{{"time": {{"broker_ms": {broker_ms}, "sent_ms": {sent_ms}, "received_ms": {received_ms}}}}}"#)
}

pub(crate) fn ended(task: TaskId) -> String {
    format!(r#"{{"task_ended": "{task}", "forget_at": {LATER}}}"#)
}

pub(crate) fn revoked(id: CredentialId) -> String {
    format!(r#"{{"credential_revoked": "{id}", "forget_at": {LATER}}}"#)
}

pub(crate) fn fence(target: &str, cut: u64) -> String {
    format!(r#"{{"fence": "{target}", "cut": {cut}, "forget_at": {LATER}}}"#)
}

pub(crate) fn key_fence(key: KeyId) -> String {
    format!(r#"{{"key_fence": "{key}", "forget_at": {LATER}}}"#)
}

/// An entry with its sequence.
fn at(seq: u64, entry: &str) -> String {
    entry.replacen('{', &format!("{{\"seq\": {seq}, "), 1)
}

const BOUND: &str = r#"{"bound_ms": 15000}"#;

/// At millisecond 100,000 everything up to sequence 50 of the second generation is known, and the broker's clock shows [`NOW`].
pub(crate) fn synchronised(ends: &[String]) -> Vec<String> {
    vec![
        BOUND.to_owned(),
        time(NOW * 1_000, 100_000, 100_000),
        snapshot(&position(2, 50), ends),
        heard(&position(2, 50), 100_000),
    ]
}

fn then(more: &[String]) -> Vec<String> {
    let mut events = synchronised(&[]);
    events.extend_from_slice(more);
    events
}

pub(crate) fn following(case: Case, feed: Vec<String>, moment_ms: u64) -> Case {
    Case { feed: Some(feed), at: format!(r#"{{"moment_ms": {moment_ms}}}"#), ..case }
}

/// One second later.
const SOON: u64 = 101_000;

pub(crate) fn cases(s: &Signers) -> Vec<Case> {
    let mut all = ends(s);
    all.extend(keys(s));
    all.extend(closed(s));
    all.extend(times(s));
    all
}

fn ends(s: &Signers) -> Vec<Case> {
    let token = s.sign(payload(&[]));
    let known = |name, about, ends: &[String], verdict| {
        following(case(name, about, token.clone(), verdict), synchronised(ends), SOON)
    };
    let later = |name, about, more: &[String], verdict| {
        following(case(name, about, token.clone(), verdict), then(more), SOON)
    };
    let (p50, p51) = (position(2, 50), position(2, 51));
    let workload = format!("w:{AGENT}");
    let grown = at(51, &format!(r#"{{"generation": "{}"}}"#, generation(3)));
    vec![
        known("live", "nothing speaks against it", &[], "active"),
        known("ended", "the task has ended", &[ended(child())], "task_ended"),
        known("ancestor_ended", "the parent has ended", &[ended(root())], "task_ended"),
        known("another_ended", "another task has ended", &[ended(task(9))], "active"),
        known("revoked", "the credential was revoked", &[revoked(jti())], "credential_revoked"),
        known(
            "sibling_revoked",
            "another credential of the task was revoked",
            &[revoked(CredentialId { number: 4, ..jti() })],
            "active",
        ),
        known(
            "workload_fenced",
            "the agent's tasks before sequence 42 ended",
            &[fence(&workload, 42)],
            "fenced",
        ),
        known(
            "workload_fenced_before",
            "the fence cuts below the task's sequence",
            &[fence(&workload, 41)],
            "active",
        ),
        known("trust_domain_fenced", "those of the trust domain", &[fence("t:acme.example", 50)], "fenced"),
        known(
            "another_workload_fenced",
            "those of another agent",
            &[fence("w:spiffe://acme.example/agent", 50)],
            "active",
        ),
        later(
            "ended_by_delta",
            "the end comes in a delta",
            &[delta(&p50, &p51, &[at(51, &ended(child()))])],
            "task_ended",
        ),
        later(
            "delta_with_omissions",
            "what was left out for this audience is no gap",
            &[delta(&p50, &position(2, 90), &[at(73, &ended(child()))])],
            "task_ended",
        ),
        later(
            "end_missing_in_a_later_snapshot",
            "a known end stays",
            &[delta(&p50, &p51, &[at(51, &ended(child()))]), snapshot(&position(2, 60), &[])],
            "task_ended",
        ),
        later(
            "generation_grown",
            "the generation grew",
            &[delta(&p50, &position(3, 51), &[grown])],
            "generation_superseded",
        ),
        later(
            "generation_grown_in_a_snapshot",
            "the same in a snapshot",
            &[snapshot(&position(3, 4), &[])],
            "generation_superseded",
        ),
    ]
}

fn keys(s: &Signers) -> Vec<Case> {
    let token = s.sign(payload(&[]));
    let known = |name, about, ends: &[String], verdict| {
        following(case(name, about, token.clone(), verdict), synchronised(ends), SOON)
    };
    let (p50, p51) = (position(2, 50), position(2, 51));
    let (mine, other) = (key_fence(s.kid(By::EdDsa)), key_fence(s.kid(By::Es256)));
    let later = s.sign(payload(&[(
        "taskpass",
        &taskpass(&[("gen", &quoted(&generation(3).to_string())), ("seq", "60")]),
    )]));
    let grown = at(52, &format!(r#"{{"generation": "{}"}}"#, generation(3)));
    let new = |name, about, more: &[String], verdict| {
        following(case(name, about, later.clone(), verdict), then(more), SOON)
    };
    let p3 = position(3, 52);
    vec![
        known("key_fenced", "the token's key was withdrawn", &[mine.clone()], "key_fenced"),
        known("another_key_fenced", "another key was withdrawn", &[other.clone()], "active"),
        following(
            case("key_fenced_by_delta", "the withdrawal comes in a delta", token.clone(), "key_fenced"),
            then(&[delta(&p50, &p51, &[at(51, &mine)])]),
            SOON,
        ),
        known("ended_and_key_fenced", "the end is told first", &[mine.clone(), ended(child())], "task_ended"),
        new(
            "key_fenced_in_a_later_generation",
            "a withdrawn key stays so in a new generation, for tasks that began after it too",
            &[delta(&p50, &p3, &[at(51, &mine), grown.clone()]), heard(&p3, 100_000)],
            "key_fenced",
        ),
        new(
            "another_key_fenced_in_a_later_generation",
            "the same of another key",
            &[delta(&p50, &p3, &[at(51, &other), grown.clone()]), heard(&p3, 100_000)],
            "active",
        ),
        new(
            "key_fenced_missing_in_a_later_snapshot",
            "a known withdrawal stays",
            &[delta(&p50, &p51, &[at(51, &mine)]), snapshot(&p3, &[]), heard(&p3, 100_000)],
            "key_fenced",
        ),
    ]
}

fn closed(s: &Signers) -> Vec<Case> {
    let token = s.sign(payload(&[]));
    let later = |name, about, more: &[String], verdict| {
        following(case(name, about, token.clone(), verdict), then(more), SOON)
    };
    let only = |name, about, events: Vec<String>, verdict| {
        following(case(name, about, token.clone(), verdict), events, SOON)
    };
    let (p50, p51, p52) = (position(2, 50), position(2, 51), position(2, 52));
    let gap = delta(&p51, &p52, &[]);
    let now = time(NOW * 1_000, 100_000, 100_000);
    let older = position(1, 50);
    let unheard = vec![BOUND.to_owned(), now.clone(), snapshot(&p50, &[])];
    let unbounded = vec![now.clone(), snapshot(&p50, &[]), heard(&p50, 100_000)];
    let behind = vec![BOUND.to_owned(), now, snapshot(&older, &[]), heard(&older, 100_000)];
    let known_end = delta(&p50, &p51, &[at(51, &ended(child()))]);
    vec![
        only("never_synchronised", "nothing was heard", vec![], "never_synchronised"),
        only("no_heartbeat", "a snapshot without a heartbeat", unheard, "never_synchronised"),
        only("no_bound", "no bound was named", unbounded, "never_synchronised"),
        only(
            "generation_ahead",
            "the token's generation is newer than the view's",
            behind,
            "generation_unknown",
        ),
        later("gap", "a delta that begins later than what is known", &[gap.clone()], "feed_gap"),
        later(
            "gap_not_healed_by_a_delta",
            "only a snapshot opens again",
            &[gap.clone(), delta(&p50, &p51, &[])],
            "feed_gap",
        ),
        later("gap_healed", "a snapshot opens again", &[gap.clone(), snapshot(&p52, &[])], "active"),
        later(
            "replayed_delta",
            "the same delta twice",
            &[delta(&p50, &p51, &[]), delta(&p50, &p51, &[])],
            "feed_rolled_back",
        ),
        later(
            "delta_out_of_order",
            "entries out of order",
            &[delta(&p50, &p52, &[at(52, &ended(task(9))), at(51, &ended(task(8)))])],
            "feed_gap",
        ),
        later(
            "older_snapshot",
            "a snapshot from before",
            &[snapshot(&position(2, 49), &[])],
            "feed_rolled_back",
        ),
        later(
            "older_generation",
            "a snapshot of an older generation",
            &[snapshot(&position(1, 99), &[])],
            "feed_rolled_back",
        ),
        later(
            "fork",
            "another history at the same sequence",
            &[delta(&forked(2, 50, "02"), &p51, &[])],
            "feed_rolled_back",
        ),
        later(
            "fork_in_a_heartbeat",
            "the same in a heartbeat",
            &[heard(&forked(2, 50, "02"), 100_500)],
            "feed_rolled_back",
        ),
        later(
            "generation_without_its_entry",
            "a delta that leads to another generation by itself",
            &[delta(&p50, &position(3, 51), &[])],
            "feed_gap",
        ),
        later(
            "bad_signature",
            "a message was not signed",
            &[r#"{"closed": "bad_signature"}"#.to_owned()],
            "feed_bad_signature",
        ),
        later(
            "ended_though_closed",
            "what is known for certain comes first",
            &[known_end, gap],
            "task_ended",
        ),
        Case {
            announced_key_epoch: 2,
            ..later("keys_behind", "the feed names a newer key set", &[], "keys_behind")
        },
    ]
}

fn times(s: &Signers) -> Vec<Case> {
    let token = s.sign(payload(&[]));
    let when = |name, about, more: &[String], moment, verdict| {
        following(case(name, about, token.clone(), verdict), then(more), moment)
    };
    let before = (NOW - 100).to_string();
    let old = s.sign(payload(&[("iat", &before), ("nbf", &before)]));
    let p50 = position(2, 50);
    let fresh = |ms: u64| heard(&p50, ms);
    let own = r#"{"own_bound_ms": 2000}"#.to_owned();
    let wide = r#"{"own_bound_ms": 200000}"#.to_owned();
    let delayed = time(NOW * 1_000, 100_000, 140_000);
    let expired = format!(r#"{{"task_ended": "{}", "forget_at": {}}}"#, task(9), NOW + 120);
    vec![
        when("at_the_bound", "15 seconds after the beat was sent", &[], 115_000, "active"),
        when("stale", "a millisecond more", &[], 115_001, "stale"),
        when("healed", "heard of again", &[fresh(110_000)], 116_000, "active"),
        when("late_heartbeat", "a heartbeat for an older beat", &[fresh(90_000)], 115_001, "stale"),
        when(
            "heartbeat_ahead_of_the_view",
            "a heartbeat of a position that is not known yet",
            &[heard(&position(2, 51), 110_000)],
            116_000,
            "stale",
        ),
        when("own_bound", "the verifier's own bound of 2 seconds", &[own], 102_001, "stale"),
        when("own_bound_cannot_raise", "an own bound above the broker's", &[wide], 115_001, "stale"),
        following(
            case("clock_ran_back", "a moment 16 seconds before the beat", old, "stale"),
            synchronised(&[]),
            84_000,
        ),
        when("last_second_by_the_broker", "119 seconds later", &[fresh(219_000)], 219_999, "active"),
        when("expired_by_the_broker", "120 seconds later", &[fresh(219_000)], 220_000, "expired"),
        when(
            "expired_after_a_delayed_answer",
            "the answer came 40 seconds late",
            &[delayed.clone(), fresh(215_000)],
            220_000,
            "expired",
        ),
        when(
            "not_yet_issued_by_the_broker",
            "the same, just before the answer",
            &[delayed, fresh(125_000)],
            134_000,
            "issued_in_future",
        ),
        Case {
            at: format!(r#"{{"wall": {NOW}}}"#),
            ..when("wall_clock_alone", "no moment to judge by", &[], SOON, "no_clock")
        },
        Case {
            at: format!(r#"{{"wall": {}, "moment_ms": {SOON}}}"#, NOW + 600),
            ..when("wall_clock_ahead", "a wall clock ten minutes ahead counts nothing", &[], SOON, "active")
        },
        Case {
            feed: None,
            at: format!(r#"{{"moment_ms": {SOON}}}"#),
            ..when(
                "offline_without_wall_clock",
                "an offline verifier without the time",
                &[],
                SOON,
                "no_clock",
            )
        },
        when(
            "forgotten_is_expired",
            "time set back after ends were forgotten",
            &[delta(&p50, &position(2, 51), &[at(51, &expired)]), r#"{"forget_ms": 220000}"#.to_owned()],
            110_000,
            "expired",
        ),
    ]
}

//! Runs the corpus: tokens, what is known of ends, and the expected verdicts, from plain files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use taskpass_verifier::claims::Thumbprint;
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::verifier::{Expected, TaskCertificate};
use taskpass_verifier::view::{Closed, Delta, Entry, FenceTarget, Position, Snapshot};
use taskpass_verifier::{At, KeySet, Moment, Presented, Refusal, RevocationView, UnixSeconds, Verifier};

#[path = "../../examples/corpus/make/mod.rs"]
mod make;

const KEYS: &str = include_str!("../corpus/keys.json");
const CASES: &str = include_str!("../corpus/cases.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    about: String,
    issuer: String,
    audience: String,
    profile: String,
    keys: String,
    announced_key_epoch: u64,
    feed: Option<Vec<Event>>,
    shown: Shown,
    presented: Keys,
    at: Clocks,
    call: Option<Call>,
    verdict: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shown {
    Token(String),
    Certificate { serial: String, spiffe_id: String, authority: KeyId, not_before: u64, not_after: u64 },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(rename = "x5t#S256")]
    certificate: Option<Thumbprint>,
    jkt: Option<Thumbprint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clocks {
    wall: Option<u64>,
    moment_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    tool: String,
    arguments: Option<serde_json::Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    BoundMs(u64),
    OwnBoundMs(u64),
    Time { broker_ms: u64, sent_ms: u64, received_ms: u64 },
    Snapshot { partition: u8, position: Place, entries: Vec<Happened> },
    Delta { partition: u8, from: Place, to: Place, entries: Vec<Happened> },
    Heard { partition: u8, position: Place, sent_ms: u64 },
    Closed(String),
    ForgetMs(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    generation: Generation,
    seq: u64,
    chain: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Happened {
    #[serde(default)]
    seq: u64,
    task_ended: Option<TaskId>,
    credential_revoked: Option<CredentialId>,
    fence: Option<String>,
    key_fence: Option<KeyId>,
    generation: Option<Generation>,
    cut: Option<u64>,
    raised_at: Option<u64>,
    forget_at: Option<u64>,
}

impl Place {
    fn read(&self) -> Position {
        let chain = unhex(&self.chain).try_into().unwrap();
        Position { generation: self.generation, seq: self.seq, chain }
    }
}

impl Happened {
    fn read(&self) -> Entry {
        let forget_at = UnixSeconds(self.forget_at.unwrap_or_default());
        match (self.task_ended, self.credential_revoked, &self.fence, self.key_fence, self.generation) {
            (Some(task), None, None, None, None) => Entry::TaskEnded { task, forget_at },
            (None, Some(id), None, None, None) => Entry::CredentialRevoked { id, forget_at },
            (None, None, Some(target), None, None) => {
                let raised_at = self.raised_at.unwrap_or(u64::MAX);
                Entry::Fence { target: FenceTarget::of(target), cut: self.cut.unwrap(), raised_at, forget_at }
            }
            (None, None, None, Some(key), None) => Entry::KeyFenced { key, forget_at },
            (None, None, None, None, Some(new)) => Entry::Generation { new },
            _ => panic!("an entry is one of five"),
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn moment(ms: u64) -> Moment {
    Moment::from_nanos(ms * 1_000_000)
}

fn feed(view: &RevocationView, event: &Event) {
    let partition = |number: &u8| Partition::new(*number).unwrap();
    match event {
        Event::BoundMs(ms) => view.set_bound(Duration::from_millis(*ms)),
        Event::OwnBoundMs(ms) => view.lower_bound_to(Duration::from_millis(*ms)),
        Event::Time { broker_ms, sent_ms, received_ms } => {
            view.set_time(*broker_ms, moment(*sent_ms), moment(*received_ms));
        }
        Event::Snapshot { partition: number, position, entries } => {
            let entries: Vec<_> = entries.iter().map(Happened::read).collect();
            let (partition, position) = (partition(number), position.read());
            // What is not taken shows in the verdict.
            view.replace(&Snapshot { partition, position, entries: &entries }).ok();
        }
        Event::Delta { partition: number, from, to, entries } => {
            let entries: Vec<_> = entries.iter().map(|entry| (entry.seq, entry.read())).collect();
            let (from, to) = (from.read(), to.read());
            view.apply(&Delta { partition: partition(number), from, to, entries: &entries }).ok();
        }
        Event::Heard { partition: number, position, sent_ms } => {
            view.heard(partition(number), &position.read(), moment(*sent_ms));
        }
        Event::Closed(why) => {
            assert_eq!(why, "bad_signature");
            view.close_all(Closed::BadSignature);
        }
        Event::ForgetMs(ms) => view.forget(moment(*ms)),
    }
}

impl Case {
    fn verifier(&self, sets: &BTreeMap<String, Value>) -> Verifier {
        let expected = Expected {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            profile: self.profile.parse().unwrap(),
        };
        let keys = KeySet::from_jwks(sets[&self.keys].to_string().as_bytes()).unwrap();
        let verifier = match &self.feed {
            None => Verifier::offline(expected, keys.clone()),
            Some(events) => {
                let view = Arc::new(RevocationView::default());
                events.iter().for_each(|event| feed(&view, event));
                Verifier::following(expected, view)
            }
        };
        verifier.replace_keys(1, keys).unwrap();
        verifier.announce_keys(self.announced_key_epoch);
        verifier
    }

    fn judge(&self, verifier: &Verifier) -> Result<(), Refusal> {
        let at = match (self.at.wall.map(UnixSeconds), self.at.moment_ms.map(moment)) {
            (Some(wall), Some(moment)) => At::both(wall, moment),
            (Some(wall), None) => At::wall(wall),
            (None, Some(moment)) => At::moment(moment),
            (None, None) => panic!("no time"),
        };
        let Keys { certificate, jkt } = self.presented;
        match &self.shown {
            Shown::Token(token) => {
                let grant = verifier.judge(token, &Presented { certificate, jkt }, at)?;
                self.call
                    .as_ref()
                    .map_or(Ok(()), |call| grant.permits_tool(&call.tool, call.arguments.as_ref()))
            }
            Shown::Certificate { serial, spiffe_id, authority, not_before, not_after } => {
                let certificate = TaskCertificate {
                    serial: &unhex(serial),
                    spiffe_id,
                    authority: *authority,
                    not_before: UnixSeconds(*not_before),
                    not_after: UnixSeconds(*not_after),
                };
                verifier.judge_certificate(&certificate, at).map(drop)
            }
        }
    }
}

fn cases() -> Vec<Case> {
    let document: Document = serde_json::from_str(CASES).unwrap();
    assert_eq!(document.format, 1);
    document.cases
}

#[test]
fn every_case_of_the_corpus_is_judged_as_it_says_at_first_and_at_second_sight() {
    let sets: BTreeMap<String, Value> = serde_json::from_str(KEYS).unwrap();
    let wrong: Vec<_> = cases()
        .iter()
        .filter_map(|case| {
            let verifier = case.verifier(&sets);
            let [first, second] =
                [(), ()].map(|()| case.judge(&verifier).map_or_else(Refusal::as_str, |()| "active"));
            let right = first == case.verdict && second == case.verdict;
            (!right).then(|| format!("{}: {first}, then {second}, not {}", case.name, case.verdict))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_files_of_the_corpus_are_what_the_generator_makes() {
    let made = make::corpus(CASES);
    assert!(made.keys == KEYS, "keys.json: cargo run -p taskpass-verifier --example corpus");
    assert!(made.cases == CASES, "cases.json: cargo run -p taskpass-verifier --example corpus");
}

#[test]
fn the_corpus_has_sixty_cases_and_more_each_with_its_own_name() {
    let cases = cases();
    let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 60, "{}", cases.len());
    assert!(cases.iter().all(|case| !case.about.is_empty()));
}

/// What no file can bring about, or is covered by tests of its own.
const NOT_IN_THE_CORPUS: [Refusal; 3] =
    [Refusal::SchemeNeedsBinding, Refusal::FeedOverflow, Refusal::AgentNotTaken];

#[test]
fn the_corpus_has_a_case_for_every_refusal() {
    let seen: BTreeSet<_> = cases().into_iter().map(|case| case.verdict).collect();
    let missing = Refusal::ALL.iter().filter(|refusal| !seen.contains(refusal.as_str()));
    assert_eq!(missing.copied().collect::<Vec<_>>(), NOT_IN_THE_CORPUS);
}

#[test]
fn the_documentation_of_the_corpus_names_every_member() {
    let readme = include_str!("../corpus/README.md");
    let document: Value = serde_json::from_str(CASES).unwrap();
    let mut members = BTreeSet::new();
    collect(&document["cases"], &mut members);
    let missing: Vec<_> = members.iter().filter(|member| !readme.contains(&format!("`{member}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn collect(value: &Value, members: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| {
            // The arguments of a call are the tool's own.
            if members.insert(name.clone()) && name == "arguments" {
                return;
            }
            if name != "arguments" {
                collect(value, members);
            }
        }),
        Value::Array(values) => values.iter().for_each(|value| collect(value, members)),
        _ => {}
    }
}

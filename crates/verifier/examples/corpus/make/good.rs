//! Tokens that are taken.

use super::case::{AGENT, Case, NOW, case, child, payload, quoted, taskpass};
use super::signers::{By, Signers};

pub(crate) fn cases(s: &Signers) -> Vec<Case> {
    let by_es256 = s.token(By::Es256, s.header(By::Es256), payload(&[]));
    let person = [
        ("sub", quoted("user@acme.example")),
        ("act", format!(r#"{{"sub":"{AGENT}","act":{{"sub":"spiffe://acme.example/agent/planner"}}}}"#)),
    ];
    let person: Vec<_> = person.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let root_task = taskpass(&[("lineage", "[]")]);
    let root_task = payload(&[("taskpass", &root_task), ("txn", &quoted(&child().to_string()))]);
    let last_second = Case {
        at: format!(r#"{{"wall": {}}}"#, NOW + 119),
        ..case("last_second", "the second before exp", s.sign(payload(&[])), "active")
    };
    vec![
        case("good_eddsa", "a good token by the Ed25519 key", s.sign(payload(&[])), "active"),
        case("good_es256", "a good token by the P-256 key", by_es256, "active"),
        case(
            "good_for_a_person",
            "sub is a person, act names the agents",
            s.sign(payload(&person)),
            "active",
        ),
        case("good_root_task", "a task without ancestors", s.sign(root_task), "active"),
        case("good_admission_only", "the scope grants no tool", s.sign(admission_only()), "active"),
        case("good_clock_ahead", "iat and nbf five seconds ahead", s.sign(ahead(5)), "active"),
        last_second,
    ]
}

fn admission_only() -> String {
    payload(&[("scope", "\"mcp\""), ("authorization_details", "")])
}

pub(crate) fn ahead(seconds: u64) -> String {
    let later = (NOW + seconds).to_string();
    payload(&[("iat", &later), ("nbf", &later)])
}

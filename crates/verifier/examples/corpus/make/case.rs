//! One case, and how it is written: one line for each member, so that changes can be read.

use serde_json::Value;
use taskpass_verifier::claims::GoalDigest;
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};

pub(crate) const ISSUER: &str = "https://taskpass.example/acme";
pub(crate) const AUDIENCE: &str = "https://files.example/mcp";
pub(crate) const AGENT: &str = "spiffe://acme.example/agent/researcher";
pub(crate) const NOW: u64 = 1_790_000_000;

/// A case. Everything but name, words and verdict has a usual value.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) verdict: &'static str,
    pub(crate) profile: &'static str,
    pub(crate) keys: &'static str,
    pub(crate) announced_key_epoch: u64,
    /// JSON: `{"token": ...}` or `{"certificate": ...}`.
    pub(crate) shown: String,
    /// JSON.
    pub(crate) presented: String,
    /// JSON objects; none for a verifier that is offline.
    pub(crate) feed: Option<Vec<String>>,
    /// JSON.
    pub(crate) at: String,
    /// JSON, if a tool is called.
    pub(crate) call: Option<String>,
}

/// A token before an offline verifier without binding, at [`NOW`].
pub(crate) fn case(name: &'static str, about: &'static str, token: String, verdict: &'static str) -> Case {
    Case {
        name,
        about,
        verdict,
        profile: "bearer",
        keys: "acme",
        announced_key_epoch: 1,
        shown: format!(r#"{{"token": "{token}"}}"#),
        presented: "{}".to_owned(),
        feed: None,
        at: format!(r#"{{"wall": {NOW}}}"#),
        call: None,
    }
}

impl Case {
    fn json(&self) -> String {
        let feed = self.feed.as_ref().map_or("null".to_owned(), |events| {
            let lines: Vec<_> = events.iter().map(|event| format!("        {event}")).collect();
            if lines.is_empty() { "[]".to_owned() } else { format!("[\n{}\n      ]", lines.join(",\n")) }
        });
        let members = [
            ("name", quoted(self.name)),
            ("about", quoted(self.about)),
            ("issuer", quoted(ISSUER)),
            ("audience", quoted(AUDIENCE)),
            ("profile", quoted(self.profile)),
            ("keys", quoted(self.keys)),
            ("announced_key_epoch", self.announced_key_epoch.to_string()),
            ("feed", feed),
            ("shown", self.shown.clone()),
            ("presented", self.presented.clone()),
            ("at", self.at.clone()),
            ("call", self.call.clone().unwrap_or("null".to_owned())),
            ("verdict", quoted(self.verdict)),
        ];
        let lines: Vec<_> =
            members.iter().map(|(name, value)| format!("      \"{name}\": {value}")).collect();
        format!("    {{\n{}\n    }}", lines.join(",\n"))
    }
}

pub(crate) fn document(cases: &[Case]) -> String {
    let cases: Vec<_> = cases.iter().map(Case::json).collect();
    format!("{{\n  \"format\": 1,\n  \"cases\": [\n{}\n  ]\n}}\n", cases.join(",\n"))
}

pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

pub(crate) fn part() -> Partition {
    Partition::from_low_bits(7)
}

pub(crate) fn task(n: u8) -> TaskId {
    TaskId::from_parts(1_789_999_990_000, part(), [n; 10])
}

/// The task of the good token.
pub(crate) fn child() -> TaskId {
    task(2)
}

/// Its parent.
pub(crate) fn root() -> TaskId {
    task(1)
}

pub(crate) fn jti() -> CredentialId {
    CredentialId { task: child(), number: 3 }
}

/// The `n`-th generation; the good token is of the second.
pub(crate) fn generation(n: u64) -> Generation {
    Generation::from_parts(1_789_000_000_000 + n, [9; 6])
}

/// The claims of the good token, by name and as JSON, with changes: another value, another member, or nothing to leave one out.
pub(crate) fn payload(changes: &[(&str, &str)]) -> String {
    let mut members = vec![
        ("iss", quoted(ISSUER)),
        ("sub", quoted(AGENT)),
        ("aud", quoted(AUDIENCE)),
        ("client_id", quoted(AGENT)),
        ("jti", quoted(&jti().to_string())),
        ("iat", NOW.to_string()),
        ("nbf", NOW.to_string()),
        ("exp", (NOW + 120).to_string()),
        ("scope", quoted("mcp mcp:tool:files.read mcp:tool:web/search")),
        (
            "authorization_details",
            r#"[{"type":"mcp_tool_call","tool":"files.read","constraints":{"path":{"prefix":"/srv/reports/"}}}]"#
                .to_owned(),
        ),
        ("txn", quoted(&root().to_string())),
        ("taskpass", taskpass(&[])),
    ];
    for (name, value) in changes {
        let place = members.iter().position(|(member, _)| member == name);
        match (place, *value) {
            (Some(place), "") => drop(members.remove(place)),
            (Some(place), value) => members[place].1 = value.to_owned(),
            (None, value) => members.push((name, value.to_owned())),
        }
    }
    object(&members)
}

/// The claim `taskpass` of the good token, with changes.
pub(crate) fn taskpass(changes: &[(&str, &str)]) -> String {
    let mut members = vec![
        ("task", quoted(&child().to_string())),
        ("lineage", format!("[\"{}\"]", root())),
        ("goal", quoted(&GoalDigest::of("Summarise the quarterly reports").to_string())),
        ("gen", quoted(&generation(2).to_string())),
        ("seq", "41".to_owned()),
    ];
    for (name, value) in changes {
        match members.iter().position(|(member, _)| member == name) {
            Some(place) => members[place].1 = (*value).to_owned(),
            None => members.push((name, (*value).to_owned())),
        }
    }
    object(&members)
}

fn object(members: &[(&str, String)]) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

use super::*;
use crate::error::Error;
use crate::files::{FromFiles, Listing, Problems};

const GOOD: &str = r#"
uri = "https://payments.example.org/mcp"
trust_domain = "example.org"
description = "Payments"
profile = "x5t#S256"
verifiers = ["spiffe://example.org/mcp/payments/**", "spiffe://partner.example/mcp/payments"]
bound = "5s"

[[tools]]
name = "refund"
schema_sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
labels = ["pii", "money"]

[[tools]]
name = "list"
labels = ["pii"]
"#;

const LEAST: &str = r#"
uri = "https://docs.example.org/mcp"
trust_domain = "example.org"
profile = "bearer"
tools = [{ name = "search" }]
"#;

fn load(texts: &[(&str, &str)]) -> Result<Audiences, Problems> {
    Audiences::from_files(&Listing::of_texts(texts))
}

#[test]
fn a_declaration_says_all_there_is_to_know_of_an_audience() {
    let audiences = load(&[("payments.toml", GOOD)]).unwrap();
    let payments = audiences.get("https://payments.example.org/mcp").unwrap();
    assert_eq!(payments.trust_domain().as_str(), "example.org");
    assert_eq!((payments.description(), payments.profile()), ("Payments", EnforcementProfile::X5tS256));
    assert_eq!(payments.bound(), Duration::from_secs(5));
    assert_eq!(payments.labels().collect::<Vec<_>>(), ["money", "pii"]);
    let names: Vec<_> = payments.tools().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["list", "refund"]);
    let refund = payments.tool("refund").unwrap();
    assert_eq!(refund.schema_sha256(), Some("a".repeat(64).as_str()));
    assert_eq!(refund.labels().collect::<Vec<_>>(), ["money", "pii"]);
    assert!(payments.tool("refunds").is_none());
}

#[test]
fn only_enrolled_workloads_verify() {
    let audiences = load(&[("payments.toml", GOOD)]).unwrap();
    let payments = audiences.get("https://payments.example.org/mcp").unwrap();
    let is = |id: &str| payments.is_verifier(&id.parse().unwrap());
    assert!(is("spiffe://example.org/mcp/payments/1"));
    assert!(is("spiffe://partner.example/mcp/payments"));
    assert!(!is("spiffe://example.org/mcp/docs"));
    assert!(!is("spiffe://partner.example/mcp/payments/1"));
}

#[test]
fn what_is_left_out_is_the_strictest() {
    let audiences = load(&[("docs.toml", LEAST)]).unwrap();
    let docs = audiences.get("https://docs.example.org/mcp").unwrap();
    assert!(!docs.is_verifier(&"spiffe://example.org/mcp/docs".parse().unwrap()));
    assert_eq!(docs.bound(), DEFAULT_BOUND);
    assert_eq!((docs.description(), docs.labels().count()), ("", 0));
    assert_eq!(docs.tool("search"), Some(&Tool::default()));
}

#[test]
fn another_spelling_of_a_uri_is_an_unknown_audience() {
    let audiences = load(&[("docs.toml", LEAST)]).unwrap();
    for uri in
        ["https://docs.example.org/mcp/", "https://docs.example.org", "HTTPS://docs.example.org/mcp", ""]
    {
        let error = Error::from(audiences.get(uri).unwrap_err());
        assert_eq!(error.reason().as_str(), "UNKNOWN_AUDIENCE", "{uri}");
    }
}

#[test]
fn each_bad_value_is_named_with_file_line_and_cure() {
    let many_tools = format!("tools = [{}]", "{ name = \"a\" },".repeat(declaration::MAX_TOOLS + 1));
    let many_labels = format!("labels = [{}]", "\"a\",".repeat(declaration::MAX_LABELS + 1));
    let many_patterns =
        format!("verifiers = [{}]", "\"spiffe://a/b\",".repeat(declaration::MAX_VERIFIERS + 1));
    let long = format!("description = \"{}\"", "x".repeat(declaration::MAX_DESCRIPTION_BYTES + 1));
    for (good, bad, line, what) in [
        (
            "uri = \"https:",
            "uri = \"HTTPS:",
            2,
            "is not canonical: write \"https://payments.example.org/mcp\"",
        ),
        ("uri = \"https:", "uri = \"http:", 2, "must be https"),
        ("uri = \"https://payments.example.org/mcp\"", "uri = 7", 2, "uri must be a string, not a number"),
        ("uri =", "url =", 2, "unknown key \"url\""),
        ("\"example.org\"", "\"Example.org\"", 3, "has a character in its trust domain"),
        ("\"example.org\"", "\"\"", 3, "has an empty trust domain"),
        ("description = \"Payments\"", &long, 4, "at most 512 bytes"),
        ("Payments\"", "a\\nb\"", 4, "without control characters"),
        ("x5t#S256", "x5t", 5, "not an enforcement profile"),
        ("payments/**\"", "*x\"", 6, "has a star inside a segment"),
        ("\"spiffe://example.org/mcp/payments/**\"", "7", 6, "verifiers must be a string, not a number"),
        ("verifiers = [", "verifiers = \"a\" #", 6, "verifiers must be an array, not a string"),
        ("verifiers =", &format!("{many_patterns} #"), 6, "65 items; at most 64"),
        ("\"5s\"", "\"999ms\"", 7, "\"999ms\" is not a duration from 1s to 5m"),
        ("\"5s\"", "\"301s\"", 7, "is not a duration from 1s to 5m"),
        ("\"5s\"", "\"0s\"", 7, "is not a duration from 1s to 5m"),
        ("\"5s\"", "\"-5s\"", 7, "is not a duration from 1s to 5m"),
        ("\"5s\"", "\"18446744073709551615y\"", 7, "is not a duration from 1s to 5m"),
        ("\"5s\"", "5", 7, "bound must be a string, not a number"),
        ("bound =", "max_stale =", 7, "unknown key \"max_stale\""),
        ("\"refund\"", "\"re fund\"", 10, "not a tool name"),
        ("\"refund\"", "\"\"", 10, "not a tool name"),
        ("\"refund\"", "[\"refund\"]", 10, "name must be a string, not an array"),
        ("name = \"refund\"", "title = \"refund\"", 10, "unknown key \"title\" of a tool"),
        ("name = \"refund\"", "", 9, "the tool has no name"),
        ("\"aaaa", "\"AAAA", 11, "is not 64 hexadecimal digits in lower case"),
        ("\"aaaa", "\"aaa", 11, "is not 64 hexadecimal digits in lower case"),
        ("\"money\"", "\"Money\"", 12, "is not a label"),
        ("\"money\"", "\"\"", 12, "is not a label"),
        ("\"money\"", "\"-x\"", 12, "is not a label"),
        ("labels = [\"pii\", \"money\"]", &many_labels, 12, "17 items; at most 16"),
        ("\"list\"", "\"refund\"", 14, "tool \"refund\" is declared twice"),
        ("bound =", "bound = \"1s\"\nbound =", 8, "duplicate key"),
        ("bound = \"5s\"", "bound = \"5s", 7, "invalid basic string"),
        ("tools = [{ name = \"search\" }]", "tools = []", 5, "tools: declare at least one"),
        (
            "tools = [{ name = \"search\" }]",
            "tools = [\"search\"]",
            5,
            "write each tool as a table [[tools]]",
        ),
        ("tools = [{ name = \"search\" }]", "tools = true", 5, "tools must be an array, not a boolean"),
        ("tools = [{ name = \"search\" }]", &many_tools, 5, "257 items; at most 256"),
    ] {
        let base = if GOOD.contains(good) { GOOD } else { LEAST };
        let text = base.replacen(good, bad, 1);
        assert_ne!(text, base, "{good}");
        let problems = load(&[("a.toml", &text)]).expect_err(bad);
        let found = problems.0.iter().any(|it| it.line == Some(line) && it.what.contains(what));
        assert!(found, "{bad}: {problems}");
        assert!(problems.to_string().contains(&format!("a.toml:{line}: ")), "{problems}");
    }
}

#[test]
fn every_missing_key_is_named_at_once() {
    let problems = load(&[("empty.toml", "")]).unwrap_err().to_string();
    for key in ["uri", "trust_domain", "profile", "tools"] {
        assert!(problems.contains(&format!("empty.toml: {key} is missing")), "{problems}");
    }
}

#[test]
fn all_problems_of_all_files_come_in_one_report() {
    let bad = LEAST.replace("bearer", "none").replace("https:", "ftp:").replace("trust_domain", "domain");
    let problems =
        load(&[("a.toml", &bad), ("b.toml", "colour = 1\nsize = 2"), ("c.toml", GOOD)]).unwrap_err();
    let report = problems.to_string();
    for line in [
        "a.toml:2: uri: \"ftp://docs.example.org/mcp\" must be https",
        "a.toml:3: unknown key \"domain\"",
        "a.toml: trust_domain is missing",
        "a.toml:4: profile: \"none\" not an enforcement profile",
        "b.toml:1: unknown key \"colour\"",
        "b.toml:2: unknown key \"size\"",
    ] {
        assert!(report.contains(line), "{line} in\n{report}");
    }
    assert!(!report.contains("c.toml"), "{report}");
}

#[test]
fn a_uri_declared_twice_is_refused() {
    let again = GOOD.replace("Payments", "Another");
    let problems = load(&[("a.toml", GOOD), ("b.toml", &again)]).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "b.toml: uri: https://payments.example.org/mcp is declared in a.toml already"
    );
}

#[test]
fn the_register_follows_its_directory_and_keeps_the_old_one_when_a_file_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("docs.toml"), LEAST).unwrap();
    let register = AudienceRegister::open(dir.path()).unwrap();
    assert_eq!(register.snapshot().len(), 1);
    std::fs::write(dir.path().join("payments.toml"), GOOD.replace("5s", "5 days")).unwrap();
    register.look();
    assert_eq!(register.look(), crate::files::Looked::Refused);
    assert_eq!(register.snapshot().len(), 1);
    std::fs::write(dir.path().join("payments.toml"), GOOD).unwrap();
    register.look();
    assert_eq!(register.look(), crate::files::Looked::Taken);
    assert_eq!(register.snapshot().len(), 2);
}

#[test]
fn the_sample_register_is_sound() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sample/audiences");
    let audiences = AudienceRegister::open(dir).unwrap_or_else(|problems| panic!("{problems}")).snapshot();
    let uris: Vec<_> = audiences.iter().map(|audience| audience.uri().as_str()).collect();
    assert_eq!(uris, ["https://docs.example.org/mcp", "https://payments.example.org/mcp"]);
}

proptest::proptest! {
    #[test]
    fn hostile_text_never_panics(text in "(\\PC|\\n|=|\\[|\"){0,200}") {
        let _ = load(&[("a.toml", &text)]);
    }
}

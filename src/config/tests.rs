use super::*;

const GOOD: &str = r#"
trust_domain = "broker.example.org"
[identity]
certificate = "broker.pem"
key = "/etc/taskpass/broker.key"
[[trust_domains]]
name = "example.org"
bundles = ["example.org.pem"]
issuer = "https://taskpass.example.org/example.org"
[store]
kind = "embedded"
path = "data/taskpass.redb"
[keys]
key_encryption_key_file = "kek"
[policy]
dir = "policy"
audiences = "audiences"
"#;

fn resolved(text: &str) -> Result<Config, Problems> {
    resolve(toml::from_str(text).expect("well-formed"), std::path::Path::new("/base"))
}

fn keys_of(problems: &Problems) -> Vec<&str> {
    problems.0.iter().map(|p| p.key.as_str()).collect()
}

#[test]
fn a_short_file_is_enough_and_relative_paths_start_at_its_directory() {
    let config = resolved(GOOD).expect("good");
    assert_eq!(config.identity.certificate, PathBuf::from("/base/broker.pem"));
    assert_eq!(config.identity.key, PathBuf::from("/etc/taskpass/broker.key"));
    assert_eq!(config.lifetimes.default_token, Duration::from_secs(120));
    assert_eq!(config.listen.grpc.port(), 8443);
}

#[test]
fn every_problem_is_reported_in_one_run() {
    let text = GOOD
        .replace("\"broker.example.org\"", "\"Broker\"")
        .replace("https://taskpass.example.org/example.org", "http://plain")
        .replace(
            "[policy]",
            "[lifetimes]\nmax_token = \"1h\"\ndefault_certificate = \"0s\"\n[limits]\ncalls = 0\n[policy]",
        )
        .replace("key_encryption_key_file = \"kek\"", "");
    let problems = resolved(&text).expect_err("bad");
    let mut keys = keys_of(&problems);
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "keys",
            "lifetimes.default_certificate",
            "lifetimes.max_token",
            "limits.calls",
            "trust_domain",
            "trust_domains[0].issuer"
        ]
    );
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let text = GOOD.replace("[policy]", "[policy]\ndirr = \"x\"");
    let error = toml::from_str::<raw::Raw>(&text).expect_err("unknown key");
    assert!(error.to_string().contains("dirr"), "{error}");
}

#[test]
fn a47_a_password_in_the_redis_url_is_refused() {
    let text = GOOD.replace(
        "kind = \"embedded\"\npath = \"data/taskpass.redb\"",
        "kind = \"redis\"\ndurability = \"memory\"\nurl = \"redis://me:secret@localhost\"",
    );
    let problems = resolved(&text).expect_err("bad");
    assert_eq!(keys_of(&problems), ["store.url"]);
    assert!(!problems.to_string().contains("secret"));
}

#[test]
fn a47_no_trust_domain_is_no_default() {
    let start = GOOD.find("[[trust_domains]]").expect("there");
    let end = GOOD.find("[store]").expect("there");
    let mut text = GOOD.to_owned();
    text.replace_range(start..end, "");
    assert_eq!(keys_of(&resolved(&text).expect_err("bad")), ["trust_domains"]);
}

#[test]
fn the_embedded_store_has_no_replicas() {
    let text = GOOD.replace("kind = \"embedded\"", "kind = \"embedded\"\ndurability = \"replicas\"");
    assert_eq!(keys_of(&resolved(&text).expect_err("bad")), ["store.durability"]);
}

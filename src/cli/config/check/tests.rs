use std::fs;

use super::*;
use crate::cli::sandbox::{CONFIG, Sandbox};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn keys(problems: &Problems) -> Vec<&str> {
    problems.0.iter().map(|p| p.key.as_str()).collect()
}

#[test]
fn what_dev_makes_has_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    Sandbox::open(dir.path(), NOW).unwrap();
    let problems = all(&dir.path().join(CONFIG), NOW);
    assert_eq!(keys(&problems), [""; 0], "{problems}");
}

#[test]
fn every_problem_of_every_file_is_named_in_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let config =
        config.replace("127.0.0.1:8443", "here").replace("\"audit.jsonl\"", "\"no/such/dir/audit.jsonl\"");
    fs::write(sandbox.config(), config + "[limits]\ncalls = 0\n").unwrap();
    fs::remove_file(dir.path().join("identities/broker.key")).unwrap();
    fs::write(dir.path().join("bundles/example.org.pem"), "{").unwrap();
    fs::write(dir.path().join("kek"), "too short").unwrap();
    fs::write(dir.path().join("policy/agents.cedar"), "permit (principal, action, resource").unwrap();
    let docs = fs::read_to_string(dir.path().join("audiences/docs.toml")).unwrap();
    fs::write(dir.path().join("audiences/docs.toml"), docs.replace("\"example.org\"", "\"other.test\""))
        .unwrap();
    let problems = all(&sandbox.config(), NOW);
    let mut found = keys(&problems);
    found.sort_unstable();
    found.dedup();
    let expected = [
        "audit.file",
        "identity",
        "keys",
        "limits.calls",
        "listen.grpc",
        "policy.audiences",
        "policy.dir",
        "trust_domains[0].bundles",
    ];
    assert_eq!(found, expected, "{problems}");
    assert!(problems.to_string().contains("docs.example.org/mcp belongs to trust domain other.test"));
    assert!(!problems.to_string().contains("too short"));
}

#[test]
fn each_file_of_a_setting_is_named_though_another_is_wrong_too() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let config = config
        .replace("\"identities/broker.pem\"", "\"own.pem\"")
        .replace("\"identities/broker.key\"", "\"own.key\"")
        .replace("\"bundles/example.org.pem\"", "\"nope\", \"policy\", \"identities/agent.key\"");
    let public =
        "[public]\nlisten = \"127.0.0.1:0\"\ncertificate = \"web.pem\"\nkey = \"identities/agent.pem\"\n";
    fs::write(sandbox.config(), config + public).unwrap();
    let problems = all(&sandbox.config(), NOW);
    let said = |key: &str| {
        let said = problems.0.iter().filter(|it| it.key == key).map(|it| it.what.clone());
        said.collect::<Vec<_>>().join("\n")
    };
    let found = [
        ("identity", ["own.pem: there is no such file", "own.key: there is no such file"].as_slice()),
        ("public", &["web.pem: there is no such file", "agent.pem: the file is open to others"]),
        (
            "trust_domains[0].bundles",
            &["nope: there is no such file", "policy: not a regular file", "agent.key: "],
        ),
    ];
    for (key, files) in found {
        assert!(files.iter().all(|it| said(key).contains(it)), "{key}: {problems}");
    }
}

#[test]
fn the_files_beside_a_bundle_endpoint_are_read_and_nobody_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let endpoint = "\n[trust_domains.federation]\nurl = \"https://nobody.invalid/\"\nprofile = \"https_web\"\nca_file = \"web-ca.pem\"\n\n[store]";
    fs::write(sandbox.config(), config.replace("\n[store]", endpoint)).unwrap();
    let said = || keys(&all(&sandbox.config(), NOW)).join(" ");
    assert_eq!(said(), "trust_domains[0].federation.ca_file");
    fs::write(dir.path().join("web-ca.pem"), "no certificate").unwrap();
    fs::write(dir.path().join("bundles/example.org.pem"), "{").unwrap();
    assert_eq!(said(), "trust_domains[0].bundles trust_domains[0].federation.ca_file");
    let root = crate::identity::test_ca::Ca::new("web.test").pem();
    fs::write(dir.path().join("web-ca.pem"), &root).unwrap();
    fs::write(dir.path().join("bundles/example.org.pem"), &root).unwrap();
    assert_eq!(said(), "");
}

#[test]
fn an_expired_certificate_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
    let later = NOW.saturating_add(std::time::Duration::from_secs(25 * 3600));
    assert_eq!(keys(&all(&sandbox.config(), later)), ["identity"]);
}

/// What `dev` makes, with `[store]` for Redis and these lines.
fn on_redis(url: &str, more: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let store = format!("kind = \"redis\"\ndurability = \"memory\"\nurl = \"{url}\"\n{more}");
    let config = config.replace("kind = \"embedded\"\npath = \"data/taskpass.redb\"", &store);
    fs::write(sandbox.config(), config).unwrap();
    (dir, sandbox.config())
}

const TLS: &str = "username = \"me\"\npassword_file = \"password\"\nca_file = \"bundles/example.org.pem\"\n\
                   client_certificate = \"identities/agent.pem\"\nclient_key = \"identities/agent.key\"";

#[test]
fn every_file_for_redis_is_read_as_the_store_reads_it() {
    let (dir, config) = on_redis("rediss://localhost:6379/0", TLS);
    let at = |name: &str| dir.path().join(name);
    let private = |name: &str, text: &str| crate::cli::input::replace(&at(name), text, 0o600).unwrap();
    private("password", "secret\n");
    assert_eq!(keys(&all(&config, NOW)), [""; 0], "{}", all(&config, NOW));

    let key = fs::read_to_string(at("identities/agent.key")).unwrap();
    private("identities/agent.key", &fs::read_to_string(at("identities/operator.key")).unwrap());
    assert_eq!(keys(&all(&config, NOW)), ["store.client_key"]);
    for (name, setting) in [
        ("password", "store.password_file"),
        ("bundles/example.org.pem", "store.ca_file"),
        ("identities/agent.pem", "store.client_certificate"),
        ("identities/agent.key", "store.client_key"),
    ] {
        let good = fs::read_to_string(at(name)).unwrap();
        private(name, "");
        let problems = all(&config, NOW);
        assert!(problems.has(setting), "{name}: {problems}");
        fs::remove_file(at(name)).unwrap();
        assert!(all(&config, NOW).has(setting), "{name}");
        fs::create_dir(at(name)).unwrap();
        assert!(all(&config, NOW).has(setting), "{name}");
        fs::remove_dir(at(name)).unwrap();
        private(name, &good);
    }
    private("identities/agent.key", &key);
    assert_eq!(keys(&all(&config, NOW)), [""; 0]);
}

#[test]
fn a47_secrets_for_redis_that_others_can_read_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, config) = on_redis("rediss://localhost", TLS);
    crate::cli::input::replace(&dir.path().join("password"), "secret\n", 0o600).unwrap();
    for (name, setting) in [("password", "store.password_file"), ("identities/agent.key", "store.client_key")]
    {
        let file = dir.path().join(name);
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let problems = all(&config, NOW);
        assert_eq!(keys(&problems), [setting]);
        assert!(
            problems.to_string().contains("open to others") && !problems.to_string().contains("secret\n")
        );
        mode(0o640);
        assert_eq!(keys(&all(&config, NOW)), [""; 0]);
    }
}

#[test]
fn an_address_that_is_none_and_a_database_of_ones_own_are_refused() {
    for (url, said) in [
        ("redis://:notaport/xyz", "none of redis://host:port"),
        ("redis://", "none of redis://host:port"),
        ("redis://localhost/xyz", "none of redis://host:port"),
        ("redis://localhost:6379/1", "another database than 0"),
    ] {
        let (_dir, config) = on_redis(url, "");
        let problems = all(&config, NOW);
        assert_eq!(keys(&problems), ["store.url"], "{url}");
        assert!(problems.to_string().contains(said), "{url}: {problems}");
    }
}

#[test]
fn a_path_of_the_wrong_kind_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
    fs::create_dir(dir.path().join("data/taskpass.redb")).unwrap();
    fs::create_dir(dir.path().join("audit.jsonl")).unwrap();
    fs::remove_dir(dir.path().join("public")).unwrap();
    fs::write(dir.path().join("public"), "").unwrap();
    assert_eq!(keys(&all(&sandbox.config(), NOW)), ["store.path", "export.dir", "audit.file"]);
    fs::remove_dir(dir.path().join("data/taskpass.redb")).unwrap();
    fs::remove_dir(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data"), "").unwrap();
    assert!(all(&sandbox.config(), NOW).has("store.path"));
    // The audit log makes no directory.
    let text = fs::read_to_string(sandbox.config()).unwrap();
    fs::write(sandbox.config(), text.replace("\"audit.jsonl\"", "\"logs/audit.jsonl\"")).unwrap();
    assert!(all(&sandbox.config(), NOW).has("audit.file"));
}

#[test]
fn a_broker_certificate_of_another_trust_domain_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
    let text = fs::read_to_string(sandbox.config()).unwrap();
    fs::write(sandbox.config(), text.replace("\"broker.example.org\"", "\"elsewhere.test\"")).unwrap();
    let problems = all(&sandbox.config(), NOW);
    assert_eq!(keys(&problems), ["identity"]);
    assert!(problems.to_string().contains("neither trust_domain nor one of trust_domains"), "{problems}");
}

#[test]
fn problems_of_schema_and_of_syntax_are_in_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
    let policy = |name: &str, text: &str| fs::write(dir.path().join("policy").join(name), text).unwrap();
    policy("one.cedar", "permit (principal, action, resource");
    policy("two.cedar", "permit (principal, action, resource) when { principal.nonsense == 1 };");
    policy(
        "three.cedar",
        "@id(\"agents-begin\") permit (principal, action, resource) when { principal.folly };",
    );
    let said = all(&sandbox.config(), NOW).to_string();
    for word in ["one.cedar", "two.cedar", "nonsense", "three.cedar", "agents-begin", "folly"] {
        assert!(said.contains(word), "no word of {word}: {said}");
    }
}

#[test]
fn the_example_is_a_configuration_with_every_setting() {
    let load = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("broker.toml");
        fs::write(&file, text).unwrap();
        config::load(&file).unwrap_or_else(|p| panic!("{p}"))
    };
    let example = crate::cli::config::EXAMPLE;
    load(example);
    // With every default written out, and the other store, it says the same.
    let all: String = example
        .lines()
        .map(|line| line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n");
    let (first, rest) = all.split_once("[store]").unwrap();
    let (_, redis) = rest.split_once("[store]").unwrap();
    let all = format!("{first}[store]{redis}");
    // Each secret is in a file or in the environment.
    let all = all.replace("other_key_encryption_key_file = \"/etc/taskpass/kek.other\"\n", "");
    let all = all.replace("key_encryption_key_file = \"/etc/taskpass/kek\"\n", "");
    let all = all.replace("other_key_encryption_key_credential = \"kek.other\"\n", "");
    let all = all.replace("key_encryption_key_credential = \"kek\"\n", "");
    let all = all.replace("other_key_encryption_key_pkcs11 = \"taskpass-kek\"\n", "");
    let all = all.replace("key_encryption_key_pkcs11 = \"taskpass-kek\"\n", "");
    let all = all.replace("pin_file = \"/etc/taskpass/pin\"\n", "");
    let all = all.replace("pin_credential = \"pin\"\n", "");
    #[cfg(not(feature = "pkcs11"))]
    let all = {
        let (before, rest) = all.split_once("[keys.pkcs11]").unwrap();
        let (_, after) = rest.split_once("sessions = 4\n").unwrap();
        format!("{before}{after}")
    };
    assert_eq!(load(&all).limits.calls, 4096);
}

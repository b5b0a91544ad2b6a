use std::path::Path;

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
    let mut problems = Problems::default();
    let raw = raw::read(text, Path::new("broker.toml"), &mut problems);
    let draft = raw.map(|raw| resolve::resolve(raw, Path::new("/base"), &mut problems));
    resolve::finish(draft, problems)
}

fn keys_of(problems: &Problems) -> Vec<&str> {
    problems.0.iter().map(|p| p.key.as_str()).collect()
}

#[test]
fn a_short_file_is_enough_and_relative_paths_start_at_its_directory() {
    let config = resolved(GOOD).expect("good");
    let OwnFrom::Files(own) = config.identity else { panic!("not from files") };
    assert_eq!(own.certificate, PathBuf::from("/base/broker.pem"));
    assert_eq!(own.key, PathBuf::from("/etc/taskpass/broker.key"));
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

/// `GOOD`, with these lines in the place of the files of `example.org`.
fn fed(lines: &str) -> Result<Config, Problems> {
    resolved(&GOOD.replace(
        "bundles = [\"example.org.pem\"]\nissuer = \"https://taskpass.example.org/example.org\"",
        &format!("issuer = \"https://taskpass.example.org/example.org\"\n{lines}"),
    ))
}

fn refused(lines: &str) -> String {
    let problems = fed(lines).expect_err(lines);
    keys_of(&problems).join(" ").replace("trust_domains[0]", "td")
}

const ENDPOINT: &str = "[trust_domains.federation]\nurl = \"https://example.org/bundle\"\n";

#[test]
fn c75_c76_a_bundle_endpoint_says_url_and_profile_each_by_itself() {
    let web = fed(&format!("{ENDPOINT}profile = \"https_web\"")).expect("good");
    let BundleFrom::Federation { at_first, endpoint } = &web.trust_domains[0].bundle else { panic!("files") };
    assert!(at_first.is_empty() && endpoint.follow_redirects);
    assert_eq!(endpoint.profile, crate::identity::Profile::Web { ca_file: None });
    assert_eq!(endpoint.keep_for, Duration::from_secs(24 * 3600));
    let spiffe = format!(
        "bundles = [\"first.pem\"]\n{ENDPOINT}profile = \"https_spiffe\"\nendpoint_spiffe_id = \"spiffe://example.org/bundles\""
    );
    let spiffe = fed(&spiffe).expect("good");
    let BundleFrom::Federation { at_first, .. } = &spiffe.trust_domains[0].bundle else { panic!("files") };
    assert_eq!(at_first, &[PathBuf::from("/base/first.pem")]);
}

#[test]
fn c76_c77_what_is_wrong_with_a_bundle_endpoint_is_said_each_by_itself() {
    let with = |lines: &str| refused(&format!("[trust_domains.federation]\n{lines}"));
    assert_eq!(with(""), "td.federation.url td.federation.profile");
    assert_eq!(with("url = \"http://a.test/\"\nprofile = \"https_web\""), "td.federation.url");
    assert_eq!(
        with("url = \"https://me@a.test/\"\nprofile = \"web\""),
        "td.federation.profile td.federation.url"
    );
    assert_eq!(
        with(
            "url = \"https://a.test/#x\"\nprofile = \"https_web\"\nendpoint_spiffe_id = \"spiffe://a.test/e\"\nkeep_for = \"0s\"\nother = 1"
        ),
        "td.federation.other td.federation.url td.federation.endpoint_spiffe_id td.federation.keep_for"
    );
    let spiffe =
        |lines: &str| with(&format!("url = \"https://a.test/\"\nprofile = \"https_spiffe\"\n{lines}"));
    assert_eq!(spiffe("ca_file = \"x\""), "td.federation.ca_file td.federation.endpoint_spiffe_id");
    assert_eq!(spiffe("endpoint_spiffe_id = \"https://example.org/\""), "td.federation.endpoint_spiffe_id");
    assert_eq!(
        spiffe("endpoint_spiffe_id = \"spiffe://example.org\""),
        "td.federation.endpoint_spiffe_id td.bundles"
    );
}

#[test]
fn c79_the_bundle_that_an_endpoint_is_checked_by_comes_from_somewhere() {
    let with =
        |id: &str| refused(&format!("{ENDPOINT}profile = \"https_spiffe\"\nendpoint_spiffe_id = \"{id}\""));
    assert_eq!(with("spiffe://example.org/bundles"), "td.bundles");
    assert_eq!(with("spiffe://elsewhere.test/bundles"), "td.federation.endpoint_spiffe_id");
}

#[test]
fn c79_endpoints_that_wait_for_each_other_in_a_circle_are_said_once() {
    let with = |all: &[(&str, &str, &str)]| {
        let one = |(name, by, more): &(&str, &str, &str)| {
            format!(
                "[[trust_domains]]\nname = \"{name}.test\"\n{more}\n{ENDPOINT}profile = \"https_spiffe\"\nendpoint_spiffe_id = \"spiffe://{by}.test/b\"\n"
            )
        };
        let others: String = all.iter().map(one).collect();
        fed(&format!("bundles = [\"a.pem\"]\n{others}")).map(drop).map_err(|it| keys_of(&it).join(" "))
    };
    let at = |i: usize| Err(format!("trust_domains[{i}].federation.endpoint_spiffe_id"));
    let given = "bundles = [\"b.pem\"]";
    assert_eq!(with(&[("a", "b", ""), ("b", "a", "")]), at(1));
    assert_eq!(with(&[("a", "b", ""), ("b", "c", ""), ("c", "a", "")]), at(1));
    assert_eq!(
        with(&[("a", "b", ""), ("b", "c", ""), ("c", "b", "")]),
        at(2),
        "one that leads into it is none of it"
    );
    assert_eq!(with(&[("a", "b", ""), ("b", "a", given)]), Ok(()));
    assert_eq!(with(&[("a", "b", ""), ("b", "c", given), ("c", "b", "")]), Ok(()));
    assert_eq!(with(&[("a", "b", ""), ("b", "b", given)]), Ok(()));
}

#[test]
fn a_trust_domain_has_one_source_and_the_broker_one_identity() {
    let api = "[trust_domains.workload_api]\nsocket = \"unix:///run/agent.sock\"\n";
    let config = fed(api).expect("good");
    let BundleFrom::WorkloadApi(from) = &config.trust_domains[0].bundle else { panic!("files") };
    assert_eq!(from.keep_for, Duration::from_secs(3600));
    assert_eq!(refused(&format!("bundles = [\"a.pem\"]\n{api}")), "td.bundles");
    assert_eq!(refused(&format!("{ENDPOINT}profile = \"https_web\"\n{api}")), "td.workload_api");
    assert_eq!(refused(""), "td.bundles");
    assert_eq!(refused("bundles = []"), "td.bundles");
    assert_eq!(refused("federation = 5"), "td.federation");
    assert_eq!(
        refused("[trust_domains.workload_api]\nkeep_for = \"1ms\""),
        "td.workload_api.socket td.workload_api.keep_for"
    );
    assert_eq!(
        refused("[trust_domains.workload_api]\nsocket = \"tcp://10.0.0.1:80\""),
        "td.workload_api.socket"
    );

    let own = |lines: &str| {
        resolved(&GOOD.replace("certificate = \"broker.pem\"\nkey = \"/etc/taskpass/broker.key\"", lines))
            .map_err(|problems| keys_of(&problems).join(" "))
    };
    let good = own("workload_api = { socket = \"unix:/run/agent.sock\", hint = \"broker\" }").expect("good");
    assert!(
        matches!(good.identity, OwnFrom::WorkloadApi { wanted: crate::identity::Wanted::Hint(hint), .. } if hint == "broker")
    );
    for (lines, keys) in [
        ("", "identity.certificate identity.key"),
        ("key = \"k\"\nworkload_api = { socket = \"unix:/run/agent.sock\" }", "identity"),
        ("workload_api = {}", "identity.workload_api.socket"),
        ("workload_api = 5", "identity.workload_api"),
        (
            "workload_api = { socket = \"unix:x\", hint = \"\", other = 1 }",
            "identity.workload_api.other identity.workload_api.socket identity.workload_api.hint",
        ),
        (
            "workload_api = { socket = \"unix:/x\", hint = \"a\", spiffe_id = \"spiffe://a.test/b\" }",
            "identity.workload_api.hint",
        ),
    ] {
        assert_eq!(own(lines).expect_err(lines), keys, "{lines}");
    }
}

const PUBLIC: &str = "[public]\nlisten = \"[::]:8444\"\ncertificate = \"tls.pem\"\nkey = \"tls.key\"\n";

#[test]
fn the_public_listener_is_off_or_has_all_that_it_needs() {
    assert!(resolved(GOOD).expect("good").public.is_none());
    let off = resolved(&format!("{GOOD}[public]\nmax_connections = 9\n")).expect("good");
    assert!(off.public.is_none());
    let public = resolved(&format!("{GOOD}{PUBLIC}")).expect("good").public.expect("on");
    assert_eq!(public.certificate, PathBuf::from("/base/tls.pem"));
    // What the sample shows.
    assert_eq!((public.max_connections, public.connections_per_address), (1024, 64));
    assert_eq!((public.requests_per_second.get(), public.listen.port()), (100, 8444));
    for (lines, keys) in [
        ("[public]\nkey = \"tls.key\"", &["public.listen"][..]),
        ("[public]\nlisten = \"here\"", &["public.listen", "public.certificate", "public.key"]),
        (&PUBLIC.replace("[::]:8444", "127.0.0.1:9090"), &["public.listen"]),
        (&format!("{PUBLIC}requests_per_second = 0"), &["public.requests_per_second"]),
    ] {
        let problems = resolved(&format!("{GOOD}{lines}\n")).expect_err("bad");
        assert_eq!(keys_of(&problems), keys, "{lines}");
    }
}

#[test]
fn issuers_of_one_path_are_not_served_together() {
    let other = "[[trust_domains]]\nname = \"other.org\"\nbundles = [\"o.pem\"]\nissuer = \"https://other.org/example.org\"\n";
    resolved(&format!("{GOOD}{other}")).expect("good without the public listener");
    let problems = resolved(&format!("{GOOD}{other}{PUBLIC}")).expect_err("bad");
    assert_eq!(keys_of(&problems), ["trust_domains[1].issuer"]);
}

#[test]
fn one_unknown_or_mistyped_key_hides_nothing_else() {
    let text = GOOD
        .replace("[policy]", "[limits]\ncalls = \"many\"\nmessage_bytes = -1\n[listen]\ngrpc = \"here\"\n[polcy]\n[policy]\ndirr = \"x\"")
        .replace("trust_domain = \"broker", "drane = \"5s\"\ntrust_domain = \"broker")
        .replace("path = \"data/taskpass.redb\"", "path = 5\nurl = \"redis://localhost\"")
        .replace("key_encryption_key_file = \"kek\"", "")
        .replace("certificate = \"broker.pem\"", "")
        .replace("bundles = [\"example.org.pem\"]", "bundles = \"example.org.pem\"");
    let problems = resolved(&text).expect_err("bad");
    let mut keys = keys_of(&problems);
    keys.sort_unstable();
    let expected = [
        "drane",
        "identity.certificate",
        "keys",
        "limits.calls",
        "limits.message_bytes",
        "listen.grpc",
        "polcy",
        "policy.dirr",
        "store.path",
        "store.url",
        "trust_domains[0].bundles",
    ];
    assert_eq!(keys, expected, "{problems}");
    assert!(
        problems.to_string().contains("unknown field `drane`, expected one of `trust_domain`"),
        "{problems}"
    );
}

#[test]
fn what_is_no_toml_is_named_by_its_line_and_not_repeated() {
    let text = GOOD.replace("[policy]", "[policy\nnote = \"hush").replace("[keys]", "[keys]\n= 5");
    let problems = resolved(&text).expect_err("bad");
    let at = |what| {
        let before = text.split(what).next().expect("there");
        format!("broker.toml:{}", 1 + before.lines().count())
    };
    assert!(problems.has(&at("= 5")) && problems.has(&at("[policy")), "{problems}");
    assert!(!problems.to_string().contains("hush"), "{problems}");
}

#[test]
fn no_number_is_larger_than_anybody_needs() {
    let redis = GOOD.replace(
        "kind = \"embedded\"\npath = \"data/taskpass.redb\"",
        "kind = \"redis\"\nurl = \"redis://localhost\"\ndurability = \"memory\"",
    );
    for (section, keys) in [
        ("store", vec!["connections", "replicas", "timeout"]),
        ("policy", vec!["reload_interval"]),
        ("listen", vec!["max_connections", "connections_per_workload", "max_connection_age"]),
        ("limits", vec!["live_tasks_per_workload", "credentials_per_task", "streams_per_connection"]),
        ("limits", vec!["calls", "calls_per_workload", "message_bytes", "call_timeout"]),
        (
            "lifetimes",
            vec!["max_task", "max_token", "max_certificate", "default_token", "default_certificate"],
        ),
        ("lifetimes", vec!["retention"]),
    ] {
        for key in keys {
            for value in ["9000000000000000000", "4294967295", "\"9999999 years\""] {
                let line = format!("[{section}]\n{key} = {value}");
                let text = match redis.contains(&format!("[{section}]")) {
                    true => redis.replace(&format!("[{section}]"), &line),
                    false => format!("{redis}{line}\n"),
                };
                let problems = resolved(&text).expect_err("bad");
                assert!(problems.has(&format!("{section}.{key}")), "{section}.{key} = {value}: {problems}");
            }
        }
    }
    assert_eq!(keys_of(&resolved(&format!("drain = \"9999 years\"\n{redis}")).expect_err("bad")), ["drain"]);
    resolved(&redis).expect("good");
}

#[test]
fn what_redis_cannot_be_reached_by_is_refused() {
    let with = |url: &str, more: &str| {
        let store = format!("kind = \"redis\"\ndurability = \"memory\"\nurl = \"{url}\"\n{more}");
        let text = GOOD.replace("kind = \"embedded\"\npath = \"data/taskpass.redb\"", &store);
        resolved(&text).err().map(|p| keys_of(&p).join(" ")).unwrap_or_default()
    };
    assert_eq!(with("redis://localhost", ""), "");
    assert_eq!(with("http://localhost", ""), "store.url");
    assert_eq!(with("redis://localhost?protocol=resp3", ""), "store.url");
    assert_eq!(with("rediss://localhost#insecure", ""), "store.url");
    assert_eq!(with("redis://localhost", "username = \"\""), "store.username");
    assert_eq!(with("redis://localhost", "ca_file = \"ca.pem\""), "store.ca_file");
    for prefix in ["", "{x}", "a b", "x*", "größe:"] {
        assert_eq!(with("redis://localhost", &format!("prefix = \"{prefix}\"")), "store.prefix", "{prefix}");
    }
}

#[test]
fn the_brokers_own_trust_domain_has_no_workloads() {
    let text = GOOD.replace("name = \"example.org\"", "name = \"broker.example.org\"");
    assert_eq!(keys_of(&resolved(&text).expect_err("bad")), ["trust_domains[0].name"]);
}

#[test]
fn a47_redis_on_another_machine_is_not_spoken_to_in_the_clear_unless_one_says_so() {
    let with = |url: &str, more: &str| {
        let store = format!("kind = \"redis\"\ndurability = \"memory\"\nurl = \"{url}\"\n{more}");
        let text = GOOD.replace("kind = \"embedded\"\npath = \"data/taskpass.redb\"", &store);
        resolved(&text).err().map(|p| keys_of(&p).join(" ")).unwrap_or_default()
    };
    for here in ["localhost", "localhost:6379/0", "127.0.0.1:6379", "127.9.9.9", "[::1]:6379"] {
        assert_eq!(with(&format!("redis://{here}"), ""), "", "{here}");
    }
    for elsewhere in ["redis.example.com:6379", "10.0.0.7", "[2001:db8::1]:6379", "localhost.example.com"] {
        assert_eq!(with(&format!("redis://{elsewhere}"), ""), "store.url", "{elsewhere}");
        assert_eq!(with(&format!("redis://{elsewhere}"), "plaintext = false"), "store.url", "{elsewhere}");
        assert_eq!(with(&format!("redis://{elsewhere}"), "plaintext = true"), "", "{elsewhere}");
        assert_eq!(with(&format!("rediss://{elsewhere}"), ""), "", "{elsewhere}");
    }
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

#[test]
fn brokers_get_a_second_at_least_to_agree() {
    let with = |time: &str| {
        resolved(&format!("{GOOD}\n").replace("[keys]", &format!("[keys]\nagree_within = \"{time}\"")))
    };
    assert_eq!(keys_of(&with("50ms").expect_err("too short")), ["keys.agree_within"]);
    assert_eq!(with("1s").unwrap().keys.agree_within, Duration::from_secs(1));
}

#[test]
fn the_key_encryption_key_has_one_source_and_the_other_one_at_most() {
    let with = |lines: &str| resolved(&GOOD.replace("key_encryption_key_file = \"kek\"", lines));
    let kek = with("key_encryption_key_credential = \"kek\"\nother_key_encryption_key_env = \"OTHER\"");
    let keys = kek.unwrap().keys;
    assert!(matches!(keys.key_encryption_key, KekSource::At(KeySource::Credential(name)) if name == "kek"));
    assert!(
        matches!(keys.other_key_encryption_key, Some(KekSource::At(KeySource::Environment(name))) if name == "OTHER")
    );
    for (lines, said) in [
        ("", "set one of"),
        ("key_encryption_key_file = \"a\"\nkey_encryption_key_credential = \"b\"", "set only one of"),
        ("key_encryption_key_env = \"A\"\nkey_encryption_key_credential = \"b\"", "set only one of"),
        (
            "key_encryption_key_env = \"A\"\nother_key_encryption_key_file = \"a\"\nother_key_encryption_key_credential = \"b\"",
            "set only one of other_",
        ),
        ("key_encryption_key_file = \"a\"\nother_key_encryption_key_file = \"./a\"", "is the present one"),
        ("key_encryption_key_credential = \"../kek\"", "keys.key_encryption_key_credential"),
        ("key_encryption_key_credential = \"\"", "keys.key_encryption_key_credential"),
    ] {
        let problems = with(lines).expect_err(lines).to_string();
        assert!(problems.contains(said) && problems.lines().count() == 1, "{lines}: {problems}");
    }
}

const TOKEN: &str = r#"
[keys.pkcs11]
module = "softhsm.so"
token = "my token"
pin_file = "pin"
"#;

fn with_token(keys: &str, token: &str) -> Result<Config, Problems> {
    let text = GOOD.replace("key_encryption_key_file = \"kek\"", keys);
    let (before, after) = text.split_once("[policy]").unwrap();
    resolved(&format!("{before}{token}[policy]{after}"))
}

#[cfg(feature = "pkcs11")]
#[test]
fn keys_may_lie_in_a_token() {
    let both =
        "key_encryption_key_pkcs11 = \"kek\"\nother_key_encryption_key_file = \"kek\"\nsigning = \"pkcs11\"";
    let keys = with_token(both, TOKEN).unwrap().keys;
    assert_eq!(keys.key_encryption_key, KekSource::InToken("kek".to_owned()));
    assert_eq!(keys.signing, SigningIn::Pkcs11);
    let token = keys.pkcs11.unwrap();
    assert_eq!((token.module, token.sessions), (PathBuf::from("/base/softhsm.so"), 4));
    assert_eq!((token.timeout, token.pin), (Duration::from_secs(2), KeySource::File("/base/pin".into())));
    // A broker may know the token before anything lies in it.
    let local = with_token("key_encryption_key_file = \"kek\"", TOKEN).unwrap().keys;
    assert!(local.signing == SigningIn::Local && local.pkcs11.is_some());
}

#[cfg(feature = "pkcs11")]
#[test]
fn a_token_that_is_not_described_is_refused() {
    let kek = "key_encryption_key_pkcs11 = \"kek\"";
    let cases = [
        (kek.to_owned(), String::new(), "keys.pkcs11"),
        ("key_encryption_key_file = \"kek\"\nsigning = \"pkcs11\"".to_owned(), String::new(), "keys.pkcs11"),
        (format!("{kek}\nkey_encryption_key_file = \"kek\""), TOKEN.to_owned(), "keys"),
        (format!("{kek}\nother_key_encryption_key_pkcs11 = \"kek\""), TOKEN.to_owned(), "keys"),
        (format!("{kek}\nsigning = \"pkcs11\"\nalgorithm = \"EdDSA\""), TOKEN.to_owned(), "keys.algorithm"),
        (
            "key_encryption_key_pkcs11 = \"a;b\"".to_owned(),
            TOKEN.to_owned(),
            "keys.key_encryption_key_pkcs11",
        ),
        (kek.to_owned(), TOKEN.replace("pin_file = \"pin\"", ""), "keys.pkcs11"),
        (kek.to_owned(), TOKEN.replace("module = \"softhsm.so\"", ""), "keys.pkcs11.module"),
        (kek.to_owned(), TOKEN.replace("my token", &"t".repeat(33)), "keys.pkcs11.token"),
        (kek.to_owned(), format!("{TOKEN}timeout = \"11s\"\n"), "keys.pkcs11.timeout"),
        (kek.to_owned(), format!("{TOKEN}sessions = 0\n"), "keys.pkcs11.sessions"),
        (kek.to_owned(), format!("{TOKEN}pin = \"1234\"\n"), "keys.pkcs11.pin"),
    ];
    for (keys, token, key) in cases {
        let problems = with_token(&keys, &token).expect_err(key);
        assert!(keys_of(&problems).contains(&key), "{key}: {problems}");
        assert!(!problems.to_string().contains("1234"), "{problems}");
    }
}

#[cfg(not(feature = "pkcs11"))]
#[test]
fn a_build_without_pkcs11_says_how_to_get_it() {
    for keys in ["key_encryption_key_pkcs11 = \"kek\"", "key_encryption_key_file = \"kek\""] {
        let problems = with_token(keys, TOKEN).unwrap_err().to_string();
        assert!(problems.contains("keys.pkcs11") && problems.contains("--features pkcs11"), "{problems}");
    }
}

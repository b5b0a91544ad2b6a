//! `taskpass doctor`, on what is well and on what is not: the real binary, real files, servers and brokers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::cli::{Said, taskpass};
use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, dns, valid};
use crate::support::endpoint::{Endpoint, Says};
use crate::support::redis::{RedisServer, RedisSetup};
use crate::support::world::{BROKER_DOMAIN, TENANT, World};
use crate::support::{Store, eventually, now};

const DAY: u64 = 86_400;

async fn run(world: &World, args: &[&str]) -> Said {
    let mut command = taskpass(world.dir());
    command.args(["doctor", "--config", "taskpass.toml"]).args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
}

/// The findings of this exit code that are not well: kind and severity of each.
async fn found(world: &World, code: i32, args: &[&str]) -> Vec<(String, String)> {
    let said = run(world, &[&["--json"], args].concat()).await.expect(code).json();
    let text = |it: &Value, name: &str| it[name].as_str().unwrap().to_owned();
    let all = said["findings"].as_array().unwrap().iter();
    let worse = all.filter(|it| !["ok", "skipped"].contains(&it["severity"].as_str().unwrap()));
    // Each says what to do.
    let worse = worse.inspect(|it| assert!(it["todo"].is_string(), "{it}"));
    worse.map(|it| (text(it, "id"), text(it, "severity"))).collect()
}

fn one(id: &str, severity: &str) -> Vec<(String, String)> {
    vec![(id.to_owned(), severity.to_owned())]
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_well_is_called_so_and_nothing_is_changed() {
    let setup = Setup::on(Store::Embedded).public();
    let web = setup.world.broker_ca.svid_with("web", |it| it.subject_alt_names = vec![dns("*.example.org")]);
    web.write(setup.world.dir(), "public");
    let broker = Broker::process(setup).await;
    let ops = broker.ops.to_string();
    let before = broker.world.read("audit.jsonl");
    let said = run(&broker.world, &["--json", "--strict", "--ops", &ops]).await.expect(0).json();
    let ids: std::collections::BTreeSet<_> =
        said["findings"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    for id in [
        "config",
        "own-certificate",
        "public-certificate",
        "bundle",
        "broker",
        "broker-bundle",
        "key-encryption-key",
        "policy",
        "audiences",
        "secret-files",
        "trusted-files",
        "store",
    ] {
        assert!(ids.contains(id), "{id} is not among {ids:?}");
    }
    assert_eq!(broker.world.read("audit.jsonl"), before);
    let people = run(&broker.world, &["--ops", &ops]).await.expect(0);
    assert!(people.stdout.ends_with("0 problems, 0 warnings\n"), "{people:?}");
    let kek = broker.world.read("kek");
    assert!(!people.stdout.contains(kek.trim()) && !people.stderr.contains(kek.trim()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_file_that_is_not_well_is_found_and_told_what_to_do_about() {
    let setup = Setup::on(Store::Embedded).with("", "denied_authorities = \"denied\"");
    setup.world.write("denied", "# nobody\n");
    setup.write_config();
    let world = &setup.world;
    assert_eq!(found(world, 0, &["--strict"]).await, []);

    // The broker's own certificate: late in its life, over, with a key that others read.
    let own = async |from: u64, until: u64| {
        let svid = world.broker_ca.svid_with("broker", |it| {
            it.subject_alt_names.push(dns("localhost"));
            valid(it, from, until);
        });
        svid.write(world.dir(), "broker");
    };
    let at = now().as_secs();
    own(at - DAY, at + DAY / 8).await;
    assert_eq!(found(world, 0, &[]).await, one("own-certificate", "warning"));
    assert_eq!(found(world, 5, &["--strict"]).await, one("own-certificate", "warning"));
    assert_eq!(found(world, 0, &["--strict", "--warn", "1h"]).await, []);
    own(at - DAY, at + 600).await;
    assert_eq!(found(world, 1, &[]).await, one("own-certificate", "problem"));
    own(at - DAY, at - 60).await;
    assert_eq!(found(world, 1, &[]).await, one("own-certificate", "problem"));
    world.renew_broker_certificate();
    mode(&world.path("broker.key"), 0o644);
    assert_eq!(found(world, 1, &[]).await, one("own-certificate", "problem"));
    mode(&world.path("broker.key"), 0o600);

    // A bundle: one authority over beside a good one, all over, none, denied.
    let over = Ca::with(TENANT, |it| valid(it, at - 100 * DAY, at - DAY));
    let soon = Ca::with(TENANT, |it| valid(it, at - 100 * DAY, at + 10 * DAY));
    for (bundle, severity) in [
        (over.pem() + &world.tenant.pem(), "warning"),
        (soon.pem() + &world.tenant.pem(), ""),
        (soon.pem(), "warning"),
        (over.pem(), "problem"),
        (String::new(), "problem"),
    ] {
        world.write("example.org.pem", &bundle);
        let expected = if severity.is_empty() { Vec::new() } else { one("bundle", severity) };
        assert_eq!(found(world, i32::from(severity == "problem"), &[]).await, expected, "{bundle}");
    }
    world.write("example.org.pem", &world.tenant.pem());
    let shown = crate::cli::run(
        world.dir(),
        &["bundle", "show", "--file", "example.org.pem", "--trust-domain", TENANT, "--json"],
    );
    let key_id = shown.expect(0).json()["authorities"][0]["key_id"].as_str().unwrap().to_owned();
    world.write("denied", &key_id);
    assert_eq!(found(world, 1, &[]).await, one("bundle", "problem"));
    world.write("denied", "");

    // Files that everybody may change.
    for name in ["policy", "taskpass.toml", "policy/agents.cedar", "denied"] {
        let path = world.path(name);
        let was = path.metadata().unwrap().permissions().mode();
        mode(&path, was | 0o002);
        assert_eq!(found(world, 1, &[]).await, one("trusted-files", "problem"), "{name}");
        mode(&path, was);
    }
    world.write("audit.jsonl", "");
    mode(&world.path("audit.jsonl"), 0o644);
    assert_eq!(found(world, 0, &[]).await, one("secret-files", "warning"));
    mode(&world.path("audit.jsonl"), 0o600);

    world.write("policy/bad.cedar", "permit (");
    assert_eq!(found(world, 1, &[]).await, one("policy", "problem"));
    world.remove("policy/bad.cedar");
    world.remove("kek");
    assert_eq!(found(world, 1, &[]).await, one("key-encryption-key", "problem"));
    world.write("taskpass.toml", "trust_domain = 5");
    assert!(found(world, 1, &[]).await.iter().any(|it| it.0 == "config"));
    world.remove("taskpass.toml");
    assert_eq!(found(world, 3, &[]).await, one("config", "unknown"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sources_are_asked_and_their_clocks_looked_at() {
    let setup = Setup::on(Store::Embedded).public();
    let world = &setup.world;
    world.write("web-ca.pem", &world.broker_ca.pem());
    let web = world.broker_ca.svid_with("web", |it| it.subject_alt_names = vec![dns("localhost")]);
    let bundle = world.tenant.jwk_set();
    let endpoint = Endpoint::new(&web, Says::Bundle(bundle.clone())).await;
    let url = endpoint.url();
    let lines = format!(
        "[trust_domains.federation]\nurl = \"{url}\"\nprofile = \"https_web\"\nca_file = \"web-ca.pem\"\n"
    );
    let setup = setup.trust(TENANT, lines);
    setup.write_config();
    let world = &setup.world;
    // The public listener's certificate is for another host than that of the issuers, here and below.
    let names = || ("public-certificate".to_owned(), "warning".to_owned());
    assert_eq!(found(world, 0, &[]).await, [names()]);
    endpoint.says(Says::Dated(bundle.clone(), "Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(found(world, 0, &[]).await, [names(), ("clock".to_owned(), "warning".to_owned())]);
    endpoint.says(Says::Status(404));
    assert_eq!(found(world, 1, &[]).await, [names(), ("source".to_owned(), "problem".to_owned())]);
    endpoint.says(Says::Bundle("{\"keys\":[]}".to_owned()));
    assert_eq!(found(world, 1, &[]).await, [names(), ("bundle".to_owned(), "problem".to_owned())]);
    drop(endpoint);
    assert_eq!(found(world, 1, &[]).await, [names(), ("source".to_owned(), "problem".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_looked_at_and_left_as_it_is() {
    let password = "s3cret-of-redis";
    let mut setup = Setup::on(Store::Redis)
        .with("store", "username = \"taskpass\"")
        .with("store", "password_file = \"redis.password\"");
    // What deploy/redis gives the broker, and no more.
    let acl = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/redis/users.acl"))
        .unwrap();
    let users = acl
        .replace("REPLACE-WITH-A-LONG-RANDOM-PASSWORD", password)
        .replace("user default off", &format!("user default on >{password} ~* &* +@all"));
    let redis = RedisSetup {
        append: Some("always"),
        users: Some(users),
        admin: Some(("default", password)),
        ..RedisSetup::default()
    };
    setup.redis = Some(RedisServer::start(redis));
    setup.world.write("redis.password", password);
    mode(&setup.world.path("redis.password"), 0o600);
    setup.write_config();
    let redis = |setup: &Setup, words: &[&str]| setup.redis.as_ref().unwrap().command(words);
    let well = run(&setup.world, &["--strict"]).await.expect(0);
    assert!(well.stdout.contains("clock") && well.stdout.contains("appendonly yes (always)"), "{well:?}");
    assert_eq!(redis(&setup, &["DBSIZE"]), redis::Value::Int(0), "nothing was written");
    redis(&setup, &["CONFIG", "SET", "maxmemory", "1300000"]);
    let full = found(&setup.world, 1, &[]).await;
    assert_eq!(full, one("store-settings", "problem"));
    redis(&setup, &["CONFIG", "SET", "maxmemory", "0"]);
    redis(&setup, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_eq!(found(&setup.world, 1, &[]).await, one("store", "problem"));
    redis(&setup, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    setup.world.write("redis.password", "another one");
    mode(&setup.world.path("redis.password"), 0o600);
    let wrong = run(&setup.world, &[]).await.expect(1);
    assert!(wrong.stdout.contains("refuses this user") && !wrong.stdout.contains("another one"), "{wrong:?}");
    setup.redis.as_mut().unwrap().kill();
    assert_eq!(found(&setup.world, 1, &[]).await, one("store", "problem"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_runs_is_asked_what_it_holds() {
    let broker = Broker::process(Setup::on(Store::Redis)).await;
    let ops = broker.ops.to_string();
    assert_eq!(found(&broker.world, 0, &["--ops", &ops, "--strict"]).await, []);
    broker.world.write("example.org.pem", "");
    let held = async |expected: &[&str]| {
        let said = run(&broker.world, &["--json", "--ops", &ops]).await.json();
        let all = said["findings"].as_array().unwrap().iter().filter(|it| it["severity"] == "problem");
        all.map(|it| it["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>() == expected
    };
    eventually("the bundle to be gone there, too", async || held(&["bundle", "broker-bundle"]).await).await;
    broker.world.write("example.org.pem", &broker.world.tenant.pem());
    eventually("the bundle to be back", async || held(&[]).await).await;
    broker.redis.as_ref().unwrap().pause();
    let silent = found(&broker.world, 1, &["--ops", &ops]).await;
    assert!(silent.contains(&("broker".to_owned(), "problem".to_owned())), "{silent:?}");
    broker.redis.as_ref().unwrap().resume();
    // Where one is said to run, one must.
    assert!(
        found(&broker.world, 1, &["--ops", "127.0.0.1:1"])
            .await
            .contains(&("broker".to_owned(), "problem".to_owned()))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_is_told_of_the_task_ca_that_waits_for_its_upstream() {
    let setup = Setup::on(Store::Embedded).with("task_ca", "upstream_bundle = \"upstream.pem\"");
    let company = Ca::new("company.example");
    setup.world.write("upstream.pem", &company.pem());
    let broker = Broker::process(setup).await;
    let world = &broker.world;
    let address = format!("https://localhost:{}", broker.grpc.port());
    let id = format!("spiffe://{BROKER_DOMAIN}/broker");
    world.write("broker-ca.pem", &world.broker_ca.pem());
    let asks = async |who: &str| {
        world.svid(who).write(world.dir(), "me");
        let args = [
            "--broker",
            &address,
            "--broker-id",
            &id,
            "--bundle",
            "broker-ca.pem",
            "--svid",
            "me.pem",
            "--svid-key",
            "me.key",
            "--json",
        ];
        run(world, &args).await
    };
    let told = asks("platform/root").await.expect(1).json();
    let missing = told["findings"].as_array().unwrap().iter().find(|it| it["id"] == "task-ca").unwrap();
    assert_eq!(missing["severity"], "problem");
    assert!(missing["todo"].as_str().unwrap().contains("taskpass ca csr"), "{missing}");
    let told = asks("agent/a1").await.expect(0).json();
    let hidden = told["findings"].as_array().unwrap().iter().find(|it| it["id"] == "task-ca").unwrap();
    assert_eq!(hidden["severity"], "skipped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_pasted_where_its_variable_is_named_is_not_shown() {
    let setup = Setup::on(Store::Embedded);
    setup.write_config();
    let world = &setup.world;
    let config = world.read("taskpass.toml");
    let kek = world.read("kek").trim().to_owned();
    let letters: String = "aBcDeFgHiJkLmNoPqRsTuVwXyZ_0123456789".repeat(2).chars().take(43).collect();
    for pasted in [kek.as_str(), &"c0ffee11".repeat(8), &letters, kek.trim_end_matches('=')] {
        for key in ["key_encryption_key_env", "other_key_encryption_key_env"] {
            let lines = match key {
                "key_encryption_key_env" => format!("{key} = \"{pasted}\""),
                _ => format!("key_encryption_key_file = \"kek\"\n{key} = \"{pasted}\""),
            };
            world.write("taskpass.toml", &config.replace("key_encryption_key_file = \"kek\"", &lines));
            for args in [&["doctor"][..], &["config", "check"], &["config", "check", "--json"], &["serve"]] {
                let mut command = taskpass(world.dir());
                command.args(args).args(["--config", "taskpass.toml"]);
                let said = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
                let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
                assert!(!said.contains(pasted), "{args:?} shows it");
                assert!(said.contains("does not look like the name of a variable"), "{args:?}: {said}");
                assert!(said.contains(&format!("keys.{key}")), "{args:?}: {said}");
            }
        }
    }
    for name in ["TASKPASS_KEY", "_k", "A_VARIABLE_WHOSE_NAME_HAS_FORTY_THREE_LETTER"] {
        let line = format!("key_encryption_key_env = \"{name}\"");
        world.write("taskpass.toml", &config.replace("key_encryption_key_file = \"kek\"", &line));
        let mut command = taskpass(world.dir());
        command.args(["config", "check", "--config", "taskpass.toml"]);
        let said: Said = tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap();
        assert!(said.stdout.contains(&format!("the environment variable {name} is not set")), "{said:?}");
    }
}

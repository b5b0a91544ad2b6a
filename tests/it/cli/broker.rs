//! `taskpass serve`, `taskpass config` and `taskpass store`: what operators run.

use std::os::unix::fs::PermissionsExt as _;

use tokio::task::JoinHandle;

use super::{Dev, Process, run, taskpass};
use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::raw::{is_full, silent};
use crate::support::redis::{RedisServer, RedisSetup};
use crate::support::{Store, eventually};

#[test]
fn a_configuration_is_reported_with_all_of_its_problems() {
    let setup =
        Setup::on(Store::Embedded).with("limits", "calls = 0").with("lifetimes", "max_token = \"1h\"");
    let file = setup.write_config();
    std::fs::remove_file(setup.world.path("kek")).unwrap();
    let dir = setup.world.dir();
    let said = run(dir, &["config", "check", "--config", file.to_str().unwrap(), "--json"]).expect(2).json();
    let keys: Vec<_> =
        said["problems"].as_array().unwrap().iter().map(|p| p["key"].as_str().unwrap()).collect();
    assert_eq!(
        (said["ok"].as_bool(), keys),
        (Some(false), vec!["lifetimes.max_token", "limits.calls", "keys"])
    );
    let said = run(dir, &["serve", "--config", file.to_str().unwrap()]).expect(2);
    assert!(said.stderr.contains("limits.calls") && said.stderr.contains("lifetimes.max_token"), "{said:?}");
}

#[test]
fn a_good_configuration_has_no_problem() {
    let setup = Setup::on(Store::Embedded);
    let file = setup.write_config();
    let said = run(setup.world.dir(), &["config", "check", "--config", file.to_str().unwrap(), "--json"]);
    let said = said.expect(0).json();
    assert_eq!((said["ok"].as_bool(), said["problems"].as_array().map(Vec::len)), (Some(true), Some(0)));
}

/// `config check --connect`, and all that it says.
fn checked(setup: &Setup) -> (i32, String) {
    let file = setup.write_config();
    let said = run(setup.world.dir(), &["config", "check", "--connect", "--config", file.to_str().unwrap()]);
    (said.code, said.stdout + &said.stderr)
}

#[test]
fn the_check_of_a_configuration_can_ask_redis_and_changes_nothing_there() {
    let password = "s3cret-of-redis";
    let mut setup = Setup::on(Store::Redis)
        .with("store", "username = \"taskpass\"")
        .with("store", "password_file = \"redis.password\"");
    let users =
        format!("user default on >{password} ~* &* +@all\nuser taskpass on >{password} ~* &* +@all\n");
    let redis = RedisSetup {
        append: Some("always"),
        users: Some(users),
        admin: Some(("default", password)),
        ..RedisSetup::default()
    };
    setup.redis = Some(RedisServer::start(redis));
    let password_file = setup.world.path("redis.password");
    setup.world.write("redis.password", password);
    std::fs::set_permissions(&password_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let keys = |setup: &Setup| setup.redis.as_ref().unwrap().command(&["DBSIZE"]);

    assert_eq!(checked(&setup), (0, "No problem found.\n".to_owned()));
    assert_eq!(keys(&setup), redis::Value::Int(0), "nothing was written");
    std::fs::write(&password_file, "another one").unwrap();
    let (code, said) = checked(&setup);
    assert!(code == 2 && said.contains("refuses this user"), "{code}: {said}");
    assert!(!said.contains("another one") && !said.contains(password), "{said}");
    std::fs::write(&password_file, password).unwrap();
    setup.redis.as_ref().unwrap().command(&["CONFIG", "SET", "appendfsync", "no"]);
    let (code, said) = checked(&setup);
    assert!(code == 2 && said.contains("appendfsync no"), "{code}: {said}");
    setup.redis.as_mut().unwrap().kill();
    assert_eq!(checked(&setup).0, 3);
}

#[tokio::test]
async fn the_check_of_a_configuration_finds_another_key_encryption_key() {
    let broker = Broker::start(Store::Redis).await;
    let document = || broker.redis.as_ref().unwrap().command(&["HGETALL", "taskpass:{keyring}"]);
    let before = document();
    let file = broker.world.path("taskpass.toml");
    let check = || {
        let args = ["config", "check", "--connect", "--json", "--config", file.to_str().unwrap()];
        run(broker.world.dir(), &args)
    };
    assert_eq!(check().expect(0).json()["ok"], true);
    broker.world.remove("kek");
    taskpass::keys::KeyEncryptionKey::create_file(&broker.world.path("kek")).unwrap();
    let said = check().expect(2).json();
    assert!(said["problems"][0]["problem"].as_str().unwrap().contains("key-encryption key"), "{said}");
    assert_eq!(document(), before);
}

#[test]
fn the_printed_example_is_well_formed() {
    let dir = tempfile::tempdir().unwrap();
    let text = run(dir.path(), &["config", "example"]).expect(0).stdout;
    std::fs::write(dir.path().join("c.toml"), text).unwrap();
    let said = run(dir.path(), &["config", "check", "--config", "c.toml", "--json"]).expect(2).json();
    // The files that it names are not there, and that is all.
    let keys: Vec<_> =
        said["problems"].as_array().unwrap().iter().map(|p| p["key"].as_str().unwrap()).collect();
    let files = ["identity", "trust_domains[0].bundles", "keys", "policy.dir", "policy.audiences"];
    assert!(keys.iter().all(|key| files.contains(key) || *key == "store.path"), "{said}");
    // Each of them, though one belongs to the other.
    let names = ["/etc/taskpass/identity/broker.pem", "/etc/taskpass/identity/broker.key"];
    assert!(names.iter().all(|file| said.to_string().contains(file)), "{said}");
}

#[test]
fn sigterm_drains_and_the_log_is_json() {
    let setup = Setup::on(Store::Embedded);
    let file = setup.write_config();
    let mut command = taskpass(setup.world.dir());
    command.args(["serve", "--config", file.to_str().unwrap(), "--log-format", "json"]);
    let process = Process::start(command);
    process.until_it_says("\"ready\"");
    process.terminate();
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let messages: Vec<_> =
        lines.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(messages.last().map(String::as_str), Some("drained"), "{messages:?}");
}

/// A broker with a call in flight that says nothing until it is aborted.
async fn serving_a_silent_call(setup: &Setup) -> (Process, JoinHandle<Result<(), tonic::Status>>) {
    let file = setup.write_config();
    let mut command = taskpass(setup.world.dir());
    command.args(["serve", "--config", file.to_str().unwrap()]);
    let process = Process::start(command);
    process.until_it_says("ready");
    let log = process.stderr();
    let address = log.split("grpc=").nth(1).unwrap().split_whitespace().next().unwrap();
    let client = Client::new(address.parse().unwrap(), &setup.world.broker_ca, &setup.world.svid("agent/a1"));
    let silence = silent(&client);
    eventually("a call in flight", async || is_full(&client).await).await;
    (process, silence)
}

fn slow_to_drain() -> Setup {
    Setup::on(Store::Embedded).with("", "drain = \"60s\"").with("limits", "calls_per_workload = 1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_of_one_moment_are_one_as_timeout_sends_them_to_child_and_group() {
    let setup = slow_to_drain();
    let (process, silence) = serving_a_silent_call(&setup).await;
    process.signals(&["-TERM", "-INT", "-TERM"]);
    process.until_it_says("waiting for calls in flight, at most 1m");
    silence.abort();
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_does_not_wait_for_calls_in_flight() {
    let setup = slow_to_drain();
    let (process, _silence) = serving_a_silent_call(&setup).await;
    process.signal("-INT");
    process.until_it_says("draining");
    process.until_it_says("waiting for calls in flight, at most 1m");
    process.signal("-INT");
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("ended at once, by a second signal"), "{log}");
}

#[test]
fn a_restored_store_ends_every_task_that_is_in_it() {
    let dev = Dev::start();
    let task = dev.begin();
    let token = dev.mint(&task);
    let busy = dev.run(&["store", "restored", "--config", ".taskpass/broker.toml", "--yes"]).expect(1);
    assert!(busy.stderr.contains("stop the broker"), "{busy:?}");
    let sequence = |dev: &Dev| {
        let keys = dev.run(&["key", "list", "--as", "operator", "--json"]).expect(0).json();
        keys["keyring_sequence"].as_u64().unwrap()
    };
    let before = sequence(&dev);
    let home = dev.stop();
    run(home.path(), &["store", "restored", "--config", ".taskpass/broker.toml"]).expect(2);
    run(home.path(), &["store", "restored", "--config", ".taskpass/broker.toml", "--yes"]).expect(0);
    let dev = Dev::again(home);
    assert!(
        sequence(&dev) > before,
        "verifiers may have seen a later keyring than the one that was put back"
    );
    dev.validate(&token).expect(4);
    let got = dev.run(&["task", "get", &task, "--as", "agent", "--json"]).expect(0).json();
    assert_eq!(got["end"]["reason"], "generation_changed");
    dev.mint(&dev.begin());
}

#[test]
fn a_redis_that_does_not_answer_has_the_exit_code_for_it() {
    let mut setup = Setup::on(Store::Redis);
    setup.redis.as_mut().unwrap().kill();
    let file = setup.write_config();
    let file = file.to_str().unwrap();
    let args = ["store", "restored", "--config", file, "--yes", "--json"];
    let said = run(setup.world.dir(), &args).expect(3).error();
    assert_eq!((&said["exit_code"], &said["hint"]), (&3.into(), &serde_json::Value::Null), "{said}");
    run(setup.world.dir(), &["serve", "--config", file]).expect(3);
}

#[test]
fn the_version_is_that_of_the_package() {
    let dir = tempfile::tempdir().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(dir.path(), &["version"]).expect(0).stdout, format!("taskpass {version}\n"));
    assert_eq!(run(dir.path(), &["--version"]).expect(0).stdout, format!("taskpass {version}\n"));
    assert_eq!(run(dir.path(), &["version", "--json"]).expect(0).json()["version"], version);
}

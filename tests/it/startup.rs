//! A broker that is not set up as it must be does not start, and says what to do. What would give a secret away is tried in `secrecy`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, dns, valid};
use crate::support::mortal::refusal;
use crate::support::process::Process;
use crate::support::redis::{RedisServer, RedisSetup};
use crate::support::story::{begin, docs};
use crate::support::{Store, eventually, now};

/// The real process does not start with a configuration that `edit` has changed, ends with this code, says each of `words`, and never was
/// ready.
async fn ends(code: i32, setup: &Setup, edit: impl FnOnce(String) -> String, words: &[&str]) {
    setup.world.write("taskpass.toml", &edit(setup.config()));
    let (ended, said) = refusal(&setup.world).await;
    assert_eq!(ended, Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "no word of {word:?}: {said}");
    }
    assert!(!said.contains("panicked") && !said.contains("\"ready\""), "{said}");
}

/// With the code that says that the configuration is wrong, or a file that it names.
async fn refuses(setup: &Setup, edit: impl FnOnce(String) -> String, words: &[&str]) {
    ends(2, setup, edit, words).await;
}

fn unchanged(config: String) -> String {
    config
}

fn embedded() -> Setup {
    Setup::on(Store::Embedded)
}

#[tokio::test]
async fn a47_without_a_bundle_that_can_be_read_it_does_not_start() {
    let setup = embedded();
    for bad in [
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "no certificate at all",
        "{\"keys\":",
    ] {
        setup.world.write("example.org.pem", bad);
        refuses(&setup, unchanged, &["example.org.pem"]).await;
    }
    setup.world.remove("example.org.pem");
    refuses(&setup, unchanged, &["example.org.pem"]).await;
    // Both problems in one run.
    setup.world.write("other.example.json", "[]");
    refuses(&setup, unchanged, &["example.org.pem", "other.example.json"]).await;
}

#[tokio::test]
async fn a47_with_a_certificate_of_its_own_that_is_no_good_it_does_not_start() {
    let setup = embedded();
    let (ca, dir) = (&setup.world.broker_ca, setup.world.dir());
    Ca::new("elsewhere.example").server("broker", &["localhost"]).write(dir, "broker");
    refuses(&setup, unchanged, &["broker.pem", "elsewhere.example", "neither trust_domain nor one of"]).await;
    let past = now().as_secs() - 10;
    let expired = ca.svid_with("broker", |params| {
        params.subject_alt_names.push(dns("localhost"));
        valid(params, 0, past);
    });
    expired.write(dir, "broker");
    refuses(&setup, unchanged, &["broker.pem", "expired"]).await;
    setup.world.renew_broker_certificate();
    let (_, stray) = ca.server("broker", &["localhost"]).write(dir, "stray");
    fs::copy(stray, setup.world.path("broker.key")).unwrap();
    refuses(&setup, unchanged, &["broker.key", "does not belong"]).await;
    setup.world.write("broker.pem", "");
    refuses(&setup, unchanged, &["broker.pem"]).await;
}

#[tokio::test]
async fn a47_with_audiences_that_contradict_each_other_it_does_not_start() {
    let setup = embedded();
    let docs = setup.world.read("audiences/docs.toml");
    setup.world.write("audiences/twin.toml", &docs);
    refuses(&setup, unchanged, &["twin.toml"]).await;
    setup.world.write("audiences/twin.toml", "uri = \"https://x.example.org/mcp\"\nprofile = \"none\"");
    refuses(&setup, unchanged, &["twin.toml", "none", "trust_domain"]).await;
}

#[tokio::test]
async fn every_problem_of_a_configuration_is_said_in_one_run() {
    let setup = embedded()
        .with("lifetimes", "max_token = \"1h\"\ndefault_token = \"0s\"")
        .with("limits", "calls = 0");
    let plain = |config: String| config.replace("issuer = \"https://", "issuer = \"http://");
    let words = ["lifetimes.max_token", "lifetimes.default_token", "limits.calls", "trust_domains[0].issuer"];
    refuses(&setup, plain, &words).await;
    refuses(&embedded().with("limits", "callz = 5"), unchanged, &["callz"]).await;
    let replicas = embedded().with("store", "durability = \"replicas\"");
    refuses(&replicas, unchanged, &["store.durability"]).await;
    replicas.world.remove("taskpass.toml");
    let (code, said) = refusal(&replicas.world).await;
    assert!(code == Some(2) && said.contains("taskpass.toml"), "{code:?}: {said}");
}

#[tokio::test]
async fn a47_the_key_encryption_key_may_come_from_the_environment_and_must_be_there() {
    let setup = embedded();
    let kek = setup.world.read("kek");
    setup.world.remove("kek");
    let from_environment = |config: String| {
        let file = "key_encryption_key_file = \"kek\"";
        config.replace(file, "key_encryption_key_env = \"TASKPASS_IT_KEY\"")
    };
    refuses(&setup, from_environment, &["TASKPASS_IT_KEY"]).await;
    let mut process = Process::serve(&setup.world, &[("TASKPASS_IT_KEY", kek.trim())]);
    process.ready().await;
    process.signal("-TERM");
    assert_eq!(process.exit().await, Some(0));
}

#[tokio::test]
async fn a47_the_key_encryption_key_may_be_a_credential_that_systemd_hands_over() {
    let setup = embedded();
    std::fs::create_dir(setup.world.path("credentials")).unwrap();
    let handed_over = setup.world.path("credentials/kek");
    std::fs::rename(setup.world.path("kek"), &handed_over).unwrap();
    let as_credential = |config: String| {
        let file = "key_encryption_key_file = \"kek\"";
        config.replace(file, "key_encryption_key_credential = \"kek\"")
    };
    refuses(&setup, as_credential, &["CREDENTIALS_DIRECTORY", "LoadCredential"]).await;
    // As it lays it there for a service that runs as another user.
    fs::set_permissions(&handed_over, fs::Permissions::from_mode(0o440)).unwrap();
    let dir = setup.world.path("credentials");
    let mut process = Process::serve(&setup.world, &[("CREDENTIALS_DIRECTORY", dir.to_str().unwrap())]);
    process.ready().await;
    process.signal("-TERM");
    assert_eq!(process.exit().await, Some(0));
}

/// As the systemd unit starts it.
#[tokio::test]
async fn the_public_keys_are_for_everybody_whatever_the_umask_and_nothing_else_is() {
    let setup = embedded().with("export", "dir = \"public\"");
    let file = setup.write_config();
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$0\" serve --config \"$1\"", env!("CARGO_BIN_EXE_taskpass")]);
    let mut child = shell.arg(file).stderr(Stdio::null()).spawn().unwrap();
    let world = &setup.world;
    eventually("it to write them", async || world.path("public/task-ca.spiffe.json").exists()).await;
    eventually("it to make its files", async || world.path("audit.jsonl").exists()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let mode = |name: &str| fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("public"), 0o755);
    for name in ["task-ca.pem", "task-ca.spiffe.json", "example.org.jwks.json", "other.example.jwks.json"] {
        assert_eq!(mode(&format!("public/{name}")), 0o644, "{name}");
    }
    assert_eq!((mode("data/taskpass.redb"), mode("audit.jsonl")), (0o600, 0o600));
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_named_and_may_be_tried_again() {
    let mut setup = Setup::on(Store::Redis);
    let redis = setup.redis.as_mut().unwrap();
    redis.kill();
    let url = redis.url();
    ends(3, &setup, unchanged, &[&url]).await;
}

#[tokio::test]
async fn a_redis_that_keeps_less_than_is_configured_is_refused() {
    let mut setup = Setup::on(Store::Redis);
    setup.redis = Some(RedisServer::start(RedisSetup::default()));
    refuses(&setup, unchanged, &["appendonly"]).await;
}

#[tokio::test]
async fn no_number_in_a_configuration_makes_it_panic() {
    for (section, key) in [
        ("limits", "calls"),
        ("limits", "message_bytes"),
        ("limits", "credentials_per_task"),
        ("listen", "max_connections"),
    ] {
        let setup = embedded().with(section, format!("{key} = 9000000000000000000"));
        refuses(&setup, unchanged, &[&format!("{section}.{key}")]).await;
    }
    let age = embedded().with("listen", "max_connection_age = \"500000000000 years\"");
    refuses(&age, unchanged, &["listen.max_connection_age"]).await;
    // The largest that may be said.
    let largest = embedded()
        .with("limits", "calls = 1000000\nmessage_bytes = 16777216\nstreams_per_connection = 65536\ncall_timeout = \"1h\"")
        .with("limits", "live_tasks_per_workload = 10000000\ncredentials_per_task = 1000000000")
        .with("listen", "max_connections = 1000000\nmax_connection_age = \"30days\"");
    let broker = Broker::process(largest).await;
    broker.agent().begin(begin(&[docs()])).await.unwrap();
}

#[tokio::test]
async fn a_broker_certificate_of_another_trust_domain_is_refused_at_start_and_on_renewal() {
    let setup = embedded();
    let elsewhere = |config: String| config.replace("\"broker.example.org\"", "\"elsewhere.example\"");
    refuses(&setup, elsewhere, &["broker.pem", "broker.example.org", "neither trust_domain nor"]).await;
    let same = |config: String| config.replace("\"broker.example.org\"", "\"example.org\"");
    refuses(&setup, same, &["trust_domains[0].name"]).await;

    let broker = Broker::process(setup).await;
    broker.world.stranger.server("broker", &["localhost"]).write(broker.world.dir(), "broker");
    let said = || broker.as_process().log().contains("of trust domain stranger.example, which is neither");
    eventually("it says what is wrong with the new certificate", async || said()).await;
    // The old one serves.
    broker.agent().begin(begin(&[docs()])).await.unwrap();
}

#[tokio::test]
async fn a_port_or_a_store_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    ends(1, &embedded(), |config| config.replacen("127.0.0.1:0", &address, 1), &[&address]).await;

    let broker = Broker::process(embedded()).await;
    let (code, said) = refusal(&broker.world).await;
    assert!(code == Some(1) && said.contains("taskpass.redb"), "{code:?}: {said}");
    broker.agent().begin(begin(&[docs()])).await.unwrap();
}

//! Keys in hardware: a real PKCS#11 token (SoftHSM2), as it should be, and as it refuses; the PIN is in `pin`, what else goes wrong in `faults`.

mod faults;
mod pin;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use taskpass::proto;
use taskpass_verifier::keyset::KeySet;
use tonic::Code;

use crate::revocation_lists::{certificate, lists, reasons};
use crate::support::behind::on_redis;
use crate::support::broker::{Broker, Setup, audit, page};
use crate::support::client::Client;
use crate::support::hsm::{Hsm, KEK, PIN, TOKEN, softhsm};
use crate::support::page::{Page, run, shell};
use crate::support::process::Process;
use crate::support::story::{millis, mint, read_token, refused, revocation_list, shown};
use crate::support::world::{DOCS, TENANT};
use crate::support::{Store, eventually, now};

const QUICK: &str = "refresh_hint = \"1s\"\njwks_max_age = \"1s\"\nagree_within = \"1s\"\n";
/// A call that takes longer does not come back.
const TIMEOUT: &str = "timeout = \"500ms\"\nsessions = 2";

/// A broker on Redis that knows the token. `kek`, `keys`: lines of `[keys]`.
fn setup(hsm: &Hsm, kek: &str, keys: &str) -> Setup {
    setup_with(hsm, kek, keys, TIMEOUT)
}

/// The same with other lines of `[keys.pkcs11]`.
fn setup_with(hsm: &Hsm, kek: &str, keys: &str, token: &str) -> Setup {
    let setup = Setup::on(Store::Redis).kek(kek).with("keys", keys).with("keys", hsm.section(token));
    setup.world.write("pin", &format!("{PIN}\n"));
    fs::set_permissions(setup.world.path("pin"), Permissions::from_mode(0o600)).unwrap();
    setup.environment(hsm.environment())
}

const LOCAL: &str = "key_encryption_key_file = \"kek\"";

fn in_token() -> String {
    format!("key_encryption_key_pkcs11 = \"{KEK}\"")
}

/// A command with the configuration of a world.
fn taskpass(hsm: &Hsm, setup: &Setup, arguments: &[&str]) -> Output {
    setup.write_config();
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskpass"));
    command.args(arguments).arg("--config").arg(setup.world.path("taskpass.toml"));
    command.envs(hsm.environment()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn create_kek(hsm: &Hsm, setup: &Setup) {
    let made = taskpass(hsm, setup, &["hsm", "create-kek"]);
    assert!(made.status.success(), "{made:?}");
    assert!(text(&made.stdout).starts_with(&format!("pkcs11:token={TOKEN};object={KEK};id=")), "{made:?}");
}

/// The keyring as it is stored.
async fn stored(redis_url: &str) -> serde_json::Value {
    let document = on_redis(redis_url).await.load().await.unwrap().unwrap().document;
    let text = String::from_utf8(document).unwrap();
    let mut parts = text.splitn(3, '\n');
    let mut body: serde_json::Value = serde_json::from_str(parts.clone().nth(2).unwrap()).unwrap();
    body["format"] = parts.next().unwrap().into();
    body
}

fn keys_of<'a>(
    document: &'a serde_json::Value,
    key_use: &'a str,
) -> impl Iterator<Item = &'a serde_json::Value> {
    document["keys"].as_array().unwrap().iter().filter(move |key| key["use"] == key_use)
}

async fn jwks(client: &Client) -> KeySet {
    let request = proto::GetKeySetRequest { trust_domain: TENANT.into() };
    let answer = client.directory().get_key_set(request).await.unwrap().into_inner();
    KeySet::from_jwks(answer.jwks_json.as_bytes()).unwrap()
}

/// Who is in the way of a call says so at once, and to be tried again.
async fn refuses_to_mint(agent: &Client, task: &proto::Task) -> tonic::Status {
    refused(agent.mint(mint(task, DOCS)).await, Code::Unavailable, "KEY_HARDWARE_UNAVAILABLE")
}

/// How many threads a process has for calls of the module.
fn threads(broker: &Broker) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", broker.as_process().id())).unwrap();
    let names = threads.map(|it| fs::read_to_string(it.unwrap().path().join("comm")).unwrap_or_default());
    names.filter(|name| name.starts_with("pkcs11-")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_encryption_key_in_the_token_opens_the_keyring_and_is_seen_nowhere() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, &in_token(), QUICK);
    create_kek(&hsm, &setup);
    let again = taskpass(&hsm, &setup, &["hsm", "create-kek"]);
    assert!(again.status.success() && text(&again.stdout).contains("already"), "{again:?}");
    assert!(text(&again.stdout).starts_with(&format!("pkcs11:token={TOKEN};object={KEK};id=")), "{again:?}");
    assert_eq!(hsm.objects(), 1);

    let broker = Broker::process(setup).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    assert!(verifier.validate(shown(&token, DOCS)).await.unwrap().active);
    assert_eq!(broker.page("/readyz").await, (200, "ready\n".to_owned()));

    let redis = broker.redis.as_ref().unwrap().url();
    let document = stored(&redis).await;
    assert_eq!(document["format"], "taskpass-keyring 3", "nothing in it is of another form");
    let by = format!("pkcs11:token={TOKEN};object={KEK};id=");
    for key in document["keys"].as_array().unwrap() {
        assert!(key["wrapped_by"].as_str().is_some_and(|it| it.starts_with(&by)), "{key}");
    }
    // A restart opens the same keys.
    let before = jwks(&verifier).await;
    let broker = broker.restart().await;
    assert_eq!(jwks(&broker.verifier()).await, before);
    assert!(broker.verifier().validate(shown(&token, DOCS)).await.unwrap().active);
    let checked = Command::new(env!("CARGO_BIN_EXE_taskpass"))
        .args(["config", "check", "--connect", "--config"])
        .arg(broker.world.path("taskpass.toml"))
        .envs(hsm.environment())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    for place in ["broker.log", "broker.out", "audit.jsonl", "taskpass.toml"] {
        assert!(!broker.world.read(place).contains(PIN), "the PIN in {place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_encryption_key_moves_into_the_token_and_out_of_it_again() {
    let hsm = Hsm::new();
    let first = setup(&hsm, LOCAL, "");
    create_kek_named(&hsm, &first);
    let broker = Broker::process(first).await;
    let (redis, before) = (broker.redis.as_ref().unwrap().url(), jwks(&broker.verifier()).await);
    let config = broker.world.read("taskpass.toml");
    let rounds = [
        (format!("{LOCAL}\nother_key_encryption_key_pkcs11 = \"{KEK}\""), "local:"),
        (format!("{}\nother_key_encryption_key_file = \"kek\"", in_token()), "pkcs11:"),
        (in_token(), "pkcs11:"),
        (format!("{LOCAL}\nother_key_encryption_key_pkcs11 = \"{KEK}\""), "local:"),
        (LOCAL.to_owned(), "local:"),
    ];
    let mut broker = broker;
    for (lines, by) in rounds {
        broker.world.write("taskpass.toml", &config.replace(LOCAL, &lines));
        broker = broker.restart().await;
        assert_eq!(jwks(&broker.verifier()).await, before, "{lines}");
        let document = stored(&redis).await;
        for key in document["keys"].as_array().unwrap() {
            assert!(key["wrapped_by"].as_str().is_some_and(|it| it.starts_with(by)), "{lines}: {key}");
        }
    }
}

fn create_kek_named(hsm: &Hsm, setup: &Setup) {
    let made = taskpass(hsm, setup, &["hsm", "create-kek", "--label", KEK]);
    assert!(made.status.success(), "{made:?}");
}

#[tokio::test]
async fn a_key_that_could_be_taken_out_is_refused() {
    let hsm = Hsm::new();
    let kek = setup(&hsm, &in_token(), "");
    hsm.says("weak");
    let refused = |setup: &Setup, arguments: &[&str]| {
        let said = taskpass(&hsm, setup, arguments);
        let words = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{words}");
        assert!(words.contains("could be taken out of it") && words.contains("CKA_EXTRACTABLE"), "{words}");
    };
    refused(&kek, &["hsm", "create-kek"]);
    assert_eq!(hsm.objects(), 0, "and is not left there");
    hsm.says("keeps");
    refused(&kek, &["hsm", "create-kek"]);
    assert_eq!(hsm.objects(), 1);
    refused(&kek, &["serve"]);
    refused(&kek, &["hsm", "create-kek"]);
    assert_eq!(hsm.objects(), 1, "one that is there and no good is told of, and left alone");
    hsm.says_no_more("keeps");
    // Nor does one sign.
    refused(&setup(&hsm, LOCAL, "signing = \"pkcs11\""), &["serve"]);
    assert_eq!(hsm.objects(), 1);
}

#[tokio::test]
async fn what_is_not_in_the_token_is_said_with_what_makes_it() {
    let hsm = Hsm::new();
    let good = setup(&hsm, &in_token(), "");
    let said = taskpass(&hsm, &good, &["serve"]);
    assert!(
        said.status.code() == Some(2) && text(&said.stderr).contains("taskpass hsm create-kek"),
        "{said:?}"
    );
    // Another token.
    let mut config = good.config();
    config = config.replace(&format!("token = \"{TOKEN}\""), "token = \"another\"");
    good.world.write("another.toml", &config);
    let said = Command::new(env!("CARGO_BIN_EXE_taskpass"))
        .args(["serve", "--config"])
        .arg(good.world.path("another.toml"))
        .envs(hsm.environment())
        .output()
        .unwrap();
    let words = text(&said.stderr);
    assert!(
        said.status.code() == Some(3) && words.contains("\"another\"") && words.contains(TOKEN),
        "{words}"
    );
    // No module.
    config = good.config().replace(".so\"", ".missing\"");
    good.world.write("another.toml", &config);
    let said = Command::new(env!("CARGO_BIN_EXE_taskpass"))
        .args(["serve", "--config"])
        .arg(good.world.path("another.toml"))
        .output()
        .unwrap();
    assert!(said.status.code() == Some(2) && text(&said.stderr).contains("cannot be loaded"), "{said:?}");
}

#[tokio::test]
async fn a_module_without_a_directory_lies_beside_the_configuration() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, &in_token(), "");
    let config = setup.config();
    let (before, rest) = config.split_once("module = \"").unwrap();
    let (module, after) = rest.split_once('"').unwrap();
    std::os::unix::fs::symlink(module, setup.world.path("beside.so")).unwrap();
    setup.world.write("beside.toml", &format!("{before}module = \"beside.so\"{after}"));
    let asked = |arguments: &[&str], directory: &Path, config: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskpass"));
        command.args(arguments).args(["--config", config]).current_dir(directory);
        command.envs(hsm.environment()).output().unwrap()
    };
    let made = asked(&["hsm", "create-kek"], setup.world.dir(), "beside.toml");
    assert!(made.status.success(), "{made:?}");
    let name = setup.world.dir().file_name().unwrap().to_str().unwrap();
    let from_above = format!("{name}/beside.toml");
    let said = asked(&["hsm", "create-kek"], setup.world.dir().parent().unwrap(), &from_above);
    assert!(text(&said.stdout).contains("already"), "{said:?}");
    fs::remove_file(setup.world.path("beside.so")).unwrap();
    let said = asked(&["config", "check"], setup.world.dir(), "beside.toml");
    assert!(text(&said.stdout).contains("keys.pkcs11.module: ./beside.so is no file"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jwt_keys_are_made_in_the_token_sign_there_and_are_destroyed_when_they_are_over() {
    let hsm = Hsm::new();
    let lines = format!("{QUICK}signing = \"pkcs11\"");
    let setup = setup(&hsm, LOCAL, &lines).with("lifetimes", "max_token = \"3s\"\ndefault_token = \"3s\"");
    let broker = Broker::process(setup).await;
    let (agent, verifier, platform) = (broker.agent(), broker.verifier(), broker.platform());
    let redis = broker.redis.as_ref().unwrap().url();
    let document = stored(&redis).await;
    assert_eq!(document["format"], "taskpass-keyring 5");
    for key in keys_of(&document, "jwt") {
        assert!(key["wrapped"].is_null() && key["held_as"].is_string(), "{key}");
        assert_eq!(key["held_by"], format!("pkcs11:token={TOKEN}"));
    }
    for key_use in ["feed", "task-ca-root", "task-ca-intermediate", "record-mac"] {
        assert!(
            keys_of(&document, key_use).all(|key| key["held_by"].is_null() && key["wrapped"].is_string())
        );
    }
    // Two trust domains, each with what signs and two that stand by; each key is two objects.
    assert_eq!(hsm.objects(), 12);

    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    let (header, _) = read_token(&token);
    assert_eq!(header["alg"], "ES256");
    let keys = jwks(&verifier).await;
    let kid = header["kid"].as_str().unwrap().parse().unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    use base64::Engine as _;
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert!(keys.get(&kid).unwrap().has_signed(signed.as_bytes(), &signature));
    assert!(verifier.validate(shown(&token, DOCS)).await.unwrap().active);

    // A rotation, and what it leaves goes out of the token when nothing under it lives.
    let rotate = proto::RotateKeyRequest {
        r#use: proto::KeyUse::Jwt.into(),
        trust_domain: TENANT.into(),
        ..Default::default()
    };
    eventually("a standby to be aged", async || platform.keys().rotate_key(rotate.clone()).await.is_ok())
        .await;
    let next = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    assert_ne!(read_token(&next).0["kid"], header["kid"]);
    eventually("its private half to be destroyed", async || {
        let lines = audit(&broker.world);
        lines.iter().any(|line| {
            line["action"] == "DestroyKey" && line["outcome"] == "done" && line["object"] == header["kid"]
        })
    })
    .await;
    eventually("as many as before", async || hsm.objects() == 12).await;

    // One that is given up goes at once.
    let given_up = read_token(&next).0["kid"].as_str().unwrap().to_owned();
    let compromise = proto::CompromiseKeyRequest { kid: given_up.clone(), ..Default::default() };
    platform.keys().compromise_key(compromise).await.unwrap();
    agent.mint(mint(&task, DOCS)).await.unwrap();
    assert!(!verifier.validate(shown(&next, DOCS)).await.unwrap().active);
    eventually("it to be destroyed", async || {
        audit(&broker.world)
            .iter()
            .any(|line| line["action"] == "DestroyKey" && line["object"] == given_up.as_str())
    })
    .await;
    eventually("as many as before", async || hsm.objects() == 12).await;

    // A restart makes nothing.
    let before = jwks(&verifier).await;
    let broker = broker.restart().await;
    assert_eq!((jwks(&broker.verifier()).await, hsm.objects()), (before, 12));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_start_at_once_agree_on_the_keys_in_one_token_and_leave_no_others_there() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, &in_token(), &format!("{QUICK}signing = \"pkcs11\""));
    create_kek(&hsm, &setup);
    setup.write_config();
    let environment = hsm.environment();
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let start = |name: &str| Process::serve_as(&setup.world, "taskpass.toml", name, &environment);
    let (mut one, mut two, mut three) = (start("one"), start("two"), start("three"));
    let mut at = Vec::new();
    for process in [&mut one, &mut two, &mut three] {
        at.push(process.ready().await.0);
    }
    let client = |address, path| Client::new(address, &setup.world.broker_ca, &setup.world.svid(path));
    let sets = [jwks(&client(at[0], "mcp/docs")).await, jwks(&client(at[1], "mcp/docs")).await];
    assert_eq!(sets[0], sets[1]);
    assert_eq!(jwks(&client(at[2], "mcp/docs")).await, sets[0]);
    let agent = client(at[0], "agent/a1");
    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    assert!(client(at[1], "mcp/docs").validate(shown(&token, DOCS)).await.unwrap().active);
    let other = client(at[1], "agent/a1").mint(mint(&task, DOCS)).await.unwrap().token;
    assert_eq!(read_token(&token).0["kid"], read_token(&other).0["kid"]);
    assert_eq!(hsm.objects(), 13, "the key-encryption key, and those that are in the keyring");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_steps_of_the_documentation_do_what_they_say() {
    let page = Page::new("hsm.md").with("/usr/lib/softhsm/libsofthsm2.so", softhsm());
    let section = page.blocks("toml").concat();
    let lines = section.strip_prefix("[keys]\n").unwrap();
    let steps = page.blocks("sh");
    assert!(steps.len() == 2 && steps[0].contains("softhsm2-util --init-token"), "{steps:?}");
    let setup = Setup::on(Store::Embedded).kek(lines);
    setup.write_config();
    let said = run(&mut shell(setup.world.dir(), &steps.concat()));
    assert!(
        said.contains("pkcs11:token=taskpass;object=taskpass-kek;id=") && said.contains("No problem found"),
        "{said}"
    );
    let conf = setup.world.path("softhsm/softhsm2.conf").to_str().unwrap().to_owned();
    let broker = Broker::process(setup.environment([("SOFTHSM2_CONF".to_owned(), conf)])).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    assert!(broker.verifier().validate(shown(&token, DOCS)).await.unwrap().active);
    assert_eq!(broker.page("/readyz").await, (200, "ready\n".to_owned()));
}

/// Not a measurement, which a machine with other work cannot be trusted with: what the words about signatures rest on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mints_at_once_share_the_sessions_that_there_are() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, LOCAL, &format!("{QUICK}signing = \"pkcs11\""));
    let broker = Broker::process(setup).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let (signed, many) = (hsm.calls("C_Sign"), 40);
    let mints: Vec<_> = (0..many).map(|_| agent.mint(mint(&task, DOCS))).collect();
    for minted in futures_util::future::join_all(mints).await {
        assert!(broker.verifier().validate(shown(&minted.unwrap().token, DOCS)).await.unwrap().active);
    }
    // The length is asked for first.
    assert_eq!(hsm.calls("C_Sign") - signed, 2 * many);
    assert_eq!(hsm.calls("C_Login"), 1);
    assert_eq!(threads(&broker), 2);
}

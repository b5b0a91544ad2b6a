//! What must never leave or lie about: no token, key or proof in logs, audit lines, metrics, refusals and stores (A44, G10), and no start
//! with a setting that gives one away (A47).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use taskpass::keys::store::KeyringStore as _;
use taskpass::keys::{KeyEncryptionKey, KeyLabel, KeyUse, KeyWrapper as _};
use taskpass::proto;
use taskpass::revoke::history::History;
use taskpass::store::embedded::{EmbeddedOptions, EmbeddedStore};
use tonic::Status;

use crate::support::Store;
use crate::support::broker::{Setup, page};
use crate::support::client::Client;
use crate::support::load::insist;
use crate::support::mortal::{Mortal, refusal};
use crate::support::redis::{RedisServer, RedisSetup};
use crate::support::site::Site;
use crate::support::story::{begin, docs, grant, mail, mint, payments, refused, shown};
use crate::support::world::{DOCS, MAIL, PAYMENTS, World};

/// Things that nobody may find, by name.
#[derive(Default)]
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn add(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        self.0.push((name.to_owned(), bytes.as_ref().to_vec()));
    }

    /// The parts of a token that say something: its claims and its signature, as text and as bytes.
    fn token(&mut self, name: &str, token: &str) {
        for part in token.split('.').skip(1) {
            self.add(name, part);
            if let Ok(bytes) = URL_SAFE_NO_PAD.decode(part) {
                self.add(name, bytes);
            }
        }
    }

    /// A private key in PKCS#8, and the number in it.
    fn private_key(&mut self, name: &str, pkcs8: &[u8]) {
        self.add(name, pkcs8);
        let before = [2, 1, 1, 4, 32];
        if let Some(at) = pkcs8.windows(before.len()).position(|window| window == before) {
            self.add(name, &pkcs8[at + before.len()..][..32]);
        }
    }

    /// Finds none of them in any of the places, in any form in which bytes are usually written.
    fn are_in_none_of(&self, places: &[(String, Vec<u8>)]) {
        let mut wanted: HashMap<[u8; 8], Vec<(&str, Vec<u8>)>> = HashMap::new();
        for (name, secret) in &self.0 {
            assert!(secret.len() >= 16, "{name} is too short to be looked for");
            for form in forms(secret) {
                wanted.entry(*form.first_chunk().unwrap()).or_default().push((name, form));
            }
        }
        for (place, content) in places {
            for (at, window) in content.windows(8).enumerate() {
                for (name, form) in wanted.get(<&[u8; 8]>::try_from(window).unwrap()).into_iter().flatten() {
                    assert!(!content[at..].starts_with(form), "{name} is in {place}, at {at}");
                }
            }
        }
    }
}

fn contains(content: &[u8], form: &[u8]) -> bool {
    content.windows(form.len()).any(|window| window == form)
}

/// As it is, in hexadecimal digits, in base64 wherever it begins, and as a list of numbers.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex = |upper: bool| {
        secret.iter().fold(String::new(), |mut text, byte| {
            let _ = if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
            text
        })
    };
    let numbers: Vec<_> = secret.iter().take(16).map(ToString::to_string).collect();
    let mut forms = vec![secret.to_vec(), hex(false).into(), hex(true).into(), numbers.join(", ").into()];
    forms.push(numbers.join(",").into());
    for shift in 0..3 {
        // The characters that depend on what comes before and after are left out.
        let shifted = [&vec![0; shift], secret].concat();
        let whole = shifted.len() / 3 * 4;
        let (from, to) = (if shift == 0 { 0 } else { 4 }, whole.min(64));
        forms.push(STANDARD.encode(&shifted).as_bytes()[from..to].to_vec());
        forms.push(URL_SAFE_NO_PAD.encode(&shifted).as_bytes()[from..to].to_vec());
    }
    forms
}

#[test]
fn what_is_looked_for_is_found_in_every_form() {
    let secret: Vec<u8> = (100..132).collect();
    let found = |text: String| forms(&secret).iter().any(|form| contains(text.as_bytes(), form));
    assert!(found(format!("{secret:?}")));
    assert!(found("6465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f80818283".to_owned()));
    for before in 0..5 {
        let around = [vec![7; before], secret.clone(), vec![9; 4]].concat();
        assert!(found(STANDARD.encode(&around)) && found(URL_SAFE_NO_PAD.encode(&around)), "{before}");
    }
    assert!(!found(STANDARD.encode([5; 64])));
}

/// Every file below a directory, but for those that are made to hold a secret.
fn files(dir: &Path, places: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, places);
        } else if !["kek", "broker.key"].iter().any(|name| path.ends_with(name)) {
            places.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

/// Everything that is kept, unwrapped: the private parts of the keyring.
async fn keyring(setup: &Setup, secrets: &mut Secrets) {
    let document = match &setup.redis {
        Some(redis) => redis::cmd("HGET")
            .arg(&["taskpass:{keyring}", "document"])
            .query::<Vec<u8>>(&mut redis.client())
            .unwrap(),
        None => {
            let options = EmbeddedOptions::at(setup.world.path("data/taskpass.redb"));
            let store = EmbeddedStore::open(options, Arc::new(History::default())).unwrap();
            store.load().await.unwrap().unwrap().document
        }
    };
    let document = String::from_utf8(document).unwrap();
    let document: serde_json::Value = serde_json::from_str(document.lines().nth(2).unwrap()).unwrap();
    let kek = KeyEncryptionKey::from_file(&setup.world.path("kek")).unwrap();
    let mut signers = 0;
    for key in document["keys"].as_array().unwrap() {
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        let key_use: KeyUse = serde_json::from_value(key["use"].clone()).unwrap();
        let text = |name: &str| key[name].as_str().unwrap();
        let label = KeyLabel { kid: text("kid"), key_use, trust_domain: text("trust_domain") };
        let private = kek.unwrap("", label, &bytes("wrapped")).await.unwrap();
        if key_use == KeyUse::Jwt {
            let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.expose(), &SystemRandom::new()).unwrap();
            assert_eq!(pair.public_key().as_ref(), bytes("public"), "this is the key that is published");
            signers += 1;
        }
        secrets.private_key(&format!("the {} key", key_use.as_str()), private.expose());
    }
    // For each of two tenants that which signs, and two that stand by.
    assert_eq!(signers, 6);
}

/// A key with its proof for a task, as RPC input; both are nobody else's business.
fn proven(task: &proto::Task, caller: &str, secrets: &mut Secrets) -> proto::ProvenKey {
    let key = rcgen::KeyPair::generate().unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    let digest = ring::digest::digest(&ring::digest::SHA256, &spki);
    let label = b"taskpass-key-proof-v1".as_slice();
    let message = [label, task.id.as_bytes(), caller.as_bytes(), digest.as_ref()].join(&0);
    let random = SystemRandom::new();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.serialized_der(), &random).unwrap();
    let signature = pair.sign(&random, &message).unwrap().as_ref().to_vec();
    secrets.add("a proof of possession", &signature);
    proto::ProvenKey { spki_der: spki.into(), signature: signature.into() }
}

/// A token in every field where it does not belong.
async fn misplaced(agent: &Client, operator: &Client, task: &proto::Task, token: &str) -> Vec<Status> {
    let page = proto::ListTasksRequest { page_token: token.into(), ..Default::default() };
    let key_set = proto::GetKeySetRequest { trust_domain: token.into() };
    let answers = [
        agent.get(token).await.err(),
        agent.complete(token).await.err(),
        agent.list(page).await.err(),
        agent.list_credentials(token).await.err(),
        agent.revoke_credential(token).await.err(),
        agent.begin(begin(&[grant(token, &["read"])])).await.err(),
        agent.begin(begin(&[grant(token, &["read"]), grant(token, &["read"])])).await.err(),
        agent.mint(mint(task, token)).await.err(),
        agent.directory().get_key_set(key_set).await.err(),
        operator.revoke(token).await.err(),
        operator.revoke_workload(token, 0).await.err(),
        operator.revoke_trust_domain(token, 0).await.err(),
    ];
    answers.into_iter().map(|refusal| refusal.expect("a refusal")).collect()
}

/// A private key in place of a CSR, beside one, or as a public key.
async fn keys_sent_by_mistake(agent: &Client, task: &proto::Task, secrets: &mut Secrets) -> Vec<Status> {
    use proto::issue_certificate_request::Key;
    let key = rcgen::KeyPair::generate().unwrap();
    secrets.private_key("a key sent by mistake", key.serialized_der());
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let (pem, der) = (key.serialize_pem(), key.serialize_der());
    let mistakes = [
        Key::CsrPem(pem.clone()),
        Key::CsrPem(format!("{pem}{csr}")),
        Key::CsrDer(der.clone().into()),
        Key::PublicKey(proto::ProvenKey { signature: der[..64].to_vec().into(), spki_der: der.into() }),
    ];
    let mut refusals = Vec::new();
    for mistake in mistakes {
        let request = proto::IssueCertificateRequest {
            task_id: task.id.clone(),
            key: Some(mistake),
            ..Default::default()
        };
        refusals.push(agent.issue(request).await.expect_err("a refusal"));
    }
    refusals
}

/// Everything that can be shown to the broker or is given by it; what it said when it refused.
async fn whole_story(broker: &Mortal, secrets: &mut Secrets) -> (proto::Task, Vec<Status>) {
    let (agent, verifier) = (broker.workload("agent/a1"), broker.verifier());
    let task = insist(async || agent.begin(begin(&[docs(), payments(), mail()])).await).await.unwrap();
    let good = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    let bound = agent.mint(mint(&task, PAYMENTS)).await.unwrap().token;
    let request = proto::MintTokenRequest { dpop_jwk_sha256: vec![7; 32].into(), ..mint(&task, MAIL) };
    let to_key = agent.mint(request).await.unwrap().token;
    let key = proto::issue_certificate_request::Key::PublicKey(proven(
        &task,
        "spiffe://example.org/agent/a1",
        secrets,
    ));
    let request =
        proto::IssueCertificateRequest { task_id: task.id.clone(), key: Some(key), ..Default::default() };
    agent.issue(request.clone()).await.unwrap();
    // For another task the proof is none.
    let other = agent.docs_task().await;
    let stolen = agent.issue(proto::IssueCertificateRequest { task_id: other.id.clone(), ..request }).await;

    let (body, signature) = good.rsplit_once('.').unwrap();
    let mut wrong = URL_SAFE_NO_PAD.decode(signature).unwrap();
    wrong.reverse();
    let forged = format!("{body}.{}", URL_SAFE_NO_PAD.encode(wrong));
    // Not even the name of a trust domain, which may be repeated.
    let nonsense = "A-Password-that-was-pasted-by-mistake-0123456789";
    for token in [&good, &bound, &to_key, &forged] {
        secrets.token("a token", token);
    }
    secrets.add("what is no token", nonsense);
    let mut refusals = vec![stolen.unwrap_err()];
    for token in [&good, &bound, &to_key, &forged, nonsense, &nonsense.repeat(2_000)] {
        for audience in [DOCS, PAYMENTS, "https://nowhere.example.org/mcp"] {
            refusals.extend(verifier.validate(shown(token, audience)).await.err());
            refusals.extend(agent.validate(shown(token, audience)).await.err());
        }
        // In fields where it does not belong.
        refusals.extend(misplaced(&agent, &broker.operator(), &task, token).await);
    }
    refusals.extend(keys_sent_by_mistake(&agent, &task, secrets).await);
    agent.complete(&task.id).await.unwrap();
    assert!(!verifier.accepts(&good).await);
    refusals.extend(agent.mint(mint(&task, DOCS)).await.err());
    assert!(refusals.len() > 30);
    (task, refusals)
}

async fn a44_no_secret_is_anywhere_after_a_whole_story(store: Store) {
    let setup = Setup::on(store).with("export", "dir = \"export\"");
    let broker = Mortal::with(setup, &[("TASKPASS_LOG", "trace")]).await;
    let mut secrets = Secrets::default();
    let (task, refusals) = whole_story(&broker, &mut secrets).await;
    let mut places: Vec<_> = refusals
        .iter()
        .map(|status| {
            let headers = format!("{:?}", status.metadata());
            let said = [status.message().as_bytes(), status.details(), headers.as_bytes()].concat();
            ("a refusal".to_owned(), said)
        })
        .collect();
    places.push(("the metrics".to_owned(), page(broker.ops, "/metrics").await.1.into_bytes()));
    // As it runs, and when it has ended in order.
    files(broker.setup.world.dir(), &mut places);
    let (ended, setup) = broker.drain().await;
    assert_eq!(ended, Some(0));
    if let Some(redis) = &setup.redis {
        redis.command(&["CONFIG", "SET", "rdbcompression", "no"]);
        redis.command(&["SAVE"]);
        files(redis.dir(), &mut places);
    }
    files(setup.world.dir(), &mut places);

    let kek = setup.world.read("kek");
    secrets.add("the key-encryption key", kek.trim());
    secrets.add("the key-encryption key", STANDARD.decode(kek.trim()).unwrap());
    let own = rcgen::KeyPair::from_pem(&setup.world.read("broker.key")).unwrap();
    secrets.private_key("the broker's own key", own.serialized_der());
    keyring(&setup, &mut secrets).await;
    secrets.are_in_none_of(&places);

    // We did look where things are: the log, the audit lines and the store know the task and hold the wrapped keyring.
    let has = |name: &str, what: &[u8]| {
        places.iter().any(|(place, it)| place.ends_with(name) && contains(it, what))
    };
    let store = if setup.redis.is_some() { ".rdb" } else { "taskpass.redb" };
    let id: Vec<u8> = task.id.bytes().filter(|byte| *byte != b'-').collect();
    let id: Vec<_> = id
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    assert!(has(store, b"taskpass-keyring 3") && has(store, &id));
    assert!(has("audit.jsonl", task.id.as_bytes()) && has("broker.log", b"\"TRACE\""));
}

#[tokio::test]
async fn a44_a_broker_leaves_no_core_dump() {
    let setup = Setup::on(Store::Embedded);
    let site = Site::start(&setup, "broker").await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", site.process().id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
}

/// A start on these files fails, with words that name what is wrong.
#[track_caller]
fn assert_refused((code, said): (Option<i32>, String), words: &[&str]) {
    assert!(matches!(code, Some(1 | 2)), "{code:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

fn mode(world: &World, name: &str, mode: u32) {
    fs::set_permissions(world.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

fn private(world: &World, name: &str, content: &str) {
    world.write(name, content);
    mode(world, name, 0o600);
}

#[tokio::test]
async fn a47_no_start_with_a_configuration_that_lacks_or_gives_away_something() {
    let setup = Setup::on(Store::Embedded);
    let (world, config) = (&setup.world, setup.config());
    let without_tenants = &config[..config.find("[[trust_domains]]").unwrap()];
    let embedded = "kind = \"embedded\"\npath = \"data/taskpass.redb\"";
    let with_store = |lines: &str| {
        assert!(config.contains(embedded));
        config.replace(embedded, lines)
    };
    let redis = "kind = \"redis\"\nurl = \"redis://127.0.0.1:1\"";
    let with_password =
        "kind = \"redis\"\nurl = \"redis://broker:hunter2hunter2@127.0.0.1:1\"\ndurability = \"fsync\"";
    let no_kek = config.replace("key_encryption_key_file = \"kek\"", "");
    let no_policy = config.replace("dir = \"policy\"\n", "");
    let cases: [(String, &[&str]); 8] = [
        (without_tenants.to_owned(), &["trust_domains", "at least one is needed"]),
        (config.replace("trust_domain = \"broker.example.org\"", "trust_domain = \"\""), &["trust_domain"]),
        (config.replace("bundles = [\"example.org.pem\"]", "bundles = []"), &["trust_domains[0].bundles"]),
        (no_kek, &["keys", "key_encryption_key_file"]),
        (no_policy, &["dir"]),
        (with_store(with_password), &["store.url", "store.password_file"]),
        (with_store(redis), &["durability"]),
        (
            config.replace("https://taskpass.example.org/example.org", "http://taskpass.example.org"),
            &["trust_domains[0].issuer"],
        ),
    ];
    for (text, words) in cases {
        assert_ne!(text, config);
        world.write("taskpass.toml", &text);
        let refused = refusal(world).await;
        assert!(!refused.1.contains("hunter2"), "a password is in the log: {}", refused.1);
        assert_refused(refused, words);
    }
}

#[tokio::test]
async fn a47_no_start_with_files_that_others_may_read_or_that_hold_no_secret() {
    let setup = Setup::on(Store::Embedded);
    setup.write_config();
    let world = &setup.world;
    for exposed in [0o644, 0o604, 0o666] {
        mode(world, "broker.key", exposed);
        assert_refused(refusal(world).await, &["broker.key", "open to others"]);
    }
    mode(world, "broker.key", 0o600);
    for exposed in [0o640, 0o644, 0o660] {
        mode(world, "kek", exposed);
        assert_refused(refusal(world).await, &["key-encryption key", "kek", "chmod 600"]);
    }
    mode(world, "kek", 0o600);
    let good = world.read("kek");
    let zeros = STANDARD.encode([0; 32]);
    for bad in
        ["", "\n", "changeme", "correct horse battery staple 123", &zeros, &"0".repeat(64), &good[..20]]
    {
        private(world, "kek", bad);
        let refused = refusal(world).await;
        assert!(bad.trim().is_empty() || !refused.1.contains(bad.trim()), "{}", refused.1);
        assert_refused(refused, &["key-encryption key", "kek", "openssl rand"]);
    }
    world.remove("kek");
    assert_refused(refusal(world).await, &["key-encryption key", "kek"]);
}

#[tokio::test]
async fn a47_no_start_without_a_policy_that_can_be_read() {
    let setup = Setup::on(Store::Embedded);
    setup.write_config();
    let world = &setup.world;
    world.write("policy/zz.cedar", "permit (principal, action, resource) when { principal.nonsense };");
    assert_refused(refusal(world).await, &["policy", "zz.cedar"]);
    world.write("policy/zz.cedar", "this is no policy");
    assert_refused(refusal(world).await, &["policy", "zz.cedar"]);
    fs::remove_dir_all(world.path("policy")).unwrap();
    assert_refused(refusal(world).await, &["policy"]);
    fs::create_dir(world.path("policy")).unwrap();
    assert_refused(refusal(world).await, &["policy", "everything would be denied"]);
}

#[tokio::test]
async fn a47_no_start_on_a_redis_that_may_forget() {
    let setup = Setup::on(Store::Redis);
    setup.write_config();
    let redis = setup.redis.as_ref().unwrap();
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_refused(refusal(&setup.world).await, &["maxmemory-policy", "noeviction"]);
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.command(&["CONFIG", "SET", "appendfsync", "everysec"]);
    assert_refused(refusal(&setup.world).await, &["appendfsync", "always", "fsync"]);
    let in_memory = RedisServer::start(RedisSetup::default());
    let elsewhere = setup.config().replace(&redis.url(), &in_memory.url());
    setup.world.write("taskpass.toml", &elsewhere);
    assert_refused(refusal(&setup.world).await, &["appendonly", "fsync"]);
    let alone = elsewhere.replace("durability = \"fsync\"", "durability = \"replicas\"");
    setup.world.write("taskpass.toml", &alone);
    // Replicas may come: that may be tried again.
    let (code, said) = refusal(&setup.world).await;
    assert!(code == Some(3) && said.contains("replica"), "{code:?}: {said}");
}

/// A store under another key-encryption key is not taken over, and loses nothing.
async fn a47_no_start_with_another_key_encryption_key(store: Store) {
    let (ended, setup) = Mortal::start(Setup::on(store)).await.drain().await;
    assert_eq!(ended, Some(0));
    let good = setup.world.read("kek");
    private(&setup.world, "kek", &STANDARD.encode([[1; 16], [2; 16]].concat()));
    assert_refused(refusal(&setup.world).await, &["key-encryption key"]);
    private(&setup.world, "kek", &good);
    let agent = Mortal::start(setup).await;
    refused(
        agent.workload("agent/a1").get("nonsense").await,
        tonic::Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
}

on_both_stores!(a44_no_secret_is_anywhere_after_a_whole_story, a47_no_start_with_another_key_encryption_key,);

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use taskpass_verifier::keyset::{Algorithm, KeyId, KeySet};

use super::document::KeyUse;
use super::testing::{MemoryStore, NOW, domain, kek, keyring, open, plan};
use super::*;
use crate::identity::TrustBundle;
use crate::ids::{Partition, TaskId, new_task_id};
use crate::secret::Secret;
use crate::time::Timestamp;

mod held;
mod kept;
mod on_disk;
mod pages;

const ES256: Algorithm = Algorithm::Es256;

fn kids(keyring: &Keyring) -> Vec<String> {
    let jwt = keyring.key_sets().flat_map(|(_, keys)| keys.iter().map(|key| key.id().to_string()));
    jwt.chain([keyring.task_ca().unwrap().key_id().to_string()]).collect()
}

#[tokio::test]
async fn a_restart_makes_no_new_key() {
    let (store, plan) = (MemoryStore::default(), plan(&[("acme.test", ES256)]));
    let first = open(&store, &plan).await.unwrap();
    let document = store.document();
    let later = Timestamp::from_secs(NOW.as_secs() + 86_400);
    let second = Keyring::open(&store, &kek(7), &plan, later).await.unwrap();
    assert_eq!(kids(&first), kids(&second));
    assert_eq!(store.document(), document);
    assert_eq!((first.version(), first.sequence()), (second.version(), second.sequence()));
    assert_eq!(
        (first.opened_at(), second.opened_at()),
        (NOW, later),
        "each knows when it saw the stored one"
    );
    assert_eq!(first.task_ca().unwrap().anchor(), second.task_ca().unwrap().anchor());
}

#[tokio::test]
async fn brokers_that_start_at_once_make_one_set_of_keys() {
    let (store, plan) = (MemoryStore::default(), plan(&[("acme.test", ES256), ("beta.test", ES256)]));
    let (a, b, c) = tokio::join!(open(&store, &plan), open(&store, &plan), open(&store, &plan));
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_eq!(kids(&a), kids(&b));
    assert_eq!(kids(&a), kids(&c));
    let task = new_task_id(NOW, Partition::from_low_bits(3)).unwrap();
    let sealed = a.record_seal().seal(task, b"facts");
    assert_eq!(c.record_seal().open(task, &sealed), Ok(b"facts".as_slice()));
    assert_eq!(store.stored.lock().unwrap().as_ref().unwrap().version, 1);
}

#[tokio::test]
async fn a_new_trust_domain_gets_its_key_and_nothing_else_changes() {
    let store = MemoryStore::default();
    let one = open(&store, &plan(&[("acme.test", ES256)])).await.unwrap();
    let both = plan(&[("acme.test", ES256), ("beta.test", Algorithm::EdDsa)]);
    let two = open(&store, &both).await.unwrap();
    assert_eq!(one.key_set(&domain("acme.test")), two.key_set(&domain("acme.test")));
    assert_eq!(one.task_ca().unwrap().chain(), two.task_ca().unwrap().chain());
    assert!(one.signer(&domain("beta.test")).is_none());
    assert_eq!(two.signer(&domain("beta.test")).unwrap().algorithm(), Algorithm::EdDsa);
    assert_eq!((one.sequence(), two.sequence()), (NOW.as_secs(), NOW.as_secs() + 1));
}

#[tokio::test]
async fn brokers_that_serve_different_trust_domains_share_one_keyring() {
    let store = MemoryStore::default();
    let (a, b) = (plan(&[("acme.test", ES256)]), plan(&[("beta.test", ES256)]));
    let (x, y) = tokio::join!(open(&store, &a), open(&store, &b));
    let (x, y) = (x.unwrap(), y.unwrap());
    assert_eq!(x.task_ca().unwrap().anchor(), y.task_ca().unwrap().anchor());
    let all = open(&store, &plan(&[("acme.test", ES256), ("beta.test", ES256)])).await.unwrap();
    assert_eq!(all.key_set(&domain("acme.test")), x.key_set(&domain("acme.test")));
    assert_eq!(all.key_set(&domain("beta.test")), y.key_set(&domain("beta.test")));
}

#[tokio::test]
async fn keys_whose_writing_was_not_answered_are_found_by_the_next_start() {
    let (store, plan) = (MemoryStore::default(), plan(&[("acme.test", ES256)]));
    *store.lose_answer.lock().unwrap() = true;
    assert!(matches!(open(&store, &plan).await, Err(KeyringError::Store(_))));
    let written = store.document();
    open(&store, &plan).await.unwrap();
    assert_eq!(store.document(), written);
}

#[tokio::test]
async fn a_wrong_key_encryption_key_refuses_and_says_so() {
    let (store, plan) = (MemoryStore::default(), plan(&[("acme.test", ES256)]));
    open(&store, &plan).await.unwrap();
    let before = store.document();
    let error = Keyring::open(&store, &kek(8), &plan, NOW).await.unwrap_err();
    assert!(matches!(error, KeyringError::WrongKeyEncryptionKey { .. }), "{error}");
    assert!(error.to_string().starts_with("wrong key-encryption key"), "{error}");
    assert_eq!(store.document(), before);
}

#[tokio::test]
async fn a_keyring_of_an_unknown_format_refuses_and_stays() {
    let plan = plan(&[("acme.test", ES256)]);
    let newer = b"taskpass-keyring 6\nx\n{}";
    let store = MemoryStore::with_document(*newer);
    let error = open(&store, &plan).await.unwrap_err();
    assert_eq!(error, KeyringError::UnknownFormat("6".to_owned()));
    assert_eq!(store.document(), newer);
}

#[tokio::test]
async fn keyrings_of_older_formats_open_and_are_completed() {
    let store = MemoryStore::default();
    let before = open(&store, &plan(&[("acme.test", ES256)])).await.unwrap();
    for format in [1, 2] {
        let store = MemoryStore::with_document(as_older_format(store.document(), format).await);
        let keyring = open(&store, &plan(&[("acme.test", ES256)])).await.unwrap();
        assert_eq!(keyring.feed_signers().count(), 1);
        let (old, new) =
            (before.signer(&domain("acme.test")).unwrap(), keyring.signer(&domain("acme.test")).unwrap());
        assert_eq!(old.kid(), new.kid(), "what signed goes on");
        let state =
            |state| keyring.keys().filter(|key| key.key_use == KeyUse::Jwt && key.state == state).count();
        assert_eq!((state(KeyState::Active), state(KeyState::Prepared)), (1, 2), "standbys are made");
        for key in keyring.keys() {
            let signs = key.state == KeyState::Active;
            assert_eq!(key.signed, signs.then_some((key.created_at, None)), "since it was made");
        }
        assert!(String::from_utf8(store.document()).unwrap().starts_with("taskpass-keyring 3\n"));
    }
}

/// What a broker of then would have written.
async fn as_older_format(document: Vec<u8>, format: u8) -> String {
    let text = String::from_utf8(document).unwrap();
    let mut body: serde_json::Value = serde_json::from_str(text.splitn(3, '\n').nth(2).unwrap()).unwrap();
    let keys = body["keys"].as_array_mut().unwrap();
    keys.retain(|key| key["state"] == "active" && (format > 1 || key["use"] != "feed"));
    for key in keys.iter_mut() {
        let key = key.as_object_mut().unwrap();
        key.retain(|name, _| !matches!(name.as_str(), "since_ms" | "longest_ms" | "signed_from_ms"));
    }
    held::sealed(&body, format).await
}

#[tokio::test]
async fn what_a_stranger_wrote_into_the_store_breaks_no_log_line() {
    for document in [
        "taskpass-keyring 9\x1b[2J\r",
        "taskpass-keyring 1\nx\n{\"a\\nINFO forged\":1}",
        "taskpass-keyring 1\nAAAA\n[\"\r\"]",
    ] {
        let error = open(&MemoryStore::with_document(document), &plan(&[])).await.unwrap_err();
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }
}

#[tokio::test]
async fn whatever_byte_of_the_stored_keyring_is_altered_it_refuses() {
    let (store, plan) = (MemoryStore::default(), plan(&[("acme.test", ES256)]));
    open(&store, &plan).await.unwrap();
    let good = store.document();
    for at in (0..good.len()).step_by(5) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let store = MemoryStore::with_document(bad);
        assert!(open(&store, &plan).await.is_err(), "byte {at}");
    }
    for length in (0..good.len()).step_by(97) {
        let store = MemoryStore::with_document(&good[..length]);
        assert!(open(&store, &plan).await.is_err(), "length {length}");
    }
}

#[tokio::test]
async fn a_corrupt_wrapped_key_refuses_and_names_the_key() {
    let (store, plan) = (MemoryStore::default(), plan(&[]));
    open(&store, &plan).await.unwrap();
    let text = String::from_utf8(store.document()).unwrap();
    // The record MAC key is the first, and what authenticates the rest.
    let at = text.find("\"wrapped\":\"").unwrap() + 40;
    let mut bad = text.into_bytes();
    bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
    let error = open(&MemoryStore::with_document(bad), &plan).await.unwrap_err();
    assert!(matches!(error, KeyringError::KeyDoesNotOpen { key_use: KeyUse::RecordMac, .. }), "{error}");
}

#[tokio::test]
async fn a_keyring_that_nobody_could_read_is_not_written() {
    let names: Vec<_> = (0..600).map(|n| format!("tenant-{n}.test")).collect();
    let issuers: Vec<_> = names.iter().map(|name| (name.as_str(), Algorithm::Es256)).collect();
    let store = MemoryStore::default();
    let refused = open(&store, &plan(&issuers)).await.unwrap_err();
    assert!(matches!(&refused, KeyringError::NotMade(why) if why.contains("1 MiB")), "{refused}");
    assert!(store.stored.lock().unwrap().is_none());
}

#[tokio::test]
async fn a_keyring_of_another_broker_refuses() {
    let store = MemoryStore::default();
    open(&store, &plan(&[])).await.unwrap();
    let other = KeyPlan::new(domain("other.test"), Default::default());
    assert!(matches!(open(&store, &other).await, Err(KeyringError::OtherBroker { .. })));
}

#[tokio::test]
async fn another_algorithm_is_that_of_the_keys_that_are_made_from_then_on() {
    let store = MemoryStore::default();
    let before = open(&store, &plan(&[("acme.test", ES256)])).await.unwrap();
    let after = open(&store, &plan(&[("acme.test", Algorithm::EdDsa)])).await.unwrap();
    assert_eq!(before.document(), after.document());
    assert_eq!(after.signer(&domain("acme.test")).unwrap().algorithm(), ES256);
}

#[tokio::test]
async fn a37_a_wrapped_key_opens_for_no_other_name_use_or_trust_domain() {
    let (wrapper, private) = (kek(7), Secret::new(b"private bytes".to_vec()));
    let label = KeyLabel { kid: "k", key_use: KeyUse::Jwt, trust_domain: "acme.test" };
    let wrapped = wrapper.wrap(label, &private).await.unwrap();
    assert_eq!(wrapper.unwrap("", label, &wrapped).await.unwrap().expose(), private.expose());
    for other in [
        KeyLabel { kid: "l", ..label },
        KeyLabel { key_use: KeyUse::TaskCaRoot, ..label },
        KeyLabel { trust_domain: "beta.test", ..label },
    ] {
        let opened = wrapper.unwrap("", other, &wrapped).await;
        assert_eq!(opened.unwrap_err(), WrapError::DoesNotOpen, "{other:?}");
    }
    // The same bytes, cut elsewhere.
    let [one, other] = [("k", "ajwtb"), ("kjwta", "b")].map(|(kid, trust_domain)| KeyLabel {
        kid,
        key_use: KeyUse::Jwt,
        trust_domain,
    });
    let cut = wrapper.wrap(one, &private).await.unwrap();
    assert_eq!(wrapper.unwrap("", other, &cut).await.unwrap_err(), WrapError::DoesNotOpen);
    assert!(kek(8).unwrap("", label, &wrapped).await.is_err());
    for length in 0..wrapped.len() {
        assert!(wrapper.unwrap("", label, &wrapped[..length]).await.is_err());
    }
    assert_ne!(wrapper.wrap(label, &private).await.unwrap(), wrapped, "the nonce is fresh each time");
}

#[tokio::test]
async fn each_trust_domain_has_its_own_key_and_another_does_not_verify() {
    let keyring = keyring().await;
    let (acme, beta) = (domain("acme.test"), domain("beta.test"));
    let signature = keyring.signer(&acme).unwrap().sign(b"header.payload").get().await.unwrap();
    let kid = keyring.signer(&acme).unwrap().kid();
    assert!(keyring.key_set(&acme).unwrap().get(&kid).unwrap().has_signed(b"header.payload", &signature));
    assert!(keyring.key_set(&beta).unwrap().get(&kid).is_none());
    let signature = keyring.signer(&beta).unwrap().sign(b"header.payload").get().await.unwrap();
    assert!(keyring.signer(&beta).unwrap().public().has_signed(b"header.payload", &signature));
    assert!(!keyring.signer(&acme).unwrap().public().has_signed(b"header.payload", &signature));
}

#[tokio::test]
async fn a44_neither_the_document_nor_debug_shows_private_bytes() {
    let (store, plan) =
        (MemoryStore::default(), plan(&[("acme.test", ES256), ("beta.test", Algorithm::EdDsa)]));
    let keyring = open(&store, &plan).await.unwrap();
    let shown = format!("{keyring:?} {:?} {:?}", kek(7), KeySets::of(&keyring).unwrap());
    let document = String::from_utf8(store.document()).unwrap();
    let body: serde_json::Value = serde_json::from_str(document.splitn(3, '\n').nth(2).unwrap()).unwrap();
    let keys = body["keys"].as_array().unwrap();
    assert_eq!(
        keys.len(),
        14,
        "two JWT keys, two feed keys, intermediate, each with what stands by; root, MAC"
    );
    for key in keys {
        let text = |name: &str| key[name].as_str().unwrap().to_owned();
        let (kid, trust_domain) = (text("kid"), text("trust_domain"));
        let key_use: KeyUse = serde_json::from_value(key["use"].clone()).unwrap();
        let label = KeyLabel { kid: &kid, key_use, trust_domain: &trust_domain };
        let wrapped = decode(&text("wrapped"));
        let private = kek(7).unwrap("", label, &wrapped).await.unwrap();
        // Any eight of its bytes in a row, in whichever way they might be written. The PKCS#8 frame and the public half are no secret.
        let public = decode(&text("public"));
        for window in private.expose().windows(8).filter(|w| !is_public(w, &public)) {
            let plain = format!("{window:?}");
            let hex: String = window.iter().map(|byte| format!("{byte:02x}")).collect();
            for form in [plain.trim_matches(['[', ']']), &hex] {
                assert!(!shown.contains(form) && !document.contains(form), "{key_use:?}");
            }
            assert!(!wrapped.windows(8).any(|w| w == window) && !contains(&store.document(), window));
        }
    }
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn is_public(window: &[u8], public: &[u8]) -> bool {
    contains(public, window)
}

#[tokio::test]
async fn sealed_facts_open_for_their_task_alone_and_unaltered() {
    let (ours, other) = (keyring().await, keyring().await);
    let task = |number| new_task_id(NOW, Partition::from_low_bits(number)).unwrap();
    let (a, b): (TaskId, TaskId) = (task(1), task(2));
    let sealed = ours.record_seal().seal(a, b"the facts");
    assert_eq!(sealed.len(), b"the facts".len() + seal::SEAL_LEN);
    assert_eq!(ours.record_seal().open(a, &sealed), Ok(b"the facts".as_slice()));
    assert_eq!(ours.record_seal().open(b, &sealed), Err(Forged));
    assert_eq!(other.record_seal().open(a, &sealed), Err(Forged));
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 0x80;
        assert_eq!(ours.record_seal().open(a, &bad), Err(Forged), "byte {at}");
        assert_eq!(ours.record_seal().open(a, &sealed[..at]), Err(Forged), "length {at}");
    }
}

#[tokio::test]
async fn the_intermediate_ends_with_its_root_at_the_latest() {
    let day = std::time::Duration::from_secs(86_400);
    let plan = KeyPlan { root_lifetime: day, intermediate_lifetime: 2 * day, ..plan(&[]) };
    let keyring = open(&MemoryStore::default(), &plan).await.unwrap();
    assert_eq!(keyring.task_ca().unwrap().not_after(), NOW.saturating_add(day));
    let intermediate = ca::parse(&keyring.task_ca().unwrap().chain()[0]).unwrap();
    let end = intermediate.validity().not_after.timestamp();
    assert_eq!(u64::try_from(end).unwrap(), NOW.saturating_add(day).as_secs());
    assert!(plan.issuers.is_empty() && keyring.signer(&domain("acme.test")).is_none());
}

#[tokio::test]
async fn published_key_sets_are_read_by_the_verifier_and_hold_no_private_member() {
    let keyring = keyring().await;
    let sets = KeySets::of(&keyring).unwrap();
    for name in ["acme.test", "beta.test"] {
        let read = KeySet::from_jwks(sets.jwks(&domain(name)).unwrap().as_bytes()).unwrap();
        assert_eq!(&read, keyring.key_set(&domain(name)).unwrap().as_ref());
    }
    assert_eq!(sets.jwks(&domain("broker.test")), None);
}

#[tokio::test]
async fn the_ca_bundle_is_a_spiffe_bundle_that_our_own_reader_takes() {
    let keyring = keyring().await;
    let sets = KeySets::of(&keyring).unwrap();
    let bundle: serde_json::Value = serde_json::from_str(sets.task_ca_bundle()).unwrap();
    assert_eq!(bundle["spiffe_sequence"], NOW.as_secs());
    assert!(bundle["spiffe_refresh_hint"].is_u64());
    let key = &bundle["keys"][0];
    assert_eq!((key["use"].as_str(), key.get("kid")), (Some("x509-svid"), None));
    assert_eq!(key["x5c"].as_array().unwrap().len(), 1);
    for text in [sets.task_ca_bundle(), sets.task_ca_pem()] {
        let bundle = TrustBundle::parse(domain("broker.test"), text.as_bytes()).unwrap();
        assert_eq!((bundle.len(), bundle.skipped()), (1, [].as_slice()));
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(sets.task_ca_pem().as_bytes()).unwrap();
    assert_eq!(pem.contents, keyring.task_ca().unwrap().anchor().as_ref());
}

#[tokio::test]
async fn exported_files_are_replaced_whole_and_left_alone_when_nothing_changed() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("public");
    let (one, two) = (KeySets::of(&keyring().await).unwrap(), KeySets::of(&keyring().await).unwrap());
    one.export_to(&target).unwrap();
    let read = |name: &str| std::fs::read_to_string(target.join(name)).unwrap();
    assert_eq!(read("acme.test.jwks.json"), one.jwks(&domain("acme.test")).unwrap());
    let mode = |name: &str| std::fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("task-ca.pem"), mode("acme.test.jwks.json")), (0o755, 0o644, 0o644));
    let touched = || std::fs::metadata(target.join("task-ca.pem")).unwrap().modified().unwrap();
    let before = touched();
    one.export_to(&target).unwrap();
    assert_eq!(touched(), before);
    two.export_to(&target).unwrap();
    assert_eq!(read("task-ca.pem"), two.task_ca_pem());
    let mut names: Vec<_> = std::fs::read_dir(&target)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["acme.test.jwks.json", "beta.test.jwks.json", "task-ca.pem", "task-ca.spiffe.json"]);
}

fn write(path: &Path, content: &[u8], mode: u32) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a47_a_key_encryption_key_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kek");
    KeyEncryptionKey::create_file(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = KeyEncryptionKey::from_file(&path).unwrap_err();
        assert!(matches!(error, KekError::Exposed { .. }), "{mode:o}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    for mode in [0o600, 0o400] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        KeyEncryptionKey::from_file(&path).unwrap();
    }
}

/// systemd lays it there with 0400, or with an access control list, whose mask shows as the group's rights.
#[test]
fn a47_a_credential_of_the_service_manager_may_look_as_it_makes_them_and_no_opener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kek");
    let made = KeyEncryptionKey::create_file(&path).unwrap().fingerprint();
    let with = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        KeyEncryptionKey::from_credential_in(dir.path(), "kek").map(|key| key.fingerprint() == made)
    };
    for mode in [0o400, 0o440, 0o600] {
        assert!(with(mode).unwrap(), "{mode:o}");
    }
    for mode in [0o444, 0o460, 0o450, 0o402, 0o401, 0o660] {
        assert!(matches!(with(mode), Err(KekError::Exposed { .. })), "{mode:o}");
    }
    let missing = KeyEncryptionKey::from_credential_in(dir.path(), "other").unwrap_err();
    assert!(missing.to_string().contains("/other"), "{missing}");
}

#[test]
fn a_key_encryption_key_is_read_raw_in_base64_and_in_hexadecimal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kek");
    let raw: Vec<u8> = (0..32u8).map(|i| i.wrapping_mul(7).wrapping_add(200)).collect();
    let hex: String = raw.iter().map(|byte| format!("{byte:02X}")).collect();
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let prints: Vec<_> = [
        raw.clone(),
        format!("{hex}\n").into_bytes(),
        format!(" {}\r\n", STANDARD.encode(&raw)).into_bytes(),
        URL_SAFE_NO_PAD.encode(&raw).into_bytes(),
    ]
    .iter()
    .map(|content| {
        write(&path, content, 0o600);
        KeyEncryptionKey::from_file(&path).unwrap().fingerprint().to_string()
    })
    .collect();
    assert!(prints.iter().all(|print| *print == prints[0]), "{prints:?}");
}

#[test]
fn what_is_no_key_encryption_key_is_refused_without_showing_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kek");
    for bad in [
        b"".as_slice(),
        b"correct-horse-battery-staple-123",
        &[0; 32],
        &[7; 31],
        b"0000000000000000000000000000000000000000000000000000000000000000",
        b"zz00000000000000000000000000000000000000000000000000000000000001",
        b"+f00000000000000000000000000000000000000000000000000000000000001",
        &[b'A'; 4096],
    ] {
        write(&path, bad, 0o600);
        let error = KeyEncryptionKey::from_file(&path).unwrap_err();
        assert!(matches!(error, KekError::Malformed(_)), "{bad:?}");
        assert!(bad.is_empty() || !error.to_string().contains(&*String::from_utf8_lossy(bad)));
    }
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for no_file in [dir.path(), &pipe] {
        assert!(
            matches!(KeyEncryptionKey::from_file(no_file), Err(KekError::NotAFile(_))),
            "without waiting"
        );
    }
    assert!(matches!(KeyEncryptionKey::from_file(&dir.path().join("none")), Err(KekError::Io { .. })));
    assert!(matches!(KeyEncryptionKey::create_file(&path), Err(KekError::Io { .. })), "never overwritten");
    assert!(matches!(KeyEncryptionKey::from_env("TASKPASS_TEST_NO_SUCH_VARIABLE"), Err(KekError::NotSet(_))));
}

#[test]
fn kids_are_thumbprints_that_other_implementations_compute_too() {
    // RFC 8037, appendix A.3.
    let x = decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    let key = taskpass_verifier::VerificationKey::from_public_bytes(Algorithm::EdDsa, &x).unwrap();
    assert_eq!(key.id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k".parse::<KeyId>().unwrap());
}

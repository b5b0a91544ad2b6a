//! Keyrings that name keys in hardware, as a broker finds them that has none.

use std::time::Duration;

use serde_json::{Value, json};

use super::decode;
use crate::keys::seal::RecordSeal;
use crate::keys::testing::{MemoryStore, NOW, kek, open, plan};
use crate::keys::{KeyLabel, KeyUse, KeyWrapper as _, Keyring, KeyringError};
use taskpass_verifier::keyset::Algorithm;

/// The document with that body, authenticated as a broker does it.
pub(super) async fn sealed(body: &Value, format: u8) -> String {
    let keys = body["keys"].as_array().unwrap();
    let mac = keys.iter().find(|key| key["use"] == "record-mac").unwrap();
    let kid = mac["kid"].as_str().unwrap();
    let label = KeyLabel { kid, key_use: KeyUse::RecordMac, trust_domain: "broker.test" };
    let private = kek(7).unwrap("", label, &decode(mac["wrapped"].as_str().unwrap())).await.unwrap();
    let body = body.to_string();
    let tag = RecordSeal::new(&private).unwrap().tag_document(body.as_bytes());
    use base64::Engine as _;
    let tag = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(tag);
    format!("taskpass-keyring {format}\n{tag}\n{body}")
}

/// A keyring whose key for tokens lies elsewhere, after `change`.
async fn stored(change: impl Fn(&mut Value)) -> MemoryStore {
    let store = MemoryStore::default();
    open(&store, &plan(&[("acme.test", Algorithm::Es256)])).await.unwrap();
    let text = String::from_utf8(store.document()).unwrap();
    let mut body: Value = serde_json::from_str(text.splitn(3, '\n').nth(2).unwrap()).unwrap();
    let keys = body["keys"].as_array_mut().unwrap();
    let key = keys.iter_mut().find(|key| key["use"] == "jwt" && key["state"] == "active").unwrap();
    key.as_object_mut().unwrap().retain(|name, _| !name.starts_with("wrapped"));
    key["held_by"] = json!("pkcs11:token=far\u{1b}[2J");
    key["held_as"] = json!("AAEC");
    change(key);
    MemoryStore::with_document(sealed(&body, 5).await)
}

#[tokio::test]
async fn a_key_that_lies_where_nobody_reaches_is_named_with_what_to_do() {
    let store = stored(|_| {}).await;
    let before = store.document();
    let error = open(&store, &plan(&[("acme.test", Algorithm::Es256)])).await.unwrap_err();
    assert!(matches!(error, KeyringError::NotAtHand { .. }), "{error:?}");
    let words = error.to_string();
    for part in ["pkcs11:token=far", "id 000102", "this broker has none", "feature `pkcs11`", "[keys.pkcs11]"]
    {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(!words.contains('\u{1b}'), "{words}");
    assert_eq!(store.document(), before);
}

#[tokio::test]
async fn a_key_is_in_one_place_and_that_is_said_completely() {
    let changes: [fn(&mut Value); 3] = [
        |key| drop(key.as_object_mut().unwrap().remove("held_as")),
        |key| drop(key.as_object_mut().unwrap().remove("held_by")),
        |key| {
            key["wrapped_by"] = json!("local:0");
            key["wrapped"] = json!("AAEC");
        },
    ];
    for change in changes {
        let store = stored(change).await;
        let error = open(&store, &plan(&[("acme.test", Algorithm::Es256)])).await.unwrap_err();
        assert!(matches!(&error, KeyringError::Damaged(why) if why.contains("hardware")), "{error:?}");
    }
}

#[tokio::test]
async fn one_that_is_over_is_in_nobodys_way_and_is_forgotten_after_a_day() {
    let retired = |key: &mut Value| {
        key["state"] = json!("retired");
        key["signed_until_ms"] = json!(NOW.as_millis());
    };
    let (store, plan) = (stored(retired).await, plan(&[("acme.test", Algorithm::Es256)]));
    let format = || String::from_utf8(store.document()).unwrap().split('\n').next().unwrap().to_owned();
    // What is lacking now is made, here.
    let keyring = Keyring::open(&store, &kek(7), &plan, NOW).await.unwrap();
    assert_eq!(format(), "taskpass-keyring 5");
    assert_eq!(keyring.keys().filter(|key| key.held_in.is_some()).count(), 1);
    let mut more = plan.clone();
    more.issuers.insert(crate::keys::testing::domain("beta.test"), Algorithm::Es256);
    let later = NOW.saturating_add(Duration::from_secs(24 * 3600 + 1));
    let keyring = Keyring::open(&store, &kek(7), &more, later).await.unwrap();
    assert_eq!(keyring.keys().filter(|key| key.held_in.is_some()).count(), 0);
    assert_eq!(format(), "taskpass-keyring 3", "which brokers of before read");
}

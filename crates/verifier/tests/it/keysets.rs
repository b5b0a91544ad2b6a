//! JWK sets in and out.

use proptest::prelude::*;
use serde_json::{Value, json};
use taskpass_verifier::keyset::{Algorithm, InvalidKeySet, KeySet, VerificationKey};

use crate::support::{Issuer, Signer};

fn jwks() -> Value {
    serde_json::from_str(&Issuer::new().keys.to_jwks()).unwrap()
}

fn read(set: &Value) -> Result<KeySet, InvalidKeySet> {
    KeySet::from_jwks(set.to_string().as_bytes())
}

/// What a set says with its first key (P-256) changed.
fn changed(change: impl FnOnce(&mut Value)) -> Result<KeySet, InvalidKeySet> {
    let mut set = jwks();
    change(&mut set["keys"][0]);
    read(&set)
}

#[test]
fn a_key_set_reads_back_as_it_was_written() {
    let keys = Issuer::new().keys;
    assert_eq!(KeySet::from_jwks(keys.to_jwks().as_bytes()), Ok(keys));
    assert_eq!(KeySet::from_jwks(br#"{"keys":[]}"#), Ok(KeySet::default()));
}

#[test]
fn a_written_key_has_the_public_members_alone() {
    let set = jwks();
    let names = |key: &Value| {
        let mut names: Vec<_> = key.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&set["keys"][0]), ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    assert_eq!(names(&set["keys"][1]), ["alg", "crv", "kid", "kty", "use", "x"]);
}

#[test]
fn the_thumbprint_is_that_of_rfc_8037_appendix_a3() {
    let set = json!({ "keys": [{
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "alg": "EdDSA", "use": "sig",
    }] });
    assert_eq!(read(&set).unwrap().iter().count(), 1);
}

#[test]
fn a_p256_thumbprint_is_that_of_an_independent_implementation() {
    // RFC 7517, appendix A.1; the thumbprint by Python's hashlib over the text that RFC 7638 prescribes.
    let set = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        "kid": "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s",
    }] });
    assert_eq!(read(&set).unwrap().iter().next().unwrap().algorithm(), Algorithm::Es256);
}

#[test]
fn a_key_under_a_name_that_is_not_its_thumbprint_is_refused() {
    assert_eq!(changed(|key| key["kid"] = json!("2026-01")), Err(InvalidKeySet::WrongKeyId));
    let other = Signer::new(Algorithm::Es256).key().id();
    assert_eq!(changed(|key| key["kid"] = json!(other)), Err(InvalidKeySet::WrongKeyId));
    assert_eq!(
        changed(|key| drop(key.as_object_mut().unwrap().remove("kid"))),
        Err(InvalidKeySet::MissingMember)
    );
}

#[test]
fn a_set_that_shows_anything_private_is_refused_whole() {
    for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"] {
        for value in [json!("AAAA"), json!(null), json!([])] {
            assert_eq!(changed(|key| key[member] = value), Err(InvalidKeySet::PrivateKey), "{member}");
        }
    }
    let mut set = jwks();
    set["keys"].as_array_mut().unwrap().push(json!({ "kty": "oct", "k": "AAAA" }));
    assert_eq!(read(&set), Err(InvalidKeySet::PrivateKey));
}

#[test]
fn keys_of_other_types_curves_and_uses_are_skipped() {
    let mut set = jwks();
    let mut enc = set["keys"][0].clone();
    enc["use"] = json!("enc");
    let others = [
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "r", "alg": "RS256", "use": "sig" }),
        json!({ "kty": "EC", "crv": "P-384", "x": "A", "y": "A", "kid": "r", "alg": "ES384", "use": "sig" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": "A" }),
        json!({ "kty": "EC" }),
        json!({ "kty": "something new", "extra": { "deep": [1, 2] } }),
        enc,
    ];
    set["keys"].as_array_mut().unwrap().extend(others);
    assert_eq!(read(&set).unwrap().iter().count(), 2);
}

#[test]
fn a_usable_key_must_say_what_it_is_for() {
    assert_eq!(changed(|key| key["alg"] = json!("EdDSA")), Err(InvalidKeySet::WrongAlgorithm));
    assert_eq!(changed(|key| key["alg"] = json!("none")), Err(InvalidKeySet::WrongAlgorithm));
    for member in ["alg", "use", "x", "y"] {
        let without = changed(|key| drop(key.as_object_mut().unwrap().remove(member)));
        assert_eq!(without, Err(InvalidKeySet::MissingMember), "{member}");
    }
}

#[test]
fn coordinates_are_32_bytes_in_one_spelling() {
    for bad in
        ["", "AAAA", &"A".repeat(44), &"A".repeat(1000), &format!("{}=", "A".repeat(43)), &"/".repeat(43)]
    {
        assert_eq!(changed(|key| key["x"] = json!(bad)), Err(InvalidKeySet::MalformedKey), "{bad}");
    }
    assert!(VerificationKey::from_public_bytes(Algorithm::Es256, &[2; 65]).is_err());
    assert!(VerificationKey::from_public_bytes(Algorithm::Es256, &[4; 64]).is_err());
    assert!(VerificationKey::from_public_bytes(Algorithm::EdDsa, &[4; 33]).is_err());
}

#[test]
fn a_point_off_the_curve_verifies_nothing() {
    let key = VerificationKey::from_public_bytes(Algorithm::Es256, &[4; 65]).unwrap();
    assert!(!key.has_signed(b"", &[1; 64]));
}

#[test]
fn repeated_keys_and_members_and_oversized_sets_are_refused() {
    let mut set = jwks();
    let first = set["keys"][0].clone();
    set["keys"].as_array_mut().unwrap().push(first);
    assert_eq!(read(&set), Err(InvalidKeySet::DuplicateKey));
    let twice = jwks().to_string().replacen(r#""kty":"#, r#""kty":"EC","kty":"#, 1);
    assert_eq!(KeySet::from_jwks(twice.as_bytes()), Err(InvalidKeySet::Malformed));
    let many = json!({ "keys": vec![json!({ "kty": "RSA" }); 65] });
    assert_eq!(read(&many), Err(InvalidKeySet::TooLarge));
    let long = " ".repeat(65_536) + "{}";
    assert_eq!(KeySet::from_jwks(long.as_bytes()), Err(InvalidKeySet::TooLarge));
}

#[test]
fn what_is_no_key_set_is_refused() {
    for bad in
        ["", "null", "[]", "{}", r#"[[]]"#, r#"{"keys":{}}"#, r#"{"keys":[["EC"]]}"#, r#"{"keys":[{}]}"#]
    {
        assert_eq!(KeySet::from_jwks(bad.as_bytes()), Err(InvalidKeySet::Malformed), "{bad}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = KeySet::from_jwks(&bytes);
    }
}

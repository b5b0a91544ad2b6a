//! JWK sets of issuers and of the feed.

use taskpass_verifier::KeySet;
use taskpass_verifier::keyset::{MAX_JWKS_BYTES, MAX_KEYS};

/// A JWK set.
pub fn run(input: &[u8]) {
    let Ok(keys) = KeySet::from_jwks(input) else { return };
    assert!(input.len() <= MAX_JWKS_BYTES && keys.iter().count() <= MAX_KEYS);
    assert_eq!(KeySet::from_jwks(keys.to_jwks().as_bytes()).as_ref(), Ok(&keys));
    for key in keys.iter() {
        assert_eq!(keys.get(&key.id()), Some(key));
        assert!(!key.has_signed(b"message", b"no signature"));
        assert!(!key.has_signed(b"message", &[0; 64]), "the signature of zeros is nobody's: {key:?}");
    }
}

/// Sets of no, one and several keys; some that are not usable.
pub fn seeds() -> Vec<Vec<u8>> {
    let ours = super::keys_of(&super::signer()).to_jwks();
    let sets: serde_json::Value =
        serde_json::from_str(include_str!("../../../crates/verifier/tests/corpus/keys.json")).expect("JSON");
    let sets = sets.as_object().expect("sets by name").values().filter(|set| set.is_object());
    let rsa = r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","use":"sig"},{"kty":"oct"}]}"#;
    let known = [r#"{"keys":[]}"#.to_owned(), ours, rsa.to_owned()];
    known.into_iter().chain(sets.map(|set| set.to_string())).map(String::into_bytes).collect()
}

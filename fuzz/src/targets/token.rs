//! Tokens: header, payload, claims, and what a verdict makes of them.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};
use taskpass_verifier::claims::MAX_LIFETIME_SECONDS;
use taskpass_verifier::header::Header;
use taskpass_verifier::token::{MAX_TOKEN_BYTES, assemble, signing_input};
use taskpass_verifier::{Claims, KeySet, UnverifiedToken, VerifiedToken};

use self::sample::{EXPECTED, NOW};

#[path = "../../../crates/verifier/tests/it/support.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod sample;

static ISSUER: LazyLock<(Ed25519KeyPair, KeySet)> = LazyLock::new(|| {
    let signer = super::signer();
    let keys = super::keys_of(&signer);
    (signer, keys)
});

fn header() -> Header {
    let key = super::verification_key(&ISSUER.0);
    Header { algorithm: key.algorithm(), key_id: key.id() }
}

/// The first byte says what the rest is: a token as it stands; claims, to be signed as the issuer would; or a header, a zero byte and claims.
pub fn token(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let text = match kind % 3 {
        0 => String::from_utf8_lossy(rest).into_owned(),
        1 => signed(serde_json::to_string(&header()).expect("a header").as_bytes(), rest),
        _ => {
            let middle = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            let (header, claims) = rest.split_at(middle);
            signed(header, claims.get(1..).unwrap_or_default())
        }
    };
    let Ok(unverified) = UnverifiedToken::parse(&text) else { return };
    let _ = unverified.unverified_key_id();
    if let Ok(verified) = unverified.verify(&ISSUER.1, &EXPECTED, NOW) {
        accepted(&text, &verified);
    }
}

fn signed(header: &[u8], payload: &[u8]) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = ISSUER.0.sign(input.as_bytes());
    assemble(input, signature.as_ref())
}

/// What every accepted token is, and that its claims make the same token again.
fn accepted(text: &str, token: &VerifiedToken) {
    let claims = token.claims();
    assert!(text.len() <= MAX_TOKEN_BYTES);
    assert_eq!((&*claims.iss, &*claims.aud, claims.cnf), (EXPECTED.issuer, EXPECTED.audience, None));
    assert!(claims.exp > NOW, "no grace for exp");
    assert!(claims.exp.since(claims.iat).is_some_and(|lifetime| lifetime <= MAX_LIFETIME_SECONDS));
    assert_eq!(token.recheck(&ISSUER.1, &EXPECTED, NOW), Ok(()));
    for tool in claims.scope.tools() {
        let free = claims.authorization_details.get(tool).is_none();
        assert_eq!(token.permits_tool(tool, None).is_ok(), free, "limits that nothing satisfies: {tool}");
    }
    assert!(token.permits_tool("not granted", None).is_err());
    if let Ok(input) = signing_input(&header(), claims) {
        let signature = ISSUER.0.sign(input.as_bytes());
        let again = assemble(input, signature.as_ref());
        let again = UnverifiedToken::parse(&again).and_then(|token| token.verify(&ISSUER.1, &EXPECTED, NOW));
        assert_eq!(again.map(|token| token.claims().clone()).as_ref(), Ok(claims));
    }
}

/// The claims alone, for whoever reads them from another place.
pub fn claims(input: &[u8]) {
    let Ok(claims) = serde_json::from_slice::<Claims>(input) else { return };
    let written = serde_json::to_vec(&claims).expect("claims can be written");
    let again: Claims = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, claims);
    let _ = (format!("{claims:?}"), claims.taskpass.lineage.root_of(claims.taskpass.task));
}

/// A child's, a person's, a bound one, and the hostile ones of the corpus.
fn samples() -> Vec<Vec<u8>> {
    let plain = sample::claims_json();
    let person = sample::with(sample::person_through_agent);
    let bound = sample::with(|claims| claims["cnf"] = json!({ "jkt": URL_SAFE_NO_PAD.encode([7; 32]) }));
    let ours = [plain, person, bound].into_iter().map(|claims| claims.to_string().into_bytes());
    let theirs = corpus().into_iter().filter_map(|token| {
        let payload = token.split('.').nth(1)?;
        URL_SAFE_NO_PAD.decode(payload).ok()
    });
    ours.chain(theirs).collect()
}

/// Each token of the corpus.
fn corpus() -> Vec<String> {
    let cases: Value =
        serde_json::from_str(include_str!("../../../crates/verifier/tests/corpus/cases.json")).expect("JSON");
    let cases = cases["cases"].as_array().expect("cases");
    cases.iter().filter_map(|case| case["shown"]["token"].as_str().map(str::to_owned)).collect()
}

/// See [`token`].
pub fn token_seeds() -> Vec<Vec<u8>> {
    let header = serde_json::to_vec(&header()).expect("a header");
    let mut seeds: Vec<_> = corpus().iter().map(|token| [b"\0", token.as_bytes()].concat()).collect();
    for claims in samples() {
        seeds.push([b"\0", signed(&header, &claims).as_bytes()].concat());
        seeds.push([b"\x01", &*claims].concat());
        seeds.push([b"\x02", &*header, b"\0", &*claims].concat());
    }
    seeds
}

/// See [`claims`].
pub fn claims_seeds() -> Vec<Vec<u8>> {
    samples()
}

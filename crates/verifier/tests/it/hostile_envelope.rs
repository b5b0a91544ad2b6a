//! Tokens that are wrong before their claims are looked at: form, header, key, signature.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use taskpass_verifier::keyset::KeySet;
use taskpass_verifier::{Refusal, UnverifiedToken};

use crate::support::{EXPECTED, Issuer, NOW, b64, claims, claims_json, mint, sign};

/// A good header with one change.
fn header_with(issuer: &Issuer, change: impl FnOnce(&mut Value)) -> String {
    let mut header = issuer.es256.header_json();
    change(&mut header);
    header.to_string()
}

#[test]
fn a48_a_token_without_signature_is_refused() {
    let issuer = Issuer::new();
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let header = header_with(&issuer, |header| header["alg"] = json!(none));
        let unsigned = format!("{}.{}.", b64(&header), b64(claims_json().to_string()));
        assert_eq!(issuer.verify(&unsigned), Err(Refusal::AlgorithmNotAllowed), "{none}");
        assert_eq!(issuer.verify(&issuer.sign(&header, "{}")), Err(Refusal::AlgorithmNotAllowed), "{none}");
    }
    let token = issuer.mint(&claims());
    let (input, _) = token.rsplit_once('.').unwrap();
    assert_eq!(issuer.verify(&format!("{input}.")), Err(Refusal::MalformedSignature));
    assert_eq!(issuer.verify(&format!("{input}.{}", b64([0; 64]))), Err(Refusal::BadSignature));
}

#[test]
fn a48_a_shared_secret_made_of_the_public_key_signs_nothing() {
    let issuer = Issuer::new();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, issuer.es256.key().public_bytes());
    for alg in ["HS256", "ES256"] {
        let header = header_with(&issuer, |header| header["alg"] = json!(alg));
        let input = format!("{}.{}", b64(header), b64(claims_json().to_string()));
        let tag = hmac::sign(&secret, input.as_bytes());
        assert!(issuer.verify(&format!("{input}.{}", b64(tag))).is_err());
        let twice = [tag.as_ref(), tag.as_ref()].concat();
        let expected = if alg == "ES256" { Refusal::BadSignature } else { Refusal::AlgorithmNotAllowed };
        assert_eq!(issuer.verify(&format!("{input}.{}", b64(twice))), Err(expected));
    }
}

#[test]
fn a48_the_algorithm_is_the_one_of_the_key() {
    let issuer = Issuer::new();
    for (signer, alg) in [(&issuer.eddsa, "ES256"), (&issuer.es256, "EdDSA")] {
        let mut header = signer.header_json();
        header["alg"] = json!(alg);
        let token = sign(signer, header.to_string(), claims_json().to_string());
        assert_eq!(issuer.verify(&token), Err(Refusal::AlgorithmMismatch));
    }
    for alg in ["ES384", "ES512", "ES256K", "RS256", "PS256", "Ed25519", "es256", "EDDSA", "ES256 "] {
        let header = header_with(&issuer, |header| header["alg"] = json!(alg));
        assert_eq!(issuer.verify(&issuer.sign(header, "{}")), Err(Refusal::AlgorithmNotAllowed), "{alg}");
    }
}

#[test]
fn a48_a_key_of_another_curve_signs_nothing() {
    let issuer = Issuer::new();
    let (random, alg) = (SystemRandom::new(), &ECDSA_P384_SHA384_FIXED_SIGNING);
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &random).unwrap();
    let header = issuer.es256.header_json().to_string();
    let input = format!("{}.{}", b64(header), b64(claims_json().to_string()));
    let signature = pair.sign(&random, input.as_bytes()).unwrap();
    assert_eq!(signature.as_ref().len(), 96);
    assert_eq!(issuer.verify(&format!("{input}.{}", b64(signature))), Err(Refusal::MalformedSignature));
    let cut: Vec<u8> = signature.as_ref().iter().copied().take(64).collect();
    assert_eq!(issuer.verify(&format!("{input}.{}", b64(cut))), Err(Refusal::BadSignature));
}

#[test]
fn a48_a_header_that_brings_or_points_to_a_key_or_asks_for_more_is_refused() {
    let issuer = Issuer::new();
    let jwks: Value = serde_json::from_str(&Issuer::new().keys.to_jwks()).unwrap();
    for (member, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("jku", json!("https://evil.example/jwks")),
        ("jwk", jwks["keys"][0].clone()),
        ("x5u", json!("https://evil.example/cert")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("x")),
        ("x5t#S256", json!("x")),
        ("b64", json!(false)),
        ("cty", json!("JWT")),
        ("zip", json!("DEF")),
        ("ALG", json!("none")),
        ("", json!(null)),
    ] {
        let header = header_with(&issuer, |header| header[member] = value);
        let token = issuer.sign(header, claims_json().to_string());
        assert_eq!(issuer.verify(&token), Err(Refusal::HeaderMemberNotAllowed), "{member}");
    }
}

#[test]
fn the_header_has_its_three_members_each_once_and_as_strings() {
    let issuer = Issuer::new();
    let verdict = |header: String| issuer.verify(&issuer.sign(header, claims_json().to_string()));
    let kid = issuer.es256.key().id();
    for (header, refusal) in [
        (r#"{"alg":"ES256","alg":"ES256","kid":"K","typ":"at+jwt"}"#, Refusal::DuplicateMember),
        (r#"{"alg":"ES256","kid":"K","\u006bid":"K","typ":"at+jwt"}"#, Refusal::DuplicateMember),
        (r#"{"alg":"ES256","kid":"K","typ":"at+jwt","typ":"at+jwt"}"#, Refusal::DuplicateMember),
        (r#"{"kid":"K","typ":"at+jwt"}"#, Refusal::MalformedHeader),
        (r#"{"alg":"ES256","typ":"at+jwt"}"#, Refusal::MalformedHeader),
        (r#"{"alg":"ES256","kid":"K"}"#, Refusal::WrongType),
        (r#"{"alg":null,"kid":"K","typ":"at+jwt"}"#, Refusal::MalformedHeader),
        (r#"{"alg":{"ES256":null},"kid":"K","typ":"at+jwt"}"#, Refusal::MalformedHeader),
        (r#"{"alg":"ES256","kid":["K"],"typ":"at+jwt"}"#, Refusal::MalformedHeader),
        (r#"["ES256","K","at+jwt"]"#, Refusal::MalformedHeader),
        (r#"{"alg":"ES256","kid":"K","typ":"at+jwt"} {}"#, Refusal::MalformedHeader),
        (r#"{"alg":"ES256","kid":"K","typ":"at+jwt""#, Refusal::MalformedHeader),
        ("", Refusal::MalformedHeader),
        ("null", Refusal::MalformedHeader),
    ] {
        assert_eq!(verdict(header.replace('K', &kid.to_string())), Err(refusal), "{header}");
    }
}

#[test]
fn only_access_tokens_of_this_profile_are_taken() {
    let issuer = Issuer::new();
    for typ in ["JWT", "jwt", "at+JWT", "application/at+jwt", "id_token", "dpop+jwt", "", "at+jwt "] {
        let header = header_with(&issuer, |header| header["typ"] = json!(typ));
        assert_eq!(
            issuer.verify(&issuer.sign(header, claims_json().to_string())),
            Err(Refusal::WrongType),
            "{typ}"
        );
    }
}

#[test]
fn a_token_is_tried_with_the_key_that_it_names_and_no_other() {
    let issuer = Issuer::new();
    let stranger = Issuer::new().es256;
    let verdict = |kid: Value| {
        let header = header_with(&issuer, |header| header["kid"] = kid);
        issuer.verify(&issuer.sign(header, claims_json().to_string()))
    };
    assert_eq!(verdict(json!(stranger.key().id())), Err(Refusal::UnknownKey));
    assert_eq!(verdict(json!("")), Err(Refusal::UnknownKey));
    assert_eq!(verdict(json!(format!("{}=", issuer.es256.key().id()))), Err(Refusal::UnknownKey));
    // Signed by a stranger who names a known key.
    let token = sign(&stranger, issuer.es256.header_json().to_string(), claims_json().to_string());
    assert_eq!(issuer.verify(&token), Err(Refusal::BadSignature));
    assert_eq!(
        UnverifiedToken::parse(&issuer.mint(&claims())).unwrap().verify(&KeySet::default(), &EXPECTED, NOW),
        Err(Refusal::UnknownKey)
    );
}

#[test]
fn a_signature_has_one_text() {
    let issuer = Issuer::new();
    let token = issuer.mint(&claims());
    let (input, signature) = token.rsplit_once('.').unwrap();
    let bytes = issuer.es256.sign(input.as_bytes());
    let verdict = |signature: &str| issuer.verify(&format!("{input}.{signature}"));
    assert!(verdict(&b64(&bytes)).is_ok());
    for (bad, refusal) in [
        (format!("{signature}=="), Refusal::MalformedSignature),
        (format!("{signature}A"), Refusal::MalformedSignature),
        (format!(" {signature}"), Refusal::MalformedSignature),
        (b64([bytes.as_slice(), &[0]].concat()), Refusal::MalformedSignature),
        (b64(bytes.iter().copied().take(63).collect::<Vec<_>>()), Refusal::MalformedSignature),
        (b64(bytes.iter().rev().copied().collect::<Vec<_>>()), Refusal::BadSignature),
        (b64([&bytes[32..], &bytes[..32]].concat()), Refusal::BadSignature),
        (b64([0xff; 64]), Refusal::BadSignature),
    ] {
        assert_eq!(verdict(&bad), Err(refusal), "{bad}");
    }
    // The last character carries four bits that count for nothing: each other spelling is refused.
    let (head, last) = signature.split_at(85);
    for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars() {
        assert_eq!(verdict(&format!("{head}{c}")).is_ok(), last == c.to_string(), "{c}");
    }
    let standard = STANDARD_NO_PAD.encode([0xfb; 64]);
    assert!(standard.contains('+'));
    assert_eq!(verdict(&standard), Err(Refusal::NotBase64Url));
}

#[test]
fn the_twin_of_an_es256_signature_gains_nothing_but_the_same_claims() {
    // The order of the group (SEC 2, section 2.4.2).
    let order: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let issuer = Issuer::new();
    let token = issuer.mint(&claims());
    let (input, signature) = token.rsplit_once('.').unwrap();
    let mut twin = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for (s, n) in twin[32..].iter_mut().zip(order).rev() {
        let digit = i16::from(n) - i16::from(*s) - borrow;
        borrow = i16::from(digit < 0);
        *s = digit.rem_euclid(256) as u8;
    }
    let twin = format!("{input}.{}", b64(twin));
    assert_ne!(twin, token);
    assert_eq!(issuer.verify(&twin), issuer.verify(&token));
}

#[test]
fn a_token_is_three_parts_of_canonical_base64url() {
    let issuer = Issuer::new();
    let token = issuer.mint(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("three parts") };
    for (bad, refusal) in [
        (String::new(), Refusal::NotCompact),
        (".".into(), Refusal::NotCompact),
        ("..".into(), Refusal::MalformedHeader),
        (header.into(), Refusal::NotCompact),
        (format!("{header}.{payload}"), Refusal::NotCompact),
        (format!("{token}."), Refusal::NotCompact),
        (format!("{token}.{payload}.{signature}"), Refusal::NotCompact),
        (format!("{header}..{payload}.{signature}"), Refusal::NotCompact),
        (format!("{header}=.{payload}.{signature}"), Refusal::NotBase64Url),
        (format!("{header}.{payload}=.{signature}"), Refusal::BadSignature),
        (format!("Bearer {token}"), Refusal::NotBase64Url),
        (format!("{token}\n"), Refusal::MalformedSignature),
        (format!("\u{feff}{token}"), Refusal::NotBase64Url),
        (
            json!({ "payload": payload, "protected": header, "signature": signature }).to_string(),
            Refusal::NotCompact,
        ),
    ] {
        assert_eq!(issuer.verify(&bad), Err(refusal), "{bad}");
    }
    // Payloads that are signed as they stand, and still not canonical.
    for payload in [format!("{payload}="), format!("{payload}\n"), "e30".to_owned() + "_w=", "e31".into()] {
        let input = format!("{header}.{payload}");
        let token = format!("{input}.{}", b64(issuer.es256.sign(input.as_bytes())));
        assert_eq!(issuer.verify(&token), Err(Refusal::NotBase64Url), "{payload}");
    }
}

#[test]
fn a51_oversized_tokens_and_headers_are_refused_by_their_length() {
    let issuer = Issuer::new();
    for size in [8 * 1024 + 1, 1 << 20] {
        assert_eq!(issuer.verify(&"A".repeat(size)), Err(Refusal::TooLong));
        assert_eq!(issuer.verify(&".".repeat(size)), Err(Refusal::TooLong));
    }
    let padded = |spaces: usize| header_with(&issuer, |_| {}) + &" ".repeat(spaces);
    let room = 512 - padded(0).len();
    assert!(issuer.verify(&issuer.sign(padded(room), claims_json().to_string())).is_ok());
    for more in [1, 2, 3, 1000] {
        let token = issuer.sign(padded(room + more), claims_json().to_string());
        assert_eq!(issuer.verify(&token), Err(Refusal::HeaderTooLong), "{more}");
    }
    let whole = |spaces: usize| issuer.sign_claims(claims_json().to_string() + &" ".repeat(spaces));
    let (mut spaces, mut token) = (0, whole(0));
    while token.len() < 8 * 1024 - 3 {
        spaces += (8 * 1024 - token.len()) / 2;
        token = whole(spaces);
    }
    assert!(token.len() <= 8 * 1024 && issuer.verify(&token).is_ok(), "{}", token.len());
}

#[test]
fn a51_a_token_cut_off_anywhere_is_refused() {
    let issuer = Issuer::new();
    for signer in [&issuer.es256, &issuer.eddsa] {
        let token = mint(signer, &claims());
        for at in 1..token.len() {
            let (head, tail) = token.split_at(at);
            assert!(issuer.verify(head).is_err(), "{at}");
            assert!(issuer.verify(tail).is_err(), "{at}");
        }
    }
}

#[test]
fn no_single_flipped_bit_of_a_good_token_verifies() {
    let issuer = Issuer::new();
    for signer in [&issuer.es256, &issuer.eddsa] {
        let token = mint(signer, &claims()).into_bytes();
        for (at, bit) in (0..token.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = token.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(text) = std::str::from_utf8(&flipped) {
                assert!(issuer.verify(text).is_err(), "bit {bit} of byte {at}");
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused_without_panic(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let issuer = KeySet::default();
        for text in [text.as_str(), &String::from_utf8_lossy(&bytes), &format!("{}.{text}.", b64(&bytes))] {
            let verdict = UnverifiedToken::parse(text).and_then(|token| token.verify(&issuer, &EXPECTED, NOW));
            prop_assert!(verdict.is_err());
        }
    }

    #[test]
    fn arbitrary_headers_are_refused_without_panic(header in prop::collection::vec(any::<u8>(), 0..600)) {
        let token = format!("{}.e30.{}", b64(&header), b64([0; 64]));
        prop_assert!(UnverifiedToken::parse(&token).is_err());
    }
}

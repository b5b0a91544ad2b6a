//! Tokens that are wrong before their claims are looked at.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use ring::hmac;

use super::case::{Case, case, payload};
use super::signers::{By, Signers, b64};

pub(crate) fn cases(s: &Signers) -> Vec<Case> {
    let mut all = headers(s);
    all.extend(keys(s));
    all.extend(forms(s));
    all.extend(signatures(s));
    all
}

fn headers(s: &Signers) -> Vec<Case> {
    let kid = s.kid(By::EdDsa);
    let with = |header: String| s.token(By::EdDsa, header, payload(&[]));
    let typ = |typ: &str| with(format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{typ}"}}"#));
    let alg = |alg: &str| with(format!(r#"{{"alg":"{alg}","kid":"{kid}","typ":"at+jwt"}}"#));
    let extra = |member: &str| with(format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"at+jwt",{member}}}"#));
    let not_allowed = "header_member_not_allowed";
    vec![
        case("alg_none_signed", "alg none over a true signature", alg("none"), "algorithm_not_allowed"),
        case("alg_none_spelt_otherwise", "alg nOnE", alg("nOnE"), "algorithm_not_allowed"),
        case("alg_rs256", "an algorithm that is not of the profile", alg("RS256"), "algorithm_not_allowed"),
        case("alg_ed25519", "the newer name of the algorithm", alg("Ed25519"), "algorithm_not_allowed"),
        case(
            "alg_of_another_key",
            "alg ES256 with the kid of an Ed25519 key",
            alg("ES256"),
            "algorithm_mismatch",
        ),
        case("typ_jwt", "typ JWT", typ("JWT"), "wrong_type"),
        case("typ_media_type", "typ application/at+jwt", typ("application/at+jwt"), "wrong_type"),
        case("typ_missing", "no typ", with(format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#)), "wrong_type"),
        case("kid_missing", "no kid", with(r#"{"alg":"EdDSA","typ":"at+jwt"}"#.into()), "malformed_header"),
        case(
            "alg_missing",
            "no alg",
            with(format!(r#"{{"kid":"{kid}","typ":"at+jwt"}}"#)),
            "malformed_header",
        ),
        case("header_crit", "crit, which asks for more", extra(r#""crit":["exp"]"#), not_allowed),
        case(
            "header_jku",
            "jku, which points to keys",
            extra(r#""jku":"https://evil.example/jwks""#),
            not_allowed,
        ),
        case("header_jwk", "jwk, which brings a key", extra(r#""jwk":{"kty":"OKP"}"#), not_allowed),
        case("header_alg_twice", "two members alg", extra(r#""alg":"EdDSA""#), "duplicate_member"),
        case("header_not_json", "a header that is not JSON", with("{".into()), "malformed_header"),
        case("header_array", "a header that is an array", with("[]".into()), "malformed_header"),
        case(
            "header_too_long",
            "a header of 600 bytes",
            extra(&format!(r#""x":"{}""#, "x".repeat(600))),
            "header_too_long",
        ),
    ]
}

fn keys(s: &Signers) -> Vec<Case> {
    let foreign = s.token(By::OtherEdDsa, s.header(By::OtherEdDsa), payload(&[]));
    let under_our_kid = s.token(By::OtherEdDsa, s.header(By::EdDsa), payload(&[]));
    let under_our_kid_es256 = s.token(By::OtherEs256, s.header(By::Es256), payload(&[]));
    let kid = |kid: &str| {
        s.token(By::EdDsa, format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"at+jwt"}}"#), payload(&[]))
    };
    vec![
        case("kid_of_another_issuer", "truly signed by a key of another issuer", foreign, "unknown_key"),
        case("kid_not_a_thumbprint", "a kid that climbs a path", kid("../../etc/passwd"), "unknown_key"),
        case("kid_empty", "an empty kid", kid(""), "unknown_key"),
        case("signed_by_another_key", "our kid over another key's signature", under_our_kid, "bad_signature"),
        case("signed_by_another_key_es256", "the same with P-256", under_our_kid_es256, "bad_signature"),
        Case {
            keys: "acme-without-ed25519",
            ..case("key_withdrawn", "the key is no longer in the set", s.sign(payload(&[])), "unknown_key")
        },
        Case {
            keys: "empty",
            ..case("no_keys", "the verifier has no key", s.sign(payload(&[])), "unknown_key")
        },
    ]
}

fn forms(s: &Signers) -> Vec<Case> {
    let good = s.sign(payload(&[]));
    let (input, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = input.split_once('.').unwrap();
    let padded = URL_SAFE.encode(s.header(By::EdDsa) + " ");
    let cut: String = good.chars().take(good.len() - 1).collect();
    let garbage = format!("{header}.{}!.{signature}", claims);
    vec![
        case("empty", "no text at all", String::new(), "not_compact"),
        case("one_part", "a header alone", header.to_owned(), "not_compact"),
        case("two_parts", "no signature part", input.to_owned(), "not_compact"),
        case("four_parts", "one dot too many", format!("{good}."), "not_compact"),
        case("five_parts", "five parts, as of an encrypted token", format!("{good}.a.b"), "not_compact"),
        case("with_scheme", "the scheme was not taken off", format!("Bearer {good}"), "not_base64url"),
        case("trailing_space", "a space behind", format!("{good} "), "malformed_signature"),
        case(
            "line_feed_inside",
            "a line feed in the payload",
            format!("{header}.\\n{claims}.{signature}"),
            "bad_signature",
        ),
        case("cut_off", "the last character is missing", cut, "malformed_signature"),
        case(
            "header_padded",
            "padding in the header",
            format!("{padded}.{claims}.{signature}"),
            "not_base64url",
        ),
        case("payload_garbage", "a character of another alphabet in the payload", garbage, "bad_signature"),
        case(
            "payload_signed_garbage",
            "the same, truly signed",
            signed_text(s, &format!("{claims}!")),
            "not_base64url",
        ),
        case(
            "payload_signed_padding",
            "a padded payload, truly signed",
            signed_text(s, &URL_SAFE.encode("{}")),
            "not_base64url",
        ),
        case(
            "huge",
            "a token of 9,000 bytes",
            s.sign(payload(&[("x", &format!("\"{}\"", "x".repeat(6_300)))])),
            "too_long",
        ),
    ]
}

/// A token whose payload part is any text.
fn signed_text(s: &Signers, text: &str) -> String {
    let input = format!("{}.{text}", b64(s.header(By::EdDsa)));
    let signature = s.signature(By::EdDsa, &input);
    format!("{input}.{}", b64(signature))
}

fn signatures(s: &Signers) -> Vec<Case> {
    let good = s.sign(payload(&[]));
    let (input, signature) = good.rsplit_once('.').unwrap();
    let more = s.sign(payload(&[("scope", "\"mcp mcp:tool:files.delete\"")]));
    let (more_input, _) = more.rsplit_once('.').unwrap();
    let unsigned = format!(r#"{{"alg":"none","kid":"{}","typ":"at+jwt"}}"#, s.kid(By::EdDsa));
    let unsigned = format!("{}.{}.", b64(unsigned), b64(payload(&[])));
    let key = s.key(By::EdDsa);
    let hs256 = format!(r#"{{"alg":"HS256","kid":"{}","typ":"at+jwt"}}"#, key.id());
    let hs256 = format!("{}.{}", b64(hs256), b64(payload(&[])));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.public_bytes()), hs256.as_bytes());
    vec![
        case("alg_none_unsigned", "alg none and no signature", unsigned, "algorithm_not_allowed"),
        case("signature_missing", "an empty signature", format!("{input}."), "malformed_signature"),
        case("signature_of_zeros", "64 zero bytes", format!("{input}.{}", b64([0; 64])), "bad_signature"),
        case("signature_too_long", "65 bytes", format!("{input}.{}", b64([1; 65])), "malformed_signature"),
        case(
            "claims_exchanged",
            "other claims over a good signature",
            format!("{more_input}.{signature}"),
            "bad_signature",
        ),
        case(
            "hmac_with_the_public_key",
            "HS256 keyed with the public key, its tag twice",
            format!("{hs256}.{}", b64([tag.as_ref(), tag.as_ref()].concat())),
            "algorithm_not_allowed",
        ),
    ]
}

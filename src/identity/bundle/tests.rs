use serde_json::{Value, json};

use super::*;
use crate::identity::test_ca::{self, Ca};

fn domain() -> TrustDomain {
    "td.test".parse().unwrap()
}

fn parse(text: impl AsRef<[u8]>) -> Result<TrustBundle, InvalidBundle> {
    TrustBundle::parse(domain(), text.as_ref())
}

/// How many anchors a SPIFFE bundle of these keys has.
fn anchors(keys: Value) -> usize {
    parse(json!({ "keys": keys }).to_string()).unwrap().len()
}

/// The certificate of `ca` as base64, as it stands in `x5c`.
fn x5c(ca: &Ca) -> String {
    let document: Value = serde_json::from_str(&ca.jwk_set()).unwrap();
    document["keys"][0]["x5c"][0].as_str().unwrap().to_owned()
}

#[test]
fn pem_and_jwk_set_hold_the_same_anchors() {
    let (one, two) = (Ca::new("td.test"), Ca::new("td.test"));
    let pem = parse(format!("{}{}", one.pem(), two.pem())).unwrap();
    let jwk_set = parse(test_ca::jwk_set(&[two.der().clone(), one.der().clone()])).unwrap();
    assert_eq!((pem.len(), jwk_set.len()), (2, 2));
    assert!(pem.trusts_the_same(&jwk_set));
}

#[test]
fn pem_with_comments_and_other_blocks_holds_its_certificates() {
    let ca = Ca::new("td.test");
    let text = format!("# of May\n{}{}\n", test_ca::pem("X509 CRL", b"..."), ca.pem());
    assert_eq!(parse(text).unwrap().len(), 1);
}

#[test]
fn the_same_certificate_twice_counts_once() {
    let ca = Ca::new("td.test");
    assert_eq!(parse(ca.pem().repeat(2)).unwrap().len(), 1);
}

#[test]
fn c40_c66_an_empty_bundle_is_legal() {
    for text in ["", " \n\t", r#"{"keys":[]}"#, r#" {"keys":[],"spiffe_sequence":7}"#] {
        assert!(parse(text).unwrap().is_empty(), "{text:?}");
    }
}

#[test]
fn c40_a_bundle_without_usable_key_is_empty() {
    assert_eq!(anchors(json!([{ "use": "jwt-svid", "kty": "EC", "kid": "a" }])), 0);
}

#[test]
fn c65_members_that_nobody_knows_are_tolerated() {
    let ca = Ca::new("td.test");
    let mut document: Value = serde_json::from_str(&ca.jwk_set()).unwrap();
    document["new_thing"] = json!({ "a": [1] });
    document["keys"][0]["another"] = json!(null);
    assert_eq!(parse(document.to_string()).unwrap().len(), 1);
}

#[test]
fn c66_a_bundle_without_keys_is_an_error() {
    for text in [
        "{}",
        r#"{"keys":null}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":"x"}"#,
        r#"{"Keys":[]}"#,
        "{",
        r#"{"keys":[1]}"#,
    ] {
        assert!(matches!(parse(text), Err(InvalidBundle::Json(_))), "{text}");
    }
}

#[test]
fn c67_elements_that_are_not_ours_are_passed_over_and_the_rest_kept() {
    let x5c = json!([x5c(&Ca::new("td.test"))]);
    let good = json!({ "use": "x509-svid", "kty": "EC", "x5c": x5c });
    for other in [
        json!({ "use": "x509-svid", "kty": "NEW", "x5c": x5c }),
        json!({ "use": "x509-svid", "x5c": x5c }),
        json!({ "use": "x509-svid", "kty": 7, "x5c": x5c }),
        json!({ "kty": "EC", "x5c": x5c }),
        json!({ "use": "X509-SVID", "kty": "EC", "x5c": x5c }),
        json!({ "use": "sig", "kty": "EC", "x5c": x5c }),
        json!({ "use": "jwt-svid", "kty": "EC", "kid": "k", "x5c": x5c }),
        json!({ "use": "wit-svid", "kty": "OKP", "x5c": x5c }),
        json!({}),
    ] {
        assert_eq!(anchors(json!([other])), 0, "{other}");
        assert_eq!(anchors(json!([other, good])), 1, "{other}");
    }
}

#[test]
fn c68_no_or_an_empty_x5c_is_passed_over_and_of_several_the_first_counts() {
    let (one, two) = (Ca::new("td.test"), Ca::new("td.test"));
    for none in [json!(null), json!([]), json!("x"), json!([7])] {
        assert_eq!(anchors(json!([{ "use": "x509-svid", "kty": "EC", "x5c": none }])), 0, "{none}");
    }
    let several = json!([{ "use": "x509-svid", "kty": "EC", "x5c": [x5c(&one), x5c(&two)] }]);
    let bundle = parse(json!({ "keys": several }).to_string()).unwrap();
    assert!(bundle.trusts_the_same(&parse(one.pem()).unwrap()));
}

#[test]
fn c70_a_sequence_beyond_the_exact_floats_is_read_and_one_that_is_no_integer_is_an_error() {
    assert!(parse(r#"{"keys":[],"spiffe_sequence":9007199254740993,"spiffe_refresh_hint":60}"#).is_ok());
    for sequence in ["1.5", "-1", "\"7\"", "18446744073709551616"] {
        let text = format!(r#"{{"keys":[],"spiffe_sequence":{sequence}}}"#);
        assert!(matches!(parse(&text), Err(InvalidBundle::Json(_))), "{text}");
    }
}

#[test]
fn broken_bundles_are_errors_and_leave_nothing() {
    let ca = Ca::new("td.test");
    let pem = ca.pem();
    let cut = pem.get(..pem.len() - 40).unwrap();
    assert!(matches!(parse(cut), Err(InvalidBundle::Pem(_))));
    assert!(matches!(parse("certificates go here"), Err(InvalidBundle::NoCertificate)));
    assert!(matches!(parse(test_ca::pem("CERTIFICATE", b"junk")), Err(InvalidBundle::Certificate(_))));
}

#[test]
fn c40_c68_an_element_that_cannot_be_read_is_left_out_and_a_bundle_of_such_alone_is_empty() {
    let good = json!({ "use": "x509-svid", "kty": "EC", "x5c": [x5c(&Ca::new("td.test"))] });
    for bad in ["AAAA", "-_-_", "", "junk", "TUlJQg=="] {
        let bad = json!({ "use": "x509-svid", "kty": "EC", "x5c": [bad] });
        assert_eq!(anchors(json!([bad])), 0, "{bad}");
        assert_eq!(anchors(json!([bad, good, bad])), 1, "{bad}");
        let bundle = parse(json!({ "keys": [bad, good] }).to_string()).unwrap();
        assert_eq!(bundle.skipped(), [PeerRefusal::Malformed], "{bad}");
    }
}

#[test]
fn certificates_that_may_not_sign_are_left_out_and_named() {
    let ca = Ca::new("td.test");
    let leaf = ca.svid("agent").chain.remove(0);
    let crl_only = Ca::with("td.test", |params| params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign]);
    let with_path =
        Ca::with("td.test", |params| params.subject_alt_names = vec![test_ca::uri("spiffe://td.test/ca")]);
    let all = [leaf, crl_only.der().clone(), with_path.der().clone(), ca.der().clone()];
    let bundle = TrustBundle::from_certificates(domain(), all).unwrap();
    assert_eq!(bundle.len(), 1);
    let why = [PeerRefusal::IssuerNotCa, PeerRefusal::IssuerKeyUsage, PeerRefusal::IssuerSpiffeId];
    assert_eq!(bundle.skipped(), why);
}

#[test]
fn a_root_made_without_key_usage_is_an_anchor() {
    let plain = Ca::with("td.test", |params| params.key_usages.clear());
    assert_eq!(parse(plain.pem()).unwrap().len(), 1);
}

#[test]
fn a_bundle_of_more_than_256_anchors_is_an_error() {
    let ca = Ca::new("td.test");
    let mut params = ca.params().clone();
    let mut many = |count: u64| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificates: Vec<_> = (0..count)
            .map(|serial| {
                params.serial_number = Some(serial.into());
                params.self_signed(&key).unwrap().der().clone()
            })
            .collect();
        TrustBundle::from_certificates(domain(), certificates)
    };
    assert_eq!(many(256).unwrap().len(), 256);
    assert!(matches!(many(257), Err(InvalidBundle::TooManyAnchors)));
}

#[test]
fn a_change_grows_the_version_and_wakes_watchers_and_none_does_not() {
    let (one, two) = (Ca::new("td.test"), Ca::new("td.test"));
    let both = || parse(format!("{}{}", one.pem(), two.pem())).unwrap();
    let bundles = TrustBundles::new([both()]);
    let (watch, first) = (bundles.watch(), bundles.version());
    let turned = parse(format!("{}{}", two.pem(), one.pem())).unwrap();
    assert!(!bundles.set(turned));
    assert!(!bundles.remove(&"other.test".parse().unwrap()));
    assert_eq!((bundles.version(), watch.has_changed().unwrap()), (first, false));
    assert!(bundles.set(parse(one.pem()).unwrap()));
    assert!(bundles.version() > first);
    assert!(watch.has_changed().unwrap());
    assert_eq!(bundles.trust_domains(), [(domain(), 1)]);
    assert!(bundles.remove(&domain()));
    assert!(bundles.trust_domains().is_empty());
}

#[test]
fn a_forbidden_key_is_no_anchor_whatever_certificate_is_over_it() {
    let (own, task_ca) = (Ca::new("td.test"), Ca::new("broker.test"));
    let both = parse(format!("{}{}", own.pem(), task_ca.pem())).unwrap();
    let bundles = TrustBundles::new([both.clone()]);
    let (watch, before) = (bundles.watch(), bundles.version());
    bundles.forbid([task_ca.der()]);
    assert_eq!(bundles.trust_domains(), [(domain(), 1)]);
    assert!(bundles.version() > before && watch.has_changed().unwrap(), "open connections are judged again");
    assert!(!bundles.set(both), "nor does it come with the next reading");
    assert!(bundles.set(parse(task_ca.pem()).unwrap()));
    assert_eq!(bundles.trust_domains(), [(domain(), 0)]);
}

#[test]
fn c73_a_map_of_bundles_is_taken_for_no_bundle_and_nothing_of_it_is_used() {
    let inner: Value = serde_json::from_str(&Ca::new("td.test").jwk_set()).unwrap();
    let map = json!({ "trust_domains": { "td.test": inner, "other.test": inner } }).to_string();
    for text in [map.clone(), map.replace("other.test", "td.test")] {
        assert!(matches!(parse(&text), Err(InvalidBundle::Json(_))));
        assert!(TrustBundle::published(domain(), text.as_bytes()).is_err());
    }
}

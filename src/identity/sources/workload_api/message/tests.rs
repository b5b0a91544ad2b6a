use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::identity::test_ca::Ca;

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn named(trust_domain: &str, bundle: &[u8]) -> Bytes {
    let bundle = Bytes::copy_from_slice(bundle);
    NamedBundle { trust_domain: trust_domain.to_owned(), bundle }.encode_to_vec().into()
}

fn of_bundles(bundles: Vec<Bytes>) -> Result<State, NoState> {
    State::of_bundles(&X509BundlesResponse { bundles })
}

fn svid(spiffe_id: &str, bundle: &[u8]) -> Bytes {
    let bundle = Bytes::copy_from_slice(bundle);
    X509Svid { spiffe_id: spiffe_id.to_owned(), bundle, ..X509Svid::default() }.encode_to_vec().into()
}

fn of_svids(svids: Vec<Bytes>, federated_bundles: Vec<Bytes>) -> Result<State, NoState> {
    State::of_svids(&X509SvidResponse { svids, federated_bundles })
}

/// How many authorities it names for this trust domain, or why not; `None`: it does not name it.
fn authorities(state: &State, name: &str) -> Option<Result<usize, String>> {
    state.bundle(&domain(name)).map(|it| it.map(|bundle| bundle.len()))
}

#[test]
fn c88_c89_what_cannot_be_read_says_nothing_of_the_rest() {
    let ca = Ca::new("a.test");
    let half = ca.der().get(..40).unwrap();
    let state = of_bundles(vec![
        named("spiffe://a.test", ca.der()),
        named("spiffe://b.test", half),
        named("spiffe://c.test", b""),
        named("no name", ca.der()),
        Bytes::from_static(&[0xff; 7]),
    ])
    .unwrap();
    assert_eq!(authorities(&state, "a.test"), Some(Ok(1)));
    let why = authorities(&state, "b.test").unwrap().unwrap_err();
    assert!(why.starts_with("what the Workload API gives is no bundle: "), "{why}");
    assert_eq!(authorities(&state, "c.test"), Some(Ok(0)), "an empty one (C40)");
    assert_eq!(authorities(&state, "d.test"), None);
    assert!(state.has_unnamed());
}

#[test]
fn c89_of_an_svid_its_id_is_what_a_message_cannot_be_without() {
    let ca = Ca::new("a.test");
    let state = of_svids(
        vec![svid("spiffe://a.test/broker", ca.der()), svid("spiffe://b.test/x", b"")],
        vec![named("spiffe://c.test", ca.der())],
    )
    .unwrap();
    assert_eq!(authorities(&state, "a.test"), Some(Ok(1)));
    assert_eq!(
        authorities(&state, "b.test"),
        Some(Err("what the Workload API gives is no bundle: X509SVID.bundle is missing".to_owned()))
    );
    assert_eq!(authorities(&state, "c.test"), Some(Ok(1)));
    assert!(!state.has_unnamed());
    let ours = state.svids().first().unwrap().read();
    assert_eq!(ours, Err("no certificates found in chain".to_owned()));

    let good = svid("spiffe://a.test/broker", ca.der());
    for (svids, why) in [
        (vec![], NoState::Missing("X509SVIDResponse.svids")),
        (vec![good.clone(), svid("", ca.der())], NoState::Nobody),
        (vec![good.clone(), svid("a.test", ca.der())], NoState::Nobody),
        (vec![good, Bytes::from_static(b"\x0a\xff")], NoState::Nobody),
    ] {
        assert_eq!(of_svids(svids, vec![]).err(), Some(why));
    }
    assert_eq!(of_bundles(vec![]).err(), Some(NoState::Missing("X509BundlesResponse.bundles")));
}

#[test]
fn a_trust_domain_that_is_named_twice_has_to_be_given_one_bundle() {
    let (one, other) = (Ca::new("a.test"), Ca::new("a.test"));
    let both = [one.der().as_ref(), other.der().as_ref()].concat();
    let turned = [other.der().as_ref(), one.der().as_ref()].concat();
    let said = |with: &[u8]| {
        let state = of_svids(vec![svid("spiffe://a.test/broker", &both)], vec![named("a.test", with)]);
        authorities(&state.unwrap(), "a.test").unwrap()
    };
    assert_eq!(said(&both), Ok(2));
    assert_eq!(said(&turned), Ok(2), "the same in another order");
    assert_eq!(said(one.der()), Err("the Workload API gives two bundles of it that differ".to_owned()));
    assert!(said(b"nothing").is_err(), "nobody can say which one is meant");
}

#[test]
fn a_message_of_too_many_parts_is_none() {
    let many = |n| vec![named("spiffe://a.test", b""); n];
    assert_eq!(authorities(&of_bundles(many(MAX_PARTS)).unwrap(), "a.test"), Some(Ok(0)));
    assert_eq!(of_bundles(many(MAX_PARTS + 1)).err(), Some(NoState::TooMany));
    let one = vec![svid("spiffe://a.test/broker", b"")];
    assert_eq!(of_svids(one, many(MAX_PARTS)).err(), Some(NoState::TooMany));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0_usize..2_000, with: u8) {
        let ca = Ca::new("a.test");
        let good = X509SvidResponse {
            svids: vec![svid("spiffe://a.test/broker", ca.der())],
            federated_bundles: vec![named("spiffe://b.test", ca.der())],
        };
        let mut bent = good.encode_to_vec();
        if let Some(byte) = bent.get_mut(at) {
            *byte = with;
        }
        for bytes in [bytes, bent] {
            let message = X509SvidResponse::decode(bytes.as_slice()).ok();
            if let Some(state) = message.and_then(|it| State::of_svids(&it).ok()) {
                drop((authorities(&state, "a.test"), authorities(&state, "b.test")));
                state.svids().iter().for_each(|it| drop(it.read()));
            }
            if let Ok(message) = X509BundlesResponse::decode(bytes.as_slice()) {
                drop(of_bundles(message.bundles).map(|it| authorities(&it, "a.test")));
            }
        }
    }
}

use super::*;
use crate::identity::spiffe_id::TrustDomain;
use crate::identity::test_ca;
use crate::identity::{DeniedAuthorities, TrustBundle};

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// A judge who knows `a.test` and `b.test`, and the authorities of both.
fn two_domains() -> (PeerJudge, Ca, Ca) {
    let (a, b) = (Ca::new("a.test"), Ca::new("b.test"));
    let bundles = Arc::new(TrustBundles::new([bundle(&a), bundle(&b)]));
    (PeerJudge::new(bundles, Side::Client), a, b)
}

/// A leaf of `ca` that claims an id in another trust domain.
fn claiming(ca: &Ca, id: &str) -> Vec<CertificateDer<'static>> {
    ca.svid_with("agent", |params| params.subject_alt_names = vec![test_ca::uri(id)]).chain
}

#[test]
fn c37_the_bundle_of_the_leafs_own_trust_domain_decides() {
    let (judge, a, b) = two_domains();
    assert_eq!(judge.judge(&a.svid("x").chain, NOW).unwrap().spiffe_id().trust_domain(), &domain("a.test"));
    assert_eq!(judge.judge(&b.svid("x").chain, NOW).unwrap().spiffe_id().trust_domain(), &domain("b.test"));
}

#[test]
fn c37_a_trust_domain_without_bundle_is_untrusted() {
    let (judge, a, _) = two_domains();
    refused(judge.judge(&claiming(&a, "spiffe://c.test/agent"), NOW), PeerRefusal::UnknownTrustDomain);
    refused(judge.judge(&claiming(&a, "spiffe://sub.a.test/agent"), NOW), PeerRefusal::UnknownTrustDomain);
    judge.bundles().remove(&domain("a.test"));
    refused(judge.judge(&a.svid("x").chain, NOW), PeerRefusal::UnknownTrustDomain);
}

#[test]
fn c38_a02_a_leaf_that_names_one_domain_and_leads_to_anothers_root_is_refused() {
    let (judge, a, b) = two_domains();
    refused(judge.judge(&claiming(&a, "spiffe://b.test/agent"), NOW), PeerRefusal::UntrustedIssuer);
    refused(judge.judge(&claiming(&b, "spiffe://a.test/agent"), NOW), PeerRefusal::UntrustedIssuer);
    let below = claiming(&b.intermediate(), "spiffe://a.test/admin");
    refused(judge.judge(&below, NOW), PeerRefusal::UntrustedIssuer);
}

#[test]
fn c38_both_domains_own_leaves_are_taken_side_by_side() {
    let (judge, a, b) = two_domains();
    assert!(judge.judge(&a.svid("agent").chain, NOW).is_ok());
    assert!(judge.judge(&b.intermediate().svid("agent").chain, NOW).is_ok());
}

#[test]
fn c39_roots_of_one_name_in_two_domains_are_not_confused() {
    let one_name = |params: &mut rcgen::CertificateParams| params.distinguished_name = test_ca::name("root");
    let (a, b) = (Ca::with("a.test", one_name), Ca::with("b.test", one_name));
    let judge = PeerJudge::new(Arc::new(TrustBundles::new([bundle(&a), bundle(&b)])), Side::Client);
    refused(judge.judge(&claiming(&a, "spiffe://b.test/agent"), NOW), PeerRefusal::BadSignature);
    assert!(judge.judge(&a.svid("agent").chain, NOW).is_ok());
}

#[test]
fn c39_the_same_root_in_two_bundles_still_makes_peers_of_two_domains() {
    let shared = Ca::new("a.test");
    let again = TrustBundle::from_certificates(domain("b.test"), [shared.der().clone()]).unwrap();
    let judge = PeerJudge::new(Arc::new(TrustBundles::new([bundle(&shared), again])), Side::Client);
    let as_a = judge.judge(&shared.svid("agent").chain, NOW).unwrap();
    let as_b = judge.judge(&claiming(&shared, "spiffe://b.test/agent"), NOW).unwrap();
    assert_ne!(as_a.spiffe_id(), as_b.spiffe_id());
    assert_ne!(as_a.spiffe_id().trust_domain(), as_b.spiffe_id().trust_domain());
    judge.bundles().remove(&domain("b.test"));
    assert!(judge.still_trusted(&as_a, NOW).is_ok());
    assert_eq!(judge.still_trusted(&as_b, NOW), Err(PeerRefusal::UnknownTrustDomain));
}

#[test]
fn c40_a_bundle_with_keys_trusts() {
    accepted(Court::new().on(|_| {}));
}

#[test]
fn c40_an_empty_bundle_revokes_every_svid_of_its_domain_at_once() {
    let (judge, a, b) = two_domains();
    let (of_a, of_b) = (a.svid("x").chain, b.svid("x").chain);
    let connected = judge.judge(&of_a, NOW).unwrap();
    let empty = TrustBundle::parse(domain("a.test"), br#"{"keys":[]}"#).unwrap();
    assert!(judge.bundles().set(empty));
    refused(judge.judge(&of_a, NOW), PeerRefusal::EmptyBundle);
    assert_eq!(judge.still_trusted(&connected, NOW), Err(PeerRefusal::EmptyBundle));
    assert!(judge.judge(&of_b, NOW).is_ok());
}

#[test]
fn c45_a_peer_is_trusted_to_its_last_moment() {
    let court = Court::new();
    let end = NOW.as_secs() + 60;
    let peer = court.on(|params| test_ca::valid(params, NOW.as_secs(), end)).unwrap();
    assert!(court.judge.still_trusted(&peer, Timestamp::from_secs(end)).is_ok());
}

#[test]
fn c45_a_peer_whose_svid_has_expired_is_trusted_no_more() {
    let court = Court::new();
    let end = NOW.as_secs() + 60;
    let peer = court.on(|params| test_ca::valid(params, NOW.as_secs(), end)).unwrap();
    let after = Timestamp::from_millis(end * 1000 + 1);
    assert_eq!(court.judge.still_trusted(&peer, after), Err(PeerRefusal::Expired));
    let intermediate = court.ca.intermediate_with(|params| test_ca::valid(params, NOW.as_secs(), end));
    let peer = court.judge(&intermediate.svid("agent").chain).unwrap();
    assert_eq!(court.judge.still_trusted(&peer, after), Err(PeerRefusal::IssuerExpired));
}

#[test]
fn c46_a_change_that_keeps_the_anchor_keeps_the_peer() {
    let court = Court::new();
    let peer = court.on(|_| {}).unwrap();
    let rotated = [Ca::new("td.test").der().clone(), court.ca.der().clone()];
    assert!(court.bundles.set(TrustBundle::from_certificates(domain("td.test"), rotated).unwrap()));
    assert!(court.bundles.set(bundle(&Ca::new("other.test"))));
    assert!(court.judge.still_trusted(&peer, NOW).is_ok());
    assert_eq!(peer.0.version.load(Ordering::Relaxed), court.bundles.version());
}

#[test]
fn c46_a06_a_withdrawn_anchor_or_bundle_ends_trust_in_connected_peers() {
    let court = Court::new();
    let peer = court.on(|_| {}).unwrap();
    assert!(court.bundles.set(bundle(&Ca::new("td.test"))));
    assert_eq!(court.judge.still_trusted(&peer, NOW), Err(PeerRefusal::BadSignature));
    assert!(court.bundles.set(bundle(&court.ca)));
    assert!(court.judge.still_trusted(&peer, NOW).is_ok());
    assert!(court.bundles.remove(&domain("td.test")));
    assert_eq!(court.judge.still_trusted(&peer, NOW), Err(PeerRefusal::UnknownTrustDomain));
}

#[test]
fn a_peer_judged_by_other_bundles_is_judged_again() {
    let (here, elsewhere) = (Court::new(), Court::new());
    let peer = elsewhere.on(|_| {}).unwrap();
    assert!(here.judge.still_trusted(&peer, NOW).is_err());
}

#[test]
fn judging_and_changing_at_the_same_time_never_trusts_what_is_gone() {
    let court = Court::new();
    let peer = court.on(|_| {}).unwrap();
    let other = bundle(&Ca::new("td.test"));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                (0..200).any(|_| court.judge.still_trusted(&peer, NOW) == Err(PeerRefusal::Malformed))
            });
        }
        for _ in 0..50 {
            court.bundles.set(other.clone());
            assert!(court.judge.still_trusted(&peer, NOW).is_err());
            court.bundles.set(bundle(&court.ca));
            assert!(court.judge.still_trusted(&peer, NOW).is_ok());
        }
    });
}

#[test]
fn each_refusal_has_its_own_label() {
    assert_eq!(PeerRefusal::NoPath.as_str(), "no_path");
    let invalid = crate::identity::InvalidSpiffeId::DotSegment;
    assert_eq!(PeerRefusal::InvalidSpiffeId(invalid).as_str(), "invalid_spiffe_id");
    assert!(PeerRefusal::InvalidSpiffeId(invalid).to_string().contains("relative path segment"));
}

fn names(certificate: &CertificateDer<'_>) -> [String; 2] {
    let (_, read) = x509_parser::parse_x509_certificate(certificate).unwrap();
    let identifier = read.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    let spki = read.tbs_certificate.subject_pki.raw;
    let digest = ring::digest::digest(&ring::digest::SHA256, spki).as_ref().to_vec();
    [identifier.unwrap(), digest].map(|name| name.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn denied(names: &[&str]) -> DeniedAuthorities {
    DeniedAuthorities::parse(&names.join("\n")).unwrap()
}

#[test]
fn c41_a_denied_authority_is_on_no_path_whoever_has_signed_it() {
    let court = Court::new();
    let (bad, good) = (court.ca.intermediate(), court.ca.intermediate());
    let mut crossed = bad.svid("agent").chain;
    crossed[1] = court.ca.cross_sign(&bad);
    for name in names(bad.der()) {
        accepted(court.judge(&bad.svid("agent").chain));
        court.bundles.deny(denied(&[&name]));
        refused(court.judge(&bad.svid("agent").chain), PeerRefusal::DeniedAuthority);
        refused(court.judge(&bad.intermediate().svid("agent").chain), PeerRefusal::DeniedAuthority);
        refused(court.judge(&crossed), PeerRefusal::DeniedAuthority);
        accepted(court.judge(&good.svid("agent").chain));
        court.bundles.deny(denied(&[]));
    }
    for name in names(court.ca.der()) {
        court.bundles.deny(denied(&[&name]));
        refused(court.judge(&good.svid("agent").chain), PeerRefusal::DeniedAuthority);
        court.bundles.set(bundle(&court.ca));
        refused(court.judge(&court.ca.svid("agent").chain), PeerRefusal::DeniedAuthority);
    }
}

#[test]
fn c47_a_proof_counts_only_for_what_it_was_judged_by() {
    let court = Court::new();
    let (bad, good) = (court.ca.intermediate(), court.ca.intermediate());
    let (theirs, ours) =
        (court.judge(&bad.svid("agent").chain).unwrap(), court.judge(&good.svid("agent").chain).unwrap());
    let still = |peer: &VerifiedPeer| court.judge.still_trusted(peer, NOW);
    assert_eq!((still(&theirs), still(&ours)), (Ok(()), Ok(())));
    let [name, _] = names(bad.der());
    court.bundles.deny(denied(&[&name]));
    // The same name and the same anchor: each chain is judged for itself.
    for _ in 0..2 {
        assert_eq!((still(&theirs), still(&ours)), (Err(PeerRefusal::DeniedAuthority), Ok(())));
    }
    court.bundles.set(TrustBundle::from_certificates(domain("td.test"), []).unwrap());
    assert_eq!(still(&ours), Err(PeerRefusal::EmptyBundle));
}

/// As the task CA's is, where one company has signed both that and what tenants get their SVIDs from.
#[test]
fn a_path_through_a_forbidden_key_is_no_path_under_an_anchor_that_is_shared() {
    let court = Court::new();
    let (task_ca, tenants) = (court.ca.intermediate(), court.ca.intermediate());
    accepted(court.judge(&task_ca.svid("agent").chain));
    court.bundles.forbid([task_ca.der()]);
    refused(court.judge(&task_ca.svid("agent").chain), PeerRefusal::UntrustedIssuer);
    refused(court.judge(&task_ca.intermediate().svid("agent").chain), PeerRefusal::UntrustedIssuer);
    accepted(court.judge(&tenants.svid("agent").chain));
    // Another certificate over the same key is no way around it.
    let mut chain = task_ca.svid("agent").chain;
    chain[1] = court.ca.cross_sign(&task_ca);
    refused(court.judge(&chain), PeerRefusal::UntrustedIssuer);
}

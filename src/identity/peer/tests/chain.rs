use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose as Eku, IsCa, KeyUsagePurpose as Ku};

use super::*;
use crate::identity::test_ca::{self, OID_NAME_CONSTRAINTS, tlv};

#[test]
fn c31_a_leaf_below_two_intermediates_is_taken() {
    let court = Court::new();
    accepted(court.judge(&court.ca.intermediate().intermediate().svid("agent").chain));
    accepted(court.below(|params| params.key_usages = vec![Ku::KeyCertSign]));
}

#[test]
fn c31_a_path_length_that_is_kept_is_taken() {
    let root = Ca::with("td.test", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)));
    let court = Court::of(root);
    accepted(court.below(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))));
}

#[test]
fn c31_a_path_longer_than_an_intermediate_allows_is_refused() {
    let court = Court::new();
    let last = court.ca.intermediate_with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    refused(court.judge(&last.intermediate().svid("agent").chain), PeerRefusal::PathLength);
}

#[test]
fn c31_a_path_longer_than_the_root_allows_is_refused() {
    let court =
        Court::of(Ca::with("td.test", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))));
    accepted(court.on(|_| {}));
    refused(court.below(|_| {}), PeerRefusal::PathLength);
}

#[test]
fn c32_an_issuer_needs_no_spiffe_id_and_may_have_one_without_path() {
    let court = Court::new();
    accepted(court.below(|params| params.subject_alt_names.clear()));
    accepted(court.below(|params| params.subject_alt_names = vec![test_ca::uri("spiffe://td.test")]));
    accepted(court.below(|params| params.subject_alt_names = vec![test_ca::uri("https://ca.test/")]));
}

#[test]
fn c32_an_issuer_of_another_trust_domains_name_breaks_a_should_and_is_taken() {
    let court = Court::new();
    accepted(court.below(|params| params.subject_alt_names = vec![test_ca::uri("spiffe://upstream.test")]));
}

#[test]
fn c32_an_issuer_whose_spiffe_id_has_a_path_or_is_malformed_is_refused() {
    let court = Court::new();
    for id in ["spiffe://td.test/ca", "spiffe://TD.test", "SPIFFE://td.test/ca", "spiffe://"] {
        let verdict = court.below(|params| params.subject_alt_names = vec![test_ca::uri(id)]);
        refused(verdict, PeerRefusal::IssuerSpiffeId);
    }
}

#[test]
fn c33_a_leaf_of_a_signing_certificate_is_taken() {
    let court = Court::new();
    accepted(court.judge(&court.ca.intermediate().svid("agent").chain));
}

#[test]
fn c33_a04_a_signing_certificate_never_authenticates() {
    let court = Court::new();
    let as_workload = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![test_ca::uri("spiffe://td.test/agent")];
        params.key_usages = vec![Ku::DigitalSignature];
        params.extended_key_usages = vec![Eku::ClientAuth, Eku::ServerAuth];
    };
    refused(court.judge(&court.ca.intermediate_with(as_workload).as_svid().chain), PeerRefusal::CaAsLeaf);
    refused(court.judge(&court.ca.intermediate().as_svid().chain), PeerRefusal::NoPath);
    refused(court.judge(&court.ca.as_svid().chain), PeerRefusal::NoPath);
}

#[test]
fn c34_an_intermediate_with_ca_and_key_cert_sign_is_taken() {
    accepted(Court::new().below(|_| {}));
}

#[test]
fn c34_an_intermediate_that_is_no_ca_is_refused() {
    let court = Court::new();
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        refused(court.below(|params| params.is_ca = is_ca), PeerRefusal::IssuerNotCa);
    }
    let leaf_as_ca = court.ca.intermediate_with(|params| *params = test_ca::leaf("spiffe://td.test/evil"));
    refused(court.judge(&leaf_as_ca.svid("agent").chain), PeerRefusal::IssuerNotCa);
}

#[test]
fn c34_an_intermediate_without_key_cert_sign_is_refused() {
    let court = Court::new();
    refused(court.below(|params| params.key_usages.clear()), PeerRefusal::IssuerKeyUsage);
    refused(court.below(|params| params.key_usages = vec![Ku::CrlSign]), PeerRefusal::IssuerKeyUsage);
    refused(
        court.below(|params| params.key_usages = vec![Ku::DigitalSignature]),
        PeerRefusal::IssuerKeyUsage,
    );
}

/// Name constraints of one subtree: permitted under tag 0xa0, excluded under 0xa1.
fn constrain(params: &mut rcgen::CertificateParams, subtrees: u8, name: u8, base: &[u8]) {
    let content = tlv(0x30, &tlv(subtrees, &tlv(0x30, &tlv(name, base))));
    params.custom_extensions.push(test_ca::extension(OID_NAME_CONSTRAINTS, content, true));
}

#[test]
fn c35_dns_name_constraints_are_evaluated_and_do_not_touch_the_uri() {
    let court = Court::new();
    accepted(court.below(|params| constrain(params, 0xa0, test_ca::DNS, b"td.test")));
    accepted(court.below(|params| constrain(params, 0xa1, test_ca::DNS, b"td.test")));
    let inside = court.ca.intermediate_with(|params| constrain(params, 0xa0, test_ca::DNS, b"td.test"));
    accepted(court.judge(&inside.server("agent", &["a.td.test"]).chain));
    let outside = inside.server("agent", &["a.other.test"]);
    refused(court.judge(&outside.chain), PeerRefusal::NameConstraints);
}

/// The library cannot evaluate constraints on URIs and says so by refusing, even where the name is permitted.
#[test]
fn c35_chains_with_uri_name_constraints_are_refused_permitted_or_not() {
    let court = Court::new();
    for (subtrees, base) in
        [(0xa0, &b"td.test"[..]), (0xa0, b"other.test"), (0xa1, b"td.test"), (0xa1, b"other.test")]
    {
        let verdict = court.below(|params| constrain(params, subtrees, test_ca::URI, base));
        refused(verdict, PeerRefusal::NameConstraints);
    }
    let root = Ca::with("td.test", |params| constrain(params, 0xa0, test_ca::URI, b"td.test"));
    refused(Court::of(root).on(|_| {}), PeerRefusal::NameConstraints);
}

#[test]
fn c36_extended_key_usage_of_an_issuer_binds_only_if_it_is_there() {
    let court = Court::new();
    accepted(court.below(|params| params.extended_key_usages.clear()));
    accepted(court.below(|params| params.extended_key_usages = vec![Eku::ClientAuth]));
}

#[test]
fn c36_an_issuer_whose_extended_key_usage_lacks_ours_is_refused() {
    let court = Court::new();
    for usage in [Eku::ServerAuth, Eku::CodeSigning, Eku::Any] {
        let verdict = court.below(|params| params.extended_key_usages = vec![usage]);
        refused(verdict, PeerRefusal::ExtendedKeyUsage);
    }
    let servers = PeerJudge::new(Arc::clone(&court.bundles), Side::Server);
    let clients_only =
        court.ca.intermediate_with(|params| params.extended_key_usages = vec![Eku::ClientAuth]);
    refused(servers.judge(&clients_only.svid("agent").chain, NOW), PeerRefusal::ExtendedKeyUsage);
}

#[test]
fn c28_issuers_and_anchor_are_taken_to_their_last_moment_and_bound_the_proof() {
    let now = NOW.as_secs();
    let court = Court::of(Ca::with("td.test", |params| test_ca::valid(params, now, now + 7)));
    let peer = court.below(|params| test_ca::valid(params, now, now + 8)).unwrap();
    assert_eq!(peer.valid_until(), Timestamp::from_secs(now + 7));
    assert!(peer.not_after() > peer.valid_until());
    accepted(court.below(|params| test_ca::valid(params, now, now)));
}

#[test]
fn c28_issuers_and_anchor_out_of_their_time_are_refused() {
    let now = NOW.as_secs();
    let court = Court::new();
    refused(court.below(|params| test_ca::valid(params, now - 9, now - 1)), PeerRefusal::IssuerExpired);
    refused(court.below(|params| test_ca::valid(params, now + 1, now + 9)), PeerRefusal::IssuerNotYetValid);
    let old = Court::of(Ca::with("td.test", |params| test_ca::valid(params, now - 9, now - 1)));
    refused(old.on(|_| {}), PeerRefusal::IssuerExpired);
    let early = Court::of(Ca::with("td.test", |params| test_ca::valid(params, now + 1, now + 9)));
    refused(early.on(|_| {}), PeerRefusal::IssuerNotYetValid);
}

#[test]
fn c28_a_renewed_root_of_the_same_key_carries_on() {
    let now = NOW.as_secs();
    let court = Court::of(Ca::with("td.test", |params| test_ca::valid(params, now - 9, now - 1)));
    let mut renewed = court.ca.params().clone();
    test_ca::valid(&mut renewed, now - 2, now + 9);
    let renewed =
        court.ca.cross_sign(&Ca::with_key("td.test", court.ca.as_svid().key, |params| *params = renewed));
    let old = court.ca.der().clone();
    for both in [[old.clone(), renewed.clone()], [renewed, old]] {
        court.bundles.set(TrustBundle::from_certificates("td.test".parse().unwrap(), both).unwrap());
        accepted(court.on(|_| {}));
    }
}

#[test]
fn c41_intermediates_that_the_peer_sends_are_path_material() {
    let court = Court::new();
    let mut chain = court.ca.intermediate().svid("agent").chain;
    chain.push(court.ca.der().clone());
    accepted(court.judge(&chain));
    chain.swap(1, 2);
    accepted(court.judge(&chain));
    refused(court.judge(&chain[..1]), PeerRefusal::UntrustedIssuer);
}

#[test]
fn c41_a_root_that_the_peer_sends_is_no_anchor() {
    let court = Court::new();
    let evil = Ca::new("td.test");
    let mut chain = evil.intermediate().svid("agent").chain;
    chain.push(evil.der().clone());
    let why = court.judge(&chain).unwrap_err();
    assert!(matches!(why, PeerRefusal::BadSignature | PeerRefusal::UntrustedIssuer), "{why:?}");
    let stranger = Ca::with("td.test", |params| params.distinguished_name = test_ca::name("stranger"));
    let mut chain = stranger.svid("agent").chain;
    chain.push(stranger.der().clone());
    refused(court.judge(&chain), PeerRefusal::UntrustedIssuer);
}

/// A chain with `count` intermediates.
fn deep(court: &Court, count: usize) -> Vec<CertificateDer<'static>> {
    let mut last = court.ca.intermediate();
    for _ in 1..count {
        last = last.intermediate();
    }
    last.svid("agent").chain
}

#[test]
fn c42_six_intermediates_are_taken() {
    let court = Court::new();
    accepted(court.judge(&deep(&court, 6)));
}

#[test]
fn c42_more_certificates_or_larger_ones_are_refused() {
    let court = Court::new();
    refused(court.judge(&deep(&court, 7)), PeerRefusal::TooManyCertificates);
    refused(court.judge(&[]), PeerRefusal::NoCertificate);
    let bulky = |params: &mut rcgen::CertificateParams| {
        let filler = test_ca::extension(&[1, 3, 6, 1, 4, 1, 99_999, 2], tlv(0x04, &[7; 16 * 1024]), false);
        params.custom_extensions.push(filler);
    };
    refused(court.on(bulky), PeerRefusal::CertificateTooLarge);
    refused(court.below(bulky), PeerRefusal::CertificateTooLarge);
    let mut beside = court.ca.svid("agent").chain;
    beside.push(court.ca.intermediate_with(bulky).der().clone());
    refused(court.judge(&beside), PeerRefusal::CertificateTooLarge);
}

/// Issuers that all bear one name and sign each other: every order of them is a path to try.
#[test]
fn c42_a_mesh_of_cross_signed_issuers_is_refused_soon() {
    let court = Court::new();
    let same_name = |params: &mut rcgen::CertificateParams| params.distinguished_name = test_ca::name("mesh");
    let mesh: Vec<Ca> = (0..6).map(|_| Ca::with("td.test", same_name)).collect();
    let mut chain = vec![mesh[0].svid("agent").chain.remove(0)];
    chain.extend(mesh.iter().enumerate().map(|(at, ca)| mesh[(at + 1) % 6].cross_sign(ca)));
    let began = std::time::Instant::now();
    let why = court.judge(&chain).unwrap_err();
    assert!(matches!(why, PeerRefusal::UntrustedIssuer | PeerRefusal::PathTooComplex), "{why:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// The same mesh with the root's own name: each of its paths would be tried at the root, by signature.
#[test]
fn c42_a_mesh_that_bears_the_roots_name_is_refused_soon() {
    let court = Court::new();
    let mesh: Vec<Ca> = (0..6).map(|_| Ca::new("td.test")).collect();
    let mut chain = vec![mesh[0].svid("agent").chain.remove(0)];
    chain.extend(mesh.iter().enumerate().map(|(at, ca)| mesh[(at + 1) % 6].cross_sign(ca)));
    let began = std::time::Instant::now();
    let why = court.judge(&chain).unwrap_err();
    assert!(matches!(why, PeerRefusal::BadSignature | PeerRefusal::PathTooComplex), "{why:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

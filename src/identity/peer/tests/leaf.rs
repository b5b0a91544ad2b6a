use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use rcgen::{ExtendedKeyUsagePurpose as Eku, KeyPair, KeyUsagePurpose as Ku, SanType, SubjectPublicKeyInfo};

use super::*;
use crate::identity::spiffe_id::InvalidSpiffeId;
use crate::identity::test_ca::{self, DNS, OID_BASIC_CONSTRAINTS, OID_EXT_KEY_USAGE, OID_KEY_USAGE, URI};

const ID: &[u8] = b"spiffe://td.test/agent";

/// An extension nobody knows.
const UNKNOWN: &[u64] = &[1, 3, 6, 1, 4, 1, 99_999, 1];

/// The verdict on a leaf whose alternative names are exactly these.
fn on_names(court: &Court, names: &[(u8, &[u8])]) -> Result<VerifiedPeer, PeerRefusal> {
    court.on(|params| {
        params.subject_alt_names.clear();
        params.custom_extensions.push(test_ca::raw_names(names, false));
    })
}

/// The verdict on a leaf with one extension added, in whose place nothing else stands.
fn with_extension(
    court: &Court,
    oid: &[u64],
    content: &[u8],
    critical: bool,
) -> Result<VerifiedPeer, PeerRefusal> {
    court.on(|params| {
        match oid {
            OID_KEY_USAGE => params.key_usages.clear(),
            OID_EXT_KEY_USAGE => params.extended_key_usages.clear(),
            OID_BASIC_CONSTRAINTS => params.is_ca = rcgen::IsCa::NoCa,
            _ => {}
        }
        params.custom_extensions.push(test_ca::extension(oid, content.to_vec(), critical));
    })
}

#[test]
fn c20_exactly_one_uri_san_is_taken() {
    accepted(on_names(&Court::new(), &[(URI, ID)]));
}

#[test]
fn c20_no_uri_san_is_refused() {
    let court = Court::new();
    refused(on_names(&court, &[(DNS, b"td.test")]), PeerRefusal::NoUriSan);
    refused(court.on(|params| params.subject_alt_names.clear()), PeerRefusal::NoUriSan);
}

#[test]
fn c20_two_uri_sans_are_refused_whatever_the_second_is() {
    let court = Court::new();
    for second in [&b"spiffe://td.test/other"[..], b"https://td.test/", ID, b"spiffe://other.test/agent", b""]
    {
        refused(on_names(&court, &[(URI, ID), (URI, second)]), PeerRefusal::ManyUriSans);
        refused(on_names(&court, &[(URI, second), (URI, ID)]), PeerRefusal::ManyUriSans);
    }
}

#[test]
fn a01_two_uri_sans_of_which_one_is_allowed_are_refused() {
    let court = Court::new();
    let verdict = court.on(|params| params.subject_alt_names.push(test_ca::uri("spiffe://td.test/admin")));
    refused(verdict, PeerRefusal::ManyUriSans);
}

#[test]
fn c21_other_alternative_names_may_stand_anywhere_and_are_not_the_identity() {
    let court = Court::new();
    accepted(court.on(|params| {
        let id = params.subject_alt_names.remove(0);
        params.subject_alt_names = vec![
            test_ca::dns("spiffe.td.test"),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::Rfc822Name("admin@td.test".try_into().unwrap()),
            id,
            test_ca::dns("admin.td.test"),
            SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], "admin".into())),
        ];
    }));
}

#[test]
fn c21_a_spiffe_id_in_another_kind_of_name_is_no_identity() {
    let court = Court::new();
    refused(on_names(&court, &[(DNS, ID), (0x81, ID)]), PeerRefusal::NoUriSan);
    let verdict = court.on(|params| {
        params.subject_alt_names.clear();
        params.distinguished_name = test_ca::name("spiffe://td.test/agent");
    });
    refused(verdict, PeerRefusal::NoUriSan);
}

#[test]
fn c22_an_id_with_a_path_is_taken() {
    let court = Court::new();
    let peer = court.judge(&court.ca.svid("a/b").chain).unwrap();
    assert_eq!(peer.spiffe_id().as_str(), "spiffe://td.test/a/b");
}

#[test]
fn c22_an_id_without_a_path_is_refused() {
    let court = Court::new();
    refused(on_names(&court, &[(URI, b"spiffe://td.test")]), PeerRefusal::NoPath);
    let slash = PeerRefusal::InvalidSpiffeId(InvalidSpiffeId::EmptySegment);
    refused(on_names(&court, &[(URI, b"spiffe://td.test/")]), slash);
}

#[test]
fn c01_a03_ids_that_break_the_rules_are_refused_in_certificates() {
    use InvalidSpiffeId as I;
    let court = Court::new();
    for (id, why) in [
        (&b"spiffe://TD.test/agent"[..], I::TrustDomainCharacter),
        (b"SPIFFE://td.test/agent", I::WrongScheme),
        (b"spiffe://td.test/../admin", I::DotSegment),
        (b"spiffe://td.test/%2e%2e/admin", I::PathCharacter),
        (b"spiffe://td.test//admin", I::EmptySegment),
        (b"spiffe://admin@td.test/agent", I::TrustDomainCharacter),
        (b"https://td.test/agent", I::WrongScheme),
        (b"", I::WrongScheme),
    ] {
        refused(on_names(&court, &[(URI, id)]), PeerRefusal::InvalidSpiffeId(why));
    }
}

#[test]
fn c13_each_byte_has_its_verdict_inside_certificates_too() {
    let court = Court::new();
    for row in
        include_str!("../../../../tests/data/spiffe_id_bytes.tsv").lines().filter(|it| !it.starts_with('#'))
    {
        let columns: Vec<&str> = row.split('\t').collect();
        let byte = u8::from_str_radix(columns[0], 16).unwrap();
        let in_path = [b"spiffe://td.test/a", &[byte][..], b"z"].concat();
        assert_eq!(
            on_names(&court, &[(URI, &in_path)]).is_ok(),
            columns[2] != "refused",
            "{byte:02x} in the path"
        );
        let in_domain = [b"spiffe://td", &[byte][..], b"test/a"].concat();
        let taken = !matches!(
            on_names(&court, &[(URI, &in_domain)]),
            Err(PeerRefusal::InvalidSpiffeId(_) | PeerRefusal::Malformed)
        );
        assert_eq!(taken, columns[1] != "refused", "{byte:02x} in the trust domain");
    }
}

#[test]
fn c23_no_basic_constraints_and_ca_false_are_taken() {
    let court = Court::new();
    accepted(court.on(|params| params.is_ca = rcgen::IsCa::NoCa));
    accepted(court.on(|params| params.is_ca = rcgen::IsCa::ExplicitNoCa));
}

#[test]
fn c23_a_ca_is_refused() {
    let court = Court::new();
    let verdict = court.on(|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    refused(verdict, PeerRefusal::CaAsLeaf);
}

#[test]
fn c23_basic_constraints_that_do_not_parse_are_refused() {
    let court = Court::new();
    for content in
        [&[0x30, 0x03, 0x02, 0x01][..], &[0x04, 0x00], &[0x30, 0x03, 0x01, 0x02, 0xff], &[], &[0xff; 9]]
    {
        refused(with_extension(&court, OID_BASIC_CONSTRAINTS, content, true), PeerRefusal::Malformed);
    }
}

#[test]
fn c24_digital_signature_alone_is_taken() {
    accepted(Court::new().on(|params| params.key_usages = vec![Ku::DigitalSignature]));
}

#[test]
fn c24_leaves_that_may_sign_certificates_or_crls_are_refused() {
    let court = Court::new();
    for usage in [Ku::KeyCertSign, Ku::CrlSign] {
        refused(court.on(|params| params.key_usages.push(usage)), PeerRefusal::SigningKeyUsage);
    }
}

#[test]
fn c25_key_encipherment_and_key_agreement_may_stand_beside_digital_signature() {
    let court = Court::new();
    accepted(court.on(|params| params.key_usages.extend([Ku::KeyEncipherment, Ku::KeyAgreement])));
    accepted(with_extension(&court, OID_KEY_USAGE, &[0x03, 0x02, 0x07, 0x80], true));
}

#[test]
fn c25_a_key_usage_that_is_missing_or_not_critical_is_refused() {
    let court = Court::new();
    refused(court.on(|params| params.key_usages.clear()), PeerRefusal::KeyUsage);
    refused(with_extension(&court, OID_KEY_USAGE, &[0x03, 0x02, 0x07, 0x80], false), PeerRefusal::KeyUsage);
}

#[test]
fn c25_a_key_usage_without_digital_signature_or_with_more_is_refused() {
    let court = Court::new();
    refused(court.on(|params| params.key_usages = vec![Ku::KeyEncipherment]), PeerRefusal::KeyUsage);
    for usage in [Ku::ContentCommitment, Ku::DataEncipherment, Ku::EncipherOnly, Ku::DecipherOnly] {
        refused(court.on(|params| params.key_usages.push(usage)), PeerRefusal::KeyUsage);
    }
    refused(with_extension(&court, OID_KEY_USAGE, &[0x03, 0x01, 0x00], true), PeerRefusal::KeyUsage);
}

#[test]
fn c26_no_extended_key_usage_or_both_kinds_are_taken() {
    let court = Court::new();
    accepted(court.on(|params| params.extended_key_usages.clear()));
    accepted(court.on(|params| params.extended_key_usages.push(Eku::CodeSigning)));
}

#[test]
fn c26_a04_extended_key_usage_without_both_kinds_is_refused() {
    let court = Court::new();
    for usages in [vec![Eku::ServerAuth], vec![Eku::ClientAuth], vec![Eku::Any], vec![Eku::CodeSigning]] {
        refused(court.on(|params| params.extended_key_usages = usages), PeerRefusal::ExtendedKeyUsage);
    }
    refused(with_extension(&court, OID_EXT_KEY_USAGE, &[0x30, 0x00], false), PeerRefusal::ExtendedKeyUsage);
}

#[test]
fn c27_an_empty_subject_with_critical_names_is_taken() {
    let court = Court::new();
    accepted(court.on(|params| params.distinguished_name = rcgen::DistinguishedName::new()));
    for critical in [true, false] {
        accepted(court.on(|params| {
            params.subject_alt_names.clear();
            params.custom_extensions.push(test_ca::raw_names(&[(URI, ID)], critical));
        }));
    }
}

#[test]
fn c27_an_empty_subject_with_names_that_are_not_critical_is_refused() {
    let verdict = Court::new().on(|params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names.clear();
        params.custom_extensions.push(test_ca::raw_names(&[(URI, ID)], false));
    });
    refused(verdict, PeerRefusal::SanNotCritical);
}

#[test]
fn c28_a_leaf_is_taken_from_its_first_moment_to_its_last() {
    let (court, now) = (Court::new(), NOW.as_secs());
    accepted(court.on(|params| test_ca::valid(params, now, now)));
    let peer = court.on(|params| test_ca::valid(params, now - 5, now + 5)).unwrap();
    assert_eq!(peer.not_after(), Timestamp::from_secs(now + 5));
}

#[test]
fn c28_a04_a_leaf_is_refused_before_its_first_moment_and_after_its_last() {
    let (court, now) = (Court::new(), NOW.as_secs());
    refused(court.on(|params| test_ca::valid(params, now + 1, now + 9)), PeerRefusal::NotYetValid);
    refused(court.on(|params| test_ca::valid(params, now - 9, now - 1)), PeerRefusal::Expired);
    let last = court.ca.svid_with("agent", |params| test_ca::valid(params, now - 9, now));
    let just_after = Timestamp::from_millis(NOW.as_millis() + 1);
    refused(court.judge.judge(&last.chain, just_after), PeerRefusal::Expired);
    refused(court.on(|params| test_ca::valid(params, now + 9, now - 9)), PeerRefusal::NotYetValid);
}

#[test]
fn c29_a_clean_certificate_with_an_unknown_extension_that_is_not_critical_is_taken() {
    accepted(with_extension(&Court::new(), UNKNOWN, &[0x05, 0x00], false));
}

#[test]
fn c29_an_unknown_critical_extension_is_refused() {
    let verdict = with_extension(&Court::new(), UNKNOWN, &[0x05, 0x00], true);
    refused(verdict, PeerRefusal::UnknownCriticalExtension);
}

#[test]
fn c29_bytes_after_the_certificate_or_inside_an_extension_are_refused() {
    let court = Court::new();
    let chain = court.ca.svid("agent").chain;
    let longer = CertificateDer::from([chain[0].as_ref(), &[0]].concat());
    refused(court.judge(&[longer]), PeerRefusal::Malformed);
    let usage = [0x03, 0x02, 0x07, 0x80, 0x05, 0x00];
    refused(with_extension(&court, OID_KEY_USAGE, &usage, true), PeerRefusal::Malformed);
    let constraints = [0x30, 0x00, 0x30, 0x00];
    refused(with_extension(&court, OID_BASIC_CONSTRAINTS, &constraints, true), PeerRefusal::Malformed);
}

#[test]
fn c29_an_extension_that_is_there_twice_is_refused() {
    let court = Court::new();
    let twice = |oid: &[u64], content: Vec<u8>, critical| {
        court.on(|params| {
            let extension = test_ca::extension(oid, content, critical);
            params.custom_extensions.push(extension.clone());
            params.custom_extensions.push(extension);
        })
    };
    refused(twice(UNKNOWN, vec![0x05, 0x00], false), PeerRefusal::DuplicateExtension);
    let names = court.on(|params| params.custom_extensions.push(test_ca::raw_names(&[(URI, ID)], false)));
    refused(names, PeerRefusal::DuplicateExtension);
    refused(twice(OID_KEY_USAGE, vec![0x03, 0x02, 0x07, 0x80], true), PeerRefusal::DuplicateExtension);
}

#[test]
fn c29_ids_up_to_2048_bytes_are_taken_longer_and_many_are_refused() {
    let court = Court::new();
    let id = |bytes: usize| format!("{:a<bytes$}", "spiffe://td.test/").into_bytes();
    assert!(on_names(&court, &[(URI, &id(2048))]).is_ok());
    let long = PeerRefusal::InvalidSpiffeId(InvalidSpiffeId::TooLong);
    refused(on_names(&court, &[(URI, &id(2049))]), long);
    refused(on_names(&court, &vec![(URI, ID); 200]), PeerRefusal::ManyUriSans);
}

#[test]
fn c29_names_that_are_no_names_are_refused() {
    let court = Court::new();
    refused(on_names(&court, &[(URI, ID), (DNS, b"\xff\xfe")]), PeerRefusal::Malformed);
    refused(on_names(&court, &[(URI, b"spiffe://td.test/\xff")]), PeerRefusal::Malformed);
    refused(with_extension(&court, &[2, 5, 29, 35], &[0x30, 0x7f], false), PeerRefusal::Malformed);
}

#[test]
fn c29_every_cut_is_refused_without_panic() {
    let court = Court::new();
    let leaf = court.ca.svid("agent").chain.remove(0);
    for end in 0..leaf.len() {
        refused(court.judge(&[CertificateDer::from(&leaf[..end])]), PeerRefusal::Malformed);
    }
}

proptest! {
    #[test]
    fn c29_every_changed_byte_is_refused_without_panic(at: prop::sample::Index, bits in 1_u8..) {
        let court = Court::new();
        let mut leaf = court.ca.svid("agent").chain.remove(0).to_vec();
        let at = at.index(leaf.len());
        leaf[at] ^= bits;
        prop_assert!(court.judge(&[CertificateDer::from(leaf)]).is_err());
    }

    #[test]
    fn c29_random_bytes_are_refused_without_panic(bytes: Vec<u8>) {
        prop_assert!(Court::new().judge(&[CertificateDer::from(bytes)]).is_err());
    }
}

const RSA_1024: &str = include_str!("../../../../tests/data/rsa1024.pub.pem");
const RSA_2048: &str = include_str!("../../../../tests/data/rsa2048.pub.pem");

fn on_rsa(court: &Court, key: &str) -> Result<VerifiedPeer, PeerRefusal> {
    let key = SubjectPublicKeyInfo::from_pem(key).unwrap();
    court.judge(&[court.ca.sign(&test_ca::leaf("spiffe://td.test/agent"), &key)])
}

#[test]
fn c30_keys_at_the_floor_are_taken() {
    let court = Court::new();
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        accepted(court.judge(&court.ca.issue(&test_ca::leaf("spiffe://td.test/agent"), key).chain));
    }
    accepted(on_rsa(&court, RSA_2048));
}

/// Puts `to` in the place of each `from`.
fn patch(der: &[u8], from: &[u8], to: &[u8]) -> CertificateDer<'static> {
    let mut der = der.to_vec();
    let places: Vec<_> = (0..der.len()).filter(|at| der[*at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for at in places {
        der[at..at + to.len()].copy_from_slice(to);
    }
    der.into()
}

#[test]
fn c30_keys_and_signatures_below_the_floor_are_refused() {
    let court = Court::new();
    refused(on_rsa(&court, RSA_1024), PeerRefusal::WeakKey);
    let leaf = court.ca.svid("agent").chain.remove(0);
    let p256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let prime239v3 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x06];
    refused(court.judge(&[patch(&leaf, &p256, &prime239v3)]), PeerRefusal::WeakKey);
    let with_sha256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let with_sha224 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x01];
    refused(court.judge(&[patch(&leaf, &with_sha256, &with_sha224)]), PeerRefusal::WeakKey);
}

#[test]
fn the_thumbprint_is_sha256_of_the_leaf() {
    let court = Court::new();
    let chain = court.ca.intermediate().svid("agent").chain;
    let expected = ring::digest::digest(&ring::digest::SHA256, &chain[0]);
    assert_eq!(court.judge(&chain).unwrap().thumbprint_s256(), expected.as_ref());
}

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SanType,
    SigningKey,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::error::Reason;
use crate::identity::{PeerJudge, Side, SpiffeId, TrustBundle, TrustBundles};
use crate::ids::{CredentialId, Partition, TaskId, new_task_id};
use crate::keys::testing::{MemoryStore, NOW, domain, open, plan};
use crate::keys::{KeyPlan, KeySets, Keyring, TaskCa};
use crate::time::Timestamp;

const AGENT: &str = "spiffe://acme.test/ns/prod/agent-7";

async fn ring() -> Keyring {
    open(&MemoryStore::default(), &plan(&[])).await.unwrap()
}

async fn ca() -> Arc<TaskCa> {
    ring().await.task_ca().unwrap().clone()
}

fn task() -> TaskId {
    new_task_id(NOW, Partition::from_low_bits(9)).unwrap()
}

fn agent() -> SpiffeId {
    AGENT.parse().unwrap()
}

fn after(seconds: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(seconds))
}

fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::new([]).unwrap().serialize_request(key).unwrap().der().to_vec()
}

fn p256() -> (KeyPair, ProvenPublicKey) {
    let key = KeyPair::generate().unwrap();
    let proven = ProvenPublicKey::from_csr_der(&csr(&key)).unwrap();
    (key, proven)
}

fn issue(ca: &Arc<TaskCa>, key: &ProvenPublicKey) -> IssuedCertificate {
    let id = CredentialId { task: task(), number: 258 };
    let leaf = LeafRequest { id, agent: &agent(), key, issued_at: NOW, expires_at: after(300) };
    CertIssuer::new(ca.clone()).issue(&leaf).unwrap()
}

fn reason<T: std::fmt::Debug>(result: Result<T, crate::error::Error>) -> Reason {
    result.unwrap_err().reason()
}

/// What `openssl` prints; `None`, said loudly, where it is not installed.
fn openssl(arguments: &[&str], dir: &Path) -> Option<String> {
    match Command::new("openssl").args(arguments).current_dir(dir).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(text)
        }
        Err(error) => {
            eprintln!("SKIPPED: openssl does not run here ({error})");
            None
        }
    }
}

#[tokio::test]
async fn openssl_takes_the_chain_and_reads_what_the_template_says() {
    let (dir, ring) = (tempfile::tempdir().unwrap(), ring().await);
    let at = after(1).as_secs().to_string();
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issued = issue(ring.task_ca().unwrap(), &ProvenPublicKey::from_csr_der(&csr(&key)).unwrap());
        std::fs::write(dir.path().join("root.pem"), KeySets::of(&ring).unwrap().task_ca_pem()).unwrap();
        std::fs::write(dir.path().join("chain.pem"), issued.chain_pem()).unwrap();
        for purpose in ["sslclient", "sslserver"] {
            let verify = ["verify", "-x509_strict", "-purpose", purpose, "-attime", &at];
            let files = ["-CAfile", "root.pem", "-untrusted", "chain.pem", "chain.pem"];
            if openssl(&[verify.as_slice(), &files].concat(), dir.path()).is_none() {
                return;
            }
        }
        let text = openssl(&["x509", "-in", "chain.pem", "-noout", "-text"], dir.path()).unwrap();
        for line in [
            "X509v3 Subject Alternative Name: critical",
            &format!("URI:spiffe://broker.test/task/{}/agent/acme.test/ns/prod/agent-7\n", issued.id.task),
            "X509v3 Basic Constraints: critical\n                CA:FALSE",
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "TLS Web Server Authentication, TLS Web Client Authentication\n",
            "Subject: \n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let serial = openssl(&["x509", "-in", "chain.pem", "-noout", "-serial"], dir.path()).unwrap();
        let serial = serial.trim().strip_prefix("serial=").unwrap().parse::<CredentialId>().unwrap();
        assert_eq!(serial, issued.id);
        let root = openssl(&["x509", "-in", "root.pem", "-noout", "-text"], dir.path()).unwrap();
        assert!(root.contains("CA:TRUE, pathlen:1") && root.contains("Certificate Sign, CRL Sign"), "{root}");
        assert!(root.contains("URI:spiffe://broker.test\n"), "{root}");
    }
}

#[tokio::test]
async fn openssl_refuses_the_chain_after_its_end_and_under_another_root() {
    let (dir, ours, other) = (tempfile::tempdir().unwrap(), ring().await, ring().await);
    let issued = issue(ours.task_ca().unwrap(), &p256().1);
    std::fs::write(dir.path().join("ours.pem"), KeySets::of(&ours).unwrap().task_ca_pem()).unwrap();
    std::fs::write(dir.path().join("other.pem"), KeySets::of(&other).unwrap().task_ca_pem()).unwrap();
    std::fs::write(dir.path().join("chain.pem"), issued.chain_pem()).unwrap();
    let verifies = |root: &str, at: Timestamp| {
        let at = at.as_secs().to_string();
        let arguments = ["verify", "-CAfile", root, "-untrusted", "chain.pem", "-attime", &at, "chain.pem"];
        Command::new("openssl")
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .map(|out| out.status.success())
    };
    let Ok(good) = verifies("ours.pem", after(299)) else {
        eprintln!("SKIPPED: openssl does not run here");
        return;
    };
    assert!(good);
    assert!(verifies("ours.pem", NOW).unwrap());
    assert!(!verifies("ours.pem", after(301)).unwrap());
    assert!(!verifies("ours.pem", NOW.saturating_sub(BACKDATE + Duration::from_secs(1))).unwrap());
    assert!(!verifies("other.pem", NOW).unwrap());
}

#[tokio::test]
async fn csrs_made_by_openssl_are_read() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), ca().await);
    for (make, algorithm) in [
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-256", KeyAlgorithm::P256),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-384", KeyAlgorithm::P384),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha384", KeyAlgorithm::P256),
        ("-newkey ed25519", KeyAlgorithm::Ed25519),
    ] {
        let mut arguments = vec!["req", "-new", "-nodes", "-keyout", "key.pem", "-subj", "/CN=x"];
        arguments.extend(make.split(' '));
        let Some(pem) = openssl(&arguments, dir.path()) else { return };
        let key = ProvenPublicKey::from_csr_pem(&format!("Certificate request:\n{pem}")).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        issue(&ca, &key);
        // The same key, proven the other way.
        openssl(&["pkey", "-in", "key.pem", "-pubout", "-outform", "DER", "-out", "spki.der"], dir.path());
        let spki = std::fs::read(dir.path().join("spki.der")).unwrap();
        let task = task();
        std::fs::write(dir.path().join("message"), proof_message(&spki, task, &agent())).unwrap();
        let mut sign =
            vec!["pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-in", "message", "-out", "sig"];
        match algorithm {
            KeyAlgorithm::P256 => sign.extend(["-digest", "sha256"]),
            KeyAlgorithm::P384 => sign.extend(["-digest", "sha384"]),
            KeyAlgorithm::Ed25519 => {}
        }
        openssl(&sign, dir.path());
        let signature = std::fs::read(dir.path().join("sig")).unwrap();
        assert_eq!(ProvenPublicKey::from_proof(&spki, &signature, task, &agent()).unwrap(), key);
    }
}

#[tokio::test]
async fn weak_and_unknown_keys_are_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    for (make, says) in [
        ("-newkey rsa:2048", "RSA keys are not certified"),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-521", "curve is not supported"),
        ("-newkey ec -pkeyopt ec_paramgen_curve:secp256k1", "curve is not supported"),
        (
            "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
            "curve is not supported",
        ),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha512", "proves no possession"),
        ("-newkey ed448", "type is not supported"),
    ] {
        let mut arguments = vec!["req", "-new", "-nodes", "-keyout", "key.pem", "-subj", "/CN=x"];
        arguments.extend(make.split(' '));
        let Some(pem) = openssl(&arguments, dir.path()) else { return };
        let error = ProvenPublicKey::from_csr_pem(&pem).unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidKey);
        assert!(error.public().contains(says), "{make}: {}", error.public());
    }
}

#[tokio::test]
async fn a54_nothing_but_the_public_key_is_taken_from_a_csr() {
    let ca = ca().await;
    let key = KeyPair::generate().unwrap();
    let mut asked = CertificateParams::new(["*.acme.test".to_owned(), "localhost".to_owned()]).unwrap();
    asked.subject_alt_names.push(SanType::URI("spiffe://acme.test/admin".try_into().unwrap()));
    asked.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
    asked.distinguished_name.push(DnType::CommonName, "admin");
    asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    asked.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
    let greedy = asked.serialize_request(&key).unwrap();
    let greedy = ProvenPublicKey::from_csr_der(greedy.der()).unwrap();
    let modest = ProvenPublicKey::from_csr_der(&csr(&key)).unwrap();
    assert_eq!(greedy, modest);
    let issued = issue(&ca, &greedy);
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert!(!certificate.is_ca() && certificate.subject().iter().next().is_none());
    assert_eq!(certificate.validity().not_after.timestamp(), i64::try_from(after(300).as_secs()).unwrap());
    assert!(!String::from_utf8_lossy(&issued.chain[0]).contains("admin"));
}

#[tokio::test]
async fn our_own_svid_rules_take_a_task_certificate_for_its_trust_domain_alone() {
    let ca = ca().await;
    let issued = issue(&ca, &p256().1);
    let judge = |name: &str| {
        let bundle = TrustBundle::from_certificates(domain(name), [ca.anchor().clone()]).unwrap();
        PeerJudge::new(Arc::new(TrustBundles::new([bundle])), Side::Client).judge(&issued.chain, after(1))
    };
    let peer = judge("broker.test").unwrap();
    assert_eq!(peer.spiffe_id(), &issued.spiffe_id);
    assert_eq!(&peer.thumbprint_s256(), issued.thumbprint.as_bytes());
    // Its name never lies in an agent's trust domain, so no bundle of one makes it a workload's.
    assert!(judge("acme.test").is_err());
    let signer = ca.chain().to_vec();
    let bundle = TrustBundle::from_certificates(domain("broker.test"), [ca.anchor().clone()]).unwrap();
    let judge = PeerJudge::new(Arc::new(TrustBundles::new([bundle])), Side::Client);
    assert!(judge.judge(&signer, NOW).is_err(), "a signing certificate never authenticates (C33)");
}

#[tokio::test]
async fn a_csr_whose_signature_is_not_its_keys_is_refused() {
    let good = csr(&KeyPair::generate().unwrap());
    // The request information of one key under the signature of another.
    struct Impostor(KeyPair, KeyPair);
    impl PublicKeyData for Impostor {
        fn der_bytes(&self) -> &[u8] {
            self.0.der_bytes()
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            self.0.algorithm()
        }
    }
    impl SigningKey for Impostor {
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
            self.1.sign(message)
        }
    }
    let impostor = Impostor(KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let stolen = CertificateParams::new([]).unwrap().serialize_request(&impostor).unwrap();
    assert_eq!(reason(ProvenPublicKey::from_csr_der(stolen.der())), Reason::InvalidKey);
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(reason(ProvenPublicKey::from_csr_der(&longer)), Reason::InvalidKey);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        // Bits that the signature does not cover may pass (there are none that change the key).
        if let Ok(key) = ProvenPublicKey::from_csr_der(&bad) {
            assert_eq!(key, ProvenPublicKey::from_csr_der(&good).unwrap(), "byte {at}");
        }
    }
}

#[test]
fn a_proof_is_good_for_its_key_its_task_and_its_caller_alone() {
    let (key, task) = (KeyPair::generate().unwrap(), task());
    let spki = key.subject_public_key_info();
    let signature = key.sign(&proof_message(&spki, task, &agent())).unwrap();
    ProvenPublicKey::from_proof(&spki, &signature, task, &agent()).unwrap();
    let other_task = new_task_id(NOW, Partition::from_low_bits(9)).unwrap();
    let other_agent = "spiffe://acme.test/ns/prod/agent-8".parse().unwrap();
    let other_key = KeyPair::generate().unwrap().subject_public_key_info();
    for (spki, signature, task, agent) in [
        (&spki, &signature, other_task, agent()),
        (&spki, &signature, task, other_agent),
        (&other_key, &signature, task, agent()),
        (&spki, &Vec::new(), task, agent()),
        (&spki, &vec![0; 4096], task, agent()),
        (&vec![0x30; 4096], &signature, task, agent()),
    ] {
        let refused = ProvenPublicKey::from_proof(spki, signature, task, &agent);
        assert_eq!(reason(refused), Reason::InvalidKey);
    }
}

#[test]
fn oversized_requests_and_stray_private_keys_are_refused_before_they_are_read() {
    assert_eq!(reason(ProvenPublicKey::from_csr_der(&[0x30; MAX_CSR_BYTES + 1])), Reason::InvalidKey);
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new([]).unwrap().serialize_request(&key).unwrap().pem().unwrap();
    ProvenPublicKey::from_csr_pem(&request).unwrap();
    ProvenPublicKey::from_csr_pem(&request.replace("CERTIFICATE REQ", "NEW CERTIFICATE REQ")).unwrap();
    let both = format!("{}{request}", key.serialize_pem());
    let error = ProvenPublicKey::from_csr_pem(&both).unwrap_err();
    assert!(error.public().contains("private key"), "{}", error.public());
    let long = format!("{}{request}", "x\n".repeat(MAX_CSR_BYTES));
    assert_eq!(reason(ProvenPublicKey::from_csr_pem(&long)), Reason::InvalidKey);
    for bad in [
        "",
        "-----BEGIN CERTIFICATE REQUEST-----",
        "-----BEGIN CERTIFICATE REQUEST-----\n*\n-----END CERTIFICATE REQUEST-----",
    ] {
        assert_eq!(reason(ProvenPublicKey::from_csr_pem(bad)), Reason::InvalidKey);
    }
}

#[tokio::test]
async fn a_spiffe_id_too_long_to_be_named_is_refused_with_a_reason_and_one_byte_less_is_not() {
    let (ca, key) = (ca().await, p256().1);
    let frame = format!("spiffe://broker.test/task/{}/agent/", task()).len();
    let long = |n: usize| -> SpiffeId {
        let head = "spiffe://acme.test/";
        format!("{head}{}", "p".repeat(n - "acme.test/".len())).parse().unwrap()
    };
    let try_issue = |agent: &SpiffeId| {
        let id = CredentialId { task: task(), number: 0 };
        let leaf = LeafRequest { id, agent, key: &key, issued_at: NOW, expires_at: after(60) };
        CertIssuer::new(ca.clone()).issue(&leaf)
    };
    assert_eq!(try_issue(&long(2048 - frame)).unwrap().spiffe_id.as_str().len(), 2048);
    let error = try_issue(&long(2049 - frame)).unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidArgument);
    assert!(error.public().contains("longer than 2048 bytes"), "{}", error.public());
    // A legal trust domain that is no path segment.
    assert_eq!(reason(try_issue(&"spiffe://../x".parse().unwrap())), Reason::InvalidArgument);
}

#[tokio::test]
async fn no_certificate_outlives_its_ca_or_has_no_life() {
    let day = Duration::from_secs(86_400);
    let plan = KeyPlan { intermediate_lifetime: day, ..plan(&[]) };
    let ca = open(&MemoryStore::default(), &plan).await.unwrap().task_ca().unwrap().clone();
    let key = p256().1;
    let try_issue = |issued_at: Timestamp, expires_at: Timestamp| {
        let id = CredentialId { task: task(), number: 0 };
        CertIssuer::new(ca.clone()).issue(&LeafRequest {
            id,
            agent: &agent(),
            key: &key,
            issued_at,
            expires_at,
        })
    };
    let end = ca.not_after();
    assert_eq!(end, NOW.saturating_add(day));
    try_issue(end.saturating_sub(Duration::from_secs(60)), end).unwrap();
    assert_eq!(reason(try_issue(NOW, end.saturating_add(Duration::from_secs(1)))), Reason::Internal);
    assert_eq!(reason(try_issue(NOW, NOW)), Reason::Internal);
    assert_eq!(reason(try_issue(NOW, Timestamp::from_millis(u64::MAX))), Reason::Internal);
}

/// Each deviation from the template is found, by making certificates that deviate in one thing.
#[tokio::test]
async fn what_is_not_the_template_never_leaves() {
    let (ca, key) = (ca().await, p256().1);
    let (id, agent) = (CredentialId { task: task(), number: 1 }, agent());
    let leaf = LeafRequest { id, agent: &agent, key: &key, issued_at: NOW, expires_at: after(300) };
    let name = task_spiffe_id(ca.trust_domain(), id.task, &agent).unwrap();
    let good = template::params(&ca, &leaf, &name).unwrap();
    let judged = |params: &CertificateParams| {
        judge::against_template(&ca, &leaf, &name, &ca.sign(params, &key).unwrap())
    };
    judged(&good).unwrap();
    type Change = fn(&mut CertificateParams);
    let changes: [(&str, Change); 16] = [
        ("serial", |p| p.serial_number = Some(vec![1; 20].into())),
        ("subject", |p| p.distinguished_name.push(DnType::CommonName, "x")),
        ("begin", |p| p.not_before -= Duration::from_secs(1)),
        ("end", |p| p.not_after += Duration::from_secs(1)),
        ("other name", |p| {
            p.subject_alt_names = vec![SanType::URI("spiffe://broker.test/x".try_into().unwrap())]
        }),
        ("second name", |p| p.subject_alt_names.push(SanType::DnsName("x.test".try_into().unwrap()))),
        ("no name", |p| p.subject_alt_names.clear()),
        ("CA", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("no basic constraints", |p| p.is_ca = IsCa::NoCa),
        ("more usage", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ("no usage", |p| p.key_usages.clear()),
        ("more extended usage", |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning)),
        ("less extended usage", |p| p.extended_key_usages.truncate(1)),
        ("an extension twice", |p| {
            p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 14], vec![4, 1, 7]));
        }),
        ("an unknown extension", |p| {
            p.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]));
        }),
        ("no authority", |p| p.use_authority_key_identifier_extension = false),
    ];
    for (what, change) in changes {
        let mut params = good.clone();
        change(&mut params);
        assert_eq!(reason(judged(&params)), Reason::Internal, "{what}");
    }
    let other_key = ca.sign(&good, &p256().1).unwrap();
    assert_eq!(reason(judge::against_template(&ca, &leaf, &name, &other_key)), Reason::Internal);
    let other_ca = self::ca().await.sign(&good, &key).unwrap();
    assert_eq!(reason(judge::against_template(&ca, &leaf, &name, &other_ca)), Reason::Internal);
}

#[tokio::test]
async fn a37_a_certificate_under_a_foreign_ca_does_not_pass_the_chain_check() {
    let (ours, other, key) = (ca().await, ca().await, p256().1);
    let issued = issue(&ours, &key);
    judge::chain(&ours, NOW, &issued.chain[0]).unwrap();
    assert_eq!(reason(judge::chain(&other, NOW, &issued.chain[0])), Reason::Internal);
    let mut forged = issued.chain[0].to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(reason(judge::chain(&ours, NOW, &CertificateDer::from(forged))), Reason::Internal);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let task = TaskId::from_parts(1, Partition::from_low_bits(1), [1; 10]);
        prop_assert!(ProvenPublicKey::from_csr_der(&bytes).is_err());
        prop_assert!(ProvenPublicKey::from_csr_pem(&String::from_utf8_lossy(&bytes)).is_err());
        prop_assert!(ProvenPublicKey::from_proof(&bytes, &bytes, task, &agent()).is_err());
    }

    #[test]
    fn damaged_requests_are_an_error_and_never_a_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let key = KeyPair::generate().unwrap();
        let (mut csr, mut spki) = (csr(&key), key.subject_public_key_info());
        let task = TaskId::from_parts(1, Partition::from_low_bits(1), [1; 10]);
        let signature = key.sign(&proof_message(&spki, task, &agent())).unwrap();
        let index = at.index(csr.len());
        csr[index] = byte;
        drop(ProvenPublicKey::from_csr_der(&csr));
        csr.truncate(cut.index(csr.len()));
        prop_assert!(ProvenPublicKey::from_csr_der(&csr).is_err());
        spki.truncate(cut.index(spki.len()));
        prop_assert!(ProvenPublicKey::from_proof(&spki, &signature, task, &agent()).is_err());
    }
}

//! Certificates and what asks for them: CSRs, proofs of possession, chains of peers, trust bundles.

use std::sync::{Arc, LazyLock};

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use taskpass::cert::{KeyAlgorithm, MAX_CSR_BYTES, ProvenPublicKey, proof_message};
use taskpass::identity::bundle::MAX_ANCHORS;
use taskpass::identity::peer::MAX_CHAIN;
use taskpass::identity::{
    CertificateFacts, PeerJudge, Side, SpiffeId, TrustBundle, TrustBundles, TrustDomain,
};
use taskpass::ids::TaskId;
use taskpass::keys::Chain;
use taskpass::time::Timestamp;

use self::ca::{Ca, leaf};

#[path = "../../../tests/it/support/ca.rs"]
mod ca;

const TRUST_DOMAIN: &str = "example.org";
const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

/// An Ed25519 key of a seed: it signs the same each time, so that seeds are the same in each run.
fn key(seed: u8) -> KeyPair {
    let prefix =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let der = [&prefix[..], &[seed; 32]].concat();
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(der)).expect("an Ed25519 key in PKCS#8")
}

/// An authority, and chains that it has issued, each with the name that is in it.
struct World {
    root: Ca,
    good: Vec<(String, Vec<CertificateDer<'static>>)>,
    bad: Vec<Vec<CertificateDer<'static>>>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let root = Ca::with_key(TRUST_DOMAIN, key(1), |_| {});
    let other = Ca::with_key("other.example", key(2), |_| {});
    let chain = |ca: &Ca, name: &str| ca.issue(&leaf(name), key(3)).chain;
    let names = ["spiffe://example.org/agent/support", "spiffe://example.org/mcp/docs"];
    let good = names.iter().map(|name| ((*name).to_owned(), chain(&root, name))).collect();
    let mut two_names = leaf(names[0]);
    two_names.subject_alt_names.push(ca::uri(names[1]));
    let bad = vec![
        chain(&other, names[0]),
        chain(&root, "spiffe://other.example/agent/support"),
        root.issue(&two_names, key(3)).chain,
        root.as_svid().chain,
    ];
    World { root, good, bad }
});

static JUDGE: LazyLock<PeerJudge> = LazyLock::new(|| {
    let bundle = TrustBundle::parse(trust_domain(), WORLD.root.pem().as_bytes()).expect("a bundle");
    PeerJudge::new(Arc::new(TrustBundles::new([bundle])), Side::Client)
});

pub(super) fn trust_domain() -> TrustDomain {
    TRUST_DOMAIN.parse().expect("a trust domain")
}

/// The authority of [`trust_domain`].
pub(super) fn root() -> &'static CertificateDer<'static> {
    WORLD.root.der()
}

/// A chain under it, as bytes one after the other, with its name and its key.
pub(super) fn svid() -> (&'static str, Vec<u8>, Vec<u8>) {
    let (name, chain) = &WORLD.good[0];
    (name, chain.iter().flat_map(|it| it.to_vec()).collect(), key(3).serialize_der())
}

/// Whom a bundle lets in is who its authority has certified.
pub(super) fn lets_nobody_else_in(bundle: TrustBundle) {
    assert!(bundle.len() <= MAX_ANCHORS);
    let (name, good) = &WORLD.good[0];
    let judge = PeerJudge::new(Arc::new(TrustBundles::new([bundle])), Side::Client);
    if let Ok(peer) = judge.judge(good, NOW) {
        assert_eq!(peer.spiffe_id().as_str(), name);
    }
}

/// The certificates of a peer, leaf first.
pub fn chain(input: &[u8]) {
    let chain: Vec<_> =
        super::parts(input).into_iter().take(MAX_CHAIN + 1).map(CertificateDer::from).collect();
    // What is shown to people has been judged by nobody.
    chain.iter().filter_map(CertificateFacts::of).for_each(|it| assert!(it.sha256 != it.public_key_sha256));
    let Ok(peer) = JUDGE.judge(&chain, NOW) else { return };
    let name = peer.spiffe_id().as_str();
    assert!(WORLD.good.iter().any(|(known, _)| known == name), "nobody has certified {name}");
    assert!(peer.valid_until() >= NOW && peer.valid_until() <= peer.not_after());
    assert_eq!(JUDGE.still_trusted(&peer, NOW), Ok(()));
}

/// See [`chain`].
pub fn chain_seeds() -> Vec<Vec<u8>> {
    let good = WORLD.good.iter().map(|(_, chain)| chain);
    let mut seeds: Vec<_> = good.clone().chain(&WORLD.bad).map(super::join).collect();
    seeds.extend(good.map(|chain| super::join(chain.iter().chain([WORLD.root.der()]))));
    seeds
}

/// A bundle in PEM or as a SPIFFE JWK set; the latter also as an endpoint's answer.
pub fn bundle(input: &[u8]) {
    if let Ok(published) = TrustBundle::published(trust_domain(), input) {
        // As its publisher gives it out it is what it is in a file, and follows itself.
        let parsed = TrustBundle::parse(trust_domain(), input).expect("a bundle in a file, too");
        assert_eq!(parsed.certificates(), published.bundle.certificates());
        assert!(published.others.iter().all(|key| key.usage != "x509-svid"));
        assert_eq!(published.follows(&published), Ok(()));
        assert!(published.bundle.certificates().iter().all(|it| CertificateFacts::of(it).is_some()));
    }
    let Ok(bundle) = TrustBundle::parse(trust_domain(), input) else { return };
    let again = TrustBundle::parse(trust_domain(), input).expect("it was one before");
    assert_eq!((again.len(), again.skipped().len()), (bundle.len(), bundle.skipped().len()));
    lets_nobody_else_in(bundle);
}

/// See [`bundle`].
pub fn bundle_seeds() -> Vec<Vec<u8>> {
    let root = &WORLD.root;
    let leaf = ca::pem("CERTIFICATE", &WORLD.good[0].1[0]);
    let both = ca::jwk_set(&[root.der().clone(), WORLD.good[0].1[0].clone()]);
    let comment = format!("# Ours\n{}", root.pem());
    [
        root.pem(),
        root.jwk_set(),
        root.pem() + &root.pem(),
        leaf,
        both,
        comment,
        r#"{"keys":[]}"#.into(),
        r#"{"keys":[{"use":"jwt-svid","kid":"k","kty":"EC"}],"spiffe_sequence":7,"spiffe_refresh_hint":60}"#
            .into(),
        String::new(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// What an operator installs as the certificate of the task CA: a chain in PEM.
pub fn task_ca_chain(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(chain) = Chain::from_pem(&text) else { return };
    assert_eq!(Chain::from_pem(&text).as_ref(), Ok(&chain));
    assert!(text.matches("-----BEGIN CERTIFICATE-----").count() >= 1);
}

/// See [`task_ca_chain`].
pub fn task_ca_chain_seeds() -> Vec<Vec<u8>> {
    let root = WORLD.root.pem();
    let leaf = ca::pem("CERTIFICATE", &WORLD.good[0].1[0]);
    [root.clone(), leaf.clone() + &root, root.repeat(12), leaf.replace('A', "B"), String::new()]
        .map(String::into_bytes)
        .to_vec()
}

/// The first byte says what the rest is: a CSR in DER or in PEM, or a public key and a proof of possession.
pub fn key_request(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let proven = match kind % 3 {
        0 => ProvenPublicKey::from_csr_der(rest),
        1 => ProvenPublicKey::from_csr_pem(&String::from_utf8_lossy(rest)),
        _ => {
            let parts = super::parts(rest);
            let [spki, signature] = [0, 1].map(|n| parts.get(n).copied().unwrap_or_default());
            ProvenPublicKey::from_proof(spki, signature, task(), &caller())
        }
    };
    let Ok(key) = proven else { return };
    assert!(rest.len() <= MAX_CSR_BYTES);
    let length = match key.algorithm() {
        KeyAlgorithm::P256 => 65,
        KeyAlgorithm::P384 => 97,
        KeyAlgorithm::Ed25519 => 32,
    };
    assert_eq!(key.der_bytes().len(), length);
    assert!(KNOWN_KEYS.iter().any(|known| known == key.der_bytes()), "nobody has proven this key");
}

fn task() -> TaskId {
    "01a0ab1c-8b10-7707-8101-010101010101".parse().expect("a task id")
}

fn caller() -> SpiffeId {
    "spiffe://example.org/agent/support".parse().expect("a SPIFFE ID")
}

/// Made once; their keys are gone, and ECDSA signs anew each time.
const ECDSA_CSRS: [&[u8]; 2] =
    [include_bytes!("../../seeds/p256.csr"), include_bytes!("../../seeds/p384.csr")];

static KNOWN_KEYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let ecdsa =
        ECDSA_CSRS.iter().map(|csr| ProvenPublicKey::from_csr_der(csr).expect("a CSR").der_bytes().to_vec());
    ecdsa.chain([key(3).der_bytes().to_vec()]).collect()
});

/// See [`key_request`].
pub fn key_request_seeds() -> Vec<Vec<u8>> {
    let key = key(3);
    let other = leaf("spiffe://example.org/agent/other");
    let ours = [CertificateParams::default(), other]
        .map(|params| params.serialize_request(&key).expect("a CSR").der().to_vec());
    let mut seeds = Vec::new();
    for csr in ECDSA_CSRS.into_iter().chain(ours.iter().map(Vec::as_slice)) {
        seeds.push([b"\0", csr].concat());
        seeds.push([b"\x01", ca::pem("CERTIFICATE REQUEST", csr).as_bytes()].concat());
    }
    let spki = key.subject_public_key_info();
    let signature = super::signer_of(3).sign(&proof_message(&spki, task(), &caller()));
    seeds.push([b"\x02", &*super::join([&*spki, signature.as_ref()])].concat());
    seeds
}

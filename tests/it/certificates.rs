//! Task certificates: made for a CSR or a proven key, of which nothing but the key is taken; read and verified with OpenSSL.

use std::path::Path;
use std::process::Command;

use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use serde_json::json;
use taskpass::proto;
use taskpass::proto::issue_certificate_request::Key;
use tonic::Code;

use crate::support::broker::{Broker, Setup};
use crate::support::ca::{pem, valid};
use crate::support::client::Client;
use crate::support::story::{
    begin, docs, millis, mint, payments, read_token, refused, seconds, serial, shown,
};
use crate::support::world::{DOCS, PAYMENTS};
use crate::support::{Store, now};

/// Runs OpenSSL in `dir` and returns what it printed; panics if it fails.
fn openssl(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(dir).output();
    let output = output.expect("openssl runs: install it, for example with `apt-get install openssl`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn issue(task: &proto::Task, key: Key) -> proto::IssueCertificateRequest {
    proto::IssueCertificateRequest { task_id: task.id.clone(), key: Some(key), ..Default::default() }
}

/// A new P-256 key and a plain CSR for it, made by OpenSSL; the key is in `<name>.key`.
fn csr(dir: &Path, name: &str) -> String {
    let (key, csr) = (format!("{name}.key"), format!("{name}.csr"));
    openssl(dir, &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key]);
    openssl(dir, &["req", "-new", "-key", &key, "-subj", "/CN=agent", "-out", &csr]);
    std::fs::read_to_string(dir.join(csr)).unwrap()
}

/// What OpenSSL reads in a certificate, and its verdict on the chain, as a server's and as a client's.
async fn examined(broker: &Broker, client: &Client, issued: &proto::IssueCertificateResponse) -> String {
    let dir = broker.world.dir();
    let bundle = client.directory().get_task_ca_bundle(proto::GetTaskCaBundleRequest {}).await.unwrap();
    std::fs::write(dir.join("root.pem"), bundle.into_inner().pem).unwrap();
    std::fs::write(dir.join("leaf.pem"), pem("CERTIFICATE", &issued.chain_der[0])).unwrap();
    std::fs::write(dir.join("intermediate.pem"), pem("CERTIFICATE", &issued.chain_der[1])).unwrap();
    for purpose in ["sslclient", "sslserver"] {
        let arguments = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            "root.pem",
            "-untrusted",
            "intermediate.pem",
            "leaf.pem",
        ];
        assert_eq!(openssl(dir, &arguments).trim(), "leaf.pem: OK");
    }
    openssl(dir, &["x509", "-in", "leaf.pem", "-noout", "-text", "-nameopt", "RFC2253"])
}

/// The values of the extensions that OpenSSL knows, without blanks.
fn extension(text: &str, name: &str) -> String {
    let from = text.find(name).unwrap_or_else(|| panic!("no {name} in {text}"));
    text[from..].lines().nth(1).unwrap().trim().to_owned()
}

/// Says what the broker chose, and nothing else.
fn assert_brokers_own_fields(text: &str, task: &proto::Task) {
    let name = format!("spiffe://broker.example.org/task/{}/agent/example.org/agent/a1", task.id);
    assert_eq!(extension(text, "X509v3 Subject Alternative Name: critical"), format!("URI:{name}"));
    assert_eq!(extension(text, "X509v3 Basic Constraints: critical"), "CA:FALSE");
    assert_eq!(extension(text, "X509v3 Key Usage: critical"), "Digital Signature");
    let uses = "TLS Web Server Authentication, TLS Web Client Authentication";
    assert_eq!(extension(text, "X509v3 Extended Key Usage"), uses);
    assert_eq!(text.matches("X509v3 ").count(), 1 + 6, "other extensions: {text}");
    assert!(text.contains("Subject: \n") || text.contains("Subject:\n"), "{text}");
}

async fn a_certificate_is_issued_for_a_csr_and_openssl_takes_it(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let issued = agent.issue(issue(&task, Key::CsrPem(csr(broker.world.dir(), "agent")))).await.unwrap();
    let text = examined(&broker, &agent, &issued).await;
    assert_brokers_own_fields(&text, &task);
    let dir = broker.world.dir();
    let number = openssl(dir, &["x509", "-in", "leaf.pem", "-noout", "-serial"]);
    assert_eq!(number.trim().to_lowercase(), format!("serial={}", issued.credential_id));
    let of_certificate = openssl(dir, &["x509", "-in", "leaf.pem", "-noout", "-pubkey"]);
    assert_eq!(of_certificate, openssl(dir, &["pkey", "-in", "agent.key", "-pubout"]));

    assert_eq!(
        issued.chain_pem,
        issued.chain_der.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>()
    );
    assert_eq!(issued.sha256, digest(&SHA256, &issued.chain_der[0]).as_ref());
    assert!(text.contains(&format!("URI:{}", issued.spiffe_id)));
    let (begin, end) = (millis(&task.began_at), millis(&issued.expires_at));
    assert!((298_000..=330_000).contains(&(end - begin)), "5 min if nothing is asked: {}", end - begin);
    assert!(millis(&issued.renew_after) < end && millis(&issued.renew_after) > begin);

    let verdict = broker.verifier().validate(serial(&issued.credential_id, DOCS)).await.unwrap();
    assert!(verdict.active);
    agent.complete(&task.id).await.unwrap();
    assert!(!broker.verifier().validate(serial(&issued.credential_id, DOCS)).await.unwrap().active);
}

async fn a54_of_a_csr_nothing_is_taken_but_its_key(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let dir = broker.world.dir();
    csr(dir, "greedy");
    let names = "subjectAltName=URI:spiffe://example.org/operator/alice,DNS:*.example.org,DNS:localhost,IP:127.0.0.1,email:root@example.org";
    openssl(
        dir,
        &[
            "req",
            "-new",
            "-key",
            "greedy.key",
            "-subj",
            "/O=Example/CN=operator",
            "-days",
            "3650",
            "-out",
            "greedy.csr",
            "-addext",
            names,
            "-addext",
            "basicConstraints=critical,CA:TRUE,pathlen:3",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-addext",
            "extendedKeyUsage=codeSigning,anyExtendedKeyUsage",
            "-addext",
            "nameConstraints=critical,permitted;DNS:org",
        ],
    );
    openssl(dir, &["req", "-in", "greedy.csr", "-outform", "DER", "-out", "greedy.der"]);
    let der = std::fs::read(dir.join("greedy.der")).unwrap();
    // Ten years are a mistake; most of a year is cut to what policy allows.
    let years = proto::IssueCertificateRequest {
        lifetime: seconds(3_650 * 86_400),
        ..issue(&task, Key::CsrDer(der.clone().into()))
    };
    refused(agent.issue(years).await, Code::InvalidArgument, "INVALID_DURATION");
    let months = proto::IssueCertificateRequest {
        lifetime: seconds(300 * 86_400),
        ..issue(&task, Key::CsrDer(der.into()))
    };
    let issued = agent.issue(months).await.unwrap();
    assert_brokers_own_fields(&examined(&broker, &agent, &issued).await, &task);
    assert!(millis(&issued.expires_at) <= millis(&task.deadline));
    // With it, nobody gets in here: the task CA is no anchor for callers of the broker.
    let key = rcgen::KeyPair::from_pem(&broker.world.read("greedy.key")).unwrap();
    let chain = issued.chain_der.iter().map(|der| der.to_vec().into()).collect();
    let intruder = broker.client(&crate::support::ca::Svid { chain, key });
    assert!(intruder.get(&task.id).await.is_err());
}

/// A public key, and a proof over these parts.
fn proven(algorithm: &str, label: &str, task: &str, caller: &str) -> proto::ProvenKey {
    let kind = match algorithm {
        "P-256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "P-384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        _ => &rcgen::PKCS_ED25519,
    };
    let key = rcgen::KeyPair::generate_for(kind).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    let digest = digest(&SHA256, &spki);
    let message = [label.as_bytes(), task.as_bytes(), caller.as_bytes(), digest.as_ref()].join(&0);
    let (pkcs8, random) = (key.serialize_der(), SystemRandom::new());
    let ecdsa = |algorithm| {
        let key = EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8, &random).unwrap();
        key.sign(&random, &message).unwrap().as_ref().to_vec()
    };
    let signature = match algorithm {
        "P-256" => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
        "P-384" => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
        _ => Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).unwrap().sign(&message).as_ref().to_vec(),
    };
    proto::ProvenKey { spki_der: spki.into(), signature: signature.into() }
}

const LABEL: &str = "taskpass-key-proof-v1";
const A1: &str = "spiffe://example.org/agent/a1";

async fn a_certificate_is_issued_for_a_key_with_a_proof(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    for algorithm in ["P-256", "P-384", "Ed25519"] {
        let key = proven(algorithm, LABEL, &task.id, A1);
        let spki = key.spki_der.clone();
        let issued = agent.issue(issue(&task, Key::PublicKey(key))).await.unwrap();
        let text = examined(&broker, &agent, &issued).await;
        assert_brokers_own_fields(&text, &task);
        let public = openssl(broker.world.dir(), &["x509", "-in", "leaf.pem", "-noout", "-pubkey"]);
        assert_eq!(public, pem("PUBLIC KEY", &spki), "{algorithm}");
    }
}

async fn a_key_without_a_proof_for_this_task_and_caller_is_refused(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let (task, other) = (agent.docs_task().await, agent.docs_task().await);
    let good = proven("P-256", LABEL, &task.id, A1);
    let mut flipped = good.signature.to_vec();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let another = proven("P-256", LABEL, &task.id, A1).spki_der;
    let proofs = [
        proven("P-256", LABEL, &other.id, A1),
        proven("P-256", LABEL, &task.id, "spiffe://example.org/agent/a2"),
        proven("P-256", "taskpass-key-proof-v2", &task.id, A1),
        proto::ProvenKey { signature: flipped.into(), ..good.clone() },
        proto::ProvenKey { signature: Default::default(), ..good.clone() },
        proto::ProvenKey { signature: vec![0; 100_000 / 2].into(), ..good.clone() },
        proto::ProvenKey { spki_der: another, ..good.clone() },
        proto::ProvenKey { spki_der: Default::default(), ..good.clone() },
        proto::ProvenKey { spki_der: vec![0x30; 40_000].into(), ..good },
    ];
    for proof in proofs {
        refused(agent.issue(issue(&task, Key::PublicKey(proof))).await, Code::InvalidArgument, "INVALID_KEY");
    }
    assert_eq!(agent.get(&task.id).await.unwrap().credentials_issued, 0);
}

async fn a_csr_that_proves_nothing_is_refused_and_leaves_no_record(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let dir = broker.world.dir();
    let good = csr(dir, "good");
    openssl(dir, &["req", "-in", "good.csr", "-outform", "DER", "-out", "good.der"]);
    let der = std::fs::read(dir.join("good.der")).unwrap();
    let mut forged = der.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    openssl(
        dir,
        &[
            "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "rsa.key", "-subj", "/CN=a", "-out",
            "rsa.csr",
        ],
    );
    openssl(
        dir,
        &[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:secp256k1",
            "-nodes",
            "-keyout",
            "k1.key",
            "-subj",
            "/CN=a",
            "-out",
            "k1.csr",
        ],
    );
    let private = std::fs::read_to_string(dir.join("good.key")).unwrap();
    let keys = [
        Key::CsrDer(forged.into()),
        Key::CsrDer(der[..der.len() - 1].to_vec().into()),
        Key::CsrDer([&der[..], &[0]].concat().into()),
        Key::CsrDer(Default::default()),
        Key::CsrDer(vec![0x30; 9_000].into()),
        Key::CsrDer(good.clone().into_bytes().into()),
        Key::CsrPem(String::new()),
        Key::CsrPem("-----BEGIN CERTIFICATE REQUEST-----\nAAAA".into()),
        Key::CsrPem(agent_certificate_pem(&broker)),
        Key::CsrPem(std::fs::read_to_string(dir.join("rsa.csr")).unwrap()),
        Key::CsrPem(std::fs::read_to_string(dir.join("k1.csr")).unwrap()),
        Key::CsrPem(format!("{private}{good}")),
    ];
    for key in keys {
        let status = refused(agent.issue(issue(&task, key)).await, Code::InvalidArgument, "INVALID_KEY");
        assert!(!status.message().contains("PRIVATE KEY-----"));
    }
    let nothing = proto::IssueCertificateRequest { key: None, ..issue(&task, Key::CsrPem(good)) };
    refused(agent.issue(nothing).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(agent.get(&task.id).await.unwrap().credentials_issued, 0);
}

fn agent_certificate_pem(broker: &Broker) -> String {
    broker.world.svid("agent/a1").chain_pem()
}

async fn g7_a_certificate_has_caps_of_its_own(store: Store) {
    let broker = Broker::of(Setup::on(store).with("lifetimes", "max_certificate = \"40m\"")).await;
    let agent = broker.agent();
    let hour = proto::BeginTaskRequest { lifetime: seconds(3_600), ..begin(&[docs()]) };
    let (task, short) = (agent.begin(hour).await.unwrap(), agent.docs_task().await);
    let request = csr(broker.world.dir(), "agent");
    let asked = |task, lifetime| proto::IssueCertificateRequest {
        lifetime: seconds(lifetime),
        ..issue(task, Key::CsrPem(request.clone()))
    };
    let left = |issued: &proto::IssueCertificateResponse| {
        millis(&issued.expires_at) / 1_000 - i64::try_from(now().as_secs()).unwrap()
    };
    let long = left(&agent.issue(asked(&task, 3_600)).await.unwrap());
    assert!((1_770..=1_800).contains(&long), "the policy's cap of half an hour: {long}");
    assert!((70..=100).contains(&left(&agent.issue(asked(&task, 100)).await.unwrap())));
    let issued = agent.issue(asked(&short, 3_600)).await.unwrap();
    assert!(millis(&issued.expires_at) <= millis(&short.deadline), "the task's deadline");
    let not_after = now().as_secs() + 90;
    let svid = broker.world.tenant.svid_with("agent/a1", |params| valid(params, 0, not_after));
    let issued = broker.client(&svid).issue(asked(&task, 3_600)).await.unwrap();
    assert!(
        millis(&issued.expires_at) / 1_000 <= i64::try_from(not_after).unwrap(),
        "the caller's certificate"
    );
}

async fn a_token_can_be_bound_to_a_certificate_of_its_task_alone(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let request = csr(broker.world.dir(), "agent");
    let task = agent.begin(begin(&[payments()])).await.unwrap();
    let other = agent.begin(begin(&[payments()])).await.unwrap();
    let certificate = async |task: &proto::Task| {
        let request = issue(task, Key::CsrPem(request.clone()));
        agent.issue(request).await.unwrap()
    };
    let bound_to = |der: &[u8]| proto::MintTokenRequest {
        certificate_der: der.to_vec().into(),
        ..mint(&task, PAYMENTS)
    };
    let own = certificate(&task).await;
    let minted = agent.mint(bound_to(&own.chain_der[0])).await.unwrap();
    let thumbprint = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &own.sha256);
    assert_eq!(read_token(&minted.token).1["cnf"], json!({ "x5t#S256": thumbprint }));
    assert!(millis(&minted.expires_at) <= millis(&own.expires_at));

    let revoked = certificate(&task).await;
    agent.revoke_credential(&revoked.credential_id).await.unwrap();
    let foreign = certificate(&other).await;
    let svid = broker.world.svid("agent/a1");
    let tampered = {
        let mut der = own.chain_der[0].to_vec();
        *der.last_mut().unwrap() ^= 1;
        der
    };
    let others = [
        &revoked.chain_der[0],
        &foreign.chain_der[0],
        &own.chain_der[1],
        &svid.chain[0][..],
        &tampered,
        &[0],
    ];
    for der in others {
        refused(agent.mint(bound_to(der)).await, Code::FailedPrecondition, "BINDING_MISMATCH");
    }
    refused(agent.mint(bound_to(&[0; 9_000])).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

/// What the documents say of it, so that nobody relies on more.
async fn a_token_that_is_bound_to_a_certificate_is_ended_by_itself_or_with_the_task(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.workload("mcp/payments/p1"));
    let task = agent.begin(begin(&[payments()])).await.unwrap();
    let request = issue(&task, Key::CsrPem(csr(broker.world.dir(), "agent")));
    let certificate = agent.issue(request).await.unwrap();
    let bound = || proto::MintTokenRequest {
        certificate_der: certificate.chain_der[0].clone(),
        ..mint(&task, PAYMENTS)
    };
    let (first, second) = (agent.mint(bound()).await.unwrap(), agent.mint(bound()).await.unwrap());
    let good = async |minted: &proto::MintTokenResponse| {
        let shown = proto::ValidateRequest {
            presented_certificate_sha256: certificate.sha256.clone(),
            ..shown(&minted.token, PAYMENTS)
        };
        verifier.validate(shown).await.unwrap().active
    };
    agent.revoke_credential(&certificate.credential_id).await.unwrap();
    let by_serial = serial(&certificate.credential_id, PAYMENTS);
    assert!(!verifier.validate(by_serial).await.unwrap().active);
    assert!(good(&first).await && good(&second).await);
    agent.revoke_credential(&first.credential_id).await.unwrap();
    assert!(!good(&first).await && good(&second).await);
    agent.complete(&task.id).await.unwrap();
    assert!(!good(&second).await);
}

on_both_stores!(
    a_certificate_is_issued_for_a_csr_and_openssl_takes_it,
    a54_of_a_csr_nothing_is_taken_but_its_key,
    a_certificate_is_issued_for_a_key_with_a_proof,
    a_key_without_a_proof_for_this_task_and_caller_is_refused,
    a_csr_that_proves_nothing_is_refused_and_leaves_no_record,
    g7_a_certificate_has_caps_of_its_own,
    a_token_can_be_bound_to_a_certificate_of_its_task_alone,
    a_token_that_is_bound_to_a_certificate_is_ended_by_itself_or_with_the_task,
);

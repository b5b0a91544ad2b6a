//! Authorities outside, and what is judged with their anchors.

use std::path::Path;
use std::process::Command;

use rcgen::{CertificateParams, CertificateSigningRequestParams};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use taskpass::proto::{self, KeyState};
use tonic::Status;
use webpki::{EndEntityCert, KeyUsage};

use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, pem, valid};
use crate::support::client::Client;
use crate::support::story::seconds;
use crate::support::world::BROKER_DOMAIN;
use crate::support::{Store, now};

/// What is installed may sign after three seconds.
pub const SOON: &str = "refresh_hint = \"1s\"\njwks_max_age = \"1s\"\nagree_within = \"1s\"";
/// And has to live for 13 s at least.
pub const SHORT: &str = "max_certificate = \"5s\"\ndefault_certificate = \"5s\"";

/// A broker whose task CA is signed by what lies in `upstream.pem`.
pub fn upstream(store: Store, anchors: &str) -> Setup {
    let setup = Setup::on(store).with("keys", SOON).with("lifetimes", SHORT);
    setup.world.write("upstream.pem", anchors);
    setup.with("task_ca", "upstream_bundle = \"upstream.pem\"")
}

/// Those who look after the task CA.
pub struct Platform(pub Client);

impl Platform {
    pub async fn csr(&self) -> Result<proto::RequestTaskCaCertificateResponse, Status> {
        let request = proto::RequestTaskCaCertificateRequest { note: "as agreed".into() };
        Ok(self.0.keys().request_task_ca_certificate(request).await?.into_inner())
    }

    pub async fn install(&self, chain: &str) -> Result<proto::KeyMove, Status> {
        let chain_pem = chain.to_owned();
        let request = proto::InstallTaskCaCertificateRequest { chain_pem, ..Default::default() };
        Ok(self.0.keys().install_task_ca_certificate(request).await?.into_inner().r#move.unwrap())
    }

    pub async fn show(&self) -> proto::ShowTaskCaResponse {
        self.0.keys().show_task_ca(proto::ShowTaskCaRequest {}).await.unwrap().into_inner()
    }

    /// The key that signs.
    pub async fn signs(&self) -> Option<String> {
        let shown = self.show().await.intermediates.into_iter().filter_map(|it| it.key);
        shown.filter(|key| key.state() == KeyState::Active).map(|key| key.kid).next()
    }
}

/// The request as `edit` says, signed for so long, with what is above it but for the root.
pub fn answered(csr: &str, by: &Ca, lives: u64, edit: impl FnOnce(&mut CertificateParams)) -> String {
    let asked = CertificateSigningRequestParams::from_pem(csr).unwrap();
    let mut params = asked.params.clone();
    valid(&mut params, now().as_secs() - 60, now().as_secs() + lives);
    params.use_authority_key_identifier_extension = true;
    edit(&mut params);
    let above: String = by.path().iter().map(|der| pem("CERTIFICATE", der)).collect();
    pem("CERTIFICATE", &by.sign(&params, &asked.public_key)) + &above
}

/// Runs OpenSSL in `dir` and returns what it printed; panics if it fails.
pub fn openssl(dir: &Path, arguments: &str) -> String {
    let (succeeded, said) = openssl_says(dir, arguments);
    assert!(succeeded, "openssl {arguments}: {said}");
    said
}

/// Whether it succeeded, and what it said.
pub fn openssl_says(dir: &Path, arguments: &str) -> (bool, String) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output();
    let output = output.expect("openssl runs: install it, for example with `apt-get install openssl`");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// A company's root (P-384) and an authority below it (RSA), made with OpenSSL. Written as `root.pem` and `signs.pem`.
pub fn company(dir: &Path) {
    let root = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
    std::fs::write(dir.join("ca.ext"), format!("{root}authorityKeyIdentifier=keyid\n")).unwrap();
    // What a request does not ask for, and a strict reader wants.
    std::fs::write(dir.join("task.ext"), "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        .unwrap();
    openssl(
        dir,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout root.key -out root.pem -days 3650 \
                  -subj /O=Company/CN=Root -addext keyUsage=critical,keyCertSign,cRLSign",
    );
    openssl(
        dir,
        "req -new -newkey rsa:2048 -nodes -keyout signs.key -out signs.csr -subj /O=Company/CN=Issuing",
    );
    openssl(
        dir,
        "x509 -req -in signs.csr -CA root.pem -CAkey root.key -CAcreateserial -days 1000 -extfile ca.ext -out signs.pem",
    );
}

/// The request in `task.csr`, signed there as it asks.
pub fn company_signs(dir: &Path, more: &str) -> String {
    let sign = "x509 -req -in task.csr -CA signs.pem -CAkey signs.key -CAcreateserial -days 90 -copy_extensions copyall -extfile task.ext -out task.pem";
    openssl(dir, &format!("{sign} {more}"));
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    read("task.pem") + &read("signs.pem")
}

pub async fn bundle(client: &Client) -> proto::GetTaskCaBundleResponse {
    client.directory().get_task_ca_bundle(proto::GetTaskCaBundleRequest {}).await.unwrap().into_inner()
}

/// Holds OpenSSL to what the broker publishes, and what it issues, for both purposes.
pub fn openssl_takes(dir: &Path, anchors: &str, issued: &proto::IssueCertificateResponse) {
    std::fs::write(dir.join("anchors.pem"), anchors).unwrap();
    std::fs::write(dir.join("chain.pem"), &issued.chain_pem).unwrap();
    for purpose in ["sslclient", "sslserver"] {
        let arguments = "verify -x509_strict -CAfile anchors.pem -untrusted chain.pem";
        assert_eq!(
            openssl(dir, &format!("{arguments} -purpose {purpose} chain.pem")).trim(),
            "chain.pem: OK"
        );
    }
}

/// A verdict as rustls has it.
pub fn webpki_takes(anchors: &str, chain: &[Vec<u8>]) -> Result<(), webpki::Error> {
    let anchors: Vec<_> = CertificateDer::pem_slice_iter(anchors.as_bytes()).map(Result::unwrap).collect();
    let anchors: Vec<_> = anchors.iter().map(|it| webpki::anchor_from_trusted_cert(it).unwrap()).collect();
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let (leaf, shown) = chain.split_first().unwrap();
    let (at, usage) = (UnixTime::now(), KeyUsage::client_auth());
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    EndEntityCert::try_from(leaf)?
        .verify_for_usage(algorithms, &anchors, shown, at, usage, None, None)
        .map(drop)
}

/// A certificate that lives some seconds.
pub async fn certificate(
    agent: &Client,
    task: &proto::Task,
) -> Result<proto::IssueCertificateResponse, Status> {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let key = Some(proto::issue_certificate_request::Key::CsrDer(csr.der().to_vec().into()));
    let request = proto::IssueCertificateRequest {
        task_id: task.id.clone(),
        key,
        minimum_lifetime: seconds(1),
        ..Default::default()
    };
    agent.issue(request).await
}

pub fn chain(issued: &proto::IssueCertificateResponse) -> Vec<Vec<u8>> {
    issued.chain_der.iter().map(|der| der.to_vec()).collect()
}

/// The real binary, as somebody of the platform runs it. What it printed, and its exit code.
pub fn taskpass(broker: &Broker, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new("taskpass");
    let output = as_platform(broker, command.args(arguments).current_dir(broker.world.dir()));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs something that finds the binary, the broker, and the identity of somebody of the platform.
pub fn as_platform(broker: &Broker, command: &mut Command) -> std::process::Output {
    let world = &broker.world;
    let (certificate, key) = world.tenant.svid("platform/root").write(world.dir(), "platform");
    world.write("broker-ca.pem", &world.broker_ca.pem());
    let binaries = Path::new(env!("CARGO_BIN_EXE_taskpass")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    command
        .env("PATH", path)
        .env("TASKPASS_BROKER", format!("https://localhost:{}", broker.grpc.port()))
        .env("TASKPASS_BROKER_ID", format!("spiffe://{BROKER_DOMAIN}/broker"))
        .env("TASKPASS_BUNDLE", world.path("broker-ca.pem"))
        .env("TASKPASS_SVID", certificate)
        .env("TASKPASS_SVID_KEY", key)
        .output()
        .unwrap()
}

/// The subject key identifier of a certificate.
pub fn key_identifier(der: &[u8]) -> Vec<u8> {
    use x509_parser::extensions::ParsedExtension;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let found = certificate.iter_extensions().find_map(|it| match it.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    found.unwrap()
}

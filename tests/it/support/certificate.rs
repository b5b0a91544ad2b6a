//! Task certificates, asked for and read.

use taskpass::proto;
use taskpass_verifier::VerificationKey;
use taskpass_verifier::keyset::{Algorithm, KeyId};

use super::client::Client;

/// A certificate of the task, for a new key.
pub async fn issued(
    agent: &Client,
    task: &proto::Task,
) -> Result<proto::IssueCertificateResponse, tonic::Status> {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let key = Some(proto::issue_certificate_request::Key::CsrPem(csr.pem().unwrap()));
    agent.issue(proto::IssueCertificateRequest { task_id: task.id.clone(), key, ..Default::default() }).await
}

/// The key of the intermediate that has signed it.
pub fn authority(issued: &proto::IssueCertificateResponse) -> KeyId {
    let (_, intermediate) = x509_parser::parse_x509_certificate(&issued.chain_der[1]).unwrap();
    let point = &intermediate.public_key().subject_public_key.data;
    VerificationKey::from_public_bytes(Algorithm::Es256, point).unwrap().id()
}

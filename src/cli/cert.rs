//! `taskpass cert ...`: X.509 certificates that name a task.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::args::{Wait, duration, proto_duration};
use super::connect::Connection;
use super::credential::revoke;
use super::failure::{Exit, Failure, Outcome};
use super::output::{Output, inline, note};
use super::token::ask;
use super::{input, render};
use crate::ids::CredentialId;
use crate::proto;
use crate::proto::issue_certificate_request::Key;
use crate::time::{Clock as _, SystemClock};

/// Issue certificates, ask whether they are good, revoke them
#[derive(Debug, Args)]
pub(super) struct Cert {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Issue a certificate that names a task
    Issue(Issue),
    /// For verifiers: is this certificate good, now? Exit code 4 if it is not
    Validate(Validate),
    /// End one certificate and leave its task alive
    Revoke {
        /// Its serial number
        #[arg(value_name = "SERIAL")]
        serial: String,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Args)]
struct Issue {
    /// The task
    #[arg(long, value_name = "TASK")]
    task: String,
    /// Make a new key (P-256) and write it here, readable by you alone
    #[arg(long, value_name = "FILE", required_unless_present = "csr", conflicts_with = "csr")]
    key: Option<PathBuf>,
    /// A certificate signing request of yours, PEM or DER; only its public key is taken
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Write the chain (PEM) here instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How long it lives; policy, the task and your certificate may cut it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    lifetime: Option<Duration>,
    /// Rather an error than a certificate that lives shorter than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    minimum_lifetime: Option<Duration>,
}

#[derive(Debug, Args)]
struct Validate {
    /// The audience that you verify for
    #[arg(long, value_name = "URI")]
    audience: String,
    /// The serial number of a certificate whose chain you have checked
    #[arg(long, value_name = "SERIAL", required_unless_present = "cert", conflicts_with = "cert")]
    serial: Option<String>,
    /// A certificate (PEM) whose chain you have checked
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
}

impl Cert {
    pub(super) async fn run(self, out: Output) -> Outcome {
        match self.verb {
            Verb::Issue(issue) => {
                let key = issue.key_request()?;
                let issued =
                    issue.ask(&self.connection, key, out).await.inspect_err(|_| issue.forget_key())?;
                issue.tell(&issued, out)
            }
            Verb::Validate(validate) => {
                let request = validate.request()?;
                ask(&self.connection.open(out).await?, request, out).await
            }
            Verb::Revoke { serial, wait } => {
                revoke(&self.connection.open(out).await?, serial, &wait, out).await
            }
        }
    }
}

impl Issue {
    /// The new key is on disk before the certificate is asked for.
    fn key_request(&self) -> Result<Key, Failure> {
        if let Some(csr) = &self.csr {
            let bytes = input::bytes(csr)?;
            return Ok(match String::from_utf8(bytes) {
                Ok(pem) if pem.contains("-----BEGIN") => Key::CsrPem(pem),
                Ok(text) => Key::CsrDer(text.into_bytes().into()),
                Err(der) => Key::CsrDer(der.into_bytes().into()),
            });
        }
        let key = KeyPair::generate().map_err(|why| Failure::at("making a key", why))?;
        let csr = signing_request(&key)?;
        if let Some(path) = &self.key {
            input::create_private(path, &Zeroizing::new(key.serialize_pem()))?;
        }
        Ok(Key::CsrDer(csr.into()))
    }

    /// A key without a certificate is of no use, and would stand in the way of the next try. Never once the broker has issued one.
    fn forget_key(&self) {
        if let Some(path) = &self.key {
            drop(std::fs::remove_file(path));
        }
    }

    async fn ask(
        &self,
        connection: &Connection,
        key: Key,
        out: Output,
    ) -> Result<proto::IssueCertificateResponse, Failure> {
        let request = proto::IssueCertificateRequest {
            task_id: self.task.clone(),
            key: Some(key),
            lifetime: self.lifetime.map(proto_duration),
            minimum_lifetime: self.minimum_lifetime.map(proto_duration),
        };
        connection.open(out).await?.issue_certificate(request).await
    }

    fn tell(&self, issued: &proto::IssueCertificateResponse, out: Output) -> Outcome {
        if let Some(path) = &self.out {
            input::replace(path, &issued.chain_pem, 0o644)?;
        }
        if !out.is_json() {
            note(format_args!(
                "certificate {} for {} expires {}",
                inline(&issued.credential_id),
                inline(&issued.spiffe_id),
                render::when(issued.expires_at.as_ref(), SystemClock.now()),
            ));
        }
        let text = || match &self.out {
            Some(path) => format!("{}\n", path.display()),
            None => issued.chain_pem.clone(),
        };
        out.answer(|| render::certificate(issued), text).map(|()| Exit::Done)
    }
}

/// A request that says nothing but the public key: nothing else of it would be taken.
pub(super) fn signing_request(key: &KeyPair) -> Result<Vec<u8>, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request =
        params.serialize_request(key).map_err(|why| Failure::at("making a signing request", why))?;
    Ok(request.der().to_vec())
}

impl Validate {
    fn request(self) -> Result<proto::ValidateRequest, Failure> {
        let serial = match (self.serial, self.cert) {
            (Some(serial), _) => serial,
            (None, Some(file)) => serial_of(&first_certificate(&file)?)
                .ok_or_else(|| Failure::at(file.display(), "not a certificate of a Taskpass broker"))?
                .to_string(),
            (None, None) => return Err(Failure::usage("say --serial SERIAL or --cert FILE")),
        };
        Ok(proto::ValidateRequest {
            audience: self.audience,
            credential: Some(proto::validate_request::Credential::CertificateSerial(serial)),
            ..Default::default()
        })
    }
}

/// The first certificate of a PEM file.
pub(super) fn first_certificate(path: &Path) -> Result<CertificateDer<'static>, Failure> {
    let first = CertificateDer::pem_slice_iter(&input::bytes(path)?).next();
    first.and_then(Result::ok).ok_or_else(|| Failure::at(path.display(), "there is no PEM certificate in it"))
}

/// Its serial number, if that is one of ours. Nothing is verified.
fn serial_of(der: &CertificateDer<'_>) -> Option<CredentialId> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    CredentialId::from_bytes(certificate.raw_serial().try_into().ok()?).ok()
}

/// SHA-256 of the DER, as `x5t#S256` has it.
pub(super) fn thumbprint(der: &CertificateDer<'_>) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, der).as_ref());
    digest
}

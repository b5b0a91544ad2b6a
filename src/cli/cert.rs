//! `taskpass cert ...`: X.509 certificates that name a task.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use taskpass_verifier::UnixSeconds;
use taskpass_verifier::keyset::{Algorithm, KeyId, VerificationKey};
use taskpass_verifier::verifier::TaskCertificate;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::args::{Wait, duration, proto_duration};
use super::connect::{Client, Connection};
use super::credential::revoke;
use super::failure::{Exit, Failure, Outcome};
use super::input::Replacement;
use super::output::{Output, inline, note};
use super::token::ask;
use super::{input, render};
use crate::ids::CredentialId;
use crate::keys::publish::pem;
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
    /// The certificates that are good no longer though they have not expired: revocation lists in PEM, as `openssl verify -crl_check_all -CRLfile` takes them
    Crl {
        /// Of this key of the task CA alone (RFC 7638 thumbprint); of all if not set
        #[arg(long, value_name = "KID", allow_hyphen_values = true)]
        authority: Option<String>,
        /// Write them here instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// End one certificate and leave its task alive. Tokens that are bound to it stay good until they expire: revoke those that `credential list` shows too, or end
    /// the task
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
    /// A certificate (PEM) whose chain you have checked. What follows it in the file is taken for the intermediate that has signed it
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The RFC 7638 thumbprint of the key of the intermediate that has signed it: certificates of others than that are not asked about
    #[arg(long, value_name = "KID", allow_hyphen_values = true)]
    authority: Option<String>,
}

impl Cert {
    pub(super) async fn run(self, out: Output) -> Outcome {
        match self.verb {
            Verb::Issue(issue) => {
                let file = issue.file()?;
                let key = issue.key_request()?;
                let issued =
                    issue.ask(&self.connection, key, out).await.inspect_err(|_| issue.forget_key())?;
                issue.tell(&issued, file, out)
            }
            Verb::Validate(validate) => match validate.request()? {
                Some(request) => ask(&self.connection.open(out).await?, request, out).await,
                None => foreign(out),
            },
            Verb::Crl { authority, out: path } => {
                let file = path.as_deref().map(|path| Replacement::of(path, 0o644)).transpose()?;
                let lists = revocation_lists(&self.connection.open(out).await?, authority).await?;
                tell_lists(&lists, path.as_deref().zip(file), out)
            }
            Verb::Revoke { serial, wait } => {
                revoke(&self.connection.open(out).await?, serial, &wait, out).await
            }
        }
    }
}

impl Issue {
    /// Where the chain goes, before the broker is asked for one: what could not be written would be lost.
    fn file(&self) -> Result<Option<Replacement>, Failure> {
        let Some(path) = &self.out else { return Ok(None) };
        if self.key.as_ref() == Some(path) {
            return Err(Failure::usage("--key and --out name the same file"));
        }
        Replacement::of(path, 0o644).map(Some)
    }

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

    fn tell(
        &self,
        issued: &proto::IssueCertificateResponse,
        file: Option<Replacement>,
        out: Output,
    ) -> Outcome {
        if let Some(Err(why)) = file.map(|file| file.fill(&issued.chain_pem)) {
            // It is there and is on record: whoever asked for it shall have it.
            out.answer(|| render::certificate(issued), || issued.chain_pem.clone())?;
            return Err(why.hint("The certificate was issued all the same, and is on standard output."));
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
    /// `None`: a certificate that no broker of ours has made, which is good nowhere.
    fn request(self) -> Result<Option<proto::ValidateRequest>, Failure> {
        let mut authority = match self.authority.as_deref().map(str::parse::<KeyId>) {
            Some(Err(why)) => return Err(Failure::usage(format_args!("--authority: {why}"))),
            Some(Ok(key)) => Some(key),
            None => None,
        };
        let serial = match (self.serial, self.cert) {
            (Some(serial), _) => serial,
            (None, Some(file)) => {
                let chain = certificates(&file)?;
                let Some(serial) = chain.first().and_then(serial_of) else { return Ok(None) };
                authority = authority.or_else(|| chain.get(1).and_then(key_of));
                serial.to_string()
            }
            (None, None) => return Err(Failure::usage("say --serial SERIAL or --cert FILE")),
        };
        Ok(Some(proto::ValidateRequest {
            audience: self.audience,
            credential: Some(proto::validate_request::Credential::CertificateSerial(serial)),
            certificate_authority_jwk_sha256: authority
                .map(|key| key.as_bytes().to_vec().into())
                .unwrap_or_default(),
            ..Default::default()
        }))
    }
}

/// The verdict on what was never ours: nobody is asked.
fn foreign(out: Output) -> Outcome {
    let verdict = proto::ValidateResponse::default();
    note("not a certificate of a Taskpass broker");
    out.answer(|| render::verdict(&verdict), || render::verdict_text(&verdict, SystemClock.now()))?;
    Ok(Exit::Inactive)
}

async fn revocation_lists(
    client: &Client,
    authority: Option<String>,
) -> Result<Vec<proto::GetRevocationListResponse>, Failure> {
    let ask = async |authority: String| {
        client.get_revocation_list(proto::GetRevocationListRequest { authority }).await
    };
    let all = authority.is_none();
    let mut lists = vec![ask(authority.unwrap_or_default()).await?];
    let others = lists.iter().flat_map(|first| &first.authorities).skip(1).cloned().collect::<Vec<_>>();
    for authority in others.into_iter().filter(|_| all) {
        lists.push(ask(authority).await?);
    }
    Ok(lists)
}

fn tell_lists(
    lists: &[proto::GetRevocationListResponse],
    file: Option<(&Path, Replacement)>,
    out: Output,
) -> Outcome {
    let pem: String = lists.iter().map(|list| pem("X509 CRL", &list.crl_der)).collect();
    let path = match file {
        Some((path, file)) => file.fill(&pem).map(|()| Some(path))?,
        None => None,
    };
    if !out.is_json() {
        let now = SystemClock.now();
        for list in lists {
            note(format_args!(
                "{}: {} certificates, until {}",
                inline(&list.authority),
                list.entries,
                render::when(list.next_update.as_ref(), now)
            ));
        }
    }
    let text = || path.map_or_else(|| pem.clone(), |path| format!("{}\n", path.display()));
    out.answer(|| json!({ "lists": lists.iter().map(render::revocation_list).collect::<Vec<_>>() }), text)
        .map(|()| Exit::Done)
}

/// The first certificate of a PEM file.
pub(super) fn first_certificate(path: &Path) -> Result<CertificateDer<'static>, Failure> {
    certificates(path)?
        .into_iter()
        .next()
        .ok_or_else(|| Failure::at(path.display(), "there is no PEM certificate in it"))
}

/// The certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(&input::bytes(path)?).map_while(std::result::Result::ok).collect();
    match all.is_empty() {
        true => Err(Failure::at(path.display(), "there is no PEM certificate in it")),
        false => Ok(all),
    }
}

/// The name of a certificate's key, if that is one that signs certificates of ours.
fn key_of(der: &CertificateDer<'_>) -> Option<KeyId> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let key = &certificate.public_key().subject_public_key.data;
    VerificationKey::from_public_bytes(Algorithm::Es256, key).ok().map(|key| key.id())
}

/// Its serial number, if that is one of ours. Nothing is verified.
fn serial_of(der: &CertificateDer<'_>) -> Option<CredentialId> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    CredentialId::from_bytes(certificate.raw_serial().try_into().ok()?).ok()
}

/// A task certificate as the broker has issued it, and as a server reads it whose TLS layer has verified the chain. Here nothing is verified.
#[derive(Debug)]
pub(super) struct TaskChain {
    serial: Vec<u8>,
    spiffe_id: String,
    authority: KeyId,
    not_before: UnixSeconds,
    not_after: UnixSeconds,
}

impl TaskChain {
    /// Out of the leaf and the intermediate that has signed it; `None` if they are not those of a Taskpass broker.
    pub(super) fn of(issued: &proto::IssueCertificateResponse) -> Option<Self> {
        let [leaf, intermediate, ..] = issued.chain_der.as_slice() else { return None };
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        let (_, intermediate) = X509Certificate::from_der(intermediate).ok()?;
        let point = &intermediate.public_key().subject_public_key.data;
        let seconds = |at: x509_parser::time::ASN1Time| u64::try_from(at.timestamp()).ok().map(UnixSeconds);
        Some(Self {
            serial: leaf.raw_serial().to_vec(),
            spiffe_id: issued.spiffe_id.clone(),
            authority: VerificationKey::from_public_bytes(Algorithm::Es256, point).ok()?.id(),
            not_before: seconds(leaf.validity().not_before)?,
            not_after: seconds(leaf.validity().not_after)?,
        })
    }

    /// The key of the intermediate.
    pub(super) const fn authority(&self) -> KeyId {
        self.authority
    }

    /// For the verifier's library.
    pub(super) fn task_certificate(&self) -> TaskCertificate<'_> {
        let Self { serial, spiffe_id, authority, not_before, not_after } = self;
        TaskCertificate {
            serial,
            spiffe_id,
            authority: *authority,
            not_before: *not_before,
            not_after: *not_after,
        }
    }
}

/// SHA-256 of the DER, as `x5t#S256` has it.
pub(super) fn thumbprint(der: &CertificateDer<'_>) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, der).as_ref());
    digest
}

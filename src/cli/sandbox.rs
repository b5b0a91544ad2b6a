//! A directory with everything that a broker on one's own machine needs: authorities, identities, samples, keys, configuration.
//! `dev` keeps one, `demo` throws one away.

use std::fs::{self, DirBuilder};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::input;
use super::pki::{DevCa, Workload};
use crate::identity::{SpiffeId, SvidFiles, TrustDomain};
use crate::keys::KeyEncryptionKey;
use crate::time::Timestamp;

/// Where `dev` works if nothing else is said.
pub(super) const DEFAULT_DIR: &str = ".taskpass";
/// Tells clients where the broker is.
pub(super) const PROFILE: &str = "profile.toml";
/// Tells the broker everything.
pub(super) const CONFIG: &str = "broker.toml";

/// Says that a directory is ours, from the first moment on; and a key on somebody's disk must not end up in somebody's repository.
const MARK: &str = ".gitignore";
const MARK_TEXT: &str = "# Made by `taskpass dev`. There are private keys here.\n*\n";

/// The trust domain of the workloads.
pub(super) const WORKLOADS: &str = "example.org";
/// The broker's own.
pub(super) const BROKER: &str = "broker.example.org";
/// Who the broker is.
pub(super) const BROKER_ID: &str = "spiffe://broker.example.org/broker";

/// How long an SVID lives.
const SVID_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Who there is beside the broker: the name for `--as`, and the SPIFFE ID.
pub(super) const IDENTITIES: [(&str, &str); 6] = [
    ("agent", "spiffe://example.org/agent/support"),
    ("researcher", "spiffe://example.org/agent/research"),
    ("verifier", "spiffe://example.org/mcp/docs"),
    ("payments", "spiffe://example.org/mcp/payments/till-1"),
    ("operator", "spiffe://example.org/operator/anna"),
    ("platform", "spiffe://example.org/platform/nina"),
];

/// Policies and audiences as they lie in `deploy/sample`.
const SAMPLES: [(&str, &str); 7] = [
    ("policy/agents.cedar", include_str!("../../deploy/sample/policy/agents.cedar")),
    ("policy/everybody.cedar", include_str!("../../deploy/sample/policy/everybody.cedar")),
    ("policy/limits.cedar", include_str!("../../deploy/sample/policy/limits.cedar")),
    ("policy/operators.cedar", include_str!("../../deploy/sample/policy/operators.cedar")),
    ("policy/verifiers.cedar", include_str!("../../deploy/sample/policy/verifiers.cedar")),
    ("audiences/docs.toml", include_str!("../../deploy/sample/audiences/docs.toml")),
    ("audiences/payments.toml", include_str!("../../deploy/sample/audiences/payments.toml")),
];

const CONFIG_TEXT: &str = r#"# Made by `taskpass dev`. Change it as you like: it is read at each start, and never written again.
# `taskpass config example` shows everything that can be set.
trust_domain = "broker.example.org"

[listen]
grpc = "127.0.0.1:8443"
ops = "127.0.0.1:9090"

[identity]
certificate = "identities/broker.pem"
key = "identities/broker.key"

[[trust_domains]]
name = "example.org"
bundles = ["bundles/example.org.pem"]
issuer = "https://broker.example.org/example.org"

[store]
kind = "embedded"
path = "data/taskpass.redb"

[keys]
key_encryption_key_file = "kek"

[policy]
dir = "policy"
audiences = "audiences"

[export]
dir = "public"

[audit]
file = "audit.jsonl"
"#;

/// The directory, complete.
pub(super) struct Sandbox {
    dir: PathBuf,
    workloads: DevCa,
    broker: DevCa,
}

impl Sandbox {
    /// Makes what is missing and leaves alone what is there. Refuses a directory that holds something else.
    pub(super) fn open(dir: &Path, now: Timestamp) -> Result<Self, Failure> {
        refuse_foreign(dir)?;
        private_dir(dir)?;
        create_once(&dir.join(MARK), MARK_TEXT)?;
        for sub in ["ca", "bundles", "identities", "policy", "audiences", "data", "public"] {
            private_dir(&dir.join(sub))?;
        }
        let workloads = authority(dir, WORKLOADS, now)?;
        let broker = authority(dir, BROKER, now)?;
        for (name, text) in SAMPLES {
            create_once(&dir.join(name), text)?;
        }
        let kek = dir.join("kek");
        if !exists(&kek)? {
            KeyEncryptionKey::create_file(&kek).map_err(Failure::failed)?;
        }
        let sandbox = Self { dir: dir.to_owned(), workloads, broker };
        sandbox.renew(now)?;
        create_once(&sandbox.config(), CONFIG_TEXT)?;
        Ok(sandbox)
    }

    /// Renews every certificate that has less than half of its life left; the keys stay. Says how many those were.
    pub(super) fn renew(&self, now: Timestamp) -> Result<usize, Failure> {
        let mut renewed = usize::from(self.keep_fresh(&self.broker, "broker", BROKER_ID, true, now)?);
        for (name, id) in IDENTITIES {
            renewed += usize::from(self.keep_fresh(&self.workloads, name, id, false, now)?);
        }
        Ok(renewed)
    }

    fn keep_fresh(
        &self,
        ca: &DevCa,
        name: &str,
        id: &str,
        serves: bool,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let SvidFiles { certificate, key } = files_of(&self.dir, name);
        if !exists(&key)? {
            let made = KeyPair::generate().map_err(|why| Failure::at("making a key", why))?;
            input::create_private(&key, &Zeroizing::new(made.serialize_pem()))?;
        } else if fresh(&certificate, now) {
            return Ok(false);
        }
        let text = input::text(&key, "the key")?;
        let key = KeyPair::from_pem(&text).map_err(|why| Failure::at(key.display(), why))?;
        let id: SpiffeId = id.parse().map_err(Failure::failed)?;
        let svid = ca.issue(&Workload { id: &id, serves }, &key, now, now.saturating_add(SVID_LIFETIME))?;
        input::replace(&certificate, &svid, 0o644)?;
        Ok(true)
    }

    /// The broker's configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.dir.join(CONFIG)
    }

    /// The trust bundle of the broker's trust domain.
    pub(super) fn broker_bundle(&self) -> PathBuf {
        self.dir.join(format!("bundles/{BROKER}.pem"))
    }

    /// Tells clients where the broker listens now.
    pub(super) fn write_profile(&self, broker: SocketAddr) -> Result<(), Failure> {
        let text = format!(
            "# Written by `taskpass dev` at each start, for `--as`.\n\
             broker = \"https://{broker}\"\nbroker_id = \"{BROKER_ID}\"\nbundle = \"bundles/{BROKER}.pem\"\n"
        );
        input::replace(&self.dir.join(PROFILE), &text, 0o644)
    }
}

/// The certificate and key of `--as name`: whoever has a certificate there, be it made by us or put there by hand.
pub(super) fn known_identity(dir: &Path, name: &str) -> Result<SvidFiles, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let files = files_of(dir, name);
    if name.is_empty() || !name.chars().all(plain) || !files.certificate.exists() {
        let names: Vec<_> = IDENTITIES.iter().map(|(name, _)| *name).collect();
        return Err(Failure::usage(format_args!("--as {name:?}: one of {}", names.join(", "))));
    }
    Ok(files)
}

/// Where the certificate and the key of somebody are.
pub(super) fn files_of(dir: &Path, name: &str) -> SvidFiles {
    let file = |extension: &str| dir.join("identities").join(format!("{name}.{extension}"));
    SvidFiles { certificate: file("pem"), key: file("key") }
}

fn refuse_foreign(dir: &Path) -> Result<(), Failure> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(Failure::at(dir.display(), why)),
    };
    let ours = fs::read_to_string(dir.join(MARK)).is_ok_and(|text| text == MARK_TEXT);
    if ours || entries.count() == 0 {
        return Ok(());
    }
    Err(Failure::usage(format_args!("{} holds other things already", dir.display()))
        .hint("Name a directory of its own with --dir; it is made if it is missing."))
}

fn authority(dir: &Path, trust_domain: &str, now: Timestamp) -> Result<DevCa, Failure> {
    let key_file = dir.join(format!("ca/{trust_domain}.key"));
    let bundle = dir.join(format!("bundles/{trust_domain}.pem"));
    if exists(&key_file)? && exists(&bundle)? {
        let certificate = input::text(&bundle, "the bundle")?.to_string();
        return DevCa::from_pem(certificate, &input::text(&key_file, "the key")?);
    }
    let name: TrustDomain = trust_domain.parse().map_err(Failure::failed)?;
    let ca = DevCa::create(&name, now)?;
    input::replace(&key_file, &ca.key_pem(), 0o600)?;
    input::replace(&bundle, ca.bundle_pem(), 0o644)?;
    Ok(ca)
}

/// Whether the certificate has more than half of its life left. One that cannot be read is not fresh.
fn fresh(path: &Path, now: Timestamp) -> bool {
    let fresh = || {
        let der = CertificateDer::from_pem_slice(&input::bytes(path).ok()?).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let ends = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        Some(Timestamp::from_secs(ends).since(now) > SVID_LIFETIME / 2)
    };
    fresh().unwrap_or(false)
}

fn private_dir(path: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|why| Failure::at(path.display(), why))
}

fn create_once(path: &Path, text: &str) -> Result<(), Failure> {
    if exists(path)? { Ok(()) } else { input::replace(path, text, 0o644) }
}

fn exists(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|why| Failure::at(path.display(), why))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::audience::AudienceRegister;
    use crate::policy::PolicyEngine;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn read(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn a_second_start_keeps_what_the_first_one_made() {
        let dir = tempfile::tempdir().unwrap();
        Sandbox::open(dir.path(), NOW).unwrap();
        let names = [
            "ca/example.org.key",
            "bundles/example.org.pem",
            "kek",
            "identities/agent.key",
            "identities/agent.pem",
        ];
        let before = names.map(|name| read(dir.path(), name));
        fs::write(dir.path().join("policy/limits.cedar"), "// mine").unwrap();
        Sandbox::open(dir.path(), NOW).unwrap();
        assert_eq!(names.map(|name| read(dir.path(), name)), before);
        assert_eq!(read(dir.path(), "policy/limits.cedar"), "// mine");
    }

    #[test]
    fn certificates_are_renewed_at_half_life_for_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
        let (key, before) =
            (read(dir.path(), "identities/agent.key"), read(dir.path(), "identities/agent.pem"));
        assert_eq!(sandbox.renew(NOW.saturating_add(SVID_LIFETIME / 3)).unwrap(), 0);
        assert_eq!(sandbox.renew(NOW.saturating_add(SVID_LIFETIME / 2)).unwrap(), IDENTITIES.len() + 1);
        assert_eq!(read(dir.path(), "identities/agent.key"), key);
        assert_ne!(read(dir.path(), "identities/agent.pem"), before);
    }

    #[test]
    fn secrets_are_readable_by_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("new");
        Sandbox::open(&inner, NOW).unwrap();
        let mode = |name: &str| fs::metadata(inner.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(""), 0o700);
        for name in ["kek", "ca/example.org.key", "ca/broker.example.org.key", "identities/operator.key"] {
            assert_eq!(mode(name), 0o600, "{name}");
        }
    }

    #[test]
    fn the_samples_fit_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::open(dir.path(), NOW).unwrap();
        let config = crate::config::load(&sandbox.config()).unwrap_or_else(|p| panic!("{p}"));
        PolicyEngine::open(&config.policy_dir).unwrap_or_else(|p| panic!("{p}"));
        let audiences = AudienceRegister::open(&config.audience_dir).unwrap_or_else(|p| panic!("{p}"));
        for audience in audiences.snapshot().iter() {
            let served = config.trust_domains.iter().filter(|it| it.issuer.is_some());
            assert!(served.into_iter().any(|it| it.name == audience.trust_domain().as_str()));
        }
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "").unwrap();
        fs::write(dir.path().join(".gitignore"), "*.aux\n").unwrap();
        let failure = Sandbox::open(dir.path(), NOW).map(drop).unwrap_err();
        assert_eq!(failure.exit(), crate::cli::failure::Exit::Usage);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}

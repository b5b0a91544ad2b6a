//! The identities of a test, and the directory that a broker is configured from.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::ca::{Ca, Svid, dns};

/// The tenant that most tests are about.
pub const TENANT: &str = "example.org";
/// A tenant of the same broker that has nothing to do with the first.
pub const OTHER_TENANT: &str = "other.example";
/// The broker's own trust domain.
pub const BROKER_DOMAIN: &str = "broker.example.org";
/// A trust domain that the broker does not know.
pub const STRANGER: &str = "stranger.example";

/// `iss` of the first tenant's tokens.
pub const ISSUER: &str = "https://taskpass.example.org/example.org";
/// `iss` of the other tenant's tokens.
pub const OTHER_ISSUER: &str = "https://taskpass.example.org/other.example";

/// Bearer tokens; tools `search` and `read`.
pub const DOCS: &str = "https://docs.example.org/mcp";
/// Tokens bound to a certificate; tools `charges.list` and `charges.refund`.
pub const PAYMENTS: &str = "https://payments.example.org/mcp";
/// Tokens bound to a DPoP key; tools `mail.read` and `mail.send`.
pub const MAIL: &str = "https://mail.example.org/mcp";
/// Bearer tokens of the other tenant; tool `search`.
pub const OTHER_DOCS: &str = "https://docs.other.example/mcp";

/// Authorities, and files in a directory of their own.
pub struct World {
    dir: TempDir,
    pub tenant: Ca,
    pub other_tenant: Ca,
    pub broker_ca: Ca,
    pub stranger: Ca,
    /// Says it is the first tenant; no bundle knows it.
    pub impostor: Ca,
}

impl World {
    /// Writes bundles, the broker's certificate, a key-encryption key, the sample policies and audiences, and those of the tests.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("taskpass-it").tempdir().unwrap();
        let world = Self {
            dir,
            tenant: Ca::new(TENANT),
            other_tenant: Ca::new(OTHER_TENANT),
            broker_ca: Ca::new(BROKER_DOMAIN),
            stranger: Ca::new(STRANGER),
            impostor: Ca::new(TENANT),
        };
        world.write("example.org.pem", &world.tenant.pem());
        world.write("other.example.json", &world.other_tenant.jwk_set());
        world.renew_broker_certificate();
        taskpass::keys::KeyEncryptionKey::create_file(&world.path("kek")).unwrap();
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sample");
        copy(&samples.join("policy"), &world.path("policy"));
        copy(&samples.join("audiences"), &world.path("audiences"));
        world.write("policy/other-tenant.cedar", OTHER_POLICY);
        world.write("audiences/mail.toml", MAIL_AUDIENCE);
        world.write("audiences/other-docs.toml", OTHER_AUDIENCE);
        world
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file whole, as one rename.
    pub fn write(&self, name: &str, text: &str) {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Reads a file; empty if it is not there.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A new certificate and key for the broker; returns the certificate.
    pub fn renew_broker_certificate(&self) -> Svid {
        let svid = self.broker_ca.server("broker", &["localhost"]);
        svid.write(self.dir(), "broker");
        svid
    }

    /// A new certificate and key for HTTPS, which names a host and nobody; returns the certificate.
    pub fn renew_public_certificate(&self) -> Svid {
        let svid =
            self.broker_ca.svid_with("web", |params| params.subject_alt_names = vec![dns("localhost")]);
        svid.write(self.dir(), "public");
        svid
    }

    /// An SVID of the first tenant.
    pub fn svid(&self, path: &str) -> Svid {
        self.tenant.svid(path)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

const MAIL_AUDIENCE: &str = r#"
uri = "https://mail.example.org/mcp"
trust_domain = "example.org"
profile = "jkt"
verifiers = ["spiffe://example.org/mcp/mail"]
tools = [{ name = "mail.read" }, { name = "mail.send" }]
"#;

const OTHER_AUDIENCE: &str = r#"
uri = "https://docs.other.example/mcp"
trust_domain = "other.example"
profile = "bearer"
verifiers = ["spiffe://other.example/mcp/docs"]
tools = [{ name = "search" }]
"#;

const OTHER_POLICY: &str = r#"
@id("other-agents")
permit (
  principal in Taskpass::TrustDomain::"other.example",
  action in [
    Taskpass::Action::"BeginTask", Taskpass::Action::"MintToken"
  ],
  resource in Taskpass::TrustDomain::"other.example"
) when { principal.path like "/agent/*" };

@id("other-agents-own")
permit (
  principal in Taskpass::TrustDomain::"other.example",
  action in [
    Taskpass::Action::"GetTask", Taskpass::Action::"ExtendTask", Taskpass::Action::"CompleteTask",
    Taskpass::Action::"IssueCertificate", Taskpass::Action::"ListCredentials", Taskpass::Action::"RevokeCredential"
  ],
  resource
) when { principal.path like "/agent/*" && context.is_owner };

@id("other-agents-list-own")
permit (
  principal in Taskpass::TrustDomain::"other.example",
  action == Taskpass::Action::"ListTasks",
  resource
) when { principal.path like "/agent/*" };

@id("other-operators")
permit (
  principal in Taskpass::TrustDomain::"other.example",
  action in [
    Taskpass::Action::"GetTask", Taskpass::Action::"RevokeTask", Taskpass::Action::"RevokeWorkload",
    Taskpass::Action::"RevokeTrustDomain", Taskpass::Action::"ListCredentials", Taskpass::Action::"RevokeCredential"
  ],
  resource in Taskpass::TrustDomain::"other.example"
) when { principal.path like "/operator/*" };
"#;

//! How to reach the server, and what it must promise.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::revoke::history::Durability;

/// What an acknowledged write must have survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisDurability {
    /// Nothing is asked of the server's persistence.
    Memory,
    /// The server must run with `appendonly yes` and `appendfsync always`.
    Fsync,
    /// So many replicas must have acknowledged ends, revocations, fences and key changes.
    Replicas(u32),
}

impl RedisDurability {
    /// As receipts name it.
    pub const fn kind(self) -> Durability {
        match self {
            Self::Memory => Durability::Memory,
            Self::Fsync => Durability::Fsync,
            Self::Replicas(_) => Durability::Replicas,
        }
    }
}

/// Files for `rediss://`; read anew at each connection, so that they can be replaced.
#[derive(Clone, Debug, Default)]
pub struct RedisTls {
    /// PEM with the authorities that may have signed the server's certificate. Required: the system's are not trusted.
    pub ca_file: Option<PathBuf>,
    /// PEM with this client's certificate chain, if the server asks for one.
    pub cert_file: Option<PathBuf>,
    /// PEM with the key of that certificate.
    pub key_file: Option<PathBuf>,
}

/// How to use a Redis (7.0 or later) or Valkey server.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://` or `rediss://`, host, port, database; user and password if they are not given apart. One server, or one node that holds all slots.
    pub url: String,
    /// ACL user; takes the place of the one in the URL.
    pub username: Option<String>,
    /// File with the password, read anew at each connection; takes the place of the one in the URL. Trailing line feeds are dropped.
    pub password_file: Option<PathBuf>,
    /// Before every key.
    pub prefix: String,
    /// What an acknowledged write must have survived.
    pub durability: RedisDurability,
    /// How many connections share the steps.
    pub connections: usize,
    /// After this a step counts as failed.
    pub step_timeout: Duration,
    /// How long [`super::RedisStore::connect`] waits for a server that is not there yet.
    pub connect_timeout: Duration,
    /// How far the clocks of broker and server may be apart.
    pub clock_skew: Duration,
    /// For `rediss://`.
    pub tls: RedisTls,
}

impl RedisOptions {
    /// Defaults for the server at `url`: `memory`, two connections, 1 s for a step, 10 s for the first connection, 1 s of skew.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            username: None,
            password_file: None,
            prefix: "taskpass:".to_owned(),
            durability: RedisDurability::Memory,
            connections: 2,
            step_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(10),
            clock_skew: Duration::from_secs(1),
            tls: RedisTls::default(),
        }
    }
}

impl fmt::Debug for RedisOptions {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("prefix", &self.prefix)
            .field("durability", &self.durability)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// Where to connect and as whom, made from the options for one connection.
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(super) login: RedisConnectionInfo,
}

impl Endpoint {
    /// Reads the files. The error names the setting and never quotes a secret.
    pub(super) fn resolve(options: &RedisOptions) -> Result<Self, String> {
        let info =
            options.url.as_str().into_connection_info().map_err(|_| {
                "the store's URL is none of redis://host:port or rediss://host:port".to_owned()
            })?;
        let mut login = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(username) = &options.username {
            login = login.set_username(username);
        }
        if let Some(path) = &options.password_file {
            login = login.set_password(text(path)?.trim_end_matches(['\n', '\r']));
        }
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port, None),
            ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| "the store's URL names no valid TLS server name".to_owned())?;
                (host.clone(), *port, Some((client_config(&options.tls)?, name)))
            }
            _ => {
                return Err("the store's URL must be redis://host:port or rediss://host:port, and TLS is never insecure"
                    .to_owned());
            }
        };
        Ok(Self { host, port, tls, login })
    }
}

fn text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn client_config(files: &RedisTls) -> Result<Arc<ClientConfig>, String> {
    let ca_file = files.ca_file.as_ref().ok_or("rediss:// needs the file of the server's CA")?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(ca_file)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", ca_file.display()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let config = match (&files.cert_file, &files.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert_file), Some(key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|e| format!("cannot read a private key from {}: {e}", key_file.display()))?;
            builder
                .with_client_auth_cert(certificates(cert_file)?, key)
                .map_err(|e| format!("{} and {}: {e}", cert_file.display(), key_file.display()))?
        }
        _ => {
            return Err("a client certificate for the store needs both files, certificate and key".to_owned());
        }
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let cannot = |e| format!("cannot read certificates from {}: {e}", path.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(cannot)?.collect::<Result<_, _>>().map_err(cannot)?;
    if found.is_empty() { Err(format!("there is no certificate in {}", path.display())) } else { Ok(found) }
}

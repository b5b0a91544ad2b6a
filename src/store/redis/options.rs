//! How to reach the server, and what it must promise.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::files::content::{read, read_private};
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
    /// PEM with the key of that certificate, not readable by others.
    pub key_file: Option<PathBuf>,
}

/// How to use a Redis (7.0 or later) or Valkey server.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://` or `rediss://`, host, port; user and password if they are not given apart. Database 0, which alone a Cluster has. One server, or
    /// one node that holds all slots.
    pub url: String,
    /// ACL user; takes the place of the one in the URL.
    pub username: Option<String>,
    /// File with the password, not readable by others, read anew at each connection; takes the place of the one in the URL. Trailing line feeds are dropped.
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

/// A setting of [`RedisOptions`] that cannot be used, or whose file cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadSetting {
    /// As it is called in a configuration: `url`, `password_file`, `ca_file` ...
    pub setting: &'static str,
    /// What is wrong and what to do; never a secret.
    pub what: String,
}

fn bad(setting: &'static str, what: impl fmt::Display) -> BadSetting {
    BadSetting { setting, what: what.to_string() }
}

impl RedisOptions {
    /// Everything for which no connection would be tried: reads all files, and asks no server.
    pub fn examine(&self) -> Vec<BadSetting> {
        let mut found = vec![address(self).err(), login(self).err()];
        if self.url.starts_with("rediss://") {
            let RedisTls { cert_file, key_file, .. } = &self.tls;
            let (chain, key) = (cert_file.as_deref().map(chain), key_file.as_deref().map(key));
            let readable = !matches!(chain, Some(Err(_))) && !matches!(key, Some(Err(_)));
            let together = || client_config(&self.tls, rustls::RootCertStore::empty()).err();
            found.push(roots(&self.tls).err());
            found.extend([chain.and_then(Result::err), key.and_then(Result::err)]);
            found.push(readable.then(together).flatten());
        }
        found.into_iter().flatten().collect()
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
    pub(super) fn resolve(options: &RedisOptions) -> Result<Self, BadSetting> {
        let Address { host, port, tls } = address(options)?;
        let config = |name| Ok((client_config(&options.tls, roots(&options.tls)?)?, name));
        Ok(Self { host, port, tls: tls.map(config).transpose()?, login: login(options)? })
    }
}

struct Address {
    host: String,
    port: u16,
    /// For TLS: the name that the server's certificate must bear.
    tls: Option<ServerName<'static>>,
}

fn connection_info(options: &RedisOptions) -> Result<redis::ConnectionInfo, BadSetting> {
    let info = options.url.as_str().into_connection_info();
    info.map_err(|_| bad("url", "the store's URL is none of redis://host:port or rediss://host:port"))
}

fn address(options: &RedisOptions) -> Result<Address, BadSetting> {
    let info = connection_info(options)?;
    if info.redis_settings().db() != 0 {
        return Err(bad(
            "url",
            "the store's URL names another database than 0: the broker uses that one alone; \
             installations that share a server differ by their prefix",
        ));
    }
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Address { host: host.clone(), port: *port, tls: None }),
        ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
            let name = ServerName::try_from(host.clone());
            let name = name.map_err(|_| bad("url", "the store's URL names no valid TLS server name"))?;
            Ok(Address { host: host.clone(), port: *port, tls: Some(name) })
        }
        _ => Err(bad(
            "url",
            "the store's URL must be redis://host:port or rediss://host:port, and TLS is never insecure",
        )),
    }
}

/// What stands for the password in deploy/redis/users.acl.
const PLACEHOLDER: &str = "REPLACE-WITH-A-LONG-RANDOM-PASSWORD";

fn login(options: &RedisOptions) -> Result<RedisConnectionInfo, BadSetting> {
    let info = connection_info(options).map(|info| info.redis_settings().clone()).unwrap_or_default();
    let mut login = info.set_skip_set_lib_name();
    if let Some(username) = &options.username {
        login = login.set_username(username);
    }
    if let Some(path) = &options.password_file {
        let content = read_private(path).map_err(|why| bad("password_file", why))?;
        let text = std::str::from_utf8(&content.bytes);
        let text = text.map_err(|_| bad("password_file", format_args!("{} is no text", path.display())))?;
        let password = text.trim_end_matches(['\n', '\r']);
        if password.is_empty() {
            return Err(bad("password_file", format_args!("there is no password in {}", path.display())));
        }
        if password == PLACEHOLDER {
            let what =
                format_args!("{} holds the placeholder of the sample: choose a password", path.display());
            return Err(bad("password_file", what));
        }
        login = login.set_password(password);
    }
    Ok(login)
}

fn roots(files: &RedisTls) -> Result<rustls::RootCertStore, BadSetting> {
    let file = files.ca_file.as_ref();
    let file = file.ok_or_else(|| bad("ca_file", "rediss:// needs the file of the server's CA"))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(file).map_err(|why| bad("ca_file", why))? {
        roots.add(certificate).map_err(|why| bad("ca_file", format_args!("{}: {why}", file.display())))?;
    }
    Ok(roots)
}

fn client_config(files: &RedisTls, roots: rustls::RootCertStore) -> Result<Arc<ClientConfig>, BadSetting> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|why| bad("url", why))?
        .with_root_certificates(roots);
    let (cert_file, key_file) = match (&files.cert_file, &files.key_file) {
        (None, None) => return Ok(Arc::new(builder.with_no_client_auth())),
        (Some(cert_file), Some(key_file)) => (cert_file, key_file),
        _ => {
            let what = "a client certificate for the store needs both files, certificate and key";
            return Err(bad("client_certificate", what));
        }
    };
    let config = builder.with_client_auth_cert(chain(cert_file)?, key(key_file)?).map_err(|why| {
        bad("client_key", format_args!("{} and {}: {why}", cert_file.display(), key_file.display()))
    })?;
    Ok(Arc::new(config))
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, BadSetting> {
    certificates(file).map_err(|why| bad("client_certificate", why))
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, BadSetting> {
    let content = read_private(file).map_err(|why| bad("client_key", why))?;
    let none = |_| bad("client_key", format_args!("{}: there is no PEM private key in it", file.display()));
    PrivateKeyDer::from_pem_slice(&content.bytes).map_err(none)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?.bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no PEM certificate in it".to_owned()),
        Ok(found) => Ok(found),
        Err(why) => Err(why.to_string()),
    }
    .map_err(|why| format!("{}: {why}", file.display()))
}

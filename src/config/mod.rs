//! Configuration: a TOML file becomes a checked [`Config`] without an `Option` that means "default". Every problem is
//! reported in one run.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

mod keys;
mod problems;
mod public;
mod raw;
mod resolve;
mod store;
#[cfg(test)]
mod tests;
mod trust;

pub use problems::{Problem, Problems};
pub use resolve::{Draft, draft, load};

use crate::identity::{BundleFrom, OwnFrom};
use crate::revoke::history::Durability;

/// Everything that `serve` needs, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker's own trust domain: task certificates carry its name.
    pub trust_domain: String,
    /// The two listeners.
    pub listen: Listen,
    /// HTTPS for everybody; `None`: not served.
    pub public: Option<PublicConfig>,
    /// Where the broker's own certificate comes from.
    pub identity: OwnFrom,
    /// Those whose workloads may connect; those with an issuer may own audiences.
    pub trust_domains: Vec<TrustDomainConfig>,
    /// Where tasks and credentials are recorded.
    pub store: StoreConfig,
    /// Signing keys.
    pub keys: KeysConfig,
    /// Who signs the task CA.
    pub task_ca: TaskCaConfig,
    /// Directory of `*.cedar` files.
    pub policy_dir: PathBuf,
    /// Directory of `*.toml` files, one audience each.
    pub audience_dir: PathBuf,
    /// How often files are looked at for changes.
    pub reload_interval: Duration,
    /// Ceilings and defaults of lifetimes.
    pub lifetimes: Lifetimes,
    /// Everything that is counted.
    pub limits: Limits,
    /// Where the public halves of the keys are written; `None`: nowhere.
    pub export_dir: Option<PathBuf>,
    /// Where the audit lines go.
    pub audit: AuditTarget,
    /// Authorities that are on no path of a peer, whatever bundles say; see [`crate::identity::DeniedAuthorities`].
    pub denied_authorities: Option<PathBuf>,
    /// How long SIGTERM waits for calls in flight.
    pub drain: Duration,
    /// Answer an RPC that does nothing to every verified peer, before gate and policy: for `taskpass bench`, which alone sets it. Never read
    /// from a file or the environment.
    pub empty_rpc: bool,
}

/// The two listeners.
#[derive(Clone, Debug)]
pub struct Listen {
    /// gRPC over mTLS.
    pub grpc: SocketAddr,
    /// Plain HTTP: metrics and probes. Not for the outside.
    pub ops: SocketAddr,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections of one workload at once.
    pub connections_per_workload: usize,
    /// A connection is closed after this; the client opens a new one and proves itself again.
    pub max_connection_age: Duration,
}

/// HTTPS for everybody: key sets, the task CA.
#[derive(Clone, Debug)]
pub struct PublicConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Leaf, then intermediates; PEM.
    pub certificate: PathBuf,
    /// PKCS#8, SEC1 or PKCS#1; PEM, not readable by others.
    pub key: PathBuf,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections of one address at once.
    pub connections_per_address: usize,
    /// Requests of one address in a second, and new connections.
    pub requests_per_second: NonZeroU32,
}

/// Who signs the task CA.
#[derive(Clone, Debug, Default)]
pub struct TaskCaConfig {
    /// PEM or SPIFFE JWKS: the anchors of an authority outside; `None`: a root of our own.
    pub upstream_bundle: Option<PathBuf>,
}

/// One tenant.
#[derive(Clone, Debug)]
pub struct TrustDomainConfig {
    /// Its name.
    pub name: String,
    /// Where its bundle comes from.
    pub bundle: BundleFrom,
    /// `iss` of the tokens for its audiences; `None`: it owns no audience.
    pub issuer: Option<String>,
}

/// Which store.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// A file of our own.
    Embedded {
        /// The file; its directory is made if it is missing.
        path: PathBuf,
        /// `memory` or `fsync`.
        durability: Durability,
    },
    /// A Redis or Valkey server.
    Redis(RedisConfig),
}

/// How to reach Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// `redis://host:port/0` or `rediss://...`; never with a password in it.
    pub url: String,
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// The file that holds the password.
    pub password_file: Option<PathBuf>,
    /// CA for `rediss://`.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and key for `rediss://`.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// What an acknowledged write means; held against the server's own settings.
    pub durability: Durability,
    /// For `replicas`: how many.
    pub replicas: u32,
    /// Before every key.
    pub prefix: String,
    /// Connections to the server.
    pub connections: usize,
    /// A step that takes longer has failed.
    pub timeout: Duration,
}

/// Signing keys.
#[derive(Clone, Debug)]
pub struct KeysConfig {
    /// Where the key-encryption key is.
    pub key_encryption_key: KekSource,
    /// Opens keys that are wrapped under it, and wraps none: for the change from one to the next.
    pub other_key_encryption_key: Option<KekSource>,
    /// Of new JWT keys.
    pub algorithm: JwtAlgorithm,
    /// A JWT key that has signed for so long is replaced; `None`: by hand only.
    pub rotate_every: Option<Duration>,
    /// How often those who read key sets and the task CA's bundle are told to look again.
    pub refresh_hint: Duration,
    /// How long they may keep a key set. With the hint it says how long a key is published before it signs.
    pub jwks_max_age: Duration,
    /// A broker that has not seen the stored keyring for longer signs nothing.
    pub agree_within: Duration,
    /// Where JWT keys are made from now on.
    pub signing: SigningIn,
    /// The hardware that keys lie in; `None`: none do.
    pub pkcs11: Option<Pkcs11Config>,
}

/// Where the key-encryption key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KekSource {
    /// Where the broker reads it.
    At(KeySource),
    /// In the PKCS#11 token, which uses it under this label and does not give it out.
    InToken(String),
}

/// Where private keys of new JWT keys lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SigningIn {
    /// In the store, wrapped, and in the memory of brokers.
    Local,
    /// In the PKCS#11 token, and nowhere else.
    Pkcs11,
}

/// A PKCS#11 token.
#[derive(Clone, Debug)]
pub struct Pkcs11Config {
    /// The library that its maker gives.
    pub module: PathBuf,
    /// Its label.
    pub token: String,
    /// Its serial number, where several have that label.
    pub serial: Option<String>,
    /// Its user's PIN.
    pub pin: KeySource,
    /// How long a call to it may take.
    pub timeout: Duration,
    /// Calls to it at a time.
    pub sessions: usize,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In a file that others cannot read.
    File(PathBuf),
    /// In this environment variable.
    Environment(String),
    /// In the credential of this name that systemd hands over.
    Credential(String),
}

/// What new JWT keys sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum JwtAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// Ceilings and defaults. Policy may cut them further, never widen them.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// The longest task.
    pub max_task: Duration,
    /// A token that does not say.
    pub default_token: Duration,
    /// The longest token; at most 15 min.
    pub max_token: Duration,
    /// A certificate that does not say.
    pub default_certificate: Duration,
    /// The longest certificate.
    pub max_certificate: Duration,
    /// How long an ended task stays readable.
    pub retention: Duration,
}

/// Everything that is counted. Reaching one is an error to the caller and a metric.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Live tasks of one workload, over all partitions.
    pub live_tasks_per_workload: u32,
    /// Credentials that one task may be issued in all.
    pub credentials_per_task: u32,
    /// Calls of one connection at once.
    pub streams_per_connection: u32,
    /// Calls at once, over all connections.
    pub calls: usize,
    /// Calls of one workload at once, over all its connections.
    pub calls_per_workload: usize,
    /// The largest request message, in bytes.
    pub message_bytes: usize,
    /// A call that takes longer is given up.
    pub call_timeout: Duration,
}

/// Where audit lines go.
#[derive(Clone, Debug)]
pub enum AuditTarget {
    /// Standard output, one JSON object a line.
    Stdout,
    /// Appended to a file that others cannot read.
    File(PathBuf),
}

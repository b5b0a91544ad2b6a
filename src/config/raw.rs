//! The configuration file as written. Every field that may be left out is an `Option`; nothing is judged here but form.

use std::path::PathBuf;

use serde::Deserialize;

use super::JwtAlgorithm;
use crate::revoke::history::Durability;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The broker's own trust domain.
    pub trust_domain: String,
    /// Listeners.
    #[serde(default)]
    pub listen: RawListen,
    /// The broker's certificate and key.
    pub identity: RawIdentity,
    /// Tenants.
    #[serde(default)]
    pub trust_domains: Vec<RawTrustDomain>,
    /// The store.
    pub store: RawStore,
    /// Signing keys.
    pub keys: RawKeys,
    /// Policy and audiences.
    pub policy: RawPolicy,
    /// Lifetimes, such as `"15m"`.
    #[serde(default)]
    pub lifetimes: RawLifetimes,
    /// Limits.
    #[serde(default)]
    pub limits: RawLimits,
    /// Public halves of the keys.
    #[serde(default)]
    pub export: RawExport,
    /// Audit lines.
    #[serde(default)]
    pub audit: RawAudit,
    /// How long SIGTERM waits for calls in flight; `"10s"` if not set.
    pub drain: Option<String>,
}

/// `[listen]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawListen {
    /// `"127.0.0.1:8443"` if not set.
    pub grpc: Option<String>,
    /// `"127.0.0.1:9090"` if not set.
    pub ops: Option<String>,
    /// 10 000 if not set.
    pub max_connections: Option<usize>,
    /// `"1h"` if not set.
    pub max_connection_age: Option<String>,
}

/// `[identity]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIdentity {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// `[[trust_domains]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTrustDomain {
    /// Its name.
    pub name: String,
    /// PEM or SPIFFE JWKS.
    pub bundles: Vec<PathBuf>,
    /// `iss` of its tokens.
    pub issuer: Option<String>,
}

/// `[store]`
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum RawStore {
    /// `kind = "embedded"`
    Embedded {
        /// The file.
        path: PathBuf,
        /// `"fsync"` if not set.
        durability: Option<Durability>,
    },
    /// `kind = "redis"`
    Redis {
        /// Without a password.
        url: String,
        /// ACL user.
        username: Option<String>,
        /// Holds the password.
        password_file: Option<PathBuf>,
        /// CA for TLS.
        ca_file: Option<PathBuf>,
        /// Client certificate for TLS.
        client_certificate: Option<PathBuf>,
        /// Its key.
        client_key: Option<PathBuf>,
        /// Required: what the server keeps is a choice.
        durability: Durability,
        /// For `durability = "replicas"`; 1 if not set.
        replicas: Option<u32>,
        /// `"taskpass:"` if not set.
        prefix: Option<String>,
        /// 2 if not set.
        connections: Option<usize>,
        /// `"1s"` if not set.
        timeout: Option<String>,
    },
}

/// `[keys]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawKeys {
    /// Holds the key-encryption key.
    pub key_encryption_key_file: Option<PathBuf>,
    /// Names the environment variable that does.
    pub key_encryption_key_env: Option<String>,
    /// `"ES256"` if not set.
    pub algorithm: Option<JwtAlgorithm>,
}

/// `[policy]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPolicy {
    /// `*.cedar`
    pub dir: PathBuf,
    /// `*.toml`
    pub audiences: PathBuf,
    /// `"1s"` if not set.
    pub reload_interval: Option<String>,
}

/// `[lifetimes]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLifetimes {
    /// `"24h"`
    pub max_task: Option<String>,
    /// `"120s"`
    pub default_token: Option<String>,
    /// `"15m"`
    pub max_token: Option<String>,
    /// `"5m"`
    pub default_certificate: Option<String>,
    /// `"1h"`
    pub max_certificate: Option<String>,
    /// `"24h"`
    pub retention: Option<String>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    /// 1 000
    pub live_tasks_per_workload: Option<u32>,
    /// 100 000
    pub credentials_per_task: Option<u32>,
    /// 256
    pub streams_per_connection: Option<u32>,
    /// 4 096
    pub calls: Option<usize>,
    /// 65 536
    pub message_bytes: Option<usize>,
    /// `"10s"`
    pub call_timeout: Option<String>,
}

/// `[export]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawExport {
    /// Nowhere if not set.
    pub dir: Option<PathBuf>,
}

/// `[audit]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAudit {
    /// Standard output if not set.
    pub file: Option<PathBuf>,
}

//! The configuration file as written. What is missing or cannot be read is `None`; nothing is judged here but form, key by key.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Table;
use toml::de::DeTable;

use super::{JwtAlgorithm, Problems, SigningIn};
use crate::revoke::history::Durability;

/// The whole file.
#[derive(Debug, Default)]
pub(super) struct Raw {
    /// The broker's own trust domain.
    pub(super) trust_domain: Option<String>,
    /// How long SIGTERM waits for calls in flight; `"10s"` if not set.
    pub(super) drain: Option<String>,
    /// None are if not set.
    pub(super) denied_authorities: Option<PathBuf>,
    pub(super) listen: RawListen,
    pub(super) public: RawPublic,
    pub(super) identity: RawIdentity,
    pub(super) trust_domains: Vec<RawTrustDomain>,
    /// `None`: there is no section that can be read.
    pub(super) store: Option<RawStore>,
    pub(super) keys: RawKeys,
    pub(super) task_ca: RawTaskCa,
    pub(super) policy: RawPolicy,
    pub(super) lifetimes: RawLifetimes,
    pub(super) limits: RawLimits,
    pub(super) export: RawExport,
    pub(super) audit: RawAudit,
}

/// The keys of the first level.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sections {
    trust_domain: Option<String>,
    drain: Option<String>,
    denied_authorities: Option<PathBuf>,
    listen: Table,
    public: Table,
    identity: Table,
    trust_domains: Vec<Table>,
    store: Table,
    keys: Table,
    task_ca: Table,
    policy: Table,
    lifetimes: Table,
    limits: Table,
    export: Table,
    audit: Table,
}

/// `[listen]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListen {
    /// `"127.0.0.1:8443"` if not set.
    pub(super) grpc: Option<String>,
    /// `"127.0.0.1:9090"` if not set.
    pub(super) ops: Option<String>,
    /// 10 000 if not set.
    pub(super) max_connections: Option<usize>,
    /// A quarter of `max_connections` if not set.
    pub(super) connections_per_workload: Option<usize>,
    /// `"1h"` if not set.
    pub(super) max_connection_age: Option<String>,
}

/// `[public]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPublic {
    /// Not served if not set.
    pub(super) listen: Option<String>,
    /// PEM.
    pub(super) certificate: Option<PathBuf>,
    /// PEM.
    pub(super) key: Option<PathBuf>,
    /// 1 024 if not set.
    pub(super) max_connections: Option<usize>,
    /// 64 if not set.
    pub(super) connections_per_address: Option<usize>,
    /// 100 if not set.
    pub(super) requests_per_second: Option<u32>,
}

/// `[identity]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawIdentity {
    /// PEM.
    pub(super) certificate: Option<PathBuf>,
    /// PEM.
    pub(super) key: Option<PathBuf>,
    /// In their place; see [`RawOwnApi`].
    pub(super) workload_api: Option<Table>,
}

/// `[identity.workload_api]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOwnApi {
    /// `unix:///path` or `tcp://address:port`.
    pub(super) socket: Option<String>,
    /// `"1h"` if not set.
    pub(super) keep_for: Option<String>,
    /// Of the SVID that is the broker's.
    pub(super) hint: Option<String>,
    /// Likewise.
    pub(super) spiffe_id: Option<String>,
}

/// `[[trust_domains]]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTrustDomain {
    /// Its name.
    pub(super) name: Option<String>,
    /// PEM or SPIFFE JWKS.
    pub(super) bundles: Option<Vec<PathBuf>>,
    /// See [`RawFederation`].
    pub(super) federation: Option<Table>,
    /// See [`RawApi`].
    pub(super) workload_api: Option<Table>,
    /// `iss` of its tokens.
    pub(super) issuer: Option<String>,
}

/// `[trust_domains.federation]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFederation {
    /// `https://...`
    pub(super) url: Option<String>,
    /// Required: nothing else says it.
    pub(super) profile: Option<RawProfile>,
    /// For `https_spiffe`, and required there.
    pub(super) endpoint_spiffe_id: Option<String>,
    /// For `https_web`; the system's authorities if not set.
    pub(super) ca_file: Option<PathBuf>,
    /// True if not set.
    pub(super) follow_redirects: Option<bool>,
    /// `"24h"` if not set.
    pub(super) keep_for: Option<String>,
}

/// How a bundle endpoint proves itself.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawProfile {
    /// By an ordinary HTTPS certificate.
    HttpsWeb,
    /// By an SVID.
    HttpsSpiffe,
}

/// `[trust_domains.workload_api]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApi {
    /// `unix:///path` or `tcp://address:port`.
    pub(super) socket: Option<String>,
    /// `"1h"` if not set.
    pub(super) keep_for: Option<String>,
}

/// `[store]`
#[derive(Debug)]
pub(super) enum RawStore {
    /// `kind = "embedded"`
    Embedded(RawEmbedded),
    /// `kind = "redis"`
    Redis(RawRedis),
}

/// A file of our own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEmbedded {
    /// The file.
    pub(super) path: Option<PathBuf>,
    /// `"fsync"` if not set.
    pub(super) durability: Option<Durability>,
}

/// A Redis or Valkey server.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRedis {
    /// Without a password.
    pub(super) url: Option<String>,
    /// Without TLS to another machine; false if not set.
    pub(super) plaintext: Option<bool>,
    /// ACL user.
    pub(super) username: Option<String>,
    /// Holds the password.
    pub(super) password_file: Option<PathBuf>,
    /// CA for TLS.
    pub(super) ca_file: Option<PathBuf>,
    /// Client certificate for TLS.
    pub(super) client_certificate: Option<PathBuf>,
    /// Its key.
    pub(super) client_key: Option<PathBuf>,
    /// Required: what the server keeps is a choice.
    pub(super) durability: Option<Durability>,
    /// For `durability = "replicas"`; 1 if not set.
    pub(super) replicas: Option<u32>,
    /// `"taskpass:"` if not set.
    pub(super) prefix: Option<String>,
    /// 2 if not set.
    pub(super) connections: Option<usize>,
    /// `"1s"` if not set.
    pub(super) timeout: Option<String>,
}

/// `[keys]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKeys {
    /// Holds the key-encryption key.
    pub(super) key_encryption_key_file: Option<PathBuf>,
    /// Names the environment variable that does.
    pub(super) key_encryption_key_env: Option<String>,
    /// Names the systemd credential that does.
    pub(super) key_encryption_key_credential: Option<String>,
    /// Holds another one that keys may be wrapped under.
    pub(super) other_key_encryption_key_file: Option<PathBuf>,
    /// Names the environment variable that does.
    pub(super) other_key_encryption_key_env: Option<String>,
    /// Names the systemd credential that does.
    pub(super) other_key_encryption_key_credential: Option<String>,
    /// The label of the one that lies in the PKCS#11 token.
    pub(super) key_encryption_key_pkcs11: Option<String>,
    /// Likewise of the other one.
    pub(super) other_key_encryption_key_pkcs11: Option<String>,
    /// See [`RawPkcs11`].
    pub(super) pkcs11: Option<Table>,
    /// `"local"` if not set.
    pub(super) signing: Option<SigningIn>,
    /// `"ES256"` if not set.
    pub(super) algorithm: Option<JwtAlgorithm>,
    /// By hand only if not set.
    pub(super) rotate_every: Option<String>,
    /// `"5m"`
    pub(super) refresh_hint: Option<String>,
    /// `"5m"`
    pub(super) jwks_max_age: Option<String>,
    /// `"10s"`
    pub(super) agree_within: Option<String>,
}

/// `[keys.pkcs11]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPkcs11 {
    /// The library that the token's maker gives.
    pub(super) module: Option<PathBuf>,
    /// Its label.
    pub(super) token: Option<String>,
    /// Its serial number: any if not set.
    pub(super) serial: Option<String>,
    /// Holds the PIN.
    pub(super) pin_file: Option<PathBuf>,
    /// Names the environment variable that does.
    pub(super) pin_env: Option<String>,
    /// Names the systemd credential that does.
    pub(super) pin_credential: Option<String>,
    /// `"2s"` if not set.
    pub(super) timeout: Option<String>,
    /// 4 if not set.
    pub(super) sessions: Option<usize>,
}

/// `[task_ca]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTaskCa {
    /// A root of our own if not set.
    pub(super) upstream_bundle: Option<PathBuf>,
}

/// `[policy]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPolicy {
    /// `*.cedar`
    pub(super) dir: Option<PathBuf>,
    /// `*.toml`
    pub(super) audiences: Option<PathBuf>,
    /// `"1s"` if not set.
    pub(super) reload_interval: Option<String>,
}

/// `[lifetimes]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLifetimes {
    /// `"24h"`
    pub(super) max_task: Option<String>,
    /// `"120s"`
    pub(super) default_token: Option<String>,
    /// `"15m"`
    pub(super) max_token: Option<String>,
    /// `"5m"`
    pub(super) default_certificate: Option<String>,
    /// `"1h"`
    pub(super) max_certificate: Option<String>,
    /// `"24h"`
    pub(super) retention: Option<String>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    /// 1 000
    pub(super) live_tasks_per_workload: Option<u32>,
    /// 100 000
    pub(super) credentials_per_task: Option<u32>,
    /// 256
    pub(super) streams_per_connection: Option<u32>,
    /// 4 096
    pub(super) calls: Option<usize>,
    /// A quarter of `calls`
    pub(super) calls_per_workload: Option<usize>,
    /// 65 536
    pub(super) message_bytes: Option<usize>,
    /// `"10s"`
    pub(super) call_timeout: Option<String>,
}

/// `[export]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawExport {
    /// Nowhere if not set.
    pub(super) dir: Option<PathBuf>,
}

/// `[audit]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAudit {
    /// Standard output if not set.
    pub(super) file: Option<PathBuf>,
}

/// Reads the text of `file`. Each unknown key and each value of another type is a problem of its own, and hides no other. `None`: it is no
/// TOML, of which a line says where; never what is written there, which may be a secret that was put there by mistake.
pub(super) fn read(text: &str, file: &Path, p: &mut Problems) -> Option<Raw> {
    let (_, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        p.add(format!("{}:{line}", file.display()), error.message());
    }
    if !errors.is_empty() {
        return None;
    }
    let table: Table =
        toml::from_str(text).map_err(|e| p.add(file.display().to_string(), e.message())).ok()?;
    let top: Sections = section("", table, p);
    let of_domain = |(i, it)| section(&format!("trust_domains[{i}]"), it, p);
    Some(Raw {
        trust_domain: top.trust_domain,
        drain: top.drain,
        denied_authorities: top.denied_authorities,
        trust_domains: top.trust_domains.into_iter().enumerate().map(of_domain).collect(),
        listen: section("listen", top.listen, p),
        public: section("public", top.public, p),
        identity: section("identity", top.identity, p),
        store: store(top.store, p),
        keys: section("keys", top.keys, p),
        task_ca: section("task_ca", top.task_ca, p),
        policy: section("policy", top.policy, p),
        lifetimes: section("lifetimes", top.lifetimes, p),
        limits: section("limits", top.limits, p),
        export: section("export", top.export, p),
        audit: section("audit", top.audit, p),
    })
}

/// The keys of a section that can be read, each tried by itself.
pub(super) fn section<T: DeserializeOwned + Default>(name: &str, table: Table, p: &mut Problems) -> T {
    let mut good = Table::new();
    for (key, value) in table {
        let alone = Table::from_iter([(key.clone(), value.clone())]);
        match alone.try_into::<T>() {
            Ok(_) => drop(good.insert(key, value)),
            Err(why) => p.add(if name.is_empty() { key } else { format!("{name}.{key}") }, why.message()),
        }
    }
    good.try_into().unwrap_or_default()
}

fn store(mut table: Table, p: &mut Problems) -> Option<RawStore> {
    let kind = table.remove("kind");
    match kind.as_ref().and_then(toml::Value::as_str) {
        Some("embedded") => Some(RawStore::Embedded(section("store", table, p))),
        Some("redis") => Some(RawStore::Redis(section("store", table, p))),
        _ if kind.is_none() && p.has("store") => None,
        _ => {
            p.add("store.kind", "must be \"embedded\" or \"redis\"");
            None
        }
    }
}

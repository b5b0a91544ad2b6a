//! From [`Raw`] to [`Config`]: defaults filled in, every value judged, every problem collected.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::raw::{Raw, RawKeys, RawLifetimes, RawLimits, RawListen, RawStore, RawTrustDomain};
use super::{
    AuditTarget, Config, IdentityFiles, JwtAlgorithm, KeySource, KeysConfig, Lifetimes, Limits, Listen,
    RedisConfig, StoreConfig, TrustDomainConfig,
};
use crate::identity::TrustDomain;
use crate::revoke::history::Durability;

/// The longest token that the verifiers accept.
const TOKEN_CEILING: Duration = Duration::from_secs(900);
/// The longest task that can be configured: fences must be remembered as long.
const TASK_CEILING: Duration = Duration::from_secs(30 * 24 * 3600);

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a TOML key.
    pub key: String,
    /// What is wrong and what to do.
    pub what: String,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Adds one.
    pub fn add(&mut self, key: impl Into<String>, what: impl fmt::Display) {
        self.0.push(Problem { key: key.into(), what: what.to_string() });
    }

    /// The value, or a problem and `None`.
    fn take<T, E: fmt::Display>(&mut self, key: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|e| self.add(key, e)).ok()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|p| writeln!(f, "{}: {}", p.key, p.what))
    }
}

impl std::error::Error for Problems {}

/// Reads and resolves a file. Relative paths in it are relative to its directory.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let one = |what: String| {
        let mut problems = Problems::default();
        problems.add(path.display().to_string(), what);
        problems
    };
    let text = std::fs::read_to_string(path).map_err(|e| one(format!("cannot be read: {e}")))?;
    let raw: Raw = toml::from_str(&text).map_err(|e| one(e.to_string()))?;
    resolve(raw, path.parent().unwrap_or(Path::new(".")))
}

/// Fills in defaults and judges every value. `base`: what relative paths are relative to.
pub fn resolve(raw: Raw, base: &Path) -> Result<Config, Problems> {
    let mut problems = Problems::default();
    let p = &mut problems;
    let at = |path: PathBuf| base.join(path);
    let trust_domain = p.take("trust_domain", TrustDomain::from_str(&raw.trust_domain));
    let listen = listen(&raw.listen, p);
    let trust_domains = trust_domains(raw.trust_domains, base, p);
    let store = store(raw.store, base, p);
    let keys = keys(raw.keys, base, p);
    let lifetimes = lifetimes(&raw.lifetimes, p);
    let limits = limits(&raw.limits, p);
    let reload_interval = duration(p, "policy.reload_interval", raw.policy.reload_interval.as_deref(), 1);
    let drain = duration(p, "drain", raw.drain.as_deref(), 10);
    match (trust_domain, listen, store, keys, problems.0.is_empty()) {
        (Some(trust_domain), Some(listen), Some(store), Some(keys), true) => Ok(Config {
            trust_domain: trust_domain.to_string(),
            listen,
            identity: IdentityFiles { certificate: at(raw.identity.certificate), key: at(raw.identity.key) },
            trust_domains,
            store,
            keys,
            policy_dir: at(raw.policy.dir),
            audience_dir: at(raw.policy.audiences),
            reload_interval,
            lifetimes,
            limits,
            export_dir: raw.export.dir.map(at),
            audit: raw.audit.file.map_or(AuditTarget::Stdout, |file| AuditTarget::File(at(file))),
            drain,
            empty_rpc: false,
        }),
        _ => Err(problems),
    }
}

fn duration(p: &mut Problems, key: &str, text: Option<&str>, default_secs: u64) -> Duration {
    let default = Duration::from_secs(default_secs);
    let Some(text) = text else { return default };
    let parsed = humantime::parse_duration(text)
        .map_err(|e| format!("{e}; write a duration such as \"90s\" or \"2h\""));
    match p.take(key, parsed) {
        Some(d) if d.is_zero() => {
            p.add(key, "must be longer than zero");
            default
        }
        Some(d) => d,
        None => default,
    }
}

fn at_most(p: &mut Problems, key: &str, value: Duration, ceiling: Duration, why: &str) -> Duration {
    if value > ceiling {
        p.add(key, format!("at most {}: {why}", humantime::format_duration(ceiling)));
    }
    value
}

fn positive<T: Default + PartialEq>(p: &mut Problems, key: &str, value: Option<T>, default: T) -> T {
    let value = value.unwrap_or(default);
    if value == T::default() {
        p.add(key, "must be greater than zero");
    }
    value
}

fn listen(raw: &RawListen, p: &mut Problems) -> Option<Listen> {
    let mut address = |key: &str, text: Option<&String>, default: &str| {
        let text = text.map_or(default, String::as_str);
        p.take(
            key,
            SocketAddr::from_str(text).map_err(|e| format!("{e}; write \"127.0.0.1:8443\" or \"[::]:8443\"")),
        )
    };
    let grpc = address("listen.grpc", raw.grpc.as_ref(), "127.0.0.1:8443");
    let ops = address("listen.ops", raw.ops.as_ref(), "127.0.0.1:9090");
    if let (Some(a), Some(b)) = (grpc, ops)
        && a == b
        && a.port() != 0
    {
        p.add("listen.ops", "must not be the address of listen.grpc");
    }
    Some(Listen {
        grpc: grpc?,
        ops: ops?,
        max_connections: positive(p, "listen.max_connections", raw.max_connections, 10_000),
        max_connection_age: duration(p, "listen.max_connection_age", raw.max_connection_age.as_deref(), 3600),
    })
}

fn trust_domains(raw: Vec<RawTrustDomain>, base: &Path, p: &mut Problems) -> Vec<TrustDomainConfig> {
    if raw.is_empty() {
        p.add("trust_domains", "at least one is needed, or nobody can connect");
    }
    let mut seen: Vec<TrustDomainConfig> = Vec::new();
    for (i, td) in raw.into_iter().enumerate() {
        let key = format!("trust_domains[{i}]");
        if let Err(e) = TrustDomain::from_str(&td.name) {
            p.add(format!("{key}.name"), e);
        }
        if td.bundles.is_empty() {
            p.add(format!("{key}.bundles"), "at least one file is needed");
        }
        if let Some(issuer) = &td.issuer {
            judge_issuer(p, &format!("{key}.issuer"), issuer);
            if seen.iter().any(|s| s.issuer.as_ref() == Some(issuer)) {
                p.add(format!("{key}.issuer"), "each trust domain has an issuer of its own");
            }
        }
        if seen.iter().any(|s| s.name == td.name) {
            p.add(format!("{key}.name"), format!("{} is there already", td.name));
        }
        seen.push(TrustDomainConfig {
            name: td.name,
            bundles: td.bundles.into_iter().map(|b| base.join(b)).collect(),
            issuer: td.issuer,
        });
    }
    seen
}

/// RFC 8414 section 2: an https URL without query and fragment.
fn judge_issuer(p: &mut Problems, key: &str, issuer: &str) {
    let rest = issuer.strip_prefix("https://").unwrap_or_default();
    let plain = issuer.bytes().all(|b| b.is_ascii_graphic()) && !issuer.contains(['?', '#', '@']);
    if rest.is_empty() || rest.starts_with('/') || !plain {
        p.add(key, "must be an https URL without query or fragment (RFC 8414 section 2)");
    } else if issuer.ends_with('/') {
        p.add(key, "must not end in a slash: verifiers compare it byte for byte");
    }
}

fn store(raw: RawStore, base: &Path, p: &mut Problems) -> Option<StoreConfig> {
    match raw {
        RawStore::Embedded { path, durability } => {
            let durability = durability.unwrap_or(Durability::Fsync);
            if durability == Durability::Replicas {
                p.add("store.durability", "the embedded store has no replicas: \"fsync\" or \"memory\"");
                return None;
            }
            Some(StoreConfig::Embedded { path: base.join(path), durability })
        }
        RawStore::Redis {
            url,
            username,
            password_file,
            ca_file,
            client_certificate,
            client_key,
            durability,
            replicas,
            prefix,
            connections,
            timeout,
        } => {
            judge_redis_url(p, &url);
            if client_certificate.is_some() != client_key.is_some() {
                p.add("store.client_certificate", "client_certificate and client_key come together");
            }
            if ca_file.is_some() && !url.starts_with("rediss://") {
                p.add("store.ca_file", "is for rediss:// only");
            }
            let at = |path: PathBuf| base.join(path);
            Some(StoreConfig::Redis(RedisConfig {
                url,
                username,
                password_file: password_file.map(at),
                ca_file: ca_file.map(at),
                client_certificate: client_certificate.map(at).zip(client_key.map(at)),
                durability,
                replicas: positive(p, "store.replicas", replicas, 1),
                prefix: prefix.unwrap_or_else(|| "taskpass:".to_owned()),
                connections: positive(p, "store.connections", connections, 2),
                timeout: {
                    let timeout = duration(p, "store.timeout", timeout.as_deref(), 1);
                    at_most(p, "store.timeout", timeout, Duration::from_millis(1500), "calls fail within 2 s")
                },
            }))
        }
    }
}

fn judge_redis_url(p: &mut Problems, url: &str) {
    let Some(rest) = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://")) else {
        p.add("store.url", "must begin with redis:// or rediss://");
        return;
    };
    if rest.contains('@') {
        p.add("store.url", "must not hold a user or password: use store.username and store.password_file");
    }
    if rest.contains(['{', '}']) {
        p.add("store.url", "must not hold braces");
    }
}

fn keys(raw: RawKeys, base: &Path, p: &mut Problems) -> Option<KeysConfig> {
    let source = match (raw.key_encryption_key_file, raw.key_encryption_key_env) {
        (Some(file), None) => KeySource::File(base.join(file)),
        (None, Some(name)) => KeySource::Environment(name),
        _ => {
            p.add("keys", "set exactly one of key_encryption_key_file and key_encryption_key_env");
            return None;
        }
    };
    Some(KeysConfig { key_encryption_key: source, algorithm: raw.algorithm.unwrap_or(JwtAlgorithm::ES256) })
}

fn lifetimes(raw: &RawLifetimes, p: &mut Problems) -> Lifetimes {
    let max_task = duration(p, "lifetimes.max_task", raw.max_task.as_deref(), 24 * 3600);
    let max_token = duration(p, "lifetimes.max_token", raw.max_token.as_deref(), 900);
    let max_certificate = duration(p, "lifetimes.max_certificate", raw.max_certificate.as_deref(), 3600);
    let default_token = duration(p, "lifetimes.default_token", raw.default_token.as_deref(), 120);
    let default_certificate =
        duration(p, "lifetimes.default_certificate", raw.default_certificate.as_deref(), 300);
    at_most(p, "lifetimes.max_task", max_task, TASK_CEILING, "fences are remembered as long");
    at_most(p, "lifetimes.max_token", max_token, TOKEN_CEILING, "verifiers refuse longer tokens");
    at_most(p, "lifetimes.max_certificate", max_certificate, max_task, "no certificate outlives its task");
    at_most(p, "lifetimes.default_token", default_token, max_token, "it is lifetimes.max_token");
    at_most(
        p,
        "lifetimes.default_certificate",
        default_certificate,
        max_certificate,
        "it is lifetimes.max_certificate",
    );
    let retention = duration(p, "lifetimes.retention", raw.retention.as_deref(), 24 * 3600);
    at_most(p, "lifetimes.retention", retention, TASK_CEILING * 12, "records are not an archive");
    Lifetimes { max_task, default_token, max_token, default_certificate, max_certificate, retention }
}

fn limits(raw: &RawLimits, p: &mut Problems) -> Limits {
    Limits {
        live_tasks_per_workload: positive(
            p,
            "limits.live_tasks_per_workload",
            raw.live_tasks_per_workload,
            1_000,
        ),
        credentials_per_task: positive(p, "limits.credentials_per_task", raw.credentials_per_task, 100_000),
        streams_per_connection: positive(p, "limits.streams_per_connection", raw.streams_per_connection, 256),
        calls: positive(p, "limits.calls", raw.calls, 4_096),
        message_bytes: positive(p, "limits.message_bytes", raw.message_bytes, 65_536),
        call_timeout: duration(p, "limits.call_timeout", raw.call_timeout.as_deref(), 10),
    }
}

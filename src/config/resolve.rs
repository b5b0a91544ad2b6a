//! From [`Raw`] to [`Config`]: defaults filled in, every value judged, every problem collected.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::keys::keys;
use super::public::public;
use super::raw::{self, Raw, RawLifetimes, RawLimits, RawListen};
use super::store::store;
use super::trust::{identity, trust_domains};
use super::{
    AuditTarget, Config, KeysConfig, Lifetimes, Limits, Listen, Problems, PublicConfig, StoreConfig,
    TaskCaConfig, TrustDomainConfig,
};
use crate::identity::{OwnFrom, TrustDomain};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// The longest token that the verifiers accept.
const TOKEN_CEILING: Duration = Duration::from_secs(900);
/// The longest task that can be configured: fences must be remembered as long.
const TASK_CEILING: Duration = Duration::from_secs(30 * 24 * 3600);

/// A configuration of which parts may be missing, because something is wrong with them. What is there has been judged.
#[derive(Debug)]
pub struct Draft {
    /// See [`Config::trust_domain`].
    pub trust_domain: Option<TrustDomain>,
    /// See [`Config::listen`].
    pub listen: Option<Listen>,
    /// See [`Config::public`].
    pub public: Option<PublicConfig>,
    /// See [`Config::identity`].
    pub identity: Option<OwnFrom>,
    /// All that the file names, in its order; a name may be wrong, and of a source with something wrong there are no files.
    pub trust_domains: Vec<TrustDomainConfig>,
    /// See [`Config::store`].
    pub store: Option<StoreConfig>,
    /// See [`Config::keys`].
    pub keys: Option<KeysConfig>,
    /// See [`Config::task_ca`].
    pub task_ca: TaskCaConfig,
    /// See [`Config::policy_dir`].
    pub policy_dir: Option<PathBuf>,
    /// See [`Config::audience_dir`].
    pub audience_dir: Option<PathBuf>,
    /// See [`Config::reload_interval`].
    pub reload_interval: Duration,
    /// See [`Config::lifetimes`].
    pub lifetimes: Lifetimes,
    /// See [`Config::limits`].
    pub limits: Limits,
    /// See [`Config::export_dir`].
    pub export_dir: Option<PathBuf>,
    /// See [`Config::audit`].
    pub audit: AuditTarget,
    /// See [`Config::drain`].
    pub drain: Duration,
    /// See [`Config::denied_authorities`].
    pub denied_authorities: Option<PathBuf>,
}

impl Draft {
    /// Of which trust domains the broker's own SVID may be: its own, and those that it serves. Names that are wrong are left out.
    pub fn own_domains(&self) -> BTreeSet<TrustDomain> {
        let served = self.trust_domains.iter().filter_map(|it| it.name.parse().ok());
        served.chain(self.trust_domain.clone()).collect()
    }

    /// `None`: something is missing.
    fn complete(self) -> Option<Config> {
        Some(Config {
            trust_domain: self.trust_domain?.to_string(),
            listen: self.listen?,
            public: self.public,
            identity: self.identity?,
            trust_domains: self.trust_domains,
            store: self.store?,
            keys: self.keys?,
            task_ca: self.task_ca,
            policy_dir: self.policy_dir?,
            audience_dir: self.audience_dir?,
            reload_interval: self.reload_interval,
            lifetimes: self.lifetimes,
            limits: self.limits,
            export_dir: self.export_dir,
            audit: self.audit,
            drain: self.drain,
            denied_authorities: self.denied_authorities,
            empty_rpc: false,
        })
    }
}

/// Reads and resolves a file. Relative paths in it are relative to its directory. The files that it names are not looked at.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let (draft, problems) = draft(path);
    finish(draft, problems)
}

pub(super) fn finish(draft: Option<Draft>, problems: Problems) -> Result<Config, Problems> {
    match draft.and_then(Draft::complete) {
        Some(config) if problems.0.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// What can be had of a file, and everything that is wrong with it. `None`: it cannot be read, or is no TOML.
pub fn draft(path: &Path) -> (Option<Draft>, Problems) {
    let mut problems = Problems::default();
    let p = &mut problems;
    let text = p.take(
        &path.display().to_string(),
        std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}")),
    );
    let base = path.parent().unwrap_or(Path::new("."));
    let draft = text.and_then(|text| raw::read(&text, path, p)).map(|raw| resolve(raw, base, p));
    (draft, problems)
}

/// Fills in defaults and judges every value. `base`: what relative paths are relative to.
pub(super) fn resolve(raw: Raw, base: &Path, p: &mut Problems) -> Draft {
    let at = |path: PathBuf| base.join(path);
    let trust_domain = p.required("trust_domain", raw.trust_domain);
    let trust_domain = trust_domain.and_then(|name| p.take("trust_domain", TrustDomain::from_str(&name)));
    let trust_domains = trust_domains(raw.trust_domains, trust_domain.as_ref(), base, p);
    let listen = listen(&raw.listen, p);
    Draft {
        trust_domain,
        public: public(raw.public, listen.as_ref(), &trust_domains, base, p),
        listen,
        identity: identity(raw.identity, base, p),
        trust_domains,
        store: raw.store.and_then(|it| store(it, base, p)),
        keys: keys(raw.keys, base, p),
        task_ca: TaskCaConfig { upstream_bundle: raw.task_ca.upstream_bundle.map(at) },
        lifetimes: lifetimes(&raw.lifetimes, p),
        limits: limits(&raw.limits, p),
        policy_dir: p.required("policy.dir", raw.policy.dir).map(at),
        audience_dir: p.required("policy.audiences", raw.policy.audiences).map(at),
        reload_interval: duration(
            p,
            "policy.reload_interval",
            raw.policy.reload_interval.as_deref(),
            1,
            HOUR,
        ),
        denied_authorities: raw.denied_authorities.map(at),
        drain: duration(p, "drain", raw.drain.as_deref(), 10, HOUR),
        export_dir: raw.export.dir.map(at),
        audit: raw.audit.file.map_or(AuditTarget::Stdout, |file| AuditTarget::File(at(file))),
    }
}

/// `default_secs` if there is none; `most`: the longest that can be meant.
pub(super) fn duration(
    p: &mut Problems,
    key: &str,
    text: Option<&str>,
    default_secs: u64,
    most: Duration,
) -> Duration {
    let default = Duration::from_secs(default_secs);
    let Some(text) = text else { return default };
    let parsed = humantime::parse_duration(text)
        .map_err(|e| format!("{e}; write a duration such as \"90s\" or \"2h\""));
    let Some(parsed) = p.take(key, parsed) else { return default };
    if parsed.is_zero() {
        p.add(key, "must be longer than zero");
        return default;
    }
    if parsed > most {
        p.add(key, format_args!("at most {}", humantime::format_duration(most)));
        return default;
    }
    parsed
}

fn at_most(p: &mut Problems, key: &str, value: Duration, ceiling: Duration, why: &str) {
    if value > ceiling {
        p.add(key, format_args!("at most {}: {why}", humantime::format_duration(ceiling)));
    }
}

/// The value, or `default` if there is none or it is out of range.
pub(super) fn within<T: Copy + PartialOrd + std::fmt::Display>(
    p: &mut Problems,
    key: &str,
    value: Option<T>,
    default: T,
    range: RangeInclusive<T>,
) -> T {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        return value;
    }
    p.add(key, format_args!("{value} is not from {} to {}", range.start(), range.end()));
    default
}

fn listen(raw: &RawListen, p: &mut Problems) -> Option<Listen> {
    let grpc = address(p, "listen.grpc", raw.grpc.as_deref().unwrap_or("127.0.0.1:8443"));
    let ops = address(p, "listen.ops", raw.ops.as_deref().unwrap_or("127.0.0.1:9090"));
    if let (Some(a), Some(b)) = (grpc, ops)
        && a == b
        && a.port() != 0
    {
        p.add("listen.ops", "must not be the address of listen.grpc");
    }
    let max_connections = within(p, "listen.max_connections", raw.max_connections, 10_000, 1..=1_000_000);
    let connections_per_workload = within(
        p,
        "listen.connections_per_workload",
        raw.connections_per_workload,
        share_of(max_connections),
        1..=1_000_000,
    );
    let age = raw.max_connection_age.as_deref();
    let max_connection_age = duration(p, "listen.max_connection_age", age, 3600, HOUR * 24 * 30);
    Some(Listen { grpc: grpc?, ops: ops?, max_connections, connections_per_workload, max_connection_age })
}

/// Where to listen.
pub(super) fn address(p: &mut Problems, key: &str, text: &str) -> Option<SocketAddr> {
    let parsed = SocketAddr::from_str(text);
    p.take(key, parsed.map_err(|e| format!("{e}; write \"127.0.0.1:8443\" or \"[::]:8443\"")))
}

fn lifetimes(raw: &RawLifetimes, p: &mut Problems) -> Lifetimes {
    let duration = |p: &mut Problems, key, text: &Option<String>, default| {
        duration(p, key, text.as_deref(), default, TASK_CEILING * 12)
    };
    let max_task = duration(p, "lifetimes.max_task", &raw.max_task, 24 * 3600);
    let max_token = duration(p, "lifetimes.max_token", &raw.max_token, 900);
    let max_certificate = duration(p, "lifetimes.max_certificate", &raw.max_certificate, 3600);
    let default_token = duration(p, "lifetimes.default_token", &raw.default_token, 120);
    let default_certificate = duration(p, "lifetimes.default_certificate", &raw.default_certificate, 300);
    let retention = duration(p, "lifetimes.retention", &raw.retention, 24 * 3600);
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
    Lifetimes { max_task, default_token, max_token, default_certificate, max_certificate, retention }
}

/// What one workload may have of something if nothing is said: never all of it, as long as there is more than one.
fn share_of(all: usize) -> usize {
    (all / 4).max(1)
}

/// The upper ends are far beyond use; what they keep out are slips, and numbers that the machine cannot hold.
fn limits(raw: &RawLimits, p: &mut Problems) -> Limits {
    let calls = within(p, "limits.calls", raw.calls, 4_096, 1..=1_000_000);
    let (live, credentials) = (raw.live_tasks_per_workload, raw.credentials_per_task);
    Limits {
        live_tasks_per_workload: within(p, "limits.live_tasks_per_workload", live, 1_000, 1..=10_000_000),
        credentials_per_task: within(
            p,
            "limits.credentials_per_task",
            credentials,
            100_000,
            1..=1_000_000_000,
        ),
        streams_per_connection: within(
            p,
            "limits.streams_per_connection",
            raw.streams_per_connection,
            256,
            1..=65_536,
        ),
        calls,
        calls_per_workload: within(
            p,
            "limits.calls_per_workload",
            raw.calls_per_workload,
            share_of(calls),
            1..=1_000_000,
        ),
        message_bytes: within(p, "limits.message_bytes", raw.message_bytes, 65_536, 1..=16 * 1024 * 1024),
        call_timeout: duration(p, "limits.call_timeout", raw.call_timeout.as_deref(), 10, HOUR),
    }
}

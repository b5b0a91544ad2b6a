//! `[store]`: the values that can be judged without its files and its server.

use std::path::Path;
use std::time::Duration;

use super::raw::{RawEmbedded, RawRedis, RawStore};
use super::resolve::{duration, within};
use super::{Problems, RedisConfig, StoreConfig};
use crate::revoke::history::Durability;

/// What a key in Redis begins with, if nothing else is said.
const PREFIX: &str = "taskpass:";
/// The longest prefix, in bytes: it is paid for with every key.
const MAX_PREFIX: usize = 64;
/// Calls fail within 2 s while the store is away.
const TIMEOUT_CEILING: Duration = Duration::from_millis(1500);

/// `None`: what cannot be left out is missing.
pub(super) fn store(raw: RawStore, base: &Path, p: &mut Problems) -> Option<StoreConfig> {
    match raw {
        RawStore::Embedded(raw) => embedded(raw, base, p),
        RawStore::Redis(raw) => redis(raw, base, p).map(StoreConfig::Redis),
    }
}

fn embedded(raw: RawEmbedded, base: &Path, p: &mut Problems) -> Option<StoreConfig> {
    let durability = raw.durability.unwrap_or(Durability::Fsync);
    if durability == Durability::Replicas {
        p.add("store.durability", "the embedded store has no replicas: \"fsync\" or \"memory\"");
    }
    let path = p.required("store.path", raw.path)?;
    Some(StoreConfig::Embedded { path: base.join(path), durability })
}

fn redis(raw: RawRedis, base: &Path, p: &mut Problems) -> Option<RedisConfig> {
    let url = p.required("store.url", raw.url);
    url.iter().for_each(|url| judge_url(p, url, raw.plaintext.unwrap_or_default()));
    if raw.username.as_ref().is_some_and(String::is_empty) {
        p.add("store.username", "is empty; leave it out for the default user");
    }
    let pair = (&raw.client_certificate, &raw.client_key);
    if pair.0.is_some() != pair.1.is_some() {
        p.add("store.client_certificate", "client_certificate and client_key come together");
    }
    if url.as_ref().is_some_and(|url| !url.starts_with("rediss://")) {
        let files = [
            ("store.ca_file", &raw.ca_file),
            ("store.client_certificate", pair.0),
            ("store.client_key", pair.1),
        ];
        files
            .iter()
            .filter(|(_, file)| file.is_some())
            .for_each(|(key, _)| p.add(*key, "is for rediss:// only"));
    }
    let prefix = raw.prefix.unwrap_or_else(|| PREFIX.to_owned());
    judge_prefix(p, &prefix);
    // What to wait for is a choice: in its absence nothing starts, and this value stands for nothing.
    let durability = p.required("store.durability", raw.durability).unwrap_or(Durability::Memory);
    let at = |path| base.join(path);
    let config = RedisConfig {
        url: String::new(),
        username: raw.username,
        password_file: raw.password_file.map(at),
        ca_file: raw.ca_file.map(at),
        client_certificate: raw.client_certificate.map(at).zip(raw.client_key.map(at)),
        durability,
        replicas: within(p, "store.replicas", raw.replicas, 1, 1..=64),
        prefix,
        connections: within(p, "store.connections", raw.connections, 2, 1..=64),
        timeout: duration(p, "store.timeout", raw.timeout.as_deref(), 1, TIMEOUT_CEILING),
    };
    Some(RedisConfig { url: url?, ..config })
}

/// What a URL must not hold; whether it is one is for the store's client to say.
fn judge_url(p: &mut Problems, url: &str, plaintext: bool) {
    if !plaintext && url.strip_prefix("redis://").is_some_and(|rest| !is_here(rest)) {
        p.add("store.url", "redis:// to another machine goes without TLS: use rediss://, or say plaintext = true where the network is yours alone");
    }
    let Some(rest) = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://")) else {
        return p.add("store.url", "must begin with redis:// or rediss://");
    };
    if rest.contains('@') {
        p.add("store.url", "must not hold a user or password: use store.username and store.password_file");
    } else if rest.contains(['?', '#', '{', '}']) {
        p.add("store.url", "must not hold a query, a fragment or braces");
    }
}

/// Whether `host:port/database` is on this machine, by a name or an address that means nothing else.
fn is_here(place: &str) -> bool {
    let authority = place.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let host = bracketed.map_or_else(|| authority.split(':').next().unwrap_or_default(), |(host, _)| host);
    // Nothing at all is for the client to refuse.
    matches!(host, "" | "localhost") || host.parse().is_ok_and(|host: std::net::IpAddr| host.is_loopback())
}

/// A brace would move all keys into one slot; what stands for something else in ACL patterns would not say what it seems to.
fn judge_prefix(p: &mut Problems, prefix: &str) {
    let plain = |c: u8| c.is_ascii_graphic() && !b"{}*?[]\\~\"'".contains(&c);
    if prefix.is_empty() || prefix.len() > MAX_PREFIX || !prefix.bytes().all(plain) {
        p.add(
            "store.prefix",
            format_args!("1 to {MAX_PREFIX} visible ASCII characters without {{}} * ? [] \\ ~ and quotes, such as \"taskpass:\""),
        );
    }
}

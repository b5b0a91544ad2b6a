//! What a server says of itself, for its operator. Nothing of it is judged here, and nothing is written.

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::Context;
use super::proof::{Proved, Refusal, ask, command, configured, field, text};
use crate::time::Timestamp;

/// What a server says of itself. What its user may not ask for is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// Of the software.
    pub version: String,
    /// `master`, or something that takes no steps.
    pub role: String,
    /// `maxmemory-policy`.
    pub eviction: String,
    /// Bytes in use.
    pub used_memory: u64,
    /// The most that it may use; 0: no bound.
    pub max_memory: u64,
    /// `appendonly`, `appendfsync` and `no-appendfsync-on-rewrite`.
    pub append: [String; 3],
    /// Whether its last write to the append-only file went well, and its last snapshot.
    pub last_writes_ok: [bool; 2],
    /// `stop-writes-on-bgsave-error`.
    pub stops_on_error: String,
    /// Connected replicas.
    pub replicas: u32,
    /// `min-replicas-to-write`.
    pub min_replicas: String,
    /// Its time, and ours before it was asked and after.
    pub time: (Timestamp, [Timestamp; 2]),
}

/// Asks the server behind a connection.
pub(super) async fn facts(context: &Context, lane: &MultiplexedConnection) -> Proved<ServerFacts> {
    let info = async |section: &str| Ok::<_, Refusal>(text(ask(lane, &command(&["INFO", section])).await?));
    let (server, memory, replication, persistence) = (
        info("server").await?,
        info("memory").await?,
        info("replication").await?,
        info("persistence").await?,
    );
    let setting = async |name: &str| configured(lane, name).await.unwrap_or_default();
    let of = |info: &str, name: &str| field(info, name).unwrap_or_default().to_owned();
    let number = |info: &str, name: &str| field(info, name).and_then(|it| it.parse().ok()).unwrap_or(0);
    let well = |name: &str| field(&persistence, name).is_none_or(|it| it == "ok");
    let asked = context.clock.now();
    let theirs = time(ask(lane, &command(&["TIME"])).await?)?;
    let time = (theirs, [asked, context.clock.now()]);
    Ok(ServerFacts {
        version: of(&server, "redis_version"),
        role: of(&replication, "role"),
        eviction: of(&memory, "maxmemory_policy"),
        used_memory: number(&memory, "used_memory"),
        max_memory: number(&memory, "maxmemory"),
        append: [
            setting("appendonly").await,
            setting("appendfsync").await,
            setting("no-appendfsync-on-rewrite").await,
        ],
        last_writes_ok: [well("aof_last_write_status"), well("rdb_last_bgsave_status")],
        stops_on_error: setting("stop-writes-on-bgsave-error").await,
        replicas: field(&replication, "connected_slaves").and_then(|it| it.parse().ok()).unwrap_or(0),
        min_replicas: setting("min-replicas-to-write").await,
        time,
    })
}

/// The answer to `TIME`: seconds and microseconds.
pub(super) fn time(answer: Value) -> Proved<Timestamp> {
    let Value::Array(parts) = answer else {
        return Err(Refusal::NotNow("the store does not tell its time".to_owned()));
    };
    let mut parts = parts.into_iter().map(|part| text(part).parse::<u64>().unwrap_or_default());
    let (secs, micros) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    Ok(Timestamp::from_millis(secs.saturating_mul(1_000).saturating_add(micros / 1_000)))
}

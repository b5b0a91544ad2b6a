//! The store, its settings, and its clock. Nothing is written to it.

use std::sync::Arc;
use std::time::Duration;

use super::finding::Finding;
use crate::app::{self, ServerFacts, StartError, StartFault};
use crate::config::{Config, RedisConfig, StoreConfig};
use crate::time::{SystemClock, Timestamp};

/// A step of a broker that is further off is refused.
const MOST_APART: Duration = Duration::from_secs(1);
/// Half of it: the next correction of a clock may be the one too much.
const APART: Duration = Duration::from_millis(500);
/// In percent of the most that it may use: with nothing left a Redis refuses writes.
const FULL: (u64, u64) = (80, 95);

/// All that is to be said of it.
pub(super) async fn look(config: &Config) -> Vec<Finding> {
    match &config.store {
        StoreConfig::Embedded { path, durability } => {
            let subject = path.display().to_string();
            let what = match path.metadata() {
                Ok(there) => {
                    format!("a file of {} KiB, durability {}", there.len() / 1024, durability.as_str())
                }
                Err(_) => "it is not there yet: the first start makes it".to_owned(),
            };
            let mut found = vec![Finding::ok("store", subject, what)];
            found.extend(token_alone(config).await);
            found
        }
        StoreConfig::Redis(redis) => look_at_redis(config, redis).await,
    }
}

/// The PKCS#11 token, where nobody else asks it: one login.
async fn token_alone(config: &Config) -> Option<Finding> {
    config.keys.pkcs11.as_ref()?;
    let asked = app::examine_token(config).await;
    token(config, asked.as_ref().err())
}

/// What was heard of the token; `None`: there is none.
fn token(config: &Config, why: Option<&StartError>) -> Option<Finding> {
    const ID: &str = "pkcs11-token";
    let subject = &config.keys.pkcs11.as_ref()?.token;
    Some(match why {
        None => Finding::ok(ID, subject, "it lets the broker in, and has the keys that are named"),
        Some(why) => {
            let words = why.of_token().map_or_else(|| why.to_string(), str::to_owned);
            let todo = match why.fault() {
                StartFault::Unreachable => {
                    "see that it is there, and that its module reaches it: docs/hsm.md"
                }
                _ => "set the configuration or the token right before a broker starts: docs/hsm.md",
            };
            Finding::problem(ID, subject, words).todo(todo)
        }
    })
}

async fn look_at_redis(config: &Config, redis: &RedisConfig) -> Vec<Finding> {
    let facts = match app::store_facts(config, Arc::new(SystemClock)).await {
        Ok(Some(facts)) => facts,
        Ok(None) => return Vec::new(),
        Err(why) => {
            let mut found = vec![unfit(redis, &why)];
            found.extend(token_alone(config).await);
            return found;
        }
    };
    let (clock, agrees) = clock(redis, facts.time.0, facts.time.1);
    let mut found = vec![clock];
    // The keyring is opened by the token that it needs, which is logged in to once in all.
    let examined = app::examine_store_and_token(config, Arc::new(SystemClock)).await;
    match &examined {
        Ok(()) => found.extend(token(config, None)),
        Err(why) if why.of_token().is_some() => found.extend(token(config, Some(why))),
        Err(_) if config.keys.pkcs11.is_some() => {
            let what = "not asked: see what is wrong with the store or the keyring in it";
            found.push(Finding::skipped("pkcs11-token", "", what));
        }
        Err(_) => {}
    }
    match examined {
        Err(why) if why.of_token().is_some() => {}
        // That has been said, in other words.
        Err(why) if !agrees && why.fault() == StartFault::Unreachable => {}
        Err(why) => found.push(unfit(redis, &why)),
        Ok(()) => {
            let [append, fsync, _] = &facts.append;
            let what = format!(
                "Redis {}, {}, maxmemory-policy {}, appendonly {append} ({fsync}), durability {}; the keys there open, or there are none yet",
                facts.version,
                facts.role,
                facts.eviction,
                redis.durability.as_str(),
            );
            found.push(Finding::ok("store", &redis.url, what));
        }
    }
    found.extend(settings(redis, &facts));
    found
}

fn unfit(redis: &RedisConfig, why: &StartError) -> Finding {
    let todo = match why.fault() {
        StartFault::Unreachable => {
            "see that it runs, that this machine reaches it, and that it is a primary: no call is answered without it"
        }
        _ => "set the server, its user or the configuration right: docs/operations.md, Running on Redis",
    };
    Finding::problem("store", &redis.url, why.to_string()).todo(todo)
}

/// Whether they agree as well as every step demands, too.
fn clock(redis: &RedisConfig, theirs: Timestamp, [asked, had]: [Timestamp; 2]) -> (Finding, bool) {
    let apart = theirs.since(had).max(asked.since(theirs));
    let what = format!("its clock and this machine's are {} ms apart", apart.as_millis());
    let todo = "set the clock that is wrong (NTP): steps of a broker that is more than 1 s off are refused";
    let finding = match () {
        () if apart > MOST_APART => Finding::problem("clock", &redis.url, what),
        () if apart > APART => Finding::warning("clock", &redis.url, what),
        () => Finding::ok("clock", &redis.url, what),
    };
    (finding.todo(todo), apart <= MOST_APART)
}

/// What a start does not refuse, and is not as it should be.
fn settings(redis: &RedisConfig, facts: &ServerFacts) -> Vec<Finding> {
    const ID: &str = "store-settings";
    let mut found = Vec::new();
    let url = redis.url.as_str();
    let [append_ok, snapshot_ok] = facts.last_writes_ok;
    if !append_ok {
        let what = "its last write to the append-only file failed: it refuses writes";
        found.push(Finding::problem(ID, url, what).todo("look at its disk and its log"));
    }
    if !snapshot_ok {
        let what = format!("its last snapshot failed (stop-writes-on-bgsave-error {})", facts.stops_on_error);
        let finding = if facts.stops_on_error == "yes" {
            Finding::problem(ID, url, what)
        } else {
            Finding::warning(ID, url, what)
        };
        found.push(finding.todo("look at its disk and its log"));
    }
    if let Some(percent) = facts.used_memory.saturating_mul(100).checked_div(facts.max_memory)
        && percent >= FULL.0
    {
        let what = format!("{percent} % of maxmemory is in use");
        let finding =
            if percent >= FULL.1 { Finding::problem(ID, url, what) } else { Finding::warning(ID, url, what) };
        found.push(finding.todo("give it more: without memory it refuses writes, and nothing is issued"));
    }
    if redis.durability.as_str() == "replicas" && matches!(facts.min_replicas.as_str(), "" | "0") {
        let what = "min-replicas-to-write is 0: a primary that is cut off goes on answering, and may miss the newest ends";
        found.push(
            Finding::warning(ID, url, what)
                .todo("set it to `replicas` of the configuration, at every server"),
        );
    }
    if redis.durability.as_str() == "memory" && facts.append.first().is_some_and(|it| it == "no") {
        let what = "it keeps nothing on disk: after its restart every task has ended";
        found.push(Finding::ok(ID, url, what));
    }
    if found.is_empty() {
        found.push(Finding::ok(
            ID,
            url,
            format!("memory in use: {} MiB; replicas: {}", facts.used_memory >> 20, facts.replicas),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Severity;

    fn redis() -> RedisConfig {
        let text = "trust_domain = \"b.test\"\n[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:6379\"\ndurability = \"replicas\"\n";
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("c.toml"), text).unwrap();
        let (draft, _) = crate::config::draft(&dir.path().join("c.toml"));
        let Some(StoreConfig::Redis(redis)) = draft.unwrap().store else { panic!("a Redis") };
        redis
    }

    #[test]
    fn a_clock_is_off_by_what_no_delay_explains() {
        let (redis, at) = (redis(), |ms: u64| Timestamp::from_millis(1_000_000 + ms));
        let judge = |theirs: u64, asked: u64, had: u64| {
            let (found, agrees) = clock(&redis, at(theirs), [at(asked), at(had)]);
            (found.severity, agrees)
        };
        assert_eq!(judge(5_000, 4_000, 9_000), (Severity::Ok, true));
        assert_eq!(judge(5_501, 4_000, 5_000), (Severity::Warning, true));
        assert_eq!(judge(4_000, 4_501, 5_000), (Severity::Warning, true));
        assert_eq!(judge(6_001, 4_000, 5_000), (Severity::Problem, false));
        assert_eq!(judge(1_000, 4_000, 5_000), (Severity::Problem, false));
    }

    #[test]
    fn settings_that_a_start_takes_are_judged_by_what_they_cost() {
        let well = ServerFacts {
            last_writes_ok: [true, true],
            used_memory: 10,
            max_memory: 100,
            min_replicas: "1".to_owned(),
            ..ServerFacts::default()
        };
        let worst = |facts: &ServerFacts| settings(&redis(), facts).into_iter().map(|it| it.severity).max();
        let with = |edit: fn(&mut ServerFacts)| {
            let mut facts = well.clone();
            edit(&mut facts);
            worst(&facts)
        };
        assert_eq!(worst(&well), Some(Severity::Ok));
        assert_eq!(with(|it| it.max_memory = 0), Some(Severity::Ok));
        assert_eq!(with(|it| it.used_memory = 80), Some(Severity::Warning));
        assert_eq!(with(|it| it.used_memory = 95), Some(Severity::Problem));
        assert_eq!(with(|it| it.min_replicas = "0".to_owned()), Some(Severity::Warning));
        assert_eq!(with(|it| it.last_writes_ok = [false, true]), Some(Severity::Problem));
        assert_eq!(with(|it| it.last_writes_ok = [true, false]), Some(Severity::Warning));
        let refuses = |it: &mut ServerFacts| {
            it.last_writes_ok = [true, false];
            it.stops_on_error = "yes".to_owned();
        };
        assert_eq!(with(refuses), Some(Severity::Problem));
    }
}

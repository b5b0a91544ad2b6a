//! What followers cost a broker while nothing ends: processor time and memory.

use std::time::{Duration, Instant};

use super::Setup;
use super::process::{Broker, Redis};
use super::report::{Figure, Report};
use super::world::{Seat, StoreKind, World};
use crate::cli::failure::Failure;
use crate::cli::output::note;

/// Followers whose processor time is measured, and their bound.
const IDLE: usize = 100;
const BOUND: Duration = Duration::from_secs(2);
/// For how long.
const STRETCH: Duration = Duration::from_secs(30);
/// Followers whose memory is measured.
const MANY: usize = 1_000;
/// How long a broker is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(5);
/// How often to say that it goes on.
const SAY: Duration = Duration::from_secs(5);

/// Measures both on one broker on Redis.
pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let (processor, memory) = (Figure::IdleFollowers100CorePercent, Figure::FollowerKbBroker);
    if setup.wants(processor) {
        processor_time(setup, report).await?;
    }
    if setup.wants(memory) {
        let of_one = kib_of_one(setup, report).await?;
        report.figure(memory, of_one);
    }
    Ok(())
}

async fn processor_time(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    note(format_args!("redis, one broker: {IDLE} followers with a bound of {BOUND:?}, idle for {STRETCH:?}"));
    let redis = Redis::start(&setup.dir)?;
    let world = World::build(&setup.dir, StoreKind::Redis, Some(redis.port()))?;
    let broker = Broker::start(&world)?;
    let followers = world.followers(&[Seat::First], IDLE, Some(BOUND)).await?;
    wait(SETTLE).await;
    let used = || Ok::<_, Failure>((broker.processor_s()?, redis.processor_s()?));
    let (before, began) = (used()?, Instant::now());
    wait(STRETCH).await;
    let (after, lasted) = (used()?, began.elapsed().as_secs_f64());
    followers.undisturbed()?;
    report.figure(Figure::IdleFollowers100CorePercent, (after.0 - before.0) / lasted * 100.0);
    report.detail("idle_followers_100_redis_core_percent", (after.1 - before.1) / lasted * 100.0);
    Ok(())
}

/// KiB of a broker's resident memory for each follower.
async fn kib_of_one(setup: &Setup, report: &mut Report) -> Result<f64, Failure> {
    note(format_args!("redis, one broker: the memory of {MANY} followers"));
    let redis = Redis::start(&setup.dir)?;
    let world = World::build(&setup.dir, StoreKind::Redis, Some(redis.port()))?;
    let broker = Broker::start(&world)?;
    wait(SETTLE).await;
    let without = broker.resident_mb()?;
    let followers = world.followers(&[Seat::First], MANY, None).await?;
    wait(SETTLE).await;
    let with = broker.resident_mb()?;
    followers.undisturbed()?;
    report.detail("follower_broker_mb_without", without);
    report.detail("follower_broker_mb_with_1000", with);
    Ok((with - without) * 1024.0 / MANY as f64)
}

/// Sleeps, and says so every few seconds.
async fn wait(length: Duration) {
    let began = Instant::now();
    while let Some(left) = length.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left.min(SAY)).await;
        if length > SAY {
            note(format_args!("  {:.0?} of {length:.0?}", began.elapsed()));
        }
    }
}

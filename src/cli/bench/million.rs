//! A million live credentials: what they weigh in Redis, and how soon a broker is back after `kill -9`.

use std::time::{Duration, Instant};

use super::Setup;
use super::calls::{self, Lifetime};
use super::load::{Next, stretch};
use super::process::{Broker, Redis};
use super::report::{Figure, Report};
use super::seed::{self, Task};
use super::world::{StoreKind, World};
use crate::cli::failure::Failure;
use crate::cli::output::note;

const TASKS: u64 = 100_000;
const EACH: u64 = 10;
const TASK_LIFETIME: Duration = Duration::from_secs(3_600);
/// Until Redis has let go of its buffers.
const SETTLE: Duration = Duration::from_secs(3);
/// How often the broker is killed.
const RESTARTS: usize = 3;
/// How long it mints before.
const BUSY: Duration = Duration::from_secs(1);

/// Measures memory and restart on Redis, restart on the embedded store.
pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let restart = setup.wants(Figure::Restart1mFirstMintS);
    let memory = setup.wants(Figure::RedisBytesPerCredential) || setup.wants(Figure::RedisBytesPerTask);
    let mut restarts = Vec::new();
    for kind in StoreKind::BOTH {
        let weighed = memory && kind == StoreKind::Redis;
        if !restart && !weighed {
            continue;
        }
        note(format_args!("{} store: {TASKS} tasks with {EACH} credentials each", kind.name()));
        let redis = setup.redis(kind)?;
        let world = World::build(&setup.dir, kind, redis.as_ref().map(Redis::port))?;
        let tasks = fill(&world, redis.as_ref(), setup, report).await?;
        if restart {
            restarts.push((kind, first_mint(&world, &tasks).await?));
        }
    }
    report.worst(Figure::Restart1mFirstMintS, &restarts);
    Ok(())
}

/// Fills a store; on Redis, weighs it at each stage.
async fn fill(
    world: &World,
    redis: Option<&Redis>,
    setup: &Setup,
    report: &mut Report,
) -> Result<Vec<Task>, Failure> {
    let broker = Broker::start(world)?;
    let crowd = seed::crowd(world, TASKS).await?;
    let empty = weigh(redis).await?;
    let tasks = seed::tasks(&crowd, TASKS, Lifetime::For(TASK_LIFETIME)).await?;
    let with_tasks = weigh(redis).await?;
    drop(crowd);
    broker.kill();
    seed::credentials(world, &tasks, 1).await?;
    let with_one_each = weigh(redis).await?;
    seed::credentials(world, &tasks, EACH - 1).await?;
    let with_all = weigh(redis).await?;
    if redis.is_some() {
        let (tasks, all) = (TASKS as f64, (TASKS * EACH) as f64);
        if setup.wants(Figure::RedisBytesPerTask) {
            report.figure(Figure::RedisBytesPerTask, (with_tasks - empty) / tasks);
        }
        if setup.wants(Figure::RedisBytesPerCredential) {
            let alone = (with_one_each - with_tasks) / tasks;
            report.detail("redis_bytes_of_a_task_s_only_credential", alone);
            report.figure(Figure::RedisBytesPerCredential, (with_all - with_tasks) / all);
        }
    }
    Ok(tasks)
}

async fn weigh(redis: Option<&Redis>) -> Result<f64, Failure> {
    let Some(redis) = redis else { return Ok(0.0) };
    tokio::time::sleep(SETTLE).await;
    Ok(redis.used_memory()? as f64)
}

/// Kills a broker that is minting, starts another, and gives the seconds until it has minted: the worst of a few times.
async fn first_mint(world: &World, tasks: &[Task]) -> Result<f64, Failure> {
    let mut worst = 0.0_f64;
    let mut broker = Broker::start(world)?;
    for time in 1..=RESTARTS {
        let task = tasks.get(time).cloned().ok_or_else(|| Failure::failed("there is no task"))?;
        let channel = world.connect(&task.owner).await?.channel();
        let minting = tokio::spawn(stretch(BUSY * 2, {
            let task = task.clone();
            move |_| {
                let mint = calls::mint(channel.clone(), task.id.clone(), None);
                async move { mint.await.map(|_| Next::Go) }
            }
        }));
        tokio::time::sleep(BUSY).await;
        broker.kill();
        // Its calls fail with it.
        minting.abort();
        let began = Instant::now();
        broker = Broker::start(world)?;
        let channel = world.connect(&task.owner).await?.channel();
        calls::mint(channel, task.id, None).await?;
        let took = began.elapsed().as_secs_f64();
        note(format_args!("  restart {time} of {RESTARTS}: first mint after {took:.3} s"));
        worst = worst.max(took);
    }
    Ok(worst)
}

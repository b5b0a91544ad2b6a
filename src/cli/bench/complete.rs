//! The end of a task that has minted much, against the end of one that has not (G2).

use std::time::{Duration, Instant};

use tonic::transport::Channel;

use super::Setup;
use super::calls::Lifetime;
use super::load::median;
use super::process::{Broker, Redis};
use super::report::{Figure, Report};
use super::seed::{self, Task};
use super::world::{StoreKind, World};
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::proto;
use crate::proto::task_service_client::TaskServiceClient;

/// Tasks with many credentials, and how many each.
const LARGE: usize = 12;
const MANY: u64 = 100_000;
/// Tasks with one credential for each of those: half of them completed before it, half after.
const SMALL_FOR_EACH: usize = 4;
const TASK_LIFETIME: Duration = Duration::from_secs(3_600);

/// Measures it on both stores.
pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let figure = Figure::Complete100kPer1;
    if !setup.wants(figure) {
        return Ok(());
    }
    let mut ratios = Vec::new();
    for kind in StoreKind::BOTH {
        note(format_args!("{} store: {LARGE} tasks with {MANY} credentials each", kind.name()));
        let (large, small) = latencies(setup, kind).await?;
        report.detail(format!("complete_100k_ms_{}", kind.name()), large * 1_000.0);
        report.detail(format!("complete_1_ms_{}", kind.name()), small * 1_000.0);
        ratios.push((kind, large / small));
    }
    report.worst(figure, &ratios);
    Ok(())
}

/// Median seconds of large and small.
async fn latencies(setup: &Setup, kind: StoreKind) -> Result<(f64, f64), Failure> {
    let redis = setup.redis(kind)?;
    let world = World::build(&setup.dir, kind, redis.as_ref().map(Redis::port))?;
    let broker = Broker::start(&world)?;
    let wanted = LARGE + LARGE * SMALL_FOR_EACH;
    let crowd = seed::crowd(&world, 1).await?;
    let tasks = seed::tasks(&crowd, wanted as u64, Lifetime::For(TASK_LIFETIME)).await?;
    let (large, small) = tasks.split_at_checked(LARGE).unwrap_or_default();
    broker.kill();
    seed::credentials(&world, large, MANY).await?;
    seed::credentials(&world, small, 1).await?;
    let _broker = Broker::start(&world)?;
    let channel = world.connect(&crowd.first().map(|(owner, _)| owner.clone()).unwrap_or_default()).await?;
    let channel = channel.channel();
    for task in &tasks {
        remember(&channel, task).await?;
    }
    let (mut of_large, mut of_small) = (Vec::new(), Vec::new());
    for (large, around) in large.iter().zip(small.chunks(SMALL_FOR_EACH)) {
        let (before, after) = around.split_at(SMALL_FOR_EACH / 2);
        for task in before {
            of_small.push(complete(&channel, task, 1).await?);
        }
        of_large.push(complete(&channel, large, MANY).await?);
        for task in after {
            of_small.push(complete(&channel, task, 1).await?);
        }
    }
    Ok((median(&of_large), median(&of_small)))
}

/// Lets the broker read the task, so that completing it costs nothing but that.
async fn remember(channel: &Channel, task: &Task) -> Result<(), Failure> {
    let request = proto::GetTaskRequest { task_id: task.id.clone() };
    TaskServiceClient::new(channel.clone()).get_task(request).await?;
    Ok(())
}

/// Seconds that it took.
async fn complete(channel: &Channel, task: &Task, credentials: u64) -> Result<f64, Failure> {
    let request = proto::CompleteTaskRequest { task_id: task.id.clone(), ..Default::default() };
    let began = Instant::now();
    let completed = TaskServiceClient::new(channel.clone()).complete_task(request).await?;
    let took = began.elapsed().as_secs_f64();
    let issued = completed.into_inner().task.map(|task| u64::from(task.credentials_issued));
    if issued == Some(credentials) {
        Ok(took)
    } else {
        Err(Failure::failed(format_args!("a task of {credentials} credentials says {issued:?}")))
    }
}

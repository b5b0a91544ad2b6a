//! Many tasks and many credentials. Tasks are begun by calls, as anybody begins them; credentials are recorded straight in the store, while
//! no broker runs: the same step that a mint takes, without the token.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use taskpass_verifier::keyset::KeyId;
use tonic::transport::Channel;

use super::calls::{Lifetime, begin_tasks};
use super::world::{Seat, World};
use crate::app::open_store;
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::config;
use crate::ids::TaskId;
use crate::task::store::{CredentialKind, RecordCredential, RecordOutcome};
use crate::time::{Clock as _, SystemClock};

/// A workload has at most this many live tasks by default.
const TASKS_OF_ONE: u64 = 1_000;
/// How many steps are under way at once.
const AT_ONCE: u64 = 256;
/// How often to say how far it is.
const SAY: Duration = Duration::from_secs(2);
/// Of the credentials.
const LIFETIME: Duration = Duration::from_secs(50 * 60);

/// A task, and the workload whose it is.
#[derive(Clone)]
pub(super) struct Task {
    pub(super) owner: String,
    pub(super) id: String,
}

/// Workloads `crowd/0`, `crowd/1` and so on, enough for `tasks`.
pub(super) async fn crowd(world: &World, tasks: u64) -> Result<Vec<(String, Channel)>, Failure> {
    let mut crowd = Vec::new();
    for number in 0..tasks.div_ceil(TASKS_OF_ONE) {
        let owner = format!("agent/crowd/{number}");
        let channel = world.connect(&owner).await?.channel();
        crowd.push((owner, channel));
    }
    Ok(crowd)
}

/// Begins `count` tasks of a crowd, saying how far it is.
pub(super) async fn tasks(
    crowd: &[(String, Channel)],
    count: u64,
    lifetime: Lifetime,
) -> Result<Vec<Task>, Failure> {
    let channels: Vec<_> = crowd.iter().map(|(_, channel)| channel.clone()).collect();
    let began = Instant::now();
    let mut tasks = Vec::new();
    let mut said = Instant::now();
    while (tasks.len() as u64) < count {
        let some = (count - tasks.len() as u64).min(1_000 * channels.len() as u64 / 10).max(1);
        let begun = begin_tasks(&channels, some, lifetime).await?;
        tasks.extend(begun.into_iter().filter_map(|(lane, id)| {
            let (owner, _) = crowd.get(lane)?;
            Some(Task { owner: owner.clone(), id })
        }));
        if said.elapsed() > SAY {
            note(format_args!("  {} of {count} tasks begun in {:.0?}", tasks.len(), began.elapsed()));
            said = Instant::now();
        }
    }
    Ok(tasks)
}

/// Records `each` more credentials for each task, going round; nobody else may have the store open if it is the embedded one.
pub(super) async fn credentials(world: &World, tasks: &[Task], each: u64) -> Result<(), Failure> {
    let config = config::load(&world.config(Seat::First)).map_err(Failure::usage)?;
    let store = open_store(&config, Arc::new(SystemClock)).await.map_err(Failure::failed)?;
    let ids: Result<Vec<TaskId>, _> = tasks.iter().map(|task| task.id.parse()).collect();
    let ids: Arc<[TaskId]> = ids.map_err(|why| Failure::at("a task id", why))?.into();
    let all = ids.len() as u64 * each;
    let step = move |number: u64| {
        let (store, ids) = (Arc::clone(&store), Arc::clone(&ids));
        async move {
            let place = usize::try_from(number).unwrap_or_default() % ids.len().max(1);
            let task = *ids.get(place).ok_or_else(|| Failure::failed("there is no task"))?;
            let now = SystemClock.now();
            let credential = RecordCredential {
                task,
                version: 1,
                kind: CredentialKind::Token,
                // Nobody signs them.
                key: KeyId::from_bytes([0; 32]),
                grant: 0,
                issued_at: now.floor_to_second(),
                expires_at: now.saturating_add(LIFETIME).floor_to_second(),
                limit: u32::MAX,
            };
            match store.record(credential, now).await {
                Ok(RecordOutcome::Recorded { .. }) => Ok(()),
                Ok(other) => Err(Failure::failed(format_args!("a credential was not recorded: {other:?}"))),
                Err(why) => Err(Failure::at("recording a credential", why)),
            }
        }
    };
    in_parallel(all, step).await
}

async fn in_parallel<F>(all: u64, step: impl Fn(u64) -> F + Clone + Send + 'static) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>> + Send,
{
    let began = Instant::now();
    let numbers = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (step, numbers) = (step.clone(), Arc::clone(&numbers));
        workers.spawn(async move {
            loop {
                let number = numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number >= all {
                    return Ok::<_, Failure>(());
                }
                step(number).await?;
            }
        });
    }
    loop {
        match tokio::time::timeout(SAY, workers.join_next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(worker)) => worker.map_err(|why| Failure::at("seeding", why))??,
            Err(_) => {
                let done = numbers.load(std::sync::atomic::Ordering::Relaxed).min(all);
                note(format_args!("  {done} of {all} credentials recorded in {:.0?}", began.elapsed()));
            }
        }
    }
}

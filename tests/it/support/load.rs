//! Light load that notes what it was told, so that it can be held against what is so afterwards.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use taskpass::proto;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::client::Client;
use super::story::{begin, docs, is_live, seconds};
use super::world::DOCS;
use super::{PATIENCE, eventually};

/// Repeats a call while the answer is to try again; panics when patience ends.
pub async fn insist<T, F: Future<Output = Result<T, Status>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, Status> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Err(status) if status.code() == Code::Unavailable && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

/// What was said of one task.
#[derive(Debug, Default)]
struct Heard {
    tokens: Vec<String>,
    /// Somebody asked to end it.
    asked: bool,
    /// Somebody was told that it has ended.
    ended: bool,
}

/// What was said of all tasks.
#[derive(Debug, Default)]
pub struct Word(HashMap<String, Heard>);

#[derive(Default)]
struct Noted {
    word: Mutex<Word>,
    answers: AtomicUsize,
    failures: AtomicUsize,
    slowest_failure: AtomicU64,
    stop: AtomicBool,
}

/// How many tasks a worker leaves alive: with all workers' together, well below what policy lets one workload have.
const LEFT_ALIVE: usize = 3;

/// Workers that begin tasks, mint, and end most of them, until they are stopped. They go on when a call fails.
pub struct Load {
    noted: Arc<Noted>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// One worker for each client; all of one workload.
    pub fn of(clients: impl IntoIterator<Item = Client>) -> Self {
        let noted = Arc::new(Noted::default());
        let work = |client: Client| tokio::spawn(work(client, Arc::clone(&noted)));
        let workers = clients.into_iter().map(work).collect();
        Self { noted, workers }
    }

    /// Waits for that many more good answers.
    pub async fn answers(&self, more: usize) {
        let until = self.noted.answers.load(Ordering::SeqCst) + more;
        eventually("good answers", async || self.noted.answers.load(Ordering::SeqCst) >= until).await;
    }

    /// Waits until that many more calls have failed.
    pub async fn failures(&self, more: usize) {
        let until = self.noted.failures.load(Ordering::SeqCst) + more;
        eventually("failing calls", async || self.noted.failures.load(Ordering::SeqCst) >= until).await;
    }

    /// How long the slowest of the calls that failed took.
    pub fn slowest_failure(&self) -> Duration {
        Duration::from_millis(self.noted.slowest_failure.load(Ordering::SeqCst))
    }

    /// Ends it; what the workers were told.
    pub async fn stop(self) -> Word {
        self.noted.stop.store(true, Ordering::SeqCst);
        for worker in self.workers {
            worker.await.unwrap();
        }
        std::mem::take(&mut *self.noted.word.lock().unwrap())
    }
}

impl Word {
    /// Every end that was told is one, every task that nobody ended lives, and no token outlives its task. What was asked for in vain is done
    /// now.
    pub async fn is_kept(&mut self, agent: &Client, verifier: &Client) {
        assert!(!self.0.is_empty());
        for (id, heard) in &mut self.0 {
            let live = is_live(&insist(async || agent.get(id).await).await.unwrap());
            assert!(!(live && heard.ended), "an end that was acknowledged is gone: {id}");
            assert!(live || heard.asked, "a task that nobody ended is dead: {id}");
            for token in &heard.tokens {
                let request = super::story::shown(token, DOCS);
                let verdict = insist(async || verifier.validate(request.clone()).await).await.unwrap();
                assert_eq!(verdict.active, live, "{id}: {heard:?}");
            }
            if heard.asked && !heard.ended {
                insist(async || agent.complete(id).await).await.unwrap();
                heard.ended = true;
            }
        }
    }
}

impl Noted {
    fn of(&self, id: &str, note: impl FnOnce(&mut Heard)) {
        note(self.word.lock().unwrap().0.entry(id.to_owned()).or_default());
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Counts an answer. The only good reason to fail is that something does not answer.
    fn counted<T>(&self, since: Instant, answer: Result<T, Status>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.answers.fetch_add(1, Ordering::SeqCst);
                Some(answer)
            }
            Err(status) => {
                let cut_off = matches!(status.code(), Code::Unknown | Code::Cancelled);
                assert!(status.code() == Code::Unavailable || cut_off, "{status:?}");
                let took = u64::try_from(since.elapsed().as_millis()).unwrap();
                self.slowest_failure.fetch_max(took, Ordering::SeqCst);
                self.failures.fetch_add(1, Ordering::SeqCst);
                None
            }
        }
    }
}

async fn work(agent: Client, noted: Arc<Noted>) {
    let mut alive = VecDeque::new();
    let mut round = 0;
    while !noted.stopped() {
        if one_task(&agent, &noted, (round % 3 == 2).then_some(&mut alive)).await.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        round += 1;
    }
}

/// One task from its beginning to its end; or it stays alive, and the oldest of those ends when they are too many; `None` as soon as a call fails.
async fn one_task(agent: &Client, noted: &Noted, alive: Option<&mut VecDeque<String>>) -> Option<()> {
    let since = Instant::now();
    let id = noted.counted(since, agent.begin(begin(&[docs()])).await)?.id;
    noted.of(&id, |_| {});
    for _ in 0..2 {
        let request = proto::MintTokenRequest {
            task_id: id.clone(),
            audience: DOCS.into(),
            // Longer than the default, so that it outlives a test on a slow machine: an expired token looks like a dead one.
            lifetime: seconds(300),
            ..Default::default()
        };
        let since = Instant::now();
        let token = noted.counted(since, agent.mint(request).await)?.token;
        noted.of(&id, |heard| heard.tokens.push(token));
    }
    let Some(alive) = alive else { return end(agent, noted, &id).await };
    alive.push_back(id);
    if alive.len() <= LEFT_ALIVE {
        return Some(());
    }
    end(agent, noted, &alive.pop_front()?).await
}

async fn end(agent: &Client, noted: &Noted, id: &str) -> Option<()> {
    noted.of(id, |heard| heard.asked = true);
    let since = Instant::now();
    noted.counted(since, agent.complete(id).await)?;
    noted.of(id, |heard| heard.ended = true);
    Some(())
}

//! Threads for calls that block, and that may never come back. As many as were started, and never another one: what hangs, hangs alone, and the rest go on. Who asks waits for a
//! limited time for a thread, and for as long again for the call, and then goes away; what was asked for and has not begun by then is not begun any more.
//!
//! The two waits say different things: a call that does not come back is the token's, a thread that does not come free is many callers'.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::sync::{oneshot, watch};

/// Calls that wait for a thread, at most, for each thread.
const WAITING_FOR_EACH: usize = 64;

type Job<W> = Box<dyn FnOnce(&mut W) + Send>;

/// Why a call brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It has begun, and did not come back in time.
    TooSlow,
    /// It was not begun: every thread is in a call that has not come back in time.
    Hung,
    /// It was not begun: no thread came free in time, or too many others wait for one. It says nothing of the token.
    Busy,
    /// No more calls are taken, or it panicked.
    Gone,
}

/// Threads that each own a `W`.
pub(super) struct Pool<W> {
    shared: Arc<Shared<W>>,
    threads: usize,
    limit: Duration,
}

struct Shared<W> {
    queue: Mutex<Queue<W>>,
    wake: Condvar,
    /// What each thread is in, since when.
    running: Mutex<Vec<Option<Instant>>>,
    /// Threads that have not ended.
    alive: watch::Sender<usize>,
}

struct Queue<W> {
    waiting: VecDeque<Job<W>>,
    closed: bool,
}

/// Where one call is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Begun,
    GivenUp,
}

/// Keeps a call that has not begun from it, when whoever waits for it goes away.
struct Ticket(Arc<Mutex<Stage>>);

impl Ticket {
    /// Gives the call up. False: it has begun.
    fn give_up(&self) -> bool {
        let mut stage = lock(&self.0);
        if *stage == Stage::Waiting {
            *stage = Stage::GivenUp;
        }
        *stage == Stage::GivenUp
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<W: 'static> Pool<W> {
    /// Starts the threads; `make` makes what each owns, in the thread. `limit`: how long anybody waits for a thread, and how long for the call.
    pub(super) fn start(
        threads: usize,
        limit: Duration,
        make: impl Fn() -> W + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { waiting: VecDeque::new(), closed: false }),
            wake: Condvar::new(),
            running: Mutex::new(vec![None; threads]),
            alive: watch::Sender::new(threads),
        });
        for number in 0..threads {
            let (shared, make) = (Arc::clone(&shared), make.clone());
            thread::Builder::new()
                .name(format!("pkcs11-{number}"))
                .spawn(move || shared.work(number, &make))?;
        }
        Ok(Self { shared, threads, limit })
    }

    /// Has a thread do something, and waits for what comes of it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut W) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        if self.all_hang() {
            return Err(Lost::Hung);
        }
        let (begins, begun) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let ticket = Ticket(Arc::new(Mutex::new(Stage::Waiting)));
        let stage = Arc::clone(&ticket.0);
        let job = move |owned: &mut W| {
            {
                let mut stage = lock(&stage);
                if *stage == Stage::GivenUp {
                    return;
                }
                *stage = Stage::Begun;
            }
            // Nobody may wait any more, here and below.
            let _ = begins.send(());
            if let Ok(done) = catch_unwind(AssertUnwindSafe(|| what(owned))) {
                let _ = answer.send(done);
            }
        };
        {
            let mut queue = lock(&self.shared.queue);
            if queue.closed {
                return Err(Lost::Gone);
            }
            if queue.waiting.len() >= self.threads * WAITING_FOR_EACH {
                return Err(Lost::Busy);
            }
            queue.waiting.push_back(Box::new(job));
        }
        self.shared.wake.notify_one();
        // An error of the channel is one of the other, too.
        if tokio::time::timeout(self.limit, begun).await.is_err() && ticket.give_up() {
            return Err(if self.all_hang() { Lost::Hung } else { Lost::Busy });
        }
        match tokio::time::timeout(self.limit, answered).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(Lost::Gone),
            Err(_) => Err(Lost::TooSlow),
        }
    }

    /// Calls that have not come back in time.
    pub(super) fn stuck(&self) -> usize {
        let running = lock(&self.shared.running);
        running.iter().flatten().filter(|since| since.elapsed() >= self.limit).count()
    }

    fn all_hang(&self) -> bool {
        self.stuck() >= self.threads
    }

    /// Takes no more calls, and waits for the threads to end, at most for as long as for a call. False: some have not. Where this was not called, threads wait to the end of the
    /// process: none of them runs into what it takes down.
    pub(super) async fn close(&self) -> bool {
        lock(&self.shared.queue).closed = true;
        self.shared.wake.notify_all();
        let mut alive = self.shared.alive.subscribe();
        let ended = tokio::time::timeout(self.limit, alive.wait_for(|alive| *alive == 0)).await;
        ended.is_ok_and(|ended| ended.is_ok())
    }
}

impl<W> Shared<W> {
    fn work(&self, number: usize, make: &impl Fn() -> W) {
        let mut owned = make();
        while let Some(job) = self.next() {
            self.is_in_a_call(number, Some(Instant::now()));
            job(&mut owned);
            self.is_in_a_call(number, None);
        }
        drop(owned);
        self.alive.send_modify(|alive| *alive = alive.saturating_sub(1));
    }

    fn is_in_a_call(&self, number: usize, since: Option<Instant>) {
        lock(&self.running).iter_mut().skip(number).take(1).for_each(|running| *running = since);
    }

    fn next(&self) -> Option<Job<W>> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.waiting.pop_front() {
                return Some(job);
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    /// A call that comes back when it is let go.
    fn hangs() -> (mpsc::Sender<()>, impl FnOnce(&mut usize) + Send) {
        let (free, held) = mpsc::channel();
        (free, move |_: &mut usize| held.recv().unwrap_or_default())
    }

    async fn settled(pool: &Pool<usize>, stuck: usize) {
        while pool.stuck() != stuck {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_call_that_hangs_holds_its_thread_and_nobody_else() {
        let pool = Pool::start(2, LIMIT, || 0_usize).unwrap();
        let (free, hanging) = hangs();
        assert_eq!(pool.run(hanging).await, Err(Lost::TooSlow));
        assert_eq!(pool.stuck(), 1);
        assert_eq!(pool.run(|_| 7).await, Ok(7), "the other thread is there");
        free.send(()).unwrap();
        settled(&pool, 0).await;
        assert_eq!(pool.run(|_| 8).await, Ok(8));
        assert!(pool.close().await);
        assert_eq!(pool.run(|_| 9).await, Err(Lost::Gone));
    }

    #[tokio::test]
    async fn where_every_thread_hangs_nobody_waits_and_nothing_is_begun_later() {
        let pool = Pool::start(1, LIMIT, || 0_usize).unwrap();
        let (free, hanging) = hangs();
        let (ran, later) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let waiting = {
            let ran = Arc::clone(&ran);
            move |_: &mut usize| ran.fetch_add(1, Ordering::SeqCst)
        };
        let (first, second) = tokio::join!(pool.run(hanging), pool.run(waiting));
        assert_eq!(first, Err(Lost::TooSlow));
        // Whether the call that it has waited for was over its time by then is a matter of a moment.
        assert!(matches!(second, Err(Lost::Busy | Lost::Hung)), "{second:?}");
        assert_eq!(pool.run(move |_| later.fetch_add(1, Ordering::SeqCst)).await, Err(Lost::Hung));
        assert!(!pool.close().await, "and its end does not wait for it either");
        free.send(()).unwrap();
        settled(&pool, 0).await;
        assert_eq!(ran.load(Ordering::SeqCst), 0, "what was given up before it began is not begun");
    }

    #[tokio::test]
    async fn a_wait_for_a_thread_is_not_the_time_of_a_call() {
        const CALL: Duration = Duration::from_millis(300);
        let pool = Arc::new(Pool::start(1, Duration::from_millis(500), || 0_usize).unwrap());
        let calls: Vec<_> = (0..6)
            .map(|_| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move { pool.run(|_| thread::sleep(CALL)).await })
            })
            .collect();
        let (mut done, mut busy) = (0, 0);
        for call in calls {
            match call.await.unwrap() {
                Ok(()) => done += 1,
                Err(Lost::Busy) => busy += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(done >= 2 && busy >= 1, "{done} done, {busy} not begun");
        assert_eq!((pool.stuck(), pool.run(|_| 7).await), (0, Ok(7)));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_says_nothing_of_its_call() {
        let pool = Arc::new(Pool::start(1, Duration::from_secs(60), || 0_usize).unwrap());
        let (free, hanging) = hangs();
        let (begins, began) = oneshot::channel();
        let caller = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move {
                let begun = |owned: &mut usize| {
                    begins.send(()).unwrap();
                    hanging(owned);
                };
                pool.run(begun).await
            }
        });
        began.await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert_eq!(pool.stuck(), 0, "its time is not over");
        let next = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(|_| 7).await }
        });
        free.send(()).unwrap();
        assert_eq!(next.await.unwrap(), Ok(7));
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_that_does_not_come() {
        let pool = Pool::start(1, Duration::from_secs(60), || 0_usize).unwrap();
        assert_eq!(pool.run(|_| panic!("as a bug would")).await, Err::<(), _>(Lost::Gone));
        assert_eq!((pool.run(|_| 1).await, pool.stuck()), (Ok(1), 0));
    }

    #[tokio::test]
    async fn a_queue_has_an_end() {
        let pool = Arc::new(Pool::start(1, Duration::from_secs(60), || 0_usize).unwrap());
        let (free, hanging) = hangs();
        let mut calls = vec![tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(hanging).await }
        })];
        for _ in 0..=WAITING_FOR_EACH {
            let pool = Arc::clone(&pool);
            calls.push(tokio::spawn(async move { pool.run(|_| ()).await }));
        }
        while lock(&pool.shared.queue).waiting.len() < WAITING_FOR_EACH {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|_| ()).await, Err(Lost::Busy));
        free.send(()).unwrap();
        for call in calls {
            let ended = call.await.unwrap();
            assert!(matches!(ended, Ok(()) | Err(Lost::Busy)), "{ended:?}");
        }
    }
}

//! How long an end takes to reach everybody: followers at two brokers on one Redis, ends through either broker in turn, one at a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tonic::transport::Channel;

use super::Setup;
use super::calls::{Lifetime, begin_tasks, mint};
use super::followers::Followers;
use super::load::histogram;
use super::process::{Broker, Redis};
use super::report::{Figure, Report};
use super::world::{Seat, StoreKind, World};
use crate::cli::args::proto_duration;
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::proto::task_service_client::TaskServiceClient;
use crate::proto::{CompleteTaskRequest, Propagation};
use crate::time::{Clock as _, SystemClock, Timestamp};

/// Ends before those that count.
const WARM_UP: usize = 20;
const TASK_LIFETIME: Duration = Duration::from_secs(600);
/// How long a receipt waits for those who follow.
const WAIT: Duration = Duration::from_secs(5);
/// Between two verdicts that are asked for meanwhile, each of the next follower.
const ASK: Duration = Duration::from_micros(250);
/// How often to say how far it is.
const SAY: Duration = Duration::from_secs(2);

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) followers: usize,
    pub(super) ends: usize,
}

impl Plan {
    const HUNDRED: Self = Self { followers: 100, ends: 300 };
    const THOUSAND: Self = Self { followers: 1_000, ends: 200 };
}

/// What was measured, in microseconds from the moment at which the agent sent its call.
pub(super) struct Ends {
    pub(super) plan: Plan,
    /// The first follower refuses.
    pub(super) first: Histogram<u64>,
    /// Half of them do.
    pub(super) half: Histogram<u64>,
    /// The last one does.
    pub(super) last: Histogram<u64>,
    /// The agent has its receipt, and nobody is pending in it.
    pub(super) receipt: Histogram<u64>,
    /// Verdicts that were asked for between that moment and the last follower's refusal, one each 250 µs or so, of one follower after another.
    pub(super) asked: u64,
    /// Acceptances among them.
    pub(super) accepted: u64,
}

/// Measures the figures of 100 and of 1,000 followers.
pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let hundred = (Plan::HUNDRED, Some(Figure::EndToRefused100P50Ms), Figure::EndToRefused100P99Ms);
    let thousand = (Plan::THOUSAND, None, Figure::EndToRefused1000P99Ms);
    for ((plan, p50, p99), receipt) in
        [(hundred, Figure::Receipt100P99Ms), (thousand, Figure::Receipt1000P99Ms)]
    {
        if !p50.into_iter().chain([p99, receipt]).any(|figure| setup.wants(figure)) {
            continue;
        }
        let ends = of(&setup.dir, plan).await?;
        if let Some(p50) = p50 {
            report.figure(p50, ms(&ends.last, 0.5));
        }
        report.figure(p99, ms(&ends.last, 0.99));
        report.figure(receipt, ms(&ends.receipt, 0.99));
        let detail = [
            ("end_to_first_refused_p50_ms", ms(&ends.first, 0.5)),
            ("end_to_half_refused_p50_ms", ms(&ends.half, 0.5)),
            ("end_to_refused_p50_ms", ms(&ends.last, 0.5)),
            ("end_to_refused_most_ms", ms(&ends.last, 1.0)),
            ("receipt_p50_ms", ms(&ends.receipt, 0.5)),
            ("verdicts_asked_per_end", ends.asked as f64 / plan.ends as f64),
            ("verdicts_accepted_per_end", ends.accepted as f64 / plan.ends as f64),
        ];
        for (name, value) in detail {
            report.detail(format!("{}_{name}", plan.followers), value);
        }
    }
    Ok(())
}

/// Milliseconds.
pub(super) fn ms(took: &Histogram<u64>, quantile: f64) -> f64 {
    took.value_at_quantile(quantile) as f64 / 1_000.0
}

/// Measures `plan`, with everything that it needs started anew.
pub(super) async fn of(dir: &Path, plan: Plan) -> Result<Ends, Failure> {
    note(format_args!("redis, two brokers, {} followers: {} ends", plan.followers, plan.ends));
    let redis = Redis::start(dir)?;
    let world = World::build(dir, StoreKind::Redis, Some(redis.port()))?;
    let brokers = [Broker::start_at(&world, Seat::First)?, Broker::start_at(&world, Seat::Second)?];
    let measured = in_world(&world, plan).await;
    measured.map_err(|failure| failure.hint(brokers.map(|broker| broker.last_words()).join("\n")))
}

async fn in_world(world: &World, plan: Plan) -> Result<Ends, Failure> {
    let mut agents = Vec::new();
    for seat in Seat::BOTH {
        agents.push(world.connect_at(seat, "agent/0").await?.channel());
    }
    let followers = Arc::new(Followers::start(world, &Seat::BOTH, plan.followers, None).await?);
    let mut ends = Ends {
        plan,
        first: histogram()?,
        half: histogram()?,
        last: histogram()?,
        receipt: histogram()?,
        asked: 0,
        accepted: 0,
    };
    let (began, mut said) = (Instant::now(), Instant::now());
    for (number, agent) in (0..WARM_UP + plan.ends).zip(agents.iter().cycle()) {
        let end = one(agent, &followers).await?;
        if let Some(counted) = number.checked_sub(WARM_UP) {
            ends.take(&end);
            if said.elapsed() > SAY {
                said = Instant::now();
                note(format_args!("  {} of {} ends in {:.0?}", counted + 1, plan.ends, began.elapsed()));
            }
        }
    }
    followers.undisturbed()?;
    Ok(ends)
}

/// One end.
struct End {
    /// When each follower refused, in order.
    refused: Vec<Duration>,
    receipt: Duration,
    asked: u64,
    accepted: u64,
}

impl Ends {
    fn take(&mut self, end: &End) {
        let record = |into: &mut Histogram<u64>, took: Option<&Duration>| {
            let micros = took.map_or(0, Duration::as_micros);
            into.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        };
        record(&mut self.first, end.refused.first());
        record(&mut self.half, end.refused.get(end.refused.len() / 2));
        record(&mut self.last, end.refused.last());
        record(&mut self.receipt, Some(&end.receipt));
        self.asked += end.asked;
        self.accepted += end.accepted;
    }
}

/// Begins a task, lets everybody accept its token, and ends it.
async fn one(agent: &Channel, followers: &Arc<Followers>) -> Result<End, Failure> {
    let begun = begin_tasks(std::slice::from_ref(agent), 1, Lifetime::For(TASK_LIFETIME)).await?;
    let task_id = begun.into_iter().next().map(|(_, id)| id).unwrap_or_default();
    let minted = mint(agent.clone(), task_id.clone(), None).await?;
    let watch = followers.watch(&minted.token).await?;
    let asking = Asking::begin(Arc::clone(followers), minted.token.clone());
    let request = CompleteTaskRequest { task_id, wait: Some(proto_duration(WAIT)), ..Default::default() };
    let mut tasks = TaskServiceClient::new(agent.clone());
    let sent = Instant::now();
    let completed = tasks.complete_task(request).await?.into_inner();
    let receipt = sent.elapsed();
    let spread = completed.receipt.and_then(|receipt| receipt.propagation);
    let closed_by = closed_by(spread.as_ref(), followers.len())?;
    let still = (0..followers.len()).filter(|number| followers.judge(*number, &minted.token).is_ok()).count();
    let refused = watch.refused(sent).await?;
    let answers = asking.end()?;
    let last = sent + refused.last().copied().unwrap_or_default();
    if still > 0 {
        return Err(Failure::failed(format_args!(
            "{still} followers accept a token after the receipt of its end"
        )));
    }
    if let Some(late) = answers.iter().find(|answer| answer.accepted && answer.asked >= closed_by) {
        return Err(Failure::failed(format_args!("accepted at {} though closed by {closed_by}", late.asked)));
    }
    let between: Vec<_> = answers.iter().filter(|answer| (sent..last).contains(&answer.at)).collect();
    let accepted = between.iter().filter(|answer| answer.accepted).count() as u64;
    Ok(End { refused, receipt, asked: between.len() as u64, accepted })
}

/// From a receipt in which everybody has applied the end.
fn closed_by(spread: Option<&Propagation>, followers: usize) -> Result<Timestamp, Failure> {
    let spread = spread.ok_or_else(|| Failure::failed("a receipt that says nothing of the followers"))?;
    if spread.pending > 0 || usize::try_from(spread.applied).ok() != Some(followers) {
        let Propagation { applied, pending, .. } = spread;
        return Err(Failure::failed(format_args!(
            "after {WAIT:?}, {applied} have applied and {pending} have not"
        )));
    }
    let closed_by = spread.closed_by.as_ref().and_then(|at| {
        let (seconds, nanos) = (u64::try_from(at.seconds).ok()?, u64::try_from(at.nanos).ok()?);
        Some(Timestamp::from_millis(seconds * 1_000 + nanos / 1_000_000))
    });
    closed_by.ok_or_else(|| Failure::failed("a receipt without closed_by"))
}

/// A verdict.
struct Answer {
    /// When it was asked for.
    asked: Timestamp,
    /// The same moment by the clock that durations are measured by.
    at: Instant,
    accepted: bool,
}

/// Asks one follower after another for its verdict on a token, on a thread of its own, as the callers of MCP servers would.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Vec<Answer>>>,
}

impl Asking {
    fn begin(followers: Arc<Followers>, token: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut answers = Vec::new();
            for number in 0.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let (asked, at) = (SystemClock.now(), Instant::now());
                let accepted = followers.judge(number, &token).is_ok();
                answers.push(Answer { asked, at, accepted });
                std::thread::sleep(ASK);
            }
            answers
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) -> Result<Vec<Answer>, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.thread.take().and_then(|thread| thread.join().ok());
        answers.ok_or_else(|| Failure::failed("the thread that asks for verdicts is gone"))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

//! How long something takes to reach everybody: followers at two brokers on one Redis, one round at a time, through either broker in turn.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::load::histogram;
use super::process::{Broker, Redis};
use super::world::{Seat, StoreKind, World};
use crate::cli::failure::Failure;
use crate::cli::followers::{Cause, Followers, Shown, Watch};
use crate::cli::output::note;
use crate::proto::Propagation;
use crate::time::{Clock as _, SystemClock, Timestamp};

/// Tasks of the rounds live for this long.
pub(super) const TASK_LIFETIME: Duration = Duration::from_secs(600);
/// How long a receipt waits for those who follow.
pub(super) const WAIT: Duration = Duration::from_secs(5);
/// Between two verdicts that are asked for meanwhile, each of the next follower.
const ASK: Duration = Duration::from_micros(250);
/// How often to say how far it is.
const SAY: Duration = Duration::from_secs(2);

/// What is done in each round, by clients of one broker.
pub(super) trait Deed: Sized {
    /// What it is called, many times.
    const PLURAL: &str;
    /// Rounds before those that count.
    const WARM_UP: usize;
    /// The call that does it.
    type Call;

    /// Connects the clients.
    async fn connect(world: &World, seat: Seat) -> Result<Self, Failure>;

    /// A token that everybody accepts, the call after which nobody may, and why not.
    async fn prepare(&self) -> Result<(String, Self::Call, Cause), Failure>;

    /// Makes the call, and gives what the receipt says of those who follow.
    async fn send(&self, call: Self::Call) -> Result<Option<Propagation>, Failure>;
}

/// How much is to be measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) followers: usize,
    pub(super) rounds: usize,
}

/// What was measured, in microseconds from the moment at which the call was sent.
pub(super) struct Spread {
    pub(super) plan: Plan,
    /// The first follower refuses.
    pub(super) first: Histogram<u64>,
    /// Half of them do.
    pub(super) half: Histogram<u64>,
    /// The last one does.
    pub(super) last: Histogram<u64>,
    /// The caller has its receipt, and nobody is pending in it.
    pub(super) receipt: Histogram<u64>,
    /// Verdicts that were asked for between that moment and the last follower's refusal, one each 250 µs or so, of one follower after another.
    pub(super) asked: u64,
    /// Acceptances among them.
    pub(super) accepted: u64,
    /// Why followers refused first.
    pub(super) causes: BTreeSet<&'static str>,
}

/// Milliseconds.
pub(super) fn ms(took: &Histogram<u64>, quantile: f64) -> f64 {
    took.value_at_quantile(quantile) as f64 / 1_000.0
}

/// Measures `plan`, with everything that it needs started anew.
pub(super) async fn of<D: Deed>(dir: &Path, plan: Plan) -> Result<Spread, Failure> {
    let Plan { followers, rounds } = plan;
    note(format_args!("redis, two brokers, {followers} followers: {rounds} {}", D::PLURAL));
    let redis = Redis::start(dir)?;
    let world = World::build(dir, StoreKind::Redis, Some(redis.port()))?;
    let brokers = [Broker::start_at(&world, Seat::First)?, Broker::start_at(&world, Seat::Second)?];
    let measured = in_world::<D>(&world, plan).await;
    measured.map_err(|failure| failure.hint(brokers.map(|broker| broker.last_words()).join("\n")))
}

async fn in_world<D: Deed>(world: &World, plan: Plan) -> Result<Spread, Failure> {
    let mut deeds = Vec::new();
    for seat in Seat::BOTH {
        deeds.push(D::connect(world, seat).await?);
    }
    let followers = Arc::new(world.followers(&Seat::BOTH, plan.followers, None).await?);
    let mut spread = Spread {
        plan,
        first: histogram()?,
        half: histogram()?,
        last: histogram()?,
        receipt: histogram()?,
        asked: 0,
        accepted: 0,
        causes: BTreeSet::new(),
    };
    let (began, mut said) = (Instant::now(), Instant::now());
    for (number, deed) in (0..D::WARM_UP + plan.rounds).zip(deeds.iter().cycle()) {
        let round = one(deed, &followers).await?;
        let Some(counted) = number.checked_sub(D::WARM_UP) else { continue };
        spread.take(&round);
        if said.elapsed() > SAY {
            said = Instant::now();
            let (rounds, what) = (plan.rounds, D::PLURAL);
            note(format_args!("  {} of {rounds} {what} in {:.0?}", counted + 1, began.elapsed()));
        }
    }
    followers.undisturbed()?;
    Ok(spread)
}

/// What came of one round.
struct Round {
    /// When each follower refused, in order.
    refused: Vec<Duration>,
    receipt: Duration,
    asked: u64,
    accepted: u64,
    causes: BTreeSet<&'static str>,
}

impl Spread {
    fn take(&mut self, round: &Round) {
        let record = |into: &mut Histogram<u64>, took: Option<&Duration>| {
            let micros = took.map_or(0, Duration::as_micros);
            into.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        };
        record(&mut self.first, round.refused.first());
        record(&mut self.half, round.refused.get(round.refused.len() / 2));
        record(&mut self.last, round.refused.last());
        record(&mut self.receipt, Some(&round.receipt));
        self.asked += round.asked;
        self.accepted += round.accepted;
        self.causes.extend(&round.causes);
    }
}

/// Lets everybody accept a token, and sees how everybody refuses it.
async fn one<D: Deed>(deed: &D, followers: &Arc<Followers>) -> Result<Round, Failure> {
    let (token, call, cause) = deed.prepare().await?;
    let shown = Shown::Token(token);
    let watch = followers.watch(shown.clone(), cause).await?;
    let asking = Asking::begin(Arc::clone(followers), shown.clone());
    let sent = Instant::now();
    let spread = deed.send(call).await?;
    let receipt = sent.elapsed();
    let closed_by = closed_by(spread.as_ref(), followers.len())?;
    let still = followers.accepting(&shown);
    let refused = watch.refused(sent).await?;
    let answers = asking.end()?;
    if still > 0 {
        return Err(Failure::failed(format_args!("{still} followers accept a token after the receipt")));
    }
    never_again(&watch, &answers)?;
    if let Some(late) = answers.iter().find(|answer| answer.accepted && answer.asked >= closed_by) {
        return Err(Failure::failed(format_args!("accepted at {} though closed by {closed_by}", late.asked)));
    }
    let last = sent + refused.last().copied().unwrap_or_default();
    let between: Vec<_> = answers.iter().filter(|answer| (sent..last).contains(&answer.at)).collect();
    let accepted = between.iter().filter(|answer| answer.accepted).count() as u64;
    Ok(Round { refused, receipt, asked: between.len() as u64, accepted, causes: watch.causes() })
}

/// Whoever has refused has not accepted since, as far as anybody asked.
fn never_again(watch: &Watch, answers: &[Answer]) -> Result<(), Failure> {
    let again = |answer: &&Answer| {
        answer.accepted && watch.refused_at(answer.number).is_some_and(|refused| answer.at > refused)
    };
    match watch.relapses() + answers.iter().filter(again).count() {
        0 => Ok(()),
        again => {
            Err(Failure::failed(format_args!("{again} acceptances by followers that had refused already")))
        }
    }
}

/// From a receipt in which everybody has applied it.
fn closed_by(spread: Option<&Propagation>, followers: usize) -> Result<Timestamp, Failure> {
    let spread = spread.ok_or_else(|| Failure::failed("a receipt that says nothing of the followers"))?;
    if spread.pending > 0 || usize::try_from(spread.applied).ok() != Some(followers) {
        let Propagation { applied, pending, .. } = spread;
        return Err(Failure::failed(format_args!(
            "after {WAIT:?}, {applied} have applied and {pending} have not"
        )));
    }
    let closed_by = crate::cli::render::moment(spread.closed_by.as_ref());
    closed_by.ok_or_else(|| Failure::failed("a receipt without closed_by"))
}

/// A verdict.
struct Answer {
    /// Of which follower; those beyond the last begin anew.
    number: usize,
    /// When it was asked for.
    asked: Timestamp,
    /// The same moment by the clock that durations are measured by.
    at: Instant,
    accepted: bool,
}

/// Asks one follower after another for its verdict, on a thread of its own, as the callers of MCP servers would.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Vec<Answer>>>,
}

impl Asking {
    fn begin(followers: Arc<Followers>, shown: Shown) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut answers = Vec::new();
            for number in 0.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let (asked, at) = (SystemClock.now(), Instant::now());
                let accepted = followers.judge(number, &shown).is_ok();
                answers.push(Answer { number, asked, at, accepted });
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

//! Mints while 100,000 tasks of others lapse in the same second.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tonic::Code;
use tonic::transport::Channel;

use super::Setup;
use super::calls::{Agents, Lifetime, Verifiers};
use super::load::{Next, histogram, paced};
use super::process::{Broker, Redis};
use super::report::{Figure, Report};
use super::seed::{self, Task};
use super::world::{AUDIENCE, StoreKind, World};
use crate::cli::args::proto_duration;
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::proto::MintTokenRequest;
use crate::proto::credential_service_client::CredentialServiceClient;

const TASKS: u64 = 100_000;
/// Begun first, to see how long the others will take.
const TRIAL: u64 = 2_000;
/// Of others, that go on.
const STEADY_TASKS: u64 = 100;
const STEADY_LIFETIME: Duration = Duration::from_secs(3_600);
/// Mints in a second, far from what the broker can do: what is looked for is what holds them up.
const PER_SECOND: u32 = 400;
/// How long the quiet is measured.
const WINDOW: Duration = Duration::from_secs(8);
const PIECE: Duration = Duration::from_secs(1);
/// The lapse must be over by then.
const LONGEST: Duration = Duration::from_secs(120);
/// Lapsed tasks that are tried, and a moment for the last deadline to pass.
const TRIED: usize = 100;
const GRACE: Duration = Duration::from_millis(500);

/// Measures it on both stores.
pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    let figure = Figure::LapseMintP99PerQuiet;
    if !setup.wants(figure) {
        return Ok(());
    }
    let mut ratios = Vec::new();
    for kind in StoreKind::BOTH {
        note(format_args!("{} store: {TASKS} tasks that will lapse together", kind.name()));
        let (quiet, lapse) = one(setup, kind).await?;
        let p99 = |took: &Histogram<u64>| took.value_at_quantile(0.99) as f64 / 1_000.0;
        report.detail(format!("quiet_mint_p99_ms_{}", kind.name()), p99(&quiet));
        report.detail(format!("lapse_mint_p99_ms_{}", kind.name()), p99(&lapse.took));
        report.detail(format!("lapse_s_{}", kind.name()), lapse.lasted.as_secs_f64());
        ratios.push((kind, p99(&lapse.took) / p99(&quiet)));
    }
    report.worst(figure, &ratios);
    Ok(())
}

struct Lapse {
    took: Histogram<u64>,
    lasted: Duration,
}

async fn one(setup: &Setup, kind: StoreKind) -> Result<(Histogram<u64>, Lapse), Failure> {
    let redis = setup.redis(kind)?;
    let world = World::build(&setup.dir, kind, redis.as_ref().map(Redis::port))?;
    let broker = Broker::start(&world)?;
    let steady = Agents::begin(&world, STEADY_TASKS, STEADY_LIFETIME).await?;
    let verifiers = Verifiers::connect(&world).await?;
    let crowd = seed::crowd(&world, TASKS).await?;
    let began = Instant::now();
    seed::tasks(&crowd, TRIAL, Lifetime::For(STEADY_LIFETIME)).await?;
    let ratio = u32::try_from(TASKS / TRIAL).unwrap_or(u32::MAX);
    let end = Instant::now() + began.elapsed() * (ratio + ratio / 2) + WINDOW * 2;
    let tasks = seed::tasks(&crowd, TASKS - TRIAL, Lifetime::Until(end)).await?;
    let quiet_from = end.checked_sub(WINDOW + PIECE * 2).unwrap_or(end);
    if Instant::now() > quiet_from {
        return Err(Failure::failed(
            "the tasks were begun too slowly; the machine is busy with other things",
        ));
    }
    note(format_args!("  they lapse in {:.0?}", end.saturating_duration_since(Instant::now())));
    tokio::time::sleep_until(quiet_from.into()).await;
    let quiet = mints(&steady, WINDOW).await?;
    let tokens = last_tokens(&crowd, &tasks).await?;
    tokio::time::sleep_until(end.into()).await;
    let refused = tokio::spawn(nothing_passes(crowd, tasks, tokens, verifiers));
    let lapse = until_lapsed(&broker, &steady).await?;
    refused.await.map_err(|why| Failure::at("trying what has lapsed", why))??;
    Ok((quiet, lapse))
}

async fn mints(agents: &Agents, length: Duration) -> Result<Histogram<u64>, Failure> {
    let agents = agents.clone();
    paced(length, PER_SECOND, move |turn| {
        let mint = agents.clone().mint(turn, None);
        async move { mint.await.map(|_| Next::Go) }
    })
    .await
}

/// Mints on until the broker has written down every end.
async fn until_lapsed(broker: &Broker, steady: &Agents) -> Result<Lapse, Failure> {
    let began = Instant::now();
    let mut took = histogram()?;
    loop {
        let piece = mints(steady, PIECE).await?;
        took.add(piece).map_err(|why| Failure::at("the histogram", why))?;
        let lapsed = broker.counter("taskpass_tasks_lapsed_total")?;
        let lasted = began.elapsed();
        if lapsed >= (TASKS - TRIAL) as f64 {
            note(format_args!("  all have lapsed after {lasted:.0?}"));
            return Ok(Lapse { took, lasted });
        }
        if lasted > LONGEST {
            return Err(Failure::failed(format_args!("only {lapsed} tasks lapsed in {LONGEST:?}")));
        }
    }
}

async fn mint(channel: Channel, task_id: String) -> Result<String, tonic::Status> {
    let minimum_lifetime = Some(proto_duration(Duration::from_secs(1)));
    let audience = AUDIENCE.to_owned();
    let request = MintTokenRequest { task_id, audience, minimum_lifetime, ..Default::default() };
    let minted = CredentialServiceClient::new(channel).mint_token(request).await?;
    Ok(minted.into_inner().token)
}

fn channel_of(crowd: &[(String, Channel)], task: &Task) -> Result<Channel, Failure> {
    let found = crowd.iter().find(|(owner, _)| *owner == task.owner).map(|(_, channel)| channel.clone());
    found.ok_or_else(|| Failure::failed("a task without an owner"))
}

/// Tokens of some of the tasks, minted in the last second that allows it.
async fn last_tokens(crowd: &[(String, Channel)], tasks: &[Task]) -> Result<Vec<String>, Failure> {
    let mut tokens = Vec::new();
    for task in tasks.iter().take(TRIED) {
        match mint(channel_of(crowd, task)?, task.id.clone()).await {
            Ok(token) => tokens.push(token),
            // Not enough is left of its task.
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => return Err(status.into()),
        }
    }
    Ok(tokens)
}

/// Nothing is accepted past its time, whether or not its end is written down yet.
async fn nothing_passes(
    crowd: Vec<(String, Channel)>,
    tasks: Vec<Task>,
    tokens: Vec<String>,
    verifiers: Verifiers,
) -> Result<(), Failure> {
    tokio::time::sleep(GRACE).await;
    for token in tokens {
        if verifiers.validate(0, token).await? {
            return Err(Failure::failed("a token of a task that has lapsed was found active"));
        }
    }
    for task in tasks.iter().rev().take(TRIED) {
        match mint(channel_of(&crowd, task)?, task.id.clone()).await {
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => return Err(status.into()),
            Ok(_) => return Err(Failure::failed("a token was minted for a task that has lapsed")),
        }
    }
    Ok(())
}

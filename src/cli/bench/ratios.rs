//! Calls against empty ones, through the same listener in the same run, in rounds.

use std::sync::Arc;
use std::time::Duration;

use super::Setup;
use super::calls::{Agents, Certificates, Empty, Minted, Unseen, Verifiers};
use super::load::{CONNECTIONS, Next, median, stretch, times};
use super::process::{Broker, Redis};
use super::report::{Figure, Report};
use super::world::{StoreKind, World};
use crate::cli::failure::Failure;
use crate::cli::output::note;

/// Rounds; each measures an empty call before and after.
const ROUNDS: usize = 10;
/// Tasks; their ids are random, so they lie in all partitions.
const TASKS: u64 = 1_000;
const TASK_LIFETIME: Duration = Duration::from_secs(3_600);
/// Of the tokens that are validated again and again.
const LONG: Duration = Duration::from_secs(900);
/// More first sights than this in a second are not to be expected.
const FIRST_SIGHTS: f64 = 10_000.0;

/// One thing to measure.
enum Work {
    Mint(Agents, Unseen),
    ValidateRepeat(Verifiers, Arc<[String]>),
    ValidateFirst(Verifiers, Agents, Unseen),
    Certify(Certificates),
}

impl Work {
    /// Calls per second.
    async fn stretch(&self, length: Duration) -> Result<f64, Failure> {
        match self {
            Self::Mint(agents, unseen) => {
                let (agents, unseen) = (agents.clone(), unseen.clone());
                let call = move |turn| {
                    let (mint, unseen) = (agents.clone().mint(turn, None), unseen.clone());
                    async move { mint.await.map(|minted| unseen.put(minted.token)).map(|()| Next::Go) }
                };
                stretch(length, call).await
            }
            Self::ValidateRepeat(verifiers, tokens) => {
                let (verifiers, tokens) = (verifiers.clone(), Arc::clone(tokens));
                let call = move |turn: super::load::Turn| {
                    let place = usize::try_from(turn.number).unwrap_or_default() % tokens.len().max(1);
                    verifiers.clone().must_be_active(turn, tokens.get(place).cloned().unwrap_or_default())
                };
                stretch(length, call).await
            }
            Self::ValidateFirst(verifiers, _, unseen) => {
                let (verifiers, unseen) = (verifiers.clone(), unseen.clone());
                let call = move |turn| {
                    let (verifiers, token) = (verifiers.clone(), unseen.take());
                    async move {
                        match token {
                            Some(token) => verifiers.must_be_active(turn, token).await,
                            None => Ok(Next::Stop),
                        }
                    }
                };
                stretch(length, call).await
            }
            Self::Certify(certificates) => {
                let certificates = certificates.clone();
                stretch(length, move |turn| certificates.clone().issue(turn)).await
            }
        }
    }

    /// What must not be measured.
    async fn prepare(&self, length: Duration) -> Result<(), Failure> {
        match self {
            Self::ValidateFirst(_, agents, unseen) => {
                let wanted = (FIRST_SIGHTS * length.as_secs_f64()) as usize;
                let missing = wanted.saturating_sub(unseen.count());
                let minted = mint_all(agents, missing as u64, None).await?;
                minted.into_iter().for_each(|minted| unseen.put(minted.token));
            }
            Self::Mint(_, unseen) => unseen.clear(),
            Self::ValidateRepeat(..) | Self::Certify(_) => {}
        }
        Ok(())
    }
}

/// So many tokens of the tasks in turn.
pub(super) async fn mint_all(
    agents: &Agents,
    count: u64,
    lifetime: Option<Duration>,
) -> Result<Vec<Minted>, Failure> {
    let minted = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (agents, all) = (agents.clone(), Arc::clone(&minted));
    times(count, move |turn| {
        let (mint, all) = (agents.clone().mint(turn, lifetime), Arc::clone(&all));
        async move {
            let minted = mint.await?;
            all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(minted);
            Ok(Next::Go)
        }
    })
    .await?;
    let mut minted = minted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(std::mem::take(&mut minted))
}

/// Measures what was asked for on one store.
pub(super) async fn measure(setup: &Setup, kind: StoreKind, report: &mut Report) -> Result<(), Failure> {
    let figures: Vec<_> = match kind {
        StoreKind::Redis => vec![
            Figure::MintRedisPerEmpty,
            Figure::ValidateRepeatPerEmpty,
            Figure::ValidateFirstPerEmpty,
            Figure::CertPerEmpty,
        ],
        StoreKind::Embedded => vec![Figure::MintEmbeddedPerEmpty],
    };
    let figures: Vec<_> = figures.into_iter().filter(|figure| setup.wants(*figure)).collect();
    if figures.is_empty() {
        return Ok(());
    }
    let redis = setup.redis(kind)?;
    let world = World::build(&setup.dir, kind, redis.as_ref().map(Redis::port))?;
    let _broker = Broker::start(&world)?;
    note(format_args!("{} store: beginning {TASKS} tasks", kind.name()));
    let agents = Agents::begin(&world, TASKS, TASK_LIFETIME).await?;
    let verifiers = Verifiers::connect(&world).await?;
    revoked_is_refused(&agents, &verifiers).await?;
    let works = works(&figures, &agents, &verifiers).await?;
    let length = setup.length / u32::try_from(ROUNDS * 2).unwrap_or(1);
    let rates = rounds(&Empty::new(&agents), &works, length).await?;
    for ((figure, _), rounds) in works.iter().zip(rates) {
        let rates: Vec<_> = rounds.iter().map(|round| round.rate).collect();
        let empties: Vec<_> = rounds.iter().map(|round| round.empty).collect();
        let ratios: Vec<_> = rounds.iter().map(|round| round.rate / round.empty).collect();
        report.detail(format!("{}_calls_per_s", figure.name()), median(&rates));
        report.detail(format!("{}_empty_per_s", figure.name()), median(&empties));
        report.rounds(*figure, &ratios);
    }
    Ok(())
}

async fn works(
    figures: &[Figure],
    agents: &Agents,
    verifiers: &Verifiers,
) -> Result<Vec<(Figure, Work)>, Failure> {
    let unseen = Unseen::default();
    let mut works = Vec::new();
    for figure in figures {
        let work = match figure {
            Figure::ValidateRepeatPerEmpty => {
                let tokens: Vec<_> = mint_all(agents, TASKS, Some(LONG)).await?;
                let tokens: Arc<[_]> = tokens.into_iter().map(|minted| minted.token).collect();
                Work::ValidateRepeat(verifiers.clone(), tokens)
            }
            Figure::ValidateFirstPerEmpty => {
                Work::ValidateFirst(verifiers.clone(), agents.clone(), unseen.clone())
            }
            Figure::CertPerEmpty => Work::Certify(Certificates::new(agents)?),
            _ => Work::Mint(agents.clone(), unseen.clone()),
        };
        works.push((*figure, work));
    }
    Ok(works)
}

/// Calls per second in a round, and of empty calls just before and after.
struct Round {
    rate: f64,
    empty: f64,
}

async fn rounds(
    empty: &Empty,
    works: &[(Figure, Work)],
    length: Duration,
) -> Result<Vec<Vec<Round>>, Failure> {
    let idle = async || {
        let empty = empty.clone();
        stretch(length, move |turn| empty.clone().call(turn)).await
    };
    let mut rates: Vec<Vec<Round>> = works.iter().map(|_| Vec::new()).collect();
    // The first round warms up and does not count.
    for round in 0..=ROUNDS {
        let mut before = idle().await?;
        for ((figure, work), rates) in works.iter().zip(&mut rates) {
            work.prepare(length).await?;
            let rate = work.stretch(length).await?;
            let after = idle().await?;
            let empty = f64::midpoint(before, after);
            let ratio = rate / empty;
            note(format_args!(
                "{:<28} round {round} of {ROUNDS}: {rate:>6.0} calls/s, {empty:>6.0} empty/s, {ratio:.3}",
                figure.name()
            ));
            before = after;
            if round > 0 {
                rates.push(Round { rate, empty });
            }
        }
    }
    Ok(rates)
}

/// A token that was revoked is inactive at once, whether or not it was seen before.
async fn revoked_is_refused(agents: &Agents, verifiers: &Verifiers) -> Result<(), Failure> {
    for seen in [true, false] {
        let turn = super::load::Turn { lane: usize::from(seen) % CONNECTIONS, number: 0 };
        let minted = agents.clone().mint(turn, None).await?;
        if seen {
            verifiers.clone().must_be_active(turn, minted.token.clone()).await?;
        }
        agents.revoke(turn.lane, minted.id).await?;
        if verifiers.validate(turn.lane, minted.token).await? {
            return Err(Failure::failed("a revoked token was found active"));
        }
    }
    Ok(())
}

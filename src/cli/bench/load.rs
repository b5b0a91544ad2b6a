//! Load: calls that keep a number of them in flight, calls at a steady pace, and what to make of what was measured.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::cli::failure::Failure;

/// Calls in flight.
pub(super) const IN_FLIGHT: usize = 64;
/// Connections that they share.
pub(super) const CONNECTIONS: usize = 4;

/// Which call it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// On which connection: below [`CONNECTIONS`].
    pub(super) lane: usize,
    /// Counts the calls of a stretch.
    pub(super) number: u64,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    /// The call had nothing left to work with and was not made.
    Stop,
}

/// Keeps [`IN_FLIGHT`] calls in flight until `until` says stop, and gives the calls per second.
async fn keep_in_flight<F>(
    call: impl Fn(Turn) -> F + Clone + Send + 'static,
    go_on: impl Fn(u64) -> bool + Clone + Send + 'static,
) -> Result<f64, Failure>
where
    F: Future<Output = Result<Next, Failure>> + Send,
{
    let numbers = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    let began = Instant::now();
    for worker in 0..IN_FLIGHT {
        let (call, go_on, numbers) = (call.clone(), go_on.clone(), Arc::clone(&numbers));
        workers.spawn(async move {
            let mut done = 0_u64;
            loop {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if !go_on(number) || call(Turn { lane: worker % CONNECTIONS, number }).await? == Next::Stop {
                    return Ok::<_, Failure>(done);
                }
                done += 1;
            }
        });
    }
    let mut done = 0;
    while let Some(worker) = workers.join_next().await {
        done += worker.map_err(|why| Failure::at("the load", why))??;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

/// Calls per second over a stretch of time.
pub(super) async fn stretch<F>(
    length: Duration,
    call: impl Fn(Turn) -> F + Clone + Send + 'static,
) -> Result<f64, Failure>
where
    F: Future<Output = Result<Next, Failure>> + Send,
{
    let until = Instant::now() + length;
    keep_in_flight(call, move |_| Instant::now() < until).await
}

/// Makes `count` calls, and gives the calls per second.
pub(super) async fn times<F>(
    count: u64,
    call: impl Fn(Turn) -> F + Clone + Send + 'static,
) -> Result<f64, Failure>
where
    F: Future<Output = Result<Next, Failure>> + Send,
{
    keep_in_flight(call, move |number| number < count).await
}

/// Begins a call each `1 / per_second`, whether or not those before have ended, and gives how long each took from the moment at which it
/// was to begin.
pub(super) async fn paced<F>(
    length: Duration,
    per_second: u32,
    call: impl Fn(Turn) -> F + Clone + Send + 'static,
) -> Result<Histogram<u64>, Failure>
where
    F: Future<Output = Result<Next, Failure>> + Send + 'static,
{
    let step = Duration::from_secs(1) / per_second.max(1);
    let began = Instant::now();
    let mut calls = JoinSet::new();
    let mut number = 0_u64;
    let mut due = began;
    while due < began + length {
        tokio::time::sleep_until(due.into()).await;
        let lane = usize::try_from(number).unwrap_or_default() % CONNECTIONS;
        let (call, begins) = (call.clone(), due);
        calls.spawn(async move { call(Turn { lane, number }).await.map(|_| begins.elapsed()) });
        number += 1;
        due += step;
    }
    let mut took = histogram()?;
    while let Some(call) = calls.join_next().await {
        let one = call.map_err(|why| Failure::at("the load", why))??;
        took.saturating_record(u64::try_from(one.as_micros()).unwrap_or(u64::MAX));
    }
    Ok(took)
}

/// Of microseconds, up to a minute.
pub(super) fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|why| Failure::at("the histogram", why))
}

/// The middle one; zero if there are none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => f64::midpoint(*below, *above),
        (_, Some(middle)) => *middle,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert_eq!(median(&[]).to_bits(), 0.0_f64.to_bits());
    }

    #[tokio::test]
    async fn every_call_is_made_once_and_on_every_connection() {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let calls = Arc::clone(&seen);
        times(1_000, move |turn| {
            calls.lock().unwrap().push(turn);
            std::future::ready(Ok(Next::Go))
        })
        .await
        .unwrap();
        let seen = seen.lock().unwrap();
        let numbers: std::collections::BTreeSet<_> = seen.iter().map(|turn| turn.number).collect();
        assert_eq!((seen.len(), numbers.len()), (1_000, 1_000));
        let lanes: std::collections::BTreeSet<_> = seen.iter().map(|turn| turn.lane).collect();
        assert!(lanes.len() <= CONNECTIONS && lanes.iter().all(|lane| *lane < CONNECTIONS));
    }

    #[tokio::test]
    async fn one_failure_is_the_failure_of_the_stretch() {
        let failed = times(100, |turn| async move {
            if turn.number == 50 { Err(Failure::failed("no")) } else { Ok(Next::Go) }
        });
        assert!(failed.await.is_err());
    }

    #[tokio::test]
    async fn a_slow_answer_delays_no_other_call_and_counts_from_its_due_time() {
        let took = paced(Duration::from_millis(100), 100, |turn| async move {
            if turn.number == 0 {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Ok(Next::Go)
        });
        let took = took.await.unwrap();
        assert_eq!(took.len(), 10);
        assert!(took.max() >= 300_000, "{}", took.max());
        assert!(took.value_at_quantile(0.5) < 150_000);
    }
}

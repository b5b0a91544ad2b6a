//! What a broker costs before it is asked for anything.

use std::time::Duration;

use super::Setup;
use super::load::median;
use super::process::{Broker, Redis};
use super::report::{Figure, Report};
use super::world::{StoreKind, World};
use crate::cli::failure::Failure;
use crate::cli::output::note;

/// Starts after the first, which makes the keys.
const STARTS: usize = 7;
/// How long a broker is left alone before its memory is looked at: longer than its sweep sleeps.
const IDLE: Duration = Duration::from_secs(5);

/// Measures both figures on both stores.
pub(super) async fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    if !setup.wants(Figure::IdleRssMb) && !setup.wants(Figure::ReadyS) {
        return Ok(());
    }
    let (mut resident, mut ready) = (Vec::new(), Vec::new());
    for kind in StoreKind::BOTH {
        note(format_args!("{} store: starting a broker {} times", kind.name(), STARTS + 1));
        let redis = setup.redis(kind)?;
        let world = World::build(&setup.dir, kind, redis.as_ref().map(Redis::port))?;
        let first = Broker::start(&world)?;
        report.detail(format!("first_ready_s_{}", kind.name()), first.ready().as_secs_f64());
        drop(first);
        let mut starts = Vec::new();
        for _ in 0..STARTS {
            starts.push(Broker::start(&world)?.ready().as_secs_f64());
        }
        ready.push((kind, median(&starts)));
        let broker = Broker::start(&world)?;
        tokio::time::sleep(IDLE).await;
        resident.push((kind, broker.resident_mb()?));
    }
    if setup.wants(Figure::IdleRssMb) {
        report.worst(Figure::IdleRssMb, &resident);
    }
    if setup.wants(Figure::ReadyS) {
        report.worst(Figure::ReadyS, &ready);
    }
    Ok(())
}

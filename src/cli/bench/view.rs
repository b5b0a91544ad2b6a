//! A verifier's view of many ended tasks: made for verdicts, and measured.

use std::time::Duration;

use taskpass_verifier::ids::PARTITIONS;
use taskpass_verifier::view::{Entry, Position, Snapshot};
use taskpass_verifier::{Moment, RevocationView, UnixSeconds};

use super::Setup;
use super::process::resident_mb;
use super::report::{Figure, Report};
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::ids::{Generation, Partition, TaskId, random};
use crate::time::{Clock as _, SystemClock, Timestamp};

/// Ended tasks that a view remembers here.
pub(super) const ENDED: u64 = 100_000;
/// The one moment at which everything was heard.
pub(super) const MOMENT: Moment = Moment::from_nanos(0);
/// How long ends are remembered.
const REMEMBERED: Duration = Duration::from_secs(900);
/// The bound, as a broker would name it.
const BOUND: Duration = Duration::from_secs(15);

/// By partition; none: any will do.
pub(super) type Generations = [Option<Generation>; PARTITIONS as usize];

/// A view that is fresh, of these generations, and remembers [`ENDED`] tasks.
pub(super) fn of(generations: Generations, now: Timestamp) -> Result<RevocationView, Failure> {
    let (view, forget_at) = (RevocationView::default(), UnixSeconds(now.as_secs() + REMEMBERED.as_secs()));
    for (partition, generation) in Partition::all().zip(generations) {
        let ended = |_| {
            let task = TaskId::from_parts(now.as_millis(), partition, random()?);
            Ok(Entry::TaskEnded { task, forget_at })
        };
        let share = ENDED.div_ceil(u64::from(PARTITIONS));
        let entries: Result<Vec<_>, crate::error::Error> = (0..share).map(ended).collect();
        let entries = entries.map_err(|why| Failure::failed(why.log_line()))?;
        let generation = generation.unwrap_or(Generation::from_parts(0, [0; 6]));
        let position = Position { generation, seq: u64::MAX, chain: [0; 20] };
        let snapshot = Snapshot { partition, position, entries: &entries };
        view.replace(&snapshot).map_err(|_| Failure::failed("the view has no room"))?;
        view.heard(partition, &position, MOMENT);
    }
    view.set_bound(BOUND);
    view.set_time(now.as_millis(), MOMENT, MOMENT);
    Ok(view)
}

/// Its memory: by its tables, or by what this process has grown by, whichever is more.
pub(super) fn measure(setup: &Setup, report: &mut Report) -> Result<(), Failure> {
    if !setup.wants(Figure::View100kMb) {
        return Ok(());
    }
    note(format_args!("the memory of a view of {ENDED} ended tasks"));
    let before = resident_mb(std::process::id())?;
    let view = of([None; PARTITIONS as usize], SystemClock.now())?;
    let resident = resident_mb(std::process::id())? - before;
    let tables = view.memory_bytes() as f64 / f64::from(1 << 20);
    report.detail("view_100k_tables_mb", tables);
    report.detail("view_100k_resident_mb", resident);
    report.figure(Figure::View100kMb, tables.max(resident));
    Ok(())
}

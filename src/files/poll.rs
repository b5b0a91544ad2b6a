//! Looking at files again and again.
//!
//! Content is compared, not times or inodes, so that an atomic rename, a swapped symlink (as Kubernetes does it) and a write in place are all
//! seen. A change is taken only after two looks agreed, so that a file caught in the middle of being written is not.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How long after a change the second look comes.
const SETTLE: Duration = Duration::from_millis(50);

/// What one look led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Nothing new.
    Unchanged,
    /// Something is new, and is judged if the next look finds the same.
    Unsettled,
    /// What was new is in force.
    Taken,
    /// What was new is bad; the old stays in force.
    Refused,
}

/// Something that is kept as its files say.
pub(crate) trait Follows: Send + 'static {
    /// Reads the files once, and takes what is new, or says once why not. May block on the disk.
    fn look(&mut self) -> Looked;
}

/// Decides which readings are to be judged: new ones, seen twice. `M` tells readings apart.
pub(crate) struct Settling<M> {
    judged: Option<M>,
    seen: Option<M>,
}

impl<M> Default for Settling<M> {
    fn default() -> Self {
        Self { judged: None, seen: None }
    }
}

impl<M: PartialEq> Settling<M> {
    /// Begins with what was taken at start.
    pub(crate) const fn from(taken: M) -> Self {
        Self { judged: Some(taken), seen: None }
    }

    /// `Ok`: judge this reading now; it will not be named again. Else there is nothing to judge, or not yet.
    pub(crate) fn settle(&mut self, mark: M) -> Result<(), Looked> {
        if self.judged.as_ref() == Some(&mark) {
            self.seen = None;
            return Err(Looked::Unchanged);
        }
        if self.seen.as_ref() != Some(&mark) {
            self.seen = Some(mark);
            return Err(Looked::Unsettled);
        }
        self.judged = self.seen.take();
        Ok(())
    }
}

/// Looks every `interval` until `stop`, where it may block.
pub(crate) async fn keep_looking(mut it: impl Follows, interval: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(interval.max(SETTLE));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        loop {
            let looking = tokio::task::spawn_blocking(move || {
                let looked = it.look();
                (it, looked)
            });
            // It ends early only with the process.
            let Ok((back, looked)) = looking.await else { return };
            it = back;
            if looked != Looked::Unsettled {
                break;
            }
            if stop.run_until_cancelled(tokio::time::sleep(SETTLE)).await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_judged_when_two_looks_agree_and_once_only() {
        let mut settling = Settling::from(0);
        let mut settle = |mark| settling.settle(mark);
        let (unchanged, unsettled) = (Err(Looked::Unchanged), Err(Looked::Unsettled));
        assert_eq!(settle(0), unchanged);
        assert_eq!((settle(1), settle(2), settle(3)), (unsettled, unsettled, unsettled));
        assert_eq!((settle(3), settle(3)), (Ok(()), unchanged));
        assert_eq!((settle(4), settle(3), settle(4)), (unsettled, unchanged, unsettled));
        assert_eq!(settle(4), Ok(()));
    }
}

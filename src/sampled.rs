//! Log lines that may come without end: the first of each kind in each second, with the number of those that were left out before it. So nobody fills a disk
//! by asking again and again; metrics count all of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines of one kind.
const SPACING: Duration = Duration::from_secs(1);

/// What was logged lately, by kind: by names that the code gives, of which there are only so many.
#[derive(Debug, Default)]
pub(crate) struct Sampled(Mutex<HashMap<&'static str, Logged>>);

#[derive(Clone, Copy, Debug)]
struct Logged {
    at: Instant,
    left_out: u64,
}

impl Sampled {
    /// How many of this kind were left out since the last one that was logged, if this one is to be.
    pub(crate) fn turn(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match logged.get_mut(kind) {
            Some(last) if now.duration_since(last.at) < SPACING => {
                last.left_out += 1;
                None
            }
            last => {
                let left_out = last.map_or(0, |last| last.left_out);
                logged.insert(kind, Logged { at: now, left_out: 0 });
                Some(left_out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_each_kind_is_logged_a_second_and_says_how_many_were_not() {
        let (lines, now) = (Sampled::default(), Instant::now());
        assert_eq!(lines.turn("tls", now), Some(0));
        for _ in 0..1_000 {
            assert_eq!(lines.turn("tls", now + SPACING / 2), None);
        }
        assert_eq!(lines.turn("expired", now + SPACING / 2), Some(0));
        assert_eq!(lines.turn("tls", now + SPACING), Some(1_000));
        assert_eq!(lines.turn("tls", now + SPACING * 3), Some(0));
    }
}

//! A fence has an entry in each partition. People read of it once.

use std::time::Duration;

use taskpass_verifier::ids::PARTITIONS;
use taskpass_verifier::keyset::KeyId;
use taskpass_verifier::view::{Entry, FenceTarget};
use tokio::time::{Instant, sleep_until};

use super::Line;
use crate::cli::render;

/// A fence is told when no partition has told of it for so long, if not all of them have.
const QUIET: Duration = Duration::from_millis(500);
/// Fences that wait at once; the one that waits longest goes when there is one more.
const AT_ONCE: usize = 64;

/// What is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fenced {
    Tasks(FenceTarget),
    Key(KeyId),
}

impl Fenced {
    pub(super) const fn by(entry: &Entry) -> Option<Self> {
        match *entry {
            Entry::Fence { target, .. } => Some(Self::Tasks(target)),
            Entry::KeyFenced { key, .. } => Some(Self::Key(key)),
            _ => None,
        }
    }

    fn in_partitions(self, partitions: usize) -> String {
        match self {
            Self::Tasks(target) => {
                let target = render::hex(target.as_bytes());
                let target = target.as_str().unwrap_or_default();
                format!("target {target}: all that began before it, in {partitions} partitions")
            }
            Self::Key(key) => format!("everything under key {key}, in {partitions} partitions"),
        }
    }
}

/// Fences of which more partitions may still tell, the longest waiting first.
#[derive(Default)]
pub(super) struct Folding(Vec<Open>);

struct Open {
    fence: Fenced,
    /// The first partition's.
    line: Line,
    partitions: usize,
    settles: Instant,
}

impl Open {
    fn close(self) -> Line {
        let text =
            if self.partitions == 1 { self.line.text } else { self.fence.in_partitions(self.partitions) };
        Line { text, ..self.line }
    }
}

impl Folding {
    /// Takes what one partition tells of a fence. What is whole by it is to be printed now.
    pub(super) fn take(&mut self, fence: Fenced, line: Line, now: Instant) -> Option<Line> {
        let settles = now + QUIET;
        let Some(place) = self.0.iter().position(|open| open.fence == fence) else {
            self.0.push(Open { fence, line, partitions: 1, settles });
            return (self.0.len() > AT_ONCE).then(|| self.0.remove(0).close());
        };
        let open = self.0.get_mut(place)?;
        (open.partitions, open.settles) = (open.partitions + 1, settles);
        let whole = open.partitions == usize::from(PARTITIONS);
        whole.then(|| self.0.remove(place).close())
    }

    /// Waits until one has settled; for ever if there is none.
    pub(super) async fn settle(&self) {
        match self.0.iter().map(|open| open.settles).min() {
            Some(settles) => sleep_until(settles).await,
            None => std::future::pending().await,
        }
    }

    /// Those of which nothing more has come.
    pub(super) fn settled(&mut self, now: Instant) -> Vec<Line> {
        self.0.extract_if(.., |open| open.settles <= now).map(Open::close).collect()
    }

    /// All of them.
    pub(super) fn rest(self) -> Vec<Line> {
        self.0.into_iter().map(Open::close).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::time::Timestamp;

    fn line(text: &str) -> Line {
        Line { at: Timestamp::EPOCH, kind: "fence", text: text.to_owned(), facts: Value::Null, fence: None }
    }

    fn texts(lines: impl IntoIterator<Item = Line>) -> Vec<String> {
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn fences_that_come_between_each_other_are_told_once_each_and_whole_at_once() {
        let (one, other) =
            (Fenced::Key(KeyId::from_bytes([1; 32])), Fenced::Tasks(FenceTarget::from_bytes([0xab; 32])));
        let (mut folding, now) = (Folding::default(), Instant::now());
        for _ in 1..PARTITIONS {
            assert!(folding.take(one, line("one"), now).is_none());
            assert!(folding.take(other, line("other"), now).is_none());
        }
        let told = folding.take(other, line("other"), now).unwrap().text;
        assert_eq!(told, format!("target {}: all that began before it, in 64 partitions", "ab".repeat(32)));
        assert_eq!(texts(folding.settled(now)), [""; 0]);
        assert!(texts(folding.settled(now + QUIET))[0].ends_with("in 63 partitions"));
        assert_eq!(texts(folding.rest()), [""; 0]);
    }

    #[test]
    fn a_fence_of_one_partition_is_told_as_it_is_and_none_waits_for_more_than_there_is_room() {
        let (mut folding, now) = (Folding::default(), Instant::now());
        let key = |number: usize| Fenced::Key(KeyId::from_bytes([u8::try_from(number).unwrap(); 32]));
        for number in 0..AT_ONCE {
            assert!(folding.take(key(number), line(&number.to_string()), now).is_none());
        }
        assert_eq!(folding.take(key(AT_ONCE), line("more"), now).unwrap().text, "0");
        assert_eq!(folding.rest().len(), AT_ONCE);
    }
}

//! The least of the lifetimes (G7).

use std::time::Duration;

use crate::time::Timestamp;

/// What bounds the expiry of a credential. Every field is a bound; the earliest wins.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// What the caller asked for, or the default.
    pub asked: Duration,
    /// What policy allows, already cut to the configured ceiling.
    pub policy_cap: Duration,
    /// The deadline of the task; a child's is never after its parent's.
    pub deadline: Timestamp,
    /// The end of the key that signs, if it has one.
    pub signer_end: Option<Timestamp>,
    /// `notAfter` of the caller's certificate.
    pub caller_end: Timestamp,
}

/// Nothing useful is left: what remains, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooShort {
    /// What is left.
    pub left: Duration,
}

/// The shortest life that a caller has use for who does not say: a minute, but no more than was asked for, nor than half of its task's life.
const MINIMUM: Duration = Duration::from_secs(60);

/// How long a credential is asked to live, and how long it must: what the caller says of either, each as it is said. An error if it contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// At most.
    pub lifetime: Duration,
    minimum: Option<Duration>,
}

impl Wanted {
    /// `default`: where no lifetime is said; longer, if the minimum is. `None`: the minimum is longer than the lifetime.
    pub fn new(lifetime: Option<Duration>, minimum: Option<Duration>, default: Duration) -> Option<Self> {
        let asked = lifetime.unwrap_or_else(|| minimum.map_or(default, |minimum| minimum.max(default)));
        minimum.is_none_or(|minimum| minimum <= asked).then_some(Self { lifetime: asked, minimum })
    }

    /// At least, for a task that lives so long altogether.
    pub fn minimum(&self, task: Duration) -> Duration {
        self.minimum.unwrap_or_else(|| MINIMUM.min(self.lifetime).min(task / 2))
    }
}

/// When a credential that is issued at `now` expires: the least of the bounds, in whole seconds, rounded down. An error if that leaves
/// less than `minimum`, and never a credential that is born dead.
pub fn expiry(now: Timestamp, bounds: &Bounds, minimum: Duration) -> Result<Timestamp, TooShort> {
    let issued = now.floor_to_second();
    let asked = issued.saturating_add(bounds.asked.min(bounds.policy_cap));
    let least = [Some(asked), Some(bounds.deadline), bounds.signer_end, Some(bounds.caller_end)]
        .into_iter()
        .flatten()
        .min();
    let expires = least.unwrap_or(issued).floor_to_second();
    let left = expires.since(issued);
    if left < minimum.max(Duration::from_secs(1)) || expires <= now {
        Err(TooShort { left })
    } else {
        Ok(expires)
    }
}

/// When half of a credential's life is over: the time to renew it.
pub fn half_life(issued: Timestamp, expires: Timestamp) -> Timestamp {
    issued.saturating_add(expires.since(issued) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_500);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn wide() -> Bounds {
        Bounds {
            asked: secs(120),
            policy_cap: secs(900),
            deadline: Timestamp::from_secs(10_000),
            signer_end: None,
            caller_end: Timestamp::from_secs(10_000),
        }
    }

    #[test]
    fn g7_each_bound_cuts_by_itself() {
        let at = |bounds: Bounds| expiry(NOW, &bounds, secs(1)).map(|t| t.as_secs() - 1_000);
        assert_eq!(at(wide()), Ok(120));
        assert_eq!(at(Bounds { policy_cap: secs(60), ..wide() }), Ok(60));
        assert_eq!(
            at(Bounds { deadline: Timestamp::from_millis(1_050_999), ..wide() }),
            Ok(50),
            "rounded down"
        );
        assert_eq!(at(Bounds { signer_end: Some(Timestamp::from_secs(1_040)), ..wide() }), Ok(40));
        assert_eq!(at(Bounds { caller_end: Timestamp::from_secs(1_030), ..wide() }), Ok(30));
    }

    #[test]
    fn a_lifetime_that_is_too_short_to_be_of_use_is_an_error() {
        let bounds = Bounds { deadline: Timestamp::from_secs(1_010), ..wide() };
        assert_eq!(expiry(NOW, &bounds, secs(60)), Err(TooShort { left: secs(10) }));
        assert!(expiry(NOW, &bounds, secs(10)).is_ok());
    }

    #[test]
    fn r7_a_minimum_that_is_said_is_never_cut() {
        let said = |lifetime: Option<u64>, minimum| {
            let wanted = Wanted::new(lifetime.map(secs), Some(secs(minimum)), secs(120))?;
            Some((wanted.lifetime.as_secs(), wanted.minimum(secs(10)).as_secs()))
        };
        assert_eq!(said(None, 30), Some((120, 30)));
        assert_eq!(said(None, 600), Some((600, 600)), "more than the default is asked for, then");
        assert_eq!(said(Some(600), 600), Some((600, 600)));
        assert_eq!(said(Some(300), 600), None, "it contradicts itself");
    }

    #[test]
    fn a_minimum_that_is_not_said_follows_what_is_asked_for_and_what_the_task_has() {
        let unsaid = |lifetime: Option<u64>, task| {
            Wanted::new(lifetime.map(secs), None, secs(120)).unwrap().minimum(secs(task)).as_secs()
        };
        assert_eq!(unsaid(None, 3_600), 60);
        assert_eq!(unsaid(Some(5), 3_600), 5);
        assert_eq!(unsaid(None, 60), 30, "a task of a minute is no mistake");
    }

    #[test]
    fn nothing_is_born_dead() {
        let bounds = Bounds { deadline: Timestamp::from_millis(1_000_400), ..wide() };
        assert!(expiry(NOW, &bounds, secs(0)).is_err());
        let overflow = Bounds { asked: Duration::MAX, policy_cap: Duration::MAX, ..wide() };
        assert_eq!(expiry(NOW, &overflow, secs(1)).map(Timestamp::as_secs), Ok(10_000));
    }
}

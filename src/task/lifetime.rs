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
    let minimum = minimum.max(Duration::from_secs(1)).min(bounds.asked.max(Duration::from_secs(1)));
    if left < minimum || expires <= now { Err(TooShort { left }) } else { Ok(expires) }
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
    fn asking_for_less_than_the_minimum_is_granted() {
        assert!(expiry(NOW, &Bounds { asked: secs(5), ..wide() }, secs(60)).is_ok());
    }

    #[test]
    fn nothing_is_born_dead() {
        let bounds = Bounds { deadline: Timestamp::from_millis(1_000_400), ..wide() };
        assert!(expiry(NOW, &bounds, secs(0)).is_err());
        let overflow = Bounds { asked: Duration::MAX, policy_cap: Duration::MAX, ..wide() };
        assert_eq!(expiry(NOW, &overflow, secs(1)).map(Timestamp::as_secs), Ok(10_000));
    }
}

//! How long our own certificate lives still, and that it is told in time.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{CurrentSvid, OwnSvid};
use crate::time::{Clock, Timestamp};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is told of a certificate, each once. In the order in which it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::identity) enum Told {
    /// A quarter of its life is left, or less, and nothing newer came.
    Ending,
    /// It is over.
    Over,
}

impl Told {
    fn of(svid: &OwnSvid, now: Timestamp) -> Option<Self> {
        match () {
            () if svid.is_over(now) => Some(Self::Over),
            () if svid.not_after.since(now) <= svid.not_after.since(svid.not_before) / 4 => {
                Some(Self::Ending)
            }
            () => None,
        }
    }
}

/// Watches our SVID grow old, wherever it comes from. One that is over stays in place: nobody takes it for good, clients see why, and where it is the clock that is wrong it heals by itself.
pub(in crate::identity) struct Ageing {
    current: CurrentSvid,
    told: Option<(CertificateDer<'static>, Told)>,
}

impl Ageing {
    pub(in crate::identity) const fn new(current: CurrentSvid) -> Self {
        Self { current, told: None }
    }

    /// Sets the gauge, and says what is new.
    pub(in crate::identity) fn look(&mut self, now: Timestamp) -> Option<Told> {
        let svid = self.current.load();
        let left = svid.as_ref().map_or(Duration::ZERO, |it| it.not_after.since(now));
        metrics::gauge!("taskpass_own_svid_remaining_seconds").set(left.as_secs_f64());
        let svid = svid?;
        let (leaf, stage) = (svid.chain().first()?, Told::of(&svid, now)?);
        if self.told.as_ref().is_some_and(|(of, told)| of == leaf && *told >= stage) {
            return None;
        }
        match stage {
            Told::Ending => tracing::warn!(spiffe_id = %svid.id, not_after = %svid.not_after,
                "the broker's own certificate ends before long, and its source has given no newer one: see why it is not renewed"),
            Told::Over => tracing::error!(spiffe_id = %svid.id, not_after = %svid.not_after,
                "the broker's own certificate is over: nobody who checks it can connect until its source gives a newer one"),
        }
        self.told = Some((leaf.clone(), stage));
        Some(stage)
    }

    /// Looks every second until `stop`.
    pub(in crate::identity) async fn run(mut self, clock: impl AsRef<dyn Clock>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.look(clock.as_ref().now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::spiffe_id::TrustDomain;
    use crate::identity::test_ca::{self, Ca, Svid};

    /// In May 2026.
    const BEGIN: u64 = 1_780_000_000;

    fn of_100_secs(ca: &Ca, begin: u64) -> Svid {
        ca.svid_with("broker", |it| test_ca::valid(it, begin, begin + 100))
    }

    fn offered(svid: &Svid, now: Timestamp) -> OwnSvid {
        let domain: TrustDomain = "td.test".parse().unwrap();
        let key = svid.key.serialize_der();
        let provider = rustls::crypto::ring::default_provider();
        super::super::offered(svid.chain.clone(), &key, &[domain].into(), &provider, now).unwrap()
    }

    #[test]
    fn a_certificate_that_ends_is_told_once_ahead_and_once_at_its_end() {
        let (ca, at) = (Ca::new("td.test"), |secs: u64| Timestamp::from_secs(BEGIN + secs));
        let current = CurrentSvid::none();
        let mut ageing = Ageing::new(current.clone());
        assert_eq!(ageing.look(at(0)), None, "there is none");
        let first = of_100_secs(&ca, BEGIN);
        current.put(Some(offered(&first, at(0))));
        assert_eq!(ageing.look(at(74)), None);
        assert_eq!((ageing.look(at(75)), ageing.look(at(76))), (Some(Told::Ending), None));
        // The source says the same again.
        current.put(Some(offered(&first, at(80))));
        assert_eq!(ageing.look(at(100)), None, "until its last second");
        assert_eq!((ageing.look(at(101)), ageing.look(at(102))), (Some(Told::Over), None));
        // A newer one is another.
        current.put(Some(offered(&of_100_secs(&ca, BEGIN + 100), at(100))));
        assert_eq!((ageing.look(at(110)), ageing.look(at(180))), (None, Some(Told::Ending)));
        // Whoever slept through the warning hears of the end.
        assert_eq!(ageing.look(at(500)), Some(Told::Over));
    }
}

//! The hardware that holds keys, watched: it is asked for something every second, so that this broker knows at once when it is gone and when it is back; keys in it that are new have to prove
//! themselves; keys in it that are over are destroyed. A loop of its own: hardware that hangs holds nothing else up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use taskpass_verifier::keyset::KeyId;
use tokio_util::sync::CancellationToken;

use crate::time::Clock;

use super::Broker;
use super::trail::Trail;

/// Between two probes.
const PAUSE: Duration = Duration::from_secs(1);
/// What could not be destroyed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(60);

/// Watches for one broker.
#[derive(Debug)]
pub struct KeepHardware {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
}

impl KeepHardware {
    /// For a broker. `None`: no key of its lies in hardware.
    pub fn new(broker: Arc<Broker>, clock: Arc<dyn Clock>) -> Option<Self> {
        broker.keys.has_hardware().then_some(Self { broker, clock })
    }

    /// Watches until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let keys = &self.broker.keys;
        let mut changes = keys.changes();
        let mut tried = BTreeMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
                Ok(()) = changes.changed() => {}
            }
            let look = async {
                // What is wrong is in the log, and shows in readiness.
                let _ = keys.prove_hardware().await;
                self.destroy_what_is_over(&mut tried).await;
            };
            // What hangs is not waited for when the broker ends.
            if stop.run_until_cancelled(look).await.is_none() {
                return;
            }
        }
    }

    async fn destroy_what_is_over(&self, tried: &mut BTreeMap<KeyId, Instant>) {
        let keys = &self.broker.keys;
        tried.retain(|_, at| at.elapsed() < AGAIN);
        for (kid, held) in keys.to_be_destroyed() {
            if tried.contains_key(&kid)
                || keys.hardware_health().is_err()
                || self.broker.check_audit().is_err()
            {
                continue;
            }
            tried.insert(kid, Instant::now());
            let mut trail = Trail::new("DestroyKey", kid);
            trail.fact("by", "schedule");
            trail.fact("in", &held.by);
            let now = self.clock.now();
            if self.broker.intend(None, &trail, now).await.is_err() {
                return;
            }
            let destroyed = keys.destroy_in_hardware(kid, &held).await;
            match &destroyed {
                Ok(was_there) => trail.fact("was_there", was_there),
                Err(error) => {
                    tracing::warn!(%kid, %error, "a key that is over is not destroyed in the PKCS#11 token yet");
                }
            }
            // The log says what went wrong with the audit log.
            let _ = self.broker.conclude(trail, destroyed.map_err(Into::into), now).await;
        }
    }
}

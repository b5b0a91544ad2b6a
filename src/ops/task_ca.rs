//! The task CA where an authority outside signs it: the request, the answer, and what stands above what.

use std::time::Duration;

use crate::cert::{Described, describe};
use crate::error::{Error, Result};
use crate::identity::TrustDomain;
use crate::keys::publish::pem;
use crate::keys::{Chain, KeyUse, KeyView, Move, Renewal};
use crate::policy::action::{self, Keys};
use crate::time::Timestamp;

use super::command::{InstallTaskCaCertificate, RequestTaskCaCertificate};
use super::keyring::certificates;
use super::move_key::{refused, trail_of};
use super::trail::Trail;
use super::{Broker, Caller, answer};

/// What may be said of the task CA's renewal, and how often.
const EVERY: Duration = Duration::from_secs(3600);
/// The same where no certificate is issued.
const OFTEN: Duration = Duration::from_secs(600);

/// Says that the task CA has to be signed from outside: at once when that begins, and again and again.
#[derive(Debug, Default)]
pub(super) struct RenewalWarning(Option<(Renewal, Timestamp)>);

impl RenewalWarning {
    pub(super) fn look(&mut self, renewal: Option<Renewal>, now: Timestamp) {
        metrics::gauge!("taskpass_task_ca_renewal_due").set(if renewal.is_some() { 1.0 } else { 0.0 });
        let Some(renewal) = renewal else {
            self.0 = None;
            return;
        };
        let pause = if matches!(renewal, Renewal::Due { .. }) { EVERY } else { OFTEN };
        if self.0.is_some_and(|(said, at)| said == renewal && now < at.saturating_add(pause)) {
            return;
        }
        self.0 = Some((renewal, now));
        let what = "`taskpass ca csr` gives out a request, `taskpass ca install` takes the answer";
        match renewal {
            Renewal::Due { until } => tracing::warn!(
                %until,
                "less than a third of the life of the task CA's certificate is left, and no newer one is installed: {what}"
            ),
            Renewal::Over { since } => tracing::error!(
                %since,
                "the task CA's certificate is over, and no certificates are issued: {what}"
            ),
            Renewal::Missing => tracing::error!(
                "the task CA has no certificate from its upstream, and no certificates are issued: {what}"
            ),
        }
    }
}

impl Broker {
    /// Whether there is something that certificates can be issued under.
    pub fn issues_certificates(&self, now: Timestamp) -> bool {
        self.signing().is_ok_and(|signing| certificates(&signing, now, Duration::ZERO).is_ok())
    }

    /// The request for a certificate of the task CA. One is made if none waits; until its certificate is installed, or its key is withdrawn, it is that one.
    pub async fn request_task_ca_certificate(
        &self,
        caller: &Caller,
        command: RequestTaskCaCertificate,
        now: Timestamp,
    ) -> Result<answer::TaskCaRequest> {
        let mut trail = trail_of(&Move::Request, false, &command.note);
        let result = self.requested(caller, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn requested(
        &self,
        caller: &Caller,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<answer::TaskCaRequest> {
        let slot = self.task_ca_slot();
        let of = Some((slot.0, &slot.1));
        self.permit_move::<action::RequestTaskCaCertificate>(caller, of, false, trail)?;
        self.newest_keyring(now).await?;
        let moved = self.make_move(caller, &Move::Request, slot, false, now, trail).await?;
        let keyring = self.keyring();
        self.announce_keyring(&keyring).await;
        // Another broker may have installed its certificate meanwhile: then the next call gives out another one.
        let (kid, request) = keyring
            .request()
            .ok_or_else(|| Error::store("a request for the task CA was answered while it was given out"))?;
        trail.fact("kid", kid);
        let pem = pem("CERTIFICATE REQUEST", request);
        Ok(answer::TaskCaRequest { kid, pem, moved })
    }

    /// Installs a certificate that came for a request, with what is above it; or says what that would do.
    pub async fn install_task_ca_certificate(
        &self,
        caller: &Caller,
        command: InstallTaskCaCertificate,
        now: Timestamp,
    ) -> Result<answer::KeyMove> {
        let what = Chain::from_pem(&command.chain_pem).map(Move::Install);
        let mut trail = match &what {
            Ok(what) => trail_of(what, command.dry_run, &command.note),
            Err(_) => Trail::new("InstallTaskCaCertificate", ""),
        };
        let result = async {
            let slot = self.task_ca_slot();
            let of = Some((slot.0, &slot.1));
            self.permit_move::<action::InstallTaskCaCertificate>(caller, of, command.dry_run, &mut trail)?;
            let what = what.map_err(|misfit| refused(&misfit.into()))?;
            self.newest_keyring(now).await?;
            let moved = self.make_move(caller, &what, slot, command.dry_run, now, &mut trail).await?;
            if !command.dry_run {
                self.announce_keyring(&self.keyring()).await;
            }
            Ok(moved)
        };
        let result = result.await;
        self.finish(caller, trail, result, now).await
    }

    /// The task CA's keys with their certificates and what is above them, and what verifiers trust.
    pub async fn show_task_ca(&self, caller: &Caller, now: Timestamp) -> Result<answer::TaskCa> {
        let mut trail = Trail::new("ShowTaskCa", "");
        let permitted =
            self.permit::<action::ShowTaskCa>(caller, Keys::Of(&self.settings.trust_domain), (), &mut trail);
        let result = match permitted {
            Ok(_permit) => self.shown_task_ca(now).await,
            Err(error) => Err(error),
        };
        self.finish(caller, trail, result, now).await
    }

    async fn shown_task_ca(&self, now: Timestamp) -> Result<answer::TaskCa> {
        let keyring = self.newest_keyring(now).await?;
        let described = |chain: Vec<&[u8]>| chain.into_iter().filter_map(describe).collect();
        let mut intermediates: Vec<(KeyView, Vec<Described>)> =
            keyring.task_ca_chains().map(|(key, chain)| (key, described(chain))).collect();
        intermediates.sort_by_key(|(key, _)| (key.state, key.since));
        let anchors = keyring.task_authorities().anchors();
        let anchors = anchors.iter().filter_map(|anchor| describe(anchor)).collect();
        Ok(answer::TaskCa {
            trust_domain: self.settings.trust_domain.clone(),
            upstream: self.keys.plan().upstream.is_some(),
            intermediates,
            anchors,
            renewal: self.keys.renewal(now),
        })
    }

    fn task_ca_slot(&self) -> (KeyUse, TrustDomain) {
        (KeyUse::TaskCaIntermediate, self.settings.trust_domain.clone())
    }
}

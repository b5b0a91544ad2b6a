//! What everybody must know: audiences, and the public half of the keys.

use std::sync::Arc;

use crate::audience::Audience;
use crate::error::{Error, Reason, Result};
use crate::identity::TrustDomain;
use crate::policy::action::{self, Listed};
use crate::time::Timestamp;

use super::trail::Trail;
use super::{Broker, Caller};

/// The certificates that task certificates chain to.
#[derive(Clone, Debug)]
pub struct CaBundle {
    /// Whose names they carry.
    pub trust_domain: String,
    /// Root certificates.
    pub pem: String,
    /// The same as a SPIFFE trust bundle.
    pub spiffe_bundle_json: String,
}

/// The public keys of a trust domain that is served.
#[derive(Clone, Debug)]
pub struct PublishedKeys {
    /// `iss`.
    pub issuer: String,
    /// Of its tokens.
    pub jwks: String,
    /// Of its feed.
    pub feed_jwks: String,
}

impl Broker {
    /// The audiences that policy lets the caller see, each with its issuer.
    pub async fn list_audiences(
        &self,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Vec<(Arc<Audience>, String)>> {
        let mut trail = Trail::new("ListAudiences", "");
        let result = self.audiences_for(caller, &mut trail);
        self.finish(caller, trail, result, now).await
    }

    fn audiences_for(&self, caller: &Caller, trail: &mut Trail) -> Result<Vec<(Arc<Audience>, String)>> {
        let _asked = self.permit::<action::ListAudiences>(caller, Listed::Register, (), trail)?;
        let register = self.audiences.snapshot();
        let seen = register.iter().filter(|audience| {
            // A refusal of one is no refusal of the call, and has no place in its line.
            let mut aside = Trail::new("ListAudiences", "");
            self.permit::<action::ListAudiences>(caller, Listed::Audience(audience), (), &mut aside).is_ok()
        });
        Ok(seen.filter_map(|a| Some((Arc::clone(a), self.issuer(a).ok()?.to_owned()))).collect())
    }

    /// Issuer and JWK set of a trust domain that is served.
    pub async fn get_key_set(
        &self,
        caller: &Caller,
        trust_domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<PublishedKeys> {
        let mut trail = Trail::new("GetKeySet", trust_domain);
        let result = self.key_set_for(caller, trust_domain, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    /// Refused where the keyring in force may not be the stored one: what is told here is kept for as long as caches keep it, and says of a key that was given up elsewhere that it is good.
    async fn key_set_for(
        &self,
        caller: &Caller,
        trust_domain: &TrustDomain,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<PublishedKeys> {
        let _permit = self.permit::<action::GetKeySet>(caller, trust_domain, (), trail)?;
        let unserved = || {
            let sentence = format!("The broker issues no tokens for {trust_domain}. Check the name.");
            Error::new(Reason::TrustDomainNotFound, sentence)
        };
        let issuer = self.settings.issuers.get(trust_domain).ok_or_else(unserved)?;
        let signing = self.signing_now(now).await?;
        let jwks = signing.public.jwks(trust_domain).ok_or_else(unserved)?;
        let feed_jwks = signing.public.feed_jwks(trust_domain).ok_or_else(unserved)?;
        Ok(PublishedKeys { issuer: issuer.clone(), jwks: jwks.to_owned(), feed_jwks: feed_jwks.to_owned() })
    }

    /// The certificates that task certificates chain to. Also where the keyring in force was not seen in the store for a while: the root does not move.
    pub async fn get_task_ca_bundle(&self, caller: &Caller, now: Timestamp) -> Result<CaBundle> {
        let mut trail = Trail::new("GetTaskCaBundle", "");
        let permitted = self.permit::<action::GetTaskCaBundle>(caller, (), (), &mut trail);
        let result = permitted.and_then(|_permit| self.signing()).map(|signing| CaBundle {
            trust_domain: self.settings.trust_domain.to_string(),
            pem: signing.public.task_ca_pem().to_owned(),
            spiffe_bundle_json: signing.public.task_ca_bundle().to_owned(),
        });
        self.finish(caller, trail, result, now).await
    }
}

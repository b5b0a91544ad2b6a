//! What everybody may read, whoever they are: the public half of the keyring in force.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::time::Timestamp;

use super::Broker;
use super::keyring::{Signing, keyring_error};

/// The longest wait for a look at the store.
const LOOK: Duration = Duration::from_secs(2);

/// The public half of one keyring, and how long ago it was the one in the store.
#[derive(Clone, Debug)]
pub struct Published {
    signing: Arc<Signing>,
    age: Duration,
}

impl Published {
    /// How long ago the store was seen to hold this keyring: never longer than brokers take to agree.
    pub const fn age(&self) -> Duration {
        self.age
    }

    /// Whether both are of the same view of the keyring.
    pub fn is_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.signing, &other.signing)
    }

    /// Each issuer with the JWK set of its tokens.
    pub fn key_sets(&self) -> impl Iterator<Item = (&str, &str)> {
        let public = &self.signing.public;
        self.signing.tokens.iter().filter_map(|(name, issuer)| Some((issuer.issuer(), public.jwks(name)?)))
    }

    /// See [`crate::keys::KeySets::task_ca_pem`].
    pub fn task_ca_pem(&self) -> &str {
        self.signing.public.task_ca_pem()
    }

    /// See [`crate::keys::KeySets::task_ca_bundle`].
    pub fn task_ca_bundle(&self) -> &str {
        self.signing.public.task_ca_bundle()
    }
}

impl Broker {
    /// The public half of the keyring in force, if the store was seen to hold it a moment ago. Where that is too long ago the store is asked first, for one asker at a time: those whom
    /// nobody knows must not queue up at it. No policy is asked and no line is written: it is for everybody.
    pub async fn published(&self, now: Timestamp) -> Result<Published> {
        if !self.keys.is_confirmed() {
            let unsure = || Error::store("the keyring in force is not known to be the one in the store");
            let Ok(only_one) = Arc::clone(&self.looking).try_acquire_owned() else { return Err(unsure()) };
            let keys = Arc::clone(&self.keys);
            // To its end, whoever hangs up meanwhile: it may mend what is amiss.
            let look = tokio::spawn(async move {
                let looked = keys.look(now).await;
                drop(only_one);
                looked.map(drop)
            });
            let looked = tokio::time::timeout(LOOK, look).await.map_err(|_| unsure())?;
            looked.map_err(|_| unsure())?.map_err(keyring_error)?;
            if !self.keys.is_confirmed() {
                return Err(unsure());
            }
        }
        // In this order: the older keyring with the younger age would be a lie.
        let age = self.keys.confirmed_for();
        Ok(Published { signing: self.signing()?, age })
    }

    /// How long those who read a key set may keep it.
    pub fn key_sets_max_age(&self) -> Duration {
        self.keys.plan().times.cache
    }

    /// How often those who read the task CA's bundle are told to look again.
    pub fn refresh_hint(&self) -> Duration {
        self.keys.plan().times.refresh_hint
    }
}

//! Follow: the ends of what an audience accepts, pushed to an enrolled verifier of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use taskpass_verifier::ids::TaskId;

use crate::audience::{Audience, AudienceRegister, DEFAULT_BOUND};
use crate::error::{Error, Result};
use crate::feed::{Concern, Concerns, Content, Following};
use crate::keys::{Keyring, Signer};
use crate::policy::action::{self, AsVerifier};
use crate::store::Store;
use crate::task::TaskFacts;
use crate::time::Timestamp;

use super::command::Follow;
use super::trail::Trail;
use super::{Broker, Caller};

/// A stream that may begin.
pub struct Followed {
    /// What there is to say.
    pub following: Following,
    /// Signs it.
    pub signer: Arc<dyn Signer>,
}

impl std::fmt::Debug for Followed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.following.fmt(f)
    }
}

impl Broker {
    /// Lets an enrolled verifier of the audience follow, at the audience's bound or the lower one that it asks for.
    pub async fn follow(&self, caller: &Caller, command: Follow, now: Timestamp) -> Result<Followed> {
        let mut trail = Trail::new("Follow", &command.audience);
        let result = self.begin_to_follow(caller, &command, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn begin_to_follow(
        &self,
        caller: &Caller,
        command: &Follow,
        trail: &mut Trail,
    ) -> Result<Followed> {
        let audience = self.audience(&command.audience)?;
        let _permit = self.permit::<action::Follow>(caller, &audience, AsVerifier, trail)?;
        Self::enrolled(caller, &audience)?;
        let bound = command.bound.map_or(audience.bound(), |asked| asked.min(audience.bound()));
        let trust_domain = audience.trust_domain();
        let unserved = || Error::internal("an audience of a trust domain without keys");
        let signer = self.keys.feed_signer(trust_domain).ok_or_else(unserved)?;
        let jwks = self.public.jwks(trust_domain).ok_or_else(unserved)?;
        let opening = Content::KeySet {
            epoch: self.public.sequence(),
            issuer: self.issuer(&audience)?.to_owned(),
            jwks: jwks.to_owned(),
        };
        let follower = caller.spiffe_id().to_string();
        let mut following = self.feed.follow(follower, audience.uri().as_str().into(), bound).await?;
        following.open_with(opening);
        trail.fact("stream", following.id());
        trail.fact("bound", format_args!("{bound:?}"));
        Ok(Followed { following, signer: Arc::clone(signer) as _ })
    }

    /// Whether policy and register still let the caller follow. No audit line: nothing is decided anew while the answer is yes.
    pub fn may_still_follow(&self, caller: &Caller, audience: &str) -> Result<()> {
        let audience = self.audience(audience)?;
        let mut aside = Trail::new("Follow", "");
        let _permit = self.permit::<action::Follow>(caller, &audience, AsVerifier, &mut aside)?;
        Self::enrolled(caller, &audience)
    }
}

/// Whom the end of a task concerns, by its facts in the store.
pub struct ByFacts {
    store: Arc<dyn Store>,
    keys: Arc<Keyring>,
    audiences: AudienceRegister,
}

impl ByFacts {
    /// From the parts that a broker has.
    pub fn new(store: Arc<dyn Store>, keys: Arc<Keyring>, audiences: AudienceRegister) -> Self {
        Self { store, keys, audiences }
    }
}

#[async_trait]
impl Concerns for ByFacts {
    async fn of(&self, task: TaskId, now: Timestamp) -> Concern {
        let Ok(Some(view)) = self.store.read(task, now).await else { return Concern::All };
        // Where the record is gone or was tampered with, everybody is told: one too many is no harm.
        let sealed = self.keys.record_seal().open(task, &view.record.facts.0);
        match sealed.ok().and_then(|bytes| TaskFacts::decode(bytes).ok()) {
            Some(facts) if facts.id == task => concern_of(&facts),
            _ => Concern::All,
        }
    }

    fn largest_bound(&self) -> Duration {
        let register = self.audiences.snapshot();
        register.iter().map(|audience: &Arc<Audience>| audience.bound()).max().unwrap_or(DEFAULT_BOUND)
    }
}

/// The audiences of its grants. What is below a task has no others.
pub(super) fn concern_of(facts: &TaskFacts) -> Concern {
    Concern::Audiences(facts.grants.iter().map(|grant| Arc::from(grant.audience.as_str())).collect())
}

//! Follow: the ends of what an audience accepts, pushed to an enrolled verifier of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use taskpass_verifier::ids::{Partition, TaskId};
use taskpass_verifier::keyset::KeyId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::audience::AudienceRegister;
use crate::error::{Error, Reason, Result};
use crate::feed::{Concern, Concerns, Content, Following};
use crate::identity::TrustDomain;
use crate::keys::{JwtKey, Keeper, KeyUse, Keyring};
use crate::policy::action::{self, AsVerifier};
use crate::store::Store;
use crate::task::TaskFacts;
use crate::task::store::Position;
use crate::time::Timestamp;

use super::command::{Follow, Known};
use super::complete_task::CLOCKS_APART;
use super::keyring::keyring_error;
use super::tasks::store_error;
use super::trail::Trail;
use super::{Broker, Caller};

/// A stream that may begin.
pub struct Followed {
    /// What there is to say.
    pub following: Following,
    /// Whose key set it is told of, and whose feed key signs.
    pub trust_domain: TrustDomain,
    /// The key set that it is told of at first.
    pub key_set: String,
    /// Told of each change of the keyring.
    pub keys: watch::Receiver<Arc<Keyring>>,
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
        let result = self.begin_to_follow(caller, &command, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn begin_to_follow(
        &self,
        caller: &Caller,
        command: &Follow,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<Followed> {
        let audience = self.audience(&command.audience)?;
        self.permit::<action::Follow>(caller, &audience, AsVerifier, trail)
            .and_then(|_permit| Self::enrolled(caller, &audience))
            .map_err(|error| self.unless_hidden(caller, &audience, error))?;
        // Whatever another broker has told the follower was stored before: so it is never told less here, and never of an older key set.
        self.keys.look(now).await.map_err(keyring_error)?;
        self.signing_now(now).await?;
        let bound = command.bound.map_or(audience.bound(), |asked| asked.min(audience.bound()));
        let trust_domain = audience.trust_domain();
        // Before the key set is read: what changes meanwhile is told as a change.
        let keys = self.keys.changes();
        let opening = self.key_set_content(trust_domain)?;
        let key_set = match &opening {
            Content::KeySet { jwks, .. } => jwks.clone(),
            _ => String::new(),
        };
        let follower = caller.spiffe_id().to_string();
        let (uri, of) = (audience.uri().as_str().into(), trust_domain.as_str().into());
        let mut following = self.feed.follow(follower, uri, of, bound).await?;
        if let Some(known) = &command.known {
            self.hold_against(known, trust_domain, trail).await?;
        }
        following.open_with(opening);
        trail.fact("stream", following.id());
        trail.fact("bound", format_args!("{bound:?}"));
        Ok(Followed { following, trust_domain: trust_domain.clone(), key_set, keys })
    }

    /// The key set of the issuer of a trust domain, as followers are told of it.
    pub fn key_set_content(&self, trust_domain: &TrustDomain) -> Result<Content> {
        let signing = self.signing()?;
        let issuer = self.settings.issuers.get(trust_domain).ok_or_else(unserved)?;
        let jwks = signing.public.jwks(trust_domain).ok_or_else(unserved)?;
        Ok(Content::KeySet {
            epoch: signing.public.sequence(),
            issuer: issuer.clone(),
            jwks: jwks.to_owned(),
        })
    }

    /// What signs the frames of a stream at this moment.
    pub fn feed_signer(&self, trust_domain: &TrustDomain) -> Result<Arc<JwtKey>> {
        let keyring = self.keyring();
        keyring.feed_signer(trust_domain).cloned().ok_or_else(unserved)
    }

    /// How far this broker has read the history of each partition.
    pub fn feed_positions(&self) -> Vec<(Partition, Position)> {
        self.feed.positions()
    }

    /// Where a broker has signed more than the store has now, the store has lost something, and what it lost must not come back.
    async fn hold_against(&self, known: &Known, trust_domain: &TrustDomain, trail: &mut Trail) -> Result<()> {
        let keyring = self.keyring();
        let keys = keyring.feed_key_set(trust_domain).ok_or_else(unserved)?;
        if keys.get(&known.key_id).is_none_or(|key| !key.has_signed(&known.signed, &known.signature)) {
            // The keys may be others than they were.
            trail.fact("known_positions", "not signed by a feed key that is published");
            return Ok(());
        }
        let grown = self.feed.hold_against(&known.positions).await.map_err(store_error)?;
        if !grown.is_empty() {
            let partitions: Vec<_> = grown.iter().map(ToString::to_string).collect();
            trail.fact("generation_grew_in", partitions.join(" "));
        }
        Ok(())
    }

    /// Whether policy and register still let the caller follow as it does. No audit line: nothing is decided anew while the answer is yes.
    pub fn may_still_follow(&self, caller: &Caller, followed: &Followed) -> Result<()> {
        let audience = self.audience(followed.following.audience())?;
        if followed.trust_domain != *audience.trust_domain() {
            let sentence =
                "The audience is one of another trust domain now. Follow again, with the keys of that one.";
            return Err(Error::new(Reason::AudienceMoved, sentence));
        }
        if followed.following.bound() > audience.bound() {
            let sentence = "The audience's bound was lowered. Follow again: the new stream keeps to it.";
            return Err(Error::new(Reason::BoundLowered, sentence));
        }
        let mut aside = Trail::new("Follow", "");
        let _permit = self.permit::<action::Follow>(caller, &audience, AsVerifier, &mut aside)?;
        Self::enrolled(caller, &audience)
    }
}

fn unserved() -> Error {
    Error::internal("an audience of a trust domain without keys")
}

/// Whom the end of a task concerns, by its facts in the store, and that of a key, by the keyring.
pub struct ByFacts {
    store: Arc<dyn Store>,
    keys: Arc<Keeper>,
    audiences: AudienceRegister,
}

impl ByFacts {
    /// From the parts that a broker has.
    pub fn new(store: Arc<dyn Store>, keys: Arc<Keeper>, audiences: AudienceRegister) -> Self {
        Self { store, keys, audiences }
    }
}

#[async_trait]
impl Concerns for ByFacts {
    async fn of(&self, task: TaskId, now: Timestamp) -> (Concern, Option<Timestamp>) {
        let Ok(Some(view)) = self.store.read(task, now).await else { return (Concern::All, None) };
        let keyring = self.keys.current();
        // Where the record is gone or was tampered with, everybody is told: one too many is no harm.
        let sealed = keyring.record_seal().open(task, &view.record.facts.0);
        match sealed.ok().and_then(|bytes| TaskFacts::decode(bytes).ok()) {
            // Of a task that nothing is below, all that could still be accepted is what it has minted itself. No call begins a task below another yet: once one does, the facts
            // have to say whether that is permitted, and for those that may have children nothing is known here.
            Some(facts) if facts.id == task => {
                let lacks = may_lack_mints(self.store.as_ref(), task, now);
                let concern = concern_of(&facts, lacks || view.may_have_certificate());
                // None of the mints that the record does not know lives longer than the task could: so long the store says that the end is to be kept.
                (concern, (!lacks).then(|| view.record.head.last_expiry.unwrap_or_default()))
            }
            _ => (Concern::All, None),
        }
    }

    fn of_key(&self, key: &KeyId) -> Concern {
        let known = self.keys.current().keys().find(|known| known.kid == *key);
        match known {
            Some(known) if matches!(known.key_use, KeyUse::Jwt | KeyUse::Feed) => {
                Concern::TrustDomain(known.trust_domain.as_str().into())
            }
            _ => Concern::All,
        }
    }

    fn largest_bound(&self) -> Duration {
        self.audiences.largest_bound(Instant::now())
    }
}

/// Whether more may have been issued under a task than its record knows of: mints leave nothing in the history by which a store could be asked for them, so one that does not keep all that it
/// acknowledges may have lost some of those that were before this broker has stood by it without interruption, and nobody can tell.
pub(super) fn may_lack_mints(store: &dyn Store, task: TaskId, now: Timestamp) -> bool {
    let age = now.since(Timestamp::from_millis(task.unix_millis()));
    store.keeps_mints_since().is_some_and(|since| age + CLOCKS_APART >= since.elapsed())
}

/// Whom the end of a task concerns, or that of one of its credentials. Everybody, if a certificate has ended, or may have: it names no audience, and whoever sees it has to know.
/// Otherwise the audiences of the task's grants; what is below a task has no others.
pub(super) fn concern_of(facts: &TaskFacts, certificate: bool) -> Concern {
    if certificate {
        return Concern::All;
    }
    Concern::Audiences(facts.grants.iter().map(|grant| Arc::from(grant.audience.as_str())).collect())
}

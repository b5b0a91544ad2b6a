//! A verdict in one call: token or certificate in, [`Grant`] or [`Refusal`] out.

mod certificate;
mod seen;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Map, Value};

pub use self::certificate::{CertificateGrant, TaskCertificate};

use self::seen::{Seen, SeenTokens};
use crate::claims::Claims;
use crate::digest::sha256;
use crate::expectations::{EnforcementProfile, Expectations, Presented};
use crate::keyset::{KeyId, KeySet};
use crate::moment::Moment;
use crate::refusal::Refusal;
use crate::time::{Between, UnixSeconds};
use crate::token::{MAX_TOKEN_BYTES, UnverifiedToken};
use crate::view::RevocationView;

/// What is remembered of verified tokens if nothing else was said, in bytes: about ten thousand.
pub const CACHE_BYTES: u64 = 32 << 20;

/// Whose tokens a verifier takes, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The issuer, compared byte by byte.
    pub issuer: String,
    /// The verifier's own audience: its canonical URI, compared byte by byte.
    pub audience: String,
    /// The binding that the audience demands.
    pub profile: EnforcementProfile,
}

/// When a verdict is asked for: read as late as possible before it. A verifier that follows a feed judges by `moment` alone, one that is offline by `wall` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    wall: Option<UnixSeconds>,
    moment: Option<Moment>,
}

impl At {
    /// Both clocks were read: any verifier can judge.
    pub const fn both(wall: UnixSeconds, moment: Moment) -> Self {
        Self { wall: Some(wall), moment: Some(moment) }
    }

    /// For verifiers that are offline.
    pub const fn wall(wall: UnixSeconds) -> Self {
        Self { wall: Some(wall), moment: None }
    }

    /// For verifiers that follow a feed.
    pub const fn moment(moment: Moment) -> Self {
        Self { wall: None, moment: Some(moment) }
    }
}

/// A key set that is older than the one at hand, or another one of the same epoch. It was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key set is older than the one at hand, or another one of the same epoch")]
pub struct OldKeys;

struct Keys {
    epoch: u64,
    set: KeySet,
}

/// Judges the credentials that are presented to one audience. Shared: every method takes `&self`.
///
/// What it does not do: it reads no clock, fetches nothing, and checks neither that a certificate was presented on the connection nor that a DPoP proof is
/// good. [`Presented`] is the caller's word for both: in `Presented::jkt` belongs the thumbprint of a key whose proof, for this very request, the
/// caller has verified (RFC 9449, section 4.3).
pub struct Verifier {
    expected: Expected,
    keys: RwLock<Arc<Keys>>,
    /// The epoch that the feed names.
    announced: AtomicU64,
    view: Option<Arc<RevocationView>>,
    /// Of which trust domains task certificates are taken, if it was said.
    agents_of: Option<Box<[String]>>,
    seen: SeenTokens,
}

impl Verifier {
    /// A verifier that hears of ends: `view` is kept up to date by whoever follows the feed. It judges by the broker's time as the view has heard it, never by
    /// the wall clock, and refuses everything until the view has heard enough. Without keys yet: [`Self::replace_keys`].
    pub fn following(expected: Expected, view: Arc<RevocationView>) -> Self {
        Self::new(expected, KeySet::default(), Some(view))
    }

    /// A verifier that **cannot know of ends**: it accepts a credential until it expires, though its task was completed or revoked long ago. For tests, for
    /// looking at tokens, and where the lifetime of a token is bound enough.
    pub fn offline(expected: Expected, keys: KeySet) -> Self {
        Self::new(expected, keys, None)
    }

    fn new(expected: Expected, set: KeySet, view: Option<Arc<RevocationView>>) -> Self {
        Self {
            expected,
            keys: RwLock::new(Arc::new(Keys { epoch: 0, set })),
            announced: AtomicU64::new(0),
            view,
            agents_of: None,
            seen: seen::cache(CACHE_BYTES),
        }
    }

    /// Takes task certificates of agents of these trust domains alone. To be named where policy lets agents of another tenant come to this audience, and where no feed is
    /// followed: a follower tells the view its audience's trust domain, and that one alone is taken then; a verifier that was told nothing takes those of all. Tokens are not concerned: each names its
    /// audience, and so the broker has decided.
    #[must_use]
    pub fn with_agents_of(self, trust_domains: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { agents_of: Some(trust_domains.into_iter().map(Into::into).collect()), ..self }
    }

    /// Remembers verified tokens in so many bytes, roughly; 0 remembers none. Forgets what is remembered.
    #[must_use]
    pub fn with_cache(self, bytes: u64) -> Self {
        Self { seen: seen::cache(bytes), ..self }
    }

    /// How many verified tokens are remembered.
    pub fn remembered(&self) -> usize {
        self.seen.len()
    }

    /// What it expects.
    pub const fn expected(&self) -> &Expected {
        &self.expected
    }

    /// The view that it asks, if it is not offline.
    pub const fn view(&self) -> Option<&Arc<RevocationView>> {
        self.view.as_ref()
    }

    /// Takes a newer key set of the issuer. Tokens under a key that it lacks are refused from now on, remembered or not. An older epoch than the present one is
    /// refused, so that a withdrawn key does not come back; so is another set of the same epoch. A new verifier is at epoch 0.
    pub fn replace_keys(&self, epoch: u64, set: KeySet) -> Result<(), OldKeys> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if epoch < keys.epoch || epoch == keys.epoch && set != keys.set {
            return Err(OldKeys);
        }
        *keys = Arc::new(Keys { epoch, set });
        Ok(())
    }

    /// The issuer's key set is at this epoch, as the feed says: until that one has come, every token is refused. Task certificates are not: no key of that set has signed them.
    pub fn announce_keys(&self, epoch: u64) {
        self.announced.fetch_max(epoch, Ordering::Relaxed);
    }

    /// The epoch of the key set at hand.
    pub fn key_epoch(&self) -> u64 {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).epoch
    }

    /// Judges a token: form, signature, issuer, audience, times, binding, and what the view knows. The signature is verified at the first sight of a text and then
    /// remembered under the SHA-256 of all of it; everything else is judged each time. Which tools it permits is for [`Grant::permits_tool`] to say.
    pub fn judge(&self, token: &str, presented: &Presented, at: At) -> Result<Grant, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::TooLong);
        }
        let now = self.now(at)?;
        let keys = self.current_keys()?;
        let expectations = self.expectations(*presented);
        let digest = sha256(token.as_bytes());
        let seen = match self.seen.get(&digest) {
            Some(seen) => {
                seen.token.recheck(&keys.set, &expectations, now)?;
                seen
            }
            None => {
                let verified = UnverifiedToken::parse(token)?.verify(&keys.set, &expectations, now)?;
                let seen = Arc::new(Seen::new(verified, token.len()));
                self.seen.insert(digest, Arc::clone(&seen));
                seen
            }
        };
        self.ask_view(&seen, at)?;
        Ok(Grant(seen))
    }

    /// Judges a grant that is held for long, such as that of an open stream, once more: everything but the signature.
    pub fn judge_again(&self, grant: &Grant, presented: &Presented, at: At) -> Result<(), Refusal> {
        let now = self.now(at)?;
        let keys = self.current_keys()?;
        grant.0.token.recheck(&keys.set, &self.expectations(*presented), now)?;
        self.ask_view(&grant.0, at)
    }

    /// Judges a task certificate of which the caller's TLS layer has verified the chain up to the broker's task CA and the possession of the key: names,
    /// validity, whose agent it is ([`Self::with_agents_of`]), and what the view knows of its task and serial number.
    ///
    /// A certificate names neither its task's ancestors nor where in the history the task began. So the end of an ancestor does not show here, and fences on the agent or its
    /// trust domain as well as the generation are judged by the time in the task's id: until 10 s after a fence, new tasks' certificates are refused, too. What the task may do at
    /// this audience, and whether it has anything to do here at all, it does not say either: **every agent of a trust domain that is taken passes, with whatever task it has**. Ask for a
    /// token, or the broker (`ValidationService.Validate`, which refuses a certificate whose task has no grant for the audience).
    pub fn judge_certificate(
        &self,
        certificate: &TaskCertificate<'_>,
        at: At,
    ) -> Result<CertificateGrant, Refusal> {
        let grant = certificate.judge(self.now(at)?)?;
        if !self.takes_agents_of(grant.agent().trust_domain()) {
            return Err(Refusal::AgentNotTaken);
        }
        if let Some(view) = &self.view {
            view.refusal(&grant.facts(), at.moment.ok_or(Refusal::NoClock)?)?;
        }
        Ok(grant)
    }

    fn takes_agents_of(&self, trust_domain: &str) -> bool {
        match (&self.agents_of, &self.view) {
            (Some(taken), _) => taken.iter().any(|taken| taken == trust_domain),
            (None, Some(view)) => view.is_at_home(trust_domain),
            (None, None) => true,
        }
    }

    fn ask_view(&self, seen: &Seen, at: At) -> Result<(), Refusal> {
        match &self.view {
            Some(view) => view.refusal(&seen.facts(), at.moment.ok_or(Refusal::NoClock)?),
            None => Ok(()),
        }
    }

    fn now(&self, at: At) -> Result<Between, Refusal> {
        match &self.view {
            Some(view) => view.time(at.moment.ok_or(Refusal::NoClock)?).ok_or(Refusal::NeverSynchronised),
            None => at.wall.map(Between::exactly).ok_or(Refusal::NoClock),
        }
    }

    fn current_keys(&self) -> Result<Arc<Keys>, Refusal> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        if keys.epoch < self.announced.load(Ordering::Relaxed) { Err(Refusal::KeysBehind) } else { Ok(keys) }
    }

    fn expectations(&self, presented: Presented) -> Expectations<'_> {
        let Expected { issuer, audience, profile } = &self.expected;
        Expectations { issuer, audience, profile: *profile, presented }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Verifier");
        shown.field("expected", &self.expected).field("key_epoch", &self.key_epoch());
        shown.field("view", &self.view).finish_non_exhaustive()
    }
}

/// The verdict that a token is good, at one moment, for one audience. Cheap to clone. It holds the claims and neither the token nor its signature. One that is kept
/// beyond its request must pass [`Verifier::judge_again`].
#[derive(Clone)]
pub struct Grant(Arc<Seen>);

impl Grant {
    /// The claims.
    pub fn claims(&self) -> &Claims {
        self.0.token.claims()
    }

    /// The key that signed the token.
    pub fn key_id(&self) -> KeyId {
        self.0.token.key_id()
    }

    /// Whether the token's scope names the tool and the arguments of the call are within its limits; see
    /// [`VerifiedToken::permits_tool`](crate::VerifiedToken::permits_tool).
    pub fn permits_tool(&self, tool: &str, arguments: Option<&Map<String, Value>>) -> Result<(), Refusal> {
        self.0.token.permits_tool(tool, arguments)
    }
}

impl fmt::Debug for Grant {
    /// Names the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant(jti {})", self.claims().jti)
    }
}

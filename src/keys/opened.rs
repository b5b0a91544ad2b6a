//! A keyring document with its private parts in clear: where keys are made, wrapped and unwrapped.

mod authority;
mod hardware;

pub(super) use hardware::public_of;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use taskpass_verifier::keyset::{Algorithm, KeyId, KeySet, VerificationKey};

use super::account::{Step, step};
use super::ca::{CaCertificate, CaKey};
use super::document::{Document, KeyUse, Slot, UnverifiedDocument};
use super::due;
use super::entry::{Entry, Kept, Wrapped};
use super::error::{KeyringError, printable};
use super::hardware::Held;
use super::keyring::KeyPlan;
use super::opening::Rewrap;
use super::pages::PageSeal;
use super::plan::{self, Change, Move, Refusal};
use super::seal::{MAC_KEY_LEN, RecordSeal};
use super::signer::{JwtKey, Signer};
use super::state::{Active, KeyState, Prepared, Requested, Standing};
use super::wrap::{KeyLabel, KeyWrapper, WrapError};
use crate::ids::random;
use crate::secret::Secret;
use crate::time::Timestamp;

type Private = Secret<Vec<u8>>;

/// A document, and the private part of each key in it that has one.
pub(super) struct Opened {
    document: Document,
    private: BTreeMap<KeyId, Private>,
    /// What was made in hardware for this document. Where it is not written, it is of no use.
    in_hardware: Vec<Held>,
}

/// A key just made, without its wrapped part.
struct Made {
    kid: KeyId,
    algorithm: Option<Algorithm>,
    not_after: Option<Timestamp>,
    public: Vec<u8>,
    private: Part,
}

/// The private part of a key just made.
enum Part {
    Clear(Private),
    Held(Held),
}

impl Opened {
    /// A keyring with a record MAC key and nothing else.
    pub(super) async fn first(
        wrapper: &dyn KeyWrapper,
        plan: &KeyPlan,
        now: Timestamp,
    ) -> Result<Self, KeyringError> {
        let mut opened = Self {
            document: Document::new(plan.broker.clone()),
            private: BTreeMap::new(),
            in_hardware: Vec::new(),
        };
        let slot = (KeyUse::RecordMac, &plan.broker).into();
        opened.add(wrapper, slot, made_record_mac()?, signing(now), plan, now).await?;
        Ok(opened)
    }

    /// Reads a stored document: the MAC key is unwrapped first, then the document's MAC compared, then the other keys are unwrapped.
    pub(super) async fn read(
        stored: &[u8],
        wrapper: &dyn KeyWrapper,
        plan: &KeyPlan,
    ) -> Result<Self, KeyringError> {
        let unverified = UnverifiedDocument::parse(stored)?;
        let seal = RecordSeal::new(&unwrap(wrapper, unverified.record_mac()?).await?);
        let document =
            unverified.verify(&seal.ok_or_else(|| KeyringError::damaged("a MAC key is too short"))?)?;
        if document.trust_domain != plan.broker {
            return Err(KeyringError::OtherBroker {
                stored: document.trust_domain,
                ours: plan.broker.clone(),
            });
        }
        let mut private = BTreeMap::new();
        for entry in document.keys.iter().filter(|entry| entry.private.is_some()) {
            private.insert(entry.kid, unwrap(wrapper, entry).await?);
        }
        for entry in &document.keys {
            hardware::at_hand(entry, plan)?;
        }
        Ok(Self { document, private, in_hardware: Vec::new() })
    }

    /// Gives up what is known to be compromised, wherever this document says that it stands. What that does.
    pub(super) async fn give_up_again(
        &mut self,
        wrapper: &dyn KeyWrapper,
        plan: &KeyPlan,
        given_up: &BTreeSet<KeyId>,
        now: Timestamp,
    ) -> Result<Vec<Step>, KeyringError> {
        let mut steps = Vec::new();
        for kid in given_up {
            let state = self.document.key(kid).map(Entry::state);
            if state.is_none_or(|state| state == KeyState::Compromised) {
                continue;
            }
            tracing::error!(%kid, "the stored keyring has forgotten that a key is compromised");
            let changes = self.decide(plan, &Move::Compromise(*kid), now).map_err(KeyringError::damaged)?;
            steps.extend(changes.iter().map(|change| step(&self.document, change)));
            self.apply(wrapper, plan, changes, now).await?;
        }
        Ok(steps)
    }

    /// Forgets every key that moves and is not over: others take their places.
    pub(super) fn forget_what_moves(&mut self) {
        let stays = |entry: &Entry| !entry.key_use.moves() || !entry.state().is_published();
        self.document.keys.retain(stays);
    }

    /// Makes what the plan asks for and the document lacks, and notes the greatest of the times that brokers are configured with. The keys that are made, if anything changed.
    pub(super) async fn complete(
        &mut self,
        wrapper: &dyn KeyWrapper,
        plan: &KeyPlan,
        rewrap: Rewrap,
        now: Timestamp,
    ) -> Result<Option<Vec<Step>>, KeyringError> {
        let mut changes = Vec::new();
        let root = plan.upstream.is_none().then_some((KeyUse::TaskCaRoot, &plan.broker));
        let made_here = plan.slots().filter(|(key_use, _)| plan.makes(*key_use));
        for (key_use, trust_domain) in root.into_iter().chain(made_here) {
            let slot = Slot { key_use, trust_domain };
            if plan.leaves_alone(&self.document, slot) {
                continue;
            }
            let make = |to| Change::Make { key_use, trust_domain: trust_domain.clone(), to };
            changes.extend(self.document.active(slot)?.is_none().then(|| make(KeyState::Active)));
            let standbys = self.document.standing(slot, KeyState::Prepared);
            let standbys = standbys.filter(|entry| plan.is_under_its_authority(entry)).count();
            changes.extend((standbys..key_use.standbys()).map(|_| make(KeyState::Prepared)));
        }
        let steps = changes.iter().map(|change| step(&self.document, change)).collect();
        let mut changed = self.apply(wrapper, plan, changes, now).await?;
        let rewrapped = rewrap == Rewrap::Yes && self.rewrap(wrapper).await?;
        if self.note_times(plan) | rewrapped {
            self.document.changed(now);
            changed = true;
        }
        Ok(changed.then_some(steps))
    }

    /// The same document, of a later sequence.
    pub(super) fn renumber(&mut self, now: Timestamp) {
        self.document.changed(now);
    }

    /// Keys are held to the longest times that any broker of this keyring was configured with while it could sign, or publish, them.
    fn note_times(&mut self, plan: &KeyPlan) -> bool {
        self.document.keys.iter_mut().filter(|entry| entry.key_use.moves()).fold(false, |changed, entry| {
            let before = (entry.longest, entry.kept, entry.standing);
            if entry.state().is_published() {
                entry.kept = entry.kept.longer(Kept::from(&plan.times));
            }
            if matches!(entry.state(), KeyState::Prepared | KeyState::Active) {
                entry.longest = entry.longest.max(Some(plan.times.longest(entry.key_use)));
            }
            if let Standing::Prepared(it) = entry.standing {
                let wait = it.wait.max(plan.times.publish_wait()).max(entry.kept.longest());
                entry.standing = Standing::Prepared(Prepared { wait, ..it });
            }
            changed | (before != (entry.longest, entry.kept, entry.standing))
        })
    }

    /// Whether a private part lies under another wrapping key than the present one.
    pub(super) fn lies_under_another(&self, wrapper: &dyn KeyWrapper) -> bool {
        let (ours, wrapped) =
            (wrapper.id(), self.document.keys.iter().filter_map(|entry| entry.private.as_ref()));
        wrapped.into_iter().any(|wrapped| wrapped.by != ours)
    }

    /// Wraps under the present wrapping key what lies under another one that is at hand. True if there was any.
    async fn rewrap(&mut self, wrapper: &dyn KeyWrapper) -> Result<bool, KeyringError> {
        let (mut changed, ours) = (false, wrapper.id());
        for entry in &mut self.document.keys {
            let Some(wrapped) = entry.private.as_ref().filter(|wrapped| wrapped.by != ours) else { continue };
            let private =
                self.private.get(&entry.kid).ok_or_else(|| KeyringError::WrongKeyEncryptionKey {
                    stored: printable(&wrapped.by, 256),
                    ours: ours.clone(),
                })?;
            entry.private = Some(wrap(wrapper, &entry.kid, entry.slot(), private).await?);
            changed = true;
        }
        Ok(changed)
    }

    /// What a move changes, or why it is not made.
    pub(super) fn decide(&self, plan: &KeyPlan, what: &Move, now: Timestamp) -> Result<Vec<Change>, Refusal> {
        plan::decide(&self.document, plan, now, what, |chain| self.judge(chain, plan, now))
    }

    /// Makes the changes, all of them. True if there were any.
    pub(super) async fn apply(
        &mut self,
        wrapper: &dyn KeyWrapper,
        plan: &KeyPlan,
        changes: Vec<Change>,
        now: Timestamp,
    ) -> Result<bool, KeyringError> {
        if changes.is_empty() {
            return Ok(false);
        }
        for change in changes {
            match change {
                Change::Set { kid, to } => {
                    let entry = self.document.keys.iter_mut().find(|entry| entry.kid == kid);
                    entry.ok_or_else(|| KeyringError::damaged("a key is gone"))?.stands(to);
                }
                Change::Make { key_use, trust_domain, to } => {
                    let slot = Slot { key_use, trust_domain: &trust_domain };
                    let (made, standing) = match to {
                        KeyState::Requested => {
                            (authority::made_request(plan)?, Standing::Requested(Requested { since: now }))
                        }
                        KeyState::Active => (self.made(slot, plan, now).await?, signing(now)),
                        _ => {
                            let wait = self.wait(slot, plan);
                            let standby = Standing::Prepared(Prepared { since: now, wait });
                            (self.made(slot, plan, now).await?, standby)
                        }
                    };
                    self.add(wrapper, slot, made, standing, plan, now).await?;
                }
                Change::Install { kid, judged, to } => self.installed(kid, judged, to, plan, now)?,
            }
        }
        for kid in due::forgotten(&self.document, now) {
            self.document.keys.retain(|entry| entry.kid != kid);
        }
        let has_private: Vec<_> =
            self.document.keys.iter().filter(|e| e.private.is_some()).map(|e| e.kid).collect();
        self.private.retain(|kid, _| has_private.contains(kid));
        hardware::forget(&mut self.document, now);
        self.document.changed(now);
        Ok(true)
    }

    /// How long a standby that is published now has to wait.
    fn wait(&self, slot: Slot<'_>, plan: &KeyPlan) -> Duration {
        plan.times.publish_wait().max(self.longest_copy(slot))
    }

    /// How long a copy of the present key set may be kept, by what any broker promised while a key in it was published: also where the promise was made shorter since (R1).
    fn longest_copy(&self, slot: Slot<'_>) -> Duration {
        let published = self.document.of(slot).filter(|entry| entry.state().is_published());
        published.map(|entry| entry.kept.longest()).max().unwrap_or_default()
    }

    /// A key of the use, whatever the document has already.
    async fn made(&mut self, slot: Slot<'_>, plan: &KeyPlan, now: Timestamp) -> Result<Made, KeyringError> {
        if let Some(hardware) = plan.makes_in_hardware(slot.key_use) {
            return self.made_in(hardware.as_ref(), slot).await;
        }
        match slot.key_use {
            KeyUse::Jwt => {
                let stored = self.document.active(slot)?.and_then(|entry| entry.algorithm);
                let algorithm = plan.issuers.get(slot.trust_domain).copied().or(stored);
                made_jwt(algorithm.unwrap_or(Algorithm::Es256))
            }
            KeyUse::Feed => made_jwt(Algorithm::Es256),
            KeyUse::TaskCaRoot => authority::made_root(plan, now),
            KeyUse::TaskCaIntermediate => self.made_intermediate(plan, now),
            KeyUse::RecordMac => made_record_mac(),
        }
    }

    pub(super) const fn document(&self) -> &Document {
        &self.document
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, KeyringError> {
        self.document.encode(&self.seal()?)
    }

    pub(super) fn seal(&self) -> Result<RecordSeal, KeyringError> {
        let (_, private) = self.active((KeyUse::RecordMac, &self.document.trust_domain).into())?;
        RecordSeal::new(private).ok_or_else(|| KeyringError::damaged("a MAC key is too short"))
    }

    pub(super) fn page_seal(&self) -> Result<PageSeal, KeyringError> {
        let (_, private) = self.active((KeyUse::RecordMac, &self.document.trust_domain).into())?;
        PageSeal::new(private).ok_or_else(|| KeyringError::damaged("a MAC key is too short"))
    }

    /// The active key of a trust domain for [`KeyUse::Jwt`] or [`KeyUse::Feed`].
    pub(super) fn signing_key(&self, slot: Slot<'_>) -> Result<JwtKey, KeyringError> {
        let (entry, private) = self.active(slot)?;
        let algorithm = algorithm_of(entry)?;
        let key = JwtKey::from_pkcs8(slot.trust_domain.clone(), algorithm, private, entry.not_after)?;
        if key.kid() != entry.kid || key.public().public_bytes() != entry.public {
            return Err(KeyringError::damaged("a signing key is not what its entry says"));
        }
        Ok(key)
    }

    /// The public keys that verifiers are told of.
    pub(super) fn published(&self, slot: Slot<'_>) -> Result<KeySet, KeyringError> {
        let published = self.document.of(slot).filter(|entry| entry.state().is_published());
        let keys = published.map(|entry| {
            let key = VerificationKey::from_public_bytes(algorithm_of(entry)?, &entry.public);
            let key = key.map_err(KeyringError::damaged)?;
            if key.id() != entry.kid {
                return Err(KeyringError::damaged("a published key is not what its entry says"));
            }
            Ok(key)
        });
        KeySet::new(keys.collect::<Result<Vec<_>, _>>()?).map_err(KeyringError::damaged)
    }

    fn active(&self, slot: Slot<'_>) -> Result<(&Entry, &Private), KeyringError> {
        self.document
            .active(slot)?
            .and_then(|entry| Some((entry, self.private.get(&entry.kid)?)))
            .ok_or_else(|| KeyringError::damaged(format!("{slot} is missing")))
    }

    async fn add(
        &mut self,
        wrapper: &dyn KeyWrapper,
        slot: Slot<'_>,
        made: Made,
        standing: Standing,
        plan: &KeyPlan,
        now: Timestamp,
    ) -> Result<(), KeyringError> {
        if self.document.key(&made.kid).is_some() {
            return Err(KeyringError::not_made("a new key has the name of an old one"));
        }
        let (private, held) = match made.private {
            Part::Clear(private) => {
                let wrapped = wrap(wrapper, &made.kid, slot, &private).await?;
                self.private.insert(made.kid, private);
                (Some(wrapped), None)
            }
            Part::Held(held) => (None, Some(held)),
        };
        self.document.keys.push(Entry {
            kid: made.kid,
            key_use: slot.key_use,
            trust_domain: slot.trust_domain.clone(),
            algorithm: made.algorithm,
            standing,
            created_at: now,
            signed: (standing.state() == KeyState::Active).then_some((now, None)),
            kept: if slot.key_use.moves() { Kept::from(&plan.times) } else { Kept::default() },
            longest: slot.key_use.moves().then(|| plan.times.longest(slot.key_use)),
            not_after: made.not_after,
            public: made.public,
            path: Vec::new(),
            private,
            held,
        });
        Ok(())
    }
}

const fn signing(now: Timestamp) -> Standing {
    Standing::Active(Active { since: now })
}

fn algorithm_of(entry: &Entry) -> Result<Algorithm, KeyringError> {
    entry.algorithm.ok_or_else(|| KeyringError::damaged("a signing key without an algorithm"))
}

impl Made {
    fn ca(key: &CaKey, private: Private, certificate: CaCertificate) -> Self {
        Self {
            kid: key.id(),
            algorithm: Some(Algorithm::Es256),
            not_after: Some(certificate.not_after),
            public: certificate.der,
            private: Part::Clear(private),
        }
    }
}

async fn wrap(
    wrapper: &dyn KeyWrapper,
    kid: &KeyId,
    slot: Slot<'_>,
    private: &Private,
) -> Result<Wrapped, KeyringError> {
    let kid = kid.to_string();
    let label = KeyLabel { kid: &kid, key_use: slot.key_use, trust_domain: slot.trust_domain.as_str() };
    let bytes = wrapper.wrap(label, private).await.map_err(|error| match error {
        WrapError::Hardware(error) => error.into(),
        other => KeyringError::not_made(other),
    })?;
    Ok(Wrapped { by: wrapper.id(), bytes })
}

async fn unwrap(wrapper: &dyn KeyWrapper, entry: &Entry) -> Result<Private, KeyringError> {
    let wrapped = entry.private.as_ref().ok_or_else(|| KeyringError::damaged("a key has no private part"))?;
    if !wrapper.opens(&wrapped.by) {
        let (stored, ours) = (printable(&wrapped.by, 256), wrapper.id());
        return Err(KeyringError::WrongKeyEncryptionKey { stored, ours });
    }
    let kid = entry.kid.to_string();
    let label = KeyLabel { kid: &kid, key_use: entry.key_use, trust_domain: entry.trust_domain.as_str() };
    wrapper.unwrap(&wrapped.by, label, &wrapped.bytes).await.map_err(|source| match source {
        WrapError::Hardware(error) => error.into(),
        source => KeyringError::KeyDoesNotOpen {
            kid: entry.kid,
            key_use: entry.key_use,
            trust_domain: entry.trust_domain.clone(),
            source,
        },
    })
}

fn made_record_mac() -> Result<Made, KeyringError> {
    let no_random = |error: crate::error::Error| KeyringError::not_made(error.log_line());
    let private = Secret::new(random::<MAC_KEY_LEN>().map_err(no_random)?.to_vec());
    let kid = KeyId::from_bytes(random().map_err(no_random)?);
    let private = Part::Clear(private);
    Ok(Made { kid, algorithm: None, not_after: None, public: Vec::new(), private })
}

fn made_jwt(algorithm: Algorithm) -> Result<Made, KeyringError> {
    let private = generate(algorithm)?;
    let public = JwtKey::public_of(algorithm, &private)?;
    let (kid, public) = (public.id(), public.public_bytes().to_vec());
    Ok(Made { kid, algorithm: Some(algorithm), not_after: None, public, private: Part::Clear(private) })
}

/// A fresh private key in PKCS#8. `ring` hands it out in a buffer of its own that cannot be wiped; it lives for a moment.
fn generate(algorithm: Algorithm) -> Result<Private, KeyringError> {
    let source = SystemRandom::new();
    let document = match algorithm {
        Algorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &source),
        Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&source),
    };
    let document = document.map_err(|_| KeyringError::not_made("the system's random source failed"))?;
    Ok(Secret::new(document.as_ref().to_vec()))
}

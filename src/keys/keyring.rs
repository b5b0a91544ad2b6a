//! The keyring: opened from the store, or made there at the first start.

use std::collections::BTreeMap;
#[cfg(test)]
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use taskpass_verifier::keyset::{Algorithm, KeyId, KeySet};

use super::ca::{GivenUp, TaskAuthorities, TaskCa};
use super::document::{Document, KeyUse, Slot};
use super::due::{self, Due, Renewal};
use super::entry::{self, Entry};
use super::error::KeyringError;
use super::hardware::{Hardware, shown};
use super::opened::Opened;
use super::pages::PageSeal;
use super::plan::{LONGEST_BOUND, Times};
use super::seal::RecordSeal;
use super::signer::{JwtKey, Signer};
use super::state::{KeyState, Standing};
use super::store::StoredKeyring;
use super::upstream::Upstream;
#[cfg(test)]
use super::{account::Unaccounted, opening::Opening, opening::Rewrap, store::KeyringStore, wrap::KeyWrapper};
use crate::identity::TrustDomain;
use crate::time::Timestamp;

/// Which keys there have to be.
#[derive(Clone, Debug)]
pub struct KeyPlan {
    /// The broker's own trust domain: the task CA's.
    pub broker: TrustDomain,
    /// The trust domains that are served, each with the algorithm of its tokens.
    pub issuers: BTreeMap<TrustDomain, Algorithm>,
    /// How long the root of the task CA is valid, when it is made.
    pub root_lifetime: Duration,
    /// How long the intermediate is valid, when it is made.
    pub intermediate_lifetime: Duration,
    /// How long keys wait.
    pub times: Times,
    /// Who signs the intermediate; `None`: a root of our own.
    pub upstream: Option<Upstream>,
    /// What holds private keys that do not leave it; `None`: nothing does.
    pub hardware: Option<InHardware>,
}

/// The hardware that is at hand, and what is made in it.
#[derive(Clone)]
pub struct InHardware {
    /// What holds keys.
    pub hardware: Arc<dyn Hardware>,
    /// Whether JWT keys are made in it from now on. Those that lie in it sign in any case.
    pub makes_jwt: bool,
}

impl std::fmt::Debug for InHardware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InHardware({}, makes_jwt: {})", self.hardware.id(), self.makes_jwt)
    }
}

impl KeyPlan {
    /// A root of ten years, an intermediate of one, and the times by default.
    pub fn new(broker: TrustDomain, issuers: BTreeMap<TrustDomain, Algorithm>) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            broker,
            issuers,
            root_lifetime: Duration::from_secs(3652 * DAY),
            intermediate_lifetime: Duration::from_secs(365 * DAY),
            times: Times::default(),
            upstream: None,
            hardware: None,
        }
    }

    /// What makes keys of the use, if it is not this process.
    pub(super) fn makes_in_hardware(&self, key_use: KeyUse) -> Option<&Arc<dyn Hardware>> {
        let at_hand = self.hardware.as_ref().filter(|it| it.makes_jwt && key_use == KeyUse::Jwt);
        at_hand.map(|it| &it.hardware)
    }

    /// Whether keys of the use are made here, and not only asked for.
    pub(super) const fn makes(&self, key_use: KeyUse) -> bool {
        !matches!(key_use, KeyUse::TaskCaIntermediate) || self.upstream.is_none()
    }

    /// Whether what is under a key leads where the configuration says: of an intermediate, to the upstream's anchors or to our own root.
    pub(super) fn is_under_its_authority(&self, entry: &Entry) -> bool {
        match (entry.key_use, &self.upstream, entry.path.last()) {
            (KeyUse::TaskCaIntermediate, Some(upstream), anchor) => {
                anchor.is_some_and(|anchor| upstream.holds(anchor))
            }
            (KeyUse::TaskCaIntermediate, None, anchor) => anchor.is_none(),
            _ => true,
        }
    }

    /// Whether nothing is made or moved of a slot without being asked for: what signs there is signed from outside, and this broker has not heard of that. It must not undo what others
    /// do; back to a root of our own leads a rotation by hand.
    pub(super) fn leaves_alone(&self, document: &Document, slot: Slot<'_>) -> bool {
        let signs = document.standing(slot, KeyState::Active).next();
        self.upstream.is_none() && signs.is_some_and(|signs| !self.is_under_its_authority(signs))
    }

    /// Of which one key is active and one stands by, each.
    pub(super) fn slots(&self) -> impl Iterator<Item = (KeyUse, &TrustDomain)> {
        let of_issuers = self.issuers.keys().flat_map(|name| [(KeyUse::Jwt, name), (KeyUse::Feed, name)]);
        of_issuers.chain(std::iter::once((KeyUse::TaskCaIntermediate, &self.broker)))
    }
}

/// A key, as operators see it: nothing private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyView {
    /// Its name.
    pub kid: KeyId,
    /// What it is for.
    pub key_use: KeyUse,
    /// Whose it is.
    pub trust_domain: TrustDomain,
    /// `None` for a MAC key.
    pub algorithm: Option<Algorithm>,
    /// Where it stands,
    pub state: KeyState,
    /// and since when.
    pub since: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it has signed, and until when; until `None`: it does. `None`: it never has. Kept when the key is over. Another broker may have signed with it for the time within
    /// which brokers agree longer ([`Times::agreement`]); and whoever has stolen it does as he likes.
    pub signed: Option<(Timestamp, Option<Timestamp>)>,
    /// A standby: when it is aged and may sign. A retiring key: when the last credential under it has expired and it goes.
    pub waits_until: Option<Timestamp>,
    /// The end of its certificate.
    pub not_after: Option<Timestamp>,
    /// How long what is under it may still be taken, once it is given up, by a verifier that does not hear of its fence: one that has just taken a key set from a broker that did not
    /// know of the move yet, at the longest times that any broker was configured with. `None`: nothing but its certificate sets an end. How long a credential says that it lives does not matter: whoever
    /// has the key writes what he likes.
    pub outlives: Option<Duration>,
    /// Where its private half lies, if it is in hardware; or lay.
    pub held_in: Option<String>,
}

impl KeyView {
    /// Whether the key may have signed what was issued at that moment. `agreement`: for how long brokers may go by different keyrings.
    pub fn may_have_signed(&self, at: Timestamp, agreement: Duration) -> bool {
        entry::may_have_signed(self.signed, at, agreement)
    }
}

impl From<&Entry> for KeyView {
    fn from(entry: &Entry) -> Self {
        let waits_until = match &entry.standing {
            Standing::Prepared(prepared) => Some(prepared.aged_at()),
            Standing::Retiring(retiring) => Some(retiring.until),
            _ => None,
        };
        Self {
            kid: entry.kid,
            key_use: entry.key_use,
            trust_domain: entry.trust_domain.clone(),
            algorithm: entry.algorithm,
            state: entry.state(),
            since: entry.standing.since(),
            created_at: entry.created_at,
            signed: entry.signed,
            waits_until,
            not_after: entry.not_after,
            held_in: entry.held.as_ref().map(shown),
            outlives: match entry.key_use {
                KeyUse::Jwt => Some(entry.kept.longest()),
                KeyUse::Feed => Some(LONGEST_BOUND),
                // Nothing is under a key that never had a certificate.
                KeyUse::TaskCaIntermediate if entry.not_after.is_none() => Some(Duration::ZERO),
                KeyUse::TaskCaIntermediate | KeyUse::TaskCaRoot | KeyUse::RecordMac => None,
            },
        }
    }
}

/// The opened keyring: one view of it, that of the stored version. Its private parts are in the keys that it lends out; neither `Debug` nor what it
/// publishes shows any of them.
#[derive(Debug)]
pub struct Keyring {
    opened_at: Timestamp,
    version: u64,
    refresh_hint: Duration,
    document: Document,
    encoded: Vec<u8>,
    signers: BTreeMap<TrustDomain, Arc<dyn Signer>>,
    key_sets: BTreeMap<TrustDomain, Arc<KeySet>>,
    feed_signers: BTreeMap<TrustDomain, Arc<JwtKey>>,
    feed_key_sets: BTreeMap<TrustDomain, Arc<KeySet>>,
    task_ca: Option<Arc<TaskCa>>,
    task_authorities: Arc<TaskAuthorities>,
    seal: Arc<RecordSeal>,
    pages: PageSeal,
}

impl Keyring {
    /// Opens the stored keyring, see [`Opening::run`].
    #[cfg(test)]
    pub(super) async fn open(
        store: &dyn KeyringStore,
        wrapper: &dyn KeyWrapper,
        plan: &KeyPlan,
        now: Timestamp,
    ) -> Result<Self, KeyringError> {
        let (account, given_up) = (&Unaccounted, &BTreeSet::new());
        let opening = Opening { store, wrapper, plan, account, rewrap: Rewrap::Yes, given_up, known: None };
        opening.run(store.load().await?, now).await.map(|(keyring, _)| keyring)
    }

    /// Of what is stored, and was opened.
    pub(super) fn from_opened(
        stored: StoredKeyring,
        opened: &Opened,
        plan: &KeyPlan,
        opened_at: Timestamp,
    ) -> Result<Self, KeyringError> {
        let (mut signers, mut key_sets) = (BTreeMap::new(), BTreeMap::new());
        let (mut feed_signers, mut feed_key_sets) = (BTreeMap::new(), BTreeMap::new());
        for trust_domain in plan.issuers.keys() {
            let slot = Slot { key_use: KeyUse::Jwt, trust_domain };
            signers.insert(trust_domain.clone(), opened.signer(slot, plan)?);
            key_sets.insert(trust_domain.clone(), Arc::new(opened.published(slot)?));
            let slot = Slot { key_use: KeyUse::Feed, trust_domain };
            feed_signers.insert(trust_domain.clone(), Arc::new(opened.signing_key(slot)?));
            feed_key_sets.insert(trust_domain.clone(), Arc::new(opened.published(slot)?));
        }
        Ok(Self {
            opened_at,
            version: stored.version,
            refresh_hint: plan.times.refresh_hint,
            document: opened.document().clone(),
            encoded: stored.document,
            signers,
            key_sets,
            feed_signers,
            feed_key_sets,
            task_ca: opened.task_ca()?.map(Arc::new),
            task_authorities: Arc::new(opened.task_authorities(plan)?),
            seal: Arc::new(opened.seal()?),
            pages: opened.page_seal()?,
        })
    }

    /// When it was read from the store, or made there.
    pub const fn opened_at(&self) -> Timestamp {
        self.opened_at
    }

    /// The version of the stored keyring that this is a view of.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The document as stored: every private part in it is wrapped.
    pub fn document(&self) -> &[u8] {
        &self.encoded
    }

    /// Grows with each change, never falls: `spiffe_sequence`.
    pub const fn sequence(&self) -> u64 {
        self.document.sequence
    }

    /// How often those who read what is published should look again.
    pub const fn refresh_hint(&self) -> Duration {
        self.refresh_hint
    }

    /// Every key that the keyring knows of, those that are over too.
    pub fn keys(&self) -> impl Iterator<Item = KeyView> {
        self.document.keys.iter().map(KeyView::from)
    }

    /// What it knows of each key.
    pub(super) const fn document_keys(&self) -> &Document {
        &self.document
    }

    /// Those that were given up.
    pub(super) fn compromised(&self) -> impl Iterator<Item = KeyId> {
        self.document.keys.iter().filter(|key| key.state() == KeyState::Compromised).map(|key| key.kid)
    }

    /// See [`KeyView::may_have_signed`]; a key that is unknown has not.
    pub fn may_have_signed(&self, kid: &KeyId, at: Timestamp, agreement: Duration) -> bool {
        self.document.key(kid).is_some_and(|entry| entry::may_have_signed(entry.signed, at, agreement))
    }

    /// The intermediates under our own root that were given up. Those that were signed from outside are on a list of that authority, or on none.
    pub fn given_up_intermediates(&self) -> Result<Vec<GivenUp>, KeyringError> {
        let of_root = |key: &&Entry| key.key_use == KeyUse::TaskCaIntermediate && key.path.is_empty();
        let given_up = self.document.keys.iter().filter(of_root);
        let given_up = given_up.filter(|key| key.state() == KeyState::Compromised);
        let with_certificate = given_up.filter_map(|key| Some((key.certificate()?, key.standing.since())));
        with_certificate.map(|(certificate, since)| GivenUp::of(certificate, since)).collect()
    }

    /// The request that waits for a certificate, in DER, and its key.
    pub fn request(&self) -> Option<(KeyId, &[u8])> {
        let waits = self.document.keys.iter().find(|key| key.state() == KeyState::Requested)?;
        Some((waits.kid, &waits.public))
    }

    /// Each key of the task CA's intermediates that has a certificate or waits for one, with that and what is above it, the anchor last; in DER. Those that are over are left out.
    pub fn task_ca_chains(&self) -> impl Iterator<Item = (KeyView, Vec<&[u8]>)> {
        let root = self.document.keys.iter().find(|key| key.key_use == KeyUse::TaskCaRoot);
        let shown = |key: &&Entry| key.state().is_published() || matches!(key.state(), KeyState::Requested);
        let keys = self.document.keys.iter().filter(|key| key.key_use == KeyUse::TaskCaIntermediate);
        keys.filter(shown).map(move |key| {
            let own = root.filter(|_| key.path.is_empty()).and_then(Entry::certificate);
            let path = key.path.iter().map(Vec::as_slice).chain(own);
            (
                KeyView::from(key),
                key.certificate().into_iter().flat_map(|it| [it].into_iter().chain(path.clone())).collect(),
            )
        })
    }

    /// Whether the task CA has to be signed from outside soon, or should have been.
    pub fn renewal(&self, plan: &KeyPlan, now: Timestamp) -> Option<Renewal> {
        due::renewal(&self.document, plan, now)
    }

    /// Where the key stands.
    #[cfg(test)]
    pub(super) fn state_of(&self, kid: &KeyId) -> Option<KeyState> {
        self.document.key(kid).map(Entry::state)
    }

    /// What is to be done without being asked.
    pub(super) fn due(&self, plan: &KeyPlan, now: Timestamp) -> Due {
        due::due(&self.document, plan, now)
    }

    /// A trust domain that is served, and whose active key is not among those that verifiers are told of. There is none, unless something is badly wrong.
    pub fn unpublished(&self) -> Option<&TrustDomain> {
        let is_missing = |(name, signer): &(&TrustDomain, &Arc<dyn Signer>)| {
            self.key_sets.get(*name).is_none_or(|keys| keys.get(&signer.kid()).is_none())
        };
        self.signers.iter().find(is_missing).map(|(name, _)| name)
    }

    /// The active signing key of a trust domain that is served.
    pub fn signer(&self, trust_domain: &TrustDomain) -> Option<&Arc<dyn Signer>> {
        self.signers.get(trust_domain)
    }

    /// The key that signs what is pushed to the verifiers of a trust domain that is served.
    pub fn feed_signer(&self, trust_domain: &TrustDomain) -> Option<&Arc<JwtKey>> {
        self.feed_signers.get(trust_domain)
    }

    /// All of them, by trust domain.
    pub fn feed_signers(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<JwtKey>)> {
        self.feed_signers.iter()
    }

    /// The keys that what is pushed to the verifiers of a trust domain is signed with, was, or will be.
    pub fn feed_key_set(&self, trust_domain: &TrustDomain) -> Option<&Arc<KeySet>> {
        self.feed_key_sets.get(trust_domain)
    }

    /// All of them, by trust domain.
    pub fn feed_key_sets(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<KeySet>)> {
        self.feed_key_sets.iter()
    }

    /// The public keys of a trust domain that is served: of those that sign, did, or will.
    pub fn key_set(&self, trust_domain: &TrustDomain) -> Option<&Arc<KeySet>> {
        self.key_sets.get(trust_domain)
    }

    /// All key sets, by trust domain.
    pub fn key_sets(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<KeySet>)> {
        self.key_sets.iter()
    }

    /// Every certificate of the task CA that the keyring knows of: those of intermediates that are over or given up too, for what is under them may live.
    pub fn authorities(&self) -> impl Iterator<Item = CertificateDer<'_>> {
        self.document.keys.iter().filter_map(Entry::certificate).map(CertificateDer::from)
    }

    /// The task CA as it issues; `None`: it waits for a certificate from outside.
    pub const fn task_ca(&self) -> Option<&Arc<TaskCa>> {
        self.task_ca.as_ref()
    }

    /// Whose certificates are ours, and what verifiers trust.
    pub const fn task_authorities(&self) -> &Arc<TaskAuthorities> {
        &self.task_authorities
    }

    /// What seals stored facts.
    pub const fn record_seal(&self) -> &Arc<RecordSeal> {
        &self.seal
    }

    /// What seals page tokens.
    pub const fn page_seal(&self) -> &PageSeal {
        &self.pages
    }
}

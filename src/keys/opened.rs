//! A keyring document with its private parts in clear: where keys are made, wrapped and unwrapped.

use std::collections::BTreeMap;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use taskpass_verifier::keyset::{Algorithm, KeyId};

use super::ca::{self, CaCertificate, CaKey, TaskCa};
use super::document::{Bytes, Document, Entry, KeyState, KeyUse, UnverifiedDocument};
use super::error::{KeyringError, printable};
use super::keyring::KeyPlan;
use super::pages::PageSeal;
use super::seal::{MAC_KEY_LEN, RecordSeal};
use super::signer::{JwtKey, Signer};
use super::wrap::{KeyLabel, KeyWrapper};
use crate::identity::TrustDomain;
use crate::ids::random;
use crate::secret::Secret;
use crate::time::Timestamp;

type Private = Secret<Vec<u8>>;

/// A document, and the private part of each key in it.
pub(super) struct Opened {
    document: Document,
    private: BTreeMap<KeyId, Private>,
}

/// A key just made, without its wrapped part.
struct Made {
    kid: KeyId,
    algorithm: Option<Algorithm>,
    not_after: Option<Timestamp>,
    public: Vec<u8>,
    private: Private,
}

impl Opened {
    /// A keyring with a record MAC key and nothing else.
    pub(super) async fn first(
        wrapper: &dyn KeyWrapper,
        plan: &KeyPlan,
        now: Timestamp,
    ) -> Result<Self, KeyringError> {
        let mut opened = Self { document: Document::new(plan.broker.clone()), private: BTreeMap::new() };
        opened.add(wrapper, KeyUse::RecordMac, &plan.broker, made_record_mac()?, now).await?;
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
        for entry in &document.keys {
            private.insert(entry.kid, unwrap(wrapper, entry).await?);
        }
        Ok(Self { document, private })
    }

    /// Makes what the plan asks for and the document lacks. True if it made anything.
    pub(super) async fn complete(
        &mut self,
        wrapper: &dyn KeyWrapper,
        plan: &KeyPlan,
        now: Timestamp,
    ) -> Result<bool, KeyringError> {
        let before = self.document.keys.len();
        for (trust_domain, algorithm) in &plan.issuers {
            match self.document.active(KeyUse::Jwt, trust_domain)?.map(|entry| entry.algorithm) {
                None => self.add(wrapper, KeyUse::Jwt, trust_domain, made_jwt(*algorithm)?, now).await?,
                Some(Some(stored)) if stored != *algorithm => {
                    let trust_domain = trust_domain.clone();
                    return Err(KeyringError::OtherAlgorithm { trust_domain, stored, wanted: *algorithm });
                }
                Some(_) => {}
            }
            if self.document.active(KeyUse::Feed, trust_domain)?.is_none() {
                self.add(wrapper, KeyUse::Feed, trust_domain, made_jwt(Algorithm::Es256)?, now).await?;
            }
        }
        if self.document.active(KeyUse::TaskCaRoot, &plan.broker)?.is_none() {
            self.add(wrapper, KeyUse::TaskCaRoot, &plan.broker, made_root(plan, now)?, now).await?;
        }
        if self.document.active(KeyUse::TaskCaIntermediate, &plan.broker)?.is_none() {
            let made = self.made_intermediate(plan, now)?;
            self.add(wrapper, KeyUse::TaskCaIntermediate, &plan.broker, made, now).await?;
        }
        let changed = self.document.keys.len() != before;
        if changed {
            // Never below the second that it is: a keyring that had to be made anew comes after the one that was lost, whatever that one's was.
            self.document.sequence = self.document.sequence.saturating_add(1).max(now.as_secs());
        }
        Ok(changed)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, KeyringError> {
        self.document.encode(&self.seal()?)
    }

    pub(super) const fn sequence(&self) -> u64 {
        self.document.sequence
    }

    pub(super) fn seal(&self) -> Result<RecordSeal, KeyringError> {
        let (_, private) = self.active(KeyUse::RecordMac, &self.document.trust_domain)?;
        RecordSeal::new(private).ok_or_else(|| KeyringError::damaged("a MAC key is too short"))
    }

    pub(super) fn page_seal(&self) -> Result<PageSeal, KeyringError> {
        let (_, private) = self.active(KeyUse::RecordMac, &self.document.trust_domain)?;
        PageSeal::new(private).ok_or_else(|| KeyringError::damaged("a MAC key is too short"))
    }

    /// The active key of a trust domain for [`KeyUse::Jwt`] or [`KeyUse::Feed`].
    pub(super) fn signing_key(
        &self,
        key_use: KeyUse,
        trust_domain: &TrustDomain,
    ) -> Result<JwtKey, KeyringError> {
        let (entry, private) = self.active(key_use, trust_domain)?;
        let algorithm =
            entry.algorithm.ok_or_else(|| KeyringError::damaged("a signing key without an algorithm"))?;
        let not_after = entry.not_after_ms.map(Timestamp::from_millis);
        let key = JwtKey::from_pkcs8(trust_domain.clone(), algorithm, private, not_after)?;
        if key.kid() != entry.kid || key.public().public_bytes() != entry.public.0 {
            return Err(KeyringError::damaged("a signing key is not what its entry says"));
        }
        Ok(key)
    }

    pub(super) fn task_ca(&self) -> Result<TaskCa, KeyringError> {
        let trust_domain = &self.document.trust_domain;
        let (root, _) = self.root()?;
        let (intermediate, private) = self.active(KeyUse::TaskCaIntermediate, trust_domain)?;
        let key = CaKey::from_pkcs8(private)?;
        TaskCa::new(trust_domain.clone(), &root.public.0, &intermediate.public.0, key)
    }

    fn made_intermediate(&self, plan: &KeyPlan, now: Timestamp) -> Result<Made, KeyringError> {
        let (root, root_key) = self.root()?;
        let (key, private) = made_ca_key()?;
        let root = (root.public.0.as_slice(), &root_key);
        let certificate = ca::make_intermediate(&plan.broker, &key, root, now, plan.intermediate_lifetime)?;
        Ok(Made::ca(&key, private, certificate))
    }

    /// The root's entry and key, which fit each other.
    fn root(&self) -> Result<(&Entry, CaKey), KeyringError> {
        let (entry, private) = self.active(KeyUse::TaskCaRoot, &self.document.trust_domain)?;
        let key = CaKey::from_pkcs8(private)?;
        ca::belongs(&ca::parse(&entry.public.0)?, key.id())?;
        Ok((entry, key))
    }

    fn active(
        &self,
        key_use: KeyUse,
        trust_domain: &TrustDomain,
    ) -> Result<(&Entry, &Private), KeyringError> {
        self.document
            .active(key_use, trust_domain)?
            .and_then(|entry| Some((entry, self.private.get(&entry.kid)?)))
            .ok_or_else(|| KeyringError::damaged(format!("{trust_domain} has no {} key", key_use.as_str())))
    }

    async fn add(
        &mut self,
        wrapper: &dyn KeyWrapper,
        key_use: KeyUse,
        trust_domain: &TrustDomain,
        made: Made,
        now: Timestamp,
    ) -> Result<(), KeyringError> {
        let kid = made.kid.to_string();
        let label = KeyLabel { kid: &kid, key_use, trust_domain: trust_domain.as_str() };
        let wrapped = wrapper.wrap(label, &made.private).await.map_err(KeyringError::not_made)?;
        self.document.keys.push(Entry {
            kid: made.kid,
            r#use: key_use,
            trust_domain: trust_domain.clone(),
            algorithm: made.algorithm,
            state: KeyState::Active,
            created_at_ms: now.as_millis(),
            not_after_ms: made.not_after.map(Timestamp::as_millis),
            public: Bytes(made.public),
            wrapped_by: wrapper.id(),
            wrapped: Bytes(wrapped),
        });
        self.private.insert(made.kid, made.private);
        Ok(())
    }
}

impl Made {
    fn ca(key: &CaKey, private: Private, certificate: CaCertificate) -> Self {
        Self {
            kid: key.id(),
            algorithm: Some(Algorithm::Es256),
            not_after: Some(certificate.not_after),
            public: certificate.der,
            private,
        }
    }
}

async fn unwrap(wrapper: &dyn KeyWrapper, entry: &Entry) -> Result<Private, KeyringError> {
    let ours = wrapper.id();
    if entry.wrapped_by != ours {
        let stored = printable(&entry.wrapped_by, 256);
        return Err(KeyringError::WrongKeyEncryptionKey { stored, ours });
    }
    let kid = entry.kid.to_string();
    let label = KeyLabel { kid: &kid, key_use: entry.r#use, trust_domain: entry.trust_domain.as_str() };
    wrapper.unwrap(label, &entry.wrapped.0).await.map_err(|source| KeyringError::KeyDoesNotOpen {
        kid: entry.kid,
        key_use: entry.r#use,
        trust_domain: entry.trust_domain.clone(),
        source,
    })
}

fn made_record_mac() -> Result<Made, KeyringError> {
    let no_random = |error: crate::error::Error| KeyringError::not_made(error.log_line());
    let private = Secret::new(random::<MAC_KEY_LEN>().map_err(no_random)?.to_vec());
    let kid = KeyId::from_bytes(random().map_err(no_random)?);
    Ok(Made { kid, algorithm: None, not_after: None, public: Vec::new(), private })
}

fn made_jwt(algorithm: Algorithm) -> Result<Made, KeyringError> {
    let private = generate(algorithm)?;
    let public = JwtKey::public_of(algorithm, &private)?;
    let (kid, public) = (public.id(), public.public_bytes().to_vec());
    Ok(Made { kid, algorithm: Some(algorithm), not_after: None, public, private })
}

fn made_root(plan: &KeyPlan, now: Timestamp) -> Result<Made, KeyringError> {
    let (key, private) = made_ca_key()?;
    let certificate = ca::make_root(&plan.broker, &key, now, plan.root_lifetime)?;
    Ok(Made::ca(&key, private, certificate))
}

fn made_ca_key() -> Result<(CaKey, Private), KeyringError> {
    let private = generate(Algorithm::Es256)?;
    Ok((CaKey::from_pkcs8(&private)?, private))
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

//! What signs at this moment, and what verifiers are told of it. It follows from the keyring in force, which the keeper of keys swaps; an operation takes it once and keeps to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cert::CertIssuer;
use crate::error::{Error, Reason, Result};
use crate::identity::TrustDomain;
use crate::keys::{KeySets, Keyring, KeyringError};
use crate::time::Timestamp;
use crate::token::TokenIssuer;

use super::tasks::store_error;
use super::{Broker, Settings};

/// Of one keyring.
#[derive(Debug)]
pub(super) struct Signing {
    pub(super) keyring: Arc<Keyring>,
    pub(super) public: KeySets,
    /// `None`: the task CA waits for a certificate from outside.
    pub(super) certificates: Option<Arc<CertIssuer>>,
    pub(super) tokens: BTreeMap<TrustDomain, Arc<TokenIssuer>>,
}

impl Signing {
    /// Of this keyring. What has not changed since `before` goes on, with what it has proven. An error if there is no key for an issuer.
    pub(super) fn of(keyring: Arc<Keyring>, settings: &Settings, before: Option<&Self>) -> Result<Self> {
        let mut tokens = BTreeMap::new();
        for (trust_domain, issuer) in &settings.issuers {
            let signer =
                keyring.signer(trust_domain).ok_or_else(|| Error::internal("an issuer without a key"))?;
            let known = before.and_then(|before| before.tokens.get(trust_domain));
            let issuer = match known.filter(|known| known.signer().kid() == signer.kid()) {
                Some(known) => Arc::clone(known),
                None => Arc::new(TokenIssuer::new(issuer.clone(), Arc::clone(signer))?),
            };
            tokens.insert(trust_domain.clone(), issuer);
        }
        let known = before.and_then(|before| before.certificates.as_ref());
        let certificates =
            keyring.task_ca().map(|ca| match known.filter(|known| known.ca().key_id() == ca.key_id()) {
                Some(known) => Arc::clone(known),
                None => Arc::new(CertIssuer::new(Arc::clone(ca))),
            });
        Ok(Self { public: KeySets::of(&keyring)?, certificates, tokens, keyring })
    }
}

/// What signs certificates, if it will be good for so long yet: else the task CA has to be signed from outside first.
pub(super) fn certificates(signing: &Signing, now: Timestamp, least: Duration) -> Result<&Arc<CertIssuer>> {
    let closed = |what: &str| {
        let sentence = format!(
            "{what}, so no certificates are issued; tokens are as before. Those who run the broker install another one: `taskpass ca csr`, `taskpass ca install`."
        );
        Error::new(Reason::TaskCaUnavailable, sentence)
    };
    let issuer = signing.certificates.as_ref();
    let issuer = issuer.ok_or_else(|| closed("The task CA has no certificate that it could issue under"))?;
    let ends = issuer.ca().not_after();
    if ends <= now {
        return Err(closed(&format!("The task CA's certificate is over since {ends}")));
    }
    if ends < now.saturating_add(least) {
        return Err(closed(&format!(
            "The task CA's certificate ends at {ends}, before one of the least lifetime would"
        )));
    }
    Ok(issuer)
}

impl Broker {
    /// The keyring in force.
    pub(super) fn keyring(&self) -> Arc<Keyring> {
        self.keys.current()
    }

    /// What follows from it.
    pub(super) fn signing(&self) -> Result<Arc<Signing>> {
        let (keyring, known) = (self.keyring(), self.signing.load_full());
        if Arc::ptr_eq(&keyring, &known.keyring) {
            return Ok(known);
        }
        let signing = Arc::new(Signing::of(keyring, &self.settings, Some(&known))?);
        self.signing.store(Arc::clone(&signing));
        Ok(signing)
    }

    /// The same, to sign something with it. A broker that has not seen the stored keyring for a while looks first: another may have moved a key since.
    pub(super) async fn signing_now(&self, now: Timestamp) -> Result<Arc<Signing>> {
        if !self.keys.is_confirmed() {
            self.keys.look(now).await.map_err(keyring_error)?;
            if !self.keys.is_confirmed() {
                return Err(Error::store("the keyring in force is not the one in the store"));
            }
        }
        self.signing()
    }
}

/// As far as a caller may know.
pub(super) fn keyring_error(error: KeyringError) -> Error {
    match error {
        KeyringError::Store(error) => store_error(error),
        KeyringError::RanBack { .. } => Error::store(error),
        KeyringError::Damaged(_)
        | KeyringError::WrongKeyEncryptionKey { .. }
        | KeyringError::NotAtHand { .. }
        | KeyringError::KeyDoesNotOpen { .. } => Error::new(
            Reason::KeyringUnusable,
            "The stored keyring is damaged, or does not open under this broker's key-encryption key. Its operators find in its log what is wrong.",
        )
        .with_detail(error),
        other => other.into(),
    }
}

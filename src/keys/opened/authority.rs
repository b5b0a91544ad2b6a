//! The keys of the task CA: made here under a root of our own, or asked for and installed.

use taskpass_verifier::keyset::{Algorithm, KeyId};

use super::{Made, Opened, Part, Private, generate};
use crate::keys::ca::{self, CaKey, ListSigner, TaskAuthorities, TaskCa};
use crate::keys::document::{KeyUse, Slot};
use crate::keys::entry::{Entry, Kept};
use crate::keys::error::KeyringError;
use crate::keys::keyring::KeyPlan;
use crate::keys::state::{KeyState, Standing};
use crate::keys::upstream::{Chain, Judge, Judged, Misfit};
use crate::time::Timestamp;

impl Opened {
    const fn intermediates(&self) -> Slot<'_> {
        Slot { key_use: KeyUse::TaskCaIntermediate, trust_domain: &self.document.trust_domain }
    }

    fn published_intermediates(&self) -> impl Iterator<Item = &Entry> {
        self.document.of(self.intermediates()).filter(|entry| entry.state().is_published())
    }

    /// The task CA that issues; `None`: it waits for a certificate from outside.
    pub(in crate::keys) fn task_ca(&self) -> Result<Option<TaskCa>, KeyringError> {
        let Some(entry) = self.document.active(self.intermediates())? else { return Ok(None) };
        let (_, private) = self.active(self.intermediates())?;
        let key = CaKey::from_pkcs8(private)?;
        let path: Vec<&[u8]> = match entry.path.as_slice() {
            [] => vec![self.root()?.public.as_slice()],
            path => path.iter().map(Vec::as_slice).collect(),
        };
        TaskCa::new(self.document.trust_domain.clone(), &entry.public, &path, key).map(Some)
    }

    /// Whose certificates are ours, and what verifiers have to trust for them: what is configured, and whatever a published intermediate leads to.
    pub(in crate::keys) fn task_authorities(&self, plan: &KeyPlan) -> Result<TaskAuthorities, KeyringError> {
        let mut authorities = TaskAuthorities::default();
        if plan.upstream.is_none() {
            authorities.trust(&self.root()?.public);
        }
        for anchor in plan.upstream.iter().flat_map(|upstream| upstream.anchors()) {
            authorities.trust(anchor);
        }
        for entry in self.published_intermediates() {
            let root = if entry.path.is_empty() { Some(self.root()?.public.as_slice()) } else { None };
            authorities.add((entry.kid, &entry.public), root)?;
            authorities.trust(root.or(entry.path.last().map(Vec::as_slice)).unwrap_or_default());
        }
        Ok(authorities)
    }

    /// Every intermediate that is published, to sign the list of what was revoked under it.
    pub(in crate::keys) fn list_signers(&self) -> Result<Vec<ListSigner>, KeyringError> {
        let signers = self.published_intermediates().filter_map(|entry| {
            let private = self.private.get(&entry.kid)?;
            Some(CaKey::from_pkcs8(private).and_then(|key| ListSigner::new(&entry.public, key)))
        });
        signers.collect()
    }

    /// The root, to sign the list of the intermediates that were given up; `None`: there is none of our own.
    pub(in crate::keys) fn root_list_signer(&self) -> Result<Option<ListSigner>, KeyringError> {
        if self.document.active((KeyUse::TaskCaRoot, &self.document.trust_domain).into())?.is_none() {
            return Ok(None);
        }
        ListSigner::new(&self.root()?.public, self.root_key()?).map(Some)
    }

    pub(super) fn made_intermediate(&self, plan: &KeyPlan, now: Timestamp) -> Result<Made, KeyringError> {
        let (root, root_key) = (self.root()?, self.root_key()?);
        let (key, private) = made_ca_key()?;
        let root = (root.public.as_slice(), &root_key);
        let certificate = ca::make_intermediate(&plan.broker, &key, root, now, plan.intermediate_lifetime)?;
        Ok(Made::ca(&key, private, certificate))
    }

    fn root(&self) -> Result<&Entry, KeyringError> {
        self.active((KeyUse::TaskCaRoot, &self.document.trust_domain).into()).map(|(entry, _)| entry)
    }

    /// The root's key, which fits its certificate.
    fn root_key(&self) -> Result<CaKey, KeyringError> {
        let (entry, private) = self.active((KeyUse::TaskCaRoot, &self.document.trust_domain).into())?;
        let key = CaKey::from_pkcs8(private)?;
        ca::belongs(&ca::parse(&entry.public)?, key.id())?;
        Ok(key)
    }

    /// Whether a chain is what it has to be. Its key is in the document, and waits.
    pub(super) fn judge(&self, chain: &Chain, plan: &KeyPlan, now: Timestamp) -> Result<Judged, Misfit> {
        let private = chain.key().and_then(|kid| self.private.get(&kid));
        let key = private.and_then(|private| CaKey::from_pkcs8(private).ok()).ok_or(Misfit::AnotherKey)?;
        let upstream = plan.upstream.as_ref().ok_or(Misfit::AnotherKey)?;
        Judge { trust_domain: &plan.broker, upstream, times: &plan.times, now }.judge(chain, &key)
    }

    /// A key that has waited gets its certificate.
    pub(super) fn installed(
        &mut self,
        kid: KeyId,
        judged: Judged,
        to: KeyState,
        plan: &KeyPlan,
        now: Timestamp,
    ) -> Result<(), KeyringError> {
        let wait = self.wait(self.intermediates(), plan);
        let entry = self.document.keys.iter_mut().find(|entry| entry.kid == kid);
        let entry = entry.ok_or_else(|| KeyringError::damaged("a key is gone"))?;
        let Standing::Requested(requested) = entry.standing else {
            return Err(KeyringError::damaged("a key does not wait for a certificate"));
        };
        (entry.public, entry.path) = (judged.certificate, judged.path);
        entry.not_after = Some(judged.not_after);
        entry.kept = Kept::from(&plan.times);
        entry.longest = Some(plan.times.longest(entry.key_use));
        entry.stands(match to {
            KeyState::Active => Standing::Active(requested.install_in_need(now)),
            _ => Standing::Prepared(requested.install(now, wait)),
        });
        Ok(())
    }
}

pub(super) fn made_root(plan: &KeyPlan, now: Timestamp) -> Result<Made, KeyringError> {
    let (key, private) = made_ca_key()?;
    let certificate = ca::make_root(&plan.broker, &key, now, plan.root_lifetime)?;
    Ok(Made::ca(&key, private, certificate))
}

/// A key whose public half is the request for its certificate.
pub(super) fn made_request(plan: &KeyPlan) -> Result<Made, KeyringError> {
    let (key, private) = made_ca_key()?;
    let request = ca::make_request(&plan.broker, &key)?;
    let (kid, private) = (key.id(), Part::Clear(private));
    Ok(Made { kid, algorithm: Some(Algorithm::Es256), not_after: None, public: request, private })
}

fn made_ca_key() -> Result<(CaKey, Private), KeyringError> {
    let private = generate(Algorithm::Es256)?;
    Ok((CaKey::from_pkcs8(&private)?, private))
}

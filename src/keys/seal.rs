//! The record MAC: what the broker wrote and the store only keeps.

use std::fmt;

use ring::hmac;
use subtle::ConstantTimeEq;

use crate::identity::TrustDomain;
use crate::ids::TaskId;
use crate::secret::Secret;

/// Bytes that [`RecordSeal::seal`] adds: HMAC-SHA-256 cut to its left half (RFC 2104, section 5).
pub const SEAL_LEN: usize = 16;
pub(super) const DOCUMENT_TAG_LEN: usize = 32;
pub(super) const MAC_KEY_LEN: usize = 32;

const TASK_FACTS: &[u8] = b"taskpass-task-facts-v1\0";
const KEYRING: &[u8] = b"taskpass-keyring-v1\0";
const PLACE: &[u8] = b"taskpass-place-v1\0";
const KEPT_BUNDLE: &[u8] = b"taskpass-kept-bundle-v1\0";
/// Bytes that [`RecordSeal::seal_bundle`] adds: a whole HMAC-SHA-256.
pub const BUNDLE_SEAL_LEN: usize = 32;

/// Stored bytes that were not sealed by this keyring, or for another task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is stored was not written by a broker of this keyring")]
pub struct Forged;

/// Seals the facts of tasks, so that who can write to the store cannot invent or change them. It hides nothing, and says nothing about
/// age: old facts of the same task pass, and as facts never change there are no others.
pub struct RecordSeal(hmac::Key);

impl RecordSeal {
    pub(super) fn new(key: &Secret<Vec<u8>>) -> Option<Self> {
        (key.expose().len() == MAC_KEY_LEN).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose())))
    }

    /// `facts`, and a tag that binds them to `task`.
    pub fn seal(&self, task: TaskId, facts: &[u8]) -> Vec<u8> {
        let tag = self.tag(task, facts);
        let mut sealed = Vec::with_capacity(facts.len() + SEAL_LEN);
        sealed.extend_from_slice(facts);
        sealed.extend(tag.as_ref().iter().take(SEAL_LEN));
        sealed
    }

    /// The facts, if they were sealed for `task` under this key.
    pub fn open<'a>(&self, task: TaskId, sealed: &'a [u8]) -> Result<&'a [u8], Forged> {
        let (facts, presented) = sealed.split_last_chunk::<SEAL_LEN>().ok_or(Forged)?;
        let tag = self.tag(task, facts);
        let expected = tag.as_ref().first_chunk::<SEAL_LEN>().ok_or(Forged)?;
        if bool::from(expected.ct_eq(presented)) { Ok(facts) } else { Err(Forged) }
    }

    /// What is kept of the bundle of `of`, and a tag that binds it to that trust domain. Like the seal of facts it says nothing about age: an older one of the same trust domain passes.
    pub fn seal_bundle(&self, of: &TrustDomain, kept: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(kept.len() + BUNDLE_SEAL_LEN);
        sealed.extend_from_slice(kept);
        sealed.extend(self.tag_bundle(of, kept).as_ref());
        sealed
    }

    /// What was kept, if it was sealed for `of` under this key.
    pub fn open_bundle<'a>(&self, of: &TrustDomain, sealed: &'a [u8]) -> Result<&'a [u8], Forged> {
        let (kept, presented) = sealed.split_last_chunk::<BUNDLE_SEAL_LEN>().ok_or(Forged)?;
        let tag = self.tag_bundle(of, kept);
        if bool::from(tag.as_ref().ct_eq(presented.as_slice())) { Ok(kept) } else { Err(Forged) }
    }

    fn tag_bundle(&self, of: &TrustDomain, kept: &[u8]) -> hmac::Tag {
        // No trust domain has a zero byte, so the input reads in one way only.
        let mut mac = hmac::Context::with_key(&self.0);
        mac.update(KEPT_BUNDLE);
        mac.update(of.as_str().as_bytes());
        mac.update(&[0]);
        mac.update(kept);
        mac.sign()
    }

    /// Where what is known by this key belongs: always the same, and only brokers can tell in advance, so that nobody chooses keys that meet in one place.
    pub fn place(&self, key: &[u8; 32]) -> u8 {
        let mut mac = hmac::Context::with_key(&self.0);
        mac.update(PLACE);
        mac.update(key);
        mac.sign().as_ref().first().copied().unwrap_or_default()
    }

    fn tag(&self, task: TaskId, facts: &[u8]) -> hmac::Tag {
        // The parts before the facts have fixed lengths, so the input reads in one way only.
        let mut mac = hmac::Context::with_key(&self.0);
        mac.update(TASK_FACTS);
        mac.update(task.as_bytes());
        mac.update(facts);
        mac.sign()
    }

    pub(super) fn tag_document(&self, body: &[u8]) -> [u8; DOCUMENT_TAG_LEN] {
        let mut mac = hmac::Context::with_key(&self.0);
        mac.update(KEYRING);
        mac.update(body);
        let mut tag = [0; DOCUMENT_TAG_LEN];
        tag.iter_mut().zip(mac.sign().as_ref()).for_each(|(to, from)| *to = *from);
        tag
    }

    pub(super) fn has_tagged_document(&self, body: &[u8], tag: &[u8; DOCUMENT_TAG_LEN]) -> bool {
        self.tag_document(body).ct_eq(tag).into()
    }
}

impl fmt::Debug for RecordSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordSeal(..)")
    }
}

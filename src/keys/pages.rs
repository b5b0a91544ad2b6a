//! Page tokens: where a list goes on, in a form that only brokers read.
//!
//! The place is the last task that was looked at, and that may be one that the caller must not learn of. So it is encrypted, not only signed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};

use super::seal::MAC_KEY_LEN;
use crate::error::{Error, Result};
use crate::identity::SpiffeId;
use crate::ids::{TaskId, random};
use crate::secret::Secret;

const SALT: &[u8] = b"taskpass-page-token-v1";
const PLACE_LEN: usize = 16;
/// Of a token: nonce, encrypted id and tag in base64url. All tokens are of one length, which says nothing.
const TOKEN_LEN: usize = (NONCE_LEN + PLACE_LEN + 16) * 4 / 3 + 1;

/// A list of tasks: who asked for what. A page token goes on with this list and no other.
#[derive(Clone, Copy, Debug)]
pub struct TaskList<'a> {
    /// Who asks.
    pub caller: &'a SpiffeId,
    /// Whose tasks; `None`: everybody's.
    pub owner: Option<&'a SpiffeId>,
    /// Without those that have ended.
    pub live_only: bool,
}

/// Seals the places where lists go on. Its keys follow from the record MAC key by HKDF (RFC 5869), so that every broker of the store opens what another
/// has sealed. A token has no age: it names a place in a list that its caller may read anyway.
pub struct PageSeal(Prk);

impl PageSeal {
    pub(super) fn new(record_mac: &Secret<Vec<u8>>) -> Option<Self> {
        let key = record_mac.expose();
        (key.len() == MAC_KEY_LEN).then(|| Self(Salt::new(HKDF_SHA256, SALT).extract(key)))
    }

    /// A token for going on after `place`: another each time, of which nobody but a broker learns anything. An error if the system has no random bytes.
    ///
    /// AES-256-GCM with a random nonce of 96 bits, which one key bears 2^32 times (NIST SP 800-38D, section 8.3); each caller's tokens have a key of their own.
    pub fn seal(&self, list: TaskList<'_>, place: TaskId) -> Result<String> {
        let failed = |_| Error::internal("a page token could not be sealed");
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = place.as_bytes().to_vec();
        self.key(list.caller)
            .map_err(failed)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), query(list), &mut sealed)
            .map_err(failed)?;
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// The place, if a broker of this keyring sealed the token for this very list; else `None`.
    pub fn open(&self, list: TaskList<'_>, token: &str) -> Option<TaskId> {
        if token.len() != TOKEN_LEN {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let place = self.key(list.caller).ok()?.open_in_place(nonce, query(list), sealed).ok()?;
        TaskId::from_bytes((&*place).try_into().ok()?).ok()
    }

    fn key(&self, caller: &SpiffeId) -> std::result::Result<LessSafeKey, ring::error::Unspecified> {
        let info = [caller.as_str().as_bytes()];
        Ok(LessSafeKey::new(self.0.expand(&info, &AES_256_GCM)?.into()))
    }
}

/// The owner comes last, so that no two queries give the same bytes.
fn query(list: TaskList<'_>) -> Aad<Vec<u8>> {
    let mut bytes = vec![u8::from(list.live_only), u8::from(list.owner.is_some())];
    bytes.extend(list.owner.map_or("", SpiffeId::as_str).as_bytes());
    Aad::from(bytes)
}

impl fmt::Debug for PageSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageSeal(..)")
    }
}

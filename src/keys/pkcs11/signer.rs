//! A signing key that does not leave the token.

use std::sync::Arc;

use ring::digest::{Digest, SHA256, digest};
use taskpass_verifier::keyset::VerificationKey;

use super::{Token, objects};
use crate::error::{Error, Result};
use crate::ids::random;
use crate::keys::hardware::{Hardware as _, HardwareError};
use crate::keys::signer::{SIGNATURE_LEN, Signature, Signer};
use crate::time::Timestamp;

/// What a key signs to prove itself begins so: it is no token, in which the first dot comes after base64url.
const PROOF: &[u8] = b"taskpass-key-proof-v1\0";

/// Signs with a key in the token. What it signs is digested here: the token gets 32 bytes.
#[derive(Debug)]
pub(super) struct TokenKey {
    token: Token,
    reference: Arc<[u8]>,
    public: VerificationKey,
}

impl TokenKey {
    pub(super) const fn new(token: Token, reference: Arc<[u8]>, public: VerificationKey) -> Self {
        Self { token, reference, public }
    }
}

impl Signer for TokenKey {
    fn public(&self) -> &VerificationKey {
        &self.public
    }

    fn not_after(&self) -> Option<Timestamp> {
        None
    }

    fn sign(&self, signing_input: &[u8]) -> Signature {
        if let Err(error) = self.check() {
            return Signature::Made(Err(error));
        }
        let (token, reference) = (self.token.clone(), Arc::clone(&self.reference));
        let input = digest(&SHA256, signing_input);
        Signature::Asked(Box::pin(async move {
            signed(&token, "sign", reference, input).await.map_err(Error::from)
        }))
    }

    fn check(&self) -> Result<()> {
        self.token.health().and_then(|()| self.token.is_good(&self.reference)).map_err(Error::from)
    }
}

/// Asks for a signature, and remembers of which key there is none.
async fn signed(
    token: &Token,
    name: &'static str,
    reference: Arc<[u8]>,
    input: Digest,
) -> std::result::Result<[u8; SIGNATURE_LEN], HardwareError> {
    let key = Arc::clone(&reference);
    let signed = token.call(name, move |open| objects::sign(open, &key, input.as_ref())).await;
    token.remember(&reference, &signed);
    signed
}

/// See [`super::Hardware::prove`].
pub(super) async fn prove(
    token: &Token,
    reference: &[u8],
    public: &VerificationKey,
) -> std::result::Result<(), HardwareError> {
    let challenge: [u8; 32] =
        random().map_err(|_| HardwareError::Unfit("the system's random source failed".to_owned()))?;
    let message = [PROOF, &challenge].concat();
    let signature = signed(token, "prove", reference.into(), digest(&SHA256, &message)).await?;
    if public.has_signed(&message, &signature) {
        return Ok(());
    }
    Err(HardwareError::Unfit("its signature is not that of the public half in the keyring".to_owned()))
}

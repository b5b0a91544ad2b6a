//! A key-encryption key that does not leave the token.

use std::fmt;

use async_trait::async_trait;

use super::objects::{self, KekName};
use super::{Hardware as _, Token};
use crate::keys::hardware::HardwareError;
use crate::keys::wrap::{FORMAT, KeyLabel, KeyWrapper, WrapError, associated_data, nonce_and_sealed};
use crate::secret::Secret;

/// Wraps with AES-256-GCM as [`super::super::KeyEncryptionKey`] does, in the token: the same form, and the same associated data.
#[derive(Clone)]
pub(super) struct TokenKek {
    token: Token,
    name: KekName,
    id: String,
}

impl TokenKek {
    /// The key of that label, which has to be an AES-256 key that the token does not give out.
    pub(super) async fn open(token: &Token, label: &str) -> Result<Self, HardwareError> {
        let name = KekName { label: label.to_owned(), id: None };
        let asked = name.clone();
        let found = token.call("find", move |open| objects::kek_id(open, &asked)).await?;
        let mut id = format!("{};object={label}", token.id());
        if !found.is_empty() {
            id.push_str(";id=");
            id.extend(found.iter().take(32).map(|byte| format!("{byte:02x}")));
        }
        let name = KekName { id: (!found.is_empty()).then_some(found), ..name };
        Ok(Self { token: token.clone(), name, id })
    }
}

#[async_trait]
impl KeyWrapper for TokenKek {
    fn id(&self) -> String {
        self.id.clone()
    }

    async fn wrap(&self, label: KeyLabel<'_>, private: &Secret<Vec<u8>>) -> Result<Vec<u8>, WrapError> {
        let (name, data, private) = (self.name.clone(), associated_data(label), private.clone());
        let wrapped =
            self.token.call("wrap", move |open| objects::encrypt(open, &name, &data, private.expose()));
        let (nonce, sealed) = wrapped.await?;
        Ok([&[FORMAT], nonce.as_slice(), &sealed].concat())
    }

    async fn unwrap(
        &self,
        _by: &str,
        label: KeyLabel<'_>,
        wrapped: &[u8],
    ) -> Result<Secret<Vec<u8>>, WrapError> {
        let (nonce, sealed) = nonce_and_sealed(wrapped)?;
        let (name, data, nonce, sealed) =
            (self.name.clone(), associated_data(label), *nonce, sealed.to_vec());
        let opened = self.token.call("unwrap", move |open| {
            objects::decrypt(open, &name, &data, nonce, &sealed).map(Secret::new)
        });
        opened.await.map_err(|error| match error {
            HardwareError::DoesNotOpen => WrapError::DoesNotOpen,
            other => other.into(),
        })
    }
}

impl fmt::Debug for TokenKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKek({})", self.id)
    }
}

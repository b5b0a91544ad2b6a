//! The PKCS#11 token that the configuration names: opened in a build that can, refused in any other one.

use std::sync::Arc;

use crate::config::{Config, Pkcs11Config};
use crate::keys::{Hardware, KeyWrapper};

use super::keys::refused;
use super::{StartError, TOKEN};

/// Opens it: the one login. An error says whether the same may go well later.
#[cfg(feature = "pkcs11")]
pub(super) async fn open(config: &Pkcs11Config) -> Result<Arc<dyn Hardware>, StartError> {
    use crate::config::KeySource;
    use crate::keys::Pin;
    use crate::keys::pkcs11::{Settings, Token};

    let pin = match &config.pin {
        KeySource::File(path) => Pin::from_file(path),
        KeySource::Environment(name) => Pin::from_env(name),
        KeySource::Credential(name) => Pin::from_credential(name),
    };
    let token = Token::new(Settings {
        module: config.module.clone(),
        token: config.token.clone(),
        serial: config.serial.clone(),
        pin: pin.map_err(|why| StartError::configured(TOKEN, why))?,
        timeout: config.timeout,
        sessions: config.sessions,
    });
    let token = token.map_err(|error| refused(&error))?;
    match token.probe().await {
        Ok(()) => Ok(Arc::new(token)),
        Err(error) => {
            token.close().await;
            Err(refused(&error))
        }
    }
}

/// Says that this program cannot.
#[cfg(not(feature = "pkcs11"))]
#[expect(clippy::unused_async, reason = "as in a build that can")]
pub(super) async fn open(_config: &Pkcs11Config) -> Result<Arc<dyn Hardware>, StartError> {
    Err(StartError::configured(TOKEN, "this program was built without PKCS#11"))
}

/// What wraps under the key of that label.
pub(super) async fn wrapper(
    token: Option<&Arc<dyn Hardware>>,
    label: &str,
) -> Result<Arc<dyn KeyWrapper>, StartError> {
    let token = token.ok_or_else(missing)?;
    match token.wrapper(label).await {
        Ok(wrapper) => Ok(wrapper),
        Err(error) => {
            token.close().await;
            Err(refused(&error))
        }
    }
}

/// Makes the key-encryption key of that label in the token that the configuration names, if it is not there: what it is called, and whether it was made.
pub(crate) async fn create_kek(config: &Config, label: &str) -> Result<(String, bool), StartError> {
    let token = open(config.keys.pkcs11.as_ref().ok_or_else(missing)?).await?;
    let made = token.create_kek(label).await;
    let made = match made {
        Ok(made) => token.wrapper(label).await.map(|wrapper| (wrapper.id(), made)),
        Err(error) => Err(error),
    };
    token.close().await;
    made.map_err(|error| refused(&error))
}

fn missing() -> StartError {
    StartError::configured(TOKEN, "is missing: it names the token")
}

//! `[keys]`: the values that can be judged without the files and the hardware that they name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Table;

use super::raw::{self, RawKeys, RawPkcs11};
use super::resolve::{HOUR, duration, within};
use super::{JwtAlgorithm, KekSource, KeySource, KeysConfig, Pkcs11Config, Problems, SigningIn};

/// The least of `keys.agree_within`.
const LEAST_AGREEMENT: Duration = Duration::from_secs(1);
/// The longest time for which a call to a PKCS#11 token is waited for: callers of the broker wait no longer than that either.
const CALL_CEILING: Duration = Duration::from_secs(10);
/// The longest label of a token (CK_TOKEN_INFO has 32 characters), of its serial number, and of a key.
const MAX_LABELS: (usize, usize, usize) = (32, 16, 64);

/// File, environment variable, systemd credential.
type Stated = (Option<PathBuf>, Option<String>, Option<String>);

/// The one that is stated, if any; an error if there are more, or if it cannot be one. `section`, `key`: `keys` and `pin` of `keys.pin_file`.
fn key_source(
    stated: Stated,
    section: &str,
    key: &str,
    base: &Path,
    p: &mut Problems,
) -> Result<Option<KeySource>, ()> {
    let source = match stated {
        (None, None, None) => return Ok(None),
        (Some(file), None, None) => KeySource::File(base.join(file)),
        (None, Some(name), None) => {
            if !is_variable(&name) {
                let what = "does not look like the name of a variable: letters, digits and _, no digit first. It names the one that holds the secret; \
                            a secret that stood here itself is to be replaced, and is not shown";
                p.add(format!("{section}.{key}_env"), what);
                return Err(());
            }
            KeySource::Environment(name)
        }
        (None, None, Some(name)) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
                let what = "must be the name of a systemd credential, which is no path: as in LoadCredential=kek:/etc/taskpass/kek";
                p.add(format!("{section}.{key}_credential"), what);
                return Err(());
            }
            KeySource::Credential(name)
        }
        _ => {
            p.add(section, format_args!("set only one of {key}_file, {key}_env and {key}_credential"));
            return Err(());
        }
    };
    Ok(Some(source))
}

/// Whether it may be the name of an environment variable, and no key that was put in its place.
fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name = name.bytes().all(plain) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    // 32 bytes as hexadecimal digits, or in base64; a name in capitals may look like the latter by chance.
    let hexadecimal = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let base64 = name.len() == 43
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && name.bytes().any(|byte| byte.is_ascii_uppercase());
    is_name && !hexadecimal && !base64
}

/// The same of a key-encryption key, which may also be the one of that label in the PKCS#11 token.
fn kek_source(
    stated: Stated,
    in_token: Option<String>,
    key: &str,
    base: &Path,
    p: &mut Problems,
) -> Result<Option<KekSource>, ()> {
    let at = key_source(stated, "keys", key, base, p)?;
    match (at, in_token) {
        (at, None) => Ok(at.map(KekSource::At)),
        (None, Some(name)) => label(p, &format!("keys.{key}_pkcs11"), name, MAX_LABELS.2)
            .map(KekSource::InToken)
            .map(Some)
            .ok_or(()),
        (Some(_), Some(_)) => {
            p.add(
                "keys",
                format_args!("set only one of {key}_pkcs11, {key}_file, {key}_env and {key}_credential"),
            );
            Err(())
        }
    }
}

/// What may stand in names that are stored: visible, and without what parts them there.
fn label(p: &mut Problems, key: &str, text: String, most: usize) -> Option<String> {
    let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !b";%\"\\".contains(&byte);
    let spaced = text.starts_with(' ') || text.ends_with(' ');
    if text.is_empty() || text.len() > most || spaced || !text.bytes().all(plain) {
        let what =
            format!("1 to {most} visible ASCII characters without ; % \\ and quotes, as the token shows it");
        p.add(key, what);
        return None;
    }
    Some(text)
}

pub(super) fn keys(raw: RawKeys, base: &Path, p: &mut Problems) -> Option<KeysConfig> {
    let stated = (raw.key_encryption_key_file, raw.key_encryption_key_env, raw.key_encryption_key_credential);
    let other = (
        raw.other_key_encryption_key_file,
        raw.other_key_encryption_key_env,
        raw.other_key_encryption_key_credential,
    );
    let source = kek_source(stated, raw.key_encryption_key_pkcs11, "key_encryption_key", base, p);
    let other = kek_source(other, raw.other_key_encryption_key_pkcs11, "other_key_encryption_key", base, p);
    let algorithm = raw.algorithm.unwrap_or(JwtAlgorithm::ES256);
    let signing = raw.signing.unwrap_or(SigningIn::Local);
    let pkcs11 = raw.pkcs11.map(|table| pkcs11(table, base, p));
    let in_token = |source: &Result<Option<KekSource>, ()>| matches!(source, Ok(Some(KekSource::InToken(_))));
    let needed = in_token(&source) || in_token(&other) || signing == SigningIn::Pkcs11;
    if needed && pkcs11.is_none() {
        p.add("keys.pkcs11", "is missing: it names the token that the keys are in");
    }
    if (needed || pkcs11.is_some()) && !cfg!(feature = "pkcs11") {
        p.add(
            "keys.pkcs11",
            "this program was built without PKCS#11: build it with `cargo build --release --features pkcs11`",
        );
    }
    if signing == SigningIn::Pkcs11 && algorithm != JwtAlgorithm::ES256 {
        p.add("keys.algorithm", "keys that lie in a PKCS#11 token sign with ES256");
    }
    let Ok(Some(source)) = source else {
        if source.is_ok() {
            let all = "set one of key_encryption_key_file, key_encryption_key_env, key_encryption_key_credential and key_encryption_key_pkcs11";
            p.add("keys", all);
        }
        return None;
    };
    let other_key_encryption_key = other.ok()?;
    if other_key_encryption_key.as_ref() == Some(&source) {
        p.add(
            "keys",
            "the other key-encryption key is the present one: name that which is to take over, or to go",
        );
    }
    let mut time =
        |key, text: Option<String>, default, most| duration(p, key, text.as_deref(), default, most);
    let agree_within = time("keys.agree_within", raw.agree_within, 10, HOUR);
    let rotate_every = raw.rotate_every.map(|text| time("keys.rotate_every", Some(text), 0, HOUR * 24 * 366));
    let refresh_hint = time("keys.refresh_hint", raw.refresh_hint, 300, HOUR * 24);
    let jwks_max_age = time("keys.jwks_max_age", raw.jwks_max_age, 300, HOUR * 24);
    if agree_within < LEAST_AGREEMENT {
        p.add("keys.agree_within", "at least 1s: a look at the store has to fit in it several times");
    }
    Some(KeysConfig {
        key_encryption_key: source,
        other_key_encryption_key,
        algorithm,
        rotate_every,
        refresh_hint,
        jwks_max_age,
        agree_within,
        signing,
        pkcs11: match pkcs11 {
            Some(token) => Some(token?),
            None => None,
        },
    })
}

/// `[keys.pkcs11]`
fn pkcs11(table: Table, base: &Path, p: &mut Problems) -> Option<Pkcs11Config> {
    let raw: RawPkcs11 = raw::section("keys.pkcs11", table, p);
    let module = p.required("keys.pkcs11.module", raw.module);
    let token = p.required("keys.pkcs11.token", raw.token);
    let token = token.and_then(|token| label(p, "keys.pkcs11.token", token, MAX_LABELS.0));
    let serial = raw.serial.map(|serial| label(p, "keys.pkcs11.serial", serial, MAX_LABELS.1));
    let stated = (raw.pin_file, raw.pin_env, raw.pin_credential);
    let pin = key_source(stated, "keys.pkcs11", "pin", base, p);
    if pin == Ok(None) {
        p.add("keys.pkcs11", "set one of pin_file, pin_env and pin_credential");
    }
    let timeout = duration(p, "keys.pkcs11.timeout", raw.timeout.as_deref(), 2, CALL_CEILING);
    let sessions = within(p, "keys.pkcs11.sessions", raw.sessions, 4, 1..=64);
    let serial = match serial {
        Some(serial) => Some(serial?),
        None => None,
    };
    Some(Pkcs11Config {
        // A name without a directory would be looked for where the system has its libraries.
        module: Path::new(".").join(base).join(module?),
        token: token?,
        serial,
        pin: pin.ok()??,
        timeout,
        sessions,
    })
}

//! JWK sets (RFC 7517) in and out.

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use super::{Algorithm, InvalidKeySet, KeyId, KeySet, MAX_JWKS_BYTES, MAX_KEYS, PublicKey, VerificationKey};
use crate::wire;

const EC: &str = "EC";
const OKP: &str = "OKP";
const P256: &str = "P-256";
const ED25519: &str = "Ed25519";
const SIGNATURE: &str = "sig";

/// What RFC 7638 hashes: the required members in the order of their names (RFC 8037, section 2, for Ed25519).
pub(super) fn thumbprint_input(key: &PublicKey) -> String {
    match key {
        PublicKey::P256(point) => {
            let (x, y) = coordinates(point);
            format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
        }
        PublicKey::Ed25519(point) => {
            format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, wire::encode(point))
        }
    }
}

fn coordinates(point: &[u8; 65]) -> (String, String) {
    let [_, coordinates @ ..] = point;
    let (x, y) = coordinates.split_at(32);
    (wire::encode(x), wire::encode(y))
}

/// A JWK set as it is written.
#[derive(Serialize)]
struct WrittenSet {
    keys: Vec<WrittenKey>,
}

#[derive(Serialize)]
struct WrittenKey {
    kty: &'static str,
    crv: &'static str,
    x: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    kid: KeyId,
    alg: Algorithm,
    r#use: &'static str,
}

impl From<&VerificationKey> for WrittenKey {
    fn from(key: &VerificationKey) -> Self {
        let (kty, crv, x, y) = match &key.public {
            PublicKey::P256(point) => {
                let (x, y) = coordinates(point);
                (EC, P256, x, Some(y))
            }
            PublicKey::Ed25519(point) => (OKP, ED25519, wire::encode(point), None),
        };
        Self { kty, crv, x, y, kid: key.id, alg: key.algorithm(), r#use: SIGNATURE }
    }
}

/// A JWK set as it is read. Members that are not named here are ignored (RFC 7517, sections 4 and 5).
#[derive(Deserialize)]
#[serde(remote = "Self")]
struct ReadSet {
    keys: Vec<ReadKey>,
}

#[derive(Deserialize)]
#[serde(remote = "Self")]
struct ReadKey {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    // The private and secret members of RFC 7518, section 6, RFC 8037 and the key pairs to come (`priv`).
    #[serde(default)]
    d: Absent,
    #[serde(default)]
    p: Absent,
    #[serde(default)]
    q: Absent,
    #[serde(default)]
    dp: Absent,
    #[serde(default)]
    dq: Absent,
    #[serde(default)]
    qi: Absent,
    #[serde(default)]
    oth: Absent,
    #[serde(default)]
    k: Absent,
    #[serde(default)]
    r#priv: Absent,
}
wire::object_only!(read ReadSet ReadKey);

/// A member that must not be there, not even as `null`.
#[derive(Default)]
struct Absent;

const FORBIDDEN: &str = "private member";

impl<'de> Deserialize<'de> for Absent {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom(FORBIDDEN))
    }
}

impl ReadKey {
    /// `None` for a key of another type, curve or use.
    fn into_key(self) -> Result<Option<VerificationKey>, InvalidKeySet> {
        let crv = self.crv.as_deref();
        if self.r#use.as_deref().is_some_and(|purpose| purpose != SIGNATURE) {
            return Ok(None);
        }
        let public = match (self.kty.as_str(), crv) {
            (EC, Some(P256)) => {
                let mut point = [4; 65];
                let [_, coordinates @ ..] = &mut point;
                let (x, y) = coordinates.split_at_mut(32);
                x.copy_from_slice(&coordinate(self.x.as_deref())?);
                y.copy_from_slice(&coordinate(self.y.as_deref())?);
                PublicKey::P256(point)
            }
            (OKP, Some(ED25519)) => PublicKey::Ed25519(coordinate(self.x.as_deref())?),
            _ => return Ok(None),
        };
        let key = VerificationKey::new(public);
        let (Some(kid), Some(alg), Some(_)) = (self.kid, self.alg, self.r#use) else {
            return Err(InvalidKeySet::MissingMember);
        };
        if alg != key.algorithm().as_str() {
            return Err(InvalidKeySet::WrongAlgorithm);
        }
        if kid.parse() != Ok(key.id) {
            return Err(InvalidKeySet::WrongKeyId);
        }
        Ok(Some(key))
    }
}

fn coordinate(text: Option<&str>) -> Result<[u8; 32], InvalidKeySet> {
    wire::decode_exact(text.ok_or(InvalidKeySet::MissingMember)?).ok_or(InvalidKeySet::MalformedKey)
}

impl KeySet {
    /// Reads a JWK set (RFC 7517). Keys of other types, curves and uses are skipped. A usable key must have `use: sig`, the `alg` of
    /// its type and a `kid` that is its RFC 7638 thumbprint; where one does not, or any key of the set shows a private
    /// member, the whole set is refused. `key_ops` and certificates in the set are ignored.
    pub fn from_jwks(json: &[u8]) -> Result<Self, InvalidKeySet> {
        if json.len() > MAX_JWKS_BYTES {
            return Err(InvalidKeySet::TooLarge);
        }
        let set: ReadSet = serde_json::from_slice(json).map_err(|error| {
            let is_private = error.is_data() && error.to_string().starts_with(FORBIDDEN);
            if is_private { InvalidKeySet::PrivateKey } else { InvalidKeySet::Malformed }
        })?;
        if set.keys.len() > MAX_KEYS {
            return Err(InvalidKeySet::TooLarge);
        }
        let mut keys = Self::default();
        for key in set.keys {
            if let Some(key) = key.into_key()? {
                keys.insert(key)?;
            }
        }
        Ok(keys)
    }

    /// Writes a JWK set (RFC 7517), as [`Self::from_jwks`] reads it: public members alone, with `kid`, `alg` and `use`.
    pub fn to_jwks(&self) -> String {
        let set = WrittenSet { keys: self.iter().map(WrittenKey::from).collect() };
        // Plain strings and maps always serialise; an empty set verifies nothing.
        serde_json::to_string(&set).unwrap_or_else(|_| r#"{"keys":[]}"#.to_owned())
    }
}

//! An issuer with real keys, and a good token to spoil.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use taskpass_verifier::claims::{AuthorizationDetails, Lineage, Scope, TaskClaims};
use taskpass_verifier::constraint::{ArgumentConstraint, Constraints, Limits};
use taskpass_verifier::header::Header;
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use taskpass_verifier::keyset::Algorithm;
use taskpass_verifier::token::{assemble, signing_input};
use taskpass_verifier::{
    Claims, EnforcementProfile, Expectations, KeySet, Presented, Refusal, UnixSeconds, UnverifiedToken,
    VerificationKey, VerifiedToken,
};

pub(crate) const ISSUER: &str = "https://taskpass.example/acme";
pub(crate) const AUDIENCE: &str = "https://files.example/mcp";
pub(crate) const AGENT: &str = "spiffe://acme.example/agent/researcher";
pub(crate) const NOW: UnixSeconds = UnixSeconds(1_790_000_000);

pub(crate) const EXPECTED: Expectations<'static> = Expectations {
    issuer: ISSUER,
    audience: AUDIENCE,
    profile: EnforcementProfile::Bearer,
    presented: Presented::NOTHING,
};

pub(crate) enum Signer {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        match algorithm {
            Algorithm::Es256 => {
                let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &random).unwrap();
                Self::Es256(EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &random).unwrap())
            }
            Algorithm::EdDsa => {
                let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Self::EdDsa(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
            }
        }
    }

    pub(crate) fn key(&self) -> VerificationKey {
        match self {
            Self::Es256(pair) => {
                VerificationKey::from_public_bytes(Algorithm::Es256, pair.public_key().as_ref())
            }
            Self::EdDsa(pair) => {
                VerificationKey::from_public_bytes(Algorithm::EdDsa, pair.public_key().as_ref())
            }
        }
        .unwrap()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Es256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    pub(crate) fn header(&self) -> Header {
        Header { algorithm: self.key().algorithm(), key_id: self.key().id() }
    }

    pub(crate) fn header_json(&self) -> Value {
        serde_json::to_value(self.header()).unwrap()
    }
}

/// An issuer with one key of each algorithm.
pub(crate) struct Issuer {
    pub(crate) es256: Signer,
    pub(crate) eddsa: Signer,
    pub(crate) keys: KeySet,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        let (es256, eddsa) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::EdDsa));
        let keys = KeySet::new([es256.key(), eddsa.key()]).unwrap();
        Self { es256, eddsa, keys }
    }

    /// A token as the broker makes it.
    pub(crate) fn mint(&self, claims: &Claims) -> String {
        mint(&self.es256, claims)
    }

    /// A token of any header and payload text, truly signed.
    pub(crate) fn sign(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        sign(&self.es256, header, payload)
    }

    /// A token of any payload text with the right header, truly signed.
    pub(crate) fn sign_claims(&self, payload: impl AsRef<[u8]>) -> String {
        self.sign(self.es256.header_json().to_string(), payload)
    }

    pub(crate) fn verify(&self, token: &str) -> Result<VerifiedToken, Refusal> {
        UnverifiedToken::parse(token)?.verify(&self.keys, &EXPECTED, NOW)
    }

    /// The verdict on a truly signed token with these claims.
    pub(crate) fn judge(&self, claims: &Value) -> Result<VerifiedToken, Refusal> {
        self.verify(&self.sign_claims(claims.to_string()))
    }
}

pub(crate) fn mint(signer: &Signer, claims: &Claims) -> String {
    let input = signing_input(&signer.header(), claims).unwrap();
    let signature = signer.sign(input.as_bytes());
    assemble(input, &signature)
}

pub(crate) fn sign(signer: &Signer, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
    let input = format!("{}.{}", b64(header), b64(payload));
    let signature = signer.sign(input.as_bytes());
    format!("{input}.{}", b64(signature))
}

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn task(partition: u8, n: u8) -> TaskId {
    TaskId::from_parts(1_789_999_990_000, Partition::from_low_bits(partition), [n; 10])
}

/// Claims of a child task with two tools, one of them limited.
pub(crate) fn claims() -> Claims {
    let (root, child) = (task(7, 1), task(7, 2));
    let [read, search] = ["files.read", "web/search"].map(|name| name.parse().unwrap());
    let prefix = Limits { prefix: Some("/srv/reports/".into()), ..Limits::default() };
    let path = Constraints::new([("path".into(), ArgumentConstraint::new(prefix).unwrap())]).unwrap();
    Claims {
        iss: ISSUER.into(),
        sub: AGENT.into(),
        aud: AUDIENCE.into(),
        client_id: AGENT.parse().unwrap(),
        jti: CredentialId { task: child, number: 3 },
        iat: NOW,
        nbf: NOW,
        exp: NOW.saturating_add(120),
        scope: Scope::new([&read, &search]).unwrap(),
        authorization_details: AuthorizationDetails::new([(read, path)]).unwrap(),
        cnf: None,
        txn: root,
        act: None,
        taskpass: TaskClaims {
            task: child,
            lineage: Lineage::new(vec![root]).unwrap(),
            goal: taskpass_verifier::claims::GoalDigest::of("Summarise the quarterly reports"),
            generation: Generation::from_parts(1_789_000_000_000, [9; 6]),
            seq: 41,
        },
    }
}

/// The same as JSON, to be spoiled.
pub(crate) fn claims_json() -> Value {
    serde_json::to_value(claims()).unwrap()
}

/// `claims_json` with one change.
pub(crate) fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims_json();
    change(&mut claims);
    claims
}

pub(crate) fn person_through_agent(claims: &mut Value) {
    claims["sub"] = json!("user@acme.example");
    claims["act"] = json!({ "sub": AGENT });
}

//! The issuer's keys, fixed, and those of others. They sign nothing but this corpus.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use taskpass_verifier::keyset::{Algorithm, KeyId};
use taskpass_verifier::{KeySet, VerificationKey};

/// PKCS#8 of the issuer's ES256 key, and of somebody else's.
const ES256: [&str; 2] = [
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMRCmNcheArP3sa5SwxUvVsZ1DLSGJZ6NKCDH22vrkQWhRANCAARDvdrlGVPwecpoeAintl4meO9HV08YG2IZpn5D/iZzN/I5LWTRoBwzP5yELe6m6plMkqfqRGs9Rgs2dcMuT0dq",
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgHbAJDAtYuhp0qks2JCn5nM8Yx9kb3kSNDRFnAgiRByKhRANCAARkqh609lXZ4Ziq1EoTZKahDDzFaKBsISv09J/tCqBPtpQjmt7HMKGAKwe9xgBZORgv55l8cFsB+k7LfDwzncG5",
];

/// Which key signs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The issuer's Ed25519 key; deterministic.
    EdDsa,
    /// The issuer's P-256 key.
    Es256,
    /// Of another issuer.
    OtherEdDsa,
    /// Of another issuer.
    OtherEs256,
}

pub(crate) struct Signers {
    eddsa: [Ed25519KeyPair; 2],
    es256: [EcdsaKeyPair; 2],
    /// Signatures that are there already, by what they sign.
    known: HashMap<String, Vec<Vec<u8>>>,
}

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signers {
    pub(crate) fn new(before: &str) -> Self {
        let pair = |pkcs8: &str| {
            let der = STANDARD.decode(pkcs8).unwrap();
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new()).unwrap()
        };
        let mut known: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
        for (input, signature) in before.split('"').filter_map(|text| text.rsplit_once('.')) {
            if let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) {
                known.entry(input.to_owned()).or_default().push(signature);
            }
        }
        Self {
            eddsa: [1, 2].map(|n| Ed25519KeyPair::from_seed_unchecked(&[n; 32]).unwrap()),
            es256: ES256.map(pair),
            known,
        }
    }

    pub(crate) fn key(&self, by: By) -> VerificationKey {
        let [mine, others] = &self.eddsa;
        let [my_p256, others_p256] = &self.es256;
        let (algorithm, bytes) = match by {
            By::EdDsa => (Algorithm::EdDsa, mine.public_key().as_ref()),
            By::OtherEdDsa => (Algorithm::EdDsa, others.public_key().as_ref()),
            By::Es256 => (Algorithm::Es256, my_p256.public_key().as_ref()),
            By::OtherEs256 => (Algorithm::Es256, others_p256.public_key().as_ref()),
        };
        VerificationKey::from_public_bytes(algorithm, bytes).unwrap()
    }

    pub(crate) fn kid(&self, by: By) -> KeyId {
        self.key(by).id()
    }

    pub(crate) fn signature(&self, by: By, input: &str) -> Vec<u8> {
        let [mine, others] = &self.eddsa;
        let [my_p256, others_p256] = &self.es256;
        let key = self.key(by);
        let random = |pair: &EcdsaKeyPair| {
            let mut known = self.known.get(input).into_iter().flatten();
            match known.find(|signature| key.has_signed(input.as_bytes(), signature)) {
                Some(known) => known.clone(),
                None => pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref().to_vec(),
            }
        };
        match by {
            By::EdDsa => mine.sign(input.as_bytes()).as_ref().to_vec(),
            By::OtherEdDsa => others.sign(input.as_bytes()).as_ref().to_vec(),
            By::Es256 => random(my_p256),
            By::OtherEs256 => random(others_p256),
        }
    }

    /// The header that belongs to a key.
    pub(crate) fn header(&self, by: By) -> String {
        let key = self.key(by);
        format!(r#"{{"alg":"{}","kid":"{}","typ":"at+jwt"}}"#, key.algorithm(), key.id())
    }

    /// A token of any header and payload.
    pub(crate) fn token(&self, by: By, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        let input = format!("{}.{}", b64(header), b64(payload));
        let signature = self.signature(by, &input);
        format!("{input}.{}", b64(signature))
    }

    /// A token with the right header by the issuer's Ed25519 key.
    pub(crate) fn sign(&self, payload: impl AsRef<[u8]>) -> String {
        self.token(By::EdDsa, self.header(By::EdDsa), payload)
    }

    /// The sets that the cases name.
    pub(crate) fn keys_json(&self) -> String {
        let set = |keys: &[By]| KeySet::new(keys.iter().map(|by| self.key(*by))).unwrap().to_jwks();
        format!(
            "{{\n  \"acme\": {},\n  \"acme-without-ed25519\": {},\n  \"other\": {},\n  \"empty\": {}\n}}\n",
            set(&[By::Es256, By::EdDsa]),
            set(&[By::Es256]),
            set(&[By::OtherEs256, By::OtherEdDsa]),
            set(&[]),
        )
    }
}

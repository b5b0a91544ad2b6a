//! One file for each kind of untrusted bytes.

pub mod constraints;
pub mod feed;
pub mod key_set;
pub mod names;
pub mod token;
pub mod workload_api;
pub mod x509;

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use taskpass_verifier::keyset::Algorithm;
use taskpass_verifier::{KeySet, VerificationKey};

/// A key that is the same in each run, as nothing but these targets may have one.
fn signer() -> Ed25519KeyPair {
    signer_of(7)
}

fn signer_of(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any 32 bytes are a seed")
}

fn verification_key(signer: &Ed25519KeyPair) -> VerificationKey {
    let bytes = signer.public_key().as_ref();
    VerificationKey::from_public_bytes(Algorithm::EdDsa, bytes).expect("it is an Ed25519 key")
}

fn keys_of(signer: &Ed25519KeyPair) -> KeySet {
    KeySet::new([verification_key(signer)]).expect("one key")
}

/// Parts of an input, each behind its length in two bytes. What is left over is the last part.
fn parts(mut input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        parts.push(part);
        input = rest;
    }
    parts
}

fn join<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Vec<u8> {
    let with_length = |part: T| {
        let part = part.as_ref();
        let length = u16::try_from(part.len()).expect("seeds are small").to_be_bytes();
        [&length, part].concat()
    };
    parts.into_iter().flat_map(with_length).collect()
}

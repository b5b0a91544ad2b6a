//! What a verdict costs beside ring's raw signature verification: `cargo bench -p taskpass-verifier`.
#![allow(missing_docs, dead_code, clippy::unwrap_used, reason = "a benchmark, with the helpers of the tests")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

use taskpass_verifier::UnverifiedToken;
use taskpass_verifier::keyset::Algorithm;
use taskpass_verifier::token::{judge_own_output_without_signature, signing_input};

#[path = "../tests/it/support.rs"]
mod support;

use support::{EXPECTED, Issuer, NOW, Signer, claims, mint};

fn verdicts(c: &mut Criterion) {
    let issuer = Issuer::new();
    for signer in [&issuer.es256, &issuer.eddsa] {
        verify(c, &issuer, signer);
    }
    let token = issuer.mint(&claims());
    c.bench_function("judge own output without signature", |b| {
        b.iter(|| judge_own_output_without_signature(black_box(&token), &issuer.keys, &EXPECTED, NOW));
    });
    let (header, claims) = (issuer.es256.header(), claims());
    c.bench_function("signing input", |b| b.iter(|| signing_input(&header, black_box(&claims))));
}

fn verify(c: &mut Criterion, issuer: &Issuer, signer: &Signer) {
    let algorithm: Algorithm = signer.key().algorithm();
    let token = mint(signer, &claims());
    let (message, _) = token.rsplit_once('.').unwrap();
    let signature = signer.sign(message.as_bytes());
    let key = signer.key();
    let mut group = c.benchmark_group(algorithm.as_str());
    group.bench_function("ring alone", |b| {
        b.iter(|| key.has_signed(black_box(message.as_bytes()), &signature));
    });
    group.bench_function("first sight", |b| {
        b.iter(|| UnverifiedToken::parse(black_box(&token)).unwrap().verify(&issuer.keys, &EXPECTED, NOW));
    });
    let verified = issuer.verify(&token).unwrap();
    group.bench_function("recheck", |b| {
        b.iter(|| black_box(&verified).recheck(&issuer.keys, &EXPECTED, NOW));
    });
    group.finish();
}

criterion_group!(benches, verdicts);
criterion_main!(benches);

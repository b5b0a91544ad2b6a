//! What a verdict costs beside ring's raw signature verification, with a view of 100,000 ended tasks: `cargo bench -p taskpass-verifier`.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a benchmark, with the helpers of the tests"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

use taskpass_verifier::ids::{CredentialId, Partition, TaskId};
use taskpass_verifier::keyset::{Algorithm, KeyId};
use taskpass_verifier::token::{judge_own_output_without_signature, signing_input};
use taskpass_verifier::verifier::{At, Expected};
use taskpass_verifier::view::{Entry, Facts, Fences, Position, Snapshot};
use taskpass_verifier::{
    Claims, EnforcementProfile, Moment, Presented, RevocationView, UnixSeconds, UnverifiedToken, Verifier,
};

#[path = "../tests/it/support.rs"]
mod support;

use support::{AUDIENCE, EXPECTED, ISSUER, Issuer, NOW, Signer, claims, mint};

const MOMENT: Moment = Moment::from_nanos(0);

/// Fresh, with 100,000 ended tasks.
fn view() -> Arc<RevocationView> {
    let view = RevocationView::default();
    for partition in Partition::all() {
        let ended = |n: u32| {
            let mut random = [0; 10];
            random[6..].copy_from_slice(&n.to_be_bytes());
            let task = TaskId::from_parts(NOW.0 * 1_000, partition, random);
            Entry::TaskEnded { task, forget_at: NOW.saturating_add(900) }
        };
        let entries: Vec<_> = (0..100_000_u32.div_ceil(64)).map(ended).collect();
        let position = Position { generation: claims().taskpass.generation, seq: 1_000_000, chain: [0; 20] };
        view.replace(&Snapshot { partition, position, entries: &entries }).unwrap();
        view.heard(partition, &position, MOMENT);
    }
    view.set_bound(Duration::from_secs(15));
    view.set_time(NOW.0 * 1_000, MOMENT, MOMENT);
    Arc::new(view)
}

fn verifier(issuer: &Issuer, view: &Arc<RevocationView>) -> Verifier {
    let expected =
        Expected { issuer: ISSUER.into(), audience: AUDIENCE.into(), profile: EnforcementProfile::Bearer };
    let verifier = Verifier::following(expected, Arc::clone(view));
    verifier.replace_keys(1, issuer.keys.clone()).unwrap();
    verifier
}

fn verdicts(c: &mut Criterion) {
    let (issuer, view) = (Issuer::new(), view());
    for signer in [&issuer.es256, &issuer.eddsa] {
        verify(c, &issuer, &view, signer);
    }
    let token = issuer.mint(&claims());
    c.bench_function("judge own output without signature", |b| {
        b.iter(|| judge_own_output_without_signature(black_box(&token), &issuer.keys, &EXPECTED, NOW));
    });
    let (header, claims) = (issuer.es256.header(), claims());
    c.bench_function("signing input", |b| b.iter(|| signing_input(&header, black_box(&claims))));
}

fn verify(c: &mut Criterion, issuer: &Issuer, view: &Arc<RevocationView>, signer: &Signer) {
    let algorithm: Algorithm = signer.key().algorithm();
    let token = mint(signer, &claims());
    let (message, _) = token.rsplit_once('.').unwrap();
    let signature = signer.sign(message.as_bytes());
    let key = signer.key();
    let mut group = c.benchmark_group(algorithm.as_str());
    group.bench_function("ring alone", |b| {
        b.iter(|| key.has_signed(black_box(message.as_bytes()), &signature));
    });
    group.bench_function("token alone, first sight", |b| {
        b.iter(|| UnverifiedToken::parse(black_box(&token)).unwrap().verify(&issuer.keys, &EXPECTED, NOW));
    });
    // Each token is another one, so that each is judged and remembered for the first time.
    let tokens: Vec<_> = (0..4_000)
        .map(|number| {
            let jti = CredentialId { number, ..claims().jti };
            mint(signer, &Claims { jti, ..claims() })
        })
        .collect();
    let (mut fresh, mut next) = (verifier(issuer, view), tokens.iter());
    group.bench_function("first sight", |b| {
        b.iter(|| {
            let token = next.next().unwrap_or_else(|| {
                fresh = verifier(issuer, view);
                next = tokens.iter();
                next.next().unwrap()
            });
            fresh.judge(black_box(token), &Presented::NOTHING, At::moment(MOMENT)).unwrap()
        });
    });
    let seen = verifier(issuer, view);
    seen.judge(&token, &Presented::NOTHING, At::moment(MOMENT)).unwrap();
    group.bench_function("second sight", |b| {
        b.iter(|| seen.judge(black_box(&token), &Presented::NOTHING, At::moment(MOMENT)).unwrap());
    });
    group.finish();
}

fn views(c: &mut Criterion) {
    let before = resident_kilobytes();
    let view = view();
    let grown = resident_kilobytes().saturating_sub(before);
    let estimated = view.memory_bytes() / 1024;
    eprintln!("view of {} ended tasks: {estimated} KiB by its tables, {grown} KiB resident", view.len());
    let claims = claims();
    let key = KeyId::from_bytes([1; 32]);
    let fences = Fences::on(claims.client_id.as_str(), claims.client_id.trust_domain());
    c.bench_function("view of 100,000: one credential", |b| {
        b.iter(|| view.refusal(black_box(&Facts::of(&claims, key, fences)), MOMENT));
    });
    c.bench_function("view of 100,000: forget, nothing due", |b| b.iter(|| view.forget(MOMENT)));
    c.bench_function("view of 100,000: fences of an owner", |b| {
        b.iter(|| Fences::on(black_box(claims.client_id.as_str()), claims.client_id.trust_domain()));
    });
    assert_eq!(view.time(MOMENT).unwrap().latest, UnixSeconds(NOW.0));
}

fn resident_kilobytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

criterion_group!(benches, views, verdicts);
criterion_main!(benches);

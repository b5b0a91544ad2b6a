//! Times, and what is judged again at each further sight.

use serde_json::json;
use taskpass_verifier::{Expectations, KeySet, Presented, Refusal, UnixSeconds, UnverifiedToken};

use crate::support::{EXPECTED, Issuer, NOW, claims, with};

#[test]
fn a_token_dies_at_the_second_of_its_exp_and_not_later() {
    let issuer = Issuer::new();
    let token = issuer.mint(&claims());
    let at = |now| UnverifiedToken::parse(&token).unwrap().verify(&issuer.keys, &EXPECTED, UnixSeconds(now));
    let exp = claims().exp.0;
    assert!(at(exp - 1).is_ok());
    for late in [exp, exp + 1, u64::MAX] {
        assert_eq!(at(late), Err(Refusal::Expired));
    }
}

#[test]
fn a_clock_that_is_a_little_behind_is_forgiven_at_the_beginning_alone() {
    let issuer = Issuer::new();
    let token = issuer.mint(&claims());
    let at = |now| UnverifiedToken::parse(&token).unwrap().verify(&issuer.keys, &EXPECTED, UnixSeconds(now));
    assert!(at(NOW.0 - 5).is_ok());
    assert_eq!(at(NOW.0 - 6), Err(Refusal::IssuedInFuture));
    assert_eq!(at(0), Err(Refusal::IssuedInFuture));
    let later = with(|claims| claims["nbf"] = json!(NOW.0 + 6));
    assert_eq!(issuer.judge(&later), Err(Refusal::NotYetValid));
}

#[test]
fn lifetimes_are_positive_and_at_most_900_seconds() {
    let issuer = Issuer::new();
    let exp = |exp: u64| issuer.judge(&with(|claims| claims["exp"] = json!(exp)));
    assert!(exp(NOW.0 + 900).is_ok());
    assert_eq!(exp(NOW.0 + 901), Err(Refusal::LifetimeTooLong));
    assert_eq!(exp(u64::MAX), Err(Refusal::LifetimeTooLong));
    assert_eq!(exp(NOW.0), Err(Refusal::EmptyLifetime));
    let late_begin = with(|claims| claims["nbf"] = claims["exp"].clone());
    assert_eq!(issuer.judge(&late_begin), Err(Refusal::EmptyLifetime));
}

#[test]
fn a_future_iat_does_not_stretch_the_ceiling() {
    let claims = with(|claims| {
        claims["iat"] = json!(NOW.0 + 10_000);
        claims["exp"] = json!(NOW.0 + 10_900);
    });
    assert_eq!(Issuer::new().judge(&claims), Err(Refusal::IssuedInFuture));
}

#[test]
fn a_kept_token_is_judged_again_by_time_issuer_audience_binding_and_key() {
    let issuer = Issuer::new();
    let token = issuer.verify(&issuer.mint(&claims())).unwrap();
    let recheck = |expected: &Expectations<'_>, now| token.recheck(&issuer.keys, expected, now);
    assert_eq!(recheck(&EXPECTED, NOW), Ok(()));
    assert_eq!(recheck(&EXPECTED, claims().exp), Err(Refusal::Expired));
    let elsewhere = Expectations { audience: "https://mail.example/mcp", ..EXPECTED };
    assert_eq!(recheck(&elsewhere, NOW), Err(Refusal::WrongAudience));
    let other_issuer = Expectations { issuer: "https://taskpass.example/other", ..EXPECTED };
    assert_eq!(recheck(&other_issuer, NOW), Err(Refusal::WrongIssuer));
    let bound = Expectations { profile: taskpass_verifier::EnforcementProfile::X5tS256, ..EXPECTED };
    assert_eq!(recheck(&bound, NOW), Err(Refusal::ConfirmationMissing));
    let without_key = KeySet::new([issuer.eddsa.key()]).unwrap();
    assert_eq!(token.recheck(&without_key, &EXPECTED, NOW), Err(Refusal::UnknownKey));
    assert_eq!(EXPECTED.presented, Presented::NOTHING);
}

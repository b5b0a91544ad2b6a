//! Who may present a token, and where.

use serde_json::{Value, json};
use taskpass_verifier::claims::Thumbprint;
use taskpass_verifier::{EnforcementProfile, Expectations, Presented, Refusal, UnverifiedToken};

use crate::support::{EXPECTED, Issuer, NOW, claims, with};

const MINE: Thumbprint = Thumbprint::from_bytes([1; 32]);
const THEIRS: Thumbprint = Thumbprint::from_bytes([2; 32]);

/// The verdict on a token with this `cnf` at an audience with this profile, shown these keys.
fn verdict(cnf: Option<Value>, profile: EnforcementProfile, presented: Presented) -> Result<(), Refusal> {
    let issuer = Issuer::new();
    let claims = with(|claims| {
        if let Some(cnf) = cnf {
            claims["cnf"] = cnf;
        }
    });
    let token = issuer.sign_claims(claims.to_string());
    let expected = Expectations { profile, presented, ..EXPECTED };
    UnverifiedToken::parse(&token)?.verify(&issuer.keys, &expected, NOW).map(drop)
}

fn x5t(thumbprint: Thumbprint) -> Option<Value> {
    Some(json!({ "x5t#S256": thumbprint }))
}

fn jkt(thumbprint: Thumbprint) -> Option<Value> {
    Some(json!({ "jkt": thumbprint }))
}

#[test]
fn a_bound_token_is_taken_from_the_holder_of_its_key() {
    use EnforcementProfile::{Bearer, Jkt, X5tS256};
    assert_eq!(verdict(x5t(MINE), X5tS256, Presented::certificate(MINE)), Ok(()));
    assert_eq!(verdict(jkt(MINE), Jkt, Presented::jkt(MINE)), Ok(()));
    assert_eq!(verdict(None, Bearer, Presented::NOTHING), Ok(()));
    assert_eq!(verdict(None, Bearer, Presented::certificate(MINE)), Ok(()));
}

#[test]
fn a08_a_stolen_token_over_another_connection_is_refused_even_at_the_right_audience() {
    use EnforcementProfile::{Bearer, Jkt, X5tS256};
    for profile in [X5tS256, Bearer] {
        let over = |presented| verdict(x5t(MINE), profile, presented);
        assert_eq!(over(Presented::certificate(THEIRS)), Err(Refusal::ConfirmationMismatch));
        assert_eq!(over(Presented::NOTHING), Err(Refusal::ConfirmationNotPresented));
        assert_eq!(over(Presented::jkt(MINE)), Err(Refusal::ConfirmationNotPresented));
    }
    for profile in [Jkt, Bearer] {
        let over = |presented| verdict(jkt(MINE), profile, presented);
        assert_eq!(over(Presented::jkt(THEIRS)), Err(Refusal::ConfirmationMismatch));
        assert_eq!(over(Presented::NOTHING), Err(Refusal::ConfirmationNotPresented));
        assert_eq!(over(Presented::certificate(MINE)), Err(Refusal::ConfirmationNotPresented));
    }
}

#[test]
fn an_audience_that_demands_a_binding_takes_no_bearer_token_and_no_other_kind() {
    use EnforcementProfile::{Jkt, X5tS256};
    let both = Presented { certificate: Some(MINE), jkt: Some(MINE) };
    assert_eq!(verdict(None, X5tS256, both), Err(Refusal::ConfirmationMissing));
    assert_eq!(verdict(None, Jkt, both), Err(Refusal::ConfirmationMissing));
    assert_eq!(verdict(jkt(MINE), X5tS256, both), Err(Refusal::ConfirmationKind));
    assert_eq!(verdict(x5t(MINE), Jkt, both), Err(Refusal::ConfirmationKind));
}

#[test]
fn a_confirmation_names_exactly_one_key_in_one_spelling() {
    let bad = |cnf: Value| {
        let presented = Presented { certificate: Some(MINE), jkt: Some(MINE) };
        verdict(Some(cnf), EnforcementProfile::Bearer, presented).unwrap_err()
    };
    assert_eq!(bad(json!({ "x5t#S256": MINE, "jkt": MINE })), Refusal::SeveralConfirmations);
    assert_eq!(bad(json!({ "jkt": MINE, "jwk": {} })), Refusal::SeveralConfirmations);
    assert_eq!(bad(json!({})), Refusal::MalformedClaim);
    assert_eq!(bad(json!({ "kid": "x" })), Refusal::ClaimNotAllowed);
    let padded = format!("{MINE}=");
    for value in [json!(null), json!([MINE]), json!(MINE), json!({ "jkt": null }), json!({ "jkt": padded })] {
        assert_eq!(bad(value.clone()), Refusal::MalformedClaim, "{value}");
    }
}

#[test]
fn a10_a_token_for_one_server_is_refused_by_another() {
    let issuer = Issuer::new();
    let token = issuer.mint(&claims());
    let at = |audience| {
        let expected = Expectations { audience, ..EXPECTED };
        UnverifiedToken::parse(&token).unwrap().verify(&issuer.keys, &expected, NOW).map(drop)
    };
    assert_eq!(at("https://files.example/mcp"), Ok(()));
    for other in [
        "https://mail.example/mcp",
        "https://files.example",
        "https://files.example/mcp/",
        "https://FILES.example/mcp",
        "",
    ] {
        assert_eq!(at(other), Err(Refusal::WrongAudience), "{other}");
    }
}

#[test]
fn a_token_of_another_issuer_is_refused_though_its_key_is_known() {
    let claims = with(|claims| claims["iss"] = json!("https://taskpass.example/other"));
    assert_eq!(Issuer::new().judge(&claims), Err(Refusal::WrongIssuer));
}

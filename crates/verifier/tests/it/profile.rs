//! What a good token is.

use crate::support::{EXPECTED, Issuer, NOW, claims, claims_json, mint, person_through_agent, with};
use serde_json::json;
use taskpass_verifier::token::judge_own_output_without_signature;

#[test]
fn a_token_of_either_algorithm_verifies_and_gives_back_the_claims_it_was_made_of() {
    let issuer = Issuer::new();
    for signer in [&issuer.es256, &issuer.eddsa] {
        let token = mint(signer, &claims());
        let verified = issuer.verify(&token).unwrap();
        assert_eq!(verified.claims(), &claims());
        assert_eq!(verified.key_id(), signer.key().id());
    }
}

#[test]
fn the_broker_can_judge_its_own_output_without_paying_for_the_signature() {
    let issuer = Issuer::new();
    let token = issuer.mint(&claims());
    assert_eq!(judge_own_output_without_signature(&token, &issuer.keys, &EXPECTED, NOW), Ok(()));
}

#[test]
fn a_person_may_act_through_an_agent() {
    let issuer = Issuer::new();
    let token = issuer.judge(&with(person_through_agent)).unwrap();
    assert_eq!(token.claims().act.as_ref().unwrap().chain().count(), 1);
    assert!(issuer.judge(&claims_json()).unwrap().claims().act.is_none());
    assert!(issuer.judge(&with(|claims| claims["sub"] = json!("user@acme.example"))).is_ok());
}

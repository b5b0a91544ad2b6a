//! What a good token is, to the byte.

use serde_json::{Map, Value, json};
use taskpass_verifier::claims::{AuthorizationDetails, Scope, ToolName};
use taskpass_verifier::token::{assemble, judge_own_output_without_signature, signing_input};
use taskpass_verifier::{Refusal, UnverifiedToken};

use crate::support::{EXPECTED, Issuer, NOW, Signer, claims, claims_json, mint, person_through_agent, with};

#[test]
fn a_token_of_either_algorithm_verifies_and_gives_back_the_claims_it_was_made_of() {
    let issuer = Issuer::new();
    for signer in [&issuer.es256, &issuer.eddsa] {
        let verified = issuer.verify(&mint(signer, &claims())).unwrap();
        assert_eq!(verified.claims(), &claims());
        assert_eq!(verified.key_id(), signer.key().id());
    }
}

#[test]
fn header_and_claims_are_written_in_one_stable_form() {
    let signer = Issuer::new().es256;
    let header = serde_json::to_string(&signer.header()).unwrap();
    assert_eq!(header, format!(r#"{{"alg":"ES256","kid":"{}","typ":"at+jwt"}}"#, signer.key().id()));
    let expected = concat!(
        r#"{"iss":"https://taskpass.example/acme","sub":"spiffe://acme.example/agent/researcher","#,
        r#""aud":"https://files.example/mcp","client_id":"spiffe://acme.example/agent/researcher","#,
        r#""jti":"01a0c49edcf07202870202020202020202000003"#,
    );
    let written = serde_json::to_string(&claims()).unwrap();
    let (_, tail) = written.split_once(r#""iat""#).unwrap();
    assert!(written.starts_with(expected.split_once(r#""jti""#).unwrap().0), "{written}");
    let expected_tail = concat!(
        r#":1790000000,"nbf":1790000000,"exp":1790000120,"scope":"mcp mcp:tool:files.read mcp:tool:web/search","#,
        r#""authorization_details":[{"type":"mcp_tool_call","tool":"files.read","#,
        r#""constraints":{"path":{"prefix":"/srv/reports/"}}}],"txn":"{root}","taskpass":{"task":"{task}","#,
        r#""lineage":["{root}"],"goal":"{goal}","gen":"{gen}","seq":41}}"#,
    );
    let claims = claims();
    let expected_tail = expected_tail
        .replace("{root}", &claims.txn.to_string())
        .replace("{task}", &claims.taskpass.task.to_string())
        .replace("{goal}", &claims.taskpass.goal.to_string())
        .replace("{gen}", &claims.taskpass.generation.to_string());
    assert_eq!(tail, expected_tail);
}

#[test]
fn the_broker_judges_its_own_output_by_every_rule_but_the_signature() {
    let issuer = Issuer::new();
    let judge = |token: &str| judge_own_output_without_signature(token, &issuer.keys, &EXPECTED, NOW);
    let input = signing_input(&issuer.es256.header(), &claims()).unwrap();
    assert_eq!(judge(&assemble(input, &[0; 64])), Ok(()));
    let mut expired = claims();
    expired.exp = NOW;
    expired.iat.0 -= 60;
    expired.nbf.0 -= 60;
    assert_eq!(judge(&issuer.mint(&expired)), Err(Refusal::Expired));
    assert_eq!(judge(&mint(&Issuer::new().es256, &claims())), Err(Refusal::UnknownKey));
    let mut eddsa = issuer.eddsa.header();
    eddsa.key_id = issuer.es256.key().id();
    let input = signing_input(&eddsa, &claims()).unwrap();
    assert_eq!(judge(&assemble(input, &[0; 64])), Err(Refusal::AlgorithmMismatch));
}

#[test]
fn an_issuer_cannot_write_a_token_that_no_verifier_would_take() {
    let tools: Vec<ToolName> = (0..200).map(|i| format!("{i:0>60}").parse().unwrap()).collect();
    let mut long = claims();
    long.authorization_details = AuthorizationDetails::default();
    long.scope = Scope::new(&tools).unwrap();
    assert_eq!(signing_input(&Issuer::new().es256.header(), &long), Err(Refusal::TooLong));
}

#[test]
fn a_person_may_act_through_an_agent() {
    let issuer = Issuer::new();
    let token = issuer.judge(&with(person_through_agent)).unwrap();
    assert_eq!(token.claims().act.as_ref().unwrap().chain().count(), 1);
    assert!(issuer.judge(&claims_json()).unwrap().claims().act.is_none());
    assert!(issuer.judge(&with(|claims| claims["sub"] = json!("user@acme.example"))).is_ok());
}

#[test]
fn only_tools_of_the_scope_are_permitted_and_only_by_their_exact_name() {
    let issuer = Issuer::new();
    let token = issuer.judge(&claims_json()).unwrap();
    assert_eq!(token.permits_tool("web/search", None), Ok(()));
    assert_eq!(token.permits_tool("web/search", Some(&Map::new())), Ok(()));
    for other in
        ["", "web", "web/search ", "Web/search", "web/search files.read", "mcp", "mcp:tool:web/search", "*"]
    {
        assert_eq!(token.permits_tool(other, None), Err(Refusal::ToolNotGranted), "{other}");
    }
    let admission = issuer
        .judge(&with(|claims| {
            claims["scope"] = json!("mcp");
            claims.as_object_mut().unwrap().remove("authorization_details");
        }))
        .unwrap();
    assert_eq!(admission.permits_tool("files.read", None), Err(Refusal::ToolNotGranted));
}

#[test]
fn a_limited_argument_must_be_there_and_within_its_limit() {
    let token = Issuer::new().judge(&claims_json()).unwrap();
    let call = |arguments: Value| token.permits_tool("files.read", Some(arguments.as_object().unwrap()));
    assert_eq!(call(json!({ "path": "/srv/reports/q3.csv", "lines": 10 })), Ok(()));
    for bad in [
        json!({}),
        json!({ "Path": "/srv/reports/q3.csv" }),
        json!({ "path": "/etc/passwd" }),
        json!({ "path": "/srv/reports/../../etc/passwd" }),
        json!({ "path": ["/srv/reports/q3.csv"] }),
        json!({ "path": null }),
    ] {
        assert_eq!(call(bad.clone()), Err(Refusal::ArgumentNotPermitted), "{bad}");
    }
    assert_eq!(token.permits_tool("files.read", None), Err(Refusal::ArgumentNotPermitted));
}

#[test]
fn debug_shows_no_part_of_a_token() {
    let issuer = Issuer::new();
    let text = issuer.mint(&claims());
    let unverified = UnverifiedToken::parse(&text).unwrap();
    let shown = format!("{unverified:?} {:?} {:?}", issuer.verify(&text).unwrap(), issuer.keys);
    for part in text.split('.') {
        let secret: String = part.chars().take(16).collect();
        assert!(!shown.contains(&secret), "{shown}");
    }
    assert_eq!(unverified.unverified_key_id(), issuer.es256.key().id());
}

#[test]
fn the_two_signers_of_the_tests_are_what_they_say() {
    let issuer = Issuer::new();
    assert!(matches!((issuer.es256, issuer.eddsa), (Signer::Es256(_), Signer::EdDsa(_))));
}

//! What a request is answered, word by word.

use serde_json::{Value, json};
use taskpass_verifier::view::Closed;
use taskpass_verifier::{EnforcementProfile, Presented, Refusal};

use crate::support::{AGENT, Issuer, claims, task};
use crate::world::{
    BOUND, METADATA, World, bearer, bound_to_certificate, bound_to_jkt, expires_in, thumbprint,
};

#[tokio::test]
async fn a_good_token_becomes_a_grant_and_is_seen_by_nobody_behind_the_layer() {
    let world = World::new().await;
    let token = world.token();
    for _ in 0..2 {
        let answer = world.present(&token).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, &*format!("{AGENT} authorization=false")));
        assert_eq!(answer.header("www-authenticate"), None);
    }
}

#[tokio::test]
async fn without_a_token_the_challenge_says_where_to_begin_and_nothing_of_errors() {
    let world = World::new().await;
    let token = world.token();
    let basic = vec!["Authorization: Basic YTpi".to_owned()];
    for (target, fields) in [
        ("/whoami", vec![]),
        ("/whoami", basic),
        // RFC 6750, sections 2.2 and 2.3: not here.
        (&*format!("/whoami?access_token={token}"), vec![]),
    ] {
        let answer = world.ask(target, &fields).await;
        assert_eq!((answer.status, answer.body.as_str()), (401, ""), "{target}");
        let challenge = format!(
            r#"Bearer realm="https://files.example/mcp", scope="mcp", resource_metadata="{METADATA}""#
        );
        assert_eq!(answer.header("www-authenticate"), Some(&*challenge), "{target}");
    }
}

#[tokio::test]
async fn what_is_not_one_token_in_one_header_is_a_bad_request() {
    let world = World::new().await;
    let good = bearer(&world.token());
    for fields in [
        vec![good.clone(), good.clone()],
        vec![good.clone(), "Authorization: Basic YTpi".to_owned()],
        vec![bearer("")],
        vec![format!("{good} {good}")],
        vec![format!("{good},{good}")],
    ] {
        let answer = world.ask("/whoami", &fields).await;
        assert_eq!(answer.status, 400, "{fields:?}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.contains(r#", error="invalid_request", error_description=""#), "{challenge}");
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_answered_with_its_cause() {
    let world = World::new().await;
    let (good, stranger) = (world.token(), Issuer::new());
    let elsewhere = world.token_with(|claims| claims.aud = "https://other.example/mcp".into());
    for (token, cause, sentence) in [
        ("a.b.c", "not_base64url", "A part of the token is not canonical base64url without padding."),
        (&*"a".repeat(9_000), "too_long", "The token is longer than 8192 bytes."),
        (&*stranger.mint(&claims()), "unknown_key", "The token's kid names no key of the issuer."),
        (&*elsewhere, "wrong_audience", "The token is for another audience."),
        (
            &*world.token_with(expires_in(0)),
            "empty_lifetime",
            "The token's exp is not after its iat and nbf.",
        ),
        (
            good.get(..good.len() - 2).unwrap(),
            "malformed_signature",
            "The token's signature does not have 64 bytes.",
        ),
    ] {
        let answer = world.present(token).await;
        assert_eq!(answer.status, 401, "{cause}");
        assert_eq!(answer.header("x-refusal"), Some(cause));
        let challenge = format!(
            r#"Bearer realm="https://files.example/mcp", error="invalid_token", error_description="{sentence}", scope="mcp", resource_metadata="{METADATA}""#
        );
        assert_eq!(answer.header("www-authenticate"), Some(&*challenge));
    }
}

#[tokio::test]
async fn the_token_of_an_ended_task_is_refused_from_the_end_on() {
    let world = World::new().await;
    let token = world.token();
    assert_eq!(world.present(&token).await.status, 200);
    world.end_task(task(7, 1));
    let answer = world.present(&token).await;
    assert_eq!((answer.status, answer.header("x-refusal")), (401, Some("task_ended")));
}

#[tokio::test]
async fn a_verifier_that_knows_too_little_says_so_and_blames_no_token() {
    let silent = World::silent(EnforcementProfile::Bearer, None).await;
    let answer = silent.present(&silent.token()).await;
    assert_eq!((answer.status, answer.header("x-refusal")), (503, Some("never_synchronised")));

    let world = World::new().await;
    let token = world.token();
    world.pass(BOUND + std::time::Duration::from_millis(1));
    let answer = world.present(&token).await;
    assert_eq!((answer.status, answer.header("x-refusal")), (503, Some("stale")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("www-authenticate"), None);
    world.hear();
    assert_eq!(world.present(&token).await.status, 200, "it heals with the next heartbeat");
    world.close(Closed::BadSignature);
    let answer = world.present(&token).await;
    assert_eq!((answer.status, answer.header("x-refusal")), (503, Some("feed_bad_signature")));
    let answer = world.ask("/whoami", &[]).await;
    assert_eq!(answer.status, 401, "who brings no token is asked for one all the same");
}

#[tokio::test]
async fn a_call_beyond_the_grant_is_answered_with_the_scope_that_it_needs() {
    let world = World::new().await;
    let fields = [bearer(&world.token())];
    for target in ["/call/web%2Fsearch", "/call/files.read?path=/srv/reports/a"] {
        assert_eq!(world.ask(target, &fields).await.status, 200, "{target}");
    }
    for (target, scope, cause) in [
        ("/call/files.write", "mcp mcp:tool:files.write", "tool_not_granted"),
        // A name that could not stand in a header is not repeated.
        ("/call/x%22%0d%0aSet-Cookie:%20a=b", "mcp", "tool_not_granted"),
        ("/call/web%2Fsearch%20mcp:tool:files.write", "mcp", "tool_not_granted"),
    ] {
        let answer = world.ask(target, &fields).await;
        assert_eq!((answer.status, answer.header("x-refusal")), (403, Some(cause)), "{target}");
        let challenge = answer.header("www-authenticate").unwrap();
        let error =
            r#"Bearer realm="https://files.example/mcp", error="insufficient_scope", error_description=""#;
        assert!(challenge.starts_with(error), "{challenge}");
        let end = format!(r#"", scope="{scope}", resource_metadata="{METADATA}""#);
        assert!(challenge.ends_with(&end), "{challenge}");
        assert_eq!(answer.header("set-cookie"), None);
    }
}

/// A client that steps up to the scope of a challenge would come back with what it has, again and again.
#[tokio::test]
async fn an_argument_beyond_its_limit_is_answered_without_a_scope_to_step_up_to() {
    let world = World::new().await;
    let fields = [bearer(&world.token())];
    for target in ["/call/files.read?path=/etc/passwd", "/call/files.read"] {
        let answer = world.ask(target, &fields).await;
        assert_eq!((answer.status, answer.header("x-refusal")), (403, Some("argument_not_permitted")));
        let challenge = format!(
            r#"Bearer realm="https://files.example/mcp", error="insufficient_scope", error_description="An argument of the call is missing or beyond what the token permits. No further scope helps: change the call.", resource_metadata="{METADATA}""#
        );
        assert_eq!(answer.header("www-authenticate"), Some(&*challenge), "{target}");
    }
}

#[tokio::test]
async fn a_call_that_is_refused_for_its_token_is_answered_as_the_token_would_be() {
    let world = World::new().await;
    for why in Refusal::ALL.iter().copied() {
        let answer = world.protection.refuse_call::<String>("files.read", why);
        let challenge = answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap());
        let (status, error) = match why {
            Refusal::ToolNotGranted | Refusal::ArgumentNotPermitted => (403, Some("insufficient_scope")),
            of_verifier if of_verifier.is_of_the_verifier() => (503, None),
            _ => (401, Some("invalid_token")),
        };
        assert_eq!(answer.status(), status, "{why:?}");
        assert_eq!(challenge.is_some(), error.is_some(), "{why:?}");
        assert!(
            error.is_none_or(|error| challenge.unwrap().contains(&format!("error=\"{error}\""))),
            "{why:?}"
        );
    }
}

#[tokio::test]
async fn a08_a_token_bound_to_a_certificate_is_good_on_a_connection_of_that_certificate_alone() {
    let profile = EnforcementProfile::X5tS256;
    for (shown, cause) in [
        (Some(thumbprint(1)), None),
        (Some(thumbprint(2)), Some("confirmation_mismatch")),
        (None, Some("confirmation_not_presented")),
    ] {
        let world = World::of(profile, shown.map(Presented::certificate)).await;
        let answer = world.present(&world.token_with(bound_to_certificate(thumbprint(1)))).await;
        assert_eq!(answer.header("x-refusal"), cause);
        assert_eq!(answer.status, if cause.is_none() { 200 } else { 401 });
        let answer = world.present(&world.token()).await;
        assert_eq!((answer.status, answer.header("x-refusal")), (401, Some("confirmation_missing")));
    }
}

#[tokio::test]
async fn a_token_bound_to_a_dpop_key_is_taken_by_its_own_scheme_and_never_as_a_bearer_token() {
    let world = World::of(EnforcementProfile::Jkt, Some(Presented::jkt(thumbprint(1)))).await;
    let token = world.token_with(bound_to_jkt(thumbprint(1)));
    let dpop = async |token: &str| world.ask("/whoami", &[format!("Authorization: DPoP {token}")]).await;
    assert_eq!(dpop(&token).await.status, 200);
    let answer = world.present(&token).await;
    assert_eq!((answer.status, answer.header("x-refusal")), (401, Some("confirmation_not_presented")));
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(
        challenge.starts_with(r#"DPoP realm="https://files.example/mcp", error="invalid_token""#),
        "{challenge}"
    );
    let other = world.token_with(bound_to_jkt(thumbprint(2)));
    assert_eq!(dpop(&other).await.header("x-refusal"), Some("confirmation_mismatch"));

    let world = World::of(EnforcementProfile::Bearer, Some(Presented::jkt(thumbprint(1)))).await;
    let unbound = [format!("Authorization: DPoP {}", world.token())];
    let answer = world.ask("/whoami", &unbound).await;
    assert_eq!((answer.status, answer.header("x-refusal")), (401, Some("scheme_needs_binding")));
    let challenge = answer.header("www-authenticate").unwrap();
    let sentence = r#"error_description="By the scheme DPoP comes a token that is bound to a DPoP key, and this one is not.""#;
    assert!(challenge.contains(sentence), "{challenge}");
}

#[tokio::test]
async fn the_metadata_lies_where_the_challenge_says_and_needs_no_token() {
    let world = World::new().await;
    let path = METADATA.strip_prefix("https://files.example").unwrap();
    let answer = world.ask(path, &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let metadata: Value = serde_json::from_str(&answer.body).unwrap();
    let expected = json!({
        "resource": "https://files.example/mcp",
        "authorization_servers": ["https://taskpass.example/acme"],
        "scopes_supported": ["mcp", "mcp:tool:files.read"],
        "bearer_methods_supported": ["header"],
    });
    assert_eq!(metadata, expected);
    for (profile, member) in [
        (EnforcementProfile::X5tS256, "tls_client_certificate_bound_access_tokens"),
        (EnforcementProfile::Jkt, "dpop_bound_access_tokens_required"),
    ] {
        let world = World::of(profile, None).await;
        let metadata: Value = serde_json::from_str(&world.ask(path, &[]).await.body).unwrap();
        assert_eq!(metadata[member], true, "{metadata}");
    }
}

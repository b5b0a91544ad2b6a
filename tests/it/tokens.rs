//! Minting: what stands in a token, how long it lives, what it is bound to. Tokens are read with nothing of ours.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use serde_json::{Value, json};
use taskpass::proto;
use tonic::Code;

use crate::support::broker::{Broker, Setup};
use crate::support::ca::valid;
use crate::support::client::Client;
use crate::support::story::{
    begin, docs, grant, mail, millis, mint, mint_for, payments, read_token, refused, seconds,
};
use crate::support::world::{DOCS, ISSUER, MAIL, OTHER_DOCS, PAYMENTS};
use crate::support::{Store, eventually, now};

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn keys_of(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The keys of the tenant's key set, as the RPC gives them: that which signs and two that stand by, in no order.
async fn published_keys(client: &Client) -> (String, Vec<Value>) {
    let request = proto::GetKeySetRequest { trust_domain: "example.org".into() };
    let set = client.directory().get_key_set(request).await.unwrap().into_inner();
    let jwks: Value = serde_json::from_str(&set.jwks_json).unwrap();
    let keys = jwks["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| key.get("d").is_none()), "a private key is published");
    (set.issuer, keys.clone())
}

/// The key that a token says it is signed with.
fn named_in<'a>(token: &str, keys: &'a [Value]) -> &'a Value {
    let (header, _) = read_token(token);
    keys.iter().find(|key| key["kid"] == header["kid"]).unwrap()
}

/// Verifies the signature of a token by a published key, with ring alone.
fn assert_signed(token: &str, key: &Value) {
    let (input, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let verified = match key["alg"].as_str().unwrap() {
        "ES256" => {
            let point = [vec![4], bytes("x"), bytes("y")].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(input.as_bytes(), &signature)
        }
        "EdDSA" => UnparsedPublicKey::new(&ED25519, bytes("x")).verify(input.as_bytes(), &signature),
        other => panic!("{other}"),
    };
    assert!(verified.is_ok(), "the signature is not that of the published key");
}

async fn a_token_has_the_profile_and_says_what_was_granted(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.begin(begin(&[docs(), payments()])).await.unwrap();
    let minted = agent.mint(mint(&task, DOCS)).await.unwrap();
    let (header, claims) = read_token(&minted.token);
    let (issuer, keys) = published_keys(&agent).await;
    let key = named_in(&minted.token, &keys);
    assert_signed(&minted.token, key);
    let thumbprint = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, key["x"], key["y"]);
    let kid = base64url(digest(&SHA256, thumbprint.as_bytes()).as_ref());
    assert_eq!(header, json!({ "typ": "at+jwt", "alg": "ES256", "kid": kid }));
    assert_eq!(key["kid"], kid);

    let agent_id = "spiffe://example.org/agent/a1";
    let iat = claims["iat"].as_u64().unwrap();
    assert!(now().as_secs().abs_diff(iat) < 30, "{claims}");
    let expected = json!({
        "iss": ISSUER, "aud": DOCS, "sub": agent_id, "client_id": agent_id, "jti": minted.credential_id,
        "iat": iat, "nbf": iat, "exp": iat + 120, "scope": "mcp mcp:tool:read mcp:tool:search", "txn": task.id,
        "taskpass": {
            "task": task.id, "lineage": [], "goal": base64url(&task.goal_sha256),
            "gen": claims["taskpass"]["gen"], "seq": claims["taskpass"]["seq"],
        },
    });
    assert_eq!((issuer.as_str(), claims), (ISSUER, expected));

    assert_eq!(millis(&minted.expires_at) / 1_000, i64::try_from(iat).unwrap() + 120);
    assert_eq!(millis(&minted.renew_after) / 1_000, i64::try_from(iat).unwrap() + 60);
    assert_eq!(minted.scope, "mcp mcp:tool:read mcp:tool:search");
    assert_eq!(minted.token_type, "Bearer");
    assert_eq!(agent.get(&task.id).await.unwrap().credentials_issued, 1);
    assert!(broker.verifier().accepts(&minted.token).await);
}

async fn tokens_are_signed_with_eddsa_where_that_is_configured(store: Store) {
    let broker = Broker::of(Setup::on(store).with("keys", "algorithm = \"EdDSA\"")).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let minted = agent.mint(mint(&task, DOCS)).await.unwrap();
    let (_, keys) = published_keys(&agent).await;
    assert_eq!(read_token(&minted.token).0["alg"], "EdDSA");
    assert_signed(&minted.token, named_in(&minted.token, &keys));
    assert!(broker.verifier().accepts(&minted.token).await);
}

async fn g7_a_token_lives_no_longer_than_the_least_of_the_lifetimes(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let long = agent.docs_task().await;
    let short =
        agent.begin(proto::BeginTaskRequest { lifetime: seconds(90), ..begin(&[docs()]) }).await.unwrap();
    let lifetime = async |client: &Client, task: &proto::Task, asked| {
        let minted = client.mint(mint_for(task, DOCS, asked)).await.unwrap();
        let (_, claims) = read_token(&minted.token);
        assert_eq!(claims["exp"].as_i64().unwrap() * 1_000, millis(&minted.expires_at));
        (claims["exp"].as_i64().unwrap(), claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap())
    };
    assert_eq!(lifetime(&agent, &long, 30).await.1, 30, "as asked");
    assert_eq!(lifetime(&agent, &long, 900).await.1, 300, "the policy's cap");
    assert_eq!(lifetime(&agent, &long, 30_000_000).await.1, 300, "the policy's cap");
    let (exp, _) = lifetime(&agent, &short, 300).await;
    assert!(exp * 1_000 <= millis(&short.deadline), "the task's deadline");
    assert!(exp * 1_000 > millis(&short.deadline) - 1_000, "not needlessly shorter");

    let not_after = now().as_secs() + 100;
    let svid = broker.world.tenant.svid_with("agent/a1", |params| valid(params, 0, not_after));
    let (exp, _) = lifetime(&broker.client(&svid), &long, 300).await;
    assert!(u64::try_from(exp).unwrap() <= not_after, "the caller's certificate");
    assert!(u64::try_from(exp).unwrap() + 2 > not_after, "not needlessly shorter");
}

async fn g7_the_configured_ceiling_holds_whatever_policy_allows(store: Store) {
    let setup = Setup::on(store).with("lifetimes", "max_token = \"20s\"\ndefault_token = \"10s\"");
    let broker = Broker::of(setup).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let lifetime = |minted: proto::MintTokenResponse| {
        let (_, claims) = read_token(&minted.token);
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
    };
    assert_eq!(lifetime(agent.mint(mint_for(&task, DOCS, 300)).await.unwrap()), 20);
    assert_eq!(lifetime(agent.mint(mint(&task, DOCS)).await.unwrap()), 10);
}

async fn a07_renewing_without_end_never_passes_the_deadline(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task =
        agent.begin(proto::BeginTaskRequest { lifetime: seconds(5), ..begin(&[docs()]) }).await.unwrap();
    let (mut renewed, deadline) = (0, millis(&task.deadline));
    loop {
        let calls =
            futures_util::future::join_all((0..10).map(|_| agent.mint(mint_for(&task, DOCS, 86_400)))).await;
        for answer in calls {
            let Ok(minted) = answer else {
                let status = answer.unwrap_err();
                let why = crate::support::story::reason(&status);
                assert!(["TASK_ENDED", "NO_LIFETIME_LEFT"].contains(&why.as_str()), "{status:?}");
                assert!(renewed >= 10, "only {renewed} tokens");
                return;
            };
            renewed += 1;
            assert!(millis(&minted.expires_at) <= deadline, "{minted:?} after {deadline}");
        }
    }
}

async fn a_token_that_would_be_of_no_use_is_an_error_and_leaves_no_record(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task =
        agent.begin(proto::BeginTaskRequest { lifetime: seconds(40), ..begin(&[docs()]) }).await.unwrap();
    let useful = proto::MintTokenRequest { minimum_lifetime: seconds(60), ..mint(&task, DOCS) };
    let status = refused(agent.mint(useful).await, Code::FailedPrecondition, "NO_LIFETIME_LEFT");
    assert!(status.message().contains("left of the task;"), "{status:?}");
    let svid = broker.world.tenant.svid_with("agent/a1", |params| valid(params, 0, now().as_secs() + 30));
    let long = broker.client(&svid).docs_task().await;
    let status = broker.client(&svid).mint(mint(&long, DOCS)).await;
    let status = refused(status, Code::FailedPrecondition, "NO_LIFETIME_LEFT");
    assert!(status.message().contains("left of your certificate;"), "{status:?}");
    for task in [task, long] {
        assert_eq!(agent.get(&task.id).await.unwrap().credentials_issued, 0);
    }
}

async fn r7_who_says_how_long_a_credential_must_live_gets_that_or_an_error(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let at_least =
        |minimum| proto::MintTokenRequest { minimum_lifetime: seconds(minimum), ..mint(&task, DOCS) };
    let (_, claims) = read_token(&agent.mint(at_least(240)).await.unwrap().token);
    let lives = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(lives, 240, "longer than by default");
    refused(agent.mint(at_least(600)).await, Code::FailedPrecondition, "NO_LIFETIME_LEFT");
    let contradiction = proto::MintTokenRequest { lifetime: seconds(60), ..at_least(240) };
    refused(agent.mint(contradiction).await, Code::InvalidArgument, "INVALID_DURATION");
}

async fn a_token_may_carry_less_than_the_task_grants_and_never_more(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.begin(begin(&[grant(DOCS, &["read", "search"]), payments()])).await.unwrap();
    let with = |tools: &[&str]| proto::MintTokenRequest {
        tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
        ..mint(&task, DOCS)
    };
    let (_, claims) = read_token(&agent.mint(with(&["read"])).await.unwrap().token);
    assert_eq!(claims["scope"], "mcp mcp:tool:read");
    // Nothing named means all that was granted, not all that there is.
    let (_, claims) = read_token(&agent.mint(with(&[])).await.unwrap().token);
    assert_eq!(claims["scope"], "mcp mcp:tool:read mcp:tool:search");

    refused(agent.mint(with(&["write"])).await, Code::PermissionDenied, "BEYOND_GRANT");
    refused(agent.mint(with(&["read", "write"])).await, Code::PermissionDenied, "BEYOND_GRANT");
    for trick in ["Read", "rea", "read.all", "reads"] {
        let status = agent.mint(with(&[trick])).await.expect_err(trick);
        assert_eq!(status.code(), Code::PermissionDenied, "{trick}: {status:?}");
    }
    for malformed in ["*", "", "read write", "mcp:tool:read\n"] {
        refused(agent.mint(with(&[malformed])).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    refused(agent.mint(mint(&task, MAIL)).await, Code::PermissionDenied, "BEYOND_GRANT");
    // Of another tenant: as if there were none.
    refused(agent.mint(mint(&task, OTHER_DOCS)).await, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    assert_eq!(agent.get(&task.id).await.unwrap().credentials_issued, 2);
}

async fn limits_on_arguments_are_in_the_token(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let mut limited = grant(DOCS, &["read", "search"]);
    let read = limited.tools.iter_mut().find(|tool| tool.name == "read").unwrap();
    let path = proto::ArgumentConstraint { prefix: Some("/handbook/".into()), ..Default::default() };
    let pages = proto::ArgumentConstraint { minimum: Some(1), maximum: Some(10), ..Default::default() };
    read.arguments.extend([("path".to_owned(), path), ("pages".to_owned(), pages)]);
    let task = agent.begin(begin(&[limited])).await.unwrap();
    let (_, claims) = read_token(&agent.mint(mint(&task, DOCS)).await.unwrap().token);
    let constraints = json!({ "pages": { "minimum": 1, "maximum": 10 }, "path": { "prefix": "/handbook/" } });
    let details = json!([{ "type": "mcp_tool_call", "tool": "read", "constraints": constraints }]);
    assert_eq!(claims["authorization_details"], details);
    // A token without the limited tool has no limits in it.
    let search = proto::MintTokenRequest { tools: vec!["search".into()], ..mint(&task, DOCS) };
    let (_, claims) = read_token(&agent.mint(search).await.unwrap().token);
    assert!(!keys_of(&claims).contains("authorization_details"), "{claims}");
}

async fn a_token_is_bound_to_the_key_that_its_audience_asks_for(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.begin(begin(&[docs(), payments(), mail()])).await.unwrap();
    let mismatch =
        async |request| refused(agent.mint(request).await, Code::FailedPrecondition, "BINDING_MISMATCH");

    // x5t#S256: the certificate of the connection, if none is named.
    let minted = agent.mint(mint(&task, PAYMENTS)).await.unwrap();
    assert_eq!(read_token(&minted.token).1["cnf"], json!({ "x5t#S256": base64url(&agent.thumbprint) }));
    assert_eq!(minted.token_type, "Bearer");
    let jkt = vec![7; 32];
    let with_jkt =
        |audience| proto::MintTokenRequest { dpop_jwk_sha256: jkt.clone().into(), ..mint(&task, audience) };
    mismatch(with_jkt(PAYMENTS)).await;

    // jkt: the DPoP key, which must be named.
    let minted = agent.mint(with_jkt(MAIL)).await.unwrap();
    assert_eq!(read_token(&minted.token).1["cnf"], json!({ "jkt": base64url(&jkt) }));
    assert_eq!(minted.token_type, "DPoP");
    mismatch(mint(&task, MAIL)).await;
    let short = proto::MintTokenRequest { dpop_jwk_sha256: vec![7; 31].into(), ..mint(&task, MAIL) };
    refused(agent.mint(short).await, Code::InvalidArgument, "INVALID_ARGUMENT");

    // bearer: nothing, and nothing may be named.
    mismatch(with_jkt(DOCS)).await;
    assert!(read_token(&agent.mint(mint(&task, DOCS)).await.unwrap().token).1.get("cnf").is_none());
}

async fn one_credential_is_revoked_and_the_others_live(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.docs_task().await;
    let (first, second) =
        (agent.mint(mint(&task, DOCS)).await.unwrap(), agent.mint(mint(&task, DOCS)).await.unwrap());
    let third = agent.mint(mint(&task, DOCS)).await.unwrap();
    assert!(verifier.accepts(&first.token).await);
    let revoked = agent.revoke_credential(&first.credential_id).await.unwrap();
    assert!(revoked.revoked && revoked.id == first.credential_id && revoked.audience == DOCS);
    assert!(!verifier.accepts(&first.token).await);
    assert_eq!(agent.revoke_credential(&first.credential_id).await.unwrap(), revoked);
    broker.operator().revoke_credential(&third.credential_id).await.unwrap();
    assert!(!verifier.accepts(&third.token).await);

    assert!(verifier.accepts(&second.token).await);
    let listed = agent.list_credentials(&task.id).await.unwrap();
    let states: Vec<_> = listed.iter().map(|c| (c.id.as_str(), c.revoked)).collect();
    let expected =
        [(&first.credential_id, true), (&second.credential_id, false), (&third.credential_id, true)];
    assert_eq!(states, expected.map(|(id, revoked)| (id.as_str(), revoked)));
    assert!(verifier.accepts(&agent.mint(mint(&task, DOCS)).await.unwrap().token).await);

    let never_issued = format!("{}0000ffff", task.id.replace('-', ""));
    refused(agent.revoke_credential(&never_issued).await, Code::NotFound, "CREDENTIAL_NOT_FOUND");
}

async fn credentials_are_listed_in_pages_until_they_expire(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    agent.mint(mint_for(&task, DOCS, 2)).await.unwrap();
    let mut minted = Vec::new();
    for _ in 0..4 {
        minted.push(agent.mint(mint(&task, DOCS)).await.unwrap().credential_id);
    }
    eventually("the short one to go", async || agent.list_credentials(&task.id).await.unwrap().len() == 4)
        .await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    for _ in 0..10 {
        let request = proto::ListCredentialsRequest { task_id: task.id.clone(), page_size: 3, page_token };
        let page = agent.credentials().list_credentials(request).await.unwrap().into_inner();
        assert!(page.credentials.len() <= 3);
        seen.extend(page.credentials);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.iter().map(|c| c.id.clone()).collect::<Vec<_>>(), minted);
    assert!(
        seen.iter().all(|c| c.kind() == proto::CredentialKind::Token && c.audience == DOCS && !c.revoked)
    );
    // The count of those issued does not forget.
    assert_eq!(agent.get(&task.id).await.unwrap().credentials_issued, 5);
}

#[tokio::test]
async fn the_public_keys_are_also_written_to_files() {
    let broker = Broker::of(Setup::on(Store::Embedded).with("export", "dir = \"public\"")).await;
    let agent = broker.agent();
    let (_, keys) = published_keys(&agent).await;
    let file: Value = serde_json::from_str(&broker.world.read("public/example.org.jwks.json")).unwrap();
    assert_eq!(file, json!({ "keys": keys }));
    let other: Value = serde_json::from_str(&broker.world.read("public/other.example.jwks.json")).unwrap();
    let others = other["keys"].as_array().unwrap();
    assert!(
        others.iter().all(|other| keys.iter().all(|key| key["kid"] != other["kid"])),
        "tenants share a key"
    );
    let bundle =
        agent.directory().get_task_ca_bundle(proto::GetTaskCaBundleRequest {}).await.unwrap().into_inner();
    assert_eq!(broker.world.read("public/task-ca.pem"), bundle.pem);
    assert_eq!(broker.world.read("public/task-ca.spiffe.json"), bundle.spiffe_bundle_json);
    assert_eq!(bundle.trust_domain, "broker.example.org");
}

#[tokio::test]
async fn a12_everybody_sees_the_audiences_of_the_own_tenant_alone() {
    let broker = Broker::start(Store::Embedded).await;
    let listed = async |client: Client| {
        let answer = client.directory().list_audiences(proto::ListAudiencesRequest {}).await.unwrap();
        let uris = answer.into_inner().audiences.into_iter().map(|audience| (audience.uri, audience.profile));
        uris.collect::<BTreeSet<_>>()
    };
    let own = [(DOCS, "bearer"), (PAYMENTS, "x5t#S256"), (MAIL, "jkt")];
    let own = own.map(|(uri, profile)| (uri.to_owned(), profile.to_owned())).into();
    assert_eq!(listed(broker.agent()).await, own);
    let other = [(OTHER_DOCS.to_owned(), "bearer".to_owned())].into();
    assert_eq!(listed(broker.other_workload("agent/a1")).await, other);
}

on_both_stores!(
    a_token_has_the_profile_and_says_what_was_granted,
    tokens_are_signed_with_eddsa_where_that_is_configured,
    g7_a_token_lives_no_longer_than_the_least_of_the_lifetimes,
    g7_the_configured_ceiling_holds_whatever_policy_allows,
    a07_renewing_without_end_never_passes_the_deadline,
    a_token_that_would_be_of_no_use_is_an_error_and_leaves_no_record,
    r7_who_says_how_long_a_credential_must_live_gets_that_or_an_error,
    a_token_may_carry_less_than_the_task_grants_and_never_more,
    limits_on_arguments_are_in_the_token,
    a_token_is_bound_to_the_key_that_its_audience_asks_for,
    one_credential_is_revoked_and_the_others_live,
    credentials_are_listed_in_pages_until_they_expire,
);

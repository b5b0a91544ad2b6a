//! What a verifier is told of what it was shown: active with the claims, or inactive and nothing more.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use taskpass::proto;
use tonic::Code;

use crate::support::broker::Broker;
use crate::support::client::Client;
use crate::support::story::{
    begin, docs, grant, is_live, mail, millis, mint, mint_for, other_docs, payments, read_token, refused,
    seen_from_outside, serial, shown,
};
use crate::support::world::{DOCS, MAIL, OTHER_DOCS, PAYMENTS};
use crate::support::{Store, eventually};

/// Everything that an inactive answer may say.
fn nothing_more() -> proto::ValidateResponse {
    proto::ValidateResponse::default()
}

async fn assert_inactive(verifier: &Client, request: proto::ValidateRequest, what: &str) {
    assert_eq!(verifier.validate(request).await.unwrap(), nothing_more(), "{what}");
}

async fn a_good_token_is_active_with_its_claims(store: Store) {
    let broker = Broker::start(store).await;
    let support = broker.workload("agent/support");
    let mut limited = docs();
    let limit = proto::ArgumentConstraint { prefix: Some("/handbook/".into()), ..Default::default() };
    limited.tools[0].arguments.insert("path".into(), limit);
    let subject = "ann@customers.example.org".to_owned();
    let task = support.begin(proto::BeginTaskRequest { subject, ..begin(&[limited]) }).await.unwrap();
    let minted = support.mint(mint(&task, DOCS)).await.unwrap();
    let (_, claims) = read_token(&minted.token);
    // The second time from what was remembered of the first: the same answer.
    for _ in 0..2 {
        let verdict = broker.verifier().validate(shown(&minted.token, DOCS)).await.unwrap();
        assert!(verdict.active);
        assert_eq!(serde_json::from_str::<Value>(&verdict.claims_json).unwrap(), claims);
        let payload = URL_SAFE_NO_PAD.decode(minted.token.split('.').nth(1).unwrap()).unwrap();
        assert_eq!(verdict.claims_json.as_bytes(), payload, "exactly as signed");
        assert_eq!((&verdict.credential_id, &verdict.task_id), (&minted.credential_id, &task.id));
        assert_eq!(verdict.client_id, "spiffe://example.org/agent/support");
        assert_eq!(verdict.subject, "ann@customers.example.org");
        assert_eq!(verdict.tools, ["read", "search"]);
        assert_eq!(verdict.expires_at, minted.expires_at);
        let details: Value = serde_json::from_str(&verdict.authorization_details_json).unwrap();
        assert_eq!(details, claims["authorization_details"]);
    }
}

async fn what_was_revoked_completed_or_is_expired_is_inactive(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let (live, done, killed) = (agent.docs_task().await, agent.docs_task().await, agent.docs_task().await);
    let token = async |task: &proto::Task| agent.mint(mint(task, DOCS)).await.unwrap();
    let (revoked, completed, ended) = (token(&live).await, token(&done).await, token(&killed).await);
    let expiring = agent.mint(mint_for(&live, DOCS, 2)).await.unwrap();
    let tokens = [&revoked, &completed, &ended, &expiring];
    for token in tokens {
        assert!(verifier.accepts(&token.token).await);
    }
    agent.revoke_credential(&revoked.credential_id).await.unwrap();
    agent.complete(&done.id).await.unwrap();
    broker.operator().revoke(&killed.id).await.unwrap();
    eventually("the expiry", async || !verifier.accepts(&expiring.token).await).await;
    for token in tokens {
        assert_inactive(&verifier, shown(&token.token, DOCS), "it was seen before").await;
        assert_inactive(&verifier, serial(&token.credential_id, DOCS), "as a serial number").await;
    }
    assert!(verifier.accepts(&token(&live).await.token).await);
    // The audit knows why.
    let because: Vec<_> =
        broker.audit().iter().filter_map(|l| l["facts"]["because"].as_str().map(str::to_owned)).collect();
    for why in ["revoked", "task ended: completed", "task ended: revoked"] {
        assert!(because.iter().any(|b| b == why), "{why}: {because:?}");
    }
}

async fn a10_a_token_for_one_audience_is_inactive_at_every_other(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.begin(begin(&[docs(), mail(), payments()])).await.unwrap();
    let minted = agent.mint(mint(&task, DOCS)).await.unwrap();
    for (path, audience) in [("mcp/mail", MAIL), ("mcp/payments/p1", PAYMENTS)] {
        let request = proto::ValidateRequest {
            presented_certificate_sha256: agent.thumbprint.clone().into(),
            presented_dpop_jwk_sha256: vec![7; 32].into(),
            ..shown(&minted.token, audience)
        };
        assert_inactive(&broker.workload(path), request, audience).await;
    }
    // Nor can the verifier that received it learn more of it under another audience's name.
    let answer = broker.verifier().validate(shown(&minted.token, MAIL)).await;
    refused(answer, Code::PermissionDenied, "POLICY_DENIED");
    assert!(broker.verifier().accepts(&minted.token).await);
}

async fn a12_credentials_of_another_tenant_look_like_garbage(store: Store) {
    let broker = Broker::start(store).await;
    let theirs = broker.other_workload("agent/a1");
    let task = theirs.begin(begin(&[other_docs()])).await.unwrap();
    let minted = theirs.mint(mint(&task, OTHER_DOCS)).await.unwrap();
    let verifier = broker.verifier();
    assert_inactive(&verifier, shown(&minted.token, DOCS), "their token").await;
    assert_inactive(&verifier, shown("garbage", DOCS), "garbage").await;
    assert_inactive(&verifier, serial(&minted.credential_id, DOCS), "their id").await;
    assert_inactive(&verifier, serial(&"0".repeat(40), DOCS), "no id").await;
    // Their audience is one that this verifier is not enrolled for, registered or not: it learns nothing of tokens there.
    let foreign = verifier.validate(shown(&minted.token, OTHER_DOCS)).await.expect_err("not enrolled");
    let garbage = verifier.validate(shown("garbage", OTHER_DOCS)).await.expect_err("not enrolled");
    assert_eq!(seen_from_outside(&foreign, ""), seen_from_outside(&garbage, ""));
    assert!(
        broker.other_workload("mcp/docs").validate(shown(&minted.token, OTHER_DOCS)).await.unwrap().active
    );
    let revoke = broker.agent().revoke_credential(&minted.credential_id).await;
    refused(revoke, Code::NotFound, "CREDENTIAL_NOT_FOUND");
    assert!(is_live(&theirs.get(&task.id).await.unwrap()));
}

async fn only_an_enrolled_verifier_may_ask(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let minted = agent.mint(mint(&agent.docs_task().await, DOCS)).await.unwrap();
    let others = ["agent/a1", "mcp/docs/sub", "mcp/docs2", "mcp", "mcp/mail", "operator/alice", "Mcp/docs"];
    for path in others {
        let answer = broker.workload(path).validate(shown(&minted.token, DOCS)).await;
        refused(answer, Code::PermissionDenied, "POLICY_DENIED");
    }
    let answer = broker.other_workload("mcp/docs").validate(shown(&minted.token, DOCS)).await;
    refused(answer, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    let answer = broker.verifier().validate(shown(&minted.token, "https://nowhere.example.org/mcp")).await;
    refused(answer, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    let nothing = proto::ValidateRequest { audience: DOCS.into(), ..Default::default() };
    refused(broker.verifier().validate(nothing).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

async fn a08_a_bound_token_is_inactive_without_its_key(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    let task = agent.begin(begin(&[payments(), mail()])).await.unwrap();
    let cases = [("mcp/payments/p1", PAYMENTS), ("mcp/mail", MAIL)];
    for (path, audience) in cases {
        let jkt = if audience == MAIL { vec![7; 32] } else { Vec::new() };
        let request =
            proto::MintTokenRequest { dpop_jwk_sha256: jkt.clone().into(), ..mint(&task, audience) };
        let minted = agent.mint(request).await.unwrap();
        let verifier = broker.workload(path);
        let with = |certificate: &[u8], jkt: &[u8]| proto::ValidateRequest {
            presented_certificate_sha256: certificate.to_vec().into(),
            presented_dpop_jwk_sha256: jkt.to_vec().into(),
            ..shown(&minted.token, audience)
        };
        let certificate = if audience == MAIL { Vec::new() } else { agent.thumbprint.clone() };
        assert!(verifier.validate(with(&certificate, &jkt)).await.unwrap().active, "{audience}");
        let thief = broker.second_agent().thumbprint;
        assert_inactive(&verifier, with(&[], &[]), "nothing presented").await;
        assert_inactive(&verifier, with(&thief, &[]), "the thief's certificate").await;
        assert_inactive(&verifier, with(&[], &[8; 32]), "the thief's key").await;
        // The right bytes as the wrong kind of key.
        assert_inactive(&verifier, with(&jkt, &certificate), "kinds exchanged").await;
        assert!(verifier.validate(with(&certificate, &jkt)).await.unwrap().active, "{audience}");
        let short = with(&[1; 31], &[]);
        refused(verifier.validate(short).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
}

async fn a_certificate_is_judged_by_its_serial_number(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let mut limited = grant(DOCS, &["read"]);
    let limit = proto::ArgumentConstraint { max_length: Some(9), ..Default::default() };
    limited.tools[0].arguments.insert("path".into(), limit);
    let task = agent.begin(begin(&[limited])).await.unwrap();
    let issue = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let key = proto::issue_certificate_request::Key::CsrDer(csr.der().to_vec().into());
        agent.issue(proto::IssueCertificateRequest {
            task_id: task.id.clone(),
            key: Some(key),
            ..Default::default()
        })
    };
    let (issued, revoked) = (issue().await.unwrap(), issue().await.unwrap());
    let with_colons = |id: &str| {
        let pairs: Vec<_> = id.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        pairs.join(":").to_uppercase()
    };
    // Our serial numbers begin with a zero nibble; Go leaves it out, and Python writes 0x in its place.
    let short = issued.credential_id.trim_start_matches('0');
    let printed = [
        issued.credential_id.clone(),
        with_colons(&issued.credential_id),
        short.into(),
        format!("0x{short}"),
    ];
    for number in printed {
        let verdict = verifier.validate(serial(&number, DOCS)).await.unwrap();
        assert!(verdict.active && verdict.claims_json.is_empty());
        assert_eq!((&verdict.credential_id, &verdict.task_id), (&issued.credential_id, &task.id));
        let agent_id = "spiffe://example.org/agent/a1";
        assert_eq!((verdict.client_id.as_str(), verdict.subject.as_str()), (agent_id, agent_id));
        assert_eq!(
            (verdict.tools.as_slice(), verdict.expires_at),
            (["read".to_owned()].as_slice(), issued.expires_at)
        );
        assert!(verdict.authorization_details_json.contains("\"max_length\":9"), "{verdict:?}");
    }
    // The task has no grant there.
    let mail = broker.workload("mcp/mail");
    assert_inactive(&mail, serial(&issued.credential_id, MAIL), "another audience").await;
    // A token's id is no certificate's, and a token is no certificate.
    let minted = agent.mint(mint(&task, DOCS)).await.unwrap();
    assert_inactive(&verifier, serial(&minted.credential_id, DOCS), "a token's id").await;
    for other in ["0", "01:02", &"f".repeat(40)] {
        assert_inactive(&verifier, serial(other, DOCS), other).await;
    }
    for garbage in ["", "zz", &"1".repeat(10_000), "../x", "{p00}", &minted.token] {
        let answer = verifier.validate(serial(garbage, DOCS)).await;
        refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    agent.revoke_credential(&revoked.credential_id).await.unwrap();
    assert_inactive(&verifier, serial(&revoked.credential_id, DOCS), "revoked").await;
    agent.complete(&task.id).await.unwrap();
    assert_inactive(&verifier, serial(&issued.credential_id, DOCS), "completed").await;
    assert!(millis(&issued.expires_at) > i64::try_from(crate::support::now().as_millis()).unwrap());
}

on_both_stores!(
    a_good_token_is_active_with_its_claims,
    what_was_revoked_completed_or_is_expired_is_inactive,
    a10_a_token_for_one_audience_is_inactive_at_every_other,
    a12_credentials_of_another_tenant_look_like_garbage,
    only_an_enrolled_verifier_may_ask,
    a08_a_bound_token_is_inactive_without_its_key,
    a_certificate_is_judged_by_its_serial_number,
);

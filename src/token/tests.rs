use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use serde_json::{Value, json};
use taskpass_verifier::claims::{Confirmation, GoalDigest, Thumbprint, ToolName, UnixSeconds};
use taskpass_verifier::constraint::{ArgumentConstraint, Constraints, Limits};
use taskpass_verifier::keyset::{Algorithm, VerificationKey};
use taskpass_verifier::token::MAX_TOKEN_BYTES;
use taskpass_verifier::{EnforcementProfile, Expectations, Presented, Refusal, UnverifiedToken};

use super::*;
use crate::error::{Reason, Result};
use crate::identity::SpiffeId;
use crate::ids::{CredentialId, Generation, Partition, TaskId};
use crate::keys::testing::{NOW, domain, keyring};
use crate::keys::{Keyring, Signature, Signer};
use crate::time::Timestamp;

const ISSUER: &str = "https://broker.test/acme.test";
const AUDIENCE: &str = "https://tools.acme.test/mcp";
const AGENT: &str = "spiffe://acme.test/agent";

fn issuer_of(keyring: &Keyring, name: &str) -> TokenIssuer {
    TokenIssuer::new(ISSUER.to_owned(), keyring.signer(&domain(name)).unwrap().clone()).unwrap()
}

fn task() -> TaskId {
    TaskId::from_parts(NOW.as_millis(), Partition::from_low_bits(5), [3; 10])
}

fn after(seconds: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(seconds))
}

fn tool(name: &str) -> ToolName {
    name.parse().unwrap()
}

fn limits() -> Constraints {
    let limits = Limits { prefix: Some("/srv/".to_owned()), ..Limits::default() };
    Constraints::new([("path".to_owned(), ArgumentConstraint::new(limits).unwrap())]).unwrap()
}

/// Hands `change` a sound grant of a root task with the tools `read` (limited) and `list`, and mints what it makes of it.
fn mint(issuer: &TokenIssuer, change: impl FnOnce(&mut TokenGrant<'_>)) -> Result<MintedToken> {
    let (agent, read, list): (SpiffeId, _, _) = (AGENT.parse().unwrap(), tool("read"), tool("list"));
    let (limited, unlimited) = (limits(), Constraints::default());
    let tools = [(&read, &limited), (&list, &unlimited)];
    let mut grant = TokenGrant {
        audience: AUDIENCE,
        profile: EnforcementProfile::Bearer,
        agent: &agent,
        subject: None,
        task: task(),
        lineage: &[],
        goal: GoalDigest::of("Tidy up"),
        generation: Generation::from_parts(1, [2; 6]),
        began_seq: 41,
        credential: CredentialId { task: task(), number: 7 },
        issued_at: NOW,
        expires_at: after(120),
        tools: &tools,
        confirmation: None,
    };
    change(&mut grant);
    at_once(issuer.mint(&grant))
}

/// A key in memory makes nobody wait.
fn at_once<T>(minting: impl Future<Output = T>) -> T {
    minting.now_or_never().expect("a key in memory signs at once")
}

fn parts(minted: &MintedToken) -> (Value, Value) {
    use base64::Engine as _;
    let decode = |part: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
    let mut parts = minted.token.expose().split('.').map(decode);
    let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (next(), next())
}

#[tokio::test]
async fn a_token_says_exactly_what_was_granted_in_the_profile() {
    let keyring = keyring().await;
    let issuer = issuer_of(&keyring, "acme.test");
    let minted = mint(&issuer, |_| {}).unwrap();
    let (header, claims) = parts(&minted);
    let kid = keyring.signer(&domain("acme.test")).unwrap().kid().to_string();
    assert_eq!(header, json!({"alg": "ES256", "kid": kid, "typ": "at+jwt"}));
    let (task, jti) = (task().to_string(), CredentialId { task: task(), number: 7 }.to_string());
    let now = NOW.as_secs();
    assert_eq!(
        claims,
        json!({
            "iss": ISSUER, "sub": AGENT, "aud": AUDIENCE, "client_id": AGENT, "jti": jti,
            "iat": now, "nbf": now, "exp": now + 120,
            "scope": "mcp mcp:tool:read mcp:tool:list",
            "authorization_details": [
                {"type": "mcp_tool_call", "tool": "read", "constraints": {"path": {"prefix": "/srv/"}}}
            ],
            "txn": task,
            "taskpass": {
                "task": task, "lineage": [], "goal": GoalDigest::of("Tidy up").to_string(),
                "gen": Generation::from_parts(1, [2; 6]).to_string(), "seq": 41
            }
        })
    );
    assert_eq!((minted.id.to_string(), minted.expires_at), (jti, after(120)));
    assert_eq!(minted.scope.as_str(), "mcp mcp:tool:read mcp:tool:list");
    assert_eq!(minted.token_type.as_str(), "Bearer");
    assert!(!format!("{minted:?}{issuer:?}").contains(minted.token.expose().as_str()), "A44");
}

#[tokio::test]
async fn a_stock_signature_check_accepts_both_algorithms() {
    let keyring = keyring().await;
    for name in ["acme.test", "beta.test"] {
        let minted = mint(&issuer_of(&keyring, name), |_| {}).unwrap();
        let (signed, signature) = minted.token.expose().rsplit_once('.').unwrap();
        use base64::Engine as _;
        let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature).unwrap();
        let key = keyring.signer(&domain(name)).unwrap().public();
        let check = match key.algorithm() {
            Algorithm::Es256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_bytes())
                .verify(signed.as_bytes(), &signature),
            Algorithm::EdDsa => {
                UnparsedPublicKey::new(&ED25519, key.public_bytes()).verify(signed.as_bytes(), &signature)
            }
        };
        check.unwrap();
    }
}

#[tokio::test]
async fn a37_a_token_of_one_trust_domain_is_refused_with_the_keys_of_another() {
    let keyring = keyring().await;
    let minted = mint(&issuer_of(&keyring, "acme.test"), |_| {}).unwrap();
    let verify = |name: &str| {
        let expectations = Expectations {
            issuer: ISSUER,
            audience: AUDIENCE,
            profile: EnforcementProfile::Bearer,
            presented: Presented::NOTHING,
        };
        let keys = keyring.key_set(&domain(name)).unwrap();
        UnverifiedToken::parse(minted.token.expose()).unwrap().verify(
            keys,
            &expectations,
            UnixSeconds(NOW.as_secs()),
        )
    };
    assert_eq!(verify("acme.test").unwrap().claims().jti, minted.id);
    assert_eq!(verify("beta.test").unwrap_err(), Refusal::UnknownKey);
}

#[tokio::test]
async fn a_delegated_token_names_the_subject_and_the_agent_that_acts() {
    let issuer = issuer_of(&keyring().await, "acme.test");
    let (_, claims) = parts(&mint(&issuer, |grant| grant.subject = Some("alice@acme.test")).unwrap());
    assert_eq!(claims["sub"], "alice@acme.test");
    assert_eq!(claims["act"], json!({"sub": AGENT}));
    assert_eq!(claims["client_id"], AGENT);
    let (_, claims) = parts(&mint(&issuer, |grant| grant.subject = Some(AGENT)).unwrap());
    assert_eq!((claims["sub"].as_str(), claims.get("act")), (Some(AGENT), None), "no delegation to oneself");
}

#[tokio::test]
async fn a_child_tasks_token_names_its_ancestors_and_the_root() {
    let issuer = issuer_of(&keyring().await, "acme.test");
    let root = TaskId::from_parts(1, Partition::from_low_bits(5), [1; 10]);
    let (_, claims) = parts(&mint(&issuer, |grant| grant.lineage = Box::leak(Box::new([root]))).unwrap());
    assert_eq!(claims["txn"], root.to_string());
    assert_eq!(claims["taskpass"]["lineage"], json!([root.to_string()]));
}

#[tokio::test]
async fn a_bound_token_names_one_key_and_says_how_it_is_presented() {
    let issuer = issuer_of(&keyring().await, "acme.test");
    let thumbprint = Thumbprint::from_bytes([9; 32]);
    for (profile, confirmation, member, token_type) in [
        (EnforcementProfile::X5tS256, Confirmation::X5tS256(thumbprint), "x5t#S256", "Bearer"),
        (EnforcementProfile::Jkt, Confirmation::Jkt(thumbprint), "jkt", "DPoP"),
    ] {
        let minted = mint(&issuer, |grant| {
            grant.profile = profile;
            grant.confirmation = Some(confirmation);
        });
        let minted = minted.unwrap();
        assert_eq!(parts(&minted).1["cnf"], json!({member: thumbprint.to_string()}));
        assert_eq!(minted.token_type.as_str(), token_type);
    }
}

#[tokio::test]
async fn a_grant_that_breaks_the_profile_makes_no_token() {
    let issuer = issuer_of(&keyring().await, "acme.test");
    let refused = |change: fn(&mut TokenGrant<'_>)| mint(&issuer, change).unwrap_err().log_line();
    for (line, name) in [
        (refused(|grant| grant.expires_at = after(901)), "lifetime_too_long"),
        (refused(|grant| grant.expires_at = NOW), "empty_lifetime"),
        (refused(|grant| grant.profile = EnforcementProfile::X5tS256), "confirmation_missing"),
        (
            refused(|grant| {
                grant.credential.task = TaskId::from_parts(9, Partition::from_low_bits(5), [9; 10])
            }),
            "jti_of_another_task",
        ),
        (
            refused(|grant| {
                grant.lineage =
                    Box::leak(Box::new([TaskId::from_parts(1, Partition::from_low_bits(6), [1; 10])]))
            }),
            "broken_lineage",
        ),
        (refused(|grant| grant.subject = Some("")), "malformed_claim"),
        (
            refused(|grant| grant.agent = Box::leak(Box::new("spiffe://acme.test".parse().unwrap()))),
            "without a path",
        ),
    ] {
        assert!(line.starts_with("INTERNAL") && line.contains(name), "{name}: {line}");
    }
}

#[tokio::test]
async fn what_fits_makes_a_token_and_a_byte_more_does_not() {
    let issuer = issuer_of(&keyring().await, "acme.test");
    let agent: SpiffeId = AGENT.parse().unwrap();
    let none = Constraints::default();
    let names: Vec<_> = (0..128).map(|i| tool(&format!("{i:0>100}"))).collect();
    // Judges a token of so many tools, the last with a name of that length, and mints it.
    let judged = |count: usize, length: usize| {
        let last = tool(&"t".repeat(length));
        let tools: Vec<_> = names.iter().take(count).chain([&last]).map(|name| (name, &none)).collect();
        let grant = of_tools(&agent, &tools);
        (issuer.fits(&grant).unwrap(), at_once(issuer.mint(&grant)))
    };
    let count = (1..128).find(|count| !judged(*count, 128).0).unwrap();
    let longest = (1..128).rev().find(|length| judged(count, *length).0).unwrap();
    let token = judged(count, longest).1.unwrap().token;
    assert!((MAX_TOKEN_BYTES - 1..=MAX_TOKEN_BYTES).contains(&token.expose().len()));
    assert_eq!(judged(count, longest + 1).1.unwrap_err().reason(), Reason::Internal);
}

/// Everything at its longest but the subject, whose every character JSON writes as six.
#[tokio::test]
async fn what_fits_at_a_glance_makes_a_token() {
    let issuer = issuer_of(&keyring().await, "acme.test");
    let agent: SpiffeId = format!("spiffe://acme.test/{}", "a".repeat(200)).parse().unwrap();
    let none = Constraints::default();
    let names: Vec<_> = (0..16).map(|i| tool(&format!("{i:0>100}"))).collect();
    let tools: Vec<_> = names.iter().map(|name| (name, &none)).collect();
    let lineage: Vec<_> = (0..8).map(|i| TaskId::from_parts(1, task().partition(), [i; 10])).collect();
    let mut longest = None;
    for length in 1..2_000 {
        let subject = "\u{1}".repeat(length);
        let grant = TokenGrant {
            subject: Some(&subject),
            lineage: &lineage,
            began_seq: u64::MAX,
            profile: EnforcementProfile::Jkt,
            confirmation: Some(Confirmation::Jkt(Thumbprint::from_bytes([255; 32]))),
            ..of_tools(&agent, &tools)
        };
        if issuer.surely_fits(&grant) {
            longest = Some((length, at_once(issuer.mint(&grant)).map(|minted| minted.token.expose().len())));
        }
    }
    let (length, minted) = longest.unwrap();
    assert!(length > 50, "{length}");
    assert!(minted.unwrap() < MAX_TOKEN_BYTES);
}

fn of_tools<'a>(agent: &'a SpiffeId, tools: &'a [(&'a ToolName, &'a Constraints)]) -> TokenGrant<'a> {
    TokenGrant {
        audience: AUDIENCE,
        profile: EnforcementProfile::Bearer,
        agent,
        subject: None,
        task: task(),
        lineage: &[],
        goal: GoalDigest::of(""),
        generation: Generation::from_parts(1, [2; 6]),
        began_seq: 0,
        credential: CredentialId { task: task(), number: 0 },
        issued_at: NOW,
        expires_at: after(60),
        tools,
        confirmation: None,
    }
}

/// A key that has an end, or signs with another key than it says.
#[derive(Debug)]
struct Odd {
    key: Arc<dyn Signer>,
    signs_with: Arc<dyn Signer>,
    end: Option<Timestamp>,
}

impl Signer for Odd {
    fn public(&self) -> &VerificationKey {
        self.key.public()
    }
    fn not_after(&self) -> Option<Timestamp> {
        self.end
    }
    fn sign(&self, signing_input: &[u8]) -> Signature {
        self.signs_with.sign(signing_input)
    }
}

#[tokio::test]
async fn no_token_outlives_its_key() {
    let keyring = keyring().await;
    let key = keyring.signer(&domain("acme.test")).unwrap();
    let odd = Odd { key: key.clone(), signs_with: key.clone(), end: Some(after(119)) };
    let issuer = TokenIssuer::new(ISSUER.to_owned(), Arc::new(odd)).unwrap();
    let error = mint(&issuer, |_| {}).unwrap_err();
    assert!(error.log_line().contains("outlive its key"), "{}", error.log_line());
    mint(&issuer, |grant| grant.expires_at = after(119)).unwrap();
}

#[tokio::test]
async fn a37_no_token_leaves_under_a_key_that_signs_wrongly() {
    let (keyring, other) = (keyring().await, keyring().await);
    let acme = |keyring: &Keyring| keyring.signer(&domain("acme.test")).unwrap().clone();
    let odd = Odd { key: acme(&keyring), signs_with: acme(&other), end: None };
    let issuer = TokenIssuer::new(ISSUER.to_owned(), Arc::new(odd)).unwrap();
    for _ in 0..300 {
        let error = mint(&issuer, |_| {}).unwrap_err();
        assert!(error.log_line().contains("bad_signature"), "{}", error.log_line());
    }
}

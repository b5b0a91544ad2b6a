//! Every RPC of the broker, by its descriptor, is called by those who must not: without a certificate, with one that nothing here trusts,
//! from another tenant, in another role. An RPC that is added without an entry in [`ROLES`] fails here.

mod roles;

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use taskpass::proto;
use tonic::{Code, Status};
use tonic_reflection::pb as reflection;

use crate::support::Store;
use crate::support::broker::Broker;
use crate::support::ca::leaf;
use crate::support::client::Client;
use crate::support::raw;
use crate::support::story::{
    begin, docs, grant, kid_of, mint, mint_for, other_docs, reason, seconds, seen_from_outside, serial, shown,
};
use crate::support::world::{DOCS, OTHER_DOCS, OTHER_TENANT, PAYMENTS, TENANT};

/// Trusted callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The agent whose task it is.
    Owner,
    /// Another agent of the same tenant.
    Agent,
    /// Enrolled for the audience in question.
    Verifier,
    /// Enrolled for another audience.
    OtherVerifier,
    Operator,
    /// A workload of the tenant that no policy names.
    Nobody,
    /// Agent, verifier and operator of another tenant.
    ForeignAgent,
    ForeignVerifier,
    ForeignOperator,
}

use Role::*;
use roles::{Entry, ROLES};

const ALL: [Role; 9] =
    [Owner, Agent, Verifier, OtherVerifier, Operator, Nobody, ForeignAgent, ForeignVerifier, ForeignOperator];

impl Role {
    fn client(self, broker: &Broker) -> Client {
        match self {
            Owner => broker.workload("agent/a1"),
            Agent => broker.workload("agent/a2"),
            Verifier => broker.workload("mcp/docs"),
            OtherVerifier => broker.workload("mcp/mail"),
            Operator => broker.workload("operator/alice"),
            Nobody => broker.workload("batch/nightly"),
            ForeignAgent => broker.other_workload("agent/a1"),
            ForeignVerifier => broker.other_workload("mcp/docs"),
            ForeignOperator => broker.other_workload("operator/alice"),
        }
    }
}

/// What there is to ask for: made anew for each call, as some calls end it.
struct Things {
    task: proto::Task,
    credential: String,
    token: String,
    /// Of the key that has signed it.
    kid: String,
}

impl Things {
    async fn new(owner: &Client) -> Self {
        let task = owner.docs_task().await;
        // For as long as all the calls about it may take.
        let minted = owner.mint(mint_for(&task, DOCS, 300)).await.unwrap();
        let kid = kid_of(&minted.token);
        Self { task, credential: minted.credential_id, token: minted.token, kid }
    }
}

/// The paths of all methods, and whether they take a stream of messages: of our own descriptor set, and of the standard services beside them.
fn methods() -> BTreeMap<String, bool> {
    let sets = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        reflection::v1::FILE_DESCRIPTOR_SET,
        reflection::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = BTreeMap::new();
    for file in sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file) {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.insert(path, method.client_streaming());
            }
        }
    }
    methods
}

fn entry(method: &str) -> &'static Entry {
    ROLES.iter().find(|entry| entry.method == method).unwrap_or_else(|| {
        panic!("{method} has no entry in ROLES: say who may call it, so that all others are tried here")
    })
}

/// Permitted, and not done because of how things stand.
fn waits(status: &Status) -> bool {
    ["KEY_WAITS", "KEY_WRONG_STATE"].contains(&reason(status).as_str())
}

/// Not done, and nothing was said about whether there is anything.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::NotFound | Code::Unauthenticated)
        || reason(status) == "UNKNOWN_AUDIENCE"
}

#[test]
fn every_method_has_an_entry_and_every_entry_is_a_method() {
    let methods = methods();
    assert!(methods.len() >= 20, "{methods:?}");
    assert!(methods.keys().all(|method| entry(method).method == method));
    for entry in ROLES {
        assert!(methods.contains_key(entry.method), "{} is no method any more", entry.method);
    }
}

/// The first message of the answer.
async fn call(client: &Client, method: &str, streams: bool, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    if streams {
        raw::open_call(client, method, message).await
    } else {
        raw::call(client, method, message).await
    }
}

/// The broker closes the connection in the handshake, so the caller hears of no status of ours.
async fn is_unheard(client: &Client, method: &str, streams: bool, things: &Things) {
    let answer = call(client, method, streams, (entry(method).message)(things)).await;
    let status = answer.expect_err(method);
    let from_us = tonic_types::StatusExt::get_details_error_info(&status).is_some();
    assert!(!from_us && matches!(status.code(), Code::Unavailable | Code::Unknown), "{method}: {status:?}");
}

#[tokio::test]
async fn every_method_refuses_a_caller_without_a_certificate() {
    let broker = Broker::start(Store::Embedded).await;
    let things = Things::new(&broker.agent()).await;
    let anonymous = Client::anonymous(broker.grpc, &broker.world.broker_ca);
    for (method, streams) in methods() {
        is_unheard(&anonymous, &method, streams, &things).await;
    }
    let (_, metrics) = broker.page("/metrics").await;
    assert!(metrics.contains("taskpass_peer_refused_total{reason=\"no_certificate\"}"), "{metrics}");
}

#[tokio::test]
async fn every_method_refuses_a_certificate_that_no_bundle_here_trusts() {
    let broker = Broker::start(Store::Embedded).await;
    let things = Things::new(&broker.agent()).await;
    let world = &broker.world;
    // One of a trust domain that is unknown here, one of another CA in our tenant's name, and two names that are trusted elsewhere:
    // signed by the other tenant's CA, and by the broker's own.
    let claimed = leaf("spiffe://example.org/operator/alice");
    let key = || rcgen::KeyPair::generate().unwrap();
    let untrusted = [
        world.stranger.svid("operator/alice"),
        world.impostor.svid("operator/alice"),
        world.other_tenant.issue(&claimed, key()),
        world.broker_ca.issue(&claimed, key()),
    ];
    for svid in &untrusted {
        let client = broker.client(svid);
        for (method, streams) in methods() {
            is_unheard(&client, &method, streams, &things).await;
        }
    }
    let audit = broker.audit();
    assert!(audit.iter().all(|line| line["who"] == "spiffe://example.org/agent/a1"), "{audit:?}");
}

async fn every_method_serves_its_roles_and_refuses_all_others(store: Store) {
    let broker = Broker::start(store).await;
    let owner = Owner.client(&broker);
    let mut things = Things::new(&owner).await;
    for role in ALL {
        let client = role.client(&broker);
        for (method, streams) in methods() {
            let entry = entry(&method);
            let answer = call(&client, &method, streams, (entry.message)(&things)).await;
            match (entry.may.contains(&role), answer) {
                (true, Ok(_)) if *entry.may == ALL => {}
                // It may have ended what it was about.
                (true, Ok(_)) => things = Things::new(&owner).await,
                (true, Err(status)) if waits(&status) => {}
                (false, Err(status)) if is_refusal(&status) => {
                    assert_untouched(&owner, &things, &method).await
                }
                (may, answer) => panic!("{role:?} may call {method}: {may}; {answer:?}"),
            }
        }
    }
}

/// The first message of a follower.
fn hello(audience: &str) -> Vec<u8> {
    let hello =
        proto::FollowHello { audience: audience.into(), bound: None, nonce: vec![1; 16].into(), known: None };
    proto::FollowRequest { message: Some(proto::follow_request::Message::Hello(hello)) }.encode_to_vec()
}

/// What a refused call was about lives on.
async fn assert_untouched(owner: &Client, things: &Things, method: &str) {
    let task = owner.get(&things.task.id).await.unwrap();
    assert_eq!(task, proto::Task { credentials_issued: 1, ..things.task.clone() }, "{method}");
    let credentials = owner.list_credentials(&things.task.id).await.unwrap();
    assert!(credentials.len() == 1 && !credentials[0].revoked, "{method}: {credentials:?}");
}

#[tokio::test]
async fn another_tenants_own_things_are_in_reach_of_nobody_here() {
    let broker = Broker::start(Store::Embedded).await;
    let theirs = ForeignAgent.client(&broker);
    let task = theirs.begin(begin(&[other_docs()])).await.unwrap();
    let minted = theirs.mint(mint(&task, OTHER_DOCS)).await.unwrap();
    let kid = kid_of(&minted.token);
    let things = Things { task: task.clone(), credential: minted.credential_id, token: minted.token, kid };
    for role in [Owner, Agent, Verifier, OtherVerifier, Nobody] {
        let client = role.client(&broker);
        for (method, streams) in methods() {
            if entry(&method).may.contains(&Nobody) {
                continue;
            }
            let message = match method.as_str() {
                "/taskpass.v1.TaskService/BeginTask" => begin(&[other_docs()]).encode_to_vec(),
                "/taskpass.v1.CredentialService/MintToken" => mint(&task, OTHER_DOCS).encode_to_vec(),
                "/taskpass.v1.ValidationService/Validate" => shown(&things.token, OTHER_DOCS).encode_to_vec(),
                "/taskpass.v1.FeedService/Follow" => hello(OTHER_DOCS),
                "/taskpass.v1.OperatorService/RevokeTrustDomain" => {
                    let trust_domain = OTHER_TENANT.to_owned();
                    proto::RevokeTrustDomainRequest { trust_domain, ..Default::default() }.encode_to_vec()
                }
                method => (entry(method).message)(&things),
            };
            let status = call(&client, &method, streams, message).await.expect_err(&method);
            assert!(is_refusal(&status), "{role:?} {method}: {status:?}");
        }
    }
    assert_untouched(&theirs, &things, "all of them").await;
    assert!(ForeignVerifier.client(&broker).validate(shown(&things.token, OTHER_DOCS)).await.unwrap().active);
}

/// All that can be asked about an audience, by a caller that has a task of its own: what comes back, but for the audience's name.
async fn asked_about(client: &Client, own: &proto::Task, audience: &str) -> Vec<(Code, String, Vec<u8>)> {
    let tool = |name: &str| grant(audience, &[name]);
    let begins = [
        begin(&[tool("read")]),
        begin(&[tool("no.such.tool")]),
        begin(&[other_docs(), tool("read")]),
        begin(&[tool("read"), grant(OTHER_DOCS, &["no.such.tool"])]),
        begin(&[grant(OTHER_DOCS, &["no.such.tool"]), tool("read")]),
        begin(&[tool("read"), grant("https://nobody.example.org/mcp", &["read"])]),
        proto::BeginTaskRequest { subject: "ann@customers.example.org".into(), ..begin(&[tool("read")]) },
        proto::BeginTaskRequest { lifetime: seconds(7_200), ..begin(&[tool("read")]) },
    ];
    let begins = begins.map(|it| ("/taskpass.v1.TaskService/BeginTask", it.encode_to_vec()));
    let narrow = proto::MintTokenRequest { tools: vec!["no.such.tool".into()], ..mint(own, audience) };
    let others = [
        ("/taskpass.v1.CredentialService/MintToken", mint(own, audience).encode_to_vec()),
        ("/taskpass.v1.CredentialService/MintToken", narrow.encode_to_vec()),
        ("/taskpass.v1.ValidationService/Validate", shown("garbage", audience).encode_to_vec()),
        ("/taskpass.v1.ValidationService/Validate", serial(&"0".repeat(40), audience).encode_to_vec()),
        ("/taskpass.v1.FeedService/Follow", hello(audience)),
    ];
    let mut seen = Vec::new();
    for (method, message) in begins.into_iter().chain(others) {
        let answer = call(client, method, method.ends_with("/Follow"), message).await;
        let status = answer.expect_err(method);
        assert_eq!(reason(&status), "UNKNOWN_AUDIENCE", "{method}: {status:?}");
        seen.push(seen_from_outside(&status, audience));
    }
    seen
}

#[tokio::test]
async fn a12_an_audience_that_one_may_not_see_looks_like_none() {
    let broker = Broker::start(Store::Embedded).await;
    let foreign = ForeignAgent.client(&broker);
    let own = foreign.begin(begin(&[other_docs()])).await.unwrap();
    for (hidden, none) in
        [(DOCS, "https://nada.example.org/mcp"), (PAYMENTS, "https://nowherez.example.org/mcp")]
    {
        assert_eq!(asked_about(&foreign, &own, hidden).await, asked_about(&foreign, &own, none).await);
    }
    let line = broker.audit().into_iter().find(|line| line["action"] == "Validate").unwrap();
    assert!(
        line["detail"].as_str().unwrap().contains("POLICY_DENIED"),
        "for the audit the two differ: {line}"
    );
    // Who may see it is told what is the matter.
    let wrong = begin(&[grant(DOCS, &["no.such.tool"])]);
    assert_eq!(reason(&Agent.client(&broker).begin(wrong).await.unwrap_err()), "UNKNOWN_TOOL");
    let denied = Nobody.client(&broker).begin(begin(&[docs()])).await.unwrap_err();
    assert_eq!(reason(&denied), "POLICY_DENIED");
}

#[tokio::test]
async fn a12_nobody_is_told_whom_else_the_broker_serves() {
    let broker = Broker::start(Store::Embedded).await;
    let request = proto::GetKeySetRequest { trust_domain: "nowhere.test".into() };
    let status = ForeignAgent.client(&broker).directory().get_key_set(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "TRUST_DOMAIN_NOT_FOUND"));
    assert!(!status.message().contains(TENANT) && !status.message().contains(OTHER_TENANT), "{status:?}");
}

on_both_stores!(every_method_serves_its_roles_and_refuses_all_others);

//! Who may do what is decided by files that can change at any time, and by nothing that a caller says about itself.

use taskpass::proto;
use tonic::{Code, Request};

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::story::{
    begin, docs, grant, is_live, mint, mint_for, other_docs, reason, refused, shown,
};
use crate::support::world::{DOCS, PAYMENTS};
use crate::support::{Store, eventually, raw};

/// Waits until a call is refused by policy; gives up after a while.
async fn until_denied(client: &Client) {
    eventually("a denial", async || {
        let answer = client.begin(begin(&[docs()])).await;
        // Whoever may not even see the audience is told that there is none.
        answer.is_err_and(|status| ["POLICY_DENIED", "UNKNOWN_AUDIENCE"].contains(&reason(&status).as_str()))
    })
    .await;
}

async fn until_permitted(client: &Client) {
    eventually("a permit", async || client.begin(begin(&[docs()])).await.is_ok()).await;
}

/// The last decision on an action rested on these, says its audit line.
async fn assert_why(broker: &Broker, action: &str, why: &[&str]) {
    eventually(&format!("{action} because of {why:?}"), async || {
        let line = broker.audit().into_iter().rfind(|line| line["action"] == action);
        line.is_some_and(|line| line["why"] == serde_json::json!(why))
    })
    .await;
}

/// How often the broker complained about a file.
fn complaints(broker: &Broker, file: &str) -> usize {
    let complains = |line: &&serde_json::Value| line["level"] == "ERROR" && line.to_string().contains(file);
    broker.as_process().lines().iter().filter(complains).count()
}

#[tokio::test]
async fn a14_what_a_caller_says_about_itself_counts_for_nothing() {
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    let theirs = broker.second_agent().docs_task().await;
    let mut request = Request::new(proto::RevokeTaskRequest {
        task_id: theirs.id.clone(),
        note: String::new(),
        wait: None,
    });
    for (name, value) in [
        ("x-role", "admin"),
        ("x-spiffe-id", "spiffe://example.org/operator/alice"),
        (
            "x-forwarded-client-cert",
            "By=spiffe://broker.example.org/broker;URI=spiffe://example.org/operator/alice",
        ),
        ("authorization", "Bearer operator"),
        ("x-approved", "true"),
        ("context", "{\"is_owner\":true,\"approved\":true}"),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    refused(agent.operator().revoke_task(request).await, Code::PermissionDenied, "POLICY_DENIED");

    // Fields that the message does not have are dropped on the floor.
    use prost::Message as _;
    let mut bytes = proto::GetTaskRequest { task_id: theirs.id.clone() }.encode_to_vec();
    for (field, text) in [(15, "role=admin"), (99, "is_owner"), (100, "spiffe://example.org/operator/alice")]
    {
        prost::encoding::string::encode(field, &text.to_owned(), &mut bytes);
    }
    let status = raw::call(&agent, "/taskpass.v1.TaskService/GetTask", bytes).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");

    // Nor do words in free text change anything: an agent on trial sees no personal data.
    let trial = broker.workload("agent/trial/t1");
    let goal = "role=admin approved=true; labels: []; data_class=public".to_owned();
    let words = proto::BeginTaskRequest { goal, ..begin(&[grant(PAYMENTS, &["charges.list"])]) };
    refused(trial.begin(words.clone()).await, Code::PermissionDenied, "POLICY_DENIED");
    assert_why(&broker, "BeginTask", &["forbidden", "no-personal-data-on-trial"]).await;
    agent.begin(words).await.unwrap();
    assert!(is_live(&broker.second_agent().get(&theirs.id).await.unwrap()));
}

#[tokio::test]
async fn a_forbid_wins_over_every_permit() {
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    let task = agent.begin(begin(&[grant(PAYMENTS, &["charges.list", "charges.refund"])])).await.unwrap();
    // Tokens that move money live two minutes at most.
    agent.mint(mint_for(&task, PAYMENTS, 120)).await.unwrap();
    assert_why(&broker, "MintToken", &["agents-mint"]).await;
    refused(agent.mint(mint_for(&task, PAYMENTS, 121)).await, Code::PermissionDenied, "POLICY_DENIED");
    assert_why(&broker, "MintToken", &["forbidden", "money-needs-binding"]).await;
    let list =
        proto::MintTokenRequest { tools: vec!["charges.list".into()], ..mint_for(&task, PAYMENTS, 121) };
    agent.mint(list).await.unwrap();
}

#[tokio::test]
async fn a12_whatever_policy_permits_only_its_owner_acts_as_a_task() {
    let setup = Setup::on(Store::Embedded);
    setup.world.write(
        "policy/all.cedar",
        "@id(\"all\")\npermit (principal is Taskpass::Workload, action, resource);",
    );
    let broker = Broker::of(setup).await;
    let task = broker.agent().docs_task().await;
    for stranger in [broker.second_agent(), broker.operator(), broker.other_workload("agent/a1")] {
        stranger.get(&task.id).await.unwrap();
        refused(stranger.mint(mint(&task, DOCS)).await, Code::NotFound, "TASK_NOT_FOUND");
        refused(stranger.extend(&task.id, 900).await, Code::NotFound, "TASK_NOT_FOUND");
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let issue = proto::IssueCertificateRequest {
            task_id: task.id.clone(),
            key: Some(proto::issue_certificate_request::Key::CsrPem(csr)),
            ..Default::default()
        };
        refused(stranger.issue(issue).await, Code::NotFound, "TASK_NOT_FOUND");
    }
    assert_eq!(broker.agent().get(&task.id).await.unwrap(), task);
}

#[tokio::test]
async fn a15_without_a_permit_everything_is_denied() {
    let setup = Setup::on(Store::Embedded);
    for file in ["agents", "everybody", "limits", "operators", "verifiers", "other-tenant"] {
        setup.world.remove(&format!("policy/{file}.cedar"));
    }
    let never = "@id(\"never\")\nforbid (principal, action == Taskpass::Action::\"RevokeTask\", resource);";
    setup.world.write("policy/never.cedar", never);
    let broker = Broker::of(setup).await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let task = proto::Task { id: id.into(), ..Default::default() };
    // Who is enrolled knows of its audience; to others it is hidden as well.
    let denied = (Code::PermissionDenied, "POLICY_DENIED");
    let hidden = (Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    for (client, (code, why)) in [
        (broker.agent(), hidden),
        (broker.operator(), hidden),
        (broker.verifier(), denied),
        (broker.other_workload("operator/eve"), hidden),
    ] {
        refused(client.begin(begin(&[docs()])).await, code, why);
        assert_why(&broker, "BeginTask", &["not_permitted"]).await;
        refused(client.list(Default::default()).await, Code::PermissionDenied, "POLICY_DENIED");
        refused(client.validate(shown("x", DOCS)).await, code, why);
        refused(client.revoke(id).await, Code::PermissionDenied, "POLICY_DENIED");
        refused(
            client.revoke_workload("spiffe://example.org/agent/a1", 0).await,
            Code::PermissionDenied,
            "POLICY_DENIED",
        );
        refused(client.mint(mint(&task, DOCS)).await, Code::NotFound, "TASK_NOT_FOUND");
        let audiences = client.directory().list_audiences(proto::ListAudiencesRequest {}).await;
        refused(audiences, Code::PermissionDenied, "POLICY_DENIED");
        let health = client.health().check(tonic_health::pb::HealthCheckRequest::default()).await;
        refused(health, Code::PermissionDenied, "POLICY_DENIED");
    }
}

#[tokio::test]
async fn a15_an_emptied_policy_directory_denies_everything() {
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    for file in ["agents", "everybody", "limits", "operators", "verifiers", "other-tenant"] {
        broker.world.remove(&format!("policy/{file}.cedar"));
    }
    until_denied(&agent).await;
    assert_why(&broker, "BeginTask", &["no_policies"]).await;
    refused(agent.mint(mint(&task, DOCS)).await, Code::PermissionDenied, "POLICY_DENIED");
    refused(agent.complete(&task.id).await, Code::PermissionDenied, "POLICY_DENIED");
    refused(broker.operator().revoke(&task.id).await, Code::PermissionDenied, "POLICY_DENIED");
}

#[tokio::test]
async fn a15_a_policy_that_fails_is_a_denial_whatever_the_others_say() {
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    // An overflow, for agents whose path says so.
    let broken = r#"
        @id("broken")
        permit (principal, action == Taskpass::Action::"BeginTask", resource is Taskpass::Audience)
        when { principal.path == "/agent/a1" && context.lifetime_seconds * 9223372036854775807 > 0 };
    "#;
    broker.world.write("policy/broken.cedar", broken);
    until_denied(&agent).await;
    assert_why(&broker, "BeginTask", &["policy_error", "broken"]).await;
    broker.second_agent().docs_task().await;
    broker.world.remove("policy/broken.cedar");
    until_permitted(&agent).await;
}

#[tokio::test]
async fn a_bad_policy_file_keeps_the_whole_set_that_was_in_force() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let good = r#"@id("nobody") forbid (principal, action, resource);"#;
    for bad in [
        "permit (principal",
        "@id(\"x\") permit (principal, action == Taskpass::Action::\"Fly\", resource);",
        "@id(\"agents-begin\") permit (principal, action, resource);",
        "\u{0}\u{1}",
    ] {
        // A good file that comes together with a bad one is not taken either.
        let before = complaints(&broker, "zz.cedar");
        broker.world.write("policy/aa.cedar", good);
        broker.world.write("policy/zz.cedar", bad);
        eventually("the complaint", async || complaints(&broker, "zz.cedar") > before).await;
        agent.get(&task.id).await.unwrap();
        agent.docs_task().await;
        let (_, metrics) = broker.page("/metrics").await;
        assert!(metrics.contains("taskpass_declared_files_good{kind=\"policy\"} 0"), "{metrics}");
        broker.world.remove("policy/aa.cedar");
        broker.world.remove("policy/zz.cedar");
        eventually("the gauge", async || {
            broker.page("/metrics").await.1.contains("taskpass_declared_files_good{kind=\"policy\"} 1")
        })
        .await;
    }
    broker.world.write("policy/aa.cedar", good);
    until_denied(&agent).await;
}

#[tokio::test]
async fn policies_come_into_force_and_go_without_a_restart() {
    let broker = Broker::start(Store::Embedded).await;
    let (agent, second) = (broker.agent(), broker.second_agent());
    let task = agent.docs_task().await;
    agent.mint(mint(&task, DOCS)).await.unwrap();
    let pause = r#"
        @id("pause-a1")
        forbid (principal == Taskpass::Workload::"spiffe://example.org/agent/a1", action, resource)
        unless { action in [Taskpass::Action::"GetTask", Taskpass::Action::"CompleteTask"] };
    "#;
    broker.world.write("policy/pause.cedar", pause);
    until_denied(&agent).await;
    // A decision is made for each call: what the task was granted before does not help.
    refused(agent.mint(mint(&task, DOCS)).await, Code::PermissionDenied, "POLICY_DENIED");
    agent.get(&task.id).await.unwrap();
    second.docs_task().await;
    broker.world.remove("policy/pause.cedar");
    until_permitted(&agent).await;
    agent.mint(mint(&task, DOCS)).await.unwrap();

    let batch = broker.workload("batch/nightly");
    refused(batch.begin(begin(&[docs()])).await, Code::PermissionDenied, "POLICY_DENIED");
    let nightly = r#"
        @id("nightly") @max_task_lifetime("10s") @max_live_tasks("2")
        permit (
            principal == Taskpass::Workload::"spiffe://example.org/batch/nightly",
            action == Taskpass::Action::"BeginTask",
            resource == Taskpass::Audience::"https://docs.example.org/mcp"
        ) when { context.tools == ["search"] };
    "#;
    broker.world.write("policy/nightly.cedar", nightly);
    let search = begin(&[grant(DOCS, &["search"])]);
    eventually("the permit", async || batch.begin(search.clone()).await.is_ok()).await;
    refused(batch.begin(begin(&[docs()])).await, Code::PermissionDenied, "POLICY_DENIED");
    let second = batch.begin(search.clone()).await.unwrap();
    let lifetime =
        crate::support::story::millis(&second.deadline) - crate::support::story::millis(&second.began_at);
    assert_eq!(lifetime, 10_000);
    refused(batch.begin(search).await, Code::ResourceExhausted, "TOO_MANY_TASKS");
}

fn audience(name: &str, profile: &str, verifiers: &str) -> String {
    format!(
        "uri = \"https://{name}.example.org/mcp\"\ntrust_domain = \"example.org\"\nprofile = \"{profile}\"\n\
         verifiers = [{verifiers}]\ntools = [{{ name = \"look\" }}]\n"
    )
}

#[tokio::test]
async fn audiences_come_and_go_without_a_restart() {
    let broker = Broker::start(Store::Embedded).await;
    let (agent, verifier) = (broker.agent(), broker.workload("mcp/maps"));
    let maps = "https://maps.example.org/mcp";
    let request = begin(&[grant(maps, &["look"])]);
    refused(agent.begin(request.clone()).await, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    let enrolled = "\"spiffe://example.org/mcp/maps\"";
    broker.world.write("audiences/maps.toml", &audience("maps", "bearer", enrolled));
    eventually("the audience", async || agent.begin(request.clone()).await.is_ok()).await;
    let task = agent.begin(request.clone()).await.unwrap();
    let minted = agent.mint(mint(&task, maps)).await.unwrap();
    assert!(verifier.validate(shown(&minted.token, maps)).await.unwrap().active);

    // From now on it wants tokens that are bound: one that is not is no longer good there.
    broker.world.write("audiences/maps.toml", &audience("maps", "x5t#S256", enrolled));
    eventually("the profile", async || !verifier.validate(shown(&minted.token, maps)).await.unwrap().active)
        .await;

    // The verifier is struck off; then the audience.
    broker.world.write("audiences/maps.toml", &audience("maps", "bearer", ""));
    eventually("the end of enrolment", async || verifier.validate(shown(&minted.token, maps)).await.is_err())
        .await;
    refused(verifier.validate(shown(&minted.token, maps)).await, Code::PermissionDenied, "POLICY_DENIED");
    broker.world.remove("audiences/maps.toml");
    eventually("the end of the audience", async || agent.begin(request.clone()).await.is_err()).await;
    refused(agent.begin(request).await, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    refused(agent.mint(mint(&task, maps)).await, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    refused(verifier.validate(shown(&minted.token, maps)).await, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    assert!(is_live(&agent.get(&task.id).await.unwrap()));
}

#[tokio::test]
async fn a_bad_audience_file_keeps_the_register_that_was_in_force() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    let agent = broker.agent();
    let foreign = broker.other_workload("agent/a1");
    // The second is one of a URI that another file declares already.
    for bad in [
        "uri = ",
        &audience("docs", "bearer", ""),
        &audience("maps", "none", ""),
        &audience("Maps", "bearer", ""),
    ] {
        let before = complaints(&broker, "zz.toml");
        broker.world.write("audiences/zz.toml", bad);
        eventually("the complaint", async || complaints(&broker, "zz.toml") > before).await;
        agent.docs_task().await;
        foreign.begin(begin(&[other_docs()])).await.unwrap();
        broker.world.remove("audiences/zz.toml");
    }
}

#[tokio::test]
async fn a_tenant_without_policies_of_its_own_has_no_rights() {
    let broker = Broker::start(Store::Embedded).await;
    let foreign = broker.other_workload("agent/a1");
    foreign.begin(begin(&[other_docs()])).await.unwrap();
    refused(foreign.begin(begin(&[docs()])).await, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    broker.world.remove("policy/other-tenant.cedar");
    eventually("a denial", async || foreign.begin(begin(&[other_docs()])).await.is_err()).await;
    refused(foreign.begin(begin(&[other_docs()])).await, Code::PermissionDenied, "POLICY_DENIED");
    broker.agent().docs_task().await;
}

//! Bad input: each gets a precise status with a reason and a sentence, and nothing is half done.

use std::collections::HashMap;

use taskpass::proto;
use tonic::Code;

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::story::{begin, docs, grant, is_live, mint, refused, seconds};
use crate::support::world::{DOCS, PAYMENTS};
use crate::support::{Store, eventually};

type Begin = proto::BeginTaskRequest;

fn with_limit(limit: proto::ArgumentConstraint) -> Begin {
    let arguments = HashMap::from([("path".to_owned(), limit)]);
    let tools = vec![proto::ToolGrant { name: "read".into(), arguments }];
    begin(&[proto::Grant { audience: DOCS.into(), tools }])
}

fn malformed_tasks() -> Vec<(&'static str, Begin)> {
    let of = |grants: &[proto::Grant]| begin(grants);
    let tool = |name: &str| of(&[grant(DOCS, &[name])]);
    let one_of =
        |json: &str| proto::ArgumentConstraint { one_of_json: vec![json.into()], ..Default::default() };
    let many: Vec<_> = (0..17).map(|n| grant(&format!("https://h{n}.example.org/mcp"), &["read"])).collect();
    let tools: Vec<String> = (0..1_000).map(|n| format!("t{n}")).collect();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    vec![
        ("no goal", Begin { goal: String::new(), ..of(&[docs()]) }),
        ("a goal of 4097 bytes", Begin { goal: "x".repeat(4_097), ..of(&[docs()]) }),
        ("a goal that would break a log line", Begin { goal: "a\r\nb".into(), ..of(&[docs()]) }),
        ("a goal with an escape sequence", Begin { goal: "\u{1b}[2J".into(), ..of(&[docs()]) }),
        ("a goal that reads backwards", Begin { goal: "pay \u{202e}ynnep".into(), ..of(&[docs()]) }),
        ("a goal with an isolate", Begin { goal: "pay \u{2067}x\u{2069}".into(), ..of(&[docs()]) }),
        ("a goal with nothing to see in it", Begin { goal: "p\u{200b}ay".into(), ..of(&[docs()]) }),
        ("a goal with hidden words", Begin { goal: "pay\u{e0069}\u{e0067}".into(), ..of(&[docs()]) }),
        ("a goal of blanks", Begin { goal: " \n\t ".into(), ..of(&[docs()]) }),
        ("a subject that reads backwards", Begin { subject: "\u{202e}nna".into(), ..of(&[docs()]) }),
        ("no grants", of(&[])),
        ("17 grants", of(&many)),
        ("an audience twice", of(&[docs(), docs()])),
        ("an empty audience", of(&[grant("", &["read"])])),
        ("no tools", of(&[grant(DOCS, &[])])),
        ("1000 tools", of(&[grant(DOCS, &tools)])),
        ("a tool twice", of(&[grant(DOCS, &["read", "read"])])),
        ("an empty tool", tool("")),
        ("every tool", tool("*")),
        ("a tool with a blank", tool("read write")),
        ("a tool with a quote", tool("read\"")),
        ("a tool with a control character", tool("re\0ad")),
        ("a tool in other letters", tool("r\u{435}ad")),
        ("a tool of 10,000 bytes", tool(&"r".repeat(10_000))),
        ("a limit that limits nothing", with_limit(Default::default())),
        ("a choice that is no JSON", with_limit(one_of("EUR"))),
        ("a choice that is an object", with_limit(one_of("{\"a\":1}"))),
        ("a choice that is nested without end", with_limit(one_of(&"[".repeat(20_000)))),
        (
            "a range without a number",
            with_limit(proto::ArgumentConstraint {
                minimum: Some(2),
                maximum: Some(1),
                ..Default::default()
            }),
        ),
        ("a subject with a line feed and more", Begin { subject: "a\r\nb".into(), ..of(&[docs()]) }),
        ("a subject of 10,000 bytes", Begin { subject: "s".repeat(10_000), ..of(&[docs()]) }),
        ("a key of 129 bytes", Begin { idempotency_key: "k".repeat(129), ..of(&[docs()]) }),
        ("no lifetime", Begin { lifetime: None, ..of(&[docs()]) }),
    ]
}

/// Durations that nobody means.
fn bad_durations() -> Vec<prost_types::Duration> {
    let year = 365 * 24 * 3_600;
    [
        (0, 0),
        (-1, 0),
        (0, -1),
        (1, -1),
        (i64::MIN, i32::MIN),
        (0, 1_000_000_000),
        (year, 0),
        (i64::MAX, 0),
        (i64::MAX, i32::MAX),
    ]
    .map(|(seconds, nanos)| prost_types::Duration { seconds, nanos })
    .to_vec()
}

async fn nothing_was_begun(agent: &Client) {
    assert!(agent.list(Default::default()).await.unwrap().tasks.is_empty());
}

async fn a_malformed_task_is_refused_and_leaves_nothing(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    for (what, request) in malformed_tasks() {
        let status = agent.begin(request).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        refused(Err::<(), _>(status), Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    nothing_was_begun(&agent).await;
}

async fn a07_durations_that_nobody_means_are_refused(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, operator) = (broker.agent(), broker.operator());
    for lifetime in bad_durations() {
        let answer = agent.begin(Begin { lifetime: Some(lifetime), ..begin(&[docs()]) }).await;
        refused(answer, Code::InvalidArgument, "INVALID_DURATION");
    }
    nothing_was_begun(&agent).await;
    let task = agent.docs_task().await;
    for lifetime in bad_durations() {
        let lifetime = Some(lifetime);
        let extend = proto::ExtendTaskRequest { task_id: task.id.clone(), lifetime };
        refused(agent.tasks().extend_task(extend).await, Code::InvalidArgument, "INVALID_DURATION");
        let long = proto::MintTokenRequest { lifetime, ..mint(&task, DOCS) };
        refused(agent.mint(long).await, Code::InvalidArgument, "INVALID_DURATION");
        let long = proto::MintTokenRequest { minimum_lifetime: lifetime, ..mint(&task, DOCS) };
        refused(agent.mint(long).await, Code::InvalidArgument, "INVALID_DURATION");
        let long = proto::IssueCertificateRequest {
            task_id: task.id.clone(),
            key: Some(proto::issue_certificate_request::Key::CsrDer(vec![0].into())),
            lifetime,
            minimum_lifetime: None,
        };
        refused(agent.issue(long).await, Code::InvalidArgument, "INVALID_DURATION");
        let block = proto::RevokeWorkloadRequest {
            spiffe_id: task.owner.clone(),
            block_for: lifetime,
            note: String::new(),
            wait: None,
        };
        refused(operator.operator().revoke_workload(block).await, Code::InvalidArgument, "INVALID_DURATION");
    }
    // What is dead when it is made.
    for nanos in [1, 999_999_999] {
        let lifetime = Some(prost_types::Duration { seconds: 0, nanos });
        let extend = proto::ExtendTaskRequest { task_id: task.id.clone(), lifetime };
        let issue = proto::IssueCertificateRequest {
            task_id: task.id.clone(),
            key: Some(proto::issue_certificate_request::Key::CsrDer(vec![0].into())),
            lifetime,
            minimum_lifetime: None,
        };
        let answers = [
            agent.begin(Begin { lifetime, ..begin(&[docs()]) }).await.map(drop),
            agent.tasks().extend_task(extend).await.map(drop),
            agent.mint(proto::MintTokenRequest { lifetime, ..mint(&task, DOCS) }).await.map(drop),
            agent.issue(issue).await.map(drop),
        ];
        for answer in answers {
            let status = refused(answer, Code::InvalidArgument, "INVALID_DURATION");
            assert!(status.message().contains("a second or more"), "{status:?}");
        }
    }
    let month = proto::RevokeWorkloadRequest {
        spiffe_id: task.owner.clone(),
        block_for: seconds(31 * 24 * 3_600),
        note: String::new(),
        wait: None,
    };
    refused(operator.operator().revoke_workload(month).await, Code::InvalidArgument, "INVALID_DURATION");
    let now = agent.get(&task.id).await.unwrap();
    assert!(is_live(&now) && now.credentials_issued == 0 && now.deadline == task.deadline);
}

async fn what_the_register_does_not_know_cannot_be_asked_for(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    // As close to a registered one as one may come.
    for audience in [
        "https://nowhere.example.org/mcp",
        "https://docs.example.org/mcp/",
        "https://docs.example.org/MCP",
        "https://docs.example.org:443/mcp",
        "https://DOCS.example.org/mcp",
        "http://docs.example.org/mcp",
        "https://docs.example.org/mcp?x=1",
        "https://docs.example.org/mcp#x",
        "https://docs.example.org/./mcp",
        "https://docs.example.org/%6dcp",
        "https://docs.example.org/mcp ",
        "docs",
    ] {
        let answer = agent.begin(begin(&[grant(audience, &["read"])])).await;
        refused(answer, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    }
    for tool in ["erase", "Read", "read.all", "rea"] {
        refused(agent.begin(begin(&[grant(DOCS, &[tool])])).await, Code::InvalidArgument, "UNKNOWN_TOOL");
    }
    nothing_was_begun(&agent).await;
    let task = agent.docs_task().await;
    let nowhere = mint(&task, "https://nowhere.example.org/mcp");
    refused(agent.mint(nowhere).await, Code::InvalidArgument, "UNKNOWN_AUDIENCE");
    refused(agent.mint(mint(&task, "")).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    refused(agent.mint(mint(&task, PAYMENTS)).await, Code::PermissionDenied, "BEYOND_GRANT");
}

/// A limit on the tool `read` that makes the token some `bytes` longer.
fn bulky(bytes: usize) -> Begin {
    let mut left = bytes;
    let values = (10..74).map_while(|n| {
        let length = left.min(1_000);
        left -= length;
        (length > 0).then(|| format!("\"{n}{}\"", "x".repeat(length)))
    });
    let one_of_json = values.collect();
    let mut request = with_limit(proto::ArgumentConstraint { one_of_json, ..Default::default() });
    request.grants[0].tools.push(proto::ToolGrant { name: "search".into(), arguments: HashMap::new() });
    request
}

async fn a_grant_that_fits_in_no_token_is_refused_at_the_begin(store: Store) {
    let broker = Broker::start(store).await;
    let agent = broker.agent();
    for bytes in [7_000, 8_000] {
        let status = refused(agent.begin(bulky(bytes)).await, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert!(status.message().contains(DOCS) && status.message().contains("fewer"), "{status:?}");
    }
    nothing_was_begun(&agent).await;
    let task = agent.begin(bulky(4_000)).await.unwrap();
    agent.mint(mint(&task, DOCS)).await.unwrap();
}

async fn a_mint_that_fits_in_no_token_leaves_no_record_and_uses_nothing(store: Store) {
    let broker = Broker::of(Setup::on(store).with("limits", "credentials_per_task = 1")).await;
    let agent = broker.agent();
    // The largest that a bearer token has room for.
    let (mut fits, mut too_long) = (4_000, 8_000);
    while too_long - fits > 1 {
        let middle = usize::midpoint(fits, too_long);
        match agent.begin(bulky(middle)).await {
            Ok(task) => {
                agent.complete(&task.id).await.unwrap();
                fits = middle;
            }
            Err(status) => {
                refused(Err::<(), _>(status), Code::InvalidArgument, "INVALID_ARGUMENT");
                too_long = middle;
            }
        }
    }
    let task = agent.begin(bulky(fits)).await.unwrap();
    // From now on the audience wants tokens that name a key, which are longer.
    let audience = broker.world.read("audiences/docs.toml").replace("\"bearer\"", "\"x5t#S256\"");
    broker.world.write("audiences/docs.toml", &audience);
    eventually("the profile", async || {
        let register = agent.directory().list_audiences(proto::ListAudiencesRequest {}).await.unwrap();
        register.into_inner().audiences.iter().any(|it| it.uri == DOCS && it.profile == "x5t#S256")
    })
    .await;
    for _ in 0..3 {
        let status = refused(agent.mint(mint(&task, DOCS)).await, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert!(status.message().contains("fewer"), "{status:?}");
    }
    assert_eq!(agent.get(&task.id).await.unwrap().credentials_issued, 0);
    assert!(agent.list_credentials(&task.id).await.unwrap().is_empty());
    // The one credential that the task may have is there still.
    let narrow = proto::MintTokenRequest { tools: vec!["search".into()], ..mint(&task, DOCS) };
    agent.mint(narrow).await.unwrap();
}

async fn a_certificate_that_cannot_bear_the_agents_name_leaves_no_record(store: Store) {
    let broker = Broker::of(Setup::on(store).with("limits", "credentials_per_task = 1")).await;
    // As long as a SPIFFE ID may be; that of its task would be longer.
    let path = "x".repeat(2_048 - "spiffe://example.org/agent/".len());
    let agent = broker.workload(&format!("agent/{path}"));
    let task = agent.docs_task().await;
    let csr = rcgen::CertificateParams::default().serialize_request(&rcgen::KeyPair::generate().unwrap());
    let issue = proto::IssueCertificateRequest {
        task_id: task.id.clone(),
        key: Some(proto::issue_certificate_request::Key::CsrDer(csr.unwrap().der().to_vec().into())),
        ..Default::default()
    };
    let status = refused(agent.issue(issue).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert!(status.message().contains("longer than 2048 bytes"), "{status:?}");
    assert_eq!(agent.get(&task.id).await.unwrap().credentials_issued, 0);
    assert!(agent.list_credentials(&task.id).await.unwrap().is_empty());
    agent.mint(mint(&task, DOCS)).await.unwrap();
}

#[tokio::test]
async fn ids_and_page_tokens_that_are_none_are_refused() {
    let broker = Broker::start(Store::Embedded).await;
    let (agent, operator) = (broker.agent(), broker.operator());
    let task = agent.docs_task().await;
    let shouted = task.id.to_uppercase();
    let long = "x".repeat(10_000);
    for id in
        ["", "1", "../etc/passwd", "%", "{p00}", "01890a5d-ac96-474b-bcce-b302099a8057", &shouted, &long]
    {
        let bad = "INVALID_ARGUMENT";
        refused(agent.get(id).await, Code::InvalidArgument, bad);
        refused(agent.extend(id, 60).await, Code::InvalidArgument, bad);
        refused(agent.complete(id).await, Code::InvalidArgument, bad);
        refused(agent.list_credentials(id).await, Code::InvalidArgument, bad);
        refused(agent.revoke_credential(id).await, Code::InvalidArgument, bad);
        refused(operator.revoke(id).await, Code::InvalidArgument, bad);
        refused(operator.revoke_workload(id, 0).await, Code::InvalidArgument, bad);
        if !id.is_empty() {
            let page = proto::ListTasksRequest { page_token: id.into(), ..Default::default() };
            refused(agent.list(page).await, Code::InvalidArgument, bad);
        }
    }
    for name in ["", "spiffe://example.org", "example.org/agent", "Example.org", "{p00}", &long] {
        let answer = operator.revoke_trust_domain(name, 0).await;
        refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    for page_size in [-1, 501, i32::MIN, i32::MAX] {
        let page = proto::ListTasksRequest { page_size, ..Default::default() };
        refused(agent.list(page).await, Code::InvalidArgument, "INVALID_ARGUMENT");
        let page =
            proto::ListCredentialsRequest { task_id: task.id.clone(), page_size, ..Default::default() };
        let answer = agent.credentials().list_credentials(page).await;
        refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    assert_eq!(agent.get(&task.id).await.unwrap(), task);
}

#[tokio::test]
async fn notes_have_a_limit_and_no_characters_that_steer_or_hide() {
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    for note in ["n".repeat(1_025), "a\u{7}b".into(), "a\rb".into(), "a\u{2066}b".into(), "\u{feff}".into()] {
        let complete =
            proto::CompleteTaskRequest { task_id: task.id.clone(), note: note.clone(), wait: None };
        let answer = agent.tasks().complete_task(complete).await;
        refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
        let revoke = proto::RevokeTaskRequest { task_id: task.id.clone(), note, wait: None };
        let answer = broker.operator().operator().revoke_task(revoke).await;
        refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    assert!(is_live(&agent.get(&task.id).await.unwrap()));
}

on_both_stores!(
    a_malformed_task_is_refused_and_leaves_nothing,
    a07_durations_that_nobody_means_are_refused,
    what_the_register_does_not_know_cannot_be_asked_for,
    a_grant_that_fits_in_no_token_is_refused_at_the_begin,
    a_mint_that_fits_in_no_token_leaves_no_record_and_uses_nothing,
    a_certificate_that_cannot_bear_the_agents_name_leaves_no_record,
);

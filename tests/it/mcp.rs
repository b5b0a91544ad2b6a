//! The example MCP server against a real broker, called by the official client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mcp_server::{Config, Server};
use rmcp::model::{CallToolRequestParams, ClientConfig};
use rmcp::service::{RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{RoleClient, ServiceExt as _};
use serde_json::{Value, json};
use taskpass::proto;
use taskpass_verifier::feed::{FollowerConfig, IdentityFiles, Reconnect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::story::{begin, grant, mint, seconds};
use crate::support::world::{DOCS, ISSUER, TENANT};
use crate::support::{PATIENCE, Store, eventually};

const BOUND: Duration = Duration::from_secs(2);
/// What a machine that has much else to do may be late by.
const LATE: Duration = Duration::from_millis(300);
const METADATA: &str = "https://docs.example.org/.well-known/oauth-protected-resource/mcp";

/// The example, in the test's own process.
async fn serve(broker: &Broker) -> SocketAddr {
    let world = &broker.world;
    world.write("broker-ca.pem", &world.broker_ca.pem());
    let (certificate, key) = world.svid("mcp/docs").write(world.dir(), "follower");
    let follow = FollowerConfig {
        brokers: vec![format!("https://{}", broker.grpc)],
        broker_id: "spiffe://broker.example.org/broker".into(),
        files: IdentityFiles { bundle: world.path("broker-ca.pem"), certificate, key },
        audience: DOCS.into(),
        trust_domain: TENANT.into(),
        bound: Some(BOUND),
        reconnect: Reconnect::default(),
    };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(Config { follow, issuer: ISSUER.into(), listen }).await.unwrap();
    let waiting = tokio::time::timeout(PATIENCE, server.follower().wait_synchronised());
    assert!(waiting.await.is_ok(), "{:?}", server.follower().status());
    let address = server.address().unwrap();
    tokio::spawn(server.serve());
    address
}

/// A task that may search anything and read one page, and its token.
async fn minted(agent: &Client) -> (proto::Task, String) {
    let mut grant = grant(DOCS, &["read", "search"]);
    let only = proto::ArgumentConstraint { prefix: Some("inci".into()), ..Default::default() };
    for tool in grant.tools.iter_mut().filter(|tool| tool.name == "read") {
        tool.arguments = HashMap::from([("page".into(), only.clone())]);
    }
    let task = agent.begin(begin(&[grant])).await.unwrap();
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    (task, token)
}

type Agent = RunningService<RoleClient, ClientConfig>;

async fn connect(server: SocketAddr, token: &str) -> Agent {
    let config = StreamableHttpClientTransportConfig::with_uri(format!("http://{server}/mcp"));
    let transport = StreamableHttpClientTransport::from_config(config.auth_header(token));
    ClientConfig::default().serve(transport).await.unwrap()
}

async fn call(agent: &Agent, tool: &'static str, arguments: Value) -> Result<String, ServiceError> {
    let arguments = arguments.as_object().unwrap().clone();
    let done = agent.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments)).await?;
    assert_ne!(done.is_error, Some(true), "{done:?}");
    Ok(done.content.iter().filter_map(|content| content.as_text()).map(|text| text.text.clone()).collect())
}

/// Status and the whole answer.
async fn post(server: SocketAddr, token: Option<&str>, body: &str) -> (u16, String) {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-06-18\r\n{token}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(server).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

fn message(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mcp_server_permits_what_the_task_grants_until_the_task_ends_and_nothing_without_the_broker() {
    let broker = Broker::process(Setup::on(Store::Embedded)).await;
    let agent = broker.agent();
    let (task, token) = minted(&agent).await;
    let server = serve(&broker).await;

    let tools = connect(server, &token).await;
    let granted = tools.list_all_tools().await.unwrap();
    let mut granted: Vec<_> = granted.iter().map(|tool| &*tool.name).collect();
    granted.sort_unstable();
    assert_eq!(granted, ["read", "search"]);
    assert_eq!(call(&tools, "search", json!({ "query": "leave" })).await.unwrap(), "holidays");
    let page = call(&tools, "read", json!({ "page": "incidents" })).await.unwrap();
    assert!(page.contains("engineer on duty"), "{page}");
    for (tool, arguments, scope) in [
        ("write", json!({ "page": "incidents", "text": "none" }), Some("mcp mcp:tool:write")),
        // There is no scope that would help.
        ("read", json!({ "page": "holidays" }), None),
        ("read", json!({}), None),
    ] {
        let refused = call(&tools, tool, arguments).await.unwrap_err();
        let challenge = refused.auth_challenge().unwrap_or_else(|| panic!("{tool}: {refused:?}"));
        assert!(challenge.contains(r#"error="insufficient_scope""#), "{challenge}");
        let named = challenge.split_once(", scope=\"").and_then(|(_, rest)| rest.split_once('"'));
        assert_eq!(named.map(|(named, _)| named), scope, "{challenge}");
    }

    let request =
        proto::CompleteTaskRequest { task_id: task.id.clone(), wait: seconds(5), ..Default::default() };
    let done = agent.tasks().complete_task(request).await.unwrap().into_inner();
    let spread = done.receipt.unwrap().propagation.unwrap();
    assert_eq!((spread.applied, spread.pending), (1, 0), "{spread:?}");
    let refused = call(&tools, "search", json!({ "query": "leave" })).await.unwrap_err();
    let challenge = refused.auth_challenge().unwrap_or_else(|| panic!("{refused:?}"));
    assert!(
        challenge.contains(r#"error="invalid_token", error_description="The task has ended.""#),
        "{challenge}"
    );

    let (_task, token) = minted(&agent).await;
    let search = message(r#"{"name":"search","arguments":{"query":"leave"}}"#);
    assert_eq!(post(server, Some(&token), &search).await.0, 200);
    broker.as_process().signal("-KILL");
    let since = Instant::now();
    eventually("it refuses", async || post(server, Some(&token), &search).await.0 != 200).await;
    assert!(since.elapsed() <= BOUND + LATE, "it refused after {:?}", since.elapsed());
    let (status, answer) = post(server, Some(&token), &search).await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mcp_server_tells_who_brings_no_token_where_to_begin() {
    let broker = Broker::start(Store::Embedded).await;
    let server = serve(&broker).await;
    let (status, answer) = post(server, None, &message(r#"{"name":"search"}"#)).await;
    assert_eq!(status, 401, "{answer}");
    let challenge =
        format!(r#"www-authenticate: Bearer realm="{DOCS}", scope="mcp", resource_metadata="{METADATA}""#);
    assert!(answer.contains(&challenge), "{answer}");
    let path = METADATA.strip_prefix("https://docs.example.org").unwrap();
    let (status, metadata) = crate::support::broker::page(server, path).await;
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    assert_eq!(
        (status, &metadata["resource"], &metadata["authorization_servers"][0]),
        (200, &json!(DOCS), &json!(ISSUER))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_two_readers_read_differently_is_permitted_by_neither() {
    let broker = Broker::start(Store::Embedded).await;
    let (_task, token) = minted(&broker.agent()).await;
    let server = serve(&broker).await;
    let text = r#""arguments":{"page":"incidents","text":"none"}"#;
    for params in [
        format!(r#"{{"name":"search","name":"write",{text}}}"#),
        format!(r#"{{"name":"write","name":"search",{text}}}"#),
        format!(r#"{{"name":"write",{text},"arguments":{{"query":"leave"}}}}"#),
        format!(r#"{{"n\u0061me":"write",{text}}}"#),
        format!(r#"{{"name":"write ",{text}}}"#),
        format!(r#"{{"name":["write"],{text}}}"#),
    ] {
        for body in [message(&params), format!("[{}]", message(&params))] {
            let (_, answer) = post(server, Some(&token), &body).await;
            assert!(!answer.contains("would have"), "{body}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handler_permits_nothing_without_a_grant_whatever_stands_before_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let app = axum::Router::new().route_service("/mcp", mcp_server::mcp());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let (status, answer) =
        post(server, None, &message(r#"{"name":"search","arguments":{"query":"leave"}}"#)).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains(r#""reason":"tool_not_granted""#) && !answer.contains("holidays"), "{answer}");
    let (_, answer) = post(server, None, r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    assert!(answer.contains(r#""tools":[]"#), "{answer}");
}

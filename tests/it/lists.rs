//! Lists of tasks in pages: what stands in them, what their tokens tell, and how large they may be.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use taskpass::proto;
use tonic::Code;

use crate::support::Store;
use crate::support::broker::Broker;
use crate::support::client::Client;
use crate::support::story::{begin, docs, other_docs, payments, refused};

fn all(page_size: i32, page_token: &str) -> proto::ListTasksRequest {
    proto::ListTasksRequest { page_size, page_token: page_token.into(), all_owners: true, ..own(0, "") }
}

fn own(page_size: i32, page_token: &str) -> proto::ListTasksRequest {
    proto::ListTasksRequest { page_size, page_token: page_token.into(), ..Default::default() }
}

/// All pages of a list, however many.
async fn pages(client: &Client, first: proto::ListTasksRequest) -> Vec<proto::ListTasksResponse> {
    let (mut pages, mut request) = (Vec::new(), first);
    loop {
        let page = client.list(request.clone()).await.unwrap();
        request.page_token = page.next_page_token.clone();
        pages.push(page);
        if request.page_token.is_empty() {
            return pages;
        }
        assert!(pages.len() < 1_000, "a list that never ends");
    }
}

fn ids<'a>(pages: impl IntoIterator<Item = &'a proto::ListTasksResponse>) -> Vec<String> {
    pages.into_iter().flat_map(|page| &page.tasks).map(|task| task.id.clone()).collect()
}

/// Whether a text holds an id, in the clear or in base64, as text or as bytes.
fn holds(text: &str, id: &str) -> bool {
    let bytes: Vec<u8> = id
        .replace('-', "")
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let decoded = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    [text.as_bytes(), &decoded].iter().any(|found| {
        found.windows(id.len()).any(|w| w == id.as_bytes())
            // Any six bytes in a row: the moment of its begin, or the part that is random.
            || bytes.windows(6).any(|part| found.windows(6).any(|w| w == part))
    })
}

async fn a12_page_tokens_say_nothing_of_the_tasks_of_other_tenants(store: Store) {
    let broker = Broker::start(store).await;
    let (operator, agent, foreign) = (broker.operator(), broker.agent(), broker.other_workload("agent/a1"));
    let (mut theirs, mut visible) = (Vec::new(), BTreeSet::new());
    for _ in 0..12 {
        theirs.push(foreign.begin(begin(&[other_docs()])).await.unwrap().id);
    }
    for _ in 0..5 {
        visible.insert(agent.docs_task().await.id);
    }
    for page_size in [1, 2, 100] {
        let pages = pages(&operator, all(page_size, "")).await;
        assert_eq!(ids(&pages).into_iter().collect::<BTreeSet<_>>(), visible, "by {page_size}");
        assert_eq!(ids(&pages).len(), visible.len(), "by {page_size}");
        // Hidden tasks make no empty pages, one for each.
        assert!(pages.len() <= visible.len() + 1, "{} pages by {page_size}", pages.len());
        for token in pages.iter().map(|page| &page.next_page_token).filter(|token| !token.is_empty()) {
            assert_eq!(token.len(), 59, "{token}");
            assert!(theirs.iter().chain(&visible).all(|id| !holds(token, id)), "{token}");
        }
    }
}

async fn a_page_token_goes_on_with_the_list_that_it_was_given_for_and_no_other(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, second, operator) = (broker.agent(), broker.second_agent(), broker.operator());
    for client in [&agent, &second] {
        client.docs_task().await;
        client.docs_task().await;
    }
    let token = agent.list(own(1, "")).await.unwrap().next_page_token;
    assert!(!token.is_empty());
    assert_eq!(agent.list(own(100, &token)).await.unwrap().tasks.len(), 1, "any size goes on with it");
    let unknown = async |client: &Client, request: proto::ListTasksRequest| {
        let refusal = client.list(request).await.expect_err("a page of another list");
        assert!(refusal.message().starts_with("page_token: is none that the broker gave you"), "{refusal:?}");
        refused(Err::<(), _>(refusal), Code::InvalidArgument, "INVALID_ARGUMENT");
    };
    unknown(&second, own(1, &token)).await;
    unknown(&operator, all(1, &token)).await;
    unknown(&operator, proto::ListTasksRequest { owner: owner(&agent).await, ..own(1, &token) }).await;
    unknown(&agent, proto::ListTasksRequest { live_only: true, ..own(1, &token) }).await;
    let of_all = operator.list(all(1, "")).await.unwrap().next_page_token;
    unknown(&operator, own(1, &of_all)).await;
    unknown(&operator, proto::ListTasksRequest { owner: owner(&agent).await, ..own(1, &of_all) }).await;
    let last = if token.ends_with('A') { "E" } else { "A" };
    unknown(&agent, own(1, &format!("{}{last}", &token[..token.len() - 1]))).await;
    let id = agent.list(own(1, "")).await.unwrap().tasks.remove(0).id;
    unknown(&agent, own(1, &id)).await;
    // All brokers of a store share the key, and a restart keeps it.
    let broker = broker.restart().await;
    assert_eq!(broker.agent().list(own(100, &token)).await.unwrap().tasks.len(), 1);
}

/// A task with the longest goal and nearly 8 KiB of grants: how near, these bytes say.
fn large(bytes: usize) -> proto::BeginTaskRequest {
    let limit = |text: usize| proto::ArgumentConstraint {
        one_of_json: vec![format!("\"{}\"", "x".repeat(text))],
        ..Default::default()
    };
    let arguments =
        |texts: &[usize]| texts.iter().enumerate().map(|(n, text)| (format!("a{n}"), limit(*text))).collect();
    let with =
        |tool: &str, texts: &[usize]| proto::ToolGrant { name: tool.into(), arguments: arguments(texts) };
    let half = proto::Grant { tools: vec![with("read", &[1_000; 4])], ..docs() };
    // A token holds no more of one audience.
    let rest =
        proto::Grant { tools: vec![with("charges.list", &[1_000, 1_000, 1_000, bytes])], ..payments() };
    proto::BeginTaskRequest { goal: "g".repeat(4_096), ..begin(&[half, rest]) }
}

async fn a_hundred_of_the_largest_tasks_are_listed_whole(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, operator) = (broker.agent(), broker.operator());
    // The largest that is taken, to the byte.
    let mut size = 500;
    while agent.begin(large(size)).await.is_ok() {
        size += 100;
    }
    while agent.begin(large(size)).await.is_err() {
        size -= 1;
    }
    let refusal = agent.begin(large(size + 1)).await.expect_err("a byte too much");
    assert_eq!(refusal.message(), "grants: 8193 bytes as stored; at most 8192");
    refused(Err::<(), _>(refusal), Code::InvalidArgument, "INVALID_ARGUMENT");
    let mut begun = BTreeSet::new();
    for _ in 0..100 {
        // Ended ones stay on the lists.
        let task = agent.begin(large(size)).await.unwrap();
        agent.complete(&task.id).await.unwrap();
        begun.insert(task.id);
    }
    for (client, first) in [(&agent, own(500, "")), (&operator, all(500, ""))] {
        let pages = pages(client, first).await;
        let (listed, once) = (ids(&pages), ids(&pages).into_iter().collect::<BTreeSet<_>>());
        assert!(listed.len() == once.len() && begun.is_subset(&once), "{} and {}", listed.len(), once.len());
        let longest = pages.iter().map(prost::Message::encoded_len).max().unwrap();
        assert!(pages.len() > 1 && longest < 1_150_000, "{longest} bytes, the longest of {}", pages.len());
        for task in pages.iter().flat_map(|page| &page.tasks) {
            assert_eq!(task.goal.len(), 4_096);
        }
    }
}

async fn owner(client: &Client) -> String {
    client.list(own(1, "")).await.unwrap().tasks.remove(0).owner
}

on_both_stores!(
    a12_page_tokens_say_nothing_of_the_tasks_of_other_tenants,
    a_page_token_goes_on_with_the_list_that_it_was_given_for_and_no_other,
    a_hundred_of_the_largest_tasks_are_listed_whole,
);

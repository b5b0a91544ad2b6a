//! Certificates of tasks that are good no longer, as those see it who read revocation lists: OpenSSL, and webpki.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use taskpass::proto;
use taskpass::proto::issue_certificate_request::Key;
use tokio::time::Instant;
use tonic::Code;
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::ReasonCode;

use crate::support::broker::{Broker, Setup};
use crate::support::ca::pem;
use crate::support::client::Client;
use crate::support::story::{millis, refused, revocation_list, seconds};
use crate::support::{Store, eventually, now};

/// A certificate of the task, and its chain.
pub async fn certificate(agent: &Client, task: &proto::Task) -> proto::IssueCertificateResponse {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let request = proto::IssueCertificateRequest {
        task_id: task.id.clone(),
        key: Some(Key::CsrDer(csr.der().to_vec().into())),
        ..Default::default()
    };
    agent.issue(request).await.unwrap()
}

/// Every list that there is, that of the issuing intermediate first.
pub async fn lists(client: &Client) -> Vec<proto::GetRevocationListResponse> {
    let first = revocation_list(client, "").await;
    let mut lists = Vec::new();
    for authority in &first.authorities {
        lists.push(revocation_list(client, authority).await);
    }
    lists
}

/// The verdict of a verifier that holds the root, is shown the chain, and reads these lists at all depths.
fn accepts(
    broker: &Broker,
    root: &str,
    lists: &[proto::GetRevocationListResponse],
    issued: &proto::IssueCertificateResponse,
) -> bool {
    let chain: Vec<_> = issued.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let root_der = {
        use rustls_pki_types::pem::PemObject as _;
        CertificateDer::from_pem_slice(root.as_bytes()).unwrap()
    };
    let parsed: Vec<_> = lists
        .iter()
        .map(|list| CertRevocationList::from(BorrowedCertRevocationList::from_der(&list.crl_der).unwrap()))
        .collect();
    let parsed: Vec<_> = parsed.iter().collect();
    let options = RevocationOptionsBuilder::new(&parsed)
        .unwrap()
        .with_depth(RevocationCheckDepth::Chain)
        .with_status_policy(UnknownStatusPolicy::Deny)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs()));
    let leaf = EndEntityCert::try_from(&chain[0]).unwrap();
    let anchors = [webpki::anchor_from_trusted_cert(&root_der).unwrap()];
    let verdict = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &chain[1..],
        at,
        KeyUsage::client_auth(),
        Some(options),
        None,
    );
    let accepted = match verdict {
        Ok(_) => true,
        Err(webpki::Error::CertRevoked) => false,
        Err(other) => panic!("neither good nor revoked: {other}"),
    };
    if let Some(openssl) = openssl_accepts(broker, root, lists, issued) {
        assert_eq!(openssl, accepted, "OpenSSL and webpki do not agree");
    }
    accepted
}

/// What OpenSSL says, where it is there.
fn openssl_accepts(
    broker: &Broker,
    root: &str,
    lists: &[proto::GetRevocationListResponse],
    issued: &proto::IssueCertificateResponse,
) -> Option<bool> {
    let world = &broker.world;
    world.write("crl-root.pem", root);
    world.write("crl-leaf.pem", &pem("CERTIFICATE", &issued.chain_der[0]));
    world.write("crl-intermediate.pem", &pem("CERTIFICATE", &issued.chain_der[1]));
    world
        .write("crl-lists.pem", &lists.iter().map(|list| pem("X509 CRL", &list.crl_der)).collect::<String>());
    let arguments = "verify -x509_strict -crl_check_all -CAfile crl-root.pem -CRLfile crl-lists.pem \
                     -untrusted crl-intermediate.pem crl-leaf.pem";
    let said = Command::new("openssl").args(arguments.split_whitespace()).current_dir(world.dir()).output();
    let said = said.inspect_err(|why| eprintln!("SKIPPED: openssl does not run here ({why})")).ok()?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success() || text.contains("certificate revoked"), "{text}");
    Some(said.status.success())
}

async fn root(client: &Client) -> String {
    let bundle = client.directory().get_task_ca_bundle(proto::GetTaskCaBundleRequest {}).await;
    bundle.unwrap().into_inner().pem
}

/// The reasons on a list, by serial number.
pub fn reasons(list: &proto::GetRevocationListResponse) -> BTreeMap<String, Option<ReasonCode>> {
    let (rest, parsed) = CertificateRevocationList::from_der(&list.crl_der).unwrap();
    assert!(rest.is_empty());
    let named = parsed.iter_revoked_certificates().map(|one| {
        let serial = one.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
        (serial, one.reason_code().map(|(_, reason)| reason))
    });
    let named: BTreeMap<_, _> = named.collect();
    assert_eq!(named.len(), usize::try_from(list.entries).unwrap());
    named
}

async fn certificates_of_tasks_that_ended_are_refused_by_their_lists_and_live_ones_are_not(store: Store) {
    let broker = Broker::start(store).await;
    let (agent, other, verifier) = (broker.agent(), broker.second_agent(), broker.verifier());
    let root = root(&verifier).await;
    let tasks = [agent.docs_task().await, agent.docs_task().await, other.docs_task().await];
    let completed = certificate(&agent, &tasks[0]).await;
    let (fenced, alone) = (certificate(&agent, &tasks[1]).await, certificate(&agent, &tasks[1]).await);
    let bystander = certificate(&other, &tasks[2]).await;
    let all = [&completed, &alone, &fenced, &bystander];
    let verdicts = async || {
        let lists = lists(&verifier).await;
        all.map(|issued| accepts(&broker, &root, &lists, issued))
    };
    assert_eq!(verdicts().await, [true; 4]);

    agent.complete(&tasks[0].id).await.unwrap();
    eventually("the end on the list", async || verdicts().await == [false, true, true, true]).await;
    agent.revoke_credential(&alone.credential_id).await.unwrap();
    eventually("the one that was revoked", async || verdicts().await == [false, false, true, true]).await;
    broker.operator().revoke_workload(&tasks[1].owner, 0).await.unwrap();
    eventually("what was fenced", async || verdicts().await == [false, false, false, true]).await;

    for list in lists(&verifier).await.iter().rev().skip(1) {
        let expected = [
            (completed.credential_id.clone(), Some(ReasonCode::CessationOfOperation)),
            (alone.credential_id.clone(), None),
            (fenced.credential_id.clone(), Some(ReasonCode::PrivilegeWithdrawn)),
        ];
        assert_eq!(reasons(list), BTreeMap::from(expected), "of {}", list.authority);
    }
    let of_root = lists(&verifier).await.pop().unwrap();
    assert_eq!(reasons(&of_root).len(), 0, "no intermediate was given up");
    refused(
        verifier
            .directory()
            .get_revocation_list(proto::GetRevocationListRequest { authority: "x".into() })
            .await,
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
    // A broker that starts finds all of it in the store.
    let number = revocation_list(&verifier, "").await.number;
    let broker = broker.restart().await;
    let again = revocation_list(&broker.verifier(), "").await;
    assert!(again.number > number, "it never falls");
    assert_eq!(reasons(&again).len(), 3);
}

#[tokio::test]
async fn a_list_is_the_same_by_rpc_over_https_and_as_a_file() {
    let setup = Setup::on(Store::Embedded).public().with("export", "dir = \"public\"");
    let broker = Broker::of(setup).await;
    let (agent, stranger) = (broker.agent(), broker.stranger());
    let task = agent.docs_task().await;
    certificate(&agent, &task).await;
    agent.complete(&task.id).await.unwrap();
    eventually("the end on the list", async || revocation_list(&agent, "").await.entries == 1).await;
    let lists = lists(&agent).await;
    let names = lists.iter().map(|list| list.authority.clone()).collect::<Vec<_>>();
    for (i, list) in lists.iter().enumerate() {
        let name = if i + 1 == lists.len() { "root" } else { names[i].as_str() };
        let answer = stranger.get(&format!("/task-ca/{name}.crl")).await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &list.crl_der[..]), "{name}");
        assert_eq!(answer.header("content-type"), Some("application/pkix-crl"));
        let cache = answer.header("cache-control").unwrap();
        let age: i64 =
            cache.strip_prefix("public, max-age=").unwrap().split(',').next().unwrap().parse().unwrap();
        let left = (millis(&list.next_update) - i64::try_from(now().as_millis()).unwrap()) / 1_000;
        assert!((left..=left + 20).contains(&age), "until nextUpdate, {left} s: {cache}");
        let held = format!("If-None-Match: {}", answer.header("etag").unwrap());
        assert_eq!(stranger.ask("HEAD", &format!("/task-ca/{name}.crl"), &[&held]).await.status, 304);
        let file = broker.world.path(&format!("public/task-ca.{name}.crl"));
        eventually("the file", async || std::fs::read(&file).is_ok_and(|der| der == list.crl_der)).await;
    }
    for path in ["/task-ca/none.crl", "/task-ca/.crl", "/task-ca/root.crl/", "/task-ca/root", "/root.crl"] {
        assert_eq!(stranger.get(path).await.status, 404, "{path}");
    }
    assert_eq!(stranger.ask("POST", "/task-ca/root.crl", &["Content-Length: 0"]).await.status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_stands_while_nothing_happens_and_is_no_younger_than_what_its_broker_knows() {
    let setup = Setup::on(Store::Redis).public().with("keys", "refresh_hint = \"1s\"");
    let broker = Broker::of(setup).await;
    let (agent, redis) = (broker.agent(), broker.redis.as_ref().unwrap());
    let task = agent.docs_task().await;
    let issued = certificate(&agent, &task).await;
    let first = revocation_list(&agent, "").await;
    assert_eq!(
        millis(&first.next_update) - millis(&first.this_update),
        70_000,
        "ten seconds, and a minute back"
    );
    // Signed anew by a third of its time, and not before.
    let since = Instant::now();
    eventually("the next", async || revocation_list(&agent, "").await.number > first.number).await;
    let second = revocation_list(&agent, "").await;
    let apart = second.number - first.number;
    assert!((3_000..20_000).contains(&apart), "{apart} ms, seen after {:?}", since.elapsed());

    redis.pause();
    let ask = async || {
        let request = proto::GetRevocationListRequest::default();
        agent.directory().get_revocation_list(request).await.map(|list| list.into_inner())
    };
    let standing = ask().await.unwrap();
    eventually("the end of its time", async || ask().await.is_err()).await;
    let over = u64::try_from(millis(&standing.next_update)).unwrap();
    assert!(now().as_millis() >= over, "it was good until then");
    refused(ask().await, Code::Unavailable, "STORE_UNAVAILABLE");
    assert_eq!(broker.stranger().get("/task-ca/root.crl").await.status, 503);
    redis.resume();
    eventually("a list again", async || ask().await.is_ok_and(|list| list.number > standing.number)).await;
    eventually("calls again", async || agent.complete(&task.id).await.is_ok()).await;
    let serial = &issued.credential_id;
    eventually("what ended since", async || {
        ask().await.is_ok_and(|list| reasons(&list).contains_key(serial))
    })
    .await;
}

#[tokio::test]
async fn what_has_expired_leaves_the_list() {
    let broker = Broker::of(Setup::on(Store::Embedded).with("keys", "refresh_hint = \"1s\"")).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let key = Some(Key::CsrDer(csr.der().to_vec().into()));
    let request = proto::IssueCertificateRequest {
        task_id: task.id.clone(),
        key,
        lifetime: seconds(6),
        ..Default::default()
    };
    agent.issue(request).await.unwrap();
    agent.complete(&task.id).await.unwrap();
    eventually("it on the list", async || revocation_list(&agent, "").await.entries == 1).await;
    eventually("its end", async || revocation_list(&agent, "").await.entries == 0).await;
}

on_both_stores!(certificates_of_tasks_that_ended_are_refused_by_their_lists_and_live_ones_are_not);

//! A token that hangs, is slow, vanishes, loses a key, or is not reached.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_hangs_makes_mints_fail_at_once_and_nothing_else_and_heals_by_itself() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, &in_token(), &format!("{QUICK}signing = \"pkcs11\""));
    create_kek(&hsm, &setup);
    let mut broker = Broker::process(setup).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;

    hsm.hangs();
    let began = Instant::now();
    let error = refuses_to_mint(&agent, &task).await;
    assert!(error.message().contains("try again"), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    eventually("readiness to say so", async || {
        broker.page("/readyz").await
            == (503, "not ready: the PKCS#11 token does not sign with the key that is in it\n".to_owned())
    })
    .await;
    // Many at once: none waits, and no thread is added.
    let began = Instant::now();
    let many: Vec<_> = (0..50).map(|_| refuses_to_mint(&agent, &task)).collect();
    futures_util::future::join_all(many).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let (_, metrics) = broker.page("/metrics").await;
    for line in ["taskpass_pkcs11_up 0", "outcome=\"unanswered\"", "taskpass_pkcs11_stuck_calls "] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(threads(&broker), 2, "as many as there are sessions");
    // The rest goes on: what is judged, ended and followed needs no key in the token.
    assert!(verifier.validate(shown(&token, DOCS)).await.unwrap().active);
    agent.tasks().list_tasks(proto::ListTasksRequest::default()).await.unwrap();

    hsm.comes_back();
    eventually("readiness", async || broker.page("/readyz").await == (200, "ready\n".to_owned())).await;
    agent.mint(mint(&task, DOCS)).await.unwrap();
    let (_, metrics) = broker.page("/metrics").await;
    assert!(metrics.contains("taskpass_pkcs11_up 1") && metrics.contains("taskpass_pkcs11_stuck_calls 0"));
    assert!(broker.world.read("broker.log").contains("the PKCS#11 token is at hand again"));

    // A broker whose module hangs ends as another one does.
    hsm.hangs();
    eventually("it to be noticed", async || broker.page("/readyz").await.0 == 503).await;
    let began = Instant::now();
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(0), "{}", broker.as_process().log());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_slow_and_well_makes_those_wait_who_ask_too_much_of_it_and_stays_in_service() {
    let hsm = Hsm::new();
    let lines = format!("{QUICK}signing = \"pkcs11\"");
    let broker = Broker::process(setup_with(&hsm, LOCAL, &lines, "timeout = \"2s\"\nsessions = 4")).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    agent.mint(mint(&task, DOCS)).await.unwrap();
    hsm.says("slow");
    // A signature is two calls: four in 600 ms, and so about twenty in the time in which one waits for a session.
    let all_at_once = futures_util::future::join_all((0..40).map(|_| agent.mint(mint(&task, DOCS))));
    let (mut ready, mut looks) = (true, 0);
    let look = async {
        loop {
            ready &= broker.page("/readyz").await == (200, "ready\n".to_owned());
            looks += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let began = Instant::now();
    let minted = tokio::select! { minted = all_at_once => minted, () = look => unreachable!() };
    let took = began.elapsed();
    assert!(ready && looks > 1, "it is in service all the while");
    assert!(took < Duration::from_secs(6), "one wait for a session and one call: {took:?}");
    let (done, busy): (Vec<_>, Vec<_>) = minted.into_iter().partition(Result::is_ok);
    assert!(done.len() >= 8 && !busy.is_empty(), "{} done, {} refused", done.len(), busy.len());
    for refusal in busy {
        let error = refused(refusal, Code::Unavailable, "KEY_HARDWARE_UNAVAILABLE");
        assert!(error.message().contains("more to do than it can"), "{error:?}");
    }
    agent.mint(mint(&task, DOCS)).await.unwrap();
    let (_, metrics) = broker.page("/metrics").await;
    for line in ["taskpass_pkcs11_up 1", "outcome=\"busy\"", "taskpass_pkcs11_stuck_calls 0"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(!metrics.contains("outcome=\"unanswered\""), "{metrics}");
    assert!(!broker.world.read("broker.log").contains("is not at hand"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_vanishes_and_is_put_back_needs_no_restart() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, &in_token(), &format!("{QUICK}signing = \"pkcs11\""));
    create_kek(&hsm, &setup);
    let broker = Broker::process(setup).await;
    let (agent, platform) = (broker.agent(), broker.platform());
    let task = agent.docs_task().await;
    for _ in 0..2 {
        agent.mint(mint(&task, DOCS)).await.unwrap();
        hsm.vanishes();
        eventually("it to be missed", async || broker.page("/readyz").await.0 == 503).await;
        refuses_to_mint(&agent, &task).await;
        hsm.is_put_back();
        eventually("readiness", async || broker.page("/readyz").await.0 == 200).await;
        agent.mint(mint(&task, DOCS)).await.unwrap();
    }
    // Keys move again, too.
    let rotate = proto::RotateKeyRequest {
        r#use: proto::KeyUse::Jwt.into(),
        trust_domain: TENANT.into(),
        ..Default::default()
    };
    eventually("a rotation", async || platform.keys().rotate_key(rotate.clone()).await.is_ok()).await;
    agent.mint(mint(&task, DOCS)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_key_encryption_keys_token_tokens_are_minted_and_no_key_moves() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, &in_token(), QUICK);
    create_kek(&hsm, &setup);
    let broker = Broker::process(setup).await;
    let (agent, platform) = (broker.agent(), broker.platform());
    let task = agent.docs_task().await;
    hsm.hangs();
    eventually("readiness to say so", async || {
        let (status, page) = broker.page("/readyz").await;
        status == 200 && page.starts_with("ready, but keys cannot be moved")
    })
    .await;
    agent.mint(mint(&task, DOCS)).await.unwrap();
    let rotate = proto::RotateKeyRequest {
        r#use: proto::KeyUse::Feed.into(),
        trust_domain: TENANT.into(),
        ..Default::default()
    };
    let moved = platform.keys().rotate_key(rotate.clone()).await;
    refused(moved.map(tonic::Response::into_inner), Code::Unavailable, "KEY_HARDWARE_UNAVAILABLE");
    hsm.comes_back();
    eventually("a rotation", async || platform.keys().rotate_key(rotate.clone()).await.is_ok()).await;
    assert_eq!(page(broker.ops, "/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_key_encryption_keys_token_lists_of_intermediates_go_on_and_that_of_the_root_stands_until_it_is_over()
 {
    let hsm = Hsm::new();
    let setup = setup(&hsm, &in_token(), QUICK).public();
    create_kek(&hsm, &setup);
    let broker = Broker::process(setup).await;
    let (agent, verifier, stranger) = (broker.agent(), broker.verifier(), broker.stranger());
    let task = agent.docs_task().await;
    let issued = certificate(&agent, &task).await;
    let first = lists(&verifier).await;
    assert!(first.len() >= 2, "of an intermediate, and of the root");
    hsm.hangs();
    let missed = async || broker.page("/readyz").await.1.starts_with("ready, but keys cannot be moved");
    eventually("it to be missed", missed).await;
    let root = lists(&verifier).await.pop().unwrap();
    assert_eq!(root.authority, first.last().unwrap().authority);

    // What ends is on the list of the intermediate all the same.
    agent.complete(&task.id).await.unwrap();
    let serial = &issued.credential_id;
    let is_told = async || reasons(&revocation_list(&verifier, "").await).contains_key(serial);
    eventually("the end on the list", is_told).await;
    // The root's stands as long as it says, and then there is none; the others are made anew.
    let of_root = async || {
        let request = proto::GetRevocationListRequest { authority: root.authority.clone() };
        verifier.directory().get_revocation_list(request).await.map(tonic::Response::into_inner)
    };
    eventually("the end of the root's list", async || of_root().await.is_err()).await;
    assert!(i64::try_from(now().as_millis()).unwrap() >= millis(&root.next_update), "it stood until then");
    refused(of_root().await, Code::Unavailable, "STORE_UNAVAILABLE");
    let left_out = async || !revocation_list(&verifier, "").await.authorities.contains(&root.authority);
    eventually("it to be left out", left_out).await;
    assert_eq!(stranger.get("/task-ca/root.crl").await.status, 503);
    let standing = revocation_list(&verifier, "").await;
    assert!(
        millis(&standing.next_update) > millis(&root.next_update) && reasons(&standing).contains_key(serial)
    );
    assert_eq!(stranger.get(&format!("/task-ca/{}.crl", standing.authority)).await.status, 200);
    let next = async || revocation_list(&verifier, "").await.number > standing.number;
    eventually("the next list of the intermediate", next).await;
    let log = broker.world.read("broker.log");
    assert_eq!(log.matches("the root's revocation list is not made anew").count(), 1, "{log}");
    let (_, metrics) = broker.page("/metrics").await;
    let failures = "taskpass_sweep_failures_total{step=\"revocation_lists\"}";
    assert!(metrics.contains(failures), "{metrics}");
    assert!(metrics.contains("taskpass_revocation_list_remaining_seconds 0\n"), "{metrics}");

    hsm.comes_back();
    eventually("the root's list", async || of_root().await.is_ok_and(|list| list.number > root.number)).await;
    assert_eq!(stranger.get("/task-ca/root.crl").await.status, 200);
    assert_eq!(lists(&verifier).await.len(), first.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_given_up_while_its_token_hangs() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, LOCAL, &format!("{QUICK}signing = \"pkcs11\""));
    let broker = Broker::process(setup).await;
    let (agent, verifier, platform) = (broker.agent(), broker.verifier(), broker.platform());
    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    let kid = read_token(&token).0["kid"].as_str().unwrap().to_owned();
    let listed =
        platform.keys().list_keys(proto::ListKeysRequest::default()).await.unwrap().into_inner().keys;
    let listed = listed.iter().find(|key| key.kid == kid).unwrap();
    assert!(listed.held_in.starts_with(&format!("pkcs11:token={TOKEN} id ")), "{listed:?}");
    // Whether or not anybody has noticed it yet.
    hsm.hangs();
    let compromise = proto::CompromiseKeyRequest { kid: kid.clone(), ..Default::default() };
    platform.keys().compromise_key(compromise).await.unwrap();
    assert!(!verifier.validate(shown(&token, DOCS)).await.unwrap().active);
    hsm.comes_back();
    eventually("the next key to sign", async || agent.mint(mint(&task, DOCS)).await.is_ok()).await;
    eventually("the standby to be made, and the other one destroyed", async || hsm.objects() == 12).await;
    let lines = audit(&broker.world);
    assert!(lines.iter().any(|line| line["action"] == "DestroyKey" && line["object"] == kid.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_lost_in_the_token_is_seen_to_be_and_another_one_takes_its_place() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, LOCAL, &format!("{QUICK}signing = \"pkcs11\""));
    let broker = Broker::process(setup).await;
    let (agent, platform) = (broker.agent(), broker.platform());
    let task = agent.docs_task().await;
    let token = agent.mint(mint(&task, DOCS)).await.unwrap().token;
    hsm.loses_its_keys();
    refuses_to_mint(&agent, &task).await;
    eventually("readiness to say so", async || broker.page("/readyz").await.0 == 503).await;
    let lost = read_token(&token).0["kid"].as_str().unwrap().to_owned();
    let way_out = format!("taskpass key compromise {lost}");
    eventually("the log to say what to do", async || broker.world.read("broker.log").contains(&way_out))
        .await;
    // So does a broker that starts then.
    let broker = broker.restart().await;
    let (agent, restarted) = (broker.agent(), broker.page("/readyz").await);
    assert_eq!(restarted.0, 503, "{restarted:?}");
    // The two that stand by are lost as well.
    let signs = async || {
        let keys = platform_keys(&broker).await;
        keys.into_iter()
            .find(|key| key.trust_domain == TENANT && key.state() == proto::KeyState::Active)
            .unwrap()
            .kid
    };
    drop(platform);
    for _ in 0..3 {
        let compromise = proto::CompromiseKeyRequest { kid: signs().await, ..Default::default() };
        broker.platform().keys().compromise_key(compromise).await.unwrap();
    }
    eventually("a key that is there", async || agent.mint(mint(&task, DOCS)).await.is_ok()).await;
}

async fn platform_keys(broker: &Broker) -> Vec<proto::Key> {
    let listed = broker.platform().keys().list_keys(proto::ListKeysRequest::default()).await.unwrap();
    listed.into_inner().keys.into_iter().filter(|key| key.r#use() == proto::KeyUse::Jwt).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_does_not_reach_the_token_says_which_key_lies_in_it_and_what_to_do() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, LOCAL, "signing = \"pkcs11\"");
    let mut broker = Broker::process(setup).await;
    broker.as_process().signal("-TERM");
    assert_eq!(broker.exit().await, Some(0));
    let config = broker.world.read("taskpass.toml");
    let (before, rest) = config.split_once("signing = \"pkcs11\"").unwrap();
    let (_, after) = rest.split_once("sessions = 2").unwrap();
    broker.world.write("without.toml", &format!("{before}{after}"));
    let said = Command::new(env!("CARGO_BIN_EXE_taskpass"))
        .args(["serve", "--config"])
        .arg(broker.world.path("without.toml"))
        .output()
        .unwrap();
    let words = text(&said.stderr);
    assert_eq!(said.status.code(), Some(2), "{words}");
    for part in
        ["lies in a PKCS#11 token", TOKEN, "feature `pkcs11`", "[keys.pkcs11]", "taskpass key compromise"]
    {
        assert!(words.contains(part), "{part}: {words}");
    }
}

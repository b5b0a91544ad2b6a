//! The PIN: who asks the token with it, and that a wrong one is not tried again.

use super::*;

#[tokio::test]
async fn a_check_that_connects_asks_the_token_though_no_keyring_is_stored() {
    let hsm = Hsm::new();
    let lines = (in_token(), hsm.section(TIMEOUT));
    let setup = Setup::on(Store::Embedded).kek(&lines.0).with("keys", lines.1);
    setup.world.write("pin", &format!("{PIN}\n"));
    fs::set_permissions(setup.world.path("pin"), Permissions::from_mode(0o600)).unwrap();
    let check = |more: &[&str]| {
        let said = taskpass(&hsm, &setup, &[&["config", "check"], more].concat());
        (said.status.code(), text(&said.stdout))
    };
    assert_eq!(check(&[]).0, Some(0), "which asks nobody");
    assert_eq!(hsm.calls("C_Login"), 0);
    let (code, said) = check(&["--connect"]);
    assert!(code == Some(2) && said.contains("keys.pkcs11: ") && said.contains("create-kek"), "{said}");
    create_kek(&hsm, &setup);
    let tried = hsm.calls("C_Login");
    assert_eq!(check(&["--connect"]), (Some(0), "No problem found.\n".to_owned()));
    assert_eq!(hsm.calls("C_Login"), tried + 1, "one login");
    hsm.says("final-try");
    let (code, said) = check(&["--connect"]);
    assert!(code == Some(2) && said.contains("one try of the PIN is left"), "{said}");
    assert_eq!(hsm.calls("C_Login"), tried + 1, "that one is the operator's");
    hsm.says_no_more("final-try");
    hsm.vanishes();
    assert_eq!(check(&["--connect"]).0, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_asks_the_token_once_and_not_when_one_try_is_left() {
    for on in [Store::Embedded, Store::Redis] {
        let hsm = Hsm::new();
        let (kek, section) = (in_token(), hsm.section(TIMEOUT));
        let setup = Setup::on(on).kek(&kek).with("keys", section);
        setup.world.write("pin", &format!("{PIN}\n"));
        fs::set_permissions(setup.world.path("pin"), Permissions::from_mode(0o600)).unwrap();
        let doctor = || {
            let said = taskpass(&hsm, &setup, &["doctor", "--json"]);
            let document: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
            let all = document["findings"].as_array().unwrap().clone();
            let of_token: Vec<_> = all.into_iter().filter(|it| it["id"] == "pkcs11-token").collect();
            assert_eq!(of_token.len(), 1, "{document}");
            assert!(!text(&said.stdout).contains(PIN));
            let word = |name: &str| of_token[0][name].as_str().unwrap().to_owned();
            (said.status.code(), word("severity"), word("what"))
        };
        let (code, severity, what) = doctor();
        assert_eq!((code, severity.as_str()), (Some(1), "problem"));
        assert!(what.contains("create-kek"), "{what}");
        create_kek(&hsm, &setup);
        let tried = hsm.calls("C_Login");
        let (code, severity, what) = doctor();
        assert_eq!((code, severity.as_str()), (Some(0), "ok"), "{what}");
        assert_eq!(hsm.calls("C_Login"), tried + 1, "one login");
        hsm.says("final-try");
        let (code, severity, what) = doctor();
        assert_eq!((code, severity.as_str()), (Some(1), "problem"));
        assert!(what.contains("one try of the PIN is left"), "{what}");
        assert_eq!(hsm.calls("C_Login"), tried + 1, "that one is the operator's");
        hsm.says_no_more("final-try");
        hsm.vanishes();
        assert_eq!(doctor().0, Some(1));
    }
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_one_before_the_last_not_at_all() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, &in_token(), "");
    create_kek(&hsm, &setup);
    assert_eq!(hsm.calls("C_Login"), 1);
    hsm.says("wrong-pin");
    let said = taskpass(&hsm, &setup, &["serve"]);
    let words = text(&said.stderr);
    assert!(said.status.code() == Some(2) && words.contains("the PIN is wrong"), "{words}");
    assert!(!words.contains(PIN), "{words}");
    assert_eq!(hsm.calls("C_Login"), 2, "by two threads, once");
    hsm.says("final-try");
    let said = taskpass(&hsm, &setup, &["serve"]);
    assert!(
        said.status.code() == Some(2) && text(&said.stderr).contains("one try of the PIN is left"),
        "{said:?}"
    );
    assert_eq!(hsm.calls("C_Login"), 2, "that one is the operator's");
    // Nor does a check of the configuration try any.
    setup.world.write("pin", "");
    fs::set_permissions(setup.world.path("pin"), Permissions::from_mode(0o644)).unwrap();
    let said = taskpass(&hsm, &setup, &["config", "check"]);
    assert!(text(&said.stdout).contains("is open to others"), "{said:?}");
    assert_eq!(hsm.calls("C_Login"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_that_is_refused_while_a_broker_runs_is_not_tried_again() {
    let hsm = Hsm::new();
    let setup = setup(&hsm, LOCAL, &format!("{QUICK}signing = \"pkcs11\""));
    let broker = Broker::process(setup).await;
    let agent = broker.agent();
    let task = agent.docs_task().await;
    agent.mint(mint(&task, DOCS)).await.unwrap();
    // Every session is lost, and somebody has changed the PIN.
    hsm.says("wrong-pin");
    hsm.vanishes();
    eventually("it to be noticed", async || broker.page("/readyz").await.0 == 503).await;
    let tried = hsm.calls("C_Login");
    hsm.is_put_back();
    let refused = async || broker.world.read("broker.log").contains("the PIN is wrong");
    eventually("the PIN to be refused", refused).await;
    let (probes, patience) = (hsm.calls("C_Login"), Duration::from_secs(4));
    assert_eq!(probes, tried + 1);
    tokio::time::sleep(patience).await;
    assert_eq!(hsm.calls("C_Login"), tried + 1, "in {patience:?}");
    refuses_to_mint(&agent, &task).await;
    assert!(!broker.world.read("broker.log").contains(PIN));
}

//! `taskpass bundle`: what verifiers trust, looked at, written down and followed, by the real binary and over real sockets.

mod watch;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use taskpass::proto;

use crate::cli::{Said, taskpass};
use crate::support::Store;
use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, dns, jwk_set, valid};
use crate::support::endpoint::{Endpoint, Says};
use crate::support::world::{BROKER_DOMAIN, ISSUER, TENANT, World};

const DAY: u64 = 86_400;

/// What says where the broker is and who asks: a verifier.
fn as_verifier(world: &World, port: u16) -> Vec<(&'static str, String)> {
    let (certificate, key) = world.tenant.svid("mcp/docs").write(world.dir(), "verifier");
    world.write("broker-ca.pem", &world.broker_ca.pem());
    let text = |path: &Path| path.display().to_string();
    vec![
        ("TASKPASS_BROKER", format!("https://localhost:{port}")),
        ("TASKPASS_BROKER_ID", format!("spiffe://{BROKER_DOMAIN}/broker")),
        ("TASKPASS_BUNDLE", text(&world.path("broker-ca.pem"))),
        ("TASKPASS_SVID", text(&certificate)),
        ("TASKPASS_SVID_KEY", text(&key)),
    ]
}

async fn bundle(world: &World, environment: &[(&'static str, String)], args: &[&str]) -> Said {
    let mut command = taskpass(world.dir());
    command.arg("bundle").args(args).envs(environment.iter().map(|(name, value)| (name, value)));
    tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
}

/// Of the endpoint at this URL, checked by the authorities in a file.
async fn of_web(world: &World, verb: &str, url: &str, more: &[&str]) -> Said {
    let args = [verb, "--url", url, "--trust-domain", TENANT, "--ca-file", "web-ca.pem"];
    bundle(world, &[], &[&args, more].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c70_c80_the_brokers_endpoint_and_its_rpc_give_one_bundle_and_both_are_shown() {
    let broker = Broker::of(Setup::on(Store::Embedded).public()).await;
    let (world, who) = (&broker.world, as_verifier(&broker.world, broker.grpc.port()));
    let told = broker.verifier().directory().get_task_ca_bundle(proto::GetTaskCaBundleRequest {}).await;
    let told = told.unwrap().into_inner();
    let by_rpc = bundle(world, &who, &["show", "--json"]).await.expect(0).json();
    assert_eq!(by_rpc["trust_domain"], BROKER_DOMAIN);
    let sequence: serde_json::Value = serde_json::from_str(&told.spiffe_bundle_json).unwrap();
    assert_eq!(by_rpc["sequence"], sequence["spiffe_sequence"]);
    assert_eq!(by_rpc["refresh_hint"], 300);
    let root = rustls_pki_types::pem::PemObject::from_pem_slice(told.pem.as_bytes()).unwrap();
    let root: rustls_pki_types::CertificateDer<'_> = root;
    let digest: String = ring::digest::digest(&ring::digest::SHA256, &root)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let [authority] = by_rpc["authorities"].as_array().unwrap().as_slice() else { panic!("{by_rpc}") };
    assert_eq!((&authority["use"], &authority["sha256"]), (&"x509-svid".into(), &digest.into()));
    assert!(authority["key_id"].as_str().unwrap().len() >= 16 && authority["days_left"].as_i64() > Some(300));
    // No key for tokens is in it; where those are is said.
    let issuer = serde_json::json!({ "trust_domain": TENANT, "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/jwks.json") });
    assert!(by_rpc["token_keys"].as_array().unwrap().contains(&issuer), "{by_rpc}");
    assert!(!told.spiffe_bundle_json.contains("jwt-svid"));

    // Over the endpoint, whoever asks.
    let url = format!("https://localhost:{}/task-ca/bundle.json", broker.stranger().address.port());
    let args =
        ["show", "--url", &url, "--trust-domain", BROKER_DOMAIN, "--ca-file", "broker-ca.pem", "--json"];
    let by_url = bundle(world, &[], &args).await.expect(0).json();
    for same in ["sequence", "refresh_hint", "authorities", "trust_domain"] {
        assert_eq!(by_url[same], by_rpc[same], "{same}");
    }
    let answer = broker.stranger().get("/task-ca/bundle.json").await;
    assert_eq!(
        (answer.header("content-type"), answer.text()),
        (Some("application/json"), told.spiffe_bundle_json.as_str())
    );

    let people = bundle(world, &who, &["show"]).await.expect(0).stdout;
    assert!(people.contains("sequence") && people.contains(&format!("{ISSUER}/jwks.json")), "{people}");
    for (args, text) in
        [(&["export"][..], &told.pem), (&["export", "--format", "spiffe"], &told.spiffe_bundle_json)]
    {
        assert_eq!(bundle(world, &who, args).await.expect(0).stdout.trim(), text.trim());
    }
    let mut earlier = taskpass(world.dir());
    earlier.args(["key", "ca-bundle", "--spiffe"]).envs(who.iter().map(|(name, value)| (name, value)));
    let earlier: Said = tokio::task::spawn_blocking(move || earlier.output().unwrap().into()).await.unwrap();
    assert_eq!(earlier.expect(0).stdout.trim(), told.spiffe_bundle_json.trim());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c74_no_key_of_the_brokers_bundle_is_one_of_its_tokens_or_of_another_trust_domain() {
    let broker = Broker::of(Setup::on(Store::Embedded).public()).await;
    let of = async |path: &str| {
        let text: serde_json::Value = serde_json::from_str(broker.stranger().get(path).await.text()).unwrap();
        text["keys"].as_array().unwrap().clone()
    };
    let bundle = of("/task-ca/bundle.json").await;
    let (tokens, others) = (of("/example.org/jwks.json").await, of("/other.example/jwks.json").await);
    // Of each issuer the key that signs and two that stand by.
    assert!(bundle.len() == 1 && tokens.len() == 3 && others.len() == 3, "{bundle:?} {tokens:?} {others:?}");
    let points: std::collections::BTreeSet<_> =
        bundle.iter().chain(&tokens).chain(&others).map(|key| key["x"].to_string()).collect();
    assert_eq!(points.len(), 7, "one key, one trust domain, one use");
    assert!(
        tokens.iter().chain(&others).all(|key| key["use"] == "sig" && key.get("x5c").is_none()),
        "{tokens:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_of_elsewhere_is_shown_with_what_is_over_and_what_is_for_others() {
    let world = World::new();
    world.write("web-ca.pem", &world.broker_ca.pem());
    let web = world.broker_ca.svid_with("web", |it| it.subject_alt_names = vec![dns("localhost")]);
    let over = Ca::with(TENANT, |it| valid(it, 1_600_000_000, 1_700_000_000));
    let soon =
        Ca::with(TENANT, |it| valid(it, 1_600_000_000, crate::support::now().as_secs() + 3 * DAY + 60));
    let ders = [over.der().clone(), soon.der().clone()];
    let mut document: serde_json::Value = serde_json::from_str(&jwk_set(&ders)).unwrap();
    let token_key = serde_json::json!({ "use": "jwt-svid", "kty": "EC", "kid": "k\u{1b}[1", "crv": "P-256", "x": "AA", "y": "AA" });
    document["keys"].as_array_mut().unwrap().push(token_key);
    let endpoint = Endpoint::new(&web, Says::Bundle(document.to_string())).await;
    let shown = of_web(&world, "show", &endpoint.url(), &["--json"]).await.expect(0).json();
    let authorities = shown["authorities"].as_array().unwrap();
    let days: Vec<_> = authorities.iter().map(|it| it["days_left"].as_i64()).collect();
    assert!(days[0] < Some(0) && days[1] == Some(3) && days[2].is_none(), "{shown}");
    assert_eq!((&authorities[2]["use"], &shown["token_keys"]), (&"jwt-svid".into(), &serde_json::json!([])));
    let people = of_web(&world, "show", &endpoint.url(), &[]).await.expect(0).stdout;
    assert!(people.contains("EXPIRED") && !people.contains('\u{1b}'), "{people}");
    // What is for others is in no PEM, and is whole in the SPIFFE format.
    let written = of_web(&world, "export", &endpoint.url(), &["--out", "b.pem"]).await;
    written.expect(0);
    assert_eq!(world.read("b.pem"), over.pem() + &soon.pem());
    of_web(&world, "export", &endpoint.url(), &["--out", "b.json", "--format", "spiffe"]).await.expect(0);
    assert_eq!(world.read("b.json"), document.to_string());
    let file = ["show", "--file", "b.json", "--trust-domain", TENANT, "--json"];
    assert_eq!(bundle(&world, &[], &file).await.expect(0).json()["authorities"], shown["authorities"]);
    let pem = ["show", "--file", "b.pem", "--trust-domain", TENANT, "--json"];
    let pem = bundle(&world, &[], &pem).await.expect(0).json();
    assert_eq!(
        (&pem["sequence"], pem["authorities"].as_array().unwrap().len()),
        (&serde_json::Value::Null, 2)
    );
    let made = ["export", "--file", "b.pem", "--trust-domain", TENANT, "--format", "spiffe"];
    bundle(&world, &[], &made).await.expect(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c75_c76_c79_an_endpoint_is_held_to_what_was_said_of_it() {
    let world = World::new();
    world.write("web-ca.pem", &world.broker_ca.pem());
    world.write("stranger.pem", &world.stranger.pem());
    let document = Says::Bundle(world.tenant.jwk_set());
    let endpoint = Endpoint::new(&world.tenant.svid("bundles"), document).await;
    let url = endpoint.url();
    let by = async |id: &str, file: &str| {
        let args = [
            "show",
            "--url",
            &url,
            "--trust-domain",
            TENANT,
            "--endpoint-spiffe-id",
            id,
            "--endpoint-bundle",
            file,
        ];
        bundle(&world, &[], &args).await
    };
    by("spiffe://example.org/bundles", "example.org.pem").await.expect(0);
    let wrong = by("spiffe://example.org/other", "example.org.pem").await.expect(1);
    assert!(wrong.stderr.contains("not the endpoint that is configured"), "{wrong:?}");
    by("spiffe://example.org/bundles", "stranger.pem").await.expect(1);
    // There is no way from one profile to the other.
    let asked = endpoint.asked();
    of_web(&world, "show", &url, &[]).await.expect(1);
    assert_eq!(endpoint.asked(), asked);
    for half in [
        &["show", "--url", "https://localhost:1/"][..],
        &["show", "--trust-domain", TENANT],
        &["show", "--url", &url, "--trust-domain", TENANT, "--endpoint-spiffe-id", "spiffe://example.org/x"],
        &["show", "--url", "http://localhost:1/", "--trust-domain", TENANT],
        &["show", "--url", &url, "--file", "x", "--trust-domain", TENANT],
    ] {
        bundle(&world, &[], half).await.expect(2);
    }
    // What may be tried again, and what may not.
    let web = world.broker_ca.svid_with("web", |it| it.subject_alt_names = vec![dns("localhost")]);
    for (says, code) in [
        (Says::Status(503), 3),
        (Says::Cut(world.tenant.jwk_set()), 3),
        (Says::Status(404), 1),
        (Says::Bundle("{}".to_owned()), 1),
        (Says::Bundle(world.tenant.pem()), 1),
        (Says::Flood(2 * 1024 * 1024), 1),
        (Says::Elsewhere("http://localhost/".to_owned()), 1),
    ] {
        let endpoint = Endpoint::new(&web, says).await;
        of_web(&world, "show", &endpoint.url(), &[]).await.expect(code);
    }
    of_web(&world, "show", "https://localhost:1/", &[]).await.expect(3);
}

#[tokio::test]
async fn a_file_that_holds_something_else_is_left_alone() {
    let world = World::new();
    let export = async |more: &[&str]| {
        let args = ["export", "--file", "example.org.pem", "--trust-domain", TENANT, "--out", "out.pem"];
        bundle(&world, &[], &[&args, more].concat()).await
    };
    assert_eq!(export(&["--json"]).await.expect(0).json()["written"], true);
    assert_eq!(std::fs::metadata(world.path("out.pem")).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(export(&["--json"]).await.expect(0).json()["written"], false);
    world.write("out.pem", "mine");
    let refused = export(&[]).await.expect(1);
    assert!(refused.stderr.contains("--force"), "{refused:?}");
    assert_eq!(world.read("out.pem"), "mine");
    export(&["--force"]).await.expect(0);
    assert_eq!(world.read("out.pem"), world.tenant.pem());
}

//! The task CA, signed by an authority outside: one made with OpenSSL, one with rcgen. What is issued under it is judged by OpenSSL and webpki, with what the broker publishes as anchors.

mod elsewhere;

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use taskpass::failpoint::Place;
use taskpass::proto::{self, KeyState, TaskCaRenewal};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::support::broker::{Broker, Setup, audit};
use crate::support::ca::{Ca, leaf, pem, uri, valid};
use crate::support::certificate::authority;
use crate::support::client::Client;
use crate::support::mortal::Mortal;
use crate::support::page::Page;
use crate::support::story::{begin, docs, mint, payments, refused, revocation_list, seconds, serial};
use crate::support::world::{BROKER_DOMAIN, DOCS, PAYMENTS};
use crate::support::{Store, eventually, now};

use elsewhere::*;

const DAY: u64 = 86_400;

/// Tokens, and no certificates; verifiers learn what to trust.
async fn before_it_is_signed(broker: &Broker, task: &proto::Task, anchors: &str) {
    let agent = broker.agent();
    let none = refused(certificate(&agent, task).await, Code::Unavailable, "TASK_CA_UNAVAILABLE");
    assert!(none.message().contains("taskpass ca install"), "{none:?}");
    agent.mint(mint(task, DOCS)).await.unwrap();
    assert_eq!(bundle(&agent).await.pem.trim(), anchors.trim());
    let (status, page) = broker.page("/readyz").await;
    assert!(status == 200 && page.starts_with("ready, but for task certificates"), "{page}");
    refused(
        agent.directory().get_revocation_list(proto::GetRevocationListRequest::default()).await,
        Code::Unavailable,
        "TASK_CA_UNAVAILABLE",
    );
    let (code, shown, _) = taskpass(broker, &["ca", "show"]);
    assert!(code == Some(0) && shown.contains("MISSING: no certificates are issued"), "{shown}");
}

async fn an_upstream_made_with_openssl_signs_the_task_ca_and_openssl_takes_what_it_issues(store: Store) {
    let elsewhere = tempfile::tempdir().unwrap();
    company(elsewhere.path());
    let anchors = std::fs::read_to_string(elsewhere.path().join("root.pem")).unwrap();
    let broker = Broker::process(upstream(store, &anchors).with("export", "dir = \"public\"").public()).await;
    let (agent, dir) = (broker.agent(), broker.world.dir());
    let task = agent.docs_task().await;

    before_it_is_signed(&broker, &task, &anchors).await;

    // As the documentation has it.
    let request = elsewhere.path().join("task.csr");
    let (code, _, said) = taskpass(&broker, &["ca", "csr", "--out", request.to_str().unwrap()]);
    assert!(code == Some(0) && said.contains("path length 0"), "{said}");
    let read = openssl(elsewhere.path(), "req -in task.csr -noout -text -verify");
    for asked in
        ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", &format!("URI:spiffe://{BROKER_DOMAIN}")]
    {
        assert!(read.contains(asked), "{asked}: {read}");
    }
    let (_, again, _) = taskpass(&broker, &["ca", "csr", "--json"]);
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["csr_pem"], std::fs::read_to_string(&request).unwrap());
    std::fs::write(dir.join("chain-of-ca.pem"), company_signs(elsewhere.path(), "")).unwrap();
    let (code, tried, _) = taskpass(&broker, &["ca", "install", "chain-of-ca.pem", "--dry-run"]);
    assert!(code == Some(0) && tried.contains("requested to active"), "{tried}");
    refused(certificate(&agent, &task).await, Code::Unavailable, "TASK_CA_UNAVAILABLE");
    let (code, done, said) = taskpass(&broker, &["ca", "install", "chain-of-ca.pem", "--note", "signed"]);
    assert!(code == Some(0) && done.starts_with("Done:"), "{done} {said}");

    let issued = certificate(&agent, &task).await.unwrap();
    assert_eq!(issued.chain_der.len(), 3, "its own, the task CA's, and that of the company's authority");
    openssl_takes(elsewhere.path(), &anchors, &issued);
    assert_eq!(webpki_takes(&anchors, &chain(&issued)), Ok(()));
    assert!(broker.verifier().validate(serial(&issued.credential_id, DOCS)).await.unwrap().active);
    let (code, shown, _) = taskpass(&broker, &["ca", "show", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (code, &shown["upstream"], &shown["renewal"]),
        (Some(0), &true.into(), &serde_json::Value::Null)
    );
    let signs = &shown["intermediates"][0];
    assert_eq!((&signs["key"]["state"], &signs["key"]["kid"]), (&"active".into(), &again["kid"]));
    assert_eq!(signs["chain"].as_array().unwrap().len(), 3, "{signs}");
    assert_eq!(signs["chain"][2]["subject"], "O=Company, CN=Root");
    let (_, listed, _) = taskpass(&broker, &["key", "list"]);
    assert!(listed.contains("signs, its certificate ends in 2months 29days"), "{listed}");
    assert_eq!(broker.page("/readyz").await, (200, "ready\n".to_owned()));

    // The list of what has ended is its own; of a root that is not ours there is none.
    agent.complete(&task.id).await.unwrap();
    let ended = async || {
        let list = revocation_list(&broker.verifier(), "").await;
        std::fs::write(elsewhere.path().join("list.pem"), pem("X509 CRL", &list.crl_der)).unwrap();
        let arguments =
            "verify -crl_check -CAfile anchors.pem -CRLfile list.pem -untrusted chain.pem chain.pem";
        openssl_says(elsewhere.path(), arguments).1.contains("certificate revoked")
    };
    eventually("the list", ended).await;
    assert!(!broker.world.path("public/task-ca.root.crl").exists());
    assert!(broker.world.path(&format!("public/task-ca.{}.crl", authority(&issued))).exists());
    assert_eq!(broker.world.read("public/task-ca.pem").trim(), anchors.trim());
    let lines = broker.audit();
    let of = lines.iter().filter(|line| line["action"] == "InstallTaskCaCertificate");
    let of: Vec<_> = of.filter(|line| line["facts"]["dry_run"].is_null()).collect();
    let outcomes: Vec<_> = of.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["intended", "done"], "{of:?}");
    assert_eq!((&of[1]["object"], &of[1]["facts"]["note"]), (&again["kid"], &"signed".into()));
}

/// A verifier that reads the bundle as often as it was told to: once in a second.
struct Reader {
    client: Client,
    anchors: String,
    at: Instant,
}

impl Reader {
    async fn new(client: Client) -> Self {
        Self { anchors: bundle(&client).await.pem, client, at: Instant::now() }
    }

    async fn takes(&mut self, chain: &[Vec<u8>]) -> Result<(), webpki::Error> {
        if self.at.elapsed() > Duration::from_secs(1) {
            *self = Self::new(self.client.clone()).await;
        }
        webpki_takes(&self.anchors, chain)
    }
}

/// Issues and verifies until that key signs. Every certificate is taken, now and until it is over.
async fn load_until(
    agent: &Client,
    platform: &Platform,
    reader: &mut Reader,
    signs: &str,
) -> Vec<Vec<Vec<u8>>> {
    let task = agent.begin(begin(&[docs()])).await.unwrap();
    let (mut all, give_up) = (Vec::new(), Instant::now() + Duration::from_secs(30));
    loop {
        let last = platform.signs().await.as_deref() == Some(signs);
        for _ in 0..10 {
            let issued = certificate(agent, &task).await.unwrap();
            assert_eq!(reader.takes(&chain(&issued)).await, Ok(()));
            all.push(chain(&issued));
        }
        for older in all.iter().rev().take(20) {
            assert_eq!(reader.takes(older).await, Ok(()), "one that was issued a moment ago");
        }
        if last {
            return all;
        }
        assert!(Instant::now() < give_up, "it never signs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn c83_a_task_ca_goes_from_its_own_root_to_an_upstream_and_to_the_next_under_load(store: Store) {
    let (first, second) = (Ca::new("company.example"), Ca::new("company.example"));
    let own = Broker::of(Setup::on(store).with("keys", SOON).with("lifetimes", SHORT)).await;
    let task = own.agent().docs_task().await;
    let before = chain(&certificate(&own.agent(), &task).await.unwrap());
    let own_root = bundle(&own.agent()).await.pem;
    own.world.write("upstream.pem", &(first.pem() + &second.pem()));
    let config = own.world.read("taskpass.toml") + "[task_ca]\nupstream_bundle = \"upstream.pem\"\n";
    own.world.write("taskpass.toml", &config);
    let broker = own.restart().await;

    // What was issued before is good, and so is what is issued while the upstream is waited for.
    let (agent, platform) = (broker.agent(), Platform(broker.platform()));
    let mut reader = Reader::new(broker.verifier()).await;
    assert_eq!(reader.takes(&before).await, Ok(()));
    assert!(reader.anchors.contains(own_root.trim()) && reader.anchors.contains(first.pem().trim()));
    let own_key = platform.signs().await.unwrap();
    for upstream in [first.intermediate(), second.intermediate()] {
        let asked = platform.csr().await.unwrap();
        load_until(&agent, &platform, &mut reader, &platform.signs().await.unwrap()).await;
        let moved = platform.install(&answered(&asked.csr_pem, &upstream, 90 * DAY, |_| {})).await.unwrap();
        assert_eq!(moved.steps[0].to(), KeyState::Prepared, "it waits until every verifier knows it");
        if platform.signs().await.as_ref() != Some(&own_key) {
            // Nothing is due yet: it is for whoever wants it now.
            eventually("it to be aged", async || rotate(&platform).await.is_ok()).await;
        }
        let all = load_until(&agent, &platform, &mut reader, &asked.kid).await;
        assert_eq!(all.last().unwrap()[2..], [upstream.der().to_vec()]);
    }
    let only_upstream = async || !bundle(&agent).await.pem.contains(own_root.trim());
    eventually("the own root to go with the last certificate under it", only_upstream).await;
}

async fn rotate(platform: &Platform) -> Result<(), Status> {
    let key_use = proto::KeyUse::TaskCaIntermediate.into();
    let request = proto::RotateKeyRequest { r#use: key_use, ..Default::default() };
    platform.0.keys().rotate_key(request).await.map(drop)
}

async fn what_does_not_fit_is_refused_with_its_reason_and_nothing_changes(store: Store) {
    let elsewhere = tempfile::tempdir().unwrap();
    company(elsewhere.path());
    let company_root = std::fs::read_to_string(elsewhere.path().join("root.pem")).unwrap();
    let (upstream_ca, stranger) = (Ca::new("company.example"), Ca::new("stranger.example"));
    let broker = Broker::of(upstream(store, &(upstream_ca.pem() + &company_root))).await;
    let platform = Platform(broker.platform());
    let asked = platform.csr().await.unwrap();
    std::fs::write(elsewhere.path().join("task.csr"), &asked.csr_pem).unwrap();
    let signs = upstream_ca.intermediate();
    let by_company = |edit: fn(&mut CertificateParams)| answered(&asked.csr_pem, &signs, 90 * DAY, edit);
    let another = rcgen::KeyPair::generate().unwrap();
    let another = rcgen::CertificateParams::default().serialize_request(&another).unwrap().pem().unwrap();
    let mut cases = vec![
        (answered(&another, &signs, DAY, |_| {}), "for a key that this broker's keyring does not have"),
        (by_company(|it| it.is_ca = IsCa::ExplicitNoCa), "is no CA certificate"),
        (by_company(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "path length is not limited"),
        (by_company(|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(2))), "path length is 2"),
        (by_company(|it| it.key_usages = vec![KeyUsagePurpose::CrlSign]), "to sign certificates"),
        (by_company(|it| it.key_usages = vec![KeyUsagePurpose::KeyCertSign]), "to sign revocation lists"),
        (by_company(|it| valid(it, 1, now().as_secs() - 1)), "has expired"),
        (by_company(|it| valid(it, now().as_secs() + 60, now().as_secs() + 90)), "is not valid before"),
        (answered(&asked.csr_pem, &signs, 10, |_| {}), "which is too soon"),
        (by_company(|it| it.subject_alt_names = vec![uri("spiffe://example.org")]), "spiffe://example.org"),
        (
            answered(&asked.csr_pem, &stranger.intermediate(), DAY, |_| {}),
            "does not lead to the upstream bundle",
        ),
        (by_company(|_| {}) + &stranger.pem(), "was not issued by the one that follows"),
        (pem("CERTIFICATE", signs.der()).repeat(7), "More than 6"),
        ("x".repeat(40_000), "longer than 32 KiB"),
        ("nothing".to_owned(), "no PEM certificate"),
    ];
    // By OpenSSL, which signs what nobody else does any more.
    cases.push((company_signs(elsewhere.path(), "-sha1"), "a key or signature algorithm is below the floor"));
    std::fs::write(
        elsewhere.path().join("task.ext"),
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nnameConstraints=critical,permitted;URI:example.org\n",
    )
    .unwrap();
    cases.push((company_signs(elsewhere.path(), ""), "a name constraint forbids"));
    std::fs::write(
        elsewhere.path().join("task.ext"),
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n2.5.29.99=critical,DER:0500\n",
    )
    .unwrap();
    cases.push((company_signs(elsewhere.path(), ""), "critical extension"));
    let before = platform.show().await;
    for (chain, why) in &cases {
        let status = refused(platform.install(chain).await, Code::InvalidArgument, "TASK_CA_MISFIT");
        assert!(status.message().contains(why), "{why}: {status:?}");
        assert_eq!(platform.show().await, before, "{why}");
    }
    // Longer than any message is.
    refused(platform.install(&"x".repeat(100_000)).await, Code::InvalidArgument, "MESSAGE_TOO_LARGE");
    let refusals = |line: &&serde_json::Value| line["outcome"] == "TASK_CA_MISFIT";
    assert_eq!(broker.audit().iter().filter(refusals).count(), cases.len(), "each is on record");
    // Agents, verifiers and a tenant's operators have nothing to do with it.
    for client in [broker.agent(), broker.verifier(), broker.operator()] {
        let other = Platform(client);
        refused(other.csr().await, Code::PermissionDenied, "POLICY_DENIED");
        refused(other.install(&by_company(|_| {})).await, Code::PermissionDenied, "POLICY_DENIED");
    }
    platform.install(&by_company(|_| {})).await.unwrap();
    refused(platform.install(&by_company(|_| {})).await, Code::FailedPrecondition, "KEY_WRONG_STATE");
}

#[tokio::test]
async fn a_broker_with_a_root_of_its_own_has_nothing_to_be_signed() {
    let broker = Broker::start(Store::Embedded).await;
    let platform = Platform(broker.platform());
    refused(platform.csr().await, Code::FailedPrecondition, "NO_UPSTREAM");
    let shown = platform.show().await;
    assert!(!shown.upstream && shown.renewal() == TaskCaRenewal::Unspecified);
    assert_eq!(shown.intermediates.len(), 2, "that which signs, and the standby");
    assert!(shown.intermediates.iter().all(|it| it.chain.len() == 2), "with the root");
}

async fn the_end_of_the_task_ca_is_warned_of_and_stops_certificates_alone(store: Store) {
    let upstream_ca = Ca::new("company.example");
    let broker = Broker::process(upstream(store, &upstream_ca.pem())).await;
    let (agent, platform) = (broker.agent(), Platform(broker.platform()));
    let task = agent.docs_task().await;
    // It was signed a minute ago: most of its life is over from the first moment on.
    let asked = platform.csr().await.unwrap();
    let short = answered(&asked.csr_pem, &upstream_ca.intermediate(), 17, |it| {
        valid(it, now().as_secs(), now().as_secs() + 17);
    });
    platform.install(&short).await.unwrap();
    let metric = async |line: &str| broker.page("/metrics").await.1.contains(line);
    eventually("nothing to do", async || metric("taskpass_task_ca_renewal_due 0").await).await;
    let log = |level: &str, said: &str| {
        let lines = broker.as_process().lines().into_iter();
        lines
            .filter(|it| it["level"] == level && it["message"].as_str().is_some_and(|it| it.contains(said)))
            .count()
    };
    eventually("the warning", async || log("WARN", "less than a third of the life") == 1).await;
    assert!(metric("taskpass_task_ca_renewal_due 1").await);
    assert_eq!(platform.show().await.renewal(), TaskCaRenewal::Due);
    let is_over = async || platform.show().await.renewal() == TaskCaRenewal::Over;
    eventually("its end", is_over).await;
    let status = refused(certificate(&agent, &task).await, Code::Unavailable, "TASK_CA_UNAVAILABLE");
    assert!(status.message().contains("is over since"), "{status:?}");
    eventually("the error", async || log("ERROR", "no certificates are issued") >= 1).await;
    assert!(log("WARN", "less than a third") == 1, "said once in an hour");
    agent.mint(mint(&task, DOCS)).await.unwrap();
    assert!(broker.page("/readyz").await.1.starts_with("ready, but for task certificates"));
    assert!(metric("taskpass_task_ca_remaining_seconds 0").await);

    // Another one signs at once, and the task goes on.
    let asked = platform.csr().await.unwrap();
    let next = answered(&asked.csr_pem, &upstream_ca.intermediate(), 90 * DAY, |_| {});
    platform.install(&next).await.unwrap();
    certificate(&agent, &task).await.unwrap();
    eventually("nothing to do", async || metric("taskpass_task_ca_renewal_due 0").await).await;
}

/// Whoever is above the task CA can sign what looks like a certificate of a task. Nobody who asks the broker takes it for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a02_what_the_upstream_signs_in_the_task_cas_name_is_no_certificate_of_a_task_and_no_caller() {
    let upstream_ca = Ca::new("company.example");
    let signs = upstream_ca.intermediate();
    let setup = upstream(Store::Embedded, &upstream_ca.pem());
    // The tenant's own SVIDs come from the same company.
    setup.world.write("example.org.pem", &(setup.world.tenant.pem() + &upstream_ca.pem()));
    let broker = Broker::of(setup).await;
    let (agent, platform) = (broker.agent(), Platform(broker.platform()));
    let asked = platform.csr().await.unwrap();
    platform.install(&answered(&asked.csr_pem, &signs, 90 * DAY, |_| {})).await.unwrap();
    let task = agent.begin(begin(&[payments()])).await.unwrap();
    let own = certificate(&agent, &task).await.unwrap();
    let bound = |der: &[u8]| proto::MintTokenRequest {
        certificate_der: der.to_vec().into(),
        minimum_lifetime: seconds(1),
        ..mint(&task, PAYMENTS)
    };
    agent.mint(bound(&own.chain_der[0])).await.unwrap();

    // The same name, number and authority, signed a step higher, or by the anchor.
    let read = CertificateDer::from(own.chain_der[0].to_vec());
    let (_, parsed) = x509_parser::parse_x509_certificate(&read).unwrap();
    let mut forged = leaf(&own.spiffe_id);
    forged.serial_number = Some(rcgen::SerialNumber::from_slice(parsed.raw_serial()));
    let identifier = key_identifier(&own.chain_der[1]);
    let mut names_ours = vec![0x30, 0x16, 0x80, 0x14];
    names_ours.extend(identifier);
    forged.custom_extensions = vec![crate::support::ca::extension(&[2, 5, 29, 35], names_ours, false)];
    for above in [&signs, &upstream_ca] {
        let forged = above.issue(&forged, rcgen::KeyPair::generate().unwrap());
        let chain: Vec<_> = forged.chain.iter().map(|it| it.to_vec()).collect();
        assert_eq!(webpki_takes(&upstream_ca.pem(), &chain), Ok(()));
        refused(agent.mint(bound(&forged.chain[0])).await, Code::FailedPrecondition, "BINDING_MISMATCH");
    }

    // Nor does a certificate of a task get anybody in, though the tenant's bundle holds what it leads to.
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let key_of_request = Some(proto::issue_certificate_request::Key::CsrDer(csr.der().to_vec().into()));
    let request = proto::IssueCertificateRequest {
        task_id: task.id.clone(),
        key: key_of_request,
        minimum_lifetime: seconds(1),
        ..Default::default()
    };
    let issued = agent.issue(request).await.unwrap();
    let chain = issued.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let caller = broker.client(&crate::support::ca::Svid { chain, key });
    caller.begin(begin(&[docs()])).await.unwrap_err();
    let (_, metrics) = broker.page("/metrics").await;
    assert!(metrics.contains("taskpass_peer_refused_total{reason=\"unknown_trust_domain\"}"), "{metrics}");
}

async fn a28_an_installation_that_its_broker_died_of_is_there_or_is_made_again(store: Store) {
    for place in [Place::KeyMoveDecided, Place::KeyMoveStored] {
        let upstream_ca = Ca::new("company.example");
        let broker = Mortal::start(upstream(store, &upstream_ca.pem())).await;
        let asked = Platform(broker.workload("platform/root")).csr().await.unwrap();
        let chain = answered(&asked.csr_pem, &upstream_ca.intermediate(), 90 * DAY, |_| {});
        let mut broker = broker.restart_to_die_at(place).await;
        let platform = Platform(broker.workload("platform/root"));
        platform.install(&chain).await.expect_err("an answer from the dead");
        broker.has_died().await;

        let broker = broker.restart().await;
        let platform = Platform(broker.workload("platform/root"));
        let signs = (place == Place::KeyMoveStored).then(|| asked.kid.clone());
        assert_eq!(platform.signs().await, signs, "{place:?}");
        // Sent again it is there, and nothing is done twice.
        platform.install(&chain).await.unwrap();
        assert!(platform.install(&chain).await.unwrap().steps.is_empty());
        assert_eq!(platform.signs().await, Some(asked.kid.clone()));
        let agent = broker.workload("agent/a1");
        let task = agent.docs_task().await;
        assert_eq!(authority(&certificate(&agent, &task).await.unwrap()).to_string(), asked.kid);
        let mut intents = String::new();
        for line in audit(&broker.setup.world).iter().filter(|it| it["action"] == "InstallTaskCaCertificate")
        {
            write!(intents, "{} ", line["outcome"].as_str().unwrap()).unwrap();
        }
        assert!(intents.starts_with("intended intended done"), "the first intent has no outcome: {intents}");
    }
}

/// A request that somebody else may have the key of is given up like any key, and nothing that is issued suffers by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a38_a_request_is_given_up_without_harm_to_what_is_issued() {
    let upstream_ca = Ca::new("company.example");
    let broker = Broker::of(upstream(Store::Embedded, &upstream_ca.pem())).await;
    let (agent, platform) = (broker.agent(), Platform(broker.platform()));
    let by = upstream_ca.intermediate();
    let asked = platform.csr().await.unwrap();
    platform.install(&answered(&asked.csr_pem, &by, 90 * DAY, |_| {})).await.unwrap();
    let issued = certificate(&agent, &agent.docs_task().await).await.unwrap();
    let leaked = platform.csr().await.unwrap();
    let request = proto::CompromiseKeyRequest { kid: leaked.kid.clone(), ..Default::default() };
    platform.0.keys().compromise_key(request).await.unwrap();
    let verifier = broker.verifier();
    assert!(verifier.validate(serial(&issued.credential_id, DOCS)).await.unwrap().active);
    // Whoever signs it still: it is not taken, and the next request is another one.
    let late = platform.install(&answered(&leaked.csr_pem, &by, 90 * DAY, |_| {})).await;
    refused(late, Code::FailedPrecondition, "KEY_WRONG_STATE");
    assert_ne!(platform.csr().await.unwrap().kid, leaked.kid);
    assert_eq!(platform.signs().await, Some(asked.kid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_runs_as_it_is_written() {
    let elsewhere = tempfile::tempdir().unwrap();
    company(elsewhere.path());
    let anchors = std::fs::read_to_string(elsewhere.path().join("root.pem")).unwrap();
    let broker = Broker::of(upstream(Store::Embedded, &anchors)).await;
    let blocks = Page::new("upstream-ca.md").blocks("sh");
    let script: String =
        blocks.iter().flat_map(|block| block.lines()).map(|line| format!("{}\n", line.trim())).collect();
    assert!(script.lines().count() >= 6, "{script}");
    let said =
        as_platform(&broker, Command::new("sh").args(["-e", "-c", &script]).current_dir(elsewhere.path()));
    assert!(said.status.success(), "{script}{said:?}");
    let agent = broker.agent();
    let issued = certificate(&agent, &agent.docs_task().await).await.unwrap();
    openssl_takes(elsewhere.path(), &anchors, &issued);
}

/// Brokers of one store give out one request, and both take up what is installed at one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_of_one_store_agree_on_the_request_and_on_what_is_installed() {
    let upstream_ca = Ca::new("company.example");
    let broker = Broker::of(upstream(Store::Redis, &upstream_ca.pem())).await;
    let beside = broker.beside().await;
    let at = |path: &str| Client::new(beside, &broker.world.broker_ca, &broker.world.svid(path));
    let (here, there) = (Platform(broker.platform()), Platform(at("platform/root")));
    let (one, two) = tokio::join!(here.csr(), there.csr());
    let asked = one.unwrap();
    assert_eq!(asked.csr_pem, two.unwrap().csr_pem);
    here.install(&answered(&asked.csr_pem, &upstream_ca.intermediate(), 90 * DAY, |_| {})).await.unwrap();
    let task = broker.agent().docs_task().await;
    eventually("the other one to issue", async || certificate(&at("agent/a1"), &task).await.is_ok()).await;
    let issued = certificate(&at("agent/a1"), &task).await.unwrap();
    assert_eq!(authority(&issued).to_string(), asked.kid);
}

#[tokio::test]
async fn a_broker_without_a_good_upstream_bundle_does_not_start_and_says_which() {
    for (text, why) in [("", "there is no certificate in it"), ("garbage", ""), ("{\"keys\": []}", "")] {
        let setup = upstream(Store::Embedded, text);
        setup.write_config();
        let (code, said) = crate::support::mortal::refusal(&setup.world).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("task_ca.upstream_bundle") && said.contains("upstream.pem") && said.contains(why),
            "{said}"
        );
        let check = Command::new(env!("CARGO_BIN_EXE_taskpass"))
            .args(["config", "check", "--config"])
            .arg(setup.world.path("taskpass.toml"))
            .output()
            .unwrap();
        assert_eq!(check.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&check.stdout).contains("task_ca.upstream_bundle"), "{check:?}");
    }
}

on_both_stores!(
    an_upstream_made_with_openssl_signs_the_task_ca_and_openssl_takes_what_it_issues,
    c83_a_task_ca_goes_from_its_own_root_to_an_upstream_and_to_the_next_under_load,
    what_does_not_fit_is_refused_with_its_reason_and_nothing_changes,
    the_end_of_the_task_ca_is_warned_of_and_stops_certificates_alone,
    a28_an_installation_that_its_broker_died_of_is_there_or_is_made_again,
);

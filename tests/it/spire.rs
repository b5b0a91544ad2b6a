//! With SPIRE itself, as the documentation has it: SVIDs, bundles, forced changes of authorities, federation both ways.
//!
//! Run by `scripts/test.sh` where SPIRE's binaries are: `scripts/spire.sh` makes them.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::cli;
use crate::support::broker::{Broker, Setup};
use crate::support::page::{Page, run};
use crate::support::spire::{Spire, free_port};
use crate::support::world::{BROKER_DOMAIN, OTHER_TENANT, TENANT};
use crate::support::{Store, eventually};

/// `docs/spire.md`, with the places of this machine. `spire` serves the broker's workloads.
fn page(spire: &Spire) -> Page {
    let agent = spire.path("bin").join("spire-agent");
    // The wrapper is a shell; what asks is what it becomes.
    let asks = fs::read_to_string(agent).unwrap();
    let asks = asks.lines().last().unwrap().split(' ').nth(1).unwrap().to_owned();
    Page::new("spire.md")
        .with("/run/spire/sockets", spire.path("").to_str().unwrap().trim_end_matches('/'))
        .with("unix:user:taskpass", format!("unix:path:{}", env!("CARGO_BIN_EXE_taskpass")))
        .with("unix:user:agent-a1", format!("unix:path:{asks}"))
        .with("-dns taskpass.example.org", "-dns localhost")
}

/// A server and an agent with the entries of the page, and a broker that has everything from there.
async fn with_agent(keep_for: &str) -> (Spire, Broker) {
    let mut spire = Spire::server(TENANT, "ca_ttl = \"1h\"", &[]).await;
    spire.agent().await;
    let page = page(&spire).with("keep_for = \"1h\"", format!("keep_for = \"{keep_for}\""));
    for entry in &page.blocks("sh")[..2] {
        run(&mut spire.shell(&spire.path(""), entry));
    }
    let config = page.blocks("toml").remove(0);
    let (identity, source) = (between(&config, "[identity]\n", "\n\n"), after(&config, "/example.org\"\n"));
    let setup = Setup::on(Store::Embedded).identity(identity).trust(TENANT, source);
    let broker = Broker::process(setup).await;
    eventually("a broker with everything that it needs", async || broker.page("/readyz").await.0 == 200)
        .await;
    (spire, broker)
}

fn after<'a>(text: &'a str, what: &str) -> &'a str {
    text.split_once(what).unwrap_or_else(|| panic!("{what} in {text}")).1
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    after(text, from).split(to).next().unwrap()
}

/// A workload that has its SVID from the agent, in files; fetched anew where there is a newer one.
struct Workload(TempDir);

impl Workload {
    fn fetch(spire: &Spire) -> Self {
        let workload = Self(TempDir::new().unwrap());
        let fetch =
            format!("spire-agent api fetch x509 -socketPath {} -write .", spire.path("agent.sock").display());
        run(&mut spire.shell(workload.0.path(), &fetch));
        workload
    }

    /// May it call, with what it has? It knows the broker by the newest bundle.
    fn is_in(&self, spire: &Spire, broker: &Broker) -> bool {
        fs::write(self.0.path().join("newest.pem"), spire.admin("bundle show")).unwrap();
        is_in(
            broker,
            "spiffe://example.org/taskpass",
            self.0.path(),
            ["newest.pem", "svid.0.pem", "svid.0.key"],
        )
    }
}

fn is_in(broker: &Broker, broker_id: &str, dir: &Path, [bundle, svid, key]: [&str; 3]) -> bool {
    let url = format!("https://localhost:{}", broker.grpc.port());
    let mut list = cli::taskpass(dir);
    list.args(["task", "list", "--broker", &url, "--broker-id", broker_id]);
    list.args(["--bundle", bundle, "--svid", svid, "--svid-key", key]);
    list.output().unwrap().status.success()
}

async fn authorities(broker: &Broker, trust_domain: &str) -> String {
    let (_, metrics) = broker.page("/metrics").await;
    let line = format!("taskpass_bundle_authorities{{trust_domain=\"{trust_domain}\"}} ");
    metrics.lines().find_map(|it| it.strip_prefix(&line)).unwrap_or_default().to_owned()
}

/// When the broker's own certificate ends, by which one is told from the next.
fn own(broker: &Broker) -> Vec<String> {
    let lines = broker.as_process().lines();
    let own = lines.iter().filter(|line| line["message"] == "own certificate in force");
    own.map(|line| line["not_after"].to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs spire-server and spire-agent, which scripts/spire.sh makes"]
async fn the_documentation_of_spire_runs_as_it_is_written() {
    let (spire, broker) = with_agent("1h").await;
    let log = broker.as_process().log();
    assert!(log.contains("spiffe://example.org/taskpass"), "{log}");
    assert_eq!(authorities(&broker, TENANT).await, "1");
    let url = format!("https://localhost:{}", broker.grpc.port());
    let page = page(&spire).with("https://taskpass.example.org:8443", url);
    let workload = TempDir::new().unwrap();
    let said = run(&mut spire.shell(workload.path(), &page.blocks("sh")[2]));
    assert!(said.contains("spiffe://example.org/agent/a1"), "{said}");
    let begun = broker.audit().into_iter().find(|line| line["action"] == "BeginTask").unwrap();
    assert_eq!(begun["who"], "spiffe://example.org/agent/a1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs spire-server and spire-agent, which scripts/spire.sh makes"]
async fn authorities_that_spire_replaces_are_followed_and_what_it_revokes_is_refused() {
    let (spire, broker) = with_agent("1h").await;
    let old = Workload::fetch(&spire);
    assert!(old.is_in(&spire, &broker));
    for round in 2..=3 {
        let before = Workload::fetch(&spire);
        let authority = spire.rotate();
        eventually("both authorities", async || authorities(&broker, TENANT).await == "2").await;
        assert!(before.is_in(&spire, &broker), "what is still trusted is let in");
        spire.taint(&authority).await;
        eventually("the broker's next certificate", async || own(&broker).len() == round).await;
        assert_eq!(broker.page("/readyz").await.0, 200);
        spire.revoke(&authority);
        eventually("one authority", async || authorities(&broker, TENANT).await == "1").await;
        assert!(!before.is_in(&spire, &broker), "what is below a revoked authority is refused");
        assert!(Workload::fetch(&spire).is_in(&spire, &broker), "what was renewed is let in");
        assert_eq!(broker.page("/readyz").await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs spire-server and spire-agent, which scripts/spire.sh makes"]
async fn an_agent_of_spire_that_stays_away_or_gives_nothing_any_more_closes_the_broker_until_it_does() {
    let (mut spire, broker) = with_agent("3s").await;
    let workload = Workload::fetch(&spire);
    assert!(workload.is_in(&spire, &broker));
    spire.kill_agent();
    eventually("a closed broker", async || broker.page("/readyz").await.0 == 503).await;
    assert!(!workload.is_in(&spire, &broker));
    spire.agent().await;
    eventually("an open broker", async || broker.page("/readyz").await.0 == 200).await;
    assert!(workload.is_in(&spire, &broker));
    let entry = spire.admin("entry show -spiffeID spiffe://example.org/taskpass -output json");
    let entry: serde_json::Value = serde_json::from_str(&entry).unwrap();
    spire.admin(&format!("entry delete -entryID {}", entry["entries"][0]["id"].as_str().unwrap()));
    eventually("a closed broker", async || broker.page("/readyz").await.0 == 503).await;
    assert!(!workload.is_in(&spire, &broker));
}

/// A SPIRE without an agent, whose bundle endpoint a broker asks, and what the page has for that: the commands behind the first three blocks.
struct WithEndpoint {
    spire: Spire,
    broker: Broker,
    commands: Vec<String>,
}

impl WithEndpoint {
    async fn start() -> Self {
        let port = free_port();
        let listens = format!("address = \"127.0.0.1\" port = {port} refresh_hint = \"1s\"");
        let endpoint =
            format!("federation {{ bundle_endpoint {{ {listens} profile \"https_spiffe\" {{}} }} }}");
        let spire = Spire::server(OTHER_TENANT, &endpoint, &[]).await;
        let setup = Setup::on(Store::Embedded);
        setup.world.write("broker-ca.pem", &setup.world.broker_ca.pem());
        let dir = setup.world.dir().to_owned();
        let page = Page::new("spire.md")
            .with("https://spire.example.net:8443/", format!("https://localhost:{port}/"))
            .with("example.net", OTHER_TENANT)
            .with("/etc/taskpass/bundles", dir.to_str().unwrap());
        let commands = page.blocks("sh").split_off(3);
        run(&mut spire.shell(&dir, &commands[0]));
        let config = page.blocks("toml").remove(1);
        let setup = setup.trust(OTHER_TENANT, after(&config, "name = \"other.example\"\n"));
        Self { spire, broker: Broker::process(setup).await, commands }
    }

    /// Has SPIRE sign an SVID, which lies in a directory of this name.
    fn mint(&self, name: &str) {
        let dir = self.broker.world.path(name);
        fs::create_dir(&dir).unwrap();
        let id = format!("spiffe://{OTHER_TENANT}/agent/b1");
        self.spire.admin(&format!("x509 mint -spiffeID {id} -write {}", dir.display()));
    }

    /// May somebody call with the SVID in this directory?
    fn enters(&self, name: &str) -> bool {
        let ours = format!("spiffe://{BROKER_DOMAIN}/broker");
        is_in(&self.broker, &ours, &self.broker.world.path(name), ["../broker-ca.pem", "svid.pem", "key.pem"])
    }

    /// Two authorities later nothing of the first is left.
    async fn changes_twice(&self) {
        self.mint("first");
        assert!(self.enters("first"));
        for _ in 0..2 {
            let authority = self.spire.rotate();
            eventually("both", async || authorities(&self.broker, OTHER_TENANT).await == "2").await;
            self.spire.taint(&authority).await;
            self.spire.revoke(&authority);
            eventually("one", async || authorities(&self.broker, OTHER_TENANT).await == "1").await;
        }
        self.mint("last");
        assert!(!self.enters("first") && self.enters("last"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs spire-server and spire-agent, which scripts/spire.sh makes"]
async fn the_bundle_endpoint_of_spire_is_followed_through_its_changes_and_by_a_broker_that_starts_again() {
    let mut it = WithEndpoint::start().await;
    let said = run(&mut it.spire.shell(it.broker.world.dir(), &it.commands[1]));
    assert!(said.contains(OTHER_TENANT), "{said}");
    it.changes_twice().await;
    // The file that was carried over checks nothing any more: what the broker has kept does.
    it.broker = it.broker.restart().await;
    assert!(it.enters("last") && !it.enters("first"));
    let authority = it.spire.rotate();
    eventually("the next answer", async || authorities(&it.broker, OTHER_TENANT).await == "2").await;
    it.spire.taint(&authority).await;
    it.spire.revoke(&authority);
    eventually("its end", async || !it.enters("last")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs spire-server and spire-agent, which scripts/spire.sh makes"]
async fn the_file_of_spires_bundle_is_kept_current_for_a_broker_that_has_nothing_in_its_store() {
    let mut it = WithEndpoint::start().await;
    let [_, _, watch] = it.commands.as_slice() else { panic!("other blocks: {:?}", it.commands) };
    let watcher = cli::Process::start(it.spire.shell(it.broker.world.dir(), &format!("exec {watch}")));
    it.changes_twice().await;
    let last = it.spire.admin("bundle show");
    let last = between(&last, "-----BEGIN CERTIFICATE-----\n", "\n");
    let kept = format!("{OTHER_TENANT}.pem");
    eventually("the last bundle in the file", async || it.broker.world.read(&kept).contains(last)).await;
    watcher.terminate();
    assert!(watcher.wait().0.success());
    it.broker.as_process().signal("-TERM");
    assert_eq!(it.broker.exit().await, Some(0));
    it.broker.world.remove("data/taskpass.redb");
    it.broker = it.broker.restart_killed().await;
    assert!(it.enters("last") && !it.enters("first"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs spire-server and spire-agent, which scripts/spire.sh makes"]
async fn spire_federates_with_the_brokers_endpoint() {
    let broker = Broker::process(Setup::on(Store::Embedded).public()).await;
    let public = broker.as_process().public().unwrap();
    let anchors = broker.world.path("web-ca.pem");
    broker.world.write("web-ca.pem", &broker.world.broker_ca.pem());
    let page = Page::new("spire.md")
        .with("https://taskpass.example.org/task-ca", format!("https://localhost:{}/task-ca", public.port()));
    let federation = page.blocks("text").into_iter().find(|block| block.starts_with("federation")).unwrap();
    let spire = Spire::server(TENANT, &federation, &[("SSL_CERT_FILE", anchors.to_str().unwrap())]).await;
    eventually("the refreshed bundle", async || spire.log().contains("Bundle refreshed")).await;
    let theirs = spire.admin(&format!("bundle list -id spiffe://{BROKER_DOMAIN}"));
    let (url, world) = (format!("https://localhost:{}", broker.grpc.port()), &broker.world);
    world.write("broker-ca.pem", &world.broker_ca.pem());
    world.svid("mcp/docs").write(world.dir(), "verifier");
    let mut ours: Command = cli::taskpass(world.dir());
    ours.args(["bundle", "export", "--broker", &url, "--bundle", "broker-ca.pem"]);
    ours.args(["--broker-id", &format!("spiffe://{BROKER_DOMAIN}/broker")]);
    ours.args(["--svid", "verifier.pem", "--svid-key", "verifier.key"]);
    let ours = run(&mut ours);
    let body = |pem: &str| between(pem, "-----BEGIN CERTIFICATE-----", "-----END").to_owned();
    assert_eq!(body(&theirs), body(&ours));
}

//! Certificates and bundles from files, as the documentation says: made by OpenSSL, and laid by a driver of Kubernetes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use super::{shown, towards_anybody};
use crate::cli::taskpass;
use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Svid, dns, valid};
use crate::support::page::{Page, run, shell};
use crate::support::raw::handshake;
use crate::support::world::{BROKER_DOMAIN, TENANT};
use crate::support::{Store, eventually, now};

/// The commands of the page, block by block. The first defines what the others call.
struct Steps {
    definitions: String,
    blocks: std::vec::IntoIter<String>,
}

impl Steps {
    fn new() -> Self {
        let mut blocks = Page::new("files.md").blocks("sh").into_iter();
        Self { definitions: blocks.next().unwrap(), blocks }
    }

    /// Runs the next block as it is written, by a shell that `prepare` has prepared.
    fn run(&mut self, dir: &Path, prepare: impl FnOnce(&mut Command)) {
        let script = format!("{}{}", self.definitions, self.blocks.next().expect("another block"));
        let mut shell = shell(dir, &script);
        prepare(&mut shell);
        run(&mut shell);
    }
}

/// What the page has a workload export.
fn as_agent(broker: &Broker) -> impl FnOnce(&mut Command) {
    let url = format!("https://localhost:{}", broker.grpc.port());
    move |command| {
        command.env("TASKPASS_BROKER", url);
        command.env("TASKPASS_BROKER_ID", format!("spiffe://{BROKER_DOMAIN}/broker"));
        for (variable, file) in
            [("BUNDLE", "broker-bundle.pem"), ("SVID", "agent.pem"), ("SVID_KEY", "agent.key")]
        {
            command.env(format!("TASKPASS_{variable}"), file);
        }
    }
}

fn taskpass_agrees(broker: &Broker, dir: &Path) -> bool {
    let mut list = taskpass(dir);
    as_agent(broker)(list.args(["task", "list"]));
    list.output().unwrap().status.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documentation_of_files_runs_as_it_is_written() {
    let setup = Setup::on(Store::Embedded);
    for name in ["broker.pem", "broker.key", "example.org.pem"] {
        setup.world.remove(name);
    }
    let (mut page, dir) = (Steps::new(), setup.world.dir().to_owned());
    page.run(&dir, |_| {});
    let broker = Broker::process(setup).await;
    page.run(&dir, as_agent(&broker));
    let first = shown(&broker).await.unwrap();
    page.run(&dir, |_| {});
    eventually("the renewed certificate", async || shown(&broker).await.is_some_and(|now| now != first))
        .await;
    for name in ["agent.pem", "agent.key"] {
        fs::copy(dir.join(name), dir.join(format!("old-{name}"))).unwrap();
    }
    page.run(&dir, |_| {});
    eventually("the next authority", async || {
        broker.world.read("example.org.pem").matches("BEGIN").count() == 2
    })
    .await;
    eventually("both authorities in force", async || {
        let (_, metrics) = broker.page("/metrics").await;
        metrics.contains("taskpass_bundle_authorities{trust_domain=\"example.org\"} 2")
    })
    .await;
    page.run(&dir, as_agent(&broker));
    page.run(&dir, as_agent(&broker));
    assert!(page.blocks.next().is_none(), "a block that nothing runs");
    for name in ["agent.pem", "agent.key"] {
        fs::rename(dir.join(format!("old-{name}")), dir.join(name)).unwrap();
    }
    eventually("the old authority's end", async || !taskpass_agrees(&broker, &dir)).await;
}

/// A volume as cert-manager's driver lays it: the files are links into a directory that is swapped whole.
struct Volume<'a>(&'a Path);

impl Volume<'_> {
    fn lay(&self, generation: &str, svid: &Svid, bundle: &str) {
        let (dir, data) = (self.0, format!("..{generation}"));
        fs::create_dir_all(dir.join(&data)).unwrap();
        let (certificate, key) = svid.write(&dir.join(&data), "tls");
        fs::rename(certificate, dir.join(&data).join("tls.crt")).unwrap();
        assert!(key.ends_with("tls.key"));
        fs::write(dir.join(&data).join("ca.crt"), bundle).unwrap();
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            let path = dir.join(&data).join(file);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
            if fs::symlink_metadata(dir.join(file)).is_err() {
                symlink(format!("..data/{file}"), dir.join(file)).unwrap();
            }
        }
        symlink(&data, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    }
}

#[tokio::test]
async fn svids_of_a_service_account_that_a_driver_lays_and_renews_are_taken() {
    let setup = Setup::on(Store::Embedded);
    let dir = setup.world.path("spiffe.io");
    fs::create_dir(&dir).unwrap();
    let volume = Volume(&dir);
    // Of the trust domain of the pods, without a DNS name.
    let tenant = &setup.world.tenant;
    volume.lay("first", &tenant.svid("ns/taskpass/sa/taskpass"), &tenant.pem());
    let setup = setup
        .identity("certificate = \"spiffe.io/tls.crt\"\nkey = \"spiffe.io/tls.key\"")
        .trust(TENANT, "bundles = [\"spiffe.io/ca.crt\"]");
    let broker = Broker::process(setup).await;
    let first = shown(&broker).await.unwrap();
    let pod = broker.world.tenant.svid("ns/agents/sa/a1");
    volume.lay("second", &broker.world.tenant.svid("ns/taskpass/sa/taskpass"), &broker.world.tenant.pem());
    eventually("the renewed certificate", async || shown(&broker).await.is_some_and(|now| now != first))
        .await;
    assert!(
        broker.as_process().log().contains("no DNS name beside its SPIFFE ID"),
        "stock clients are warned of"
    );
    // And the authority goes with the next swap.
    let known = async || handshake(broker.grpc, towards_anybody(Some(&pod))).await.is_ok();
    assert!(known().await);
    volume.lay("third", &broker.world.tenant.svid("ns/taskpass/sa/taskpass"), &broker.world.stranger.pem());
    eventually("the withdrawal", async || !known().await).await;
}

#[tokio::test]
async fn an_own_certificate_from_files_that_nobody_renews_is_told_of_and_the_broker_is_not_ready() {
    let setup = Setup::on(Store::Embedded);
    let begin = now().as_secs() - 2;
    let short = setup.world.broker_ca.svid_with("broker", |it| {
        it.subject_alt_names.push(dns("localhost"));
        valid(it, begin, begin + 8);
    });
    short.write(setup.world.dir(), "broker");
    let broker = Broker::process(setup).await;
    let says = async |what: &str| {
        eventually(what, async || broker.as_process().log().contains(what)).await;
    };
    says("ends before long, and its source has given no newer one").await;
    says("the broker's own certificate is over").await;
    let (status, why) = broker.page("/readyz").await;
    assert!(status == 503 && why.contains("certificate is over"), "{why}");
    broker.world.renew_broker_certificate();
    eventually("readiness", async || broker.page("/readyz").await == (200, "ready\n".to_owned())).await;
    eventually("the gauge", async || {
        !broker.page("/metrics").await.1.contains("taskpass_own_svid_remaining_seconds 0\n")
    })
    .await;
}

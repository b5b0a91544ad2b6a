//! Which servers are fit, over which ways, as whom.

use std::path::PathBuf;

use super::super::server::RedisTlsFiles;
use super::*;
use crate::keys::store::KeyringStore;
use crate::revoke::feed::FeedStore;
use crate::revoke::fence::{FenceIntent, FenceStore, FenceTarget};

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Why a broker refuses a server.
async fn refusal(options: RedisOptions) -> String {
    let options = RedisOptions { connect_timeout: Duration::from_millis(300), ..options };
    match connect(&options, &Arc::default()).await {
        Err(Refusal::Setting(why) | Refusal::NotNow(why)) => why,
        Ok(_) => panic!("the server is accepted"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_keep_what_is_configured_is_refused() {
    let fsync = |server: &RedisServer| RedisOptions {
        durability: RedisDurability::Fsync,
        ..RedisOptions::new(server.url())
    };
    let server = RedisServer::plain();
    let why = refusal(fsync(&server)).await;
    assert!(why.contains("`appendonly no`") && why.contains("`appendonly yes`"), "{why}");
    let server = RedisServer::start(RedisSetup { append: Some("everysec"), ..RedisSetup::default() });
    let why = refusal(fsync(&server)).await;
    assert!(why.contains("`appendfsync always`"), "{why}");
    server.command(&["CONFIG", "SET", "appendfsync", "always", "no-appendfsync-on-rewrite", "yes"]);
    let why = refusal(fsync(&server)).await;
    assert!(why.contains("`no-appendfsync-on-rewrite no`"), "{why}");
    server.command(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "no"]);
    fresh(&fsync(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_drops_keys_by_itself_is_refused() {
    let more = vec![("maxmemory-policy", "volatile-ttl".to_owned())];
    let server = RedisServer::start(RedisSetup { more, ..RedisSetup::default() });
    let why = refusal(RedisOptions::new(server.url())).await;
    assert!(why.contains("`maxmemory-policy volatile-ttl`") && why.contains("noeviction"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_memory_stops_issuing_and_nothing_else() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let [task, other] = [store.begun(1).await, store.begun(1).await];
    let [credential, second] = [store.minted(task).await, store.minted(other).await];
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let refused = store.record(request(task), now()).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("OOM")), "{refused:?}");
    assert!(store.begin(draft(1), now()).await.is_err());
    assert!(store.is_active(credential).await);
    store.revoke(second, now()).await.unwrap().unwrap();
    store.completed(task).await;
    let intent = FenceIntent {
        id: uuid::Uuid::from_u128(7),
        target: FenceTarget::Workload(AGENT.to_owned()),
        at: now(),
        block_until: now(),
        forget_at: now().saturating_add(HOUR),
        by: Actor::default(),
    };
    store.intend(&intent).await.unwrap();
    store.raise(Partition::from_low_bits(1), &intent, now()).await.unwrap();
    store.compare_and_set(None, b"keys").await.unwrap();
    store.lapse(Partition::from_low_bits(1), 10, now()).await.unwrap();
    assert!(!store.read(other, now()).await.unwrap().unwrap().status.is_live());
    // A broker that comes now is let in.
    assert!(!fresh(&RedisOptions::new(server.url())).await.is_active(credential).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_lost_its_replicas_says_nothing_where_it_may_not_write() {
    let server = RedisServer::plain();
    let store = fresh(&RedisOptions::new(server.url())).await;
    let credential = store.minted(store.begun(1).await).await;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let refused = store.check(credential, KEY, now()).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("NOREPLICAS")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_refused_also_when_it_becomes_one() {
    let master = RedisServer::plain();
    let replica = RedisServer::start(RedisSetup { replica_of: Some(master.port()), ..RedisSetup::default() });
    let why = refusal(RedisOptions::new(replica.url())).await;
    assert!(why.contains("replica"), "{why}");
    let third = RedisServer::plain();
    let store = fresh(&RedisOptions::new(third.url())).await;
    let credential = store.minted(store.begun(1).await).await;
    third.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    assert!(store.check(credential, KEY, now()).await.is_err(), "a replica still answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_way_is_said() {
    let why = refusal(RedisOptions::new("redis://127.0.0.1:1")).await;
    assert!(why.contains("cannot connect"), "{why}");
    for url in ["http://localhost", "localhost", "", "rediss://localhost/#insecure", "unix:///tmp/redis"] {
        let why = refusal(RedisOptions::new(url)).await;
        assert!(why.contains("URL"), "{url}: {why}");
    }
    let why = refusal(RedisOptions::new("redis://localhost/1")).await;
    assert!(why.contains("another database than 0"), "{why}");
    let why = refusal(RedisOptions::new("rediss://localhost")).await;
    assert!(why.contains("CA"), "{why}");
    let options = RedisOptions {
        password_file: Some(PathBuf::from("/nowhere/password")),
        ..RedisOptions::new("redis://localhost")
    };
    assert!(refusal(options).await.contains("/nowhere/password"));
    let sample = include_str!("../../../../deploy/redis/users.acl");
    let placeholder = sample.split('>').nth(1).unwrap().split(' ').next().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), placeholder).unwrap();
    let options = RedisOptions {
        password_file: Some(file.path().to_owned()),
        ..RedisOptions::new("redis://localhost")
    };
    assert!(refusal(options).await.contains("placeholder"), "a47");
    let shown = format!("{:?}", RedisOptions::new("redis://user:secret@localhost"));
    assert!(!shown.contains("secret"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_waits_for_replicas_and_a_retry_waits_again() {
    let master = RedisServer::plain();
    let replica = RedisServer::start(RedisSetup { replica_of: Some(master.port()), ..RedisSetup::default() });
    let durability = RedisDurability::Replicas(1);
    let options = RedisOptions { durability, clock_skew: HOUR, ..RedisOptions::new(master.url()) };
    let store = fresh(&options).await;
    assert_eq!(store.durability(), Durability::Replicas);
    let [first, second] = [store.begun(1).await, store.begun(1).await];
    store.completed(first).await;
    let known = store.context.history.remembered(first.partition());
    replica.pause();
    // Begin and mint need no replica: what they lose is refused.
    store.minted(second).await;
    let since = Instant::now();
    // At one moment, so that a retry finds nothing at all to write.
    let at = now();
    assert!(matches!(store.end(ending(second), at).await, Err(StoreError::Unavailable(_))));
    assert!(since.elapsed() < SOON);
    for _ in 0..2 {
        assert!(
            matches!(store.end(ending(second), at).await, Err(StoreError::Unavailable(_))),
            "nor a retry"
        );
    }
    assert_eq!(store.context.history.remembered(first.partition()), known, "not acknowledged");
    replica.resume();
    let since = Instant::now();
    let outcome = loop {
        match store.end(ending(second), now()).await {
            Ok(outcome) => break outcome,
            Err(e) => assert!(since.elapsed() < 2 * SOON, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let EndOutcome::AlreadyEnded(_, position) = outcome else { panic!("it was written: {outcome:?}") };
    assert_eq!(store.context.history.remembered(first.partition()), Some(position));
    let why = refusal(RedisOptions { durability: RedisDurability::Replicas(2), ..options }).await;
    assert!(why.contains("1 of 2 replicas"), "{why}");
}

/// A CA, a certificate for `localhost` and one for the broker, in files.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| write_private(&dir.path().join(name), &text);
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the CA");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        write("ca.pem", ca.pem());
        for (name, host) in [("server", "localhost"), ("client", "taskpass")] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, host);
            write(&format!("{name}.pem"), params.signed_by(&key, &ca).unwrap().pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self { dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn server(&self) -> RedisTlsFiles {
        let file = |name| self.file(name);
        RedisTlsFiles { ca: file("ca.pem"), cert: file("server.pem"), key: file("server.key"), clients: true }
    }

    fn client(&self) -> RedisTls {
        let file = |name| Some(self.file(name));
        RedisTls { ca_file: file("ca.pem"), cert_file: file("client.pem"), key_file: file("client.key") }
    }
}

fn write_private(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// The shipped users, with a password, and one for the harness.
fn shipped_users() -> String {
    let shipped = std::fs::read_to_string(repository("deploy/redis/users.acl")).unwrap();
    assert!(shipped.contains(">REPLACE-WITH-A-LONG-RANDOM-PASSWORD "));
    shipped.replace("REPLACE-WITH-A-LONG-RANDOM-PASSWORD", "a-password")
        + "user harness on >harness ~* &* +@all\n"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_user_suffices_over_tls_and_may_do_no_more() {
    let certificates = Certificates::new();
    let server = RedisServer::start(RedisSetup {
        append: Some("always"),
        tls: Some(certificates.server()),
        users: Some(shipped_users()),
        admin: Some(("harness", "harness")),
        ..RedisSetup::default()
    });
    let password = certificates.file("password");
    write_private(&password, "a-password\n");
    let options = RedisOptions {
        username: Some("taskpass".to_owned()),
        password_file: Some(password.clone()),
        durability: RedisDurability::Fsync,
        tls: certificates.client(),
        ..RedisOptions::new(server.tls_url())
    };
    // Time is virtual, so that what takes days happens here; none of the replicas are waited for.
    let virtual_time = RedisOptions { clock_skew: 400 * DAY, ..options.clone() };
    every_step(&fresh(&virtual_time).await).await;
    let replicas = RedisOptions { durability: RedisDurability::Replicas(0), ..virtual_time };
    fresh(&replicas).await.declare_restored(now()).await.unwrap();
    let used: String = redis::cmd("INFO").arg("commandstats").query(&mut server.client()).unwrap();
    for granted in shipped_users().lines().nth(1).unwrap().split(" +").skip(1) {
        assert!(used.contains(&format!("cmdstat_{granted}:")), "{granted} is granted and not needed");
    }
    let denied = [
        "FLUSHALL",
        "KEYS *",
        "CONFIG SET maxmemory 1",
        "GET other:key",
        "SCRIPT FLUSH",
        "SHUTDOWN",
        "EVAL x 0",
        "ACL LIST",
    ];
    let mut client = login(&server, "taskpass:a-password");
    for words in denied {
        let mut cmd = redis::Cmd::new();
        words.split(' ').for_each(|word| {
            cmd.arg(word);
        });
        let refused = cmd.exec(&mut client).expect_err(words);
        assert_eq!(refused.code(), Some("NOPERM"), "{words}: {refused}");
    }
    write_private(&password, "another");
    let why = refusal(options.clone()).await;
    assert!(why.contains("refuses this user") && !why.contains("another"), "{why}");
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let why = refusal(options.clone()).await;
    assert!(why.contains("open to others") && !why.contains("another"), "{why}");
    write_private(&password, "a-password\n");
    let bare = RedisTls { cert_file: None, key_file: None, ..options.tls.clone() };
    refusal(RedisOptions { tls: bare, ..options.clone() }).await;
    let stranger = RedisTls { ca_file: Certificates::new().client().ca_file, ..options.tls.clone() };
    refusal(RedisOptions { tls: stranger, ..options }).await;
}

fn login(server: &RedisServer, who: &str) -> redis::Connection {
    redis::Client::open(format!("redis://{who}@127.0.0.1:{}", server.port()))
        .unwrap()
        .get_connection()
        .unwrap()
}

/// Every way through every script that uses a command of its own.
async fn every_step(store: &RedisStore) {
    const OTHER: &str = "spiffe://one.example/other";
    let at = now();
    let key = |n| Some(Idempotency { key: [n; 32], request: [1; 32] });
    let short = BeginTask {
        deadline: at.saturating_add(HOUR),
        owner: OTHER.to_owned(),
        idempotency: key(1),
        ..draft(1)
    };
    let id = store.begun(1).await;
    store.begin(short.clone(), at).await.unwrap();
    store.begin(BeginTask { lineage: vec![id], ..draft(1) }, at).await.unwrap();
    let replayed = store.begin(BeginTask { id: draft(1).id, ..short }, at).await.unwrap();
    assert!(matches!(replayed, BeginOutcome::Replayed(_)));
    store.extend(id, at.saturating_add(2 * HOUR), at).await.unwrap();
    store.reserve(AGENT, id, at, 1, at).await.unwrap().unwrap();
    store.reserve(AGENT, draft(1).id, at, 1, at).await.unwrap().unwrap();
    store.release(AGENT, &[id]).await.unwrap();
    let asked = RecordCredential { version: 2, ..request(id) };
    let RecordOutcome::Recorded { id: credential, .. } = store.record(asked, at).await.unwrap() else {
        panic!("it lives")
    };
    assert!(store.is_active(credential).await);
    assert_eq!(store.credentials(id, 0, 10, at).await.unwrap().0.len(), 1);
    store.revoke(credential, at).await.unwrap().unwrap();
    for (owner, count) in [(None, 3), (Some(AGENT.to_owned()), 2)] {
        let query = ListTasks { owner, within: None, live_only: false, after: None, limit: 10 };
        assert_eq!(store.list(query, at).await.unwrap().tasks.len(), count);
    }
    let intent = FenceIntent {
        id: uuid::Uuid::from_u128(7),
        target: FenceTarget::Workload(OTHER.to_owned()),
        at,
        block_until: at,
        forget_at: at.saturating_add(HOUR),
        by: Actor { spiffe_id: "spiffe://one.example/operator".to_owned(), note: "all".to_owned() },
    };
    store.intend(&intent).await.unwrap();
    assert_eq!(store.intents().await.unwrap(), std::slice::from_ref(&intent));
    store.raise(Partition::from_low_bits(1), &intent, at).await.unwrap();
    store.finish(intent.id).await.unwrap();
    store.compare_and_set(None, b"keys").await.unwrap();
    store.load().await.unwrap().unwrap();
    store.end(EndTask { bury_unknown: Some(HOUR), ..ending(draft(3).id) }, at).await.unwrap();
    store.end(ending(id), at).await.unwrap();
    assert!(store.positions(at).await.unwrap().iter().all(Option::is_some));
    assert!(!store.entries(Partition::from_low_bits(1), 0, 10, at).await.unwrap().entries.is_empty());
    store.register(&[super::feed::follower(1)], at).await.unwrap();
    assert_eq!(store.registrations(at).await.unwrap().len(), 1);
    super::feed::heard(store).await;
    store.probe().await.unwrap();
    for days in 0..5 {
        let at = at.saturating_add(HOUR + days * DAY);
        store.lapse(Partition::from_low_bits(1), 100, at).await.unwrap();
    }
    store.declare_restored(at).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_may_too_little_is_told_what_is_missing() {
    let users = shipped_users().replace(" +script|load", "").replace("user default off\n", "");
    let users = Some(format!("user default off\n{users}"));
    let server = RedisServer::start(RedisSetup {
        users,
        admin: Some(("harness", "harness")),
        ..RedisSetup::default()
    });
    let url = format!("redis://taskpass:a-password@127.0.0.1:{}", server.port());
    let why = refusal(RedisOptions::new(url)).await;
    assert!(why.contains("ACL") && why.contains("script|load"), "{why}");
    server.command(&["ACL", "SETUSER", "taskpass", "+script|load", "resetchannels"]);
    let url = format!("redis://taskpass:a-password@127.0.0.1:{}", server.port());
    let why = refusal(RedisOptions::new(url)).await;
    assert!(why.contains("ACL") && why.contains("channel"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_configuration_is_well_formed_and_fit() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users.acl");
    std::fs::write(&users, shipped_users()).unwrap();
    let shipped = std::fs::read_to_string(repository("deploy/redis/redis.conf")).unwrap();
    let conf = dir.path().join("redis.conf");
    std::fs::write(&conf, shipped.replace("/etc/redis/users.acl", &users.to_string_lossy())).unwrap();
    let admin = Some(("harness", "harness"));
    let server = RedisServer::start(RedisSetup { conf: Some(conf), admin, ..RedisSetup::default() });
    let url = format!("redis://taskpass:a-password@127.0.0.1:{}", server.port());
    let options = RedisOptions { durability: RedisDurability::Fsync, ..RedisOptions::new(url) };
    fresh(&options).await.begun(1).await;
}

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::identity::test_ca::{self, Ca, Svid};

/// In May 2026.
const NOW: Timestamp = Timestamp::from_secs(1_780_000_000);

struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn server() -> Use {
    Use::Server(["td.test".parse().unwrap(), "served.test".parse().unwrap()].into())
}

struct Place {
    dir: TempDir,
    files: SvidFiles,
    ca: Ca,
}

impl Place {
    fn new() -> Self {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new("td.test"));
        let (certificate, key) = ca.server("broker", &["localhost"]).write(dir.path(), "own");
        Self { files: SvidFiles { certificate, key }, dir, ca }
    }

    fn put(&self, svid: &Svid) {
        svid.write(self.dir.path(), "own");
    }

    fn open(&self, purpose: Use) -> Result<SvidSource, String> {
        SvidSource::open(self.files.clone(), purpose, Arc::new(At(NOW)))
    }

    #[track_caller]
    fn fails(&self, told: &str) {
        let why = self.open(server()).err().expect("opened");
        assert!(why.contains(told), "{why}");
        assert!(why.contains("/own."), "names no file: {why}");
    }
}

/// As `run` does after a change.
fn look_twice(source: &mut SvidSource) {
    source.look();
    source.look();
}

#[test]
fn a_certificate_with_one_spiffe_id_and_a_dns_name_serves() {
    let place = Place::new();
    let own = place.open(server()).unwrap().current().load().unwrap();
    assert_eq!(own.spiffe_id().as_str(), "spiffe://td.test/broker");
    assert_eq!(own.chain().len(), 1);
}

#[test]
fn a47_a_key_file_that_others_may_read_is_refused() {
    let place = Place::new();
    for mode in [0o644, 0o604, 0o606, 0o601] {
        fs::set_permissions(&place.files.key, PermissionsExt::from_mode(mode)).unwrap();
        place.fails("open to others");
    }
    fs::set_permissions(&place.files.key, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(place.open(server()).is_ok());
}

#[test]
fn a_certificate_without_a_dns_name_serves_and_says_so() {
    let place = Place::new();
    assert!(place.open(server()).unwrap().current().load().unwrap().has_dns_name());
    place.put(&place.ca.svid("broker"));
    assert!(!place.open(server()).unwrap().current().load().unwrap().has_dns_name());
}

#[test]
fn a_server_may_be_of_a_trust_domain_that_it_serves_and_of_no_other() {
    let place = Place::new();
    place.put(&Ca::new("served.test").svid("broker"));
    assert_eq!(
        place.open(server()).unwrap().current().load().unwrap().spiffe_id().as_str(),
        "spiffe://served.test/broker"
    );
    place.put(&Ca::new("other.test").svid("broker"));
    place.fails("of trust domain other.test, which is neither trust_domain nor one of trust_domains");
    assert!(place.open(Use::Client).is_ok());
}

#[test]
fn a_certificate_that_our_peers_would_refuse_is_refused() {
    let place = Place::new();
    place.put(&place.ca.svid_with("broker", |params| {
        params.subject_alt_names.extend([test_ca::uri("spiffe://td.test/other"), test_ca::dns("localhost")]);
    }));
    place.fails("more than one URI");
    place.put(
        &place.ca.svid_with("broker", |params| params.subject_alt_names = vec![test_ca::dns("localhost")]),
    );
    place.fails("no URI");
    place.put(&place.ca.svid_with("broker", |params| {
        params.subject_alt_names.push(test_ca::dns("localhost"));
        test_ca::valid(params, NOW.as_secs() - 9, NOW.as_secs() - 1);
    }));
    place.fails("expired");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let place = Place::new();
    test_ca::write_private(&place.files.key, &place.ca.svid("other").key_pem());
    place.fails("does not belong");
}

#[test]
fn files_without_what_belongs_into_them_are_refused() {
    let place = Place::new();
    fs::write(&place.files.certificate, "junk").unwrap();
    place.fails("no PEM certificate");
    place.put(&place.ca.server("broker", &["localhost"]));
    fs::write(&place.files.key, "junk").unwrap();
    place.fails("no PEM private key");
    fs::write(&place.files.key, test_ca::pem("PRIVATE KEY", b"junk")).unwrap();
    place.fails("cannot be used");
    fs::remove_file(&place.files.key).unwrap();
    place.fails("own.key");
}

#[test]
fn new_files_come_into_force_for_all_who_hold_the_svid() {
    let place = Place::new();
    let mut source = place.open(server()).unwrap();
    let current = source.current();
    let renewed = place.ca.intermediate().server("broker", &["localhost"]);
    place.put(&renewed);
    assert_eq!((source.look(), source.look()), (Looked::Unsettled, Looked::Taken));
    assert_eq!(current.load().unwrap().chain(), renewed.chain);
}

#[test]
fn bad_new_files_keep_the_old_svid_until_they_are_good() {
    let place = Place::new();
    let mut source = place.open(server()).unwrap();
    let before = source.current().load().unwrap();
    let renewed = place.ca.server("broker", &["localhost"]);
    fs::write(&place.files.certificate, renewed.chain_pem()).unwrap();
    look_twice(&mut source);
    assert!(
        Arc::ptr_eq(&before, &source.current().load().unwrap()),
        "a certificate without its key was taken"
    );
    test_ca::write_private(&place.files.key, &renewed.key_pem());
    fs::set_permissions(&place.files.key, PermissionsExt::from_mode(0o644)).unwrap();
    look_twice(&mut source);
    assert!(Arc::ptr_eq(&before, &source.current().load().unwrap()), "a key that all may read was taken");
    fs::set_permissions(&place.files.key, PermissionsExt::from_mode(0o600)).unwrap();
    look_twice(&mut source);
    assert_eq!(source.current().load().unwrap().chain(), renewed.chain);
    fs::remove_file(&place.files.certificate).unwrap();
    look_twice(&mut source);
    assert_eq!(source.current().load().unwrap().chain(), renewed.chain);
}

#[test]
fn a44_neither_errors_nor_debug_show_the_key() {
    let place = Place::new();
    let key = place.ca.svid("other").key_pem();
    let secret = key.lines().nth(1).unwrap();
    test_ca::write_private(&place.files.key, &key);
    let why = place.open(server()).err().unwrap();
    assert!(!why.contains(secret));
    let place = Place::new();
    let debug = format!("{:?}", place.open(server()).unwrap().current());
    assert!(debug.contains("spiffe://td.test/broker") && debug.len() < 200, "{debug}");
}

#[test]
fn a_certificate_of_another_trust_domain_is_refused_at_start_and_on_reload() {
    let place = Place::new();
    let mut source = place.open(server()).unwrap();
    let before = source.current().load().unwrap().chain().to_vec();
    place.put(&Ca::new("elsewhere.test").server("broker", &["localhost"]));
    place.fails("of trust domain elsewhere.test");
    look_twice(&mut source);
    assert_eq!(source.current().load().unwrap().chain(), before);
    assert!(place.open(Use::Client).is_ok());
}

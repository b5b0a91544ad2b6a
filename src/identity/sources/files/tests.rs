use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::identity::test_ca::Ca;

fn domain() -> TrustDomain {
    "td.test".parse().unwrap()
}

/// A bundle file of `td.test` that is followed.
struct Followed {
    dir: TempDir,
    path: PathBuf,
    files: BundleFiles,
}

impl Followed {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle");
        fs::write(&path, text).unwrap();
        let files = open(&[&path]).unwrap();
        Self { dir, path, files }
    }

    /// Looks twice, as `run` does, and tells the number of anchors then in force.
    fn anchors(&mut self) -> usize {
        self.files.look();
        self.files.look();
        let all = self.files.bundles().trust_domains();
        assert_eq!(all.len(), 1);
        all[0].1
    }
}

fn open(paths: &[&Path]) -> Result<BundleFiles, Vec<BadBundleFile>> {
    let paths = paths.iter().map(|path| path.to_path_buf()).collect();
    BundleFiles::open(BTreeMap::from([(domain(), paths)]))
}

fn two_roots() -> String {
    Ca::new("td.test").pem() + &Ca::new("td.test").pem()
}

#[test]
fn files_of_one_trust_domain_are_read_together_whatever_their_form() {
    let dir = tempfile::tempdir().unwrap();
    let (pem, jwk_set) = (dir.path().join("a.pem"), dir.path().join("b.json"));
    fs::write(&pem, two_roots()).unwrap();
    fs::write(&jwk_set, Ca::new("td.test").jwk_set()).unwrap();
    assert_eq!(open(&[&pem, &jwk_set]).unwrap().bundles().trust_domains(), [(domain(), 3)]);
}

#[test]
fn at_start_every_bad_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.pem");
    let junk = dir.path().join("junk.pem");
    fs::write(&junk, "junk").unwrap();
    let config = BTreeMap::from([
        ("a.test".parse().unwrap(), vec![missing]),
        ("b.test".parse().unwrap(), vec![junk]),
        ("c.test".parse().unwrap(), vec![]),
    ]);
    let Err(problems) = BundleFiles::open(config) else { panic!("opened") };
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3);
    assert!(told[0].contains("a.test") && told[0].contains("missing.pem"), "{told:?}");
    assert!(told[1].contains("b.test") && told[1].contains("junk.pem"), "{told:?}");
    assert!(told[2].contains("c.test"), "{told:?}");
}

#[test]
fn a_change_in_place_comes_into_force() {
    let mut followed = Followed::new(&two_roots());
    assert_eq!(followed.anchors(), 2);
    fs::write(&followed.path, Ca::new("td.test").pem()).unwrap();
    assert_eq!(followed.anchors(), 1);
}

#[test]
fn a_change_by_rename_comes_into_force() {
    let mut followed = Followed::new(&two_roots());
    let new = followed.dir.path().join("new");
    fs::write(&new, Ca::new("td.test").jwk_set()).unwrap();
    fs::rename(new, &followed.path).unwrap();
    assert_eq!(followed.anchors(), 1);
}

#[cfg(unix)]
#[test]
fn a_swapped_symlink_comes_into_force() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (version, text) in [("..1", two_roots()), ("..2", Ca::new("td.test").pem())] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("bundle.pem"), text).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/bundle.pem", at("bundle.pem")).unwrap();
    let files = open(&[&at("bundle.pem")]).unwrap();
    let mut followed = Followed { path: at("bundle.pem"), files, dir };
    assert_eq!(followed.anchors(), 2);
    let at = |name: &str| followed.dir.path().join(name);
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    assert_eq!(followed.anchors(), 1);
}

#[test]
fn an_emptied_bundle_revokes() {
    let mut followed = Followed::new(&two_roots());
    fs::write(&followed.path, r#"{"keys":[]}"#).unwrap();
    assert_eq!(followed.anchors(), 0);
    fs::write(&followed.path, two_roots()).unwrap();
    assert_eq!(followed.anchors(), 2);
    fs::write(&followed.path, "").unwrap();
    assert_eq!(followed.anchors(), 0);
}

#[test]
fn c40_a_file_that_is_taken_away_revokes() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&a, two_roots()).unwrap();
    fs::write(&b, Ca::new("td.test").pem()).unwrap();
    let files = open(&[&a, &b]).unwrap();
    let mut followed = Followed { path: a.clone(), files, dir };
    assert_eq!(followed.anchors(), 3);
    fs::remove_file(&a).unwrap();
    // Once may be in the middle of something.
    followed.files.look();
    assert_eq!(followed.files.bundles().trust_domains()[0].1, 3);
    followed.files.look();
    assert_eq!(followed.files.bundles().trust_domains()[0].1, 1, "what the other file holds stays");
    fs::remove_file(&b).unwrap();
    assert_eq!(followed.anchors(), 0);
    fs::write(&a, two_roots()).unwrap();
    assert_eq!(followed.anchors(), 2);
}

#[test]
fn a_file_that_turns_bad_or_unreadable_keeps_the_last_good_bundle() {
    let mut followed = Followed::new(&two_roots());
    let version = followed.files.bundles().version();
    for bad in ["junk", "{", "{}", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
        fs::write(&followed.path, bad).unwrap();
        assert_eq!(followed.anchors(), 2, "{bad:?}");
    }
    fs::remove_file(&followed.path).unwrap();
    fs::create_dir(&followed.path).unwrap();
    assert_eq!(followed.anchors(), 2);
    assert_eq!(followed.files.bundles().version(), version);
    fs::remove_dir(&followed.path).unwrap();
    fs::write(&followed.path, Ca::new("td.test").pem()).unwrap();
    assert_eq!(followed.anchors(), 1);
}

#[test]
fn a_file_caught_in_the_middle_of_being_written_is_not_taken() {
    let mut followed = Followed::new(&two_roots());
    fs::write(&followed.path, "").unwrap();
    assert_eq!(followed.files.look(), Looked::Unsettled);
    fs::write(&followed.path, Ca::new("td.test").pem()).unwrap();
    assert_eq!(followed.files.look(), Looked::Unsettled);
    assert_eq!(followed.files.bundles().trust_domains()[0].1, 2);
    assert_eq!(followed.files.look(), Looked::Taken);
    assert_eq!(followed.files.bundles().trust_domains()[0].1, 1);
}

#[test]
fn one_domains_bad_file_does_not_hold_up_another() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::write(&a, two_roots()).unwrap();
    fs::write(&b, two_roots()).unwrap();
    let config = BTreeMap::from([
        ("a.test".parse().unwrap(), vec![a.clone()]),
        ("b.test".parse().unwrap(), vec![b.clone()]),
    ]);
    let mut files = BundleFiles::open(config).unwrap();
    fs::write(a, "junk").unwrap();
    fs::write(b, Ca::new("b.test").pem()).unwrap();
    assert_eq!(
        (files.look(), files.look(), files.look()),
        (Looked::Unsettled, Looked::Refused, Looked::Unchanged)
    );
    let counts: Vec<_> = files.bundles().trust_domains().into_iter().map(|(_, count)| count).collect();
    assert_eq!(counts, [2, 1]);
}

#[tokio::test]
async fn running_follows_the_files_until_it_is_stopped() {
    let followed = Followed::new(&two_roots());
    let bundles = Arc::clone(followed.files.bundles());
    let mut changed = bundles.watch();
    let stop = CancellationToken::new();
    let run = tokio::spawn(followed.files.run(Duration::from_millis(5), stop.clone()));
    fs::write(&followed.path, Ca::new("td.test").pem()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), changed.changed()).await.unwrap().unwrap();
    assert_eq!(bundles.trust_domains()[0].1, 1);
    stop.cancel();
    run.await.unwrap();
}

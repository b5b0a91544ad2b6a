//! The keyring in the embedded store: several brokers cannot share its file, but their steps meet in it as those of one broker's tasks do.

use std::sync::Arc;

use taskpass_verifier::keyset::Algorithm;

use super::kids;
use crate::keys::Keyring;
use crate::keys::testing::{NOW, kek, plan};
use crate::revoke::history::History;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_starts_on_the_embedded_store_make_one_set_and_a_reopened_file_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let open_store = || {
        let options = EmbeddedOptions::at(dir.path().join("store"));
        Arc::new(EmbeddedStore::open(options, Arc::new(History::default())).unwrap())
    };
    let start = |store: Arc<EmbeddedStore>| async move {
        let plan = plan(&[("acme.test", Algorithm::Es256), ("beta.test", Algorithm::EdDsa)]);
        Keyring::open(store.as_ref(), &kek(7), &plan, NOW).await.unwrap()
    };
    let store = open_store();
    let starts: Vec<_> = (0..4).map(|_| tokio::spawn(start(Arc::clone(&store)))).collect();
    let mut found = Vec::new();
    for one in starts {
        found.push(kids(&one.await.unwrap()));
    }
    assert!(found.iter().all(|kids| *kids == found[0]), "{found:?}");
    drop(store);
    let again = start(open_store()).await;
    assert_eq!(kids(&again), found[0]);
    assert_eq!(again.version(), 1);
}

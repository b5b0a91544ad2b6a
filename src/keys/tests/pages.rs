use super::*;
use crate::identity::SpiffeId;

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_page_token_opens_at_every_broker_for_its_own_list_alone() {
    let (store, plan) = (MemoryStore::default(), plan(&[("acme.test", ES256)]));
    let (one, other) = (open(&store, &plan).await.unwrap(), open(&store, &plan).await.unwrap());
    let (alice, bob) = (id("spiffe://acme.test/alice"), id("spiffe://acme.test/bob"));
    let place = new_task_id(NOW, Partition::from_low_bits(3)).unwrap();
    let list = TaskList { caller: &alice, owner: None, live_only: false };
    let token = one.page_seal().seal(list, place).unwrap();
    assert_eq!(other.page_seal().open(list, &token), Some(place));
    let others = [
        TaskList { caller: &bob, ..list },
        TaskList { owner: Some(&alice), ..list },
        TaskList { live_only: true, ..list },
    ];
    for list in others {
        assert_eq!(one.page_seal().open(list, &token), None, "{list:?}");
    }
    let stranger = keyring().await;
    assert_eq!(stranger.page_seal().open(list, &token), None);
}

#[tokio::test]
async fn a_page_token_that_was_altered_anywhere_does_not_open() {
    let keyring = keyring().await;
    let caller = id("spiffe://acme.test/alice");
    let list = TaskList { caller: &caller, owner: Some(&caller), live_only: true };
    let place = new_task_id(NOW, Partition::from_low_bits(3)).unwrap();
    let token = keyring.page_seal().seal(list, place).unwrap();
    for at in 0..token.len() {
        let mut altered = token.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        assert_eq!(keyring.page_seal().open(list, &altered), None, "{at}");
        let (first, rest) = token.split_at(at + 1);
        assert_eq!(keyring.page_seal().open(list, rest), None, "without {first}");
    }
    assert_eq!(keyring.page_seal().open(list, &format!("{token}A")), None);
    assert_ne!(keyring.page_seal().seal(list, place).unwrap(), token, "one place looks the same each time");
}

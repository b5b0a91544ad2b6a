//! The seal of what bundle endpoints gave.

use super::*;

#[tokio::test]
async fn a_kept_bundle_opens_for_its_trust_domain_alone_and_unaltered() {
    let (ours, other) = (keyring().await, keyring().await);
    let (a, b) = (domain("acme.test"), domain("acme.tes"));
    let sealed = ours.record_seal().seal_bundle(&a, b"a bundle");
    assert_eq!(ours.record_seal().open_bundle(&a, &sealed), Ok(b"a bundle".as_slice()));
    assert_eq!(ours.record_seal().open_bundle(&b, &sealed), Err(Forged));
    assert_eq!(other.record_seal().open_bundle(&a, &sealed), Err(Forged));
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 0x80;
        assert_eq!(ours.record_seal().open_bundle(&a, &bad), Err(Forged), "byte {at}");
        assert_eq!(ours.record_seal().open_bundle(&a, &sealed[..at]), Err(Forged), "length {at}");
    }
    // Nor does what is sealed for a task, whose id is as good as any bytes.
    let task = new_task_id(NOW, Partition::from_low_bits(1)).unwrap();
    let facts = ours.record_seal().seal(task, b"a bundle");
    assert_eq!(ours.record_seal().open_bundle(&a, &facts), Err(Forged));
}

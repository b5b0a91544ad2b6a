//! What lies in the file: rows come back as they were written, and go when their time is over.

use proptest::prelude::*;
use redb::ReadableTable as _;
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use uuid::Uuid;

use super::super::TABLE;
use super::super::rows::*;
use super::harness::{Embedded, SharedBytes};
use crate::revoke::feed::HISTORY_MARGIN;
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::store::contract::{AGENT, DAY, HOUR, MINUTE, OTHER, World};
use crate::task::state::{Actor, EndReason};
use crate::task::store::*;
use crate::time::Timestamp;

/// The tags of all rows that lie in a store that nobody has open.
fn tags(bytes: &SharedBytes) -> Vec<u8> {
    let image = SharedBytes::new(bytes.with(|disk| disk.bytes.clone()));
    let database = redb::Database::builder().create_with_backend(image).unwrap();
    let write = database.begin_write().unwrap();
    let table = write.open_table(TABLE).unwrap();
    let rows = table.range::<&[u8]>(..).unwrap();
    rows.map(|row| row.unwrap().0.value()[0]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_is_over_only_the_partitions_are_left() {
    let bytes = SharedBytes::default();
    let mut h = Embedded::on(bytes.clone());
    let mut w = World::new(&mut h);
    for round in 0..30u8 {
        let draft = w.keyed(if round % 2 == 0 { AGENT } else { OTHER }, round, 1);
        let task = w.begun_as(&draft).await;
        let child = w.begun_below(&task, OTHER).await;
        for _ in 0..3 {
            w.minted(&child).await;
        }
        let credential = w.minted(&task).await;
        w.store().reserve(AGENT, task.id, draft.deadline, 100, w.now).await.unwrap().unwrap();
        if round % 3 == 0 {
            w.store().revoke(credential, w.now).await.unwrap();
            w.complete(&task).await;
        }
        if round % 5 == 0 {
            w.store().extend(task.id, draft.deadline.saturating_add(HOUR), w.now).await.unwrap();
        }
        w.pass(MINUTE);
    }
    let ghost = w.draft(AGENT).id;
    let bury = EndTask { bury_unknown: Some(HOUR), ..w.ending(ghost, EndReason::Revoked) };
    w.end(bury).await;
    let intent = w.workload(OTHER);
    w.fence(&intent).await;
    let longer = w.workload(OTHER);
    w.fence(&longer).await;
    for time in [HOUR, 3 * HOUR, DAY, 2 * DAY] {
        w.pass(time);
        for partition in Partition::all() {
            w.lapse_all(partition).await;
        }
    }
    drop(h);
    let mut left = tags(&bytes);
    left.dedup();
    assert_eq!(String::from_utf8(left).unwrap(), "MP");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_which_nothing_is_due_is_not_written_to() {
    let bytes = SharedBytes::default();
    let mut h = Embedded::on(bytes.clone());
    let mut w = World::new(&mut h);
    let task = w.begun(AGENT).await;
    w.minted(&task).await;
    let intent = w.workload(OTHER);
    w.fence(&intent).await;
    for partition in Partition::all() {
        w.lapse_all(partition).await;
    }
    // The fence was over at once, its entry is told for a while longer.
    w.now = w.now.saturating_add(HISTORY_MARGIN);
    for partition in Partition::all() {
        w.lapse_all(partition).await;
    }
    bytes.with(|disk| disk.done = Some(Vec::new()));
    for _ in 0..100 {
        w.now = w.now.saturating_add(std::time::Duration::from_millis(100));
        assert_eq!(w.store().intents().await.unwrap(), []);
        assert_eq!(w.store().load().await.unwrap(), None);
        w.store().probe().await.unwrap();
        for partition in Partition::all() {
            let lapsed = w.store().lapse(partition, 64, w.now).await.unwrap();
            assert_eq!((lapsed.ended, lapsed.more), (vec![], false));
        }
    }
    assert_eq!(bytes.with(|disk| disk.done.take().unwrap().len()), 0, "commits");
    // What nobody wrote down is known all the same: a clock cannot go back behind it.
    let back = w.now.saturating_sub(std::time::Duration::from_secs(6));
    let refused = w.store().read(task.id, back).await;
    assert!(matches!(refused, Err(StoreError::ClockSkew(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_task_does_not_grow_without_limit() {
    let bytes = SharedBytes::default();
    let mut h = Embedded::on(bytes.clone());
    let mut w = World::new(&mut h);
    let draft = BeginTask { deadline: w.now.saturating_add(30 * DAY), ..w.draft(AGENT) };
    let task = w.begun_as(&draft).await;
    for _ in 0..50 {
        for _ in 0..40 {
            w.minted(&task).await;
        }
        w.pass(2 * MINUTE);
        w.store().lapse(task.id.partition(), 10, w.now).await.unwrap();
    }
    drop(h);
    let chunks = tags(&bytes).into_iter().filter(|tag| *tag == b'C').count();
    assert!(chunks <= 2, "{chunks} rows for 2000 credentials that have expired");
}

fn times() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

fn actors() -> impl Strategy<Value = Actor> {
    ("[^\n]{0,40}", ".{0,40}").prop_map(|(spiffe_id, note)| Actor { spiffe_id, note })
}

fn task() -> TaskId {
    TaskId::from_parts(1, Partition::from_low_bits(3), [9; 10])
}

proptest! {
    #[test]
    fn a_partition_comes_back(g in any::<[u8; 12]>(), seq: u64, chain: [u8; 20], now in times(), horizon in times(), fences: u32) {
        let position = Position { generation: Generation::from_bytes(g), seq, chain };
        let row = PartitionRow { position, now, horizon, fences };
        prop_assert_eq!(PartitionRow::decode(&row.encode()), Ok(row));
    }

    #[test]
    fn a_fence_comes_back(id: u128, cut: u64, at in times(), block_until in times(), forget_at in times(), by in actors()) {
        let fence = Fence { intent: Uuid::from_u128(id), cut, at, block_until, forget_at, by };
        prop_assert_eq!(Fence::decode(&fence.encode()), Ok(fence));
    }

    #[test]
    fn an_intent_comes_back(id: u128, name in ".{1,80}", workload: bool, at in times(), block_until in times(), forget_at in times(), by in actors()) {
        let target = if workload { FenceTarget::Workload(name) } else { FenceTarget::TrustDomain(name) };
        let intent = FenceIntent { id: Uuid::from_u128(id), target, at, block_until, forget_at, by };
        let stored = encode_intent(&intent).unwrap();
        prop_assert_eq!(decode_intent(&intent_key(intent.id), &stored), Ok(intent));
    }

    #[test]
    fn rows_of_any_bytes_are_told_apart_without_harm(bytes: Vec<u8>) {
        let _ = PartitionRow::decode(&bytes);
        let _ = Fence::decode(&bytes);
        let _ = decode_intent(&bytes, &bytes);
        let chunk = Chunk(bytes);
        prop_assert!(chunk.records(task(), u32::MAX).count() <= 64);
    }

    #[test]
    fn credentials_come_back_from_their_chunk(
        set in prop::collection::btree_map(0..64u32, (any::<bool>(), any::<u8>(), 0..1u64 << 40, 0..1u64 << 40, any::<bool>()), 0..20)
    ) {
        let mut chunk = Chunk::default();
        let records: Vec<_> = set.into_iter().map(|(slot, (token, grant, issued, expires, revoked))| CredentialRecord {
            id: CredentialId { task: task(), number: 640 + slot },
            kind: if token { CredentialKind::Token } else { CredentialKind::Certificate },
            grant,
            issued_at: Timestamp::from_secs(issued),
            expires_at: Timestamp::from_secs(expires),
            revoked,
        }).collect();
        for record in records.iter().rev() {
            chunk.set(record);
        }
        prop_assert_eq!(chunk.records(task(), 10).collect::<Vec<_>>(), records.clone());
        for record in records {
            prop_assert_eq!(chunk.get(record.id), Some(record));
        }
    }

    #[test]
    fn the_key_after_a_prefix_is_after_all_that_begin_with_it(prefix in prop::collection::vec(0..255u8, 1..6), rest: Vec<u8>) {
        let key = [prefix.clone(), rest].concat();
        prop_assert!(key < after_prefix(&prefix) && key >= prefix);
    }
}

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use taskpass_verifier::ids::Partition;

use super::*;

fn times() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

fn ids() -> impl Strategy<Value = TaskId> {
    (0..1u64 << 48, any::<u8>(), any::<[u8; 10]>()).prop_map(|(at, partition, random)| {
        TaskId::from_parts(at, Partition::from_low_bits(partition), random)
    })
}

fn heads() -> impl Strategy<Value = TaskHead> {
    let end = (1..8u8, times()).prop_map(|(code, at)| (EndReason::from_code(code).unwrap(), at));
    let last_expiry = option::of((1..u64::MAX).prop_map(Timestamp::from_millis));
    let counts = (any::<u32>(), any::<u64>(), any::<u32>(), any::<bool>());
    (option::of(end), any::<bool>(), counts, times(), last_expiry, times(), any::<[u8; 12]>()).prop_map(
        |(end, tombstone, counts, deadline, last_expiry, readable_until, g)| {
            let (version, began_seq, credentials, tokens_alone) = counts;
            TaskHead {
                end,
                tombstone: tombstone && end.is_some(),
                version,
                deadline,
                began_seq,
                last_expiry,
                credentials,
                tokens_alone,
                readable_until,
                generation: Generation::from_bytes(g),
            }
        },
    )
}

fn records() -> impl Strategy<Value = TaskRecord> {
    let owner = prop_oneof![Just(String::new()), "spiffe://[a-z.]{1,20}/[a-z/]{1,30}", ".{0,30}"];
    let by = ("[^\n]{0,30}", "(?s).{0,60}").prop_map(|(spiffe_id, note)| Actor { spiffe_id, note });
    (heads(), vec(ids(), 0..=MAX_ANCESTORS), owner, vec(any::<u8>(), 0..600), by).prop_map(
        |(head, lineage, owner, facts, by)| TaskRecord {
            // Who ended it is stored with the end.
            ended_by: if head.end.is_some() { by } else { Actor::default() },
            head,
            lineage,
            owner,
            facts: SealedFacts(facts),
        },
    )
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_was_stored(record in records()) {
        prop_assert_eq!(TaskRecord::decode(&record.encode().unwrap()), Ok(record));
    }

    #[test]
    fn any_bytes_are_a_record_or_damaged(bytes in vec(any::<u8>(), 0..400)) {
        let _ = TaskRecord::decode(&bytes);
    }

    #[test]
    fn a_record_with_other_bytes_in_it_is_another_record_or_damaged(
        record in records(), at in any::<prop::sample::Index>(), bits in 1..=255u8
    ) {
        let mut bytes = record.encode().unwrap();
        let place = at.index(bytes.len());
        bytes[place] ^= bits;
        match TaskRecord::decode(&bytes) {
            Err(Damaged) => {}
            // The reason while live and the length of the trust domain's name are not read; nothing else is ignored.
            Ok(read) => prop_assert!(read != record || matches!(place, 2 | 24..=31 | 66 | 67)),
        }
    }

    #[test]
    fn a_record_that_was_cut_short_is_damaged_unless_only_words_are_missing(record in records(), at in any::<prop::sample::Index>()) {
        let bytes = record.encode().unwrap();
        let words = if record.head.end.is_some() { record.ended_by.spiffe_id.len() + 1 + record.ended_by.note.len() } else { 0 };
        let cut = at.index(bytes.len());
        let read = TaskRecord::decode(&bytes[..cut]);
        prop_assert!(read.is_err() || cut >= bytes.len() - words);
    }
}

fn live() -> TaskRecord {
    TaskRecord {
        head: TaskHead {
            end: None,
            tombstone: false,
            version: 0x0102_0304,
            deadline: Timestamp::from_millis(0x0506_0708_090a_0b0c),
            began_seq: 0x0d0e_0f10_1112_1314,
            last_expiry: None,
            credentials: 0x1516_1718,
            tokens_alone: true,
            readable_until: Timestamp::from_millis(0x191a_1b1c_1d1e_1f20),
            generation: Generation::from_bytes([0xaa; 12]),
        },
        lineage: vec![TaskId::from_parts(1, Partition::from_low_bits(9), [0xbb; 10])],
        owner: "spiffe://a.example/x".to_owned(),
        facts: SealedFacts(vec![0xcc; 3]),
        ended_by: Actor::default(),
    }
}

/// The layout that other programs read: Lua scripts, and brokers of other versions.
#[test]
fn the_layout_is_the_documented_one() {
    let bytes = live().encode().unwrap();
    let at = |from: usize, len: usize| &bytes[from..from + len];
    assert_eq!(at(0, 4), [2, 0, 0, 1]);
    assert_eq!(at(4, 4), [1, 2, 3, 4]);
    assert_eq!(at(8, 8), [5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(at(16, 8), [13, 14, 15, 16, 17, 18, 19, 20]);
    assert_eq!(at(24, 16), [0; 16]);
    assert_eq!(at(40, 4), [21, 22, 23, 24]);
    assert_eq!(at(44, 8), [25, 26, 27, 28, 29, 30, 31, 32]);
    assert_eq!(at(52, 12), [0xaa; 12]);
    assert_eq!(at(64, 8), [0, 20, 0, 9, 0, 0, 0, 3]);
    assert_eq!(at(HEAD_LEN, 16), live().lineage[0].as_bytes());
    assert_eq!(at(88, 20), b"spiffe://a.example/x");
    assert_eq!(at(108, 3), [0xcc; 3]);
    assert_eq!(bytes.len(), 111);
}

#[test]
fn the_end_and_who_wrote_it_stand_in_their_places() {
    let mut record = live();
    record.head.end = Some((EndReason::Revoked, Timestamp::from_millis(7)));
    record.ended_by = Actor { spiffe_id: "spiffe://a.example/op".to_owned(), note: "two\nlines".to_owned() };
    let bytes = record.encode().unwrap();
    assert_eq!(bytes[1..3], [1, 2]);
    assert_eq!(bytes[24..32], [0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(bytes[111..], *b"spiffe://a.example/op\ntwo\nlines");
    record.head.tombstone = true;
    assert_eq!(record.encode().unwrap()[1], 2);
}

#[test]
fn an_unknown_version_state_or_reason_is_refused() {
    let bytes = live().encode().unwrap();
    for (place, value) in [(0, 0), (0, 3), (1, 1), (1, 3), (3, 9)] {
        let mut other = bytes.clone();
        other[place] = value;
        assert_eq!(TaskRecord::decode(&other), Err(Damaged), "byte {place} is {value}");
    }
}

/// What earlier brokers wrote differs in this byte alone.
#[test]
fn a_record_of_version_1_may_have_a_certificate_if_it_has_credentials_at_all() {
    let mut bytes = live().encode().unwrap();
    assert!(!TaskRecord::decode(&bytes).unwrap().head.may_have_certificate());
    bytes[0] = 1;
    let read = TaskRecord::decode(&bytes).unwrap();
    assert!(!read.head.tokens_alone && read.head.may_have_certificate());
    assert_eq!(read.encode().unwrap(), bytes, "it stays one");
    assert!(!TaskHead { credentials: 0, ..read.head }.may_have_certificate());
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let long = TaskRecord { owner: "o".repeat(0x1_0000), ..live() };
    assert_eq!(long.encode(), Err(Damaged));
    for depth in [9, 256] {
        let deep = TaskRecord { lineage: vec![live().lineage[0]; depth], ..live() };
        assert_eq!(deep.encode(), Err(Damaged), "{depth} ancestors could not be read back");
    }
}

#[test]
fn the_trust_domain_is_taken_from_a_spiffe_id_only() {
    assert_eq!(trust_domain_of("spiffe://a.example/x/y"), "a.example");
    assert_eq!(trust_domain_of("spiffe://a.example"), "a.example");
    for other in ["", "https://a.example/x", "a.example", "spiffe:/a.example"] {
        assert_eq!(trust_domain_of(other), "");
    }
}

use super::*;

const FOREVER: UnixSeconds = UnixSeconds(4_000_000_000);
const BOUND: Duration = Duration::from_secs(15);

fn second(s: u64) -> Moment {
    Moment::from_nanos(s * 1_000_000_000)
}

fn part() -> Partition {
    Partition::from_low_bits(7)
}

fn task(n: u8) -> TaskId {
    TaskId::from_parts(2_000_000, part(), [n; 10])
}

fn generation(n: u64) -> Generation {
    Generation::from_parts(1_000_000 * n, [0; 6])
}

fn at(generation_number: u64, seq: u64) -> Position {
    Position { generation: generation(generation_number), seq, chain: [u8::try_from(seq % 251).unwrap(); 20] }
}

fn ended(n: u8) -> Entry {
    Entry::TaskEnded { task: task(n), forget_at: FOREVER }
}

fn snapshot(position: Position, entries: &[Entry]) -> Snapshot<'_> {
    Snapshot { partition: part(), position, entries }
}

fn delta(from: Position, to: Position, entries: &[(u64, Entry)]) -> Delta<'_> {
    Delta { partition: part(), from, to, entries }
}

/// Open and fresh: generation 1, sequence 10, heard of at second 100.
fn view() -> RevocationView {
    let view = RevocationView::default();
    view.set_bound(BOUND);
    view.replace(&snapshot(at(1, 10), &[])).unwrap();
    assert!(view.heard(part(), &at(1, 10), second(100)));
    view
}

fn facts(n: u8) -> Facts<'static> {
    Facts {
        credential: CredentialId { task: task(n), number: 3 },
        key: KeyId::from_bytes([1; 32]),
        ancestors: &[],
        fences: Fences::on("spiffe://acme.test/agent", "acme.test"),
        generation: Some(generation(1)),
        began_seq: Some(5),
        expires: UnixSeconds(2_000),
    }
}

fn judge(view: &RevocationView, n: u8) -> Result<(), Refusal> {
    view.refusal(&facts(n), second(101))
}

#[test]
fn g5_a_view_that_was_never_synchronised_refuses() {
    let view = RevocationView::default();
    assert_eq!(judge(&view, 1), Err(Refusal::NeverSynchronised));
    view.replace(&snapshot(at(1, 10), &[])).unwrap();
    assert_eq!(judge(&view, 1), Err(Refusal::NeverSynchronised), "no heartbeat yet");
    assert!(view.heard(part(), &at(1, 10), second(100)));
    assert_eq!(judge(&view, 1), Err(Refusal::NeverSynchronised), "no bound yet");
    view.set_bound(BOUND);
    assert_eq!(judge(&view, 1), Ok(()));
}

#[test]
fn an_ended_task_and_all_below_it_are_refused() {
    let view = view();
    view.apply(&delta(at(1, 10), at(1, 12), &[(11, ended(1))])).unwrap();
    assert_eq!(judge(&view, 1), Err(Refusal::TaskEnded));
    assert_eq!(judge(&view, 2), Ok(()));
    let child = Facts { ancestors: &[task(9), task(1)], ..facts(2) };
    assert_eq!(view.refusal(&child, second(101)), Err(Refusal::TaskEnded));
    assert_eq!(view.position(part()), Some(at(1, 12)));
}

#[test]
fn a_revoked_credential_leaves_its_task_alone() {
    let view = view();
    let id = facts(1).credential;
    let revoked = Entry::CredentialRevoked { id, forget_at: FOREVER };
    view.apply(&delta(at(1, 10), at(1, 11), &[(11, revoked)])).unwrap();
    assert_eq!(judge(&view, 1), Err(Refusal::CredentialRevoked));
    let sibling = Facts { credential: CredentialId { number: 4, ..id }, ..facts(1) };
    assert_eq!(view.refusal(&sibling, second(101)), Ok(()));
}

#[test]
fn a_fence_ends_what_began_before_its_cut_and_nothing_later() {
    for text in ["w:spiffe://acme.test/agent", "t:acme.test"] {
        let view = view();
        let fence =
            Entry::Fence { target: FenceTarget::of(text), cut: 11, raised_at: u64::MAX, forget_at: FOREVER };
        view.apply(&delta(at(1, 10), at(1, 11), &[(11, fence)])).unwrap();
        let began = |seq| view.refusal(&Facts { began_seq: seq, ..facts(1) }, second(101));
        assert_eq!(began(Some(10)), Err(Refusal::Fenced));
        assert_eq!(began(Some(11)), Ok(()));
        assert_eq!(began(None), Err(Refusal::Fenced), "a certificate does not say when its task began");
    }
    let view = view();
    let target = FenceTarget::workload("spiffe://acme.test/other");
    let fence = Entry::Fence { target, cut: 11, raised_at: u64::MAX, forget_at: FOREVER };
    view.apply(&delta(at(1, 10), at(1, 11), &[(11, fence)])).unwrap();
    assert_eq!(judge(&view, 1), Ok(()));
}

#[test]
fn a_withdrawn_key_is_refused_whenever_the_task_began_until_it_is_forgotten() {
    let view = view();
    let (key, forget_at) = (facts(1).key, UnixSeconds(1_000));
    let withdrawn = Entry::KeyFenced { key, forget_at };
    view.apply(&delta(at(1, 10), at(1, 11), &[(11, withdrawn)])).unwrap();
    for began_seq in [Some(0), Some(5), Some(1_000), None] {
        let judged = view.refusal(&Facts { began_seq, ..facts(1) }, second(101));
        assert_eq!(judged, Err(Refusal::KeyFenced));
    }
    assert_eq!(view.refusal(&Facts { key: KeyId::from_bytes([2; 32]), ..facts(1) }, second(101)), Ok(()));
    // A later snapshot that lacks it, of a later generation: it stays.
    view.replace(&snapshot(at(2, 20), &[])).unwrap();
    assert!(view.heard(part(), &at(2, 20), second(101)));
    let later = Facts { generation: Some(generation(2)), ..facts(1) };
    assert_eq!((view.refusal(&later, second(101)), view.len()), (Err(Refusal::KeyFenced), 1));
    view.set_time(999_999, second(101), second(101));
    view.forget(second(101));
    assert_eq!(view.refusal(&later, second(101)), Err(Refusal::KeyFenced));
    view.set_time(1_000_000, second(101), second(101));
    view.forget(second(101));
    assert_eq!((view.refusal(&later, second(101)), view.len()), (Ok(()), 0));
}

#[test]
fn a_cut_never_moves_back() {
    let view = view();
    let fence = |cut| Entry::Fence {
        target: FenceTarget::trust_domain("acme.test"),
        cut,
        raised_at: u64::MAX,
        forget_at: FOREVER,
    };
    view.apply(&delta(at(1, 10), at(1, 11), &[(11, fence(11))])).unwrap();
    view.replace(&snapshot(at(1, 12), &[fence(3)])).unwrap();
    assert_eq!(judge(&view, 1), Err(Refusal::Fenced));
}

#[test]
fn a29_a_partition_that_was_not_heard_of_for_longer_than_the_bound_refuses_and_heals() {
    let view = view();
    assert_eq!(view.refusal(&facts(1), second(115)), Ok(()));
    assert_eq!(view.refusal(&facts(1), second(116)), Err(Refusal::Stale));
    assert!(view.heard(part(), &at(1, 10), second(110)), "what counts is when the beat was sent");
    assert_eq!(view.refusal(&facts(1), second(116)), Ok(()));
    assert!(view.heard(part(), &at(1, 10), second(90)), "a late heartbeat makes nothing older");
    assert_eq!(view.refusal(&facts(1), second(125)), Ok(()));
}

#[test]
fn a32_a_clock_that_ran_back_makes_nothing_fresh() {
    assert_eq!(view().refusal(&facts(1), second(99)), Ok(()), "the verdict began before the heartbeat came");
    assert_eq!(view().refusal(&facts(1), second(84)), Err(Refusal::Stale));
}

#[test]
fn one_silent_partition_closes_only_its_own_credentials() {
    let view = view();
    let other = Partition::from_low_bits(8);
    view.replace(&Snapshot { partition: other, position: at(1, 0), entries: &[] }).unwrap();
    assert!(view.heard(other, &at(1, 0), second(120)));
    assert_eq!(view.refusal(&facts(1), second(120)), Err(Refusal::Stale));
    let elsewhere = CredentialId { task: TaskId::from_parts(2_000_000, other, [1; 10]), number: 0 };
    assert_eq!(view.refusal(&Facts { credential: elsewhere, ..facts(1) }, second(120)), Ok(()));
}

#[test]
fn the_bound_may_be_lowered_by_the_verifier_and_never_raised() {
    let view = view();
    view.lower_bound_to(Duration::from_secs(400));
    assert_eq!(view.bound(), Some(BOUND));
    view.lower_bound_to(Duration::from_secs(1));
    view.lower_bound_to(Duration::from_secs(9));
    assert_eq!(view.bound(), Some(Duration::from_secs(1)));
    assert_eq!(view.refusal(&facts(1), second(102)), Err(Refusal::Stale));
    view.set_bound(Duration::from_secs(86_400));
    assert_eq!(view.bound(), Some(Duration::from_secs(1)));
    let other = RevocationView::default();
    other.set_bound(Duration::MAX);
    assert_eq!(other.bound(), Some(MAX_BOUND));
}

#[test]
fn a_bound_that_is_raised_makes_nothing_fresh_that_was_heard_under_the_lower() {
    let view = view();
    assert_eq!(view.refusal(&facts(1), second(116)), Err(Refusal::Stale));
    view.set_bound(BOUND * 4);
    assert_eq!(view.refusal(&facts(1), second(116)), Err(Refusal::Stale));
    assert!(view.heard(part(), &at(1, 10), second(117)));
    assert_eq!(view.refusal(&facts(1), second(117 + 60)), Ok(()));
    assert_eq!(view.refusal(&facts(1), second(117 + 61)), Err(Refusal::Stale));
}

#[test]
fn a30_a_gap_closes_until_a_snapshot_covers_it() {
    let view = view();
    assert_eq!(view.apply(&delta(at(1, 11), at(1, 12), &[(12, ended(1))])), Err(Closed::Gap));
    assert_eq!(judge(&view, 2), Err(Refusal::FeedGap));
    assert!(!view.heard(part(), &at(1, 10), second(101)));
    assert_eq!(
        view.apply(&delta(at(1, 10), at(1, 11), &[])),
        Err(Closed::Gap),
        "only a snapshot opens it again"
    );
    view.replace(&snapshot(at(1, 12), &[ended(1)])).unwrap();
    assert_eq!((judge(&view, 1), judge(&view, 2)), (Err(Refusal::TaskEnded), Ok(())));
}

#[test]
fn what_was_left_out_for_this_audience_is_no_gap() {
    let view = view();
    view.apply(&delta(at(1, 10), at(1, 50), &[])).unwrap();
    view.apply(&delta(at(1, 50), at(1, 60), &[(53, ended(1)), (57, ended(2))])).unwrap();
    assert_eq!((judge(&view, 2), judge(&view, 3)), (Err(Refusal::TaskEnded), Ok(())));
}

#[test]
fn a_delta_that_is_not_in_order_is_not_taken_at_all() {
    for entries in [
        [(12, ended(1)), (11, ended(2))],
        [(11, ended(1)), (11, ended(2))],
        [(10, ended(1)), (11, ended(2))],
        [(11, ended(1)), (13, ended(2))],
    ] {
        let view = view();
        assert_eq!(view.apply(&delta(at(1, 10), at(1, 12), &entries)), Err(Closed::Gap));
        assert!(view.is_empty());
    }
}

#[test]
fn a30_a_rollback_or_a_fork_closes_and_nothing_older_opens_it() {
    let forked = |position: Position| Position { chain: [0xee; 20], ..position };
    for from in [at(1, 9), at(0, 99), forked(at(1, 10))] {
        let view = view();
        let to = Position { seq: from.seq + 1, ..from };
        assert_eq!(view.apply(&delta(from, to, &[])), Err(Closed::Rollback), "{from:?}");
        assert_eq!(judge(&view, 1), Err(Refusal::FeedRolledBack));
    }
    for older in [at(1, 9), at(0, 99), forked(at(1, 10))] {
        let view = view();
        assert_eq!(view.replace(&snapshot(older, &[])), Err(Closed::Rollback), "{older:?}");
        assert_eq!(judge(&view, 1), Err(Refusal::FeedRolledBack));
        assert_eq!(view.replace(&snapshot(older, &[])), Err(Closed::Rollback), "asking again helps nothing");
        view.replace(&snapshot(at(1, 10), &[])).unwrap();
        assert_eq!(judge(&view, 1), Ok(()));
    }
}

#[test]
fn a_rollback_is_remembered_through_a_closed_partition() {
    let view = view();
    view.close(part(), Closed::BadSignature);
    assert_eq!(judge(&view, 1), Err(Refusal::FeedBadSignature));
    assert_eq!(view.replace(&snapshot(at(1, 9), &[])), Err(Closed::Rollback));
    assert_eq!(judge(&view, 1), Err(Refusal::FeedRolledBack));
}

#[test]
fn a31_a_snapshot_that_lacks_a_known_end_brings_nothing_back() {
    let view = view();
    view.apply(&delta(at(1, 10), at(1, 11), &[(11, ended(1))])).unwrap();
    view.replace(&snapshot(at(1, 12), &[])).unwrap();
    assert_eq!(judge(&view, 1), Err(Refusal::TaskEnded));
}

#[test]
fn a_heartbeat_beyond_what_is_known_makes_nothing_fresh() {
    let view = view();
    assert!(!view.heard(part(), &at(1, 11), second(110)));
    assert!(!view.heard(part(), &at(0, 10), second(110)), "of a history that is no longer trusted");
    assert_eq!(view.refusal(&facts(1), second(116)), Err(Refusal::Stale));
    view.apply(&delta(at(1, 10), at(1, 11), &[])).unwrap();
    assert!(view.heard(part(), &at(1, 11), second(110)));
    assert_eq!(view.refusal(&facts(1), second(116)), Ok(()));
    let forked = Position { chain: [0xee; 20], ..at(1, 11) };
    assert!(!view.heard(part(), &forked, second(111)));
    assert_eq!(judge(&view, 1), Err(Refusal::FeedRolledBack));
}

#[test]
fn g6_a_new_generation_voids_the_older_one_and_keeps_the_view_open() {
    let view = view();
    let of = |n| view.refusal(&Facts { generation: Some(generation(n)), ..facts(1) }, second(101));
    assert_eq!((of(1), of(2)), (Ok(()), Err(Refusal::GenerationUnknown)));
    let grown = (11, Entry::Generation { new: generation(2) });
    view.apply(&delta(at(1, 10), at(2, 11), &[grown])).unwrap();
    assert_eq!((of(1), of(2)), (Err(Refusal::GenerationSuperseded), Ok(())));
    assert_eq!(
        view.apply(&delta(at(2, 11), at(1, 12), &[(12, Entry::Generation { new: generation(1) })])),
        Err(Closed::Rollback)
    );
}

#[test]
fn a_generation_comes_by_its_entry_or_by_a_snapshot_and_not_otherwise() {
    let view = view();
    assert_eq!(view.apply(&delta(at(1, 10), at(2, 11), &[])), Err(Closed::Gap));
    view.replace(&snapshot(at(2, 1), &[])).unwrap();
    assert_eq!(judge(&view, 1), Err(Refusal::GenerationSuperseded));
}

#[test]
fn a_delta_that_leads_nowhere_or_back_is_not_taken() {
    let forked = Position { chain: [0xee; 20], ..at(1, 10) };
    for (to, why) in [(at(1, 9), Closed::Gap), (at(0, 11), Closed::Gap), (forked, Closed::Rollback)] {
        assert_eq!(view().apply(&delta(at(1, 10), to, &[])), Err(why), "{to:?}");
    }
    assert_eq!(view().apply(&delta(at(1, 10), at(1, 10), &[])), Ok(()), "nothing new");
}

#[test]
fn a_fence_is_remembered_as_long_as_the_longest_that_was_said() {
    let view = view();
    let until = |seconds| Entry::Fence {
        target: FenceTarget::trust_domain("acme.test"),
        cut: 11,
        raised_at: 0,
        forget_at: UnixSeconds(seconds),
    };
    view.apply(&delta(at(1, 10), at(1, 12), &[(11, until(3_000)), (12, until(2_000))])).unwrap();
    view.set_time(2_500_000, second(100), second(100));
    view.forget(second(100));
    assert_eq!(view.len(), 1);
}

#[test]
fn a_certificate_is_as_old_as_its_task() {
    let view = view();
    let certificate = Facts { generation: None, began_seq: None, ..facts(1) };
    assert_eq!(view.refusal(&certificate, second(101)), Ok(()));
    view.replace(&snapshot(at(3, 1), &[])).unwrap();
    assert_eq!(view.refusal(&certificate, second(101)), Err(Refusal::GenerationSuperseded));
}

#[test]
fn a_certificate_of_a_task_that_a_broker_whose_clock_is_ahead_began_before_the_generation_is_refused() {
    let view = view();
    let of = |millis| {
        let task = TaskId::from_parts(millis, facts(1).credential.task.partition(), [1; 10]);
        let credential = CredentialId { task, ..facts(1).credential };
        Facts { generation: None, began_seq: None, credential, ..facts(1) }
    };
    let new = Generation::from_parts(1_000_000, [1; 6]);
    view.replace(&snapshot(Position { generation: new, ..at(1, 20) }, &[])).unwrap();
    assert_eq!(view.refusal(&of(1_002_499), second(101)), Err(Refusal::GenerationSuperseded));
    assert_eq!(view.refusal(&of(1_002_500), second(101)), Ok(()), "the ids of its own tasks are younger");
}

#[test]
fn fences_of_a_generation_that_was_left_behind_cut_nothing() {
    let fence = Entry::Fence {
        target: FenceTarget::trust_domain("acme.test"),
        cut: 1_000,
        raised_at: u64::MAX,
        forget_at: FOREVER,
    };
    let young = Facts { generation: Some(generation(2)), began_seq: Some(2), ..facts(1) };
    for by_snapshot in [true, false] {
        let view = view();
        view.apply(&delta(at(1, 10), at(1, 11), &[(11, fence)])).unwrap();
        if by_snapshot {
            view.replace(&snapshot(at(2, 12), &[])).unwrap();
        } else {
            let grown = (12, Entry::Generation { new: generation(2) });
            view.apply(&delta(at(1, 11), at(2, 12), &[grown])).unwrap();
        }
        assert_eq!(view.refusal(&young, second(101)), Ok(()));
    }
}

#[test]
fn a_view_without_room_closes_rather_than_forget() {
    let view = RevocationView::new(2);
    view.set_bound(BOUND);
    view.replace(&snapshot(at(1, 10), &[ended(1), ended(2)])).unwrap();
    assert!(view.heard(part(), &at(1, 10), second(100)));
    assert_eq!(judge(&view, 9), Ok(()));
    assert_eq!(view.apply(&delta(at(1, 10), at(1, 11), &[(11, ended(3))])), Err(Closed::Overflow));
    assert_eq!(judge(&view, 9), Err(Refusal::FeedOverflow));
    assert_eq!(judge(&view, 1), Err(Refusal::TaskEnded));
}

#[test]
fn ends_are_forgotten_when_nothing_that_they_end_can_be_alive() {
    let view = view();
    let until = |n, seconds| Entry::TaskEnded { task: task(n), forget_at: UnixSeconds(seconds) };
    view.apply(&delta(at(1, 10), at(1, 12), &[(11, until(1, 2_000)), (12, until(2, 2_001))])).unwrap();
    view.forget(second(500));
    assert_eq!(view.len(), 2, "without the broker's time nothing is forgotten");
    // At second 100 the broker's clock showed 1999.5, read within a second.
    view.set_time(1_999_500, second(99), second(100));
    view.forget(second(100));
    assert_eq!(view.len(), 2);
    view.forget(Moment::from_nanos(100_500_000_000));
    assert_eq!(view.len(), 1);
    assert_eq!(judge(&view, 1), Err(Refusal::Expired), "whatever the time is said to be later");
    let longer = Facts { expires: UnixSeconds(2_001), ..facts(3) };
    assert_eq!(view.refusal(&longer, second(101)), Ok(()));
    view.forget(second(200));
    assert!(view.is_empty());
}

#[test]
fn an_end_is_remembered_as_long_as_the_longest_that_was_said() {
    let view = view();
    let until = |seconds| Entry::TaskEnded { task: task(1), forget_at: UnixSeconds(seconds) };
    view.apply(&delta(at(1, 10), at(1, 12), &[(11, until(3_000)), (12, until(2_000))])).unwrap();
    view.set_time(2_500_000, second(100), second(100));
    view.forget(second(100));
    assert_eq!(view.len(), 1);
}

#[test]
fn time_is_the_brokers_carried_forward_and_a_delayed_message_only_makes_it_stricter() {
    let view = view();
    assert_eq!(view.time(second(1)), None);
    view.set_time(5_000_900, second(100), second(103));
    let between =
        |earliest, latest| Some(Between { earliest: UnixSeconds(earliest), latest: UnixSeconds(latest) });
    assert_eq!(view.time(second(103)), between(5_000, 5_003));
    assert_eq!(view.time(second(203)), between(5_100, 5_103));
    assert_eq!(view.time(second(102)), between(4_999, 5_002));
    view.set_time(9_000_000, second(99), second(104));
    assert_eq!(view.time(second(103)), between(5_000, 5_003), "an answer to an older beat");
    view.set_time(9_000_000, second(105), second(104));
    assert_eq!(view.time(second(103)), between(5_000, 5_003), "received before it was sent");
    assert_eq!(view.time(Moment::from_nanos(u64::MAX)).map(|t| t.latest > t.earliest), Some(true));
}

#[test]
fn a_view_of_100_000_ended_tasks_takes_at_most_16_megabytes_and_gives_them_back() {
    let view = RevocationView::default();
    for partition in Partition::all() {
        view.replace(&Snapshot { partition, position: at(1, 0), entries: &[] }).unwrap();
    }
    for n in 0..100_000_u64 {
        let partition = Partition::from_low_bits(n.to_le_bytes()[0]);
        let mut random = [0; 10];
        random[2..].copy_from_slice(&n.to_be_bytes());
        let task = TaskId::from_parts(2_000_000, partition, random);
        let from = view.position(partition).unwrap();
        let to = Position { seq: from.seq + 1, ..from };
        let entry = (to.seq, Entry::TaskEnded { task, forget_at: UnixSeconds(2_000) });
        view.apply(&Delta { partition, from, to, entries: &[entry] }).unwrap();
    }
    assert_eq!(view.len(), 100_000);
    let full = view.memory_bytes();
    assert!(full > 100_000 * 24 && full < 16 << 20, "{full} bytes");
    view.set_time(2_000_000, second(1), second(1));
    view.forget(second(1));
    assert!(view.is_empty());
    assert!(view.memory_bytes() < 64 << 10, "{} bytes", view.memory_bytes());
}

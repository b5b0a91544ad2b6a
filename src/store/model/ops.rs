//! What can happen to a store, as values that shrink: no ids and no times, only choices among what is there by then.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// A task begins, under a key (and a body) or none, under a parent or none.
    Begin {
        owner: u8,
        partition: u8,
        key: Option<(u8, u8)>,
        parent: Option<Index>,
        minutes: u64,
        retention: u64,
    },
    /// A begin of long ago is sent again.
    BeginAgain(Index),
    Read(Index),
    /// The deadline moves by so many minutes, or is asked to.
    Extend {
        task: Index,
        minutes: i64,
    },
    /// `bury`: also if it is unknown.
    End {
        task: Index,
        revoked: bool,
        retention: u64,
        bury: bool,
    },
    /// An id that nobody has ever begun.
    EndGhost {
        partition: u8,
        bury: bool,
    },
    Record {
        task: Index,
        stale: bool,
        minutes: u64,
        limit: u32,
        certificate: bool,
        key: u8,
    },
    /// Under the key of so many after the one that it was recorded under.
    Check {
        credential: Index,
        other_key: u8,
    },
    Revoke(Index),
    Credentials {
        task: Index,
        from: u32,
        limit: usize,
    },
    Intend {
        target: u8,
        block: u64,
    },
    Raise {
        intent: Index,
        partition: u8,
    },
    Finish(Index),
    /// All of it: intend, raise everywhere, finish.
    Fence {
        target: u8,
        block: u64,
    },
    Lapse {
        partition: u8,
        limit: usize,
    },
    List {
        owner: Option<u8>,
        live_only: bool,
        limit: usize,
    },
    /// With a limit of one less than the places that are held, as many, or one more.
    Reserve {
        owner: u8,
        task: Index,
        minutes: u64,
        beyond: u8,
    },
    Release {
        owner: u8,
        task: Index,
    },
    Keyring {
        right: bool,
        document: u8,
    },
    /// Time passes.
    Pass {
        minutes: u64,
    },
    /// By a broker whose clock is half a second behind.
    Behind(Box<Op>),
    /// The reply was lost, and it is sent again; the broker may have died in between.
    Again {
        op: Box<Op>,
        crash: bool,
    },
    Crash,
    Copy,
    Restore(Index),
    Flush,
    DeclareRestored,
}

fn step() -> impl Strategy<Value = Op> {
    let any_task = any::<Index>;
    let minutes = prop_oneof![3 => 2..20u64, 2 => 20..120u64];
    let begin = (0..3u8, 0..3u8, option::weighted(0.4, (0..4u8, 0..2u8)), option::weighted(0.4, any_task()));
    prop_oneof![
        10 => (begin, minutes.clone(), 1..200u64).prop_map(|((owner, partition, key, parent), minutes, retention)| {
            Op::Begin { owner, partition, key, parent, minutes, retention }
        }),
        1 => any_task().prop_map(Op::BeginAgain),
        3 => any_task().prop_map(Op::Read),
        4 => (any_task(), -10..90i64).prop_map(|(task, minutes)| Op::Extend { task, minutes }),
        4 => (any_task(), any::<bool>(), 1..200u64, any::<bool>())
            .prop_map(|(task, revoked, retention, bury)| Op::End { task, revoked, retention, bury }),
        1 => (0..3u8, any::<bool>()).prop_map(|(partition, bury)| Op::EndGhost { partition, bury }),
        10 => (any_task(), prop::bool::weighted(0.1), minutes, prop_oneof![1 => 0..4u32, 4 => Just(1_000)], any::<bool>(), 0..3u8)
            .prop_map(|(task, stale, minutes, limit, certificate, key)| {
                Op::Record { task, stale, minutes, limit, certificate, key }
            }),
        5 => (any::<Index>(), prop_oneof![4 => Just(0), 1 => 1..3u8])
            .prop_map(|(credential, other_key)| Op::Check { credential, other_key }),
        3 => any::<Index>().prop_map(Op::Revoke),
        2 => (any_task(), 0..3u32, 1..4usize).prop_map(|(task, from, limit)| Op::Credentials { task, from, limit }),
        2 => (0..5u8, 0..60u64).prop_map(|(target, block)| Op::Intend { target, block }),
        4 => (any::<Index>(), 0..3u8).prop_map(|(intent, partition)| Op::Raise { intent, partition }),
        1 => any::<Index>().prop_map(Op::Finish),
        3 => (0..5u8, prop_oneof![2 => Just(0), 1 => 1..60u64])
            .prop_map(|(target, block)| Op::Fence { target, block }),
        4 => (0..3u8, 1..6usize).prop_map(|(partition, limit)| Op::Lapse { partition, limit }),
        2 => (option::of(0..3u8), any::<bool>(), 1..6usize)
            .prop_map(|(owner, live_only, limit)| Op::List { owner, live_only, limit }),
        4 => (0..2u8, any_task(), 5..60u64, 0..3u8)
            .prop_map(|(owner, task, minutes, beyond)| Op::Reserve { owner, task, minutes, beyond }),
        3 => (0..2u8, any_task()).prop_map(|(owner, task)| Op::Release { owner, task }),
        2 => (prop::bool::weighted(0.7), any::<u8>()).prop_map(|(right, document)| Op::Keyring { right, document }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => step(),
        2 => step().prop_map(|op| Op::Behind(Box::new(op))),
        4 => (step(), prop::bool::weighted(0.3)).prop_map(|(op, crash)| Op::Again { op: Box::new(op), crash }),
        5 => prop_oneof![6 => 1..20u64, 2 => 20..240u64].prop_map(|minutes| Op::Pass { minutes }),
        2 => Just(Op::Crash),
        2 => Just(Op::Copy),
        2 => any::<Index>().prop_map(Op::Restore),
        1 => prop::bool::weighted(0.3).prop_map(|flush| if flush { Op::Flush } else { Op::Crash }),
        1 => prop::bool::weighted(0.3).prop_map(|declare| if declare { Op::DeclareRestored } else { Op::Copy }),
    ]
}

/// What happens in one case.
pub(super) fn story() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..60)
}

/// What stories have shown once, and the least of them.
pub(super) fn found() -> Vec<(&'static str, Vec<Op>)> {
    // Of one thing any index picks the first.
    let only = || any::<Index>().new_tree(&mut TestRunner::deterministic()).unwrap().current();
    let raise = || Op::Raise { intent: only(), partition: 1 };
    vec![(
        "a fence that was raised late was forgotten before the deadline of a task that had ended",
        vec![
            Op::Copy,
            Op::Intend { target: 0, block: 0 },
            Op::Pass { minutes: 117 },
            Op::Restore(only()),
            raise(),
            Op::Pass { minutes: 3 },
            raise(),
        ],
    )]
}

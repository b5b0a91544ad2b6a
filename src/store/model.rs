//! Random stories told to a store and to a plain model of it, whose answers must agree: tasks, credentials, fences, time, crashes, lost
//! replies and retries, losses, and older copies.
//!
//! A store's test calls [`holds`] with a way to make a harness. What was found once is kept in `proptest-regressions/` and tried first.

mod driver;
mod ops;
mod plan;
mod planted;
mod reference;

use proptest::test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestError, TestRng, TestRunner};

use super::contract::Harness;
use driver::Driver;
use ops::Op;
use planted::Planted;
pub(crate) use planted::{Bug, Forgetful};

/// Names the environment variable that asks for the stories of an earlier run: 64 hexadecimal digits, as a failure shows them.
const SEED: &str = "TASKPASS_MODEL_SEED";

fn seed() -> [u8; 32] {
    let Ok(asked) = std::env::var(SEED) else { return crate::ids::random().unwrap() };
    let whole =
        [0, 1].map(|half| u128::from_str_radix(asked.get(32 * half..32 * half + 32).unwrap(), 16).unwrap());
    whole.map(u128::to_be_bytes).concat().try_into().unwrap()
}

fn told<H: Harness>(
    cases: u32,
    make: impl AsyncFn() -> H,
    keep: bool,
    seed: [u8; 32],
) -> Result<(), TestError<Vec<Op>>> {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: asked.filter(|_| keep).unwrap_or(cases),
        failure_persistence: keep
            .then(|| Box::new(FileFailurePersistence::SourceParallel("proptest-regressions")) as Box<_>),
        source_file: Some(file!()),
        max_shrink_iters: if keep { 20_000 } else { 0 },
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // A planted bug is found by the same stories each time, or it would be missed now and then; what holds must hold in all of them.
    let rng = match keep {
        true => TestRng::from_seed(RngAlgorithm::ChaCha, &seed),
        false => TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    };
    let mut runner = TestRunner::new_with_rng(config, rng);
    runner.run(&ops::story(), |story| {
        runtime.block_on(async {
            let mut harness = make().await;
            Driver::new(&mut harness).play(&story).await
        })
    })
}

/// Tells the stories by which a store and the model, or two stores, were once found to differ.
pub(crate) fn tells_what_was_found<H: Harness>(make: impl AsyncFn() -> H) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (found, story) in ops::found() {
        let told = runtime.block_on(async {
            let mut harness = make().await;
            Driver::new(&mut harness).play(&story).await
        });
        if let Err(error) = told {
            panic!("{found}: {error}");
        }
    }
}

/// Tells `cases` stories (more by `PROPTEST_CASES`), others in each run, each to a fresh store, and shrinks the first that the model contradicts.
pub(crate) fn holds<H: Harness>(cases: u32, make: impl AsyncFn() -> H) {
    let seed = seed();
    if let Err(error) = told(cases, make, true, seed) {
        let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{error}\nthe same stories again: {SEED}={digits}");
    }
}

/// Plants each bug in turn and tells at most `cases` stories; panics with the bugs that no story finds.
pub(crate) fn finds_what_is_planted<H: Forgetful>(cases: u32, make: impl AsyncFn() -> H) {
    let missed = Bug::ALL.into_iter().filter(|bug| {
        let planted = async || Planted { sound: make().await, bug: *bug, last_copy: None };
        match told(cases, planted, false, [0; 32]) {
            Err(TestError::Fail(..)) => false,
            Err(TestError::Abort(reason)) => panic!("{reason}"),
            Ok(()) => true,
        }
    });
    assert_eq!(missed.collect::<Vec<_>>(), [], "no story found these");
}

//! The short run: each target on its seeds and on a fixed number of mutations of them, the same each time.

use std::panic::catch_unwind;

use taskpass_fuzz::mutate::{Numbers, mutate};
use taskpass_fuzz::{TARGETS, Target};

/// For each target.
const MUTATIONS: usize = 20_000;

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    for (number, seed) in seeds.iter().enumerate() {
        try_one(target, seed, &format!("seed {number}"));
    }
    let mut numbers = Numbers::new(0x7a5c_9a55);
    for number in 0..MUTATIONS {
        let [one, other] = [(); 2].map(|()| &seeds[numbers.below(seeds.len())]);
        let input = mutate(one, other, &mut numbers);
        try_one(target, &input, &format!("mutation {number}"));
    }
}

/// What does not hold is told with the input, to be tried again by itself.
fn try_one(target: &Target, input: &[u8], what: &str) {
    if catch_unwind(|| (target.run)(input)).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{}: {what} does not hold; the input in hexadecimal is {hex}", target.name);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_run_here() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets!(token claims constraints key_set feed names key_request chain bundle task_ca_chain workload_api);

#[test]
fn seeds_and_mutations_are_the_same_each_time() {
    for target in TARGETS {
        assert_eq!((target.seeds)(), (target.seeds)(), "{}", target.name);
    }
    let all = || {
        let mut numbers = Numbers::new(1);
        (0..100).map(|_| mutate(b"one input", b"another", &mut numbers)).collect::<Vec<_>>()
    };
    assert_eq!(all(), all());
}

//! libFuzzer over one target, which the environment variable `FUZZ_TARGET` names. `scripts/fuzz.sh` builds and runs it. With `FUZZ_SEEDS` it writes the target's
//! seeds into that directory before.

#![no_main]

use std::sync::OnceLock;

use taskpass_fuzz::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn choose() -> Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("FUZZ_TARGET must be one of {}", names.join(", ")));
    if let Ok(dir) = std::env::var("FUZZ_SEEDS") {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(format!("{dir}/seed-{number}"), seed).expect("the directory can be written");
        }
    }
    *target
}

libfuzzer_sys::fuzz_target!(
    init: {
        TARGET.get_or_init(choose);
    },
    |input: &[u8]| {
        (TARGET.get_or_init(choose).run)(input);
    }
);

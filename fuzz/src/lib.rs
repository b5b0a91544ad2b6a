//! Every parser of this project that meets untrusted bytes, as a function of bytes that panics when something does not hold: no panic within, sizes bounded, and
//! what is accepted reads the same when it is written and read again.
//!
//! `cargo test -p taskpass-fuzz` runs each on its seeds and on some ten thousand mutations of them, the same each time; `scripts/fuzz.sh` runs one for as long as
//! you like, guided by coverage. `docs/fuzzing.md` tells more.

pub mod mutate;
pub mod targets;

/// A parser, or several that go together, and what to begin with.
#[derive(Clone, Copy)]
pub struct Target {
    /// For the command line.
    pub name: &'static str,
    /// Panics when something does not hold.
    pub run: fn(&[u8]),
    /// Inputs that lead far inside, the same at each call.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "token", run: targets::token::token, seeds: targets::token::token_seeds },
    Target { name: "claims", run: targets::token::claims, seeds: targets::token::claims_seeds },
    Target { name: "constraints", run: targets::constraints::run, seeds: targets::constraints::seeds },
    Target { name: "key_set", run: targets::key_set::run, seeds: targets::key_set::seeds },
    Target { name: "feed", run: targets::feed::run, seeds: targets::feed::seeds },
    Target { name: "names", run: targets::names::run, seeds: targets::names::seeds },
    Target { name: "key_request", run: targets::x509::key_request, seeds: targets::x509::key_request_seeds },
    Target { name: "chain", run: targets::x509::chain, seeds: targets::x509::chain_seeds },
    Target { name: "bundle", run: targets::x509::bundle, seeds: targets::x509::bundle_seeds },
    Target {
        name: "task_ca_chain",
        run: targets::x509::task_ca_chain,
        seeds: targets::x509::task_ca_chain_seeds,
    },
    Target { name: "workload_api", run: targets::workload_api::run, seeds: targets::workload_api::seeds },
];

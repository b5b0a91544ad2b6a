//! Black-box tests: a real broker over real sockets, seen from outside. One module for each concern, names are sentences, and the
//! id of the attack (`a12_...`) stands in the name where a test is the answer to one.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "tests may fail loudly"
)]

#[macro_use]
mod support;

mod bench;
mod bundle;
mod cancelled;
mod certificates;
mod cli;
mod coverage;
mod crashes;
mod doctor;
mod ends;
mod feed;
mod fenced_keys;
mod followed;
mod full_audit_log;
mod hostile;
#[cfg(feature = "pkcs11")]
mod hsm;
mod identity;
mod input;
mod keys;
mod lists;
mod losses;
mod mcp;
mod mitm;
mod observer;
mod overload;
mod policy;
mod probes;
mod public;
mod races;
mod redis_faults;
mod revocation_lists;
mod rotation;
mod secrecy;
mod soak;
mod spire;
mod startup;
mod stream;
mod sweep;
mod tampered;
mod tasks;
mod tokens;
mod trust_in;
mod upstream_ca;
mod validation;

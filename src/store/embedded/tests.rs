//! The embedded store by itself: its file, its failures, and the suites that every store passes.

mod crashes;
mod faults;
mod feed;
mod files;
mod harness;
mod layout;

use crate::store::contract::contract_suite;
use harness::Embedded;

mod on_a_file {
    use super::*;
    contract_suite!(async { Embedded::on_a_file() });
}

mod in_memory {
    use super::*;
    contract_suite!(async { Embedded::in_memory() });
}

#[test]
fn what_stories_have_found_once_holds() {
    crate::store::model::tells_what_was_found(async || Embedded::in_memory());
}

#[test]
fn the_model_holds() {
    crate::store::model::holds(256, async || Embedded::in_memory());
}

#[test]
fn the_model_finds_every_bug_that_is_planted() {
    crate::store::model::finds_what_is_planted(500, async || Embedded::in_memory());
}

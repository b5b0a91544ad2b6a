//! The corpus: what is in it, and how it is written.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::cloned_ref_to_slice_refs,
    reason = "tables of cases, made by developers"
)]

mod binding;
mod case;
mod certificates;
mod claims;
mod envelope;
mod feed;
mod good;
mod signers;
mod tools;

pub(crate) use case::Case;
pub(crate) use signers::Signers;

/// The two files.
pub(crate) struct Corpus {
    pub(crate) keys: String,
    pub(crate) cases: String,
}

/// Both files, from fixed keys. `before` is the text of the cases as they were, for the signatures that are random.
pub(crate) fn corpus(before: &str) -> Corpus {
    let signers = Signers::new(before);
    let cases: Vec<Case> = [
        good::cases(&signers),
        envelope::cases(&signers),
        claims::cases(&signers),
        binding::cases(&signers),
        tools::cases(&signers),
        feed::cases(&signers),
        certificates::cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    Corpus { keys: signers.keys_json(), cases: case::document(&cases) }
}

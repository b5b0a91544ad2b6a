//! Tokens whose signature was verified, remembered within a number of bytes.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::token::VerifiedToken;
use crate::view::{Facts, Fences};

/// About what an entry takes beside what its claims say.
const ENTRY_BYTES: u64 = 1_024;
/// Claims in memory against the token's text, at most, roughly.
const EXPANSION: u64 = 4;

/// What does not change from one sight of a token to the next.
pub(super) struct Seen {
    pub(super) token: VerifiedToken,
    fences: Fences,
    weight: u64,
}

impl Seen {
    pub(super) fn new(token: VerifiedToken, text_bytes: usize) -> Self {
        let agent = &token.claims().client_id;
        let fences = Fences::on(agent.as_str(), agent.trust_domain());
        Self { token, fences, weight: ENTRY_BYTES + EXPANSION * text_bytes as u64 }
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        Facts::of(self.token.claims(), self.token.key_id(), self.fences)
    }
}

/// By the SHA-256 of the whole token: a second text with the same claims and a wrong signature is another entry.
pub(super) type SeenTokens = Cache<[u8; 32], Arc<Seen>, Size>;

#[derive(Clone, Copy)]
pub(super) struct Size;

impl Weighter<[u8; 32], Arc<Seen>> for Size {
    fn weight(&self, _: &[u8; 32], seen: &Arc<Seen>) -> u64 {
        seen.weight
    }
}

pub(super) fn cache(bytes: u64) -> SeenTokens {
    let entries = usize::try_from(bytes / (EXPANSION * ENTRY_BYTES)).unwrap_or(usize::MAX);
    Cache::with_weighter(entries, bytes, Size)
}

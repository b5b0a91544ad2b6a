//! Tokens: a grant in, a signed and judged token out.
//!
//! ```text
//! TokenGrant --claims--> Claims --Signer--> text --judge--> MintedToken
//! ```
//!
//! The judge is the verifier's own code. What it refuses never leaves.
//!
//! Absent here: who may have a token and for how long (`policy`, `ops`), the record of it (`store`), reads of the clock, private key bytes.

mod grant;
mod mint;

pub use grant::TokenGrant;
pub use mint::{MintedToken, TokenIssuer, TokenType};

#[cfg(test)]
mod tests;

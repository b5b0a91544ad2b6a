//! Signing keys: made, wrapped, kept, used. The only room that sees private key bytes.

pub mod store;

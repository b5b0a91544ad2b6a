//! Judges Taskpass tokens.

pub mod ids;

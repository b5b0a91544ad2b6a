//! Messages and services as generated from `proto/`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated; documented in proto/"
)]

mod codec;

pub use codec::SmallBuffers;

tonic::include_proto!("taskpass.v1");

/// The descriptors of all services, for reflection and for tests that walk every RPC.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/taskpass.descriptors.bin"));

//! The faces: gRPC over mTLS, and plain HTTP for probes and metrics. A face turns messages into commands once, and errors into
//! what its protocol says; it decides nothing.

pub mod grpc;
pub mod http;
